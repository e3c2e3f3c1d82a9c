"""`export` of every precision and `verify --against`, as a user runs them."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra torch is not installed")


@pytest.fixture
def digits(digits_folder):
    return str(digits_folder / "basic.json"), str(digits_folder / "basic.safetensors")


@pytest.fixture
def exported(run, digits, tmp_path):
    """Return a function: target and words -> the file that `export` wrote."""
    network, weights = digits

    def export(target, *words):
        file = tmp_path / f"{target}.onnx"
        ran = run("export", network, "--weights", weights, "--target", target, "--out", file, *words)
        assert ran.code == 0, ran.err
        return file

    return export


def test_the_ladder_is_shown_and_passes(run, digits, exported):
    network, weights = digits
    onnx, half = exported("onnx"), exported("onnx-fp16", "--float16-io")
    ran = run("verify", half, "--against", network, "--against", onnx, "--weights", weights, "--images", "32")
    assert ran.code == 0
    assert [line.split()[1:3] for line in ran.out.splitlines()[3:]] == [
        ["torch", "fp32"],
        ["onnxruntime", "fp32"],
        ["onnxruntime", "fp16"],
    ]


def test_a_broken_step_is_named_and_exits_3(run, digits, exported):
    network, _ = digits
    ran = run("verify", exported("onnx"), "--against", network, "--images", "32", "--json")
    answer = json.loads(ran.out)
    assert ran.code == 3
    assert answer["broken"].endswith("onnx.onnx")
    assert answer["rungs"][1]["faults"]
    assert "onnx.onnx: differs from " in ran.err
    assert ran.err.rstrip().endswith("give the weights it was made with: --weights")


def test_int8_without_images_is_said(run, digits, tmp_path):
    ran = run("export", digits[0], "--target", "onnx-int8", "--out", tmp_path / "a.onnx")
    assert ran.code == 0
    assert "scaling int8 with random images" in ran.err


def test_int8_with_images_says_nothing_of_random_ones(run, digits, tmp_path):
    np.savez(tmp_path / "d.npz", np.zeros((3, 1, 32, 32), np.float32) + 0.5)
    words = ("--target", "onnx-int8", "--form", "tensorrt", "--calibration", tmp_path / "d.npz")
    ran = run("export", digits[0], *words, "--out", tmp_path / "a.onnx")
    assert ran.code == 0
    assert "random" not in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--form", "tensorrt"), "--form: unknown choice of target onnx"),
        (("--target", "onnx-int8", "--form", "gpu"), "--form"),
        (("--batch", "-1"), "--batch: -1 images per run make no sense"),
    ],
)
def test_choices_that_make_no_sense_are_exit_2(run, digits, tmp_path, words, said):
    ran = run("export", digits[0], *words, "--out", tmp_path / "a.onnx")
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "a.onnx").exists()


def test_a_calibration_file_that_does_not_fit_is_exit_3(run, digits, tmp_path):
    np.savez(tmp_path / "d.npz", np.zeros((3, 3, 32, 32), np.float32))
    words = ("--target", "onnx-int8", "--calibration", tmp_path / "d.npz")
    ran = run("export", digits[0], *words, "--out", tmp_path / "a.onnx")
    assert ran.code == 3
    assert "expected shape (images, 1, 32, 32), got (3, 3, 32, 32)" in ran.err
    assert not (tmp_path / "a.onnx").exists()
