"""Groups of operations that networks of them are made of, each group adding its own to a network. Layer 3.

What a runtime merges into a neighbour, such as an activation into the convolution before it, stands behind something
else here.
"""

from __future__ import annotations

import math
from typing import Any

from onnx import TensorProto, helper

from deepmad_hw.exporters.operation_network import FEW_CHANNELS, LARGEST_VALUES, NECK, OperationNetwork
from deepmad_hw.network.layer import IMAGE

SLOW_VALUES = 400_000  # of one tensor that an operation of several nanoseconds a value reads
MOST_MACS = 150_000_000  # of a few convolutions
LEAST_MACS = 3_000_000  # of the largest convolution that a group may hold
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
    *(((1, 1), 1, 1), ((3, 3), 1, 1), ((3, 3), 1, 2), ((5, 5), 2, 1), ((7, 7), 1, 1), ((1, 5), 1, 1), ((9, 9), 1, 1)),
)
DEPTHWISE_AT_ONCE = 3
GROUP_WIDTHS = (4, 8, 16, 32)  # channels of a grouped convolution's groups
POOL_WINDOWS = ((2, 2), (3, 1), (3, 2), (5, 1), (9, 1), (13, 1))  # side and step
POOLS_AT_ONCE = 3
FEW_SHARE = 0.4  # of convolutions that have few channels
FEATURES, CLASSES = (16, 1024), (10, 1000)  # of a classifier
FLOATS_AT_ONCE = 3  # places in a group where bytes are turned into floats and back
LARGEST_STATE = 256  # values of a recurrent layer
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def group_norm(net: OperationNetwork) -> None:
    """Add a group norm, first of all: where a runtime takes it apart, some parts have no input and run at the start.

    Args:
        net: the network.
    """
    channels = net.channels(multiple=16)
    parameters = net.vectors(2, channels)
    source = net.timed("Exp", net.widened(channels))
    normed = net.timed("GroupNormalization", source, *parameters, num_groups=8)
    shape = (net.batch, channels, net.side, net.side)
    net.stated.append(helper.make_tensor_value_info(normed, TensorProto.FLOAT, shape))
    net.narrowed(normed, channels)


def _unary(net: OperationNetwork) -> None:
    channels = net.channels()
    at = net.chain(
        net.widened(channels),
        *("Exp", "Sqrt", "Reciprocal", "Log", "Tanh", "Neg", "Elu", "Erf", "Abs", "Sigmoid", "HardSigmoid", "Gelu"),
        *("Relu", "LeakyRelu", "HardSwish", "Floor", "Sign"),
    )
    at = net.timed("Clip", at, net.constant(-1.0), net.constant(3.0))
    net.narrowed(net.timed("Pow", at, net.constant(2.0)), channels)


def _slow_unary(net: OperationNetwork) -> None:
    channels = net.channels(values=SLOW_VALUES)
    at = net.timed("Exp", net.widened(channels))
    at = net.chain(net.timed("Pow", at, net.constant(3.0)), "Softplus", "Mish")
    net.narrowed(net.timed("Softmax", at, axis=-1), channels)
    # Its time follows the signs of its values, so it reads what has both, as the image does.
    channels = net.channels(values=SLOW_VALUES)
    mixed = net.conv(IMAGE, NECK, channels)
    net.narrowed(net.timed("PRelu", mixed, net.factors(channels, 1, 1)), channels, ends=True)


def _silu(net: OperationNetwork, source: str) -> str:
    """Add the pair of nodes that runtimes take for one."""
    name = f"silu{len(net.nodes)}"
    pair = [
        helper.make_node("Sigmoid", [source], [f"{name}.sigmoid"], name=f"{name}.sigmoid"),
        helper.make_node("Mul", [source, f"{name}.sigmoid"], [name], name=name),
    ]
    net.nodes += pair
    net.kinds[name], net.parts[name] = "silu", pair
    return name


def _blocked(net: OperationNetwork) -> None:
    """Add what has kernels in the layout of convolutions, at widths that these take."""
    channels = net.channels(multiple=16)
    source = net.widened(channels)
    pooled = _same_pool(net, "MaxPool", source, 3)
    at = net.timed("Mul", _silu(net, source), pooled)
    at = net.timed("Add", net.chain(at, "Sigmoid", "Gelu"), pooled)
    at = net.timed("Relu", _same_pool(net, "AveragePool", at, 3))
    at = _same_pool(net, "AveragePool", at, 5)
    # In blocks of channels, a runtime makes a convolution of it.
    at = net.timed("BatchNormalization", at, *net.vectors(4, channels), kind="depthwise_conv")
    net.narrowed(_same_pool(net, "MaxPool", at, 5), channels)
    for window in net.some(POOL_WINDOWS, POOLS_AT_ONCE):
        _pool(net, "MaxPool", source, channels, window, form="_blocked")
    _pool(net, "AveragePool", source, channels, (2, 2), form="_blocked")


def _same_pool(net: OperationNetwork, operator: str, source: str, side: int) -> str:
    """Add pooling that keeps the pixels."""
    return net.timed(operator, source, form="_blocked", kernel_shape=[side] * 2, pads=[side // 2] * 4)


def _pool(
    net: OperationNetwork, operator: str, source: str, channels: int, window: tuple[int, int], *, form: str = ""
) -> None:
    side, step = window
    sides: dict[str, Any] = {
        "kernel_shape": [side] * 2,
        "strides": [step] * 2,
        "pads": [side // 2 if side % 2 else 0] * 4,
    }
    net.narrowed(net.timed(operator, source, form=form, **sides), channels, ends=True)


def _pools(net: OperationNetwork, source: str, channels: int) -> None:
    for operator in ("MaxPool", "AveragePool"):
        for window in net.some(POOL_WINDOWS, POOLS_AT_ONCE - 1):
            _pool(net, operator, source, channels, window)


def _plain_pools(net: OperationNetwork) -> None:
    """Add pooling of widths that no block divides."""
    channels = net.channels(values=SLOW_VALUES, multiple=16) + 4
    _pools(net, net.widened(channels), channels)


def _joined(net: OperationNetwork) -> None:
    channels = net.channels(values=LARGEST_VALUES // 2, multiple=16)
    both = net.timed("Concat", net.widened(channels), net.widened(channels), axis=1)
    pooled = net.add("MaxPool", both, kernel_shape=[1, 1])
    name = f"split{len(net.nodes)}"
    halves = [name, f"{name}_second"]
    net.nodes.append(helper.make_node("Split", [pooled], halves, name=name, axis=1, num_outputs=2))
    net.kinds[name] = "split"
    net.reorders.add(name)
    begin, end, axis = net.constant([0]), net.constant([channels // 2]), net.constant([1])
    sliced = net.timed("Slice", halves[1], begin, end, axis)
    at = net.timed("Concat", *halves, sliced, axis=1)
    at = net.timed("Gather", at, net.constant(list(range(channels, 0, -1))), axis=1)
    at = net.timed("Tile", at, net.constant([1, 2, 1, 1]))
    net.narrowed(at, 2 * channels)


def _moved(net: OperationNetwork) -> None:
    channels = net.channels(values=LARGEST_VALUES // 2)
    at = net.timed("Exp", net.widened(channels))  # a change of layout would take the transpose in
    at = net.timed("Transpose", at, perm=[0, 2, 3, 1])
    at = net.timed("Softmax", at, axis=-1)
    at = net.timed("LayerNormalization", at, *net.vectors(2, channels), axis=-1)
    for operator in ("Mul", "Add"):
        at = net.timed(operator, at, net.factors(channels), form="_broadcast")
    net.ends.append(net.timed("ReduceMean", at, net.constant([1, 2]), kind="reduce_outer"))
    at = net.timed("Transpose", at, perm=[0, 3, 1, 2])
    at = net.timed("Pad", at, net.constant([0, 0, 1, 1, 0, 0, 1, 1]), net.constant(0.5))
    net.ends.append(net.timed("ReduceMax", at, net.constant([1]), kind="reduce_outer"))


def _tables(net: OperationNetwork) -> None:
    """Add two tensors, and tensors with vectors and numbers, in plain layout."""
    channels = net.channels()
    first = net.timed("Exp", net.widened(channels))
    mean = net.timed("ReduceMean", first, net.constant([1]), kind="reduce_outer")
    pooled = net.timed("ReduceMax", first, net.constant([2, 3]), kind="reduce")
    at = net.timed("InstanceNormalization", first, *net.vectors(2, channels))
    for operator in ("Sub", "Mul", "Div", "Add"):
        at = net.timed(operator, at, first)
    at = net.timed("Add", at, net.shared((1, channels, net.side, net.side)))
    at = net.timed("LRN", at, size=5)
    at = net.timed("BatchNormalization", at, *net.vectors(4, channels))
    at = net.timed("Max", at, first)
    vector = (1, channels, 1, 1)
    vectors = [(operator, net.factors(*vector)) for operator in ("Sub", "Mul", "Div", "Add")]
    numbers = [(operator, net.factors()) for operator in ("Sub", "Mul", "Add", "Div")]
    for operator, other in (("Mul", mean), ("Mul", pooled), *vectors, *numbers):
        at = net.timed(operator, at, other, form="_broadcast")
    at = net.timed("Min", at, net.factors(*vector), form="_broadcast")
    at = net.timed("GlobalMaxPool", at)
    at = net.timed("Expand", at, net.constant([1, channels, net.side, net.side]))
    at = net.timed("Cast", at, to=TensorProto.INT32)
    net.narrowed(net.timed("Cast", at, to=TensorProto.FLOAT), channels)


def _resized(net: OperationNetwork) -> None:
    channels = net.channels(values=LARGEST_VALUES // 4, multiple=16)
    pooled = net.add("MaxPool", net.widened(channels), kernel_shape=[1, 1])
    _resizes(net, pooled, channels, 2.0, form="_blocked")
    channels = net.channels(values=SLOW_VALUES)
    scale = float(net.random.choice((0.5, 1.5, 2.0, 3.0)))
    _resizes(net, net.timed("Exp", net.widened(channels)), channels, scale)
    channels = net.channels(values=SLOW_VALUES, multiple=16)
    deep = net.timed("DepthToSpace", net.widened(channels), blocksize=2)
    net.narrowed(deep, channels // 4, ends=True)


def _resizes(net: OperationNetwork, source: str, channels: int, scale: float, *, form: str = "") -> None:
    scales = net.constant([1.0, 1.0, scale, scale])
    for mode in (NEAREST, {"mode": "linear"}):
        larger = net.timed("Resize", source, "", scales, kind=f"resize_{mode['mode']}", form=form, **mode)
        net.narrowed(larger, channels, ends=True)


def _tokens(net: OperationNetwork) -> None:
    """Add attention over pixels, as far as there are not too many."""
    heads = _heads(net)
    if not heads:
        return
    channels = heads * HEAD_WIDTH
    at = _as_tokens(net, channels)
    at = net.timed("LayerNormalization", at, *net.vectors(2, channels), axis=-1)
    at = net.timed("MatMul", at, net.shared((channels, channels)))
    at = net.timed("Gelu", at)
    at = net.timed("Mul", at, net.factors(channels), form="_broadcast")
    means = net.timed("ReduceMean", at, net.constant([2]), kind="reduce")
    at = net.timed("Sub", at, means, form="_broadcast")
    net.ends.append(net.timed("ReduceMean", at, net.constant([1]), kind="reduce_outer"))
    _attention(net, net.timed("Add", at, net.factors(channels), form="_broadcast"), heads)


def _heads(net: OperationNetwork) -> int:
    """Return how many heads of attention a network may have, 0 where it has too many pixels."""
    pixels = net.side**2
    if pixels > LARGEST_TOKENS:
        return 0
    return max(1, min(net.channels(values=LARGEST_VALUES // 4) // HEAD_WIDTH, LARGEST_VALUES // 4 // pixels**2))


def _as_tokens(net: OperationNetwork, channels: int) -> str:
    flat = net.add("Reshape", net.widened(channels), net.constant([0, channels, net.side**2]))
    return net.timed("Transpose", flat, perm=[0, 2, 1])


def _attention(net: OperationNetwork, tokens: str, heads: int) -> None:
    """Add the products of tokens with each other, and make an image of what comes out."""
    channels = heads * HEAD_WIDTH
    split = net.add("Reshape", tokens, net.constant([0, net.side**2, heads, HEAD_WIDTH]))
    query = net.timed("Transpose", split, perm=[0, 2, 1, 3])
    key = net.timed("Transpose", split, perm=[0, 2, 3, 1])
    scores = net.timed("Softmax", net.timed("MatMul", query, key), axis=-1)
    at = net.timed("Transpose", net.timed("MatMul", scores, query), perm=[0, 1, 3, 2])
    net.narrowed(net.add("Reshape", at, net.constant([0, channels, net.side, net.side])), channels)


def _convolutions(net: OperationNetwork) -> None:
    for sides, step, distance in net.some(DENSE_WINDOWS, DENSE_AT_ONCE):
        _dense(net, sides, step, distance)
    width = int(net.random.choice(GROUP_WIDTHS))
    channels = net.channels(macs_per_pixel=lambda channels: 9 * width * channels, multiple=2 * width)
    grouped = {"group": channels // width, "pads": [1] * 4}
    net.narrowed(net.weighted("grouped_conv", net.widened(channels), channels, channels, (3, 3), **grouped), channels)
    for sides, step, distance in net.some(DEPTHWISE_WINDOWS, DEPTHWISE_AT_ONCE):
        channels = net.channels() if net.random.random() < FEW_SHARE else 4 * math.ceil(net.few() / 4)
        window = {"group": channels, **_window(sides, step, distance)}
        depthwise = net.weighted("depthwise_conv", net.widened(channels), channels, channels, sides, **window)
        net.narrowed(depthwise, channels, ends=True)


def _window(sides: tuple[int, int], step: int, distance: int) -> dict[str, list[int]]:
    pads = [distance * (side // 2) if side % 2 else 0 for side in sides]
    return {"strides": [step] * 2, "dilations": [distance] * 2, "pads": pads * 2}


def _dense(net: OperationNetwork, sides: tuple[int, int], step: int, distance: int) -> None:
    """Add a convolution from many or few channels to many or few."""
    pixels = (net.side // step) ** 2
    if net.side // step < LEAST_PIXELS:
        return
    inside, outside = (net.few() if net.random.random() < FEW_SHARE else net.channels() for _ in range(2))
    most = net.drawn(LEAST_MACS, MOST_MACS)
    while math.prod(sides) * inside * outside * pixels > most and max(inside, outside) > FEW_CHANNELS[1]:
        largest = max(inside, outside)
        inside, outside = (max(1, width // 2) if width == largest else width for width in (inside, outside))
    window = _window(sides, step, distance)
    net.narrowed(net.weighted("conv", net.widened(inside), inside, outside, sides, **window), outside, ends=True)


def _vectors(net: OperationNetwork) -> None:
    """Add what follows the pooling of a whole map: convolutions of one pixel, and a classifier."""
    channels = net.channels(multiple=16)
    pooled = net.timed("GlobalAveragePool", net.widened(channels), form="" if net.bytewise else "_blocked")
    squeezed = max(4, channels // int(net.random.choice((2, 4, 8))))
    at = net.weighted("conv", pooled, channels, squeezed, (1, 1))
    features, classes = (round(net.drawn(*ends)) for ends in (FEATURES, CLASSES))
    at = net.weighted("conv", at, squeezed, features, (1, 1))
    if not net.bytewise:
        at = _few_values(net, at)
    weights = net.shared((classes, features)), net.shared((classes,))
    net.ends.append(net.timed("Gemm", net.add("Flatten", at), *weights, transB=1))


def _few_values(net: OperationNetwork, source: str) -> str:
    """Add activations and arithmetic on a handful of values, as they stand in gates."""
    first = net.timed("Exp", source)
    at = net.chain(first, "Sigmoid", "HardSigmoid", "Relu", "HardSwish", "Sqrt")
    for operator in ("Add", "Mul", "Div", "Sub"):
        at = net.timed(operator, at, first)
    return at


def _recurrent(net: OperationNetwork) -> None:
    """Add recurrent layers that read the rows of the image one after the other."""
    positive = net.timed("Exp", net.conv(net.source, NECK, NECK))
    rows = net.timed("ReduceMean", positive, net.constant([3]), kind="reduce")
    flat = net.add("Reshape", rows, net.constant([0, NECK, net.side]))
    steps = net.timed("Transpose", flat, perm=[2, 0, 1])
    for operator, gates in (("LSTM", 4), ("GRU", 3)):
        width = NECK * round(net.drawn(1, LARGEST_STATE // NECK))
        weights = net.shared((1, gates * width, NECK)), net.shared((1, gates * width, width))
        net.ends.append(net.timed(operator, steps, *weights, hidden_size=width))


def _transposed(net: OperationNetwork) -> None:
    for side, padding in ((2, 0), (3, 0), (4, 1)):
        inside = net.channels(values=LARGEST_VALUES // 4, macs_per_pixel=lambda width: side**2 * width**2)  # noqa: B023
        outside = net.few() if net.random.random() < FEW_SHARE else inside
        weights = net.shared((inside, outside, side, side)), net.shared((outside,))
        window: dict[str, Any] = {"strides": [2, 2], "pads": [padding] * 4}
        larger = net.timed("ConvTranspose", net.widened(inside), *weights, **window)
        net.narrowed(larger, outside, ends=True)


def _bytes(net: OperationNetwork) -> None:
    """Add what has kernels on bytes, and floats between them."""
    channels = net.channels(multiple=16)
    first, second = net.widened(channels), net.widened(channels)
    at = net.timed("Add", first, second)
    at = net.chain(net.timed("Mul", at, second), "Sigmoid", "LeakyRelu")
    at = net.timed("Mul", at, net.timed("GlobalAveragePool", at), form="_broadcast")
    at = net.timed("Add", at, net.factors(1, channels, 1, 1), form="_broadcast")
    net.narrowed(net.timed("Concat", at, first, axis=1), 2 * channels)
    _pools(net, second, channels)
    for _ in range(FLOATS_AT_ONCE):
        channels = net.channels()
        net.narrowed(net.timed("Exp", net.widened(channels)), channels, ends=True)


def _resized_bytes(net: OperationNetwork) -> None:
    channels = net.channels(values=SLOW_VALUES)
    scales = net.constant([1.0, 1.0, 2.0, 2.0])
    larger = net.timed("Resize", net.widened(channels), "", scales, kind="resize_nearest", **NEAREST)
    net.narrowed(larger, channels, ends=True)


def _token_bytes(net: OperationNetwork) -> None:
    """Add attention without what has no kernel on bytes."""
    heads = _heads(net)
    if heads:
        channels = heads * HEAD_WIDTH
        at = _as_tokens(net, channels)
        _attention(net, net.timed("MatMul", at, net.shared((channels, channels))), heads)


GROUPS = (
    *(_unary, _slow_unary, _blocked, _plain_pools, _joined, _moved, _tables),
    *(_resized, _tokens, _convolutions, _transposed, _vectors, _recurrent),
)
BYTEWISE_GROUPS = (_bytes, _resized_bytes, _token_bytes, _convolutions, _vectors)
