"""Walks over any ONNX graph and returns the layers a runtime makes of it, and what it cannot tell. Layer 3.

The rules are those by which ONNX Runtime merges operations on the CPU (1.32, observed in its optimised graphs): batch
norm, constants, one residual sum and one activation go into the convolution before them, if nothing else reads what
lies between. `onnx_view` looks through views, quantisation pairs and arithmetic on shapes; the walk takes the rest in
order, and each operation either begins a layer, is merged into one, or is listed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import TensorProto

from deepmad_hw.errors import ConfigError, NotCoveredError
from deepmad_hw.exporters.onnx_loader import TensorKind
from deepmad_hw.exporters.onnx_messages import IMAGE_RANK, Shape
from deepmad_hw.exporters.onnx_operations import Sized, operation_of
from deepmad_hw.exporters.onnx_view import Op, View, inferred
from deepmad_hw.exporters.walked import Operation, Walk
from deepmad_hw.network import costs
from deepmad_hw.network.layer import CHANNEL_BLOCK, IMAGE, LayerSpec, Node, OperationSpec

# An operation that no law is measured for is still left out where it makes so few values.
NEGLIGIBLE_VALUES = 64
ACTIVATIONS = {
    "Relu": "relu",
    "Clip": "relu6",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hardsigmoid",
    "HardSwish": "hardswish",
    "Swish": "silu",
    "LeakyRelu": "relu",  # merged in the same way
    "Tanh": "sigmoid",
}
MERGED_ALIKE = ("LeakyRelu", "Tanh")  # into what they are not, but as that would be
CLIPS = frozenset({"Relu", "Clip", "LeakyRelu"})  # merged before bytes are made, not after
MERGED_INTO_NORMS = frozenset({"Relu", "Sigmoid", "HardSigmoid", "HardSwish"})
NOT_AFTER_SUMS = frozenset({"Clip", "LeakyRelu"})
POOLS = {"MaxPool": "max_pool", "AveragePool": "avg_pool"}
ACTIVATED = ("conv", "linear", "add")  # the layers that an activation is merged into


@dataclass(kw_only=True, slots=True)
class _Layer:
    """A layer while operations are being merged into it."""

    name: str
    op: str
    shape: dict[str, int]
    inputs: list[str]
    tensor: str  # where it ends so far
    activation: str = "none"
    residual: bool = False
    norm: bool = False
    bias: bool = False
    members: list[str] = field(default_factory=list)

    def node(self) -> Node:
        try:
            spec = LayerSpec(op=self.op, activation=self.activation, residual=self.residual, **self.shape)
        except ConfigError as error:  # shape inference lets some through that no runtime computes
            raise NotCoveredError(f"its shapes do not meet: {error.what}", where=self.name) from error
        return Node(name=self.name, spec=spec, inputs=tuple(self.inputs), norm=self.norm, bias=self.bias)


def walk(model: Any, tensors: Mapping[str, TensorKind] | None = None) -> Walk:
    """Return the layers of a model.

    Args:
        model: an `onnx.ModelProto`.
        tensors: size and type of its tensors, of `onnx_loader.run_once`; None to infer them for one image.

    Raises:
        NotCoveredError: its shapes do not meet.
    """
    return _Walker(View(model, inferred(model) if tensors is None else tensors)).walk()


class _NoLayerError(Exception):
    """Why an operation neither begins a layer nor is merged into one."""


class _Walker:
    """The walk over a view: layers, and what is none."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._layers: dict[str, _Layer] = {}  # by the tensor at which each ends
        self._begun: list[_Layer] = []
        self._owner = dict.fromkeys(view.images, IMAGE)
        self._merged: set[str] = set()  # outputs of operations that an earlier one has taken along
        self._operations: list[Operation] = []
        self._members: dict[str, tuple[str, ...]] = {}
        self._uncovered: list[str] = []
        self._notes: list[str] = []
        self._formats: dict[str, list[str]] = defaultdict(list)  # names of layers with weights, by precision

    def walk(self) -> Walk:
        for op in self._view.ops:
            if op.output not in self._merged:
                self._visit(op)
        self._let_clip()
        precision = next((name for name in ("int8", "fp16") if self._formats[name]), "fp32")
        strangers = {name: other for other, names in self._formats.items() if other != precision for name in names}
        self._set_apart(strangers)
        if not self._begun and not self._operations and not self._uncovered:
            self._uncovered.append("the whole graph: computes nothing")
        return Walk(
            nodes=tuple(layer.node() for layer in self._begun),
            operations=tuple(self._operations),
            members={
                name: tuple(form for tensor in members for form in self._view.forms(tensor))
                for name, members in (*((layer.name, layer.members) for layer in self._begun), *self._members.items())
            },
            uncovered=tuple(self._uncovered),
            notes=tuple(dict.fromkeys(self._notes)),
            precision=precision,
            batch=self._view.batch,
        )

    def _set_apart(self, strangers: Mapping[str, str]) -> None:
        """Take layers of another precision than the network's by their amounts of work: a table has rows of one."""
        for layer in [layer for layer in self._begun if layer.name in strangers]:
            spec = costs.layer_operation(layer.node().spec, value_type=strangers[layer.name])
            self._take(layer.name, spec, layer.members)
            self._begun.remove(layer)

    def _let_clip(self) -> None:
        """Give back the activations that a quantiser has left out, because its whole numbers begin at zero anyway."""
        for layer in self._begun:
            within = layer.tensor in self._view.clipped - self._view.outputs
            if within and layer.activation == "none" and layer.op in ACTIVATED:
                layer.activation = "relu"

    def _visit(self, op: Op) -> None:
        steps: Mapping[str, Callable[[Op], None]] = {
            "Conv": self._conv,
            "Gemm": self._linear,
            "MatMul": self._linear,
            "BatchNormalization": self._norm,
            "Add": self._sum,
            "Mul": self._product,
            "GlobalAveragePool": self._global_pool,
            "AveragePool": self._pool,
            "MaxPool": self._pool,
        }
        step = self._activation if op.kind in ACTIVATIONS else steps.get(op.kind)
        try:
            if step is None:
                raise _NoLayerError(f"{op.kind} is no layer that tables hold")
            step(op)
        except _NoLayerError as reason:
            self._stand_alone(op, str(reason))

    def _stand_alone(self, op: Op, reason: str, *, kind: str | None = None, last: Op | None = None) -> None:
        """Take an operation that is no layer by its amounts of work; list it where that is not known."""
        end = op if last is None else last
        for output in end.outputs:
            self._owner[output] = op.name
        written = [self._view.shape(name) for name in end.outputs]
        sized = Sized(
            operator=op.kind if kind is None else kind,
            attributes=op.attributes,
            reads=[self._view.shape(name) for name in op.inputs if name not in self._view.constants],
            constants=[self._view.shape(name) for name in op.inputs if name in self._view.constants],
            writes=written,
            value_type=self._view.value_type(op.inputs[0]) if op.inputs else TensorProto.FLOAT,
            batch=self._view.batch,
        )
        spec = operation_of(sized)
        values = sum(map(math.prod, written))
        if spec is not None:
            self._take(op.name, spec, end.outputs if last is None else (op.output, *end.outputs))
        elif 0 < values <= NEGLIGIBLE_VALUES and all(written):
            self._notes.append(f"{op.name}: {op.kind} over {values} values is left out as negligible")
        else:
            self._uncovered.append(f"{op.name}: {reason}")

    def _take(self, name: str, spec: OperationSpec, members: Iterable[str]) -> None:
        self._operations.append(Operation(name=name, spec=spec))
        self._members[name] = tuple(members)

    # --- operations that begin a layer --------------------------------------------------------------------------------

    def _conv(self, op: Op) -> None:
        shape, weight = self._view.shape(op.roots[0]), self._view.shape(op.inputs[1])
        if len(shape) != IMAGE_RANK or len(weight) != IMAGE_RANK:
            raise _NoLayerError(f"convolves {len(shape) - 2} dimensions, not 2")
        if op.roots != (self._view.root(op.inputs[0]),):
            raise _NoLayerError("has weights that are computed")
        if set(op.attributes.get("dilations", (1,))) != {1}:
            raise _NoLayerError(f"is dilated by {max(op.attributes['dilations'])}")
        window = self._window(op, weight[2:], shape)
        groups = int(op.attributes.get("group", 1))
        self._begin(op, "conv", {**window, "out_channels": weight[0], "groups": groups}, weighted=True)

    def _pool(self, op: Op) -> None:
        shape, kernel = self._view.shape(op.roots[0]), tuple(op.attributes.get("kernel_shape", ()))
        if len(shape) != IMAGE_RANK:
            raise _NoLayerError(f"pools {len(shape) - 2} dimensions, not 2")
        halves = kernel == tuple(op.attributes.get("strides", ())) == (2, 2)  # a shortcut's, on whatever map
        if op.kind == "AveragePool" and kernel == shape[2:] and not halves:
            self._global_pool(op)
        else:
            self._begin(op, POOLS[op.kind], {**self._window(op, kernel, shape), "out_channels": shape[1]})

    def _window(self, op: Op, kernel: Shape, shape: Shape) -> dict[str, int]:
        """Return channels, pixels, kernel and stride of a window."""
        strides = tuple(op.attributes.get("strides", (1, 1)))
        if len(set(kernel)) != 1 or len(set(strides)) != 1:
            raise _NoLayerError(f"has a window of {_by(kernel)} in steps of {_by(strides)}")
        size, stride = kernel[0], strides[0]
        wanted = self._view.shape(op.output)[2:]
        if len(wanted) != len(shape[2:]):
            raise _NoLayerError(f"makes {2 + len(wanted)} dimensions of {len(shape)}")
        height, width = (_pixels(pixels, out, size, stride) for pixels, out in zip(shape[2:], wanted, strict=True))
        if min(height, width) < 1:
            raise _NoLayerError(f"pads {_by(shape[2:])} pixels more than tables do")
        if (height, width) != shape[2:]:
            self._notes.append(f"{op.name}: is padded otherwise, counted as {height}x{width} pixels")
        return {"in_channels": shape[1], "height": height, "width": width, "kernel": size, "stride": stride}

    def _global_pool(self, op: Op) -> None:
        shape, out = self._view.shape(op.roots[0]), self._view.shape(op.output)
        if len(shape) != IMAGE_RANK or out[1:] not in ((shape[1],), (shape[1], 1, 1)):
            raise _NoLayerError(f"{op.kind} from {_by(shape)} to {_by(out)} is no pooling of a map")
        self._begin(op, "global_pool", _same_size(shape))

    def _linear(self, op: Op) -> None:
        shape, weight, out = (self._view.shape(name) for name in (*op.inputs[:2], op.output))
        if op.roots != (self._view.root(op.inputs[0]),):
            raise _NoLayerError("has weights that are computed")
        if len(shape) != 2 or len(weight) != 2:  # batch and channels
            raise _NoLayerError(f"multiplies a tensor of {len(shape)} dimensions")
        if shape[0] != (self._view.batch or 1):  # of tokens, or pixels
            raise _NoLayerError(f"multiplies {shape[0]} rows, not one for each image")
        channels = {"in_channels": shape[1], "out_channels": out[1]}
        self._begin(op, "linear", {**channels, "height": 1, "width": 1}, weighted=True)

    def _begin(
        self, op: Op, kind: str, shape: dict[str, int], *, roots: Sequence[str] = (), weighted: bool = False
    ) -> None:
        inputs = [self._owner.get(root, root) for root in roots or op.roots]
        layer = _Layer(name=op.name, op=kind, shape=shape, inputs=inputs, tensor=op.output, members=[op.output])
        self._begun.append(layer)
        self._layers[op.output] = layer
        self._owner[op.output] = layer.name
        if weighted:
            layer.bias = len(op.inputs) > 2  # image, weight, bias
            half, whole = self._view.is_half(op.inputs[0]), op.inputs[0] in self._view.quantised
            self._formats["int8" if whole else "fp16" if half else "fp32"].append(layer.name)
            if op.inputs[1] in self._view.quantised and not whole:
                self._dequantise(op.inputs[1], of=op)

    def _dequantise(self, weight: str, *, of: Op) -> None:
        """Take the making of floats from a weight that is kept in bytes: the runtime does it in every run."""
        values = math.prod(self._view.shape(weight))
        spec = OperationSpec(kind="dequantize", value_type="int8", read_values=values, written_values=values)
        self._take(f"{of.name}.weight", spec, (weight,))

    # --- operations that are merged into a layer ----------------------------------------------------------------------

    def _open(self, tensor: str, *, readers: int = 1) -> _Layer | None:
        """Return the layer that ends at a tensor, if it has no activation yet and so many operations read it."""
        layer = self._layers.get(tensor)
        if layer is None or layer.activation != "none" or layer.op not in ACTIVATED:
            return None
        return layer if len(self._view.readers[tensor]) == readers and tensor not in self._view.outputs else None

    def _extend(self, layer: _Layer, *ops: Op) -> None:
        """Let a layer end where the last of some operations does."""
        self._merged.update(op.output for op in ops)
        layer.members.extend(op.output for op in ops)
        del self._layers[layer.tensor]
        layer.tensor = ops[-1].output
        self._layers[layer.tensor] = layer
        self._owner[layer.tensor] = layer.name

    def _norm(self, op: Op) -> None:
        layer = self._open(op.roots[0])
        if layer is None or layer.op != "conv" or layer.residual:
            self._lone_norm(op)
            return
        layer.norm = True
        self._extend(layer, op)

    def _lone_norm(self, op: Op) -> None:
        """Take a norm that follows no convolution as the depthwise 1x1 convolution that the runtime makes of it."""
        shape = self._view.shape(op.roots[0])
        if len(shape) != IMAGE_RANK or shape[1] % CHANNEL_BLOCK:
            raise _NoLayerError("is a batch norm that no convolution can take in")
        following = self._view.sole_reader(op.output)
        end = following if following is not None and following.kind in MERGED_INTO_NORMS else op
        values = math.prod(shape[1:])
        spec = OperationSpec(
            kind="depthwise_conv",
            read_values=values,
            written_values=values,
            macs=values,
            weight_values=2 * shape[1],
            span=1,
            channels=shape[1],
        )
        self._take(op.name, spec, dict.fromkeys((op.output, end.output)))
        self._merged.add(end.output)
        self._owner[op.output] = self._owner[end.output] = op.name

    def _sum(self, op: Op) -> None:
        if len(op.roots) == 1:
            self._with_constant(op)
            return
        shapes = [self._view.shape(name) for name in op.inputs]
        if len(shapes[0]) != IMAGE_RANK or shapes[0] != shapes[1]:
            raise _NoLayerError(f"adds {' and '.join(map(_by, shapes))}")
        for root, other in (op.roots, op.roots[::-1]):
            layer = self._open(root)
            if layer is not None and layer.op == "conv" and not layer.residual and root != other:
                layer.residual = True
                layer.inputs.append(self._owner.get(other, other))
                self._extend(layer, op)
                return
        if op.roots[0] == op.roots[1]:
            raise _NoLayerError("adds a tensor to itself")
        self._begin(op, "add", _same_size(shapes[0]))

    def _product(self, op: Op) -> None:
        if len(op.roots) == 1:
            self._with_constant(op)
            return
        shapes = [self._view.shape(root) for root in op.roots]
        for (shape, factor), order in ((shapes, 1), (shapes[::-1], -1)):
            if len(shape) == IMAGE_RANK and factor in (shape[:2], (*shape[:2], 1, 1)):
                self._begin(op, "scale", _same_size(shape), roots=op.roots[::order])
                return
        raise _NoLayerError(f"multiplies {' and '.join(map(_by, shapes))}")

    def _with_constant(self, op: Op) -> None:
        layer, constant = self._open(op.roots[0]), next(name for name in op.inputs if name in self._view.constants)
        if layer is None or layer.op == "add" or layer.residual or op.inputs[0] == constant:
            raise _NoLayerError(f"{op.kind} of a constant follows no convolution")
        values, channels = math.prod(self._view.shape(constant)), layer.shape["out_channels"]
        if values > channels or (op.kind == "Add" and values < channels):
            raise _NoLayerError(f"{op.kind} of a constant of {values} values")
        layer.bias = layer.bias or op.kind == "Add"
        self._extend(layer, op)

    # --- activations --------------------------------------------------------------------------------------------------

    def _activation(self, op: Op) -> None:
        if len(op.roots) != 1:
            raise _NoLayerError(f"{op.kind} has bounds that are computed")
        root, gated = op.roots[0], self._gated(op)
        layer = self._open(root, readers=1 if gated is None else 2)
        if gated is not None:
            self._merged.add(gated.output)
            if layer is None:
                self._stand_alone(op, "", kind="QuickGelu", last=gated)
            else:
                layer.activation = "silu"
                self._extend(layer, op, gated)
            return
        requantised = op.kind in CLIPS and op.inputs[0] in self._view.quantised
        after_sum = layer is not None and layer.residual and op.kind in NOT_AFTER_SUMS
        if layer is None or requantised or after_sum:
            raise _NoLayerError(f"{op.kind} follows no convolution that could take it in")
        layer.activation = ACTIVATIONS[op.kind]
        if op.kind in MERGED_ALIKE:
            self._notes.append(f"{op.name}: {op.kind} is merged into its layer as {layer.activation} would be")
        self._extend(layer, op)

    def _gated(self, op: Op) -> Op | None:
        """Return the multiplication of ``x * sigmoid(x)``, where this operation is the gate."""
        if op.kind != "Sigmoid":
            return None
        product = self._view.sole_reader(op.output)
        gates = product is not None and product.kind == "Mul" and set(product.roots) == {op.roots[0], op.output}
        return product if gates else None


def _by(sizes: Shape) -> str:
    """Return sizes in words, such as ``3x3``."""
    return "x".join(map(str, sizes))


def _same_size(shape: Shape) -> dict[str, int]:
    """Return channels and pixels of a layer that reads an image and keeps its channels."""
    return {"in_channels": shape[1], "out_channels": shape[1], "height": shape[2], "width": shape[3]}


def _pixels(pixels: int, out: int, kernel: int, stride: int) -> int:
    """Return the side nearest to `pixels` from which a window padded as ours are returns `out`."""
    padding = kernel // 2 if kernel % 2 else 0
    least = (out - 1) * stride + kernel - 2 * padding
    return min(max(pixels, least), least + stride - 1)
