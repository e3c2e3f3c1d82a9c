"""Counts the multiply-adds and parameters of any ONNX graph, and names what it cannot count. Layer 3."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, TensorProto, shape_inference

from deepmad_hw.exporters.onnx_macs import (
    MICROSOFT,
    RULES,
    TRAINED,
    Operator,
    UnknownWorkError,
    first,
    label,
    macs_of,
)
from deepmad_hw.exporters.onnx_messages import IMAGE_RANK, Shape, free_inputs, sized_tensors, tensors_in, unsized

_RECURRENT = ("GRU", "LSTM", "RNN")
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
        op = Operator(node=node, shapes=known)
        if (node.domain, node.op_type) in own:
            not_counted.append(f"{op.name}: {op.kind} is a function of the file's own")
            continue
        try:
            macs += macs_of(op)
        except UnknownWorkError as unknown:
            not_counted.append(f"{op.name}: {unknown}")
        not_counted += [f"{op.name}: {reason}" for reason in weights.train(op)]
    return Counts(
        macs=-(-macs // _images(graph, known)),
        params=sum(math.prod(weights.shapes[root]) for root in weights.trained),
        not_counted=tuple(not_counted),
    )


class _Weights:
    """The constants of a graph, and which of them are trained."""

    def __init__(self, graph: Any) -> None:
        self.shapes: dict[str, Shape] = {}
        self.trained: set[str] = set()
        self._roots: dict[str, str] = {}  # the constant behind each tensor that passes one on
        self._floats: set[str] = set()  # of these tensors, those that stand for floats
        self._computed: set[str] = set()  # tensors computed from constants alone
        self._channels: dict[str, int] = {}  # axis of the channels, by output of a layer or norm
        self._kinds = {first(node.output): label(node) for node in graph.node}
        for tensor in graph.initializer:
            self._add(tensor.name, tuple(tensor.dims), is_float=tensor.data_type in _FLOATS)
        for node in graph.node:
            self._look(node)

    def _look(self, node: Any) -> None:
        """Note a constant, or a tensor that is a constant in another form."""
        kind, output, inputs = label(node), first(node.output), [tensor for tensor in node.input if tensor]
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

    def train(self, op: Operator) -> list[str]:
        """Note the parameters that an operation reads, and return why some cannot be counted."""
        rule = RULES.get(op.kind)
        places = TRAINED.get(op.kind, ()) if rule is None else rule.trained
        if op.kind == "InstanceNormalization" and self._kinds.get(op.tensor(0)) == "Reshape":
            places = ()  # a group norm spelt out: these are fillers, its own scale and bias stand behind
        tensors = [op.tensor(place) for place in places]
        constants = self._roots if rule is not None and rule.whole else self._floats
        weights = {self._roots[tensor] for tensor in tensors if tensor in constants}
        self.trained |= weights
        if rule is not None and weights:
            self._channels[op.result] = rule.channels
        else:
            self._follow(op)
        return [f"its weight {tensor!r} is computed" for tensor in tensors if tensor in self._computed]

    def _follow(self, op: Operator) -> None:
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
            yield first(node.output)


def _constant(item: Any) -> tuple[Shape, bool]:
    """Return shape of a constant's attribute, and whether it holds floats."""
    if item.type == AttributeProto.TENSOR:
        return tuple(item.t.dims), item.t.data_type in _FLOATS
    if item.type in (AttributeProto.FLOATS, AttributeProto.INTS):
        return (len(item.floats) + len(item.ints),), item.type == AttributeProto.FLOATS
    return (), item.type == AttributeProto.FLOAT


def _images(graph: Any, shapes: Mapping[str, Shape]) -> int:
    """Return how many images the inputs hold; 1 where they do not say it with one voice."""
    inputs = [shapes.get(info.name, ()) for info in free_inputs(graph)]
    batches = {shape[0] for shape in inputs if len(shape) == IMAGE_RANK}
    return max(1, batches.pop()) if len(batches) == 1 else 1


def _inferred(model: Any) -> dict[str, Shape]:
    """Return the sizes that can be known beforehand; what the file says of them counts where nothing else does."""
    stated = copy.deepcopy(model)
    _fix_batch(stated.graph)
    bare = unsized(stated)
    for info in bare.graph.output:
        info.ClearField("type")
    return _sizes(stated) | _sizes(bare)


def _fix_batch(graph: Any) -> None:
    """Let a free batch be one image, by whatever name it is called."""
    recurrent = (Operator(node=node, shapes={}) for node in graph.node if label(node) in _RECURRENT)
    timed = {op.tensor(0) for op in recurrent if not op.number("layout")}
    names = set()
    for info in free_inputs(graph):
        sizes = info.type.tensor_type.shape.dim
        batch = 1 if info.name in timed else 0  # in a sequence, steps come first
        if len(sizes) > batch and not sizes[batch].HasField("dim_value"):
            names.add(sizes[batch].dim_param)
            sizes[batch].dim_value = 1
    for info in tensors_in(graph):
        for size in info.type.tensor_type.shape.dim:
            if size.dim_param and size.dim_param in names:
                size.dim_value = 1


def _sizes(model: Any) -> dict[str, Shape]:
    try:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except (shape_inference.InferenceError, EncodeError, ValueError, RuntimeError):
        graph = model.graph  # what the file says itself
    return {name: shape for name, _, shape in sized_tensors(graph)}
