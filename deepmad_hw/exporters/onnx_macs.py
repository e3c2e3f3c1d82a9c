"""How many multiply-adds an ONNX operation does, by the sizes of its tensors. Layer 3.

Each rule is a line of `RULES`: what an operation multiplies, and which of its inputs training changes. An operation
that is in no list is named, because "not counted" is not zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deepmad_hw.exporters.onnx_messages import STANDARD_DOMAINS, Shape, bodies_of

MICROSOFT, BLOCKED = "com.microsoft.", "com.microsoft.nchwc."  # what ONNX Runtime's own operations are called here

_ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Celu Clip
    Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Hardmax IsInf IsNaN
    LeakyRelu Less LessOrEqual Log LogSoftmax Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu
    RotaryEmbedding Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Sub Sum Swish Tan Tanh
    ThresholdedRelu Where Xor
"""
_POOLS_AND_NORMS = """
    AveragePool BatchNormalization GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization
    InstanceNormalization LRN LayerNormalization LpNormalization LpPool MaxPool MaxRoiPool MaxUnpool
    MeanVarianceNormalization RMSNormalization RoiAlign SimplifiedLayerNormalization
"""
_REDUCTIONS = """
    ArgMax ArgMin CumProd CumSum NegativeLogLikelihoodLoss ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare SoftmaxCrossEntropyLoss
"""
_MOVES = """
    Bernoulli BitCast Cast CastLike CenterCropPad Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape
    DepthToSpace DequantizeLinear Dropout DynamicQuantizeLinear Expand EyeLike Flatten Gather GatherElements GatherND
    GridSample Identity Multinomial NonMaxSuppression NonZero OneHot Optional OptionalGetElement OptionalHasElement
    Pad QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reshape Resize
    ReverseSequence Scatter ScatterElements ScatterND SequenceAt SequenceConstruct SequenceEmpty SequenceErase
    SequenceInsert SequenceLength Shape Size Slice SpaceToDepth Split SplitToSequence Squeeze TensorScatter Tile TopK
    Transpose Trilu Unique Unsqueeze Upsample
"""
_OF_MICROSOFT = """
    BiasAdd BiasGelu BiasSplitGelu DequantizeLinear FastGelu Gelu GroupNorm NhwcMaxPool QLinearAdd QLinearAveragePool
    QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax
    QLinearWhere QuantizeLinear QuickGelu SkipLayerNormalization SkipSimplifiedLayerNormalization
"""
_OF_BLOCKS = "AveragePool GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput Upsample"

# Operations that sum no products: by the field's convention, only those sums are counted as multiply-adds.
FREE_OPERATIONS = frozenset(
    f"{domain}{name}"
    for domain, names in (
        ("", _ELEMENTWISE + _POOLS_AND_NORMS + _REDUCTIONS + _MOVES),
        (MICROSOFT, _OF_MICROSOFT),
        (BLOCKED, _OF_BLOCKS),
    )
    for name in names.split()
)

# Which inputs of an operation that multiplies no weights are trained: scale and bias, never running statistics.
TRAINED = {
    "BatchNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    f"{MICROSOFT}BiasAdd": (1,),
    f"{MICROSOFT}BiasGelu": (1,),
    f"{MICROSOFT}BiasSplitGelu": (1,),
    f"{MICROSOFT}FastGelu": (1,),
    f"{MICROSOFT}GroupNorm": (1, 2),
    f"{MICROSOFT}SkipLayerNormalization": (2, 3, 4),
    f"{MICROSOFT}SkipSimplifiedLayerNormalization": (2, 3),
}


class UnknownWorkError(Exception):
    """Why an operation cannot be counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """An operation, with the sizes of what it reads and returns.

    Args:
        node: an `onnx.NodeProto`.
        shapes: by tensor, as far as they are known.
    """

    node: Any
    shapes: Mapping[str, Shape]

    @property
    def name(self) -> str:
        """Return what it is called."""
        return self.node.name or self.result or self.kind

    @property
    def kind(self) -> str:
        """Return what kind of operation it is."""
        return label(self.node)

    @property
    def result(self) -> str:
        """Return the name of the first output."""
        return first(self.node.output)

    def tensor(self, place: int) -> str:
        """Return the name of an input; empty where it is left out.

        Args:
            place: of the input.
        """
        return self.node.input[place] if place < len(self.node.input) else ""

    def size(self, place: int, *, rank: int = 1) -> Shape:
        """Return the shape of an input that has at least so many dimensions.

        Args:
            place: of the input.
            rank: least number of dimensions.

        Raises:
            UnknownWorkError: it is not known, or has fewer.
        """
        return self._known(self.tensor(place), rank)

    @property
    def output(self) -> Shape:
        """Return the shape of the first output."""
        return self._known(self.result, 0)

    def number(self, attribute: str) -> int:
        """Return a whole number, 0 where it is not given.

        Args:
            attribute: its name.
        """
        return next((item.i for item in self.node.attribute if item.name == attribute), 0)

    def _known(self, tensor: str, rank: int) -> Shape:
        shape = self.shapes.get(tensor)
        if shape is None or min(shape, default=0) < 0:
            raise UnknownWorkError(f"the size of {tensor!r} is not known before it runs")
        if len(shape) < rank:
            raise UnknownWorkError(f"multiplies {tensor!r} of {len(shape)} dimensions")
        return shape


def first(names: Any) -> str:
    """Return the first of some names, empty where there is none.

    Args:
        names: inputs or outputs of a node.
    """
    return str(names[0]) if names else ""


def label(node: Any) -> str:
    """Return what kind of operation a node is, with its domain where that is not ONNX's own.

    Args:
        node: an `onnx.NodeProto`.
    """
    return str(node.op_type) if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"


def macs_of(op: Operator) -> int:
    """Return the multiply-adds of an operation.

    Args:
        op: the operation.

    Raises:
        UnknownWorkError: a size, or what it multiplies, is not known.
    """
    if op.kind in RULES:
        return RULES[op.kind].macs(op)
    inside = sorted(set(_busy(op.node)))
    if inside:
        raise UnknownWorkError(f"{op.kind} holds {', '.join(inside)}, and how often they run is not known")
    if op.kind not in FREE_OPERATIONS and not bodies_of(op.node):
        raise UnknownWorkError(f"what {op.kind} multiplies is not known")
    return 0


def _busy(node: Any) -> Iterator[str]:
    """Return what in a node's bodies multiplies or holds parameters, at any depth."""
    for body in bodies_of(node):
        for inner in body.node:
            name = label(inner)
            yield from _busy(inner)
            if name in TRAINED or (name not in FREE_OPERATIONS and not bodies_of(inner)):
                yield name


def _conv(kernel: int) -> Callable[[Operator], int]:
    """Return the rule of a convolution: each value of the output takes one filter, which holds its group's channels."""
    return lambda op: math.prod(op.output) * math.prod(op.size(kernel, rank=2)[1:])


def _conv_transposed(op: Operator) -> int:
    """Each value of the input meets the filters of its group; where they overlap, the output has no work of its own."""
    return math.prod(op.size(0)) * math.prod(op.size(1, rank=2)[1:])


def _gemm(op: Operator) -> int:
    return math.prod(op.output) * op.size(0, rank=2)[0 if op.number("transA") else 1]


def _matmul(op: Operator) -> int:
    """The output holds the batches of both sides; each of its values sums over the dimension that they share."""
    return math.prod(op.output) * op.size(0)[-1]


def _fused_matmul(op: Operator) -> int:
    if not op.number("transA"):
        return _matmul(op)
    return math.prod(op.output) * op.size(0, rank=2)[0 if op.number("transBatchA") else -2]


def _einsum(op: Operator) -> int:
    """Einsum of two tensors as a matrix product; one of a single tensor only moves and sums."""
    equation = next((item.s.decode(errors="replace") for item in op.node.attribute if item.name == "equation"), "")
    left, _, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) == 1:
        return 0
    labels = "".join(terms)
    summed = set(labels) - set(result)
    product = len(terms) == 2 and summed and all(summed <= set(term) for term in terms)
    plain = labels.isalpha() and all(len(set(term)) == len(term) for term in terms)
    if not product or not plain or "->" not in equation:
        raise UnknownWorkError(f"Einsum of {equation!r} is no plain matrix product")
    sizes: dict[str, int] = {}
    for place, term in enumerate(terms):
        for label, size in zip(term, op.size(place, rank=len(term)), strict=False):
            sizes[label] = max(size, sizes.get(label, 0))  # a size of 1 is stretched
    return math.prod(sizes.values())


def _recurrent(op: Operator) -> int:
    """Every step of every sequence meets all input weights (1) and all recurrent ones (2), in each direction."""
    return math.prod(op.size(0, rank=2)[:2]) * (math.prod(op.size(1)) + math.prod(op.size(2)))


def _attention(op: Operator) -> int:
    """Queries meet all keys, and weights all values; heads are a dimension or a part of the last one."""
    if op.tensor(4):
        raise UnknownWorkError("Attention remembers earlier keys, whose number changes")
    return (math.prod(op.size(0)) + math.prod(op.output)) * op.size(1, rank=2)[-2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How an operation is counted.

    Args:
        macs: its multiply-adds.
        trained: places of inputs that are parameters if they are constants.
        whole: whether these are stored as whole numbers.
        channels: axis of the output that a bias behind it has values for.
    """

    macs: Callable[[Operator], int]
    trained: tuple[int, ...]
    whole: bool = False
    channels: int = -1


RULES: Mapping[str, Rule] = {
    "Attention": Rule(macs=_attention, trained=(0, 1, 2)),
    "Conv": Rule(macs=_conv(1), trained=(1, 2), channels=1),
    "ConvInteger": Rule(macs=_conv(1), trained=(1,), whole=True, channels=1),
    "ConvTranspose": Rule(macs=_conv_transposed, trained=(1, 2), channels=1),
    "DeformConv": Rule(macs=_conv(1), trained=(1, 3), channels=1),
    "Einsum": Rule(macs=_einsum, trained=(0, 1)),
    "GRU": Rule(macs=_recurrent, trained=(1, 2, 3)),
    "Gemm": Rule(macs=_gemm, trained=(0, 1, 2)),
    "LSTM": Rule(macs=_recurrent, trained=(1, 2, 3, 7)),
    "MatMul": Rule(macs=_matmul, trained=(0, 1)),
    "MatMulInteger": Rule(macs=_matmul, trained=(0, 1), whole=True),
    "QLinearConv": Rule(macs=_conv(3), trained=(3, 8), whole=True, channels=1),
    "QLinearMatMul": Rule(macs=_matmul, trained=(0, 3), whole=True),
    "RNN": Rule(macs=_recurrent, trained=(1, 2, 3)),
    f"{BLOCKED}Conv": Rule(macs=_conv(1), trained=(1, 2), channels=1),
    f"{MICROSOFT}DynamicQuantizeMatMul": Rule(macs=_matmul, trained=(1, 4), whole=True),
    f"{MICROSOFT}FusedConv": Rule(macs=_conv(1), trained=(1, 2), channels=1),
    f"{MICROSOFT}FusedGemm": Rule(macs=_gemm, trained=(0, 1, 2)),
    f"{MICROSOFT}FusedMatMul": Rule(macs=_fused_matmul, trained=(0, 1)),
    f"{MICROSOFT}MatMulIntegerToFloat": Rule(macs=_matmul, trained=(0, 1, 6), whole=True),
    f"{MICROSOFT}QGemm": Rule(macs=_gemm, trained=(0, 3, 6), whole=True),
    f"{MICROSOFT}QLinearConv": Rule(macs=_conv(3), trained=(3, 8), whole=True, channels=1),
}
