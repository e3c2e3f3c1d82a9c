"""The corpus of foreign networks: exports of PyTorch and graphs written by hand, all deterministic, as models."""

import functools
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from foreign_graphs import GRAPHS
from onnx import TensorProto, helper, shape_inference, version_converter

from deepmad_hw.exporters.quantize import quantized

SCRIPTED = "_scripted"  # how the names of those end that the older exporter wrote
# Opsets of those, old enough that layer norm, GELU and hard swish are spelt out; the others come out nearly the same.
SCRIPTED_OPSETS = {
    "convnext": 13,
    "efficientnet": 11,
    "face_embedding": 13,
    "high_resolution": 11,
    "mobilenet_v3": 13,
    "shufflenet": 12,
    "style_transfer": 13,
    "vision_transformer": 14,
    "yolo_v3_tiny": 11,
    "yolo_v8": 12,
    "yolox": 11,
}
LEAST_INT8_OPSET = 13  # scales of their own for every channel
FREE_BATCH, FREE_SIDE = 1, 160  # taken where a size is free


@dataclass(frozen=True, kw_only=True)
class Member:
    """What is known of a member of the corpus without making it.

    Args:
        name: of it.
        slow: whether making it takes seconds.
        refused: what ONNX Runtime says where it takes no such file, else empty.
        quantises: whether an int8 form can be made of it.
    """

    name: str
    slow: bool = False
    refused: str = ""
    quantises: bool = True


def _members():
    for name, graph in GRAPHS.items():
        yield Member(name=name, refused=graph.refused, quantises=graph.quantises)
    if importlib.util.find_spec("torch") is None:
        return
    from foreign_torch import NETWORKS

    for name in (*NETWORKS, *(f"{name}{SCRIPTED}" for name in SCRIPTED_OPSETS)):
        yield Member(name=name, slow=True)


MEMBERS = {member.name: member for member in _members()}


def model(name):
    """Return a member as an `onnx.ModelProto` that may be changed.

    Args:
        name: one of `MEMBERS`.
    """
    return onnx.load_from_string(_bytes(name))


@functools.cache
def _bytes(name):
    if name in GRAPHS:
        return GRAPHS[name].make().SerializeToString()
    from foreign_torch import exported

    plain = name.removesuffix(SCRIPTED)
    if plain == name:
        return exported(name)
    return exported(plain, opset=SCRIPTED_OPSETS[plain], scripted=True)


def feeds(model, seed=0):
    """Return a random value for every input that has none; what is free is given a size.

    Args:
        model: any.
        seed: of the values.
    """
    random, weights = np.random.default_rng(seed), {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in weights]
    return {info.name: _drawn(random, info.type.tensor_type) for info in inputs}


def _drawn(random, kind):
    sizes = [size.dim_value for size in kind.shape.dim]
    shape = [size if size > 0 else (FREE_SIDE if axis > 1 else FREE_BATCH) for axis, size in enumerate(sizes)]
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2 if dtype == np.bool_ else 100, shape).astype(dtype)


def run(model, values=None, *, level="ORT_ENABLE_ALL", written=None):
    """Return the outputs of a model in ONNX Runtime.

    Args:
        model: any.
        values: of its inputs, by name; None draws them.
        level: how far the runtime changes the graph.
        written: where it writes what it made of the graph; None writes nothing.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, not logged
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if written is not None:
        options.optimized_model_filepath = str(written)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds(model) if values is None else values)


def quantised(model, *, everything=False):
    """Return the int8 form of a model in fp32, by the settings with which networks are written for CPUs.

    Batch norms are folded first, as the quantiser's own preparation does.

    Args:
        model: any without int8 in it.
        everything: whether every operation that the quantiser knows is rounded, as it does when nothing is said, or
            those that our own networks are made of.
    """
    version = {entry.domain: entry.version for entry in model.opset_import}[""]
    if version < LEAST_INT8_OPSET:
        model = version_converter.convert_version(model, LEAST_INT8_OPSET)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "simpler.onnx"
        run(model, level="ORT_ENABLE_BASIC", written=written)
        simpler = onnx.load(written)
    ranges = _ranges(simpler)
    if not everything:
        return quantized(simpler, ranges, reduce_range=True)
    return _quantised_by_default(simpler, ranges)


def _quantised_by_default(model, ranges):
    from onnxruntime import quantization
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    known = {
        name: quantization.TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    model = shape_inference.infer_shapes(model)
    helper.set_model_props(model, {"onnx.infer": "onnxruntime.quant"})
    quantizer = quantization.QDQQuantizer(
        model=model,
        per_channel=True,
        reduce_range=True,
        weight_qType=quantization.QuantType.QInt8,
        activation_qType=quantization.QuantType.QUInt8,
        tensors_range=known,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry}),
        extra_options={},
    )
    result = quantizer.quantize_model()
    quantizer.model.topological_sort()
    return result


def _ranges(model):
    """Return the smallest and the largest value of every tensor of floats, over one drawing."""
    known = shape_inference.infer_shapes(model).graph
    kinds = {info.name: info.type.tensor_type.elem_type for info in (*known.value_info, *known.output)}
    made = [name for node in model.graph.node for name in node.output if kinds.get(name) == TensorProto.FLOAT]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made)
    given = feeds(model)
    values = given | dict(zip(made, run(watched, given), strict=True))
    return {name: (float(value.min()), float(value.max())) for name, value in values.items()}
