"""Networks of operations outside the block families, to be timed one by one inside a running network. Layer 3.

Each network holds every kind of operation about once, at one size of image and at widths of its own, between cheap
convolutions, so that layouts change where they would in a real network. What a runtime merges into a neighbour, such
as an activation into the convolution before it, stands behind something else here. The layout changes themselves are
planned as ``<reader>.reorder``: the reader is the operation that needs the other layout.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, shape_inference

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters.onnx_graph import IR_VERSION, TensorSource
from deepmad_hw.exporters.onnx_operations import IMAGE_RANK, Sized, operation_of
from deepmad_hw.exporters.weights import Shape
from deepmad_hw.network.layer import IMAGE, OperationNode, OperationSpec

OPSET = 21  # the first with a GroupNormalization that can be used
RUNTIMES = ("onnxruntime", "replay")  # those that read the files, and join times to operations
PRECISIONS = ("fp32", "int8")
# Operations with kernels on bytes, which are rounded in the networks of int8; the others run on floats between them.
BYTEWISE = (
    *("Add", "AveragePool", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "MaxPool"),
    *("Mul", "Reshape", "Resize", "Sigmoid", "Softmax", "Split", "Transpose"),
)
SIDES = (28, 56, 14, 112, 7, 80, 40, 20, 160, 10)  # pixels; any first few of them span the range
SMALL = "constant"  # how the names of constants begin that lie in no file of weights
NECK = 16  # channels between two groups of operations: few, so that the convolutions there are cheap
CHANNELS = (16, 512)
UNEVEN_SHARE = 0.2  # of widths that are no multiple of 16
LARGEST_VALUES = 2_000_000  # of one tensor
SLOW_VALUES = 400_000  # of one tensor that an operation of several nanoseconds a value reads
LARGEST_MACS = 60_000_000
MOST_MACS = 150_000_000  # of a few convolutions
MOST_TIMES, PIXELS_OF_ONCE = 3, 90  # small images are quick, so networks on them hold every kind several times
LARGEST_TOKENS = 800
HEAD_WIDTH = 32  # of attention
LEAST_PIXELS = 2  # of what a window leaves over
# Windows of convolutions: sides, step, and distance between the values.
DENSE_WINDOWS = (
    *(((3, 3), 1, 1), ((3, 3), 1, 1), ((3, 3), 2, 1), ((3, 3), 1, 2), ((5, 5), 1, 1), ((7, 7), 2, 1), ((9, 9), 1, 1)),
    *(((11, 11), 4, 1), ((1, 1), 1, 1), ((1, 1), 2, 1), ((1, 7), 1, 1), ((7, 1), 1, 1), ((1, 3), 1, 1), ((3, 1), 1, 1)),
    *(((2, 2), 2, 1), ((4, 4), 4, 1), ((8, 8), 8, 1), ((16, 16), 16, 1)),
)
DENSE_AT_ONCE = 6  # of these in a group of operations
DEPTHWISE_WINDOWS = (
    ((1, 1), 1, 1),
    ((3, 3), 1, 1),
    ((3, 3), 1, 2),
    ((5, 5), 2, 1),
    ((7, 7), 1, 1),
    ((1, 5), 1, 1),
    ((9, 9), 1, 1),
)
DEPTHWISE_AT_ONCE = 3
GROUP_WIDTHS = (4, 8, 16, 32)  # channels of a grouped convolution's groups
POOL_WINDOWS = ((2, 2), (3, 1), (3, 2), (5, 1), (9, 1), (13, 1))  # side and step
POOLS_AT_ONCE = 3
FEW_CHANNELS, FEW_SHARE = (1, 15), 0.4
LEAST_MACS = 3_000_000  # of the largest convolution that a group may hold
FEATURES, CLASSES = (16, 1024), (10, 1000)  # of a classifier
FLOATS_AT_ONCE = 3  # places in a group where bytes are turned into floats and back
LARGEST_STATE = 256  # values of a recurrent layer


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationProbe:
    """One network of operations.

    Args:
        name: unique in a plan.
        side: of its image, in pixels.
        seed: of its widths.
        precision: ``int8`` for a network that is rounded to bytes, as far as there are kernels on bytes.
    """

    name: str
    side: int
    seed: int
    precision: str = "fp32"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of the image."""
        return (NECK, self.side, self.side)


def operation_probes(count: int, *, seed: int = 0, precision: str = "fp32") -> list[OperationProbe]:
    """Return networks that together show every kind of operation over a range of sizes.

    Every second one of int8 is of floats: what has no kernel on bytes runs on them.

    Args:
        count: how many.
        seed: of the widths.
        precision: of the table that they are for, one of `PRECISIONS`.
    """
    forms = ("int8", "fp32") if precision == "int8" else (precision,)
    return [
        OperationProbe(
            name=f"operations{index:02}",
            side=SIDES[index // len(forms) % len(SIDES)],
            seed=seed * 1000 + index,
            precision=forms[index % len(forms)],
        )
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
    found: list[OperationNode] = []
    for node in inferred.node:
        if node.name in network.reorders:
            found += _changes(node.name, int(np.prod(shapes[node.input[0]])), bytewise=probe.precision == "int8")
        if node.name in network.kinds:
            bytewise = probe.precision == "int8" and node.op_type in BYTEWISE
            kind, nodes = network.kinds[node.name], network.parts.get(node.name, [node])
            spec = _spec(kind, nodes, shapes, constants, channels_last=bytewise)
            if bytewise:
                spec = replace(spec, value_type="int8")
            found.append(OperationNode(name=node.name, spec=spec))
    return tuple(found)


def _changes(reader: str, values: int, *, bytewise: bool) -> Iterator[OperationNode]:
    """Yield the changes of form that a runtime may make before an operation."""
    forms = (("transpose", "int8", 1), ("quantize", "fp32", 0), ("dequantize", "int8", 0))
    for kind, value_type, span in forms if bytewise else (("reorder", "fp32", 0),):
        spec = OperationSpec(kind=kind, value_type=value_type, read_values=values, written_values=values, span=span)
        yield OperationNode(name=f"{reader}.{kind}", spec=spec)


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


def _spec(
    kind: str, nodes: Sequence[Any], shapes: dict[str, Shape], constants: dict[str, Any], *, channels_last: bool
) -> OperationSpec:
    """Return the amounts of an operation, which one ONNX node or several are."""
    inside = {output for node in nodes for output in node.output}
    read = dict.fromkeys(name for node in nodes for name in node.input if name in shapes and name not in inside)
    node = nodes[-1]
    sized = Sized(
        operator=f"nchwc.{node.op_type}" if kind.endswith("_blocked") else node.op_type,
        attributes={each.name: helper.get_attribute_value(each) for each in node.attribute},
        reads=[shapes[name] for name in read],
        constants=[tuple(constants[name].dims) for each in nodes for name in each.input if name in constants],
        writes=[shapes[output] for output in node.output if output],
    )
    if kind == "depthwise_conv" and node.op_type == "BatchNormalization":
        channels = sized.writes[0][1]
        sized = replace(
            sized, operator="Conv", attributes={"group": channels}, constants=[(channels, 1, 1, 1), (channels,)]
        )
    if channels_last and (kind == "concat" or kind.endswith("_broadcast")):  # so it stands between convolutions
        reads, constant, writes = ([*map(_turned, each)] for each in (sized.reads, sized.constants, sized.writes))
        sized = replace(sized, reads=reads, constants=constant, writes=writes)
    found = operation_of(sized)
    if found is None:
        raise ConfigError(f"no kind of operation stands for {node.op_type}", where=node.name)
    return found if found.kind == kind else replace(found, kind=kind)


def _turned(shape: Shape) -> Shape:
    """Return the shape of a map as runtimes lay it out for bytes: channels last."""
    return (shape[0], *shape[2:], shape[1]) if len(shape) == IMAGE_RANK else shape


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
        turn: of the groups of operations, which hold other windows each time.
    """

    side: int
    batch: int
    bytewise: bool
    tensor: TensorSource
    random: np.random.Generator
    turn: int = 0
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

    def few(self) -> int:
        """Return a width below that of a block, spread evenly over orders of magnitude."""
        low, high = FEW_CHANNELS
        return round(float(np.exp(self.random.uniform(np.log(low), np.log(high)))))

    def some(self, items: Sequence[Any], count: int) -> list[Any]:
        """Return a few of some items, the next ones in every turn."""
        return [items[(self.turn * count + index) % len(items)] for index in range(count)]

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
        self.constants.append(numpy_helper.from_array(array, f"{SMALL}{len(self.constants)}"))
        return str(self.constants[-1].name)

    def factors(self, *shape: int) -> str:
        """Return a constant of values near 1."""
        return self.constant(1 + 0.1 * self.random.random(shape, dtype=np.float32))


def _built(probe: OperationProbe, tensor: TensorSource, *, batch: int) -> _Network:
    bytewise, random = probe.precision == "int8", np.random.default_rng(probe.seed)
    network = _Network(side=probe.side, batch=batch, bytewise=bytewise, tensor=tensor, random=random)
    if not bytewise:
        _group_norm(network)
    for repetition in range(max(1, min(MOST_TIMES, PIXELS_OF_ONCE // probe.side))):
        network.turn = probe.seed + repetition
        for group in _BYTEWISE_GROUPS if bytewise else _GROUPS:
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
    net.narrowed(net.add("softmax", "Softmax", at, axis=-1), channels)
    # Its time follows the signs of its values, so it reads what has both, as the image does.
    channels = net.channels(values=SLOW_VALUES)
    mixed = net.conv(IMAGE, NECK, channels)
    net.narrowed(net.add("prelu", "PRelu", mixed, net.factors(channels, 1, 1)), channels, ends=True)


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
    pooled = net.add("max_pool_blocked", "MaxPool", source, kernel_shape=[3, 3], pads=[1] * 4)
    at = _silu(net, source)
    at = net.add("mul", "Mul", at, pooled)
    at = net.add("sigmoid", "Sigmoid", at)
    at = net.add("gelu", "Gelu", at)
    at = net.add("add", "Add", at, pooled)
    at = net.add("avg_pool_blocked", "AveragePool", at, kernel_shape=[3, 3], pads=[1] * 4)
    at = net.add("relu", "Relu", at)
    at = net.add("avg_pool_blocked", "AveragePool", at, kernel_shape=[5, 5], pads=[2] * 4)
    # In blocks of channels, a runtime makes a convolution of it.
    at = net.add("depthwise_conv", "BatchNormalization", at, *(net.factors(channels) for _ in range(4)))
    net.narrowed(net.add("max_pool_blocked", "MaxPool", at, kernel_shape=[5, 5], pads=[2] * 4), channels)
    for window in net.some(POOL_WINDOWS, POOLS_AT_ONCE):
        _pool(net, "max_pool_blocked", source, channels, window)
    _pool(net, "avg_pool_blocked", source, channels, (2, 2))


def _pool(net: _Network, kind: str, source: str, channels: int, window: tuple[int, int]) -> None:
    side, step = window
    operator = "MaxPool" if kind.startswith("max_pool") else "AveragePool"
    sides = {"kernel_shape": [side] * 2, "strides": [step] * 2, "pads": [side // 2 if side % 2 else 0] * 4}
    net.narrowed(net.add(kind, operator, source, **sides), channels, ends=True)


def _plain_pools(net: _Network) -> None:
    """Add pooling of widths that no block divides."""
    channels = net.channels(values=SLOW_VALUES, multiple=16) + 4
    source = net.widened(channels)
    for kind in ("max_pool", "avg_pool"):
        for window in net.some(POOL_WINDOWS, POOLS_AT_ONCE - 1):
            _pool(net, kind, source, channels, window)


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
    for kind in ("mul", "add"):
        at = net.add(f"{kind}_broadcast", kind.capitalize(), at, net.factors(channels))
    net.ends.append(net.add("reduce_outer", "ReduceMean", at, net.constant([1, 2])))
    at = net.add("transpose", "Transpose", at, perm=[0, 3, 1, 2])
    at = net.add("pad", "Pad", at, net.constant([0, 0, 1, 1, 0, 0, 1, 1]), net.constant(0.5))
    at = net.add("reduce_outer", "ReduceMax", at, net.constant([1]))
    net.ends.append(at)


def _tables(net: _Network) -> None:
    """Add two tensors, and tensors with vectors and numbers, in plain layout."""
    channels = net.channels()
    first = net.add("exp", "Exp", net.widened(channels))
    mean = net.add("reduce_outer", "ReduceMean", first, net.constant([1]))
    pooled = net.add("reduce", "ReduceMax", first, net.constant([2, 3]))
    at = net.add("instance_norm", "InstanceNormalization", first, net.factors(channels), net.factors(channels))
    for kind in ("sub", "mul", "div", "add"):
        at = net.add(kind, kind.capitalize(), at, first)
    at = net.add("add", "Add", at, net.shared((1, channels, net.side, net.side)))
    at = net.add("other_norm", "LRN", at, size=5)
    at = net.add("batch_norm", "BatchNormalization", at, *(net.factors(channels) for _ in range(4)))
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
    _resizes(net, pooled, channels, 2.0, "_blocked")
    channels = net.channels(values=SLOW_VALUES)
    scale = float(net.random.choice((0.5, 1.5, 2.0, 3.0)))
    _resizes(net, net.add("exp", "Exp", net.widened(channels)), channels, scale, "")
    channels = net.channels(values=SLOW_VALUES, multiple=16)
    deep = net.add("depth_to_space", "DepthToSpace", net.widened(channels), blocksize=2)
    net.narrowed(deep, channels // 4, ends=True)


def _resizes(net: _Network, source: str, channels: int, scale: float, layout: str) -> None:
    scales = net.constant([1.0, 1.0, scale, scale])
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    net.narrowed(net.add(f"resize_nearest{layout}", "Resize", source, "", scales, **nearest), channels, ends=True)
    net.narrowed(net.add(f"resize_linear{layout}", "Resize", source, "", scales, mode="linear"), channels, ends=True)


def _tokens(net: _Network) -> None:
    """Add attention over pixels, as far as there are not too many."""
    heads = _heads(net)
    if not heads:
        return
    channels = heads * HEAD_WIDTH
    at = _as_tokens(net, channels)
    at = net.add("layer_norm", "LayerNormalization", at, net.factors(channels), net.factors(channels), axis=-1)
    at = net.add("matmul", "MatMul", at, net.shared((channels, channels)))
    at = net.add("gelu", "Gelu", at)
    at = net.add("mul_broadcast", "Mul", at, net.factors(channels))
    means = net.add("reduce", "ReduceMean", at, net.constant([2]))
    at = net.add("sub_broadcast", "Sub", at, means)
    net.ends.append(net.add("reduce_outer", "ReduceMean", at, net.constant([1])))
    _attention(net, net.add("add_broadcast", "Add", at, net.factors(channels)), heads)


def _heads(net: _Network) -> int:
    """Return how many heads of attention a network may have, 0 where it has too many pixels."""
    pixels = net.side**2
    if pixels > LARGEST_TOKENS:
        return 0
    return max(1, min(net.channels(values=LARGEST_VALUES // 4) // HEAD_WIDTH, LARGEST_VALUES // 4 // pixels**2))


def _as_tokens(net: _Network, channels: int) -> str:
    flat = net.add(None, "Reshape", net.widened(channels), net.constant([0, channels, net.side**2]))
    return net.add("transpose", "Transpose", flat, perm=[0, 2, 1])


def _attention(net: _Network, tokens: str, heads: int) -> None:
    """Add the products of tokens with each other, and make an image of what comes out."""
    channels = heads * HEAD_WIDTH
    split = net.add(None, "Reshape", tokens, net.constant([0, net.side**2, heads, HEAD_WIDTH]))
    query = net.add("transpose", "Transpose", split, perm=[0, 2, 1, 3])
    key = net.add("transpose", "Transpose", split, perm=[0, 2, 3, 1])
    scores = net.add("softmax", "Softmax", net.add("matmul", "MatMul", query, key), axis=-1)
    at = net.add("transpose", "Transpose", net.add("matmul", "MatMul", scores, query), perm=[0, 1, 3, 2])
    net.narrowed(net.add(None, "Reshape", at, net.constant([0, channels, net.side, net.side])), channels)


def _convolutions(net: _Network) -> None:
    for sides, step, distance in net.some(DENSE_WINDOWS, DENSE_AT_ONCE):
        _dense(net, sides, step, distance)
    width = int(net.random.choice(GROUP_WIDTHS))
    channels = net.channels(macs_per_pixel=lambda channels: 9 * width * channels, multiple=2 * width)
    grouped = {"group": channels // width, "pads": [1] * 4}
    net.narrowed(net.weighted("grouped_conv", net.widened(channels), channels, channels, (3, 3), **grouped), channels)
    for sides, step, distance in net.some(DEPTHWISE_WINDOWS, DEPTHWISE_AT_ONCE):
        channels = net.channels() if net.random.random() < FEW_SHARE else 4 * math.ceil(net.few() / 4)
        window = {"group": channels, **_window(sides, step, distance)}
        each = net.weighted("depthwise_conv", net.widened(channels), channels, channels, sides, **window)
        net.narrowed(each, channels, ends=True)


def _window(sides: tuple[int, int], step: int, distance: int) -> dict[str, list[int]]:
    pads = [distance * (side // 2) if side % 2 else 0 for side in sides]
    return {"strides": [step] * 2, "dilations": [distance] * 2, "pads": pads * 2}


def _dense(net: _Network, sides: tuple[int, int], step: int, distance: int) -> None:
    """Add a convolution from many or few channels to many or few."""
    pixels = (net.side // step) ** 2
    if net.side // step < LEAST_PIXELS:
        return
    inside, outside = (net.few() if net.random.random() < FEW_SHARE else net.channels() for _ in range(2))
    most = float(np.exp(net.random.uniform(np.log(LEAST_MACS), np.log(MOST_MACS))))
    while math.prod(sides) * inside * outside * pixels > most and max(inside, outside) > FEW_CHANNELS[1]:
        inside, outside = (
            max(1, width // 2) if width == max(inside, outside) else width for width in (inside, outside)
        )
    window = _window(sides, step, distance)
    net.narrowed(net.weighted("conv", net.widened(inside), inside, outside, sides, **window), outside, ends=True)


def _vectors(net: _Network) -> None:
    """Add what follows the pooling of a whole map: convolutions of one pixel, and a classifier."""
    channels = net.channels(multiple=16)
    kind = "global_pool" if net.bytewise else "global_pool_blocked"
    pooled = net.add(kind, "GlobalAveragePool", net.widened(channels))
    squeezed = max(4, channels // int(net.random.choice((2, 4, 8))))
    at = net.weighted("conv", pooled, channels, squeezed, (1, 1))
    features, classes = (round(float(np.exp(net.random.uniform(*np.log(ends))))) for ends in (FEATURES, CLASSES))
    at = net.weighted("conv", at, squeezed, features, (1, 1))
    if not net.bytewise:
        at = _few_values(net, at)
    flat = net.add(None, "Flatten", at)
    net.ends.append(net.add("matmul", "Gemm", flat, net.shared((classes, features)), net.shared((classes,)), transB=1))


def _few_values(net: _Network, source: str) -> str:
    """Add activations and arithmetic on a handful of values, as they stand in gates."""
    first = net.add("exp", "Exp", source)
    at = first
    for kind, operation in (
        ("sigmoid", "Sigmoid"),
        ("hardsigmoid", "HardSigmoid"),
        ("relu", "Relu"),
        ("hardswish", "HardSwish"),
        ("sqrt", "Sqrt"),
    ):
        at = net.add(kind, operation, at)
    for kind in ("add", "mul", "div", "sub"):
        at = net.add(kind, kind.capitalize(), at, first)
    return at


def _recurrent(net: _Network) -> None:
    """Add recurrent layers that read the rows of the image one after the other."""
    rows = net.add("reduce", "ReduceMean", net.add("exp", "Exp", net.conv(net.source, NECK, NECK)), net.constant([3]))
    flat = net.add(None, "Reshape", rows, net.constant([0, NECK, net.side]))
    steps = net.add("transpose", "Transpose", flat, perm=[2, 0, 1])
    for operator, gates in (("LSTM", 4), ("GRU", 3)):
        width = NECK * round(float(np.exp(net.random.uniform(0, np.log(LARGEST_STATE // NECK)))))
        weights = net.shared((1, gates * width, NECK)), net.shared((1, gates * width, width))
        net.ends.append(net.add("recurrent", operator, steps, *weights, hidden_size=width))


def _transposed(net: _Network) -> None:
    for side, padding in ((2, 0), (3, 0), (4, 1)):
        inside = net.channels(values=LARGEST_VALUES // 4, macs_per_pixel=lambda width: side**2 * width**2)  # noqa: B023
        outside = net.few() if net.random.random() < FEW_SHARE else inside
        weights = net.shared((inside, outside, side, side)), net.shared((outside,))
        window = {"strides": [2, 2], "pads": [padding] * 4}
        larger = net.add("conv_transpose", "ConvTranspose", net.widened(inside), *weights, **window)
        net.narrowed(larger, outside, ends=True)


_GROUPS = (
    *(_unary, _slow_unary, _blocked, _plain_pools, _joined, _moved, _tables),
    *(_resized, _tokens, _convolutions, _transposed, _vectors, _recurrent),
)


def _bytes(net: _Network) -> None:
    """Add what has kernels on bytes, and floats between them."""
    channels = net.channels(multiple=16)
    first, second = net.widened(channels), net.widened(channels)
    at = net.add("add", "Add", first, second)
    at = net.add("mul", "Mul", at, second)
    at = net.add("sigmoid", "Sigmoid", at)
    at = net.add("leaky_relu", "LeakyRelu", at)
    pooled = net.add("global_pool", "GlobalAveragePool", at)
    at = net.add("mul_broadcast", "Mul", at, pooled)
    at = net.add("add_broadcast", "Add", at, net.factors(1, channels, 1, 1))
    net.narrowed(net.add("concat", "Concat", at, first, axis=1), 2 * channels)
    for kind in ("max_pool", "avg_pool"):
        for window in net.some(POOL_WINDOWS, POOLS_AT_ONCE - 1):
            _pool(net, kind, second, channels, window)
    for _ in range(FLOATS_AT_ONCE):
        channels = net.channels()
        net.narrowed(net.add("exp", "Exp", net.widened(channels)), channels, ends=True)


def _resized_bytes(net: _Network) -> None:
    channels = net.channels(values=SLOW_VALUES)
    scales = net.constant([1.0, 1.0, 2.0, 2.0])
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    larger = net.add("resize_nearest", "Resize", net.widened(channels), "", scales, **nearest)
    net.narrowed(larger, channels, ends=True)


def _token_bytes(net: _Network) -> None:
    """Add attention without what has no kernel on bytes."""
    heads = _heads(net)
    if heads:
        channels = heads * HEAD_WIDTH
        at = _as_tokens(net, channels)
        _attention(net, net.add("matmul", "MatMul", at, net.shared((channels, channels))), heads)


_BYTEWISE_GROUPS = (_bytes, _resized_bytes, _token_bytes, _convolutions, _vectors)
