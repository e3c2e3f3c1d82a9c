"""Quantises ONNX graphs to int8: QuantizeLinear and DequantizeLinear round every operation that runs on bytes. Layer 3.

One function for designs and for probes, so that what is timed has the form of what is shipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper, shape_inference

from deepmad_hw.exporters import extras

Range = tuple[float, float]

# Operations with a kernel on bytes; the others (HardSwish, HardSigmoid) run on floats between two conversions.
QUANTIZED_OPERATIONS = (
    "Add",
    "AveragePool",
    "Clip",
    "Conv",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "MaxPool",
    "Mul",
    "Relu",
    "Reshape",
    "Sigmoid",
)
_SHAPES_ARE_KNOWN = {"onnx.infer": "onnxruntime.quant"}  # metadata by which the quantiser skips a round trip over disk


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How int8 is written, which differs between runtimes.

    Args:
        signed: whether activations are int8 or uint8; weights are always int8.
        options: of `onnxruntime.quantization`.
    """

    signed: bool
    options: Mapping[str, bool]


# Source of both: tried with ONNX Runtime 1.31 and with NVIDIA's parser (TensorRT-RTX 1.7), which takes no other form.
FORMS: Mapping[str, Form] = {
    "cpu": Form(signed=False, options={}),
    "tensorrt": Form(
        signed=True, options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    ),
}


def quantized(
    model: Any,
    ranges: Mapping[str, Range],
    *,
    form: str = "cpu",
    per_channel: bool = True,
    reduce_range: bool = False,
    operations: Sequence[str] = QUANTIZED_OPERATIONS,
) -> Any:
    """Return a model that computes in int8 what another computes in float32.

    Args:
        model: an `onnx.ModelProto` with its weights inside and batch norm folded in; it is changed.
        ranges: smallest and largest value of every tensor that is no weight, by name.
        form: one of `FORMS`.
        per_channel: whether every output channel of a weight has a scale of its own.
        reduce_range: weights of 7 bits, so that sums do not saturate on processors without VNNI.
        operations: ONNX types of those that are rounded.

    Returns:
        An `onnx.ModelProto` whose operations keep their names and whose tensors keep theirs where they are floats.

    Raises:
        MissingExtraError: ONNX Runtime, which brings the quantiser, is not installed.
    """
    ort = extras.load("onnxruntime.quantization", extra="cpu")
    chosen = FORMS[form]
    known = {
        name: ort.TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()
    }
    facts = {entry.key: entry.value for entry in model.metadata_props}
    model = shape_inference.infer_shapes(model)
    helper.set_model_props(model, facts | _SHAPES_ARE_KNOWN)
    quantizer = ort.QDQQuantizer(
        model=model,
        per_channel=per_channel,
        reduce_range=reduce_range,
        weight_qType=ort.QuantType.QInt8,
        activation_qType=ort.QuantType.QInt8 if chosen.signed else ort.QuantType.QUInt8,
        tensors_range=known,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=list(operations),
        extra_options=dict(chosen.options),
    )
    result = quantizer.quantize_model()
    quantizer.model.topological_sort()  # it adds its nodes at the end
    helper.set_model_props(result, facts)
    return result
