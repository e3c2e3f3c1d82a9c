"""One operation with every shape (the key of a table row), and graphs of them. Layer 1, standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deepmad_hw.errors import ConfigError

OPERATIONS = ("conv", "linear", "avg_pool", "max_pool", "global_pool", "scale", "add")
ACTIVATIONS = ("none", "relu", "relu6", "silu", "hardswish", "sigmoid", "hardsigmoid")
# Operations outside the block families, each timed by a law of its own; see `OperationSpec`.
KINDS = (
    *("batch_norm", "group_norm", "instance_norm", "layer_norm", "other_norm"),
    *(
        "abs",
        "clip",
        "elu",
        "erf",
        "exp",
        "gelu",
        "hardsigmoid",
        "hardswish",
        "leaky_relu",
        "log",
        "mish",
        "neg",
        "pow",
    ),
    *("prelu", "reciprocal", "relu", "sigmoid", "silu", "softplus", "sqrt", "tanh", "other_unary"),
    *("add", "sub", "mul", "div", "other_binary"),  # two tensors of one shape
    *("add_broadcast", "sub_broadcast", "mul_broadcast", "div_broadcast", "other_binary_broadcast"),
    *("concat", "expand", "gather", "pad", "resize_linear", "resize_nearest", "slice", "split", "tile", "transpose"),
    *("depth_to_space", "reduce", "reduce_outer", "softmax", "max_pool", "avg_pool", "global_pool"),
    # On blocks of channels, the layout of convolutions, in which a runtime has other kernels.
    *("max_pool_blocked", "avg_pool_blocked", "global_pool_blocked", "resize_linear_blocked", "resize_nearest_blocked"),
    *("cast", "quantize", "dequantize", "reorder"),  # changes of type, and of memory layout
    *("conv", "depthwise_conv", "grouped_conv", "conv_transpose", "matmul", "recurrent"),
)
CHANNEL_BLOCK = 8  # channels of a block in that layout; with AVX-512 it takes 16
VALUE_TYPES = ("fp32", "fp16", "int8", "other")  # int8: bytes, with or without a sign
IMAGE = "image"  # name of a graph's one input tensor
LARGEST_SIZE = 10**9 - 1  # what a table's cell holds; no layer comes near it
LARGEST_AMOUNT = 2**50  # values or multiply-adds of one operation


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class LayerSpec:
    """One operation as a runtime executes it, after batch norm, activation and residual add are folded in.

    Two layers with equal specs cost the same, so this is the key of a latency table's row.

    Args:
        op: one of `OPERATIONS`; `scale` multiplies a feature map by one factor per channel (squeeze-excite).
        in_channels: channels of the (first) input.
        out_channels: channels of the output.
        height: rows of the input in pixels (1 for `linear`).
        width: columns of the input in pixels (1 for `linear`).
        kernel: side of the window; padding is ``kernel // 2`` for odd kernels and 0 for even ones.
        stride: step of the window.
        groups: groups of a convolution; `in_channels` for a depthwise one.
        activation: one of `ACTIVATIONS`, applied last (after the residual add).
        residual: whether a second input of the output's shape is added.
    """

    op: str
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str = "none"
    residual: bool = False

    def __post_init__(self) -> None:
        """Refuse shapes that are no operation."""
        if self.op not in OPERATIONS:
            raise ConfigError(f"unknown operation {self.op!r}, expected one of {', '.join(OPERATIONS)}", where="op")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"unknown activation {self.activation!r}, expected one of {', '.join(ACTIVATIONS)}",
                where="activation",
            )
        for field in ("in_channels", "out_channels", "height", "width", "kernel", "stride", "groups"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"expected a whole number >= 1, got {value!r}", where=field)
            if value > LARGEST_SIZE:
                raise ConfigError(f"expected a whole number up to {LARGEST_SIZE}, got {value!r:.20}", where=field)
        if self.kernel % 2 == 0 and self.kernel > min(self.height, self.width):  # even windows are not padded
            raise ConfigError(
                f"a window of {self.kernel} fits nowhere in {self.height}x{self.width} pixels", where="kernel"
            )
        if not isinstance(self.residual, bool):
            raise ConfigError(f"expected true or false, got {self.residual!r}", where="residual")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ConfigError(
                f"{self.groups} groups do not divide {self.in_channels} -> {self.out_channels} channels", where="groups"
            )

    @property
    def group_width(self) -> int:
        """Return the input channels that one output channel sees."""
        return self.in_channels // self.groups

    @property
    def depthwise(self) -> bool:
        """Return whether every channel is convolved alone."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def out_height(self) -> int:
        """Return the rows of the output."""
        return 1 if self.op == "global_pool" else out_pixels(self.height, kernel=self.kernel, stride=self.stride)

    @property
    def out_width(self) -> int:
        """Return the columns of the output."""
        return 1 if self.op == "global_pool" else out_pixels(self.width, kernel=self.kernel, stride=self.stride)


def out_pixels(pixels: int, *, kernel: int, stride: int) -> int:
    """Return the output side of a window moved over `pixels`, padded by ``kernel // 2`` if odd, by 0 if even.

    Args:
        pixels: input side.
        kernel: side of the window.
        stride: step of the window.
    """
    padding = kernel // 2 if kernel % 2 else 0
    return (pixels + 2 * padding - kernel) // stride + 1


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class OperationSpec:
    """An operation that is no layer of a block family, by the amounts of work that its time follows.

    A table holds a law for each kind and value type, fitted to measured operations: time is a sum of non-negative
    shares of a call, of values read and written, of multiply-adds, and of weights.

    Args:
        kind: one of `KINDS`. Convolutions here are those that `LayerSpec` cannot say: dilated, non-square, of even
            kernels or of groups wider than one channel; pooling is that of windows which no family has.
        value_type: one of `VALUE_TYPES`, of what it computes on.
        read_values: values of its inputs that are computed in the network, constants left out.
        written_values: values of its outputs.
        macs: multiply-adds; for pooling, values that its windows visit; 0 where values are only moved.
        weight_values: values of its constants, such as a kernel.
        span: values that belong together: of a window, of the row that a norm, a softmax or a reduction goes over, of
            a stretch of memory that is copied or repeated at once; 0 where there is no such thing.
        channels: outputs of a convolution; 0 for everything else.

    Amounts are for one image; the laws of a table speak of its batch.

    Example:
        >>> OperationSpec(kind="concat", read_values=2 * 64 * 28 * 28, written_values=128 * 28 * 28).moved_values
        200704
    """

    kind: str
    value_type: str = "fp32"
    read_values: int
    written_values: int
    macs: int = 0
    weight_values: int = 0
    span: int = 0
    channels: int = 0

    def __post_init__(self) -> None:
        """Refuse amounts that are no operation."""
        if self.kind not in KINDS:
            raise ConfigError(f"unknown kind of operation {self.kind!r}", where="kind")
        if self.value_type not in VALUE_TYPES:
            raise ConfigError(
                f"unknown value type {self.value_type!r}, expected one of {', '.join(VALUE_TYPES)}", where="value_type"
            )
        for field in ("read_values", "written_values", "macs", "weight_values", "span", "channels"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_AMOUNT:
                raise ConfigError(f"expected a whole number from 0 to {LARGEST_AMOUNT}, got {value!r:.40}", where=field)
        if not self.read_values or not self.written_values:
            raise ConfigError("reads or writes nothing", where="read_values")

    @property
    def moved_values(self) -> int:
        """Return the values read and written, weights left out."""
        return self.read_values + self.written_values


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationNode:
    """One operation outside the block families at its place in a network that is timed.

    Args:
        name: of the operation and of its first output tensor; of a change of layout, ``<reader>.reorder``.
        spec: the operation and its amounts.
    """

    name: str
    spec: OperationSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One layer at its place in a network, in training form.

    Args:
        name: unique and readable, such as ``stage2.block3.conv1``.
        spec: the operation and its shapes.
        inputs: names of the nodes it reads (`IMAGE` is the network's input); the residual comes last.
        norm: whether a batch norm follows the convolution (folded away at export).
        bias: whether the convolution or classifier has a bias of its own.
    """

    name: str
    spec: LayerSpec
    inputs: tuple[str, ...]
    norm: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        """Refuse a node whose inputs do not fit its operation."""
        expected = 2 if self.spec.residual or self.spec.op in ("scale", "add") else 1
        if len(self.inputs) != expected:
            raise ConfigError(
                f"{self.spec.op} takes {expected} inputs here, got {len(self.inputs)}", where=self.name or "node"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """A network as nodes in execution order.

    Args:
        name: what to call it in files and tables.
        in_channels: channels of the image.
        height: rows of the image.
        width: columns of the image.
        nodes: the layers; every input stands before its reader.
        outputs: names of the nodes whose tensors are returned.
    """

    name: str
    in_channels: int
    height: int
    width: int
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse graphs that are not in execution order or whose shapes do not meet."""
        shapes = {IMAGE: (self.in_channels, self.height, self.width)}
        for node in self.nodes:
            if node.name in shapes:
                raise ConfigError("the name is used twice", where=node.name)
            for source in node.inputs:
                if source not in shapes:
                    raise ConfigError(f"input {source!r} does not stand before it", where=node.name)
            _require_shape(node, shapes[node.inputs[0]])
            shapes[node.name] = (node.spec.out_channels, node.spec.out_height, node.spec.out_width)
            if (node.spec.residual or node.spec.op == "add") and shapes[node.inputs[-1]] != shapes[node.name]:
                raise ConfigError(
                    f"adds {shapes[node.inputs[-1]]} to {shapes[node.name]} (channels, height, width)", where=node.name
                )
        for name in self.outputs:
            if name not in shapes:
                raise ConfigError(f"output {name!r} is no node", where=self.name)

    def __iter__(self) -> Iterator[Node]:
        """Return the nodes in execution order."""
        return iter(self.nodes)


def _require_shape(node: Node, found: tuple[int, int, int]) -> None:
    spec = node.spec
    expected = (spec.in_channels, spec.height, spec.width)
    if found != expected:
        raise ConfigError(f"expects (channels, height, width) {expected}, is given {found}", where=node.name)
