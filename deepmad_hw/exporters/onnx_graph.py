"""Writes a graph of nodes as an ONNX model with readable names. Layer 3.

Names: the first ONNX operation of a node has the node's name, helpers add a suffix (``stage2.block3.conv1.act``);
the last tensor of a node has the node's name, so that a runtime's profile can be joined by output tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters.options import OnnxOptions
from deepmad_hw.exporters.target import Target
from deepmad_hw.exporters.weights import (
    NORM_EPSILON,
    Array,
    Shape,
    fold_norms,
    initial_weights,
    parameter_shapes,
    require_weights,
)
from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.files.jsonfile import dumps
from deepmad_hw.formats.serde import architecture_to_json
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.costs import FLOAT32_BYTES
from deepmad_hw.network.layer import IMAGE, Graph, Node

__all__ = [
    "TARGET",
    "TensorSource",
    "architecture_metadata",
    "export_model",
    "initial_weights",
    "reference_metadata",
    "save",
    "tensor_owner",
    "to_onnx",
    "write",
]

OPSET = 20  # ONNX Runtime 1.27 loads up to 26, TensorRT before 11.5 up to 24; all operations used here are older
IR_VERSION = 10  # the package's default is newer than runtimes load
PRODUCER = "deepmad-hw"
MAX_MODEL_BYTES = 2**31 - 1  # one protobuf message holds no more

ARCHITECTURE_KEY = "deepmad_hw.architecture"
REFERENCE_KEY = "deepmad_hw.reference"
RESOLUTION_KEY = "deepmad_hw.resolution"
CLASSES_KEY = "deepmad_hw.classes"

TensorSource = Callable[[str, Shape], Any]
"""Gives the initialiser (an `onnx.TensorProto`) of a final name and shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Op:
    """One ONNX operation of a node."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


def to_onnx(
    graph: Graph,
    tensor: TensorSource,
    *,
    fold_norm: bool = True,
    batch: int | str = 1,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Return the graph as an ONNX model.

    Args:
        graph: the network.
        tensor: gives every parameter as an initialiser, so that many models may share one external file.
        fold_norm: True writes one Conv with bias per convolution, False Conv and BatchNormalization.
        batch: images at once, or the name of a free dimension.
        metadata: facts stored in the file, such as `architecture_metadata` returns; no paths, no dates.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        ConfigError: a tensor does not fit, two names collide, or the weights inside the model pass 2 GB.
    """
    tensor_owner(graph)  # refuses colliding names
    model = _without_weights(graph, fold_norm=fold_norm, batch=batch)
    helper.set_model_props(model, dict(metadata or {}))
    # Tensors go in one by one, because each helper that is given them copies them all once more.
    size_bytes = 0
    for node in graph:
        for name, shape in parameter_shapes(node, fold_norm=fold_norm).items():
            initialiser = _fitting(tensor(name, shape), name, shape)
            size_bytes += len(initialiser.raw_data)
            _require_size(size_bytes)
            model.graph.initializer.append(initialiser)
    return model


def _without_weights(graph: Graph, *, fold_norm: bool, batch: int | str) -> Any:
    nodes = [
        helper.make_node(op.kind, op.inputs, [op.output], name=op.name, **op.attributes)
        for _, ops in _ops_of(graph, fold_norm=fold_norm)
        for op in ops
    ]
    shapes = {IMAGE: (graph.in_channels, graph.height, graph.width)} | {node.name: _out_shape(node) for node in graph}
    image, *outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (batch, *shapes[name]))
        for name in (IMAGE, *graph.outputs)
    )
    return helper.make_model(
        helper.make_graph(nodes, graph.name, [image], outputs, _constants(graph)),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name=PRODUCER,
        producer_version=_own_version(),
    )


def export_model(
    graph: Graph,
    weights: Mapping[str, Array],
    *,
    fold_norm: bool = True,
    batch: int | str = 1,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Return the graph with its weights inside as an ONNX model.

    Args:
        graph: the network.
        weights: training-form parameters by state-dict name.
        fold_norm: whether batch norm is folded into the convolutions.
        batch: images at once, or the name of a free dimension.
        metadata: facts stored in the file.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        ConfigError: a parameter is missing or misshapen, or the weights pass 2 GB.
    """
    _require_size(FLOAT32_BYTES * sum(_sizes(graph, fold_norm=fold_norm)))
    require_weights(graph, weights)
    final = fold_norms(graph, weights) if fold_norm else weights

    def tensor(name: str, shape: Shape) -> Any:
        return numpy_helper.from_array(np.ascontiguousarray(final[name], dtype=np.float32), name)

    return to_onnx(graph, tensor, fold_norm=fold_norm, batch=batch, metadata=metadata)


def save(model: Any, path: Path) -> None:
    """Write a model to a file, whole or not at all.

    Args:
        model: an `onnx.ModelProto`.
        path: where.

    Raises:
        StorageError: the file could not be written.
    """
    write_atomically(path, model.SerializeToString(deterministic=True))


def write(
    graph: Graph, weights: Mapping[str, Array], path: Path, metadata: Mapping[str, str], options: OnnxOptions
) -> tuple[Path, ...]:
    """Write the network as a float32 model with batch norm folded in.

    Args:
        graph: the network.
        weights: training form.
        path: where.
        metadata: facts stored in the file.
        options: what was chosen.

    Raises:
        ConfigError: the weights do not fit or pass 2 GB.
        StorageError: the file could not be written.
    """
    save(export_model(graph, weights, batch=options.batch_axis, metadata=metadata), path)
    return (path,)


TARGET = Target(name="onnx", suffix=".onnx", extra=None, write=write, options=OnnxOptions)


def tensor_owner(graph: Graph) -> dict[str, str]:
    """Return every tensor that any form of the model may hold: tensor name -> name of the node it belongs to.

    Args:
        graph: the network.

    Raises:
        ConfigError: two nodes would give the same tensor.
    """
    owner: dict[str, str] = {}
    for fold_norm in (True, False):
        for node, ops in _ops_of(graph, fold_norm=fold_norm):
            for op in ops:
                if owner.setdefault(op.output, node.name) != node.name:
                    raise ConfigError(
                        f"tensor {op.output!r} would also belong to {owner[op.output]!r}", where=node.name
                    )
    return owner


def architecture_metadata(architecture: Architecture) -> dict[str, str]:
    """Return the facts by which a file of this architecture is known again.

    Args:
        architecture: the network as numbers.
    """
    return {ARCHITECTURE_KEY: dumps(architecture_to_json(architecture))}


def reference_metadata(name: str, *, resolution: tuple[int, int], classes: int) -> dict[str, str]:
    """Return the facts by which a file of a reference network is known again.

    Args:
        name: as `deepmad_hw.network.reference.get` takes it.
        resolution: (height, width) in pixels.
        classes: width of the classifier.
    """
    height, width = resolution
    return {REFERENCE_KEY: name, RESOLUTION_KEY: f"{height}x{width}", CLASSES_KEY: str(classes)}


def _ops_of(graph: Graph, *, fold_norm: bool) -> Iterator[tuple[Node, tuple[_Op, ...]]]:
    flat = {node.name for node in graph if node.spec.op == "linear"}
    for node in graph:
        yield node, _ops(node, fold_norm=fold_norm, flat=node.inputs[0] in flat)


def _ops(node: Node, *, fold_norm: bool, flat: bool) -> tuple[_Op, ...]:
    ops: list[_Op] = []
    source = node.inputs[0]
    if node.spec.op == "linear" and not flat:
        ops.append(_helper(node, "Flatten", "flatten", source))
        source = ops[-1].output
    ops.append(_main(node, source, fold_norm=fold_norm))
    if node.norm and not fold_norm:
        parameters = [f"{node.name}.norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        norm = _helper(node, "BatchNormalization", "norm", ops[-1].output, *parameters)
        ops.append(replace(norm, attributes={"epsilon": NORM_EPSILON}))
    if node.spec.residual:
        ops.append(_helper(node, "Add", "add", ops[-1].output, node.inputs[-1]))
    ops += _activation(node, ops[-1].output)
    return (*ops[:-1], replace(ops[-1], output=node.name))


def _helper(node: Node, kind: str, suffix: str, *inputs: str) -> _Op:
    name = f"{node.name}.{suffix}"
    return _Op(kind=kind, name=name, inputs=inputs, output=name)


def _main(node: Node, source: str, *, fold_norm: bool) -> _Op:
    spec = node.spec
    padding = spec.kernel // 2 if spec.kernel % 2 else 0
    window = {"kernel_shape": [spec.kernel] * 2, "strides": [spec.stride] * 2, "pads": [padding] * 4}
    operations: dict[str, tuple[str, dict[str, Any]]] = {
        "conv": ("Conv", window | {"group": spec.groups}),
        "linear": ("Gemm", {"transB": 1}),
        "avg_pool": ("AveragePool", window | {"count_include_pad": 1}),  # as torch counts
        "max_pool": ("MaxPool", window),
        "global_pool": ("GlobalAveragePool", {}),
        "scale": ("Mul", {}),
        "add": ("Add", {}),
    }
    kind, attributes = operations[spec.op]
    others = node.inputs[1:] if spec.op in ("scale", "add") else ()
    parameters = (name for name in parameter_shapes(node, fold_norm=fold_norm) if ".norm." not in name)
    return _Op(
        kind=kind,
        name=node.name,
        inputs=(source, *others, *parameters),
        output=f"{node.name}.{spec.op}",
        attributes=attributes,
    )


_CLIP_LIMITS = {"relu6.min": 0.0, "relu6.max": 6.0}


def _activation(node: Node, source: str) -> list[_Op]:
    match node.spec.activation:
        case "none":
            return []
        case "silu":  # this pair is what runtimes fuse
            gate = _helper(node, "Sigmoid", "sigmoid", source)
            return [gate, _helper(node, "Mul", "act", source, gate.output)]
        case "relu6":
            return [_helper(node, "Clip", "act", source, *_CLIP_LIMITS)]
        case "hardsigmoid":
            return [replace(_helper(node, "HardSigmoid", "act", source), attributes={"alpha": 1 / 6})]
        case other:
            kind = {"relu": "Relu", "hardswish": "HardSwish", "sigmoid": "Sigmoid"}[other]
            return [_helper(node, kind, "act", source)]


def _constants(graph: Graph) -> list[Any]:
    if all(node.spec.activation != "relu6" for node in graph):
        return []
    return [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in _CLIP_LIMITS.items()]


def _out_shape(node: Node) -> Shape:
    spec = node.spec
    pixels = () if spec.op == "linear" else (spec.out_height, spec.out_width)
    return (spec.out_channels, *pixels)


def _fitting(tensor: Any, name: str, shape: Shape) -> Any:
    if tensor.name != name or tuple(tensor.dims) != shape:
        raise ConfigError(
            f"expected an initialiser of shape {shape}, got {tensor.name} {tuple(tensor.dims)}", where=name
        )
    return tensor


def _sizes(graph: Graph, *, fold_norm: bool) -> Iterator[int]:
    for node in graph:
        for shape in parameter_shapes(node, fold_norm=fold_norm).values():
            yield int(np.prod(shape, dtype=np.int64))


def _require_size(size_bytes: int) -> None:
    if size_bytes >= MAX_MODEL_BYTES:
        raise ConfigError(
            f"the weights take {size_bytes / 1e9:.1f} GB, one ONNX file holds less than 2.1",
            where="export",
            hint="choose a smaller network",
        )


def _own_version() -> str:
    try:
        return version(PRODUCER)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return ""
