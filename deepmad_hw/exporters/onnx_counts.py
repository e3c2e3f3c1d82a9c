"""Counts the multiply-adds and parameters of any ONNX graph, and names what it cannot count. Layer 3.

Each rule is a line of `_RULES`: what an operation multiplies, and which of its inputs training changes. An operation
that is in no list is named, because "not counted" is not zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, TensorProto, shape_inference

Shape = tuple[int, ...]

IMAGE_RANK = 4  # images, channels, height, width
MICROSOFT, BLOCKED = "com.microsoft.", "com.microsoft.nchwc."  # what ONNX Runtime's own operations are called here
STANDARD_DOMAINS = ("", "ai.onnx")
_RECURRENT = ("GRU", "LSTM", "RNN")

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
_TRAINED = {
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
_RESTORING = frozenset({"DequantizeLinear", f"{MICROSOFT}DequantizeLinear"})
_FORMATS = frozenset({"Cast", "Identity", "QuantizeLinear", f"{MICROSOFT}QuantizeLinear"}) | _RESTORING
# What a weight may go through on its way from the file and still be that weight.
_PASSING = _FORMATS | {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_FLOATS = frozenset(
    value for name, value in TensorProto.DataType.items() if name.startswith(("FLOAT", "BFLOAT", "DOUBLE"))
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What an ONNX graph says of its own size.

    Args:
        macs: multiply-adds of convolutions, matrix products and recurrent layers for one image.
        params: trainable values: of those operations and their biases, and of norms; before batch norm is folded,
            those of the training form.
        not_counted: ``name: reason`` of each operation that may multiply, or hold parameters, beyond these numbers.
    """

    macs: int
    params: int
    not_counted: tuple[str, ...] = ()


def counts(model: Any, *, shapes: Mapping[str, Shape] | None = None) -> Counts:
    """Return the MACs and parameters of a model by ONNX's own shapes, as a check on our own counting.

    A batch that is left free is one image; of a fixed batch of images, one image's share is counted. What a graph adds
    or multiplies for each channel behind a layer or norm is a parameter; trained values elsewhere, such as embeddings,
    cannot be told from other constants and are none here.

    Args:
        model: an `onnx.ModelProto` that may be trusted not to do harm; its weights may be absent, their shapes suffice.
        shapes: sizes of tensors that were found by running it; the others are inferred as far as they can be.
    """
    graph = model.graph
    own = {(function.domain, function.name) for function in model.functions}
    weights = _Weights(graph)
    known = _inferred(model) | dict(shapes or {}) | weights.shapes
    not_counted = [f"{name}: is a sparse tensor" for name in _sparse(graph)]
    macs = 0
    for node in graph.node:
        op = _Op(node=node, shapes=known)
        if (node.domain, node.op_type) in own:
            not_counted.append(f"{op.name}: {op.kind} is a function of the file's own")
            continue
        try:
            macs += _macs(op)
        except _UnknownError as unknown:
            not_counted.append(f"{op.name}: {unknown}")
        not_counted += [f"{op.name}: {reason}" for reason in weights.train(op)]
    return Counts(
        macs=-(-macs // _images(graph, known)),
        params=sum(math.prod(weights.shapes[root]) for root in weights.trained),
        not_counted=tuple(not_counted),
    )


class _UnknownError(Exception):
    """Why an operation cannot be counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Op:
    """An operation, with the sizes of what it reads and returns."""

    node: Any
    shapes: Mapping[str, Shape]

    @property
    def name(self) -> str:
        """Return what it is called."""
        return self.node.name or self.result or self.kind

    @property
    def kind(self) -> str:
        """Return what kind of operation it is."""
        return _label(self.node)

    @property
    def result(self) -> str:
        """Return the name of the first output."""
        return _first(self.node.output)

    def tensor(self, place: int) -> str:
        """Return the name of an input; empty where it is left out."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def size(self, place: int, *, rank: int = 1) -> Shape:
        """Return the shape of an input that has at least so many dimensions."""
        return self._known(self.tensor(place), rank)

    @property
    def output(self) -> Shape:
        """Return the shape of the first output."""
        return self._known(self.result, 0)

    def number(self, attribute: str) -> int:
        """Return a whole number, 0 where it is not given."""
        return next((item.i for item in self.node.attribute if item.name == attribute), 0)

    def _known(self, tensor: str, rank: int) -> Shape:
        shape = self.shapes.get(tensor)
        if shape is None or min(shape, default=0) < 0:
            raise _UnknownError(f"the size of {tensor!r} is not known before it runs")
        if len(shape) < rank:
            raise _UnknownError(f"multiplies {tensor!r} of {len(shape)} dimensions")
        return shape


# --- multiply-adds ----------------------------------------------------------------------------------------------------


def _macs(op: _Op) -> int:
    if op.kind in _RULES:
        return _RULES[op.kind].macs(op)
    inside = sorted(set(_busy(op.node)))
    if inside:
        raise _UnknownError(f"{op.kind} holds {', '.join(inside)}, and how often they run is not known")
    if op.kind not in FREE_OPERATIONS and not _bodies(op.node):
        raise _UnknownError(f"what {op.kind} multiplies is not known")
    return 0


def _busy(node: Any) -> Iterator[str]:
    """Return what in a node's bodies multiplies or holds parameters, at any depth."""
    for body in _bodies(node):
        for inner in body.node:
            name = _label(inner)
            yield from _busy(inner)
            if name in _TRAINED or (name not in FREE_OPERATIONS and not _bodies(inner)):
                yield name


def _bodies(node: Any) -> list[Any]:
    """Return the graphs inside a branch or loop."""
    return [
        graph for item in node.attribute for graph in ([item.g] if item.type == AttributeProto.GRAPH else item.graphs)
    ]


def _conv(kernel: int) -> Callable[[_Op], int]:
    """Return the rule of a convolution: each value of the output takes one filter, which holds its group's channels."""
    return lambda op: math.prod(op.output) * math.prod(op.size(kernel, rank=2)[1:])


def _conv_transposed(op: _Op) -> int:
    """Each value of the input meets the filters of its group; where they overlap, the output has no work of its own."""
    return math.prod(op.size(0)) * math.prod(op.size(1, rank=2)[1:])


def _gemm(op: _Op) -> int:
    return math.prod(op.output) * op.size(0, rank=2)[0 if op.number("transA") else 1]


def _matmul(op: _Op) -> int:
    """The output holds the batches of both sides; each of its values sums over the dimension that they share."""
    return math.prod(op.output) * op.size(0)[-1]


def _fused_matmul(op: _Op) -> int:
    if not op.number("transA"):
        return _matmul(op)
    return math.prod(op.output) * op.size(0, rank=2)[0 if op.number("transBatchA") else -2]


def _einsum(op: _Op) -> int:
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
        raise _UnknownError(f"Einsum of {equation!r} is no plain matrix product")
    sizes: dict[str, int] = {}
    for place, term in enumerate(terms):
        for label, size in zip(term, op.size(place, rank=len(term)), strict=False):
            sizes[label] = max(size, sizes.get(label, 0))  # a size of 1 is stretched
    return math.prod(sizes.values())


def _recurrent(op: _Op) -> int:
    """Every step of every sequence meets all input weights (1) and all recurrent ones (2), in each direction."""
    return math.prod(op.size(0, rank=2)[:2]) * (math.prod(op.size(1)) + math.prod(op.size(2)))


def _attention(op: _Op) -> int:
    """Queries meet all keys, and weights all values; heads are a dimension or a part of the last one."""
    if op.tensor(4):
        raise _UnknownError("Attention remembers earlier keys, whose number changes")
    return (math.prod(op.size(0)) + math.prod(op.output)) * op.size(1, rank=2)[-2]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """How an operation is counted.

    Args:
        macs: its multiply-adds.
        trained: places of inputs that are parameters if they are constants.
        whole: whether these are stored as whole numbers.
        channels: axis of the output that a bias behind it has values for.
    """

    macs: Callable[[_Op], int]
    trained: tuple[int, ...]
    whole: bool = False
    channels: int = -1


_RULES: Mapping[str, _Rule] = {
    "Attention": _Rule(macs=_attention, trained=(0, 1, 2)),
    "Conv": _Rule(macs=_conv(1), trained=(1, 2), channels=1),
    "ConvInteger": _Rule(macs=_conv(1), trained=(1,), whole=True, channels=1),
    "ConvTranspose": _Rule(macs=_conv_transposed, trained=(1, 2), channels=1),
    "DeformConv": _Rule(macs=_conv(1), trained=(1, 3), channels=1),
    "Einsum": _Rule(macs=_einsum, trained=(0, 1)),
    "GRU": _Rule(macs=_recurrent, trained=(1, 2, 3)),
    "Gemm": _Rule(macs=_gemm, trained=(0, 1, 2)),
    "LSTM": _Rule(macs=_recurrent, trained=(1, 2, 3, 7)),
    "MatMul": _Rule(macs=_matmul, trained=(0, 1)),
    "MatMulInteger": _Rule(macs=_matmul, trained=(0, 1), whole=True),
    "QLinearConv": _Rule(macs=_conv(3), trained=(3, 8), whole=True, channels=1),
    "QLinearMatMul": _Rule(macs=_matmul, trained=(0, 3), whole=True),
    "RNN": _Rule(macs=_recurrent, trained=(1, 2, 3)),
    f"{BLOCKED}Conv": _Rule(macs=_conv(1), trained=(1, 2), channels=1),
    f"{MICROSOFT}DynamicQuantizeMatMul": _Rule(macs=_matmul, trained=(1, 4), whole=True),
    f"{MICROSOFT}FusedConv": _Rule(macs=_conv(1), trained=(1, 2), channels=1),
    f"{MICROSOFT}FusedGemm": _Rule(macs=_gemm, trained=(0, 1, 2)),
    f"{MICROSOFT}FusedMatMul": _Rule(macs=_fused_matmul, trained=(0, 1)),
    f"{MICROSOFT}MatMulIntegerToFloat": _Rule(macs=_matmul, trained=(0, 1, 6), whole=True),
    f"{MICROSOFT}QGemm": _Rule(macs=_gemm, trained=(0, 3, 6), whole=True),
    f"{MICROSOFT}QLinearConv": _Rule(macs=_conv(3), trained=(3, 8), whole=True, channels=1),
}


# --- parameters -------------------------------------------------------------------------------------------------------


class _Weights:
    """The constants of a graph, and which of them are trained."""

    def __init__(self, graph: Any) -> None:
        self.shapes: dict[str, Shape] = {}
        self.trained: set[str] = set()
        self._roots: dict[str, str] = {}  # the constant behind each tensor that passes one on
        self._floats: set[str] = set()  # of these tensors, those that stand for floats
        self._computed: set[str] = set()  # tensors computed from constants alone
        self._channels: dict[str, int] = {}  # axis of the channels, by output of a layer or norm
        self._kinds = {_first(node.output): _label(node) for node in graph.node}
        for tensor in graph.initializer:
            self._add(tensor.name, tuple(tensor.dims), is_float=tensor.data_type in _FLOATS)
        for node in graph.node:
            self._look(node)

    def _look(self, node: Any) -> None:
        """Note a constant, or a tensor that is a constant in another form."""
        kind, output, inputs = _label(node), _first(node.output), [tensor for tensor in node.input if tensor]
        if kind == "Constant":
            for item in node.attribute:
                shape, is_float = _constant(item)
                self._add(output, shape, is_float=is_float)
        elif kind in _PASSING and inputs and inputs[0] in self._roots:
            self._roots[output] = self._roots[inputs[0]]
            if kind in _RESTORING or inputs[0] in self._floats:
                self._floats.add(output)
            if kind in _FORMATS and inputs[0] in self.shapes:
                self.shapes[output] = self.shapes[inputs[0]]
        elif inputs and all(tensor in self._roots or tensor in self._computed for tensor in inputs):
            self._computed.update(node.output)

    def _add(self, tensor: str, shape: Shape, *, is_float: bool) -> None:
        self.shapes[tensor], self._roots[tensor] = shape, tensor
        if is_float:
            self._floats.add(tensor)

    def train(self, op: _Op) -> list[str]:
        """Note the parameters that an operation reads, and return why some cannot be counted."""
        rule = _RULES.get(op.kind)
        places = _TRAINED.get(op.kind, ()) if rule is None else rule.trained
        if op.kind == "InstanceNormalization" and self._kinds.get(op.tensor(0)) == "Reshape":
            places = ()  # a group norm spelt out: these are fillers, its own scale and bias stand behind
        tensors = [op.tensor(place) for place in places]
        constants = self._roots if rule is not None and rule.whole else self._floats
        found = {self._roots[tensor] for tensor in tensors if tensor in constants}
        self.trained |= found
        if rule is not None and found:
            self._channels[op.result] = rule.channels
        else:
            self._follow(op)
        return [f"its weight {tensor!r} is computed" for tensor in tensors if tensor in self._computed]

    def _follow(self, op: _Op) -> None:
        """Note which axis holds the channels of a layer or norm, and what is added or multiplied for each of them."""
        source = op.tensor(0)
        if op.kind in _FORMATS and source in self._channels:
            self._channels[op.result] = self._channels[source]
        elif op.kind == "Reshape" and self._kinds.get(source) == "InstanceNormalization":
            self._channels[op.result] = 1
        elif op.kind == "Div" and self._kinds.get(op.tensor(1)) == "Sqrt":  # a layer norm spelt out
            self._channels[op.result] = -1
        elif op.kind in ("Add", "Mul"):
            for layer, factor in ((source, op.tensor(1)), (op.tensor(1), source)):
                if factor in self._floats and self._is_per_channel(op.shapes, layer, factor):
                    self.trained.add(self._roots[factor])
                    self._channels[op.result] = self._channels[layer]

    def _is_per_channel(self, shapes: Mapping[str, Shape], layer: str, factor: str) -> bool:
        if layer not in self._channels:
            return False
        values, channels_on = shapes.get(factor, ()), shapes.get(layer, ())[self._channels[layer] :]
        return 0 < len(channels_on) <= len(values) and values[-len(channels_on)] == channels_on[0] == math.prod(values)


def _sparse(graph: Any) -> Iterator[str]:
    """Return the names of weights that are stored as sparse tensors."""
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        if any(item.type == AttributeProto.SPARSE_TENSOR for item in node.attribute):
            yield _first(node.output)


def _constant(item: Any) -> tuple[Shape, bool]:
    """Return shape of a constant's attribute, and whether it holds floats."""
    if item.type == AttributeProto.TENSOR:
        return tuple(item.t.dims), item.t.data_type in _FLOATS
    if item.type in (AttributeProto.FLOATS, AttributeProto.INTS):
        return (len(item.floats) + len(item.ints),), item.type == AttributeProto.FLOATS
    return (), item.type == AttributeProto.FLOAT


# --- sizes ------------------------------------------------------------------------------------------------------------


def _first(names: Any) -> str:
    return str(names[0]) if names else ""


def _label(node: Any) -> str:
    """Return what kind of operation a node is, with its domain where that is not ONNX's own."""
    return str(node.op_type) if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"


def _images(graph: Any, shapes: Mapping[str, Shape]) -> int:
    """Return how many images the inputs hold; 1 where they do not say it with one voice."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [shapes.get(info.name, ()) for info in graph.input if info.name not in weights]
    batches = {shape[0] for shape in inputs if len(shape) == IMAGE_RANK}
    return max(1, batches.pop()) if len(batches) == 1 else 1


def _inferred(model: Any) -> dict[str, Shape]:
    """Return the sizes that can be known beforehand; what the file says of them counts where nothing else does."""
    stated = type(model)()
    stated.CopyFrom(model)
    _fix_batch(stated.graph)
    bare = type(model)()
    bare.CopyFrom(stated)
    del bare.graph.value_info[:]
    for info in bare.graph.output:
        info.ClearField("type")
    return _sizes(stated) | _sizes(bare)


def _fix_batch(graph: Any) -> None:
    """Let a free batch be one image, by whatever name it is called."""
    recurrent = (_Op(node=node, shapes={}) for node in graph.node if _label(node) in _RECURRENT)
    timed = {op.tensor(0) for op in recurrent if not op.number("layout")}
    weights = {tensor.name for tensor in graph.initializer}
    names = set()
    for info in graph.input:
        sizes = info.type.tensor_type.shape.dim
        batch = 1 if info.name in timed else 0  # in a sequence, steps come first
        if info.name not in weights and len(sizes) > batch and not sizes[batch].HasField("dim_value"):
            names.add(sizes[batch].dim_param)
            sizes[batch].dim_value = 1
    for info in (*graph.input, *graph.value_info, *graph.output):
        for size in info.type.tensor_type.shape.dim:
            if size.dim_param and size.dim_param in names:
                size.dim_value = 1


def _sizes(model: Any) -> dict[str, Shape]:
    try:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except (shape_inference.InferenceError, EncodeError, ValueError, RuntimeError):
        graph = model.graph  # what the file says itself
    shapes = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        kind = info.type.tensor_type
        sizes = kind.shape.dim
        if kind.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            shapes[info.name] = tuple(size.dim_value for size in sizes)
    return shapes
