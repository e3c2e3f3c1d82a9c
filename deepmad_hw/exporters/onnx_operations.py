"""Which kind of operation an ONNX operator is, and how much work it does, by the sizes of its tensors. Layer 3.

The names of ONNX and those of ONNX Runtime's own operators, which its optimised graphs and profiles use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters.onnx_messages import IMAGE_RANK, Shape
from deepmad_hw.network.layer import KINDS, OperationSpec

_UNARY = {
    "Abs": "abs",
    "BiasGelu": "gelu",
    "Celu": "elu",
    "Clip": "clip",
    "Elu": "elu",
    "Erf": "erf",
    "Exp": "exp",
    "FastGelu": "gelu",
    "Gelu": "gelu",
    "HardSigmoid": "hardsigmoid",
    "HardSwish": "hardswish",
    "LeakyRelu": "leaky_relu",
    "Log": "log",
    "Mish": "mish",
    "Neg": "neg",
    "PRelu": "prelu",
    "Pow": "pow",
    "QuickGelu": "silu",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Selu": "elu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Sqrt": "sqrt",
    "Swish": "silu",
    "Tanh": "tanh",
    **dict.fromkeys(("Ceil", "Cos", "Floor", "IsNaN", "Not", "Round", "Sign", "Sin", "Softsign"), "other_unary"),
}
_BINARY = {
    "Add": "add",
    "Div": "div",
    "Mul": "mul",
    "Sub": "sub",
    **dict.fromkeys(
        ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Or", "Sum"),
        "other_binary",
    ),
    "Where": "other_binary",
}
_MOVES = {
    "Concat": "concat",
    "ConstantOfShape": "expand",
    "Range": "expand",
    "ConcatFromSequence": "concat",
    "DepthToSpace": "depth_to_space",
    "Expand": "expand",
    "Gather": "gather",
    "GatherElements": "gather",
    "GatherND": "gather",
    "Pad": "pad",
    "ReorderInput": "reorder",
    "ReorderOutput": "reorder",
    "Slice": "slice",
    "SpaceToDepth": "depth_to_space",
    "Split": "split",
    "Tile": "tile",
    "Transpose": "transpose",
    "Cast": "cast",
    "QuantizeLinear": "quantize",
    "DequantizeLinear": "dequantize",
    "DynamicQuantizeLinear": "quantize",
}
_NORMS = {
    "BatchNormalization": "batch_norm",
    "GroupNorm": "group_norm",
    "GroupNormalization": "group_norm",
    "InstanceNormalization": "instance_norm",
    "LayerNormalization": "layer_norm",
    "RMSNormalization": "layer_norm",
    "SimplifiedLayerNormalization": "layer_norm",
    "SkipLayerNormalization": "layer_norm",
    "LRN": "other_norm",
    "LogSoftmax": "softmax",
    "Softmax": "softmax",
    "ArgMax": "reduce",
    "ArgMin": "reduce",
    "GlobalAveragePool": "global_pool",
    "GlobalMaxPool": "global_pool",
}
_POOLS = {"AveragePool": "avg_pool", "LpPool": "avg_pool", "MaxPool": "max_pool", "NhwcMaxPool": "max_pool"}
_CONVOLVED = ("conv", "depthwise_conv", "grouped_conv", "conv_transpose")
_WINDOWED = ("avg_pool", "avg_pool_blocked", "max_pool", "max_pool_blocked")
_STRETCHES = ("concat", "expand", "gather", "pad", "slice", "split", "tile")
_PRODUCTS = frozenset({"FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "Einsum"})
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "ConvTranspose", "FusedConv", "NhwcFusedConv"})
_RECURRENT = frozenset({"GRU", "LSTM", "RNN", "DynamicQuantizeLSTM"})
# Kinds that an operator's type alone tells, but for their endings.
NAMED_KINDS = {
    **(_UNARY | _BINARY | _MOVES | _NORMS | _POOLS),
    **dict.fromkeys(_PRODUCTS, "matmul"),
    **dict.fromkeys(_RECURRENT, "recurrent"),
    "ConvTranspose": "conv_transpose",
}
# Names of the runtime that say how an operator runs, not what it computes.
_BLOCKED, _BYTEWISE = "nchwc.", "QLinear"
_PREFIXES = ("com.microsoft.", _BLOCKED, "nhwc.", _BYTEWISE)
_RENAMED = {"QGemm": "Gemm", "DynamicQuantizeMatMul": "MatMul", "MatMulIntegerToFloat": "MatMul", "Upsample": "Resize"}

_VALUE_TYPES = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """An operator with the sizes of its tensors.

    Args:
        operator: its ONNX type, or the runtime's name for it.
        attributes: by name, numbers, lists of numbers and bytes.
        reads: shapes of the inputs that are computed.
        constants: shapes of those that are not.
        writes: shapes of its outputs.
        value_type: of what it computes on, as in `onnx.TensorProto`.
        batch: images that the network takes at once.
    """

    operator: str
    attributes: Mapping[str, Any]
    reads: Sequence[Shape]
    constants: Sequence[Shape] = ()
    writes: Sequence[Shape]
    value_type: int = TensorProto.FLOAT
    batch: int = 1

    @property
    def plain_operator(self) -> str:
        """Return its type by ONNX's name."""
        name = self.operator
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        return _RENAMED.get(name, name)


def operation_of(sized: Sized) -> OperationSpec | None:
    """Return the work of an operator, per image; None where no kind of operation stands for it, or sizes are unknown.

    Amounts are counted as in `operation_probes`, so that laws and what they are asked speak of the same.

    Args:
        sized: the operator with its tensors.
    """
    kind = _kind(sized)
    reads = sized.reads or sized.constants[:1]  # the floats of constant bytes are made in every run
    if kind is None or not reads or not sized.writes:
        return None
    read, written = (_per_image(sum(map(math.prod, shapes)), sized.batch) for shapes in (reads, sized.writes))
    try:
        return OperationSpec(
            kind=kind,
            value_type=_VALUE_TYPES.get(sized.value_type, "other"),
            read_values=read,
            written_values=written,
            macs=_per_image(_macs(sized, kind), sized.batch),
            weight_values=_weights(sized, kind),
            span=_span(sized, kind, reads),
            channels=_channels(sized, kind),
        )
    except ConfigError:  # a tensor without values
        return None


def _per_image(amount: int, batch: int) -> int:
    return -(-amount // batch)  # rounded up: what does not grow with the batch is not nothing


def _kind(sized: Sized) -> str | None:
    operator = sized.plain_operator
    kind = NAMED_KINDS.get(operator)
    if kind == "reduce" or operator.startswith("Reduce"):
        return _reduction(sized)
    if operator in _BINARY:
        factors = () if sized.operator.startswith(_BYTEWISE) else None  # the shape of scales and zero points
        shapes = [*sized.reads, *(shape for shape in sized.constants if shape != factors)]
        whole = len(shapes) > 1 and len({_without_ones(shape) for shape in shapes}) == 1
        return kind if whole else f"{kind}_broadcast"
    if operator in _CONVOLUTIONS:
        return _convolution(sized)
    if operator == "Resize":
        nearest = sized.attributes.get("mode", b"nearest") == b"nearest"
        kind = "resize_nearest" if nearest else "resize_linear"
    return None if kind is None else _in_layout(kind, sized)


def _in_layout(kind: str, sized: Sized) -> str:
    blocked = sized.operator.startswith(_BLOCKED) and f"{kind}_blocked" in KINDS
    return f"{kind}_blocked" if blocked else kind


def _reduction(sized: Sized) -> str:
    """Return how a reduction goes: along rows in memory, or over what lies apart."""
    reads, writes = (shapes[0] if shapes else () for shapes in (sized.reads, sized.writes))
    along = reads[: len(writes)] == writes if len(reads) != len(writes) else reads[-1:] != writes[-1:]
    return "reduce" if along or reads[-1:] == (1,) else "reduce_outer"


def _without_ones(shape: Shape) -> Shape:
    begin = next((axis for axis, size in enumerate(shape) if size != 1), len(shape))
    return shape[begin:]


def _convolution(sized: Sized) -> str:
    if sized.plain_operator == "ConvTranspose":
        return "conv_transpose"
    groups, weight = int(sized.attributes.get("group", 1)), _kernel(sized)
    if groups == 1:
        return "conv"
    return "depthwise_conv" if len(weight) > 1 and weight[1] == 1 else "grouped_conv"


def _kernel(sized: Sized) -> Shape:
    """Return the weight's shape, empty where it is not known."""
    ranks = (shape for shape in (*sized.constants, *sized.reads[1:]) if len(shape) > 2)  # more than a bias or a scale
    return next(ranks, ())


def _macs(sized: Sized, kind: str) -> int:
    written = sum(map(math.prod, sized.writes))
    if kind in ("conv", "depthwise_conv", "grouped_conv"):
        return written * math.prod(_kernel(sized)[1:])
    if kind == "conv_transpose":
        return math.prod(sized.reads[0]) * math.prod(_kernel(sized)[1:])
    if kind.startswith("global_pool"):
        return math.prod(sized.reads[0])
    if kind in _WINDOWED:
        return written * int(math.prod(sized.attributes.get("kernel_shape", (1,))))
    if kind == "matmul":
        shape = (*sized.reads, *sized.constants)[0]
        turned = sized.attributes.get("transA", 0)
        return written * int((shape[-2] if turned and len(shape) > 1 else shape[-1]) if shape else 1)
    if kind == "recurrent":
        steps = sized.reads[0][0] * sized.reads[0][1] if len(sized.reads[0]) > 1 else 1
        return steps * sum(math.prod(shape) for shape in sized.constants if len(shape) > IMAGE_RANK - 2)
    return 0


def _channels(sized: Sized, kind: str) -> int:
    if kind not in _CONVOLVED or kind == "conv_transpose":
        return 0
    weight = _kernel(sized)
    return weight[0] if weight else 0


def _span(sized: Sized, kind: str, reads: Sequence[Shape]) -> int:
    """Return the values that belong together: of a window, a row, or a stretch of memory."""
    source, written = reads[0], sized.writes[0]
    if kind in _CONVOLVED:
        return math.prod(_kernel(sized)[2:])
    if kind in _WINDOWED:
        return int(math.prod(sized.attributes.get("kernel_shape", (1,))))
    if kind.startswith("global_pool"):
        return max(1, math.prod(source) // max(1, math.prod(written)))
    if kind in _STRETCHES:
        return min(_copied(source, written), _copied(written, source))
    if kind.endswith("_broadcast"):
        bytewise = sized.operator.startswith(_BYTEWISE)
        others = (shape for shape in (*reads, *sized.constants) if shape != written and not (bytewise and not shape))
        return min((_repeated(shape, written) for shape in others), default=0)
    return _row(sized, kind, source, written)


def _row(sized: Sized, kind: str, source: Shape, written: Shape) -> int:
    if kind == "layer_norm":
        return source[-1] if source else 0
    if kind == "softmax":
        axis = int(sized.attributes.get("axis", -1))
        return source[axis] if -len(source) <= axis < len(source) else 0
    if kind == "reduce":
        return max(1, math.prod(source) // max(1, math.prod(written)))
    if kind == "reduce_outer":
        return _stretch(source, written)
    return _kept(source, sized.attributes.get("perm", ())) if kind == "transpose" else 0


def _kept(shape: Shape, order: Sequence[int]) -> int:
    """Return the values that lie side by side before and after axes are put in another order."""
    count = 1
    for axis in range(len(shape) - 1, -1, -1):
        if len(order) != len(shape) or order[axis] != axis:
            break
        count *= shape[axis]
    return count


def _stretch(shape: Shape, other: Shape) -> int:
    """Return the values of the last axes that two shapes share."""
    count = 1
    for size, same in zip(shape[::-1], other[::-1], strict=False):
        if size != same:
            break
        count *= size
    return count


def _copied(shape: Shape, other: Shape) -> int:
    """Return the values that lie side by side in both tensors, of which one holds a part of the other."""
    count = 1
    for size, same in zip(shape[::-1], other[::-1], strict=False):
        count *= min(size, same)
        if size != same:
            break
    return count


def _repeated(shape: Shape, whole: Shape) -> int:
    """Return how many values side by side meet as many of another tensor, or one and the same."""
    same, padded = _stretch(shape, whole), (1,) * (len(whole) - len(shape)) + shape
    ones = next((axis for axis in range(len(padded), 0, -1) if padded[axis - 1] != 1), 0)
    return max(same, math.prod(whole[ones:]))


def _weights(sized: Sized, kind: str) -> int:
    """Return the values of its constants, those of moves left out: they are sizes and positions."""
    moves = kind in _MOVES.values() or kind.startswith("resize")
    return 0 if moves else sum(math.prod(shape) for shape in sized.constants)
