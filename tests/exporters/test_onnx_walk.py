"""Any ONNX graph is walked: what a runtime merges is one layer, what no table holds is listed, nothing is dropped."""

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from any_network import architectures
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepmad_hw.errors import NotCoveredError
from deepmad_hw.exporters import onnx_counts, onnx_read
from deepmad_hw.exporters.onnx_graph import export_model, initial_weights, to_onnx
from deepmad_hw.exporters.onnx_walk import walk
from deepmad_hw.network import costs, families, reference
from deepmad_hw.network.expand import expand


class Drawing:
    """An ONNX graph while it is drawn; every operation reads the last one unless told otherwise."""

    def __init__(self, *shape):
        self.shape = shape or (1, 16, 8, 8)
        self.nodes, self.weights, self.last = [], [], "x"

    def op(self, kind, *inputs, name=None, **attributes):
        output = name or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs or [self.last], [output], name=name or output, **attributes))
        self.last = output
        return output

    def weight(self, *shape, value=1.0, dtype=np.float32):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.full(shape, value, dtype=dtype), name))
        return name

    def conv(self, out, in_channels, *, kernel=1, source=None, name=None, bias=True, **attributes):
        weights = [self.weight(out, in_channels // attributes.get("group", 1), kernel, kernel)]
        weights += [self.weight(out)] if bias else []
        attributes = {"pads": [kernel // 2] * 4, **attributes}
        return self.op("Conv", source or self.last, *weights, name=name, **attributes)

    def norm(self, channels):
        return self.op("BatchNormalization", self.last, *(self.weight(channels) for _ in range(4)))

    def model(self, *outputs):
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs or [self.last]],
            self.weights,
        )
        return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])

    def walk(self, *outputs):
        return walk(self.model(*outputs))


def kinds(found):
    return [each.spec.kind for each in found.operations]


def activations(found):
    return [node.spec.activation for node in found.nodes]


def kept(nodes):
    """Return nodes without what folding a batch norm makes of them."""
    return [(node.name, node.spec, node.inputs) for node in nodes]


FAMILIES = [(name, activation) for name in families.names() for activation in families.get(name).activations]


@pytest.mark.parametrize(("family", "activation"), FAMILIES)
def test_our_own_designs_are_walked_as_they_were_expanded(small, family, activation):
    graph = expand(small(family, resolution=(64, 96), activation=activation))
    found = walk(export_model(graph, initial_weights(graph)))
    assert kept(found.nodes) == kept(graph)
    assert (found.uncovered, found.notes, found.precision) == ((), (), "fp32")
    unfolded = walk(export_model(graph, initial_weights(graph), fold_norm=False, batch="n"))
    assert unfolded.nodes == graph.nodes


@pytest.mark.parametrize("name", reference.names())
def test_reference_networks_are_walked_as_they_are(name):
    graph = reference.get(name, resolution=(64, 64), classes=10)
    model = export_model(graph, initial_weights(graph))
    assert kept(walk(model).nodes) == kept(graph)


@pytest.mark.parametrize(
    ("kind", "attributes", "activation"),
    [
        ("Relu", {}, "relu"),
        ("HardSigmoid", {"alpha": 1 / 6}, "hardsigmoid"),
        ("HardSwish", {}, "hardswish"),
        ("Sigmoid", {}, "sigmoid"),
    ],
)
def test_norm_sum_and_activation_go_into_the_convolution_before_them(kind, attributes, activation):
    drawing = Drawing()
    drawing.conv(16, 16, kernel=3, name="conv", bias=False)
    drawing.norm(16)
    drawing.op("Add", drawing.last, "x")
    drawing.op(kind, **attributes)
    (node,) = drawing.walk().nodes
    assert (node.name, node.inputs, node.norm, node.bias) == ("conv", ("image", "image"), True, False)
    assert (node.spec.kernel, node.spec.residual, node.spec.activation) == (3, True, activation)


@pytest.mark.parametrize(("kind", "operation"), [("LeakyRelu", "leaky_relu"), ("Clip", "clip")])
def test_a_limit_behind_a_sum_is_an_operation_of_its_own(kind, operation):
    drawing = Drawing()
    drawing.conv(16, 16)
    drawing.op("Add", drawing.last, "x")
    drawing.op(kind, drawing.last, *([drawing.weight(value=0.0), drawing.weight(value=6.0)] if kind == "Clip" else []))
    found = drawing.walk()
    assert (activations(found), kinds(found)) == (["none"], [operation])


def test_a_leaky_relu_is_merged_like_a_relu():
    drawing = Drawing()
    drawing.conv(16, 16)
    drawing.op("LeakyRelu", name="leaky")
    found = drawing.walk()
    assert (activations(found), kinds(found)) == (["relu"], [])
    assert found.notes == ("leaky: LeakyRelu is merged into its layer as relu would be",)


def test_only_a_constant_for_each_channel_goes_into_a_convolution():
    drawing = Drawing()
    drawing.conv(16, 16)
    drawing.op("Add", drawing.last, drawing.weight(16, 1, 1))
    drawing.conv(16, 16)
    drawing.op("Add", drawing.last, drawing.weight())
    found = drawing.walk()
    assert (len(found.nodes), kinds(found)) == (2, ["add_broadcast"])


def test_a_clip_is_relu6_and_a_swish_in_two_operations_is_silu():
    drawing = Drawing()
    drawing.conv(16, 16)
    drawing.op("Clip", drawing.last, drawing.weight(value=0.0), drawing.weight(value=6.0))
    conv = drawing.conv(32, 16)
    drawing.op("Mul", conv, drawing.op("Sigmoid"))
    assert activations(drawing.walk()) == ["relu6", "silu"]


@pytest.mark.parametrize("divide_first", [True, False])
def test_hardswish_spelt_out_is_four_operations(divide_first):
    """The runtime runs them one by one, each over the whole map."""
    drawing = Drawing()
    conv = drawing.conv(16, 16)
    drawing.op("Add", conv, drawing.weight(value=3.0))
    drawing.op("Clip", drawing.last, drawing.weight(value=0.0), drawing.weight(value=6.0))
    steps = [
        lambda: drawing.op("Div", drawing.last, drawing.weight(value=6.0)),
        lambda: drawing.op("Mul", conv, drawing.last),
    ]
    for step in steps if divide_first else steps[::-1]:
        step()
    found = drawing.walk()
    assert (activations(found), found.uncovered) == (["none"], ())
    last = ["div_broadcast", "mul"]
    assert kinds(found) == ["add_broadcast", "clip", *(last if divide_first else last[::-1])]


def test_a_gate_of_hardsigmoid_is_two_operations():
    drawing = Drawing()
    conv = drawing.conv(16, 16)
    drawing.op("Mul", drawing.op("HardSigmoid", alpha=1 / 6), conv)
    found = drawing.walk()
    assert (activations(found), kinds(found), found.uncovered) == (["none"], ["hardsigmoid", "mul"], ())


def test_a_swish_that_follows_no_convolution_is_one_operation():
    drawing = Drawing()
    pooled = drawing.op("MaxPool", kernel_shape=[2, 2])
    drawing.op("Mul", drawing.op("Sigmoid"), pooled)
    found = drawing.walk()
    assert (kinds(found), found.uncovered) == (["silu"], ())


def test_what_others_read_is_not_merged():
    drawing = Drawing(1, 16, 64, 64)
    conv = drawing.conv(16, 16, name="conv")
    drawing.op("Relu", name="relu")
    drawing.op("Add", drawing.last, conv)
    found = drawing.walk()
    assert [node.spec.op for node in found.nodes] == ["conv", "add"]
    assert activations(found) == ["none", "none"]
    assert [(each.name, each.spec.kind) for each in found.operations] == [("relu", "relu")]
    assert found.nodes[1].inputs == ("relu", "conv")


def test_an_output_of_the_network_is_not_merged():
    drawing = Drawing(1, 16, 64, 64)
    conv = drawing.conv(16, 16)
    drawing.op("Relu", name="relu")
    found = drawing.walk(conv, "relu")
    assert (activations(found), kinds(found)) == (["none"], ["relu"])


def test_a_sum_goes_into_the_first_convolution_that_is_free():
    drawing = Drawing()
    first, second = drawing.conv(16, 16, name="first", source="x"), drawing.conv(16, 16, name="second", source="x")
    drawing.op("Add", second, first)
    drawing.op("Relu")
    nodes = {node.name: node for node in drawing.walk().nodes}
    assert (nodes["second"].inputs, nodes["second"].spec.activation) == (("image", "first"), "relu")
    assert not nodes["first"].spec.residual


@pytest.mark.parametrize("spelling", ["conv", "linear"])
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "AveragePool"])
@pytest.mark.parametrize("factor_first", [True, False])
def test_squeeze_excite_is_known_however_it_is_spelt(spelling, pool, factor_first):
    drawing = Drawing()
    source = drawing.conv(16, 16, name="conv")
    drawing.op(pool, source, **({"kernel_shape": [8, 8]} if pool == "AveragePool" else {}))
    if spelling == "conv":
        drawing.conv(4, 16)
        drawing.op("Relu")
        drawing.conv(16, 4)
    else:
        drawing.op("Flatten")
        drawing.op("Gemm", drawing.last, drawing.weight(4, 16), drawing.weight(4), transB=1)
        drawing.op("Relu")
        drawing.op("MatMul", drawing.last, drawing.weight(4, 16))
        drawing.op("Add", drawing.last, drawing.weight(16))
    drawing.op("Sigmoid")
    if spelling == "linear":
        drawing.op("Unsqueeze", drawing.last, drawing.weight(2, dtype=np.int64))
        drawing.weights[-1] = numpy_helper.from_array(np.array([2, 3]), drawing.weights[-1].name)
    drawing.op("Mul", *((drawing.last, source) if factor_first else (source, drawing.last)), name="scaled")
    found = drawing.walk()
    assert [node.spec.op for node in found.nodes] == ["conv", "global_pool", spelling, spelling, "scale"]
    assert activations(found) == ["none", "none", "relu", "sigmoid", "none"]
    assert found.nodes[-1].inputs == ("conv", found.nodes[-2].name)
    assert all(node.bias for node in found.nodes[2:4])
    assert found.uncovered == ()


def test_groups_strides_and_depthwise_are_kept():
    drawing = Drawing(1, 16, 9, 15)
    drawing.conv(16, 16, kernel=3, group=16, strides=[2, 2])
    drawing.conv(32, 16, kernel=3, group=4)
    first, second = (node.spec for node in drawing.walk().nodes)
    assert (first.depthwise, first.stride, first.out_height, first.out_width) == (True, 2, 5, 8)
    assert (second.groups, second.height, second.width) == (4, 5, 8)


@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 1, 0, 0]])
def test_padding_on_one_side_costs_what_padding_on_both_does(pads):
    drawing = Drawing()
    drawing.conv(16, 16, kernel=3, strides=[2, 2], pads=pads)
    found = drawing.walk()
    assert (found.nodes[0].spec.height, found.nodes[0].spec.out_height, found.notes) == (8, 4, ())


def test_a_window_without_padding_is_counted_by_what_it_returns():
    drawing = Drawing()
    drawing.conv(16, 16, kernel=3, pads=[0, 0, 0, 0], name="conv")
    found = drawing.walk()
    assert (found.nodes[0].spec.height, found.nodes[0].spec.out_height) == (6, 6)
    assert found.notes == ("conv: is padded otherwise, counted as 6x6 pixels",)


def test_a_padding_before_a_convolution_is_merged():
    drawing = Drawing()
    drawing.op("Pad", "x", drawing.weight(8, dtype=np.int64))
    drawing.weights[-1] = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), drawing.weights[-1].name)
    drawing.conv(16, 16, kernel=3, pads=[0, 0, 0, 0])
    found = drawing.walk()
    assert (found.nodes[0].spec.height, found.nodes[0].inputs, found.uncovered) == (8, ("image",), ())


@pytest.mark.parametrize(
    ("kind", "attributes", "op", "side"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}, "max_pool", 8),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, "max_pool", 8),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4}, "avg_pool", 8),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, "max_pool", 8),
    ],
)
def test_pools_are_layers(kind, attributes, op, side):
    drawing = Drawing()
    drawing.op(kind, **attributes)
    (node,) = drawing.walk().nodes
    assert (node.spec.op, node.spec.height, node.spec.kernel) == (op, side, attributes["kernel_shape"][0])


def test_shapes_that_are_computed_are_looked_through():
    """Older exporters write ``flatten`` as arithmetic on the tensor's own shape."""
    drawing = Drawing("n", 16, 8, 8)
    drawing.op("GlobalAveragePool", "x")
    pooled = drawing.last
    drawing.op("Gather", drawing.op("Shape"), drawing.weight(1, value=0, dtype=np.int64))
    drawing.op("Concat", drawing.last, drawing.weight(1, value=-1, dtype=np.int64), axis=0)
    drawing.op("Reshape", pooled, drawing.last)
    drawing.op("Gemm", drawing.last, drawing.weight(10, 16), drawing.weight(10), transB=1)
    found = drawing.walk()
    assert [node.spec.op for node in found.nodes] == ["global_pool", "linear"]
    assert found.uncovered == ()


MAP, SMALL = 16 * 64 * 64, 16 * 32 * 32  # values


@pytest.mark.parametrize(
    ("draw", "amounts"),
    [
        (lambda d: d.op("Concat", "x", d.last, axis=1, name="it"), ("concat", 2 * MAP, 2 * MAP, 0, 0)),
        (lambda d: d.op("Transpose", perm=[0, 2, 3, 1], name="it"), ("transpose", MAP, MAP, 0, 0)),
        (lambda d: d.op("Softplus", name="it"), ("softplus", MAP, MAP, 0, 0)),
        (lambda d: d.op("Mul", d.last, "x", name="it"), ("mul", 2 * MAP, MAP, 0, 0)),
        (lambda d: d.op("Add", d.last, d.weight(16, 1, 1), name="it"), ("add_broadcast", MAP, MAP, 0, 16)),
        (lambda d: d.op("MatMul", d.last, d.weight(64, 4), name="it"), ("matmul", MAP, MAP // 16, 4 * MAP, 256)),
        (
            lambda d: d.conv(8, 16, kernel=3, dilations=[2, 2], name="it", bias=False),
            ("conv", MAP, 8 * 62 * 62, 8 * 62 * 62 * 16 * 9, 8 * 16 * 9),
        ),
        (
            lambda d: d.op("Conv", d.last, d.weight(8, 16, 1, 3), name="it"),
            ("conv", MAP, 8 * 64 * 62, 8 * 64 * 62 * 16 * 3, 8 * 16 * 3),
        ),
        (
            lambda d: d.op("ConvTranspose", d.last, d.weight(16, 8, 2, 2), strides=[2, 2], name="it"),
            ("conv_transpose", MAP, 2 * MAP, MAP * 8 * 4, 16 * 8 * 4),
        ),
        (
            lambda d: d.op("Relu", d.op("MaxPool", kernel_shape=[2, 2], strides=[2, 2]), name="it"),
            ("relu", SMALL, SMALL, 0, 0),
        ),
        (lambda d: d.op("ReduceMean", d.last, name="it"), ("reduce", MAP, 1, 0, 0)),
        (lambda d: d.op("MaxPool", kernel_shape=[1, 3], name="it"), ("max_pool", MAP, 16 * 64 * 62, 48 * 64 * 62, 0)),
        (lambda d: d.op("Slice", d.last, *sliced(d), name="it"), ("slice", MAP, MAP // 2, 0, 0)),
        (None, None),
    ],
)
def test_what_is_no_layer_is_known_by_its_work(draw, amounts):
    drawing = Drawing(1, 16, 64, 64)
    drawing.conv(16, 16, name="conv")
    drawing.op("Relu")
    if amounts is None:
        drawing.op("Pad", drawing.last, padding(drawing, 0, 0, 1, 1, 0, 0, 1, 1), mode="reflect", name="it")
        amounts = ("pad", MAP, 16 * 66 * 66, 0, 0)
        drawing.conv(16, 16, kernel=3, pads=[0] * 4)
    else:
        draw(drawing)
    found = drawing.walk()
    (it,) = (each.spec for each in found.operations if each.name == "it")
    assert (it.kind, it.read_values, it.written_values, it.macs, it.weight_values) == amounts
    assert found.nodes[0].name == "conv"
    assert found.uncovered == ()


def padding(drawing, *values):
    name = drawing.weight(len(values), dtype=np.int64)
    drawing.weights[-1] = numpy_helper.from_array(np.array(values), name)
    return name


def sliced(drawing):
    """Return start, end and axis that take the upper half of the channels."""
    return [padding(drawing, value) for value in (8, 2**63 - 1, 1)]


def test_a_norm_before_any_convolution_is_a_depthwise_one():
    drawing = Drawing()
    drawing.norm(16)
    drawing.op("Relu")
    drawing.conv(16, 16)
    found = drawing.walk()
    values = 16 * 8 * 8
    (spec,) = (each.spec for each in found.operations)
    assert (spec.kind, spec.read_values, spec.macs, spec.weight_values) == ("depthwise_conv", values, values, 32)
    assert (found.nodes[0].inputs, activations(found)) == ((drawing.nodes[0].name,), ["none"])


def test_weights_kept_in_bytes_are_made_floats_in_every_run():
    """Only the weights are quantised: the convolution runs on floats, which the runtime makes anew each time."""
    drawing = Drawing()
    weight = drawing.weight(16, 16, 3, 3, dtype=np.int8, value=1)
    drawing.op("DequantizeLinear", weight, drawing.weight(value=0.1))
    drawing.op("Conv", "x", drawing.last, name="conv")
    found = drawing.walk()
    assert found.precision == "fp32"
    assert [(each.name, each.spec.kind, each.spec.read_values) for each in found.operations] == [
        ("conv.weight", "dequantize", 16 * 16 * 9)
    ]


def test_an_activation_behind_a_quantiser_is_an_operation_of_its_own():
    drawing = Drawing()
    scale, zero = drawing.weight(value=0.1), drawing.weight(dtype=np.uint8)
    steps = ("x", scale, zero)
    image = drawing.op("DequantizeLinear", drawing.op("QuantizeLinear", *steps), scale, zero)
    weight = drawing.op("DequantizeLinear", drawing.weight(16, 16, 1, 1, dtype=np.int8, value=1), scale)
    drawing.op("Conv", image, weight, name="conv")
    drawing.op("DequantizeLinear", drawing.op("QuantizeLinear", drawing.last, scale, zero), scale, zero)
    drawing.op("Relu", name="relu")
    found = drawing.walk()
    assert [(each.name, each.spec.kind, each.spec.value_type) for each in found.operations] == [
        ("relu", "relu", "int8")
    ]
    assert (found.precision, len(found.nodes)) == ("int8", 1)


def test_every_operation_stands_in_one_place():
    drawing = Drawing()
    drawing.conv(16, 16, kernel=3, name="conv", bias=False)
    drawing.norm(16)
    drawing.op("Add", drawing.last, "x")
    drawing.op("Relu", name="relu")
    drawing.op("Concat", drawing.last, "x", axis=1, name="concat")
    found = drawing.walk()
    assert list(found.members) == ["conv", "concat"]
    made = [tensor for tensors in found.members.values() for tensor in tensors]
    assert sorted(made) == sorted(node.output[0] for node in drawing.nodes)


def test_a_graph_that_computes_nothing_is_said():
    drawing = Drawing()
    drawing.op("Identity")
    assert drawing.walk().uncovered == ("the whole graph: computes nothing",)


def test_shapes_that_do_not_meet_are_an_error():
    drawing = Drawing()
    drawing.op("Conv", "x", drawing.weight(4, 16, 1))
    with pytest.raises(NotCoveredError, match="its shapes do not meet"):
        drawing.walk()


def test_a_free_batch_is_one_image():
    drawing = Drawing("n", 16, 8, 8)
    drawing.conv(16, 16)
    drawing.op("GlobalAveragePool")
    drawing.op("Flatten")
    drawing.op("Gemm", drawing.last, drawing.weight(16, 10))
    assert [node.spec.op for node in drawing.walk().nodes] == ["conv", "global_pool", "linear"]


def test_a_product_of_many_rows_is_no_classifier_but_counts_every_row():
    drawing = Drawing(1, 16, 8, 8)
    drawing.op("Transpose", drawing.last, perm=[0, 2, 3, 1])
    drawing.op("Reshape", drawing.last, drawing.weight(2, dtype=np.int64))
    drawing.weights[-1] = numpy_helper.from_array(np.array([64, 16]), drawing.weights[-1].name)
    drawing.op("Gemm", drawing.last, drawing.weight(16, 40), name="tokens")
    found = drawing.walk()
    assert not found.nodes
    (product,) = [each.spec for each in found.operations if each.name == "tokens"]
    assert (product.kind, product.macs, product.weight_values) == ("matmul", 64 * 16 * 40, 16 * 40)


def test_half_precision_is_told():
    graph = reference.get("resnet18", resolution=(32, 32), classes=4)
    model = export_model(graph, initial_weights(graph))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    found = walk(model)
    assert found.precision == "fp16"
    assert kept(found.nodes) == kept(graph)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenet_v3_large"])
def test_quantised_networks_are_walked_like_their_originals(name, tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    graph = reference.get(name, resolution=(64, 64), classes=4)
    onnx.save_model(export_model(graph, initial_weights(graph)), tmp_path / "whole.onnx")

    class Images(quantization.CalibrationDataReader):
        left = 1

        def get_next(self):
            self.left -= 1
            image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
            return {"image": image} if self.left >= 0 else None

    quantization.quantize_static(
        tmp_path / "whole.onnx",
        tmp_path / "int8.onnx",
        Images(),
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )
    found = walk(onnx_read.load(tmp_path / "int8.onnx"))
    assert found.uncovered == ()
    assert found.precision == "int8"
    assert [(node.spec, node.inputs) for node in found.nodes] == [(node.spec, node.inputs) for node in graph]


def test_a_convolution_left_in_another_precision_is_known_by_its_work():
    drawing = Drawing()
    scale, zero = drawing.weight(value=0.1), drawing.weight(value=0, dtype=np.uint8)
    drawing.op("DequantizeLinear", drawing.op("QuantizeLinear", "x", scale, zero), scale, zero)
    drawing.conv(16, 16, name="whole")
    drawing.op("Relu")
    drawing.conv(16, 16, name="stranger")
    found = drawing.walk()
    assert found.precision == "int8"
    (stranger,) = found.operations
    assert (stranger.name, stranger.spec.kind, stranger.spec.value_type) == ("stranger", "conv", "fp32")
    assert (stranger.spec.macs, [node.name for node in found.nodes]) == (16 * 16 * 64, ["whole"])


@pytest.mark.filterwarnings("ignore")  # of torch's own making
def test_the_walk_of_a_torch_export_is_the_network(tmp_path):
    """A squeeze-excite residual block, as torch's own exporter writes it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="torch exports ONNX through onnxscript")

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Sequential(
                torch.nn.Conv2d(3, 16, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(16), torch.nn.Hardswish()
            )
            self.conv = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, 1, 1, groups=16), torch.nn.SiLU())
            self.reduce, self.expand = torch.nn.Conv2d(16, 4, 1), torch.nn.Conv2d(4, 16, 1)
            self.last = torch.nn.Conv2d(16, 16, 1)
            self.classifier = torch.nn.Linear(16, 5)

        def forward(self, image):
            source = self.stem(image)
            maps = self.conv(source)
            gate = torch.nn.functional.adaptive_avg_pool2d(maps, 1)
            gate = torch.nn.functional.hardsigmoid(self.expand(torch.relu(self.reduce(gate))))
            maps = torch.relu(self.last(maps * gate) + source)
            return torch.nn.functional.softmax(self.classifier(maps.mean((2, 3))), dim=1)

    file = tmp_path / "block.onnx"
    program = torch.onnx.export(Block().eval(), (torch.zeros(1, 3, 32, 32),), dynamo=True, verbose=False)
    program.save(file, external_data=False)
    found = walk(onnx_read.load(file))
    assert found.uncovered == ()
    assert [(node.spec.op, node.spec.activation, node.spec.residual) for node in found.nodes] == [
        ("conv", "hardswish", False),
        ("conv", "silu", False),
        ("conv", "relu", False),
        ("conv", "hardsigmoid", False),
        ("scale", "none", False),
        ("conv", "relu", True),
        ("linear", "none", False),
    ]
    assert kinds(found) == ["reduce", "reduce", "softmax"]
    assert found.nodes[1].spec.depthwise


def test_multiply_adds_of_the_walk_are_those_of_the_file():
    graph = reference.get("efficientnet_b0", resolution=(64, 64))
    model = export_model(graph, initial_weights(graph))
    nodes = walk(model).nodes
    assert costs.macs(replace(graph, nodes=nodes)) == onnx_counts.counts(model).macs


# --- any network ----------------------------------------------------------------------------------------------------


def shapes_only(name, shape):
    return TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)


@settings(max_examples=100)
@given(architectures(), st.booleans(), st.sampled_from([1, 8, "n"]))
def test_the_walk_of_any_exported_network_is_that_network(architecture, fold_norm, batch):
    graph = expand(architecture)
    model = to_onnx(graph, shapes_only, fold_norm=fold_norm, batch=batch)
    found = walk(model)
    assert (found.uncovered, found.notes) == ((), ())
    assert kept(found.nodes) == kept(graph)
    assert fold_norm or found.nodes == graph.nodes
    assert costs.macs(replace(graph, nodes=found.nodes)) == costs.macs(architecture) == onnx_counts.counts(model).macs


def scrambled(model, chance, opset):
    """Return a model with other names, in another order that still runs, and what its operations are called now."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    tensors = {name for node in graph.node for name in (*node.input, *node.output)}
    numbers = chance.sample(range(len(tensors)), k=len(tensors))
    tensor = {name: f"t{number}" for name, number in zip(sorted(tensors), numbers, strict=True)}
    names = {node.name: f"n{number}" for number, node in enumerate(chance.sample(list(graph.node), k=len(graph.node)))}
    for node in graph.node:
        node.name = names[node.name]
        node.input[:] = [tensor[name] for name in node.input]
        node.output[:] = [tensor[name] for name in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = tensor[value.name]
    known, waiting, ordered = {value.name for value in (*graph.input, *graph.initializer)}, list(graph.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        ordered.append(chance.choice(ready))
        known.update(ordered[-1].output)
        waiting.remove(ordered[-1])
    del graph.node[:]
    graph.node.extend(ordered)
    copy.opset_import[0].version = opset
    return copy, names


# All operations that the exporter writes are the same in these; 20 is what it writes.
@settings(max_examples=100)
@given(architectures(), st.booleans(), st.randoms(use_true_random=False), st.sampled_from([18, 19, 20, 21, 22]))
def test_neither_names_nor_order_nor_version_change_what_is_walked(architecture, fold_norm, chance, opset):
    graph = expand(architecture)
    model, names = scrambled(to_onnx(graph, shapes_only, fold_norm=fold_norm), chance, opset)
    found = walk(model)
    names["image"] = "image"
    expected = {names[node.name]: (node.spec, [names[source] for source in node.inputs]) for node in graph}
    assert found.uncovered == ()
    assert {node.name: (node.spec, list(node.inputs)) for node in found.nodes} == expected


def macs_by_operation(model):
    """Return the multiply-adds of every operation with weights, straight from the file's own shapes."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {info.name: [size.dim_value for size in info.type.tensor_type.shape.dim] for info in inferred.value_info}
    shapes |= {info.name: [size.dim_value for size in info.type.tensor_type.shape.dim] for info in inferred.output}
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    weighted = [node for node in inferred.node if node.op_type in ("Conv", "Gemm")]
    return {node.name: math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:]) for node in weighted}


def dilated(graph, node):
    """Let a window look twice as far; what it returns has the same shape."""
    changed = {"dilations": [2, 2], "pads": [size // 2 * 2 for size in attribute(node, "kernel_shape")] * 2}
    kept = [item for item in node.attribute if item.name not in changed]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in changed.items())])


def weighed(graph, node):
    """Let weights depend on the image."""
    mean = f"{node.name}.mean"
    before = [
        helper.make_node("ReduceMean", [graph.input[0].name], [mean], name=mean, keepdims=0),
        helper.make_node("Mul", [node.input[1], mean], [f"{node.name}.new"], name=f"{node.name}.new"),
    ]
    at = list(graph.node).index(node)
    rest = list(graph.node)[at:]
    del graph.node[at:]
    graph.node.extend([*before, *rest])
    graph.node[at + 2].input[1] = f"{node.name}.new"


def bent(graph, node):
    """Put an operation that no layer has behind one, where all its readers read it."""
    inner = f"{node.name}.straight"
    at = list(graph.node).index(node)
    rest = list(graph.node)[at + 1 :]
    outer = node.output[0]
    del graph.node[at + 1 :]
    graph.node.extend([helper.make_node("Softsign", [inner], [outer], name=f"{node.name}.bent"), *rest])
    graph.node[at].output[0] = inner


def attribute(node, name):
    return next(list(item.ints) for item in node.attribute if item.name == name)


@settings(max_examples=100)
@given(architectures(), st.data())
def test_no_operation_with_weights_is_dropped_in_silence(architecture, data):
    """Whatever is done to a network, its multiply-adds are those of the layers and of the other operations."""
    model = to_onnx(expand(architecture), shapes_only)
    windows = [node.name for node in model.graph.node if node.op_type == "Conv"]
    spoilt = set()
    for name in data.draw(st.lists(st.sampled_from(windows), max_size=3, unique=True)):
        node = next(node for node in model.graph.node if node.name == name)
        change = data.draw(st.sampled_from([dilated, weighed, bent]))
        change(model.graph, node)
        spoilt |= {f"{name}.bent"} if change is bent else {name}
    found = walk(model)
    listed = {each.name for each in found.operations}
    counted = macs_by_operation(model)
    layers = {node.name: costs.layer_macs(node.spec) for node in found.nodes}
    assert spoilt <= listed
    assert not listed & set(layers)
    assert {name: layers.get(name, counted[name]) for name in counted} == counted
    others = {each.name: each.spec.macs for each in found.operations if each.spec.macs}
    assert {name: macs for name, macs in layers.items() if macs} | others == counted
    assert found.uncovered == ()


sides = st.integers(1, 17)
pads = st.integers(0, 3)


@settings(max_examples=300)
@given(st.tuples(sides, sides), st.integers(1, 8), st.integers(1, 4), st.tuples(pads, pads, pads, pads), st.booleans())
def test_any_window_costs_what_the_file_says_or_is_listed(size, kernel, stride, padding, depthwise):
    drawing = Drawing(1, 8, *size)
    drawing.conv(8, 8, kernel=kernel, strides=[stride] * 2, pads=padding, group=8 if depthwise else 1, name="window")
    model = drawing.model()
    if any(side + before + after < kernel for side, before, after in zip(size, padding, padding[2:], strict=False)):
        return  # it fits nowhere
    found = walk(model)
    if found.nodes:
        assert costs.layer_macs(found.nodes[0].spec) == macs_by_operation(model)["window"]
    else:
        assert found.operations[0].name == "window"
        assert found.operations[0].spec.macs == macs_by_operation(model)["window"]
