"""Networks of operations outside the block families: every node has its name and amounts, and a runtime loads them."""

from collections import Counter, defaultdict

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deepmad_hw.exporters.operation_network import NECK
from deepmad_hw.exporters.operation_probes import (
    PRECISIONS,
    operation_model,
    operation_probes,
    operations,
    weight_shapes,
)
from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.network.layer import IMAGE, KINDS

NOT_MEASURED = {"other", "quantize", "dequantize"}  # they stand in int8 networks


def inline(name, shape):
    return numpy_helper.from_array(np.full(shape, 0.02, np.float32), name)


def test_every_kind_is_shown_often_and_over_a_wide_range():
    sizes = defaultdict(list)
    for probe in operation_probes(10):
        for node in operations(probe):
            sizes[node.spec.kind].append(node.spec.moved_values)
    assert set(KINDS) - set(sizes) == {"quantize", "dequantize"}
    assert min(map(len, sizes.values())) >= 8
    assert {kind for kind, found in sizes.items() if max(found) < 30 * min(found)} == set()
    assert max(map(max, sizes.values())) < 10e6


def test_a_few_networks_show_every_kind_over_a_range():
    sizes = defaultdict(set)
    for probe in operation_probes(4):
        for node in operations(probe):
            sizes[node.spec.kind].add(node.spec.moved_values)
    assert set(KINDS) - set(sizes) == {"quantize", "dequantize"}
    assert min(map(len, sizes.values())) >= 4


@pytest.mark.parametrize(("kind", "ends"), [("conv", (1, 256)), ("depthwise_conv", (1, 81)), ("max_pool", (4, 169))])
def test_windows_are_of_all_sizes(kind, ends):
    spans = [node.spec.span for probe in operation_probes(6) for node in operations(probe) if node.spec.kind == kind]
    assert (min(spans), max(spans)) == ends


def test_convolutions_have_many_and_few_channels_on_either_side():
    specs = [node.spec for probe in operation_probes(6) for node in operations(probe) if node.spec.kind == "conv"]
    widths = [(spec.macs // spec.written_values // spec.span, spec.channels) for spec in specs]
    sorts = {(inside < NECK, outside < NECK) for inside, outside in widths}
    assert sorts == {(False, False), (False, True), (True, False), (True, True)}
    assert min(map(min, widths)) <= 3
    assert max(spec.macs for spec in specs) > 60e6


def test_the_same_networks_are_made_again_and_others_from_another_seed():
    for one, two in zip(operation_probes(3), operation_probes(3), strict=True):
        assert operation_model(one, inline) == operation_model(two, inline)
        assert operations(one) == operations(two)
    assert operations(operation_probes(1, seed=1)[0]) != operations(operation_probes(1)[0])


def test_every_operation_is_named_after_its_node_and_tensor():
    for probe in operation_probes(2):
        nodes = {node.name: node for node in operation_model(probe, inline).graph.node}
        names = Counter(node.name for node in operations(probe))
        assert max(names.values()) == 1
        for node in operations(probe):
            found = nodes[node.name.removesuffix(".reorder")]
            assert found.output[0] == found.name


def test_amounts_are_those_of_the_node():
    (probe,) = operation_probes(1)
    model = onnx.shape_inference.infer_shapes(operation_model(probe, inline), data_prop=True)
    shapes = {v.name: [axis.dim_value for axis in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    specs = {node.name: node.spec for node in operations(probe)}
    first = {spec.kind: name for name, spec in reversed(specs.items())}
    pixels = probe.side**2

    def amounts(kind):
        spec = specs[first[kind]]
        return spec.read_values, spec.written_values, spec.macs, spec.weight_values

    def grouped_width(node):
        (groups,) = (each.i for each in node.attribute if each.name == "group")
        return channels(node.name.rstrip("0123456789")) // groups

    def channels(kind):
        return shapes[nodes[first[kind]].input[0]][1]

    wide = channels("concat")
    assert amounts("concat") == (2 * wide * pixels, 2 * wide * pixels, 0, 0)
    inside, outside = weights[nodes[first["conv_transpose"]].input[1]][:2]
    kernel = 4 * inside * outside
    assert amounts("conv_transpose") == (inside * pixels, 4 * outside * pixels, kernel * pixels, kernel + outside)
    wide = channels("silu")
    assert amounts("silu") == (wide * pixels, wide * pixels, 0, 0)
    wide, group = channels("grouped_conv"), grouped_width(nodes[first["grouped_conv"]])
    kernel = 9 * group * wide
    assert amounts("grouped_conv") == (wide * pixels, wide * pixels, kernel * pixels, kernel + wide)
    wide = channels("max_pool_blocked")
    assert amounts("max_pool_blocked") == (wide * pixels, wide * pixels, 9 * wide * pixels, 0)
    wide = channels("resize_nearest_blocked")
    assert amounts("resize_nearest_blocked") == (wide * pixels, 4 * wide * pixels, 0, 0)
    wide = channels("instance_norm")
    assert amounts("instance_norm") == (wide * pixels, wide * pixels, 0, 2 * wide)
    wide = channels("expand")
    assert amounts("expand") == (wide, wide * pixels, 0, 0)


def test_amounts_are_for_one_image_whatever_the_batch():
    (probe,) = operation_probes(1)
    model = operation_model(probe, inline, batch=3)
    assert [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == [3, NECK, 28, 28]
    assert model.graph.input[0].name == IMAGE


def test_weights_come_from_the_plans_file(tmp_path):
    (probe,) = operation_probes(1)
    write_plan(tmp_path, [PackedProbe(name=probe.name, operations=probe, by_layer=True)])
    model = onnx.load(tmp_path / f"{probe.name}.onnx", load_external_data=False)
    shared = [tuple(tensor.dims) for tensor in model.graph.initializer if tensor.external_data]
    assert shared == list(weight_shapes(probe))
    assert (tmp_path / f"{probe.name}.onnx").stat().st_size < 400_000


def test_every_second_network_of_int8_is_of_floats():
    chosen = operation_probes(4, precision="int8")
    assert [probe.precision for probe in chosen] == ["int8", "fp32"] * 2
    assert [probe.side for probe in chosen] == [28, 28, 56, 56]


def test_networks_of_int8_show_what_has_kernels_on_bytes_and_changes_of_type():
    found = Counter()
    for probe in operation_probes(8, precision="int8"):
        found.update({(node.spec.kind, node.spec.value_type) for node in operations(probe)})
    bytewise = {kind for kind, value_type in found if value_type == "int8"}
    assert bytewise == {
        *("add", "add_broadcast", "mul", "mul_broadcast", "sigmoid", "leaky_relu", "softmax", "matmul", "concat"),
        *("conv", "depthwise_conv", "grouped_conv", "max_pool", "avg_pool", "global_pool"),
        *("resize_nearest", "transpose", "dequantize"),
    }
    assert ("quantize", "fp32") in found
    assert {kind for kind, value_type in found if value_type == "fp32"} > {
        "conv",
        "concat",
        "split",
        "erf",
        "recurrent",
    }


def test_weights_of_int8_come_from_the_plans_file_bytes_and_floats_apart(tmp_path):
    chosen = operation_probes(2, precision="int8")
    packed = [PackedProbe(name=each.name, operations=each, by_layer=True) for each in chosen]
    write_plan(tmp_path, packed, precision="int8")
    places = []
    for probe in chosen:
        model = onnx.load(tmp_path / f"{probe.name}.onnx", load_external_data=False)
        shared = [tensor for tensor in model.graph.initializer if tensor.external_data]
        offsets = [int({entry.key: entry.value for entry in each.external_data}["offset"]) for each in shared]
        places.append((min(offsets), max(offsets)))
        assert (tmp_path / f"{probe.name}.onnx").stat().st_size < 1_000_000
    (first, last), (floats, _) = places
    assert first == 0
    assert floats > last


def test_bytes_lie_with_channels_last():
    (probe,) = operation_probes(1, precision="int8")
    nodes = {node.name: node for node in operation_model(probe, inline).graph.node}
    specs = [node.spec for node in operations(probe) if node.spec.kind == "concat" and node.name in nodes]
    assert specs
    for spec in specs:
        assert spec.span == spec.written_values // probe.side**2 // 2  # half of the channels of a pixel


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_runtime_loads_them_and_their_values_stay_finite(tmp_path, batch, precision):
    ort = pytest.importorskip("onnxruntime")
    chosen = [probe for probe in operation_probes(20, precision=precision) if probe.side in (7, 20, 40)][:3]
    packed = [PackedProbe(name=probe.name, operations=probe, by_layer=True) for probe in chosen]
    write_plan(tmp_path, packed, batch=batch, precision=precision)
    for probe in chosen:
        session = ort.InferenceSession(str(tmp_path / f"{probe.name}.onnx"), providers=["CPUExecutionProvider"])
        image = np.random.default_rng(0).standard_normal((batch, *probe.input_shape), dtype=np.float32)
        for result in session.run(None, {IMAGE: image}):
            assert np.isfinite(result).all()
            assert np.abs(result).max() > 1e-30 or precision == "int8"  # made-up scales round small values to zero
