"""Networks of operations outside the block families, to be timed one by one inside a running network. Layer 3.

Each network holds every kind of operation about once, at one size of image and at widths of its own, between cheap
convolutions, so that layouts change where they would in a real network. What a runtime merges into a neighbour, such
as an activation into the convolution before it, stands behind something else here. The layout changes themselves are
planned as ``<reader>.reorder``: the reader is the operation that needs the other layout.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, shape_inference

from deepmad_hw.exporters.onnx_graph import IR_VERSION, TensorSource
from deepmad_hw.exporters.weights import Shape
from deepmad_hw.layer import IMAGE, OperationNode, OperationSpec

OPSET = 21  # the first with a GroupNormalization that can be used
RUNTIMES = ("onnxruntime", "replay")  # those that read the files, and join times to operations
PRECISIONS = ("fp32",)
SIDES = (28, 56, 14, 112, 7, 80, 40, 20, 160, 10)  # pixels; any first few of them span the range
NECK = 16  # channels between two groups of operations: few, so that the convolutions there are cheap
CHANNELS = (16, 512)
UNEVEN_SHARE = 0.2  # of widths that are no multiple of 16
LARGEST_VALUES = 2_000_000  # of one tensor
SLOW_VALUES = 400_000  # of one tensor that an operation of several nanoseconds a value reads
LARGEST_MACS = 60_000_000
MOST_TIMES, PIXELS_OF_ONCE = 3, 90  # small images are quick, so networks on them hold every kind several times
LARGEST_TOKENS = 800
HEAD_WIDTH = 32  # of attention
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationProbe:
    """One network of operations.

    Args:
        name: unique in a plan.
        side: of its image, in pixels.
        seed: of its widths.
    """

    name: str
    side: int
    seed: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of the image."""
        return (NECK, self.side, self.side)


def operation_probes(count: int, *, seed: int = 0) -> list[OperationProbe]:
    """Return networks that together show every kind of operation over a range of sizes.

    Args:
        count: how many.
        seed: of the widths.
    """
    return [
        OperationProbe(name=f"operations{index:02}", side=SIDES[index % len(SIDES)], seed=seed * 1000 + index)
        for index in range(count)
    ]


@functools.cache
def operations(probe: OperationProbe) -> tuple[OperationNode, ...]:
    """Return what is timed in a network, in execution order, for one image.

    Args:
        probe: the network.
    """
    network = _built(probe, _shape_only, batch=1)
    inferred = shape_inference.infer_shapes(network.model(probe), data_prop=True, strict_mode=True).graph
    shapes = {value.name: _shape(value) for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    constants = {tensor.name: tensor for tensor in inferred.initializer}
    found = []
    for node in inferred.node:
        if node.name in network.reorders:
            values = int(np.prod(shapes[node.input[0]]))
            spec = OperationSpec(kind="reorder", read_values=values, written_values=values)
            found.append(OperationNode(name=f"{node.name}.reorder", spec=spec))
        if node.name in network.kinds:
            spec = _spec(network.kinds[node.name], network.parts.get(node.name, [node]), shapes, constants)
            found.append(OperationNode(name=node.name, spec=spec))
    return tuple(found)


def operation_model(probe: OperationProbe, tensor: TensorSource, *, batch: int = 1) -> Any:
    """Return a network as an `onnx.ModelProto`.

    Args:
        probe: the network.
        tensor: gives the weights of convolutions and products, so that they may lie in a shared file.
        batch: images at once.
    """
    return _built(probe, tensor, batch=batch).model(probe)


@functools.cache
def weight_shapes(probe: OperationProbe) -> tuple[Shape, ...]:
    """Return the shapes of the weights that a network takes from the plan's file.

    Args:
        probe: the network.
    """
    found: list[Shape] = []

    def tensor(name: str, shape: Shape) -> Any:
        found.append(shape)
        return _shape_only(name, shape)

    _built(probe, tensor, batch=1)
    return tuple(found)


def _shape_only(name: str, shape: Shape) -> Any:
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)


def _shape(value: Any) -> Shape:
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)


def _spec(kind: str, nodes: Sequence[Any], shapes: dict[str, Shape], constants: dict[str, Any]) -> OperationSpec:
    """Return the amounts of an operation, which one ONNX node or several are."""
    inside = {output for node in nodes for output in node.output}
    read = dict.fromkeys(name for node in nodes for name in node.input if name in shapes and name not in inside)
    floats = [
        constants[name]
        for node in nodes
        for name in node.input
        if name in constants and constants[name].data_type == TensorProto.FLOAT and node.op_type != "Resize"
    ]
    node = nodes[-1]
    written = sum(int(np.prod(shapes[output])) for output in node.output)
    return OperationSpec(
        kind=kind,
        read_values=sum(int(np.prod(shapes[name])) for name in read),
        written_values=written,
        macs=_macs(node, written, shapes, constants),
        weight_values=sum(int(np.prod(tensor.dims)) for tensor in floats),
    )


def _macs(node: Any, written: int, shapes: dict[str, Shape], constants: dict[str, Any]) -> int:
    """Return multiply-adds; for pooling, values that its windows visit."""
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "MatMul":
        return written * shapes[node.input[0]][-1]
    if node.op_type in _CONVOLUTIONS:
        weights = int(np.prod(constants[node.input[1]].dims))
        output = shapes[node.output[0]] if node.op_type == "Conv" else shapes[node.input[0]]
        return weights * output[2] * output[3]
    if node.op_type.startswith("Global"):
        return int(np.prod(shapes[node.input[0]]))
    return written * int(np.prod(attributes["kernel_shape"])) if "kernel_shape" in attributes else 0


@dataclass(kw_only=True)
class _Network:
    """An ONNX network that grows node by node.

    Attributes:
        kinds: of the nodes that are timed, by their names.
        parts: the nodes that together are one operation, by the name of the last.
        reorders: nodes before which the layout may change.
        ends: outputs of the network besides the last tensor.
        source: tensor of the neck's width that the next operations begin with.
        told: shapes that nobody infers.
    """

    side: int
    batch: int
    tensor: TensorSource
    random: np.random.Generator
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[Any]] = field(default_factory=dict)
    reorders: set[str] = field(default_factory=set)
    ends: list[str] = field(default_factory=list)
    source: str = IMAGE
    told: list[Any] = field(default_factory=list)

    def model(self, probe: OperationProbe) -> Any:
        image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, (self.batch, *probe.input_shape))
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*self.ends, self.source)]
        graph = helper.make_graph(self.nodes, probe.name, [image], ends, self.constants, value_info=self.told)
        return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])

    def channels(
        self,
        *,
        values: int = LARGEST_VALUES,
        macs_per_pixel: Callable[[int], int] | None = None,
        multiple: int | None = None,
    ) -> int:
        """Return a width, spread evenly over orders of magnitude as far as tensors and work stay small enough."""
        low, high = CHANNELS
        high = max(low, min(high, values // self.side**2))
        while macs_per_pixel is not None and high > low and macs_per_pixel(high) * self.side**2 > LARGEST_MACS:
            high -= NECK
        drawn = float(np.exp(self.random.uniform(np.log(low), np.log(max(high, low)))))
        step = multiple or (4 if self.random.random() < UNEVEN_SHARE else NECK)
        return max(low, step, round(drawn / step) * step)

    def conv(self, source: str, inside: int, outside: int, kernel: int = 1, **attributes: Any) -> str:
        """Return a convolution that is not timed."""
        return self.add(None, "Conv", source, *self._kernel(inside, outside, (kernel, kernel), 1), **attributes)

    def widened(self, channels: int) -> str:
        """Return the network's image brought to a width."""
        return self.conv(self.source, NECK, channels)

    def narrowed(self, source: str, channels: int, *, ends: bool = False) -> None:
        """Bring a tensor back to the width of the neck: the next operations' source, or an output of the network."""
        name = self.conv(source, channels, NECK)
        self.reorders.add(name)
        if ends:
            self.ends.append(name)
        else:
            self.source = name

    def add(self, kind: str | None, operation: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return its tensor; a kind has it timed, under the tensor's name."""
        name = f"{kind or 'other'}{len(self.nodes)}"
        if kind is not None:
            self.kinds[name] = kind
            if self._made_by(inputs[0]) == "Conv":
                self.reorders.add(name)
        self.nodes.append(helper.make_node(operation, inputs, [name], name=name, **attributes))
        return name

    def _made_by(self, name: str) -> str:
        return next((node.op_type for node in reversed(self.nodes) if name in node.output), "")

    def weighted(
        self, kind: str, source: str, inside: int, outside: int, kernel: tuple[int, int], **attributes: Any
    ) -> str:
        """Add a convolution of a kind that is timed."""
        groups = attributes.get("group", 1)
        return self.add(kind, "Conv", source, *self._kernel(inside, outside, kernel, groups), **attributes)

    def _kernel(self, inside: int, outside: int, kernel: tuple[int, int], groups: int) -> tuple[str, str]:
        return self.shared((outside, inside // groups, *kernel)), self.shared((outside,))

    def shared(self, shape: Shape) -> str:
        """Return a constant whose values may lie in the plan's file of weights."""
        self.constants.append(self.tensor(f"weight{len(self.constants)}", shape))
        return str(self.constants[-1].name)

    def constant(self, values: Any) -> str:
        """Return a small constant."""
        array = np.array(values, dtype=np.int64 if np.array(values).dtype.kind == "i" else np.float32)
        self.constants.append(numpy_helper.from_array(array, f"constant{len(self.constants)}"))
        return str(self.constants[-1].name)

    def factors(self, *shape: int) -> str:
        """Return a constant of values near 1."""
        return self.constant(1 + 0.1 * self.random.random(shape, dtype=np.float32))


def _built(probe: OperationProbe, tensor: TensorSource, *, batch: int) -> _Network:
    network = _Network(side=probe.side, batch=batch, tensor=tensor, random=np.random.default_rng(probe.seed))
    _group_norm(network)
    for group in _GROUPS * max(1, min(MOST_TIMES, PIXELS_OF_ONCE // probe.side)):
        group(network)
    return network


def _group_norm(net: _Network) -> None:
    # First of all: where a runtime takes it apart, some of the parts have no input and run before everything.
    channels = net.channels(multiple=16)
    parameters = net.factors(channels), net.factors(channels)
    source = net.add("exp", "Exp", net.widened(channels))
    normed = net.add("group_norm", "GroupNormalization", source, *parameters, num_groups=8)
    shape = (net.batch, channels, net.side, net.side)
    net.told.append(helper.make_tensor_value_info(normed, TensorProto.FLOAT, shape))
    net.narrowed(normed, channels)


def _unary(net: _Network) -> None:
    channels = net.channels()
    at = net.add("exp", "Exp", net.widened(channels))
    for kind, operation in (
        ("sqrt", "Sqrt"),
        ("reciprocal", "Reciprocal"),
        ("log", "Log"),
        ("tanh", "Tanh"),
        ("neg", "Neg"),
        ("elu", "Elu"),
        ("erf", "Erf"),
        ("abs", "Abs"),
        ("sigmoid", "Sigmoid"),
        ("hardsigmoid", "HardSigmoid"),
        ("gelu", "Gelu"),
        ("relu", "Relu"),
        ("leaky_relu", "LeakyRelu"),
        ("hardswish", "HardSwish"),
        ("other_unary", "Floor"),
        ("other_unary", "Sign"),
    ):
        at = net.add(kind, operation, at)
    at = net.add("clip", "Clip", at, net.constant(-1.0), net.constant(3.0))
    net.narrowed(net.add("pow", "Pow", at, net.constant(2.0)), channels)


def _slow_unary(net: _Network) -> None:
    channels = net.channels(values=SLOW_VALUES)
    at = net.add("exp", "Exp", net.widened(channels))
    at = net.add("pow", "Pow", at, net.constant(3.0))
    at = net.add("softplus", "Softplus", at)
    at = net.add("mish", "Mish", at)
    at = net.add("prelu", "PRelu", at, net.factors(channels, 1, 1))
    net.narrowed(net.add("softmax", "Softmax", at, axis=-1), channels)


def _silu(net: _Network, source: str) -> str:
    """Add the pair of nodes that runtimes take for one."""
    name = f"silu{len(net.nodes)}"
    pair = [
        helper.make_node("Sigmoid", [source], [f"{name}.sigmoid"], name=f"{name}.sigmoid"),
        helper.make_node("Mul", [source, f"{name}.sigmoid"], [name], name=name),
    ]
    net.nodes += pair
    net.kinds[name], net.parts[name] = "silu", pair
    return name


def _blocked(net: _Network) -> None:
    """Add what has kernels in the layout of convolutions, at widths that these take."""
    channels = net.channels(multiple=16)
    source = net.widened(channels)
    pooled = net.add("max_pool", "MaxPool", source, kernel_shape=[3, 3], pads=[1] * 4)
    at = _silu(net, source)
    at = net.add("mul", "Mul", at, pooled)
    at = net.add("sigmoid", "Sigmoid", at)
    at = net.add("gelu", "Gelu", at)
    at = net.add("add", "Add", at, pooled)
    at = net.add("avg_pool", "AveragePool", at, kernel_shape=[3, 3], pads=[1] * 4)
    at = net.add("relu", "Relu", at)
    at = net.add("avg_pool", "AveragePool", at, kernel_shape=[5, 5], pads=[2] * 4)
    at = net.add("batch_norm", "BatchNormalization", at, *(net.factors(channels) for _ in range(4)))
    net.narrowed(net.add("max_pool", "MaxPool", at, kernel_shape=[5, 5], pads=[2] * 4), channels)
    small = net.add("max_pool", "MaxPool", source, kernel_shape=[2, 2], strides=[2, 2])
    net.narrowed(small, channels, ends=True)


def _joined(net: _Network) -> None:
    channels = net.channels(values=LARGEST_VALUES // 2, multiple=16)
    both = net.add("concat", "Concat", net.widened(channels), net.widened(channels), axis=1)
    pooled = net.add(None, "MaxPool", both, kernel_shape=[1, 1])
    name = f"split{len(net.nodes)}"
    halves = [name, f"{name}_second"]
    net.nodes.append(helper.make_node("Split", [pooled], halves, name=name, axis=1, num_outputs=2))
    net.kinds[name] = "split"
    net.reorders.add(name)
    begin, end, axis = net.constant([0]), net.constant([channels // 2]), net.constant([1])
    sliced = net.add("slice", "Slice", halves[1], begin, end, axis)
    at = net.add("concat", "Concat", *halves, sliced, axis=1)
    at = net.add("gather", "Gather", at, net.constant(list(range(channels, 0, -1))), axis=1)
    at = net.add("tile", "Tile", at, net.constant([1, 2, 1, 1]))
    net.narrowed(at, 2 * channels)


def _moved(net: _Network) -> None:
    channels = net.channels(values=LARGEST_VALUES // 2)
    at = net.add("exp", "Exp", net.widened(channels))  # a change of layout would take the transpose in
    at = net.add("transpose", "Transpose", at, perm=[0, 2, 3, 1])
    at = net.add("softmax", "Softmax", at, axis=-1)
    at = net.add("layer_norm", "LayerNormalization", at, net.factors(channels), net.factors(channels), axis=-1)
    at = net.add("transpose", "Transpose", at, perm=[0, 3, 1, 2])
    at = net.add("pad", "Pad", at, net.constant([0, 0, 1, 1, 0, 0, 1, 1]), net.constant(0.5))
    at = net.add("reduce", "ReduceMax", at, net.constant([1]))
    net.ends.append(at)


def _tables(net: _Network) -> None:
    """Add two tensors, and tensors with vectors and numbers, in plain layout."""
    channels = net.channels()
    first = net.add("exp", "Exp", net.widened(channels))
    mean = net.add("reduce", "ReduceMean", first, net.constant([1]))
    pooled = net.add("reduce", "ReduceMax", first, net.constant([2, 3]))
    at = net.add("instance_norm", "InstanceNormalization", first, net.factors(channels), net.factors(channels))
    for kind in ("sub", "mul", "div", "add"):
        at = net.add(kind, kind.capitalize(), at, first)
    at = net.add("other_binary", "Max", at, first)
    for kind, other in (
        ("mul", mean),
        ("mul", pooled),
        ("sub", net.factors(1, channels, 1, 1)),
        ("mul", net.factors(1, channels, 1, 1)),
        ("div", net.factors(1, channels, 1, 1)),
        ("add", net.factors(1, channels, 1, 1)),
        ("sub", net.factors()),
        ("mul", net.factors()),
        ("add", net.factors()),
        ("div", net.factors()),
    ):
        at = net.add(f"{kind}_broadcast", kind.capitalize(), at, other)
    at = net.add("other_binary_broadcast", "Min", at, net.factors(1, channels, 1, 1))
    at = net.add("global_pool", "GlobalMaxPool", at)
    at = net.add("expand", "Expand", at, net.constant([1, channels, net.side, net.side]))
    at = net.add("cast", "Cast", at, to=TensorProto.INT32)
    net.narrowed(net.add("cast", "Cast", at, to=TensorProto.FLOAT), channels)


def _resized(net: _Network) -> None:
    channels = net.channels(values=LARGEST_VALUES // 4, multiple=16)
    pooled = net.add(None, "MaxPool", net.widened(channels), kernel_shape=[1, 1])
    scales = net.constant([1.0, 1.0, 2.0, 2.0])
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    net.narrowed(net.add("resize_nearest", "Resize", pooled, "", scales, **nearest), channels, ends=True)
    net.narrowed(net.add("resize_linear", "Resize", pooled, "", scales, mode="linear"), channels, ends=True)
    channels = net.channels(values=SLOW_VALUES, multiple=16)
    deep = net.add("depth_to_space", "DepthToSpace", net.widened(channels), blocksize=2)
    net.narrowed(deep, channels // 4, ends=True)


def _tokens(net: _Network) -> None:
    """Add attention over pixels, as far as there are not too many."""
    pixels = net.side**2
    if pixels > LARGEST_TOKENS:
        return
    heads = max(1, net.channels(values=LARGEST_VALUES // 4) // HEAD_WIDTH)
    heads = max(1, min(heads, LARGEST_VALUES // 4 // pixels**2))
    channels = heads * HEAD_WIDTH
    flat = net.add(None, "Reshape", net.widened(channels), net.constant([0, channels, pixels]))
    at = net.add("transpose", "Transpose", flat, perm=[0, 2, 1])
    at = net.add("layer_norm", "LayerNormalization", at, net.factors(channels), net.factors(channels), axis=-1)
    at = net.add("matmul", "MatMul", at, net.shared((channels, channels)))
    at = net.add("gelu", "Gelu", at)
    split = net.add(None, "Reshape", at, net.constant([0, pixels, heads, HEAD_WIDTH]))
    query = net.add("transpose", "Transpose", split, perm=[0, 2, 1, 3])
    key = net.add("transpose", "Transpose", split, perm=[0, 2, 3, 1])
    scores = net.add("softmax", "Softmax", net.add("matmul", "MatMul", query, key), axis=-1)
    at = net.add("transpose", "Transpose", net.add("matmul", "MatMul", scores, query), perm=[0, 1, 3, 2])
    net.narrowed(net.add(None, "Reshape", at, net.constant([0, channels, net.side, net.side])), channels)


def _convolutions(net: _Network) -> None:
    channels = net.channels(macs_per_pixel=lambda width: 9 * width**2)
    at = net.weighted("conv", net.widened(channels), channels, channels, (3, 3), dilations=[2, 2], pads=[2] * 4)
    at = net.weighted("conv", at, channels, channels, (1, 7), pads=[0, 3, 0, 3])
    net.narrowed(net.weighted("conv", at, channels, channels, (7, 1), pads=[3, 0, 3, 0]), channels)
    groups = 4
    channels = net.channels(macs_per_pixel=lambda width: 9 * width**2 // groups, multiple=64)
    grouped = {"group": groups, "pads": [1] * 4}
    net.narrowed(net.weighted("grouped_conv", net.widened(channels), channels, channels, (3, 3), **grouped), channels)
    channels = net.channels()
    each = {"group": channels, "dilations": [2, 2], "pads": [2] * 4}
    source = net.widened(channels)
    net.narrowed(net.weighted("depthwise_conv", source, channels, channels, (3, 3), **each), channels)
    sevens = {"group": channels, "pads": [3] * 4}
    net.narrowed(net.weighted("depthwise_conv", net.widened(channels), channels, channels, (7, 7), **sevens), channels)


def _strided(net: _Network) -> None:
    channels = net.channels(macs_per_pixel=lambda width: 2 * width**2)
    source = net.widened(channels)
    for side in (2, 4):
        patches = net.weighted("conv", source, channels, channels, (side, side), strides=[side] * 2)
        net.narrowed(patches, channels, ends=True)


def _transposed(net: _Network) -> None:
    for side, padding in ((2, 0), (4, 1)):
        channels = net.channels(values=LARGEST_VALUES // 4, macs_per_pixel=lambda width: side**2 * width**2)  # noqa: B023
        weights = net.shared((channels, channels, side, side)), net.shared((channels,))
        window = {"strides": [2, 2], "pads": [padding] * 4}
        larger = net.add("conv_transpose", "ConvTranspose", net.widened(channels), *weights, **window)
        net.narrowed(larger, channels, ends=True)


_GROUPS = (
    *(_unary, _slow_unary, _blocked, _joined, _moved, _tables),
    *(_resized, _tokens, _convolutions, _strided, _transposed),
)
