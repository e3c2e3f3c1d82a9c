"""Every family in fp32, fp16 and int8 holds what its precision promises, with weights that were trained."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters import onnx_counts, onnx_int8, onnx_read, runtime, target
from deepmad_hw.exporters.calibrate import tensor_ranges
from deepmad_hw.exporters.float16 import to_float16
from deepmad_hw.exporters.onnx_graph import OPSET, architecture_metadata, export_model
from deepmad_hw.exporters.options import Float16Options, Int8Options, OnnxOptions
from deepmad_hw.exporters.verify import (
    TOLERANCES,
    breaches,
    check_onnx,
    compare,
    compare_outputs,
    precision_of,
    run_torch,
)
from deepmad_hw.exporters.weights import initial_weights
from deepmad_hw.network import families
from deepmad_hw.network.expand import expand

CALIBRATION_IMAGES = 128


def _outputs(model, images):
    return runtime.session(model.SerializeToString()).run_all(images)


def _int8(graph, weights, digits, form):
    options = Int8Options(form=form, batch=0)
    return onnx_int8.quantize(graph, weights, digits.train_images[:CALIBRATION_IMAGES], options=options)


@pytest.mark.parametrize("family", families.names())
def test_every_precision_of_a_trained_network_agrees(digits_network, digits, family):
    pytest.importorskip("torch", reason="the extra torch is not installed")
    graph, weights = digits_network(family)
    images = digits.test_images
    assert len(images) >= 256
    fp32 = export_model(graph, weights, batch="batch")
    models = {
        "fp32": fp32,
        "fp16": to_float16(fp32),
        "int8 cpu": _int8(graph, weights, digits, "cpu"),
        "int8 tensorrt": _int8(graph, weights, digits, "tensorrt"),
    }
    reference = run_torch(graph, weights, images)
    for name, model in models.items():
        onnx.checker.check_model(model, full_check=True)
        precision = precision_of(model)
        assert precision == name.split()[0]
        assert breaches(compare_outputs(reference, _outputs(model, images)), TOLERANCES[precision]) == ()


def test_a_network_whose_ranges_are_wrong_is_found(digits_network, digits):
    graph, weights = digits_network("basic")
    reference = _outputs(export_model(graph, weights, batch="batch"), digits.test_images)
    wrong = onnx_int8.quantize(graph, weights, digits.train_images[:8] / 20, options=Int8Options(batch=0))
    assert breaches(compare_outputs(reference, _outputs(wrong, digits.test_images)), TOLERANCES["int8"])


def test_what_is_beyond_a_tolerance_is_said():
    parity = compare(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    said = "; ".join(breaches(parity, TOLERANCES["int8"]))
    assert said == "cosine 0.50000, not above 0.99; top-1 agreement 50.00%, below 97%"
    assert breaches(parity, TOLERANCES["fp32"])[0].startswith("largest difference 1 of the largest value")


def test_ranges_are_those_of_numpy(small):
    graph = expand(small("basic", depth=1))
    model = export_model(graph, initial_weights(graph))
    images = np.random.default_rng(0).standard_normal((11, 3, 64, 96), dtype=np.float32)
    ranges = tensor_ranges(model, images)
    logits = _outputs(export_model(graph, initial_weights(graph), batch="batch"), images)[0]
    assert ranges["image"] == (images.min(), images.max())
    assert ranges["classifier"] == pytest.approx((logits.min(), logits.max()), rel=1e-4)
    assert set(ranges) == {"image", *(name for node in model.graph.node for name in node.output)}


def test_ranges_that_are_not_finite_are_refused(small):
    graph = expand(small("basic", depth=1))
    weights = initial_weights(graph)
    weights["stem.weight"] = weights["stem.weight"] * np.float32(1e38)
    with pytest.raises(ConfigError, match="not finite"):
        tensor_ranges(export_model(graph, weights), np.ones((1, 3, 64, 96), np.float32) * 1e4)


def _nodes(model, kind):
    return {node.name for node in model.graph.node if node.op_type == kind}


@pytest.mark.parametrize("family", families.names())
def test_every_precision_keeps_the_names_of_its_operations(digits_network, digits, family):
    graph, weights = digits_network(family)
    fp32 = export_model(graph, weights)
    for model in (to_float16(fp32), _int8(graph, weights, digits, "cpu"), _int8(graph, weights, digits, "tensorrt")):
        for kind in ("Conv", "Gemm", "Mul"):
            assert _nodes(fp32, kind) <= _nodes(model, kind)
        assert {node.name for node in graph} <= {node.name for node in model.graph.node}
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]


def test_the_form_for_tensorrt_is_symmetric_and_keeps_biases_in_floats(digits_network, digits):
    graph, weights = digits_network("basic")
    model = _int8(graph, weights, digits, "tensorrt")
    weight = {tensor.name: tensor for tensor in model.graph.initializer}
    quantising = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in quantising:
        zero = weight[node.input[2]]
        assert zero.data_type == TensorProto.INT8
        assert not np.any(onnx.numpy_helper.to_array(zero))
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert weight[node.input[2]].data_type == TensorProto.FLOAT


def test_the_form_for_cpus_has_bytes_without_sign_and_a_scale_per_channel(digits_network, digits):
    graph, weights = digits_network("basic")
    model = _int8(graph, weights, digits, "cpu")
    weight = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert weight[node.input[2]].data_type == TensorProto.UINT8
        if node.op_type == "DequantizeLinear" and node.name.startswith("stem.weight"):
            assert list(weight[node.input[1]].dims) == [16]
            assert weight[node.input[0]].data_type == TensorProto.INT8


@pytest.mark.parametrize(
    ("flags", "machine", "choice", "form", "narrow"),
    [
        ("avx2", "x86_64", "auto", "cpu", True),
        ("avx2 avx512_vnni", "x86_64", "auto", "cpu", False),
        ("avx2 avx_vnni", "x86_64", "auto", "cpu", False),
        ("avx2", "x86_64", "auto", "tensorrt", False),
        ("avx2", "x86_64", "no", "cpu", False),
        ("avx2 avx512_vnni", "x86_64", "yes", "cpu", True),
        ("", "aarch64", "auto", "cpu", False),
    ],
)
def test_weights_get_7_bits_only_where_products_would_saturate(monkeypatch, flags, machine, choice, form, narrow):
    monkeypatch.setattr(onnx_int8, "cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(onnx_int8.platform, "machine", lambda: machine)
    assert onnx_int8.reduce_range(Int8Options(reduce_range=choice, form=form)) is narrow


def test_an_int8_file_says_how_it_was_made(digits_network, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_int8, "cpu_flags", lambda: frozenset({"avx2", "sse2"}))
    monkeypatch.setattr(onnx_int8.platform, "machine", lambda: "x86_64")
    graph, weights = digits_network("basic")
    np.savez(tmp_path / "secret-name.npz", digits.train_images[:5])
    options = Int8Options(calibration=tmp_path / "secret-name.npz")
    (path,) = target.get("onnx-int8").write(graph, weights, tmp_path / "a.onnx", {}, options)
    assert onnx_read.read_identity(path) == {
        "deepmad_hw.int8.calibration": "5 given images",
        "deepmad_hw.int8.form": "cpu",
        "deepmad_hw.int8.reduce_range": "yes",
        "deepmad_hw.int8.cpu_flags": "avx2",
    }
    assert b"secret-name" not in path.read_bytes()
    weight = next(tensor for tensor in onnx_read.load(path).graph.initializer if tensor.data_type == TensorProto.INT8)
    assert np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max() <= 64


def test_int8_without_images_says_so(digits_network, tmp_path):
    graph, weights = digits_network("basic")
    (path,) = target.get("onnx-int8").write(graph, weights, tmp_path / "a.onnx", {}, Int8Options())
    assert onnx_read.read_identity(path)["deepmad_hw.int8.calibration"] == "32 random images"


@pytest.mark.parametrize("name", ["onnx", "onnx-fp16", "onnx-int8"])
def test_a_file_of_any_precision_is_known_again_and_counts_the_same(small, tmp_path, name):
    architecture = small("mbconv_se", depth=1)
    graph = expand(architecture, name="a")
    form = target.get(name)
    facts = architecture_metadata(architecture)
    (path,) = form.write(graph, initial_weights(graph), tmp_path / "a.onnx", facts, form.options(batch=0))
    fp32 = export_model(graph, initial_weights(graph))
    assert onnx_read.graph_of(path) == graph
    assert onnx_counts.counts(onnx_read.load(path)).macs == onnx_counts.counts(fp32).macs
    assert check_onnx(path) == {"classifier": (1, 10)}


@pytest.mark.parametrize("batch", [1, 3, 0])
@pytest.mark.parametrize("name", ["onnx", "onnx-fp16", "onnx-int8"])
def test_the_batch_is_chosen(digits_network, digits, tmp_path, name, batch):
    graph, weights = digits_network("basic")
    form = target.get(name)
    (path,) = form.write(graph, weights, tmp_path / "a.onnx", {}, form.options(batch=batch))
    session = runtime.session(path.read_bytes())
    assert session.batch == (batch or None)
    assert session.run_all(digits.test_images[:4])[0].shape == (4, 10)


def test_fp16_takes_and_returns_fp16_if_chosen(digits_network, digits, tmp_path):
    graph, weights = digits_network("basic")
    kinds = {}
    for chosen in (False, True):
        form = target.get("onnx-fp16")
        (path,) = form.write(graph, weights, tmp_path / "a.onnx", {}, Float16Options(float16_io=chosen))
        model = onnx_read.load(path)
        kinds[chosen] = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
        assert all(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
        assert check_onnx(path) == {"classifier": (1, 10)}
    assert kinds == {False: {TensorProto.FLOAT}, True: {TensorProto.FLOAT16}}


def test_a_weight_beyond_float16_is_refused_by_name(digits_network):
    graph, weights = digits_network("basic")
    model = export_model(graph, weights | {"classifier.bias": np.full(10, 7e4, np.float32)})
    with pytest.raises(ConfigError, match=r"classifier\.bias: a weight is beyond float16's 65504"):
        to_float16(model)


def test_another_opset_than_ours_in_our_file_is_refused(digits_network, tmp_path):
    graph, weights = digits_network("basic")
    model = export_model(graph, weights)
    model.opset_import[0].version = 18
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputFileError, match="opset 18, expected 20"):
        check_onnx(tmp_path / "a.onnx")


def test_a_negative_batch_makes_no_sense():
    with pytest.raises(ConfigError, match="--batch"):
        OnnxOptions(batch=-1)
