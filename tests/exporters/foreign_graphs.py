"""Graphs that users have run into, one kind of trouble each, written operation by operation."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TO_THE_END = 2**63 - 1
FLOATS, HALVES = TensorProto.FLOAT, TensorProto.FLOAT16
BYTES, WHOLE, BOOL = TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL
GRAPHS = {}


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A graph before it is made.

    Args:
        make: returns the model.
        refused: what ONNX Runtime says where it takes no such file, else empty.
        quantises: whether it is a network in fp32 of which an int8 form can be made.
    """

    make: Callable
    refused: str
    quantises: bool


def graph(function=None, *, refused="", quantises=True):
    """Register a function that returns a model."""
    if function is None:
        return functools.partial(graph, refused=refused, quantises=quantises)
    GRAPHS[function.__name__] = Graph(make=function, refused=refused, quantises=quantises and not refused)
    return function


class Drawing:
    """A graph while it is drawn; an operation reads the last tensor unless told otherwise."""

    def __init__(self, *shape, opset=17, kind=FLOATS, name="image"):
        self.numbers = np.random.default_rng(0)
        self.nodes, self.weights, self.inputs, self.last = [], [], [], name
        self.domains = {"": opset}
        self.functions = []
        self.channels = {}
        self.input(name, *(shape or (1, 3, 160, 160)), kind=kind)

    def input(self, name, *shape, kind=FLOATS):
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        self.channels[name] = shape[1] if len(shape) > 1 else 1
        return name

    def op(self, kind, *inputs, outputs=1, domain="", **attributes):
        """Add an operation; returns its output, or all of them where there are several."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{index}" for index in range(outputs)]
        read = list(inputs) or [self.last]
        self.nodes.append(helper.make_node(kind, read, names, name=f"node_{name}", domain=domain, **attributes))
        self.channels.update(dict.fromkeys(names, self.channels.get(read[0])))
        self.last = names[0]
        return names[0] if outputs == 1 else names

    def weight(self, values, dtype=np.float32):
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def random(self, *shape, scale=1.0, dtype=np.float32):
        return self.weight(self.numbers.standard_normal(shape) * scale, dtype)

    def integers(self, *values):
        return self.weight(values, np.int64)

    def conv(self, out, kernel=3, stride=1, *, source=None, group=1, dtype=np.float32, bias=True, **attributes):
        """Convolve, padded so that only the stride makes the map smaller."""
        source = source or self.last
        inner = self.channels[source] // group
        weights = [self.random(out, inner, kernel, kernel, scale=(2 / inner / kernel**2) ** 0.5, dtype=dtype)]
        weights += [self.random(out, scale=0.1, dtype=dtype)] if bias else []
        padded = {} if "auto_pad" in attributes else {"pads": [kernel // 2] * 4}
        settings = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], **padded, **attributes}
        result = self.op("Conv", source, *weights, group=group, **settings)
        self.channels[result] = out
        return result

    def block(self, out, kernel=3, stride=1, *, source=None, **attributes):
        self.conv(out, kernel, stride, source=source, **attributes)
        return self.op("Relu")

    def norm(self, source=None):
        source = source or self.last
        channels = self.channels[source]
        values = [self.numbers.uniform(0.7, 1.3, channels) for _ in range(4)]
        values[1:3] = [value - 1 for value in values[1:3]]  # shift and mean
        return self.op("BatchNormalization", source, *(self.weight(value) for value in values))

    def concat(self, *inputs, axis=1):
        result = self.op("Concat", *inputs, axis=axis)
        self.channels[result] = sum(self.channels[name] for name in inputs)
        return result

    def classifier(self, classes=100, source=None):
        channels = self.channels[source or self.last]
        self.op("GlobalAveragePool", source or self.last)
        self.op("Flatten")
        weights = self.random(classes, channels, scale=channels**-0.5), self.random(classes, scale=0.1)
        return self.op("Gemm", self.last, *weights, transB=1)

    def model(self, *outputs, kind=FLOATS, ir_version=8):
        made = helper.make_graph(
            self.nodes,
            "foreign",
            self.inputs,
            [helper.make_tensor_value_info(name, kind, None) for name in outputs or [self.last]],
            self.weights,
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.domains.items()]
        return helper.make_model(made, ir_version=ir_version, opset_imports=opsets, functions=self.functions)


def stem(*shape, **settings):
    """Return a drawing that begins as most networks do: two convolutions, to 32 channels of a quarter of the side."""
    drawing = Drawing(*shape, **settings)
    drawing.block(32, 3, 2)
    drawing.block(32, 3, 2)
    return drawing


# --- padding --------------------------------------------------------------------------------------------------------


def _padded(mode, value=None):
    drawing = stem()
    values = [] if value is None else [drawing.weight(value)]
    drawing.op("Pad", drawing.last, drawing.integers(0, 0, 1, 1, 0, 0, 1, 1), *values, mode=mode)
    drawing.block(64, pads=[0, 0, 0, 0])
    drawing.classifier()
    return drawing.model()


@graph
def reflected_padding():
    return _padded("reflect")


@graph
def padding_with_the_edge():
    return _padded("edge")


@graph
def padding_with_zero():
    return _padded("constant", 0.0)


@graph
def padding_with_one():
    return _padded("constant", 1.0)


@graph
def padding_that_the_operation_works_out():
    drawing = Drawing(1, 3, 225, 225)
    drawing.block(32, 3, 2, auto_pad="SAME_UPPER")
    drawing.block(64, 3, 2, auto_pad="SAME_LOWER")
    drawing.op("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    drawing.classifier()
    return drawing.model()


# --- int8 -------------------------------------------------------------------------------------------------------------


def _int8_conv(drawing, out, kernel=3, stride=1, *, source=None):
    """Convolve with weights of int8 that are turned into floats."""
    source = source or drawing.last
    inner = drawing.channels[source]
    values = drawing.weight(drawing.numbers.integers(-127, 128, (out, inner, kernel, kernel)), np.int8)
    scale = drawing.weight(np.full(out, (2 / inner / kernel**2) ** 0.5 / 73))
    zeros = drawing.weight(np.zeros(out), np.int8)
    weights = drawing.op("DequantizeLinear", values, scale, zeros, axis=0)
    pads = [kernel // 2] * 4
    result = drawing.op("Conv", source, weights, kernel_shape=[kernel, kernel], strides=[stride] * 2, pads=pads)
    drawing.channels[result] = out
    return result


def _rounded(drawing, scale=0.03):
    """Quantise the last tensor and turn it back."""
    facts = drawing.weight(scale), drawing.weight(128, np.uint8)
    drawing.op("QuantizeLinear", drawing.last, *facts)
    return drawing.op("DequantizeLinear", drawing.last, *facts)


@graph(quantises=False)
def int8_weights_alone():
    drawing = Drawing()
    for out, stride in ((32, 2), (64, 2), (64, 1)):
        _int8_conv(drawing, out, stride=stride)
        drawing.op("Relu")
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def relu_after_quantisation():
    """A file of quantisation-aware training: the numbers are rounded before the Relu and again after it."""
    drawing = Drawing()
    _rounded(drawing)
    for out, stride in ((32, 2), (64, 2), (64, 1)):
        _int8_conv(drawing, out, stride=stride)
        _rounded(drawing)
        drawing.op("Relu")
        _rounded(drawing)
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def relu_before_quantisation():
    drawing = Drawing()
    _rounded(drawing)
    for out, stride in ((32, 2), (64, 2), (64, 1)):
        _int8_conv(drawing, out, stride=stride)
        drawing.op("Relu")
        _rounded(drawing)
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def operations_on_int8():
    """An older form of int8: QLinearConv itself stands in the file."""
    drawing = Drawing()
    scale, zero = drawing.weight(0.03), drawing.weight(128, np.uint8)
    drawing.op("QuantizeLinear", drawing.last, scale, zero)
    for out, stride in ((32, 2), (64, 2)):
        inner = drawing.channels[drawing.last]
        weights = drawing.weight(drawing.numbers.integers(-127, 128, (out, inner, 3, 3)), np.int8)
        facts = weights, drawing.weight((2 / inner / 9) ** 0.5 / 73), drawing.weight(0, np.int8)
        read = [drawing.last, scale, zero, *facts, scale, zero]
        drawing.channels[drawing.op("QLinearConv", *read, strides=[stride] * 2, pads=[1] * 4)] = out
    drawing.op("DequantizeLinear", drawing.last, scale, zero)
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def int8_scaled_while_it_runs():
    drawing = stem()
    quantised, scale, zero = drawing.op("DynamicQuantizeLinear", outputs=3)
    weights = drawing.weight(drawing.numbers.integers(-127, 128, (64, 32, 3, 3)), np.int8)
    drawing.op("ConvInteger", quantised, weights, zero, pads=[1] * 4)
    drawing.op("Cast", to=FLOATS)
    drawing.op("Mul", drawing.last, scale)
    drawing.channels[drawing.op("Mul", drawing.last, drawing.weight((2 / 288) ** 0.5 / 73))] = 64
    drawing.classifier()
    return drawing.model()


# --- what images are made ready with ----------------------------------------------------------------------------------


@graph
def normalised_inside():
    drawing = Drawing(1, 3, 224, 224, opset=13)
    drawing.op("Sub", drawing.last, drawing.weight(np.reshape([123.7, 116.3, 103.5], (1, 3, 1, 1))))
    drawing.op("Div", drawing.last, drawing.weight(np.reshape([58.4, 57.1, 57.4], (1, 3, 1, 1))))
    drawing.block(32, 3, 2)
    drawing.block(64, 3, 2)
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def bytes_in_the_camera_s_order():
    drawing = Drawing(1, 224, 224, 3, opset=13, kind=BYTES)
    drawing.op("Cast", to=FLOATS)
    drawing.channels[drawing.op("Transpose", perm=[0, 3, 1, 2])] = 3
    drawing.op("Mul", drawing.last, drawing.weight(1 / 255))
    drawing.block(32, 3, 2)
    drawing.block(64, 3, 2)
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def several_inputs():
    """Two images and the size of the first one."""
    drawing = Drawing()
    drawing.input("mask", 1, 1, 160, 160)
    drawing.input("size", 1, 2)
    drawing.concat("image", "mask")
    drawing.block(32, 3, 2)
    drawing.conv(2)
    pooled = drawing.op("Flatten", drawing.op("GlobalAveragePool"))
    drawing.op("Mul", pooled, "size")
    return drawing.model()


@graph(quantises=False)
def words_and_an_image():
    drawing = stem()
    drawing.input("words", 1, 16, kind=WHOLE)
    pooled = drawing.op("Flatten", drawing.op("GlobalAveragePool", drawing.last))
    table = drawing.random(1000, 32, scale=0.3)
    words = drawing.op("ReduceMean", drawing.op("Gather", table, "words"), axes=[1], keepdims=0)
    drawing.op("Add", pooled, words)
    return drawing.model()


@graph(quantises=False)
def a_switch_as_input():
    drawing = stem()
    drawing.input("flipped", 1, kind=BOOL)
    end = drawing.integers(-TO_THE_END), drawing.integers(3), drawing.integers(-1)
    mirrored = drawing.op("Slice", drawing.last, drawing.integers(-1), *end)
    drawing.channels[drawing.op("Where", "flipped", mirrored, "relu_3")] = 32
    drawing.block(64)
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def halves():
    drawing = Drawing(kind=HALVES)
    for out, stride in ((32, 2), (64, 2), (64, 1)):
        drawing.block(out, 3, stride, dtype=np.float16)
    drawing.op("GlobalAveragePool")
    return drawing.model(kind=HALVES)


# --- sizes ------------------------------------------------------------------------------------------------------------


@graph
def batch_of_minus_one():
    drawing = stem(-1, 3, 160, 160)
    drawing.classifier()
    return drawing.model()


@graph
def free_batch():
    drawing = stem("batch", 3, 160, 160)
    drawing.classifier()
    return drawing.model()


@graph
def free_sides():
    drawing = stem("batch", 3, "height", "width")
    drawing.conv(21, 1)
    drawing.op("Sigmoid")
    return drawing.model()


@graph
def flattened_by_arithmetic():
    drawing = stem("batch", 3, 160, 160)
    pooled = drawing.op("GlobalAveragePool")
    batch = drawing.op("Gather", drawing.op("Shape", pooled), drawing.weight(0, np.int64), axis=0)
    sizes = drawing.op("Concat", drawing.op("Unsqueeze", batch, drawing.integers(0)), drawing.integers(-1), axis=0)
    drawing.op("Reshape", pooled, sizes)
    drawing.op("Gemm", drawing.last, drawing.random(100, 32, scale=0.2), drawing.random(100), transB=1)
    return drawing.model()


@graph(quantises=False)
def anchors_made_while_it_runs():
    """A detector's anchors, from a Range over the map's own width."""
    drawing = stem(1, 3, "height", "width")
    features = drawing.last
    width = drawing.op("Gather", drawing.op("Shape", features), drawing.weight(3, np.int64), axis=0)
    steps = drawing.op("Range", drawing.weight(0, np.int64), width, drawing.weight(1, np.int64))
    columns = drawing.op("Mul", drawing.op("Cast", steps, to=FLOATS), drawing.weight(4.0))
    drawing.op("Add", drawing.conv(8, 1, source=features), columns)
    return drawing.model()


@graph(quantises=False)
def as_many_answers_as_are_found():
    drawing = stem()
    drawing.conv(1, 1)
    found = drawing.op("Greater", drawing.last, drawing.weight(0.0))
    drawing.op("NonZero", found)
    return drawing.model(kind=WHOLE)


@graph(quantises=False)
def boxes_sorted_out_in_the_graph():
    drawing = stem()
    scores = drawing.op("Sigmoid", drawing.conv(1, 1))
    scores = drawing.op("Reshape", scores, drawing.integers(1, 1, -1))
    boxes = drawing.op("Reshape", drawing.conv(4, 1, source="relu_3"), drawing.integers(1, 4, -1))
    boxes = drawing.op("Transpose", boxes, perm=[0, 2, 1])
    limits = drawing.integers(20), drawing.weight([0.5]), drawing.weight([0.3])
    drawing.op("NonMaxSuppression", boxes, scores, *limits)
    return drawing.model(kind=WHOLE)


@graph
def slices_to_the_end_of_old():
    drawing = stem(opset=9)
    left = drawing.op("Slice", drawing.last, axes=[1], starts=[0], ends=[16])
    right = drawing.op("Slice", "relu_3", axes=[1], starts=[16], ends=[TO_THE_END])
    drawing.concat(right, left)
    drawing.channels[drawing.last] = 32
    drawing.block(64)
    drawing.classifier()
    return drawing.model(ir_version=4)


# --- operations and layouts -------------------------------------------------------------------------------------------


@graph
def preactivated():
    drawing = stem()
    for _ in range(2):
        shortcut = drawing.last
        drawing.op("Relu", drawing.norm())
        drawing.op("Relu", drawing.norm(drawing.conv(32)))
        drawing.op("Add", drawing.conv(32), shortcut)
    drawing.op("Relu", drawing.norm())
    drawing.classifier()
    return drawing.model()


@graph
def residuals():
    """Sums with an identity, a projection, a scaled branch, and one that two operations read."""
    drawing = stem()
    start = drawing.last
    first = drawing.op("Relu", drawing.op("Add", drawing.conv(32, source=drawing.block(32)), start))
    branch = drawing.conv(64, source=drawing.block(64, 3, 2))
    second = drawing.op("Relu", drawing.op("Add", branch, drawing.conv(64, 1, 2, source=first)))
    scaled = drawing.op("Mul", drawing.conv(64, source=second), drawing.weight(0.2))
    third = drawing.op("Add", scaled, second)
    fourth = drawing.op("Add", drawing.op("Relu", third), third)
    drawing.op("Add", drawing.op("Relu", drawing.conv(64, source=fourth)), fourth)
    drawing.classifier()
    return drawing.model()


@graph
def concat():
    drawing = stem()
    drawing.concat(drawing.block(24), drawing.block(20, source="relu_3"), "relu_3")
    drawing.block(64, 1)
    drawing.classifier()
    return drawing.model()


@graph
def split():
    drawing = stem(opset=13)
    left, right = drawing.op("Split", drawing.last, drawing.integers(16, 16), outputs=2, axis=1)
    drawing.channels.update({left: 16, right: 16})
    drawing.concat(drawing.block(16, source=left), right)
    drawing.block(64, 1)
    drawing.classifier()
    return drawing.model()


@graph
def slices():
    """Every second pixel, four times over."""
    drawing = Drawing(1, 3, 224, 224)
    parts = []
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        ends = drawing.integers(TO_THE_END, TO_THE_END)
        places = drawing.integers(row, column), ends, drawing.integers(2, 3), drawing.integers(2, 2)
        parts.append(drawing.op("Slice", "image", *places))
    drawing.concat(*parts)
    drawing.block(32, 3, 2)
    drawing.classifier()
    return drawing.model()


def _resized(mode, opset=13, **attributes):
    drawing = stem(opset=opset)
    deep = drawing.block(64, 3, 2)
    scales = drawing.weight([1, 1, 2, 2])
    large = drawing.op("Resize", deep, "", scales, mode=mode, **attributes)
    drawing.concat(large, "relu_3")
    drawing.block(32)
    drawing.conv(21, 1)
    return drawing.model()


@graph
def resize_to_the_nearest():
    return _resized("nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@graph
def resize_between_two():
    return _resized("linear", coordinate_transformation_mode="half_pixel")


@graph
def resize_with_aligned_corners():
    return _resized("linear", coordinate_transformation_mode="align_corners")


@graph
def resize_by_cubes():
    return _resized("cubic", coordinate_transformation_mode="half_pixel")


@graph
def upsample_of_old():
    drawing = stem(opset=9)
    deep = drawing.block(64, 3, 2)
    large = drawing.op("Upsample", deep, drawing.weight([1, 1, 2, 2]), mode="nearest")
    drawing.concat(large, "relu_3")
    drawing.conv(21, 1)
    return drawing.model(ir_version=4)


@graph
def transposed():
    """Channels shuffled, then put last and normed, then put first again."""
    drawing = stem()
    drawing.op("Reshape", drawing.last, drawing.integers(1, 2, 16, 40, 40))
    drawing.op("Transpose", perm=[0, 2, 1, 3, 4])
    drawing.channels[drawing.op("Reshape", drawing.last, drawing.integers(1, 32, 40, 40))] = 32
    drawing.conv(32)
    drawing.op("Transpose", perm=[0, 2, 3, 1])
    drawing.op("LayerNormalization", drawing.last, drawing.weight(np.ones(32)), drawing.weight(np.zeros(32)), axis=-1)
    drawing.channels[drawing.op("Transpose", perm=[0, 3, 1, 2])] = 32
    drawing.block(64)
    drawing.classifier()
    return drawing.model()


@graph
def conv_transpose():
    drawing = stem()
    weights = drawing.random(32, 16, 2, 2, scale=0.2), drawing.random(16, scale=0.1)
    drawing.channels[drawing.op("ConvTranspose", drawing.last, *weights, strides=[2, 2])] = 16
    drawing.op("Relu", drawing.norm())
    drawing.conv(4, 1)
    return drawing.model()


@graph
def pools():
    drawing = stem()
    drawing.block(32, 1)
    first = drawing.last
    window = {"kernel_shape": [5, 5], "strides": [1, 1], "pads": [2, 2, 2, 2]}
    drawing.concat(first, *(drawing.op("MaxPool", **window) for _ in range(3)))
    drawing.block(64, 1)
    drawing.op("AveragePool", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    drawing.op("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    drawing.op("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    drawing.op("GlobalMaxPool")
    return drawing.model()


@graph
def convolutions():
    """Dilated, grouped, depthwise, oblong, of widths that fill no block of eight."""
    drawing = stem()
    drawing.block(32, dilations=[2, 2], pads=[2, 2, 2, 2])
    drawing.block(32, group=4)
    drawing.block(32, 5, group=32)
    drawing.block(64, group=32)
    drawing.block(30)
    drawing.block(20, 1)
    drawing.block(20, group=20)
    drawing.block(20, group=5)
    weights = drawing.random(24, 20, 1, 7, scale=0.1)
    drawing.channels[drawing.op("Conv", drawing.last, weights, pads=[0, 3, 0, 3], kernel_shape=[1, 7])] = 24
    drawing.block(24, 1, 2)
    drawing.classifier()
    return drawing.model()


ACTIVATIONS = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.1},
    "HardSigmoid": {"alpha": 1 / 6},
    "HardSwish": {},
    "Sigmoid": {},
    "Tanh": {},
    "Elu": {},
    "Selu": {},
    "Softplus": {},
    "Softsign": {},
    "Mish": {},
    "Gelu": {"approximate": "none"},
}


@graph
def activations():
    """One after a convolution each; at the end those that are spelt out in several operations."""
    drawing = stem(opset=20)
    for kind, attributes in ACTIVATIONS.items():
        drawing.op(kind, drawing.conv(32), **attributes)
    drawing.op("Gelu", drawing.conv(32), approximate="tanh")
    drawing.op("Clip", drawing.conv(32), drawing.weight(0.0), drawing.weight(6.0))
    drawing.op("Clip", drawing.conv(32), drawing.weight(0.0))
    drawing.op("PRelu", drawing.conv(32), drawing.random(32, 1, 1, scale=0.2))
    drawing.classifier()
    return drawing.model(ir_version=10)


@graph
def activations_spelt_out():
    drawing = stem(opset=13)
    image = drawing.conv(32)
    drawing.op("Mul", image, drawing.op("Sigmoid", image))
    image = drawing.conv(32)
    drawing.op("Mul", image, drawing.op("HardSigmoid", image, alpha=1 / 6))
    image = drawing.conv(32)
    gate = drawing.op("Clip", drawing.op("Add", image, drawing.weight(3.0)), drawing.weight(0.0), drawing.weight(6.0))
    drawing.op("Div", drawing.op("Mul", image, gate), drawing.weight(6.0))
    image = drawing.conv(32)
    drawing.op("Mul", image, drawing.op("Tanh", drawing.op("Softplus", image)))
    image = drawing.conv(32)
    curve = drawing.op("Erf", drawing.op("Div", image, drawing.weight(2**0.5)))
    half = drawing.op("Mul", image, drawing.op("Add", curve, drawing.weight(1.0)))
    drawing.op("Mul", half, drawing.weight(0.5))
    drawing.classifier()
    return drawing.model()


@graph
def affine():
    """Batch norm and constants that follow no convolution, or one that others read too."""
    drawing = Drawing(opset=13)
    drawing.norm()
    first = drawing.conv(32, 3, 2)
    drawing.norm()
    drawing.op("Add", drawing.last, drawing.random(1, 32, 1, 1))
    drawing.op("Mul", drawing.last, drawing.random(1, 32, 1, 1))
    drawing.op("Add", drawing.last, first)
    drawing.op("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    drawing.norm()
    drawing.block(32)
    drawing.op("Mul", drawing.last, drawing.weight(0.5))
    drawing.op("Add", drawing.last, drawing.weight(1.0))
    drawing.op("Sub", drawing.last, drawing.random(1, 32, 40, 40))
    drawing.classifier()
    return drawing.model()


@graph
def squeeze_excite():
    drawing = stem()
    image = drawing.block(32)
    drawing.op("ReduceMean", image, axes=[2, 3], keepdims=1)
    drawing.op("Sigmoid", drawing.conv(32, 1, source=drawing.block(8, 1)))
    drawing.op("Mul", image, drawing.last)
    drawing.block(32)
    drawing.op("ReduceMean", drawing.last, axes=[2, 3], keepdims=0)
    return drawing.model()


@graph
def local_response_norm():
    drawing = Drawing(1, 3, 224, 224)
    drawing.block(64, 11, 4)
    drawing.op("LRN", size=5)
    drawing.op("MaxPool", kernel_shape=[3, 3], strides=[2, 2])
    drawing.block(96, 5)
    drawing.op("MaxPool", kernel_shape=[3, 3], strides=[2, 2])
    drawing.op("Dropout", drawing.op("Reshape", drawing.last, drawing.integers(1, 96 * 13 * 13)))
    drawing.op("Gemm", drawing.last, drawing.random(128, 96 * 169, scale=0.01), drawing.random(128), transB=1)
    drawing.op("Relu")
    drawing.op("MatMul", drawing.last, drawing.random(128, 100, scale=0.1))
    drawing.op("Softmax", drawing.op("Add", drawing.last, drawing.random(100)), axis=-1)
    return drawing.model()


@graph(quantises=False)
def text_by_lstm():
    drawing = stem(1, 3, 32, 128)
    drawing.op("MaxPool", kernel_shape=[8, 1], strides=[8, 1])
    drawing.op("Squeeze", drawing.last, drawing.integers(2))
    columns = drawing.op("Transpose", perm=[2, 0, 1])
    weights = drawing.random(2, 256, 32, scale=0.1), drawing.random(2, 256, 64, scale=0.1)
    drawing.op("LSTM", columns, *weights, outputs=1, hidden_size=64, direction="bidirectional")
    drawing.op("Transpose", perm=[0, 2, 1, 3])
    drawing.op("Reshape", drawing.last, drawing.integers(0, 0, -1))
    drawing.op("MatMul", drawing.last, drawing.random(128, 97, scale=0.1))
    return drawing.model()


@graph
def one_dimension():
    drawing = Drawing(1, 16, 1000)
    weights = drawing.random(32, 16, 9, scale=0.1), drawing.random(32, scale=0.1)
    drawing.op("Relu", drawing.op("Conv", drawing.last, *weights, pads=[4, 4], strides=[2]))
    drawing.op("Conv", drawing.last, drawing.random(32, 32, 3, scale=0.1))
    return drawing.model()


@graph(quantises=False)
def three_dimensions():
    drawing = Drawing(1, 3, 8, 56, 56)
    drawing.op("Conv", drawing.last, drawing.random(16, 3, 3, 3, 3, scale=0.1), pads=[1] * 6)
    drawing.op("Relu")
    drawing.op("Conv", drawing.last, drawing.random(16, 16, 3, 3, 3, scale=0.1), strides=[2, 2, 2])
    return drawing.model()


@graph
def group_normalization():
    drawing = stem(opset=21)
    drawing.conv(32)
    factors = drawing.weight(np.ones(32)), drawing.weight(np.zeros(32))
    drawing.op("Relu", drawing.op("GroupNormalization", drawing.last, *factors, num_groups=8))
    drawing.conv(32)
    drawing.op("Relu", drawing.op("InstanceNormalization", drawing.last, *factors))
    drawing.classifier()
    return drawing.model(ir_version=10)


# --- how files are written --------------------------------------------------------------------------------------------


@graph(refused="HardSwish")
def hard_swish_before_its_time():
    drawing = stem(opset=13)
    drawing.op("HardSwish")
    return drawing.model()


@graph(quantises=False)
def gelu_of_the_runtime_s_own():
    drawing = stem()
    drawing.domains["com.microsoft"] = 1
    drawing.op("Gelu", drawing.conv(32), domain="com.microsoft")
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def optimised_already():
    """A file that ONNX Runtime wrote at a lower level."""
    drawing = Drawing()
    drawing.domains["com.microsoft"] = 1
    for out in (32, 64):
        inner = drawing.channels[drawing.last]
        weights = drawing.random(out, inner, 3, 3, scale=(2 / inner / 9) ** 0.5), drawing.random(out, scale=0.1)
        settings = {"strides": [2, 2], "pads": [1] * 4, "kernel_shape": [3, 3], "activation": "Relu"}
        drawing.channels[drawing.op("FusedConv", drawing.last, *weights, domain="com.microsoft", **settings)] = out
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def weights_as_inputs():
    """A file of the first years: every weight is an input with a default, so nothing may be folded."""
    drawing = stem(opset=9)
    drawing.op("Relu", drawing.norm(drawing.conv(32)))
    drawing.classifier()
    for tensor in drawing.weights:
        drawing.inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return drawing.model(ir_version=3)


@graph
def weights_as_operations():
    """A file in which every weight is an operation, Constant."""
    model = residuals()
    constants = [
        helper.make_node("Constant", [], [tensor.name], name=f"constant_{tensor.name}", value=tensor)
        for tensor in model.graph.initializer
    ]
    del model.graph.initializer[:]
    nodes = [*constants, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@graph
def views():
    drawing = stem()
    drawing.op("Identity")
    drawing.conv(32)
    drawing.op("Dropout")
    drawing.op("Relu")
    drawing.op("GlobalAveragePool")
    drawing.op("Squeeze", drawing.last, drawing.integers(2, 3))
    drawing.op("Unsqueeze", drawing.last, drawing.integers(2, 3))
    drawing.op("Flatten")
    drawing.op("Gemm", drawing.last, drawing.random(32, 10, scale=0.2))
    drawing.op("Softmax", axis=-1)
    return drawing.model()


@graph(quantises=False)
def a_function_of_the_file_s_own():
    drawing = stem()
    drawing.domains["own"] = 1
    gate = helper.make_node("Sigmoid", ["a"], ["b"])
    product = helper.make_node("Mul", ["a", "b"], ["c"])
    opset = [helper.make_opsetid("", 17)]
    drawing.functions.append(helper.make_function("own", "Silu", ["a"], ["c"], [gate, product], opset))
    drawing.op("Silu", drawing.conv(32), domain="own")
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def a_loop():
    drawing = stem()
    state, state_out = (helper.make_tensor_value_info(name, FLOATS, (1, 32, 40, 40)) for name in ("before", "after"))
    count, going, going_out = (
        helper.make_tensor_value_info(name, kind, ())
        for name, kind in (("count", WHOLE), ("going", BOOL), ("going_on", BOOL))
    )
    nodes = [
        helper.make_node("Conv", ["before", "weight_0_again"], ["convolved"], name="inner_conv", pads=[1] * 4),
        helper.make_node("Relu", ["convolved"], ["after"], name="inner_relu"),
        helper.make_node("Identity", ["going"], ["going_on"], name="inner_going"),
    ]
    again = numpy_helper.from_array(
        drawing.numbers.standard_normal((32, 32, 3, 3)).astype(np.float32) / 12, "weight_0_again"
    )
    body = helper.make_graph(nodes, "body", [count, going, state], [going_out, state_out], [again])
    times = drawing.weight(3, np.int64), drawing.weight(True, np.bool_)
    drawing.channels[drawing.op("Loop", *times, drawing.last, body=body)] = 32
    drawing.classifier()
    return drawing.model()


@graph(quantises=False)
def a_choice():
    """Which branch runs depends on the image."""
    drawing = stem()
    features = drawing.last
    mean = drawing.op("ReduceMean", features, axes=[0, 1, 2, 3], keepdims=0)
    condition = drawing.op("Greater", mean, drawing.weight(0.5))
    branches = []
    for kind in ("Relu", "Sigmoid"):
        output = helper.make_tensor_value_info(f"of_{kind}", FLOATS, (1, 32, 40, 40))
        node = helper.make_node(kind, [features], [f"of_{kind}"], name=f"node_{kind}")
        branches.append(helper.make_graph([node], kind, [], [output]))
    drawing.op("If", condition, then_branch=branches[0], else_branch=branches[1])
    drawing.channels[drawing.last] = 32
    drawing.classifier()
    return drawing.model()


def weights_beside(folder):
    """Write a file whose weights lie in another one beside it; return its path.

    Args:
        folder: an empty one.
    """
    path = folder / "beside.onnx"
    onnx.save(residuals(), path, save_as_external_data=True, location="beside.onnx.data", size_threshold=0)
    return path
