"""Exported networks are held against each other, and against the runtime."""

import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepmad_hw.errors import ConfigError, InputFileError, MissingExtraError
from deepmad_hw.exporters import verify
from deepmad_hw.exporters.onnx_graph import export_model, initial_weights, save
from deepmad_hw.exporters.verify import TORCH_ONNX_TOLERANCE, check_onnx, compare, verify_torch_onnx
from deepmad_hw.network import reference
from deepmad_hw.network.expand import expand


def test_parity_by_hand():
    reference_logits = np.array([[1.0, -4.0], [0.0, 2.0]])
    candidate = np.array([[1.0, -4.0], [2.5, 2.0]])
    parity = compare(reference_logits, candidate)
    assert parity.max_abs == 2.5
    assert parity.mean_abs == 2.5 / 4
    assert parity.relative_max == 2.5 / 4
    assert parity.p99_abs == pytest.approx(2.5 * 0.97)
    assert parity.cosine == pytest.approx(21 / np.sqrt(21 * (21 + 6.25)))
    assert parity.top1_agreement == 0.5


def test_equal_outputs_are_perfect():
    parity = compare(np.eye(3), np.eye(3))
    assert (parity.max_abs, parity.relative_max, parity.top1_agreement) == (0, 0, 1)
    assert parity.cosine == pytest.approx(1)


def test_feature_maps_have_no_top1():
    assert compare(np.ones((1, 2, 3, 3)), np.ones((1, 2, 3, 3))).top1_agreement is None


@pytest.mark.parametrize(
    ("one", "other", "match"),
    [
        (np.ones((1, 2)), np.ones((2, 1)), "cannot be compared"),
        (np.ones((0, 2)), np.ones((0, 2)), "cannot be compared"),
        (np.ones((1, 2)), np.array([[1, np.inf]]), "not finite"),
        (np.array([[1, np.nan]]), np.ones((1, 2)), "not finite"),
        (np.zeros((1, 2)), np.ones((1, 2)), "all zero"),
    ],
)
def test_what_cannot_be_compared_is_refused(one, other, match):
    with pytest.raises(ConfigError, match=match):
        compare(one, other)


@pytest.mark.promise("T22", 50)
def test_torch_and_onnx_agree_for_any_design(tries, drawn, trained):
    """Every family in turn, every kind of network; the largest difference is at most 1e-4 of the largest output."""
    pytest.importorskip("torch", reason="the extra torch is not installed")
    for number in tries:
        architecture = drawn(number)
        graph = expand(architecture)
        parity = verify_torch_onnx(graph, trained(graph, seed=number), seed=number)
        assert parity.relative_max <= TORCH_ONNX_TOLERANCE == 1e-4, architecture
        assert parity.top1_agreement == (1 if architecture.classes else None)


@pytest.mark.parametrize("activation", ["relu", "relu6", "silu", "hardswish"])
def test_torch_and_onnx_agree_for_every_activation_and_as_a_backbone(small, trained, activation):
    pytest.importorskip("torch", reason="the extra torch is not installed")
    graph = expand(small("mbconv_se", depth=1, classes=0, in_channels=4, activation=activation))
    parity = verify_torch_onnx(graph, trained(graph), images=1)
    assert parity.relative_max <= TORCH_ONNX_TOLERANCE
    assert parity.top1_agreement is None


# Each shared piece once: strided projections, max pooling, groups, biased squeeze-excite, two linear layers.
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "regnet_y_400mf"])
def test_torch_and_onnx_agree_for_reference_networks(trained, name):
    pytest.importorskip("torch", reason="the extra torch is not installed")
    graph = reference.get(name, resolution=(64, 64), classes=10)
    assert verify_torch_onnx(graph, trained(graph), images=1).relative_max <= TORCH_ONNX_TOLERANCE


def test_torch_and_onnx_agree_for_a_published_network(published, trained):
    pytest.importorskip("torch", reason="the extra torch is not installed")
    graph = expand(published("DeepMAD-R18"))
    assert verify_torch_onnx(graph, trained(graph)).relative_max <= TORCH_ONNX_TOLERANCE


def test_verification_can_fail(small, trained, monkeypatch):
    pytest.importorskip("torch", reason="the extra torch is not installed")
    graph = expand(small("basic"))
    monkeypatch.setattr("deepmad_hw.exporters.weights.NORM_EPSILON", 1e-1)
    assert verify_torch_onnx(graph, trained(graph)).relative_max > TORCH_ONNX_TOLERANCE


@pytest.mark.parametrize("package", ["torch", "onnxruntime"])
def test_a_missing_package_gives_the_exact_install_line(small, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as caught:
        verify_torch_onnx(expand(small("basic")), {})
    assert str(caught.value) == f'{package} is not installed; run: pip install "deepmad-hw[cpu,torch]"'


def test_an_exported_file_passes_the_check(small, tmp_path):
    graph = expand(small("bottleneck"))
    save(export_model(graph, initial_weights(graph), batch="batch"), tmp_path / "a.onnx")
    assert check_onnx(tmp_path / "a.onnx") == {"classifier": (1, 10)}


def _foreign(tmp_path, nodes, *, shape, initialisers=()):
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        list(initialisers),
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "a.onnx"


def test_outputs_that_are_not_finite_are_refused(tmp_path):
    infinite = numpy_helper.from_array(np.array([np.inf], dtype=np.float32), "i")
    path = _foreign(tmp_path, [helper.make_node("Mul", ["x", "i"], ["y"])], shape=(1, 3, 4, 4), initialisers=[infinite])
    with pytest.raises(InputFileError, match="'y' is not finite"):
        check_onnx(path)


def test_an_invalid_model_is_one_line(tmp_path):
    path = _foreign(tmp_path, [helper.make_node("NoSuchOperation", ["x"], ["y"])], shape=(1, 3, 4, 4))
    with pytest.raises(InputFileError, match="is no valid ONNX model") as caught:
        check_onnx(path)
    assert "\n" not in str(caught.value)


def test_what_the_runtime_refuses_is_one_line(small):
    with pytest.raises(InputFileError, match="ONNX Runtime refuses it") as caught:
        verify.run_onnx(b"no model", np.zeros((1, 3, 4, 4), dtype=np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 3, "height", 4), (1, 3, 4, None)])
def test_a_free_image_size_is_refused(tmp_path, shape):
    path = _foreign(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], shape=shape)
    with pytest.raises(InputFileError, match="size of input 'x' is not fixed"):
        check_onnx(path)
