"""Walks over any ONNX graph and returns the layers a runtime makes of it, and what it cannot tell. Layer 3.

The rules are those by which ONNX Runtime merges operations on the CPU (1.32, observed in its optimised graphs): batch
norm, constants, one residual sum and one activation go into the convolution before them, if nothing else reads what
lies between. Two passes: the first looks through views, quantisation pairs and arithmetic on shapes; the second walks
the rest in order, and each operation either begins a layer, is merged into one, or is listed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import TensorProto, helper, numpy_helper, shape_inference

from deepmad_hw.errors import ConfigError, NotCoveredError
from deepmad_hw.exporters.onnx_loader import TensorKind
from deepmad_hw.exporters.onnx_operations import Sized, operation_of
from deepmad_hw.network import costs
from deepmad_hw.network.layer import CHANNEL_BLOCK, IMAGE, LayerSpec, Node, OperationSpec

Shape = tuple[int, ...]

# Views of their first input: nothing is computed, whatever they are called.
VIEWS = frozenset({"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"})
# Changes between floats and bytes, which the runtime merges into an operation that has a kernel on bytes.
FORMATS = frozenset({"QuantizeLinear", "DequantizeLinear"})
INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})
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
MERGED_ALIKE = {"LeakyRelu": "relu", "Tanh": "sigmoid"}
CLIPS = frozenset({"Relu", "Clip", "LeakyRelu"})  # merged before bytes are made, not after
MERGED_INTO_NORMS = frozenset({"Relu", "Sigmoid", "HardSigmoid", "HardSwish"})
NOT_AFTER_SUMS = frozenset({"Clip", "LeakyRelu"})
WINDOWS = frozenset({"Conv", "AveragePool", "MaxPool"})  # a padding before them is merged into them
POOLS = {"MaxPool": "max_pool", "AveragePool": "avg_pool"}
ACTIVATED = ("conv", "linear", "add")  # the layers that an activation is merged into
IMAGE_RANK = 4
PAD_INPUTS = 3  # of a padding whose value is given


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """An operation that is no layer of a block family, at its place in a network.

    Args:
        name: unique in the network.
        spec: its amounts of work.
    """

    name: str
    spec: OperationSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk:
    """What a graph is made of.

    Args:
        nodes: its layers in execution order; a layer that reads something else names that operation.
        operations: what is no layer of a block family, but known by its amounts of work.
        uncovered: ``name: reason`` of each operation that neither stands for.
        notes: what is left out, or stands for something that is only nearly the same.
        precision: ``fp32``, ``fp16`` or ``int8``.
        members: for each layer and operation the tensors that its operations make, the last one's last.
        batch: images that it takes at once.
    """

    nodes: tuple[Node, ...]
    operations: tuple[Operation, ...] = ()
    uncovered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    precision: str = "fp32"
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    batch: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Op:
    """An operation with its inputs as written, and as what they are views of."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    roots: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def output(self) -> str:
        """Return the tensor that stands for the operation."""
        return self.outputs[0]


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
    return _Walker(_View(model, _inferred(model) if tensors is None else tensors)).walk()


class _View:
    """The first pass: a model as operations on feature maps, everything else looked through."""

    def __init__(self, model: Any, tensors: Mapping[str, TensorKind]) -> None:
        graph = model.graph
        self._types = {name: kind.value_type for name, kind in tensors.items()}
        self._shapes = {name: kind.shape for name, kind in tensors.items()}
        self._shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self.constants = {tensor.name for tensor in graph.initializer}
        self.images = [info.name for info in graph.input if info.name not in self.constants]
        self._root: dict[str, str] = {}
        self._forms: dict[str, list[str]] = defaultdict(list)
        self._read_by: dict[str, set[str]] = defaultdict(set)  # kinds of operations, by tensor
        for node in graph.node:
            for name in node.input:
                self._read_by[name].add(node.op_type)
        self.quantised: set[str] = set()  # tensors that int8 values were turned into
        self.clipped: set[str] = set()  # tensors that are turned into int8 values from zero up
        self._zeros = {tensor.name for tensor in graph.initializer if _is_zero(tensor)}
        self._zero_bytes = {
            tensor.name
            for tensor in graph.initializer
            if tensor.data_type == TensorProto.UINT8 and tensor.name in self._zeros
        }
        self.ops = [op for node in graph.node for op in self._seen(node)]
        self.readers: dict[str, list[_Op]] = defaultdict(list)
        for op in self.ops:
            for root in dict.fromkeys(op.roots):
                self.readers[root].append(op)
        self.outputs = {self.root(info.name) for info in graph.output}

    @property
    def batch(self) -> int:
        """Return how many images it takes at once: the first size of its first input of four dimensions."""
        shapes = (self.shape(name) for name in self.images)
        return max(1, next((shape[0] for shape in shapes if len(shape) == IMAGE_RANK), 1))

    def root(self, tensor: str) -> str:
        """Return what a tensor is a view of."""
        return self._root.get(tensor, tensor)

    def forms(self, tensor: str) -> tuple[str, ...]:
        """Return a tensor and the same values as bytes and floats again."""
        return (tensor, *self._forms[tensor])

    def shape(self, tensor: str) -> Shape:
        """Return a tensor's shape, empty where it is not known."""
        return self._shapes.get(tensor, ())

    def value_type(self, tensor: str) -> int:
        """Return the type of a tensor's values as in `onnx.TensorProto`; bytes where floats were made of them."""
        return int(TensorProto.INT8 if tensor in self.quantised else self._types.get(tensor, TensorProto.FLOAT))

    def is_half(self, tensor: str) -> bool:
        """Return whether a tensor holds 16-bit floats."""
        return self._types.get(tensor) in (TensorProto.FLOAT16, TensorProto.BFLOAT16)

    def sole_reader(self, tensor: str) -> _Op | None:
        """Return the one operation that reads a tensor; None where there are more, or where it leaves the network."""
        found = self.readers[tensor]
        return found[0] if len(found) == 1 and tensor not in self.outputs else None

    def _seen(self, node: Any) -> Iterator[_Op]:
        inputs = tuple(name for name in node.input if name)
        outputs = [name for name in node.output if name]
        if node.op_type == "DequantizeLinear":
            self.quantised.add(outputs[0])
        if node.op_type == "QuantizeLinear" and set(inputs[2:]) <= self._zero_bytes:
            self.clipped.add(self.root(inputs[0]))
        from_constants = bool(inputs) and all(name in self.constants for name in inputs)
        if node.op_type == "Constant" or from_constants or self._counts_only(outputs):
            self.constants.update(outputs)
        elif self._is_view(node, inputs, outputs[0]):
            self._root[outputs[0]] = self.root(inputs[0])
            if node.op_type in FORMATS:
                self._forms[self.root(inputs[0])].append(outputs[0])
            if inputs[0] in self.quantised:
                self.quantised.add(outputs[0])
        else:
            yield _Op(
                name=node.name or outputs[0],
                kind=node.op_type if not node.domain else f"{node.domain}.{node.op_type}",
                inputs=inputs,
                roots=tuple(self.root(name) for name in inputs if name not in self.constants),
                outputs=tuple(outputs),
                attributes={item.name: helper.get_attribute_value(item) for item in node.attribute},
            )

    def _counts_only(self, outputs: Sequence[str]) -> bool:
        """Return whether only shapes are computed here: whole numbers, a handful of them."""
        whole = all(self._types.get(name) in INTEGERS for name in outputs)
        return whole and all(len(self.shape(name)) <= 1 for name in outputs)

    def _is_view(self, node: Any, inputs: Sequence[str], output: str) -> bool:
        if node.op_type in VIEWS | FORMATS:
            return True
        same_channels = self.shape(inputs[0])[:2] == self.shape(output)[:2]
        said = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        with_zeros = said.get("mode", b"constant") == b"constant" and not said.get("value", 0.0)
        with_zeros = with_zeros and (len(inputs) < PAD_INPUTS or inputs[2] in self._zeros)
        return node.op_type == "Pad" and with_zeros and same_channels and self._read_by[output] <= WINDOWS


def _is_zero(tensor: Any) -> bool:
    stored = tensor.raw_data or tensor.float_data or tensor.int32_data  # a weight may be a shape alone
    return tuple(tensor.dims) in ((), (1,)) and bool(stored) and not numpy_helper.to_array(tensor).any()


def _inferred(model: Any) -> dict[str, TensorKind]:
    """Return size and type of all tensors by inference, for one image where the batch is free."""
    copy = type(model)()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    weights = {tensor.name for tensor in copy.graph.initializer}
    for info in copy.graph.input:
        sizes = info.type.tensor_type.shape.dim
        if info.name not in weights and sizes and not sizes[0].dim_value:
            sizes[0].dim_value = 1
    for info in copy.graph.output:
        info.type.tensor_type.ClearField("shape")
    try:
        graph = shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True).graph
    except shape_inference.InferenceError as error:
        reason = " ".join(str(error).split())
        raise NotCoveredError(f"its shapes do not meet: {reason}", where=model.graph.name) from error
    kinds = {info.name: info.type.tensor_type for info in (*graph.input, *graph.value_info, *graph.output)}
    return {
        name: TensorKind(value_type=kind.elem_type, shape=tuple(size.dim_value for size in kind.shape.dim))
        for name, kind in kinds.items()
    }


class _Walker:
    """The second pass: layers, and what is none."""

    def __init__(self, view: _View) -> None:
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
            self._operations.append(Operation(name=layer.name, spec=spec))
            self._members[layer.name] = tuple(layer.members)
            self._begun.remove(layer)

    def _let_clip(self) -> None:
        """Give back the activations that a quantiser has left out, because its whole numbers begin at zero anyway."""
        for layer in self._begun:
            within = layer.tensor in self._view.clipped - self._view.outputs
            if within and layer.activation == "none" and layer.op in ACTIVATED:
                layer.activation = "relu"

    def _visit(self, op: _Op) -> None:
        steps: Mapping[str, Callable[[_Op], str | None]] = {
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
        reason = f"{op.kind} is no layer that tables hold" if step is None else step(op)
        if reason is not None:
            self._stand_alone(op, reason)

    def _stand_alone(self, op: _Op, reason: str, *, kind: str | None = None, last: _Op | None = None) -> None:
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
            self._operations.append(Operation(name=op.name, spec=spec))
            self._members[op.name] = end.outputs if last is None else (op.output, *end.outputs)
        elif 0 < values <= NEGLIGIBLE_VALUES and all(written):
            self._notes.append(f"{op.name}: {op.kind} over {values} values is left out as negligible")
        else:
            self._uncovered.append(f"{op.name}: {reason}")

    # --- operations that begin a layer --------------------------------------------------------------------------------

    def _conv(self, op: _Op) -> str | None:
        shape, weight = self._view.shape(op.roots[0]), self._view.shape(op.inputs[1])
        if len(shape) != IMAGE_RANK or len(weight) != IMAGE_RANK:
            return f"convolves {len(shape) - 2} dimensions, not 2"
        if op.roots != (self._view.root(op.inputs[0]),):
            return "has weights that are computed"
        if set(op.attributes.get("dilations", (1,))) != {1}:
            return f"is dilated by {max(op.attributes['dilations'])}"
        window = self._window(op, weight[2:], shape)
        if isinstance(window, str):
            return window
        groups = int(op.attributes.get("group", 1))
        self._begin(op, "conv", {**window, "out_channels": weight[0], "groups": groups}, weighted=True)
        self._layers[op.output].bias = len(op.inputs) > 2  # image, weight, bias
        return None

    def _pool(self, op: _Op) -> str | None:
        shape, kernel = self._view.shape(op.roots[0]), tuple(op.attributes.get("kernel_shape", ()))
        if len(shape) != IMAGE_RANK:
            return f"pools {len(shape) - 2} dimensions, not 2"
        halves = kernel == tuple(op.attributes.get("strides", ())) == (2, 2)  # a shortcut's, on whatever map
        if op.kind == "AveragePool" and kernel == shape[2:] and not halves:
            return self._global_pool(op)
        window = self._window(op, kernel, shape)
        if isinstance(window, str):
            return window
        self._begin(op, POOLS[op.kind], {**window, "out_channels": shape[1]})
        return None

    def _window(self, op: _Op, kernel: Shape, shape: Shape) -> dict[str, int] | str:
        """Return channels, pixels, kernel and stride of a window, or why there is no such layer."""
        strides = tuple(op.attributes.get("strides", (1, 1)))
        if len(set(kernel)) != 1 or len(set(strides)) != 1:
            return f"has a window of {'x'.join(map(str, kernel))} in steps of {'x'.join(map(str, strides))}"
        size, stride = kernel[0], strides[0]
        wanted = self._view.shape(op.output)[2:]
        if len(wanted) != len(shape[2:]):
            return f"makes {2 + len(wanted)} dimensions of {len(shape)}"
        height, width = (_pixels(pixels, out, size, stride) for pixels, out in zip(shape[2:], wanted, strict=True))
        if min(height, width) < 1:
            return f"pads {'x'.join(map(str, shape[2:]))} pixels more than tables do"
        if (height, width) != shape[2:]:
            self._notes.append(f"{op.name}: is padded otherwise, counted as {height}x{width} pixels")
        return {"in_channels": shape[1], "height": height, "width": width, "kernel": size, "stride": stride}

    def _global_pool(self, op: _Op) -> str | None:
        shape, out = self._view.shape(op.roots[0]), self._view.shape(op.output)
        if len(shape) != IMAGE_RANK or out[1:] not in ((shape[1],), (shape[1], 1, 1)):
            return f"{op.kind} from {'x'.join(map(str, shape))} to {'x'.join(map(str, out))} is no pooling of a map"
        channels = {"in_channels": shape[1], "out_channels": shape[1]}
        self._begin(op, "global_pool", {**channels, "height": shape[2], "width": shape[3]})
        return None

    def _linear(self, op: _Op) -> str | None:
        shape, weight, out = (self._view.shape(name) for name in (*op.inputs[:2], op.output))
        if op.roots != (self._view.root(op.inputs[0]),):
            return "has weights that are computed"
        if len(shape) != 2 or len(weight) != 2:  # batch and channels
            return f"multiplies a tensor of {len(shape)} dimensions"
        if shape[0] != (self._view.batch or 1):  # of tokens, or pixels
            return f"multiplies {shape[0]} rows, not one for each image"
        channels = {"in_channels": shape[1], "out_channels": out[1]}
        self._begin(op, "linear", {**channels, "height": 1, "width": 1}, weighted=True)
        self._layers[op.output].bias = len(op.inputs) > 2  # image, weight, bias
        return None

    def _begin(self, op: _Op, kind: str, shape: dict[str, int], *, weighted: bool = False) -> None:
        inputs = [self._owner.get(root, root) for root in op.roots]
        layer = _Layer(name=op.name, op=kind, shape=shape, inputs=inputs, tensor=op.output, members=[op.output])
        self._begun.append(layer)
        self._layers[op.output] = layer
        self._owner[op.output] = layer.name
        if weighted:
            half, whole = self._view.is_half(op.inputs[0]), op.inputs[0] in self._view.quantised
            self._formats["int8" if whole else "fp16" if half else "fp32"].append(layer.name)
            if op.inputs[1] in self._view.quantised and not whole:
                self._dequantise(op.inputs[1], of=op)

    def _dequantise(self, weight: str, *, of: _Op) -> None:
        """Take the making of floats from a weight that is kept in bytes: the runtime does it in every run."""
        values = math.prod(self._view.shape(weight))
        spec = OperationSpec(kind="dequantize", value_type="int8", read_values=values, written_values=values)
        name = f"{of.name}.weight"
        self._operations.append(Operation(name=name, spec=spec))
        self._members[name] = (weight,)

    # --- operations that are merged into a layer ----------------------------------------------------------------------

    def _open(self, tensor: str, *, readers: int = 1) -> _Layer | None:
        """Return the layer that ends at a tensor, if it has no activation yet and so many operations read it."""
        layer = self._layers.get(tensor)
        if layer is None or layer.activation != "none" or layer.op not in ACTIVATED:
            return None
        return layer if len(self._view.readers[tensor]) == readers and tensor not in self._view.outputs else None

    def _extend(self, layer: _Layer, *ops: _Op) -> None:
        """Let a layer end where the last of some operations does."""
        self._merged.update(op.output for op in ops)
        layer.members.extend(op.output for op in ops)
        del self._layers[layer.tensor]
        layer.tensor = ops[-1].output
        self._layers[layer.tensor] = layer
        self._owner[layer.tensor] = layer.name

    def _norm(self, op: _Op) -> str | None:
        layer = self._open(op.roots[0])
        if layer is None or layer.op != "conv" or layer.residual:
            return self._lone_norm(op)
        layer.norm = True
        self._extend(layer, op)
        return None

    def _lone_norm(self, op: _Op) -> str | None:
        """Take a norm that follows no convolution as the depthwise 1x1 convolution that the runtime makes of it."""
        shape = self._view.shape(op.roots[0])
        if len(shape) != IMAGE_RANK or shape[1] % CHANNEL_BLOCK:
            return "is a batch norm that no convolution can take in"
        following = self._view.sole_reader(op.output)
        merged = following if following is not None and following.kind in MERGED_INTO_NORMS else None
        end = op if merged is None else merged
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
        self._operations.append(Operation(name=op.name, spec=spec))
        self._members[op.name] = tuple(dict.fromkeys((op.output, end.output)))
        self._merged.add(end.output)
        self._owner[op.output] = self._owner[end.output] = op.name
        return None

    def _sum(self, op: _Op) -> str | None:
        if len(op.roots) == 1:
            return self._with_constant(op)
        shapes = [self._view.shape(name) for name in op.inputs]
        if len(shapes[0]) != IMAGE_RANK or shapes[0] != shapes[1]:
            return f"adds {' and '.join('x'.join(map(str, shape)) for shape in shapes)}"
        for root, other in (op.roots, op.roots[::-1]):
            layer = self._open(root)
            if layer is not None and layer.op == "conv" and not layer.residual and root != other:
                layer.residual = True
                layer.inputs.append(self._owner.get(other, other))
                self._extend(layer, op)
                return None
        _, channels, height, width = shapes[0]
        if op.roots[0] == op.roots[1]:
            return "adds a tensor to itself"
        sizes = {"in_channels": channels, "out_channels": channels, "height": height, "width": width}
        self._begin(op, "add", sizes)
        return None

    def _product(self, op: _Op) -> str | None:
        if len(op.roots) == 1:
            return self._with_constant(op)
        shapes = [self._view.shape(root) for root in op.roots]
        for (shape, factor), order in ((shapes, 1), (shapes[::-1], -1)):
            if len(shape) == IMAGE_RANK and factor in (shape[:2], (*shape[:2], 1, 1)):
                sizes = {"in_channels": shape[1], "out_channels": shape[1], "height": shape[2], "width": shape[3]}
                self._begin(op, "scale", sizes)
                self._layers[op.output].inputs = [self._owner.get(root, root) for root in op.roots[::order]]
                return None
        return f"multiplies {' and '.join('x'.join(map(str, shape)) for shape in shapes)}"

    def _with_constant(self, op: _Op) -> str | None:
        layer, constant = self._open(op.roots[0]), next(name for name in op.inputs if name in self._view.constants)
        if layer is None or layer.op == "add" or layer.residual or op.inputs[0] == constant:
            return f"{op.kind} of a constant follows no convolution"
        if op.kind == "Add" and math.prod(self._view.shape(constant)) != layer.shape["out_channels"]:
            return f"Add of a constant of {math.prod(self._view.shape(constant))} values"
        if math.prod(self._view.shape(constant)) > layer.shape["out_channels"]:
            return f"{op.kind} of a constant of {math.prod(self._view.shape(constant))} values"
        layer.bias = layer.bias or op.kind == "Add"
        self._extend(layer, op)
        return None

    # --- activations --------------------------------------------------------------------------------------------------

    def _activation(self, op: _Op) -> str | None:
        if len(op.roots) != 1:
            return f"{op.kind} has bounds that are computed"
        root, gated = op.roots[0], self._gated(op)
        layer = self._open(root, readers=1 if gated is None else 2)
        if gated is not None:
            self._merged.add(gated.output)
            if layer is None:
                self._stand_alone(op, "", kind="QuickGelu", last=gated)
            else:
                layer.activation = "silu"
                self._extend(layer, op, gated)
            return None
        requantised = op.kind in CLIPS and op.inputs[0] in self._view.quantised
        after_sum = layer is not None and layer.residual and op.kind in NOT_AFTER_SUMS
        if layer is None or requantised or after_sum:
            return f"{op.kind} follows no convolution that could take it in"
        layer.activation = ACTIVATIONS[op.kind]
        if op.kind in MERGED_ALIKE:
            self._notes.append(f"{op.name}: {op.kind} is merged into its layer as {MERGED_ALIKE[op.kind]} would be")
        self._extend(layer, op)
        return None

    def _gated(self, op: _Op) -> _Op | None:
        """Return the multiplication of ``x * sigmoid(x)``, where this operation is the gate."""
        if op.kind != "Sigmoid":
            return None
        product = self._view.sole_reader(op.output)
        found = product is not None and product.kind == "Mul" and set(product.roots) == {op.roots[0], op.output}
        return product if found else None


def _pixels(pixels: int, out: int, kernel: int, stride: int) -> int:
    """Return the side nearest to `pixels` from which a window padded as ours are returns `out`."""
    padding = kernel // 2 if kernel % 2 else 0
    least = (out - 1) * stride + kernel - 2 * padding
    return min(max(pixels, least), least + stride - 1)
