"""The ladder from PyTorch to what is deployed: every rung beside the one below, the broken one named."""

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters.verify import TOLERANCES
from deepmad_hw.workflows import ladder
from deepmad_hw.workflows.export import export
from deepmad_hw.workflows.networks import load_network

IMAGES = 64


@pytest.fixture
def design(digits_folder):
    return digits_folder / "basic.json"


@pytest.fixture
def files(design, digits_folder, tmp_path):
    """Write every precision of the trained network, int8 scaled with random images."""
    pytest.importorskip("torch", reason="the extra torch is not installed")
    made = {}
    for target in ("onnx", "onnx-fp16", "onnx-int8"):
        made[target] = tmp_path / f"{target}.onnx"
        weights = digits_folder / "basic.safetensors"
        export(load_network(design), made[target], target=target, weights=weights, choices={"batch": 5})
    return made


def test_a_ladder_that_holds(design, files, digits_folder):
    done = []
    rungs = ladder.climb(
        [design, files["onnx"], files["onnx-fp16"]],
        weights=digits_folder / "basic.safetensors",
        images=IMAGES,
        on_rung=done.append,
    )
    assert [(rung.runtime, rung.precision) for rung in rungs] == [
        ("torch", "fp32"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "fp16"),
    ]
    assert [rung.tolerance for rung in rungs] == [None, TOLERANCES["fp32"], TOLERANCES["fp16"]]
    assert rungs[0].parity is None
    assert rungs[1].parity.relative_max <= 1e-4
    assert ladder.broken(rungs) is None
    assert done == [1, 2, 3]


def test_the_rung_that_broke_is_the_lowest_one(design, files, tmp_path):
    other = tmp_path / "other.onnx"
    export(load_network(design), other, seed=1)
    rungs = ladder.climb([files["onnx"], other, files["onnx-fp16"]], images=IMAGES)
    assert [bool(rung.faults) for rung in rungs] == [False, True, True]
    assert ladder.broken(rungs).name == str(other)


def test_int8_is_held_to_what_int8_can(files):
    rungs = ladder.climb([files["onnx"], files["onnx-int8"]], images=IMAGES)
    assert rungs[1].tolerance == TOLERANCES["int8"]
    assert rungs[1].parity.cosine > 0.99


def test_given_images_are_used_and_must_fit(files, tmp_path):
    np.savez(tmp_path / "fits.npz", np.zeros((7, 1, 32, 32), np.float32))
    np.savez(tmp_path / "other.npz", np.zeros((7, 3, 32, 32), np.float32))
    forms = [files["onnx"], files["onnx-fp16"]]
    assert ladder.broken(ladder.climb(forms, inputs=tmp_path / "fits.npz")) is None
    with pytest.raises(InputFileError, match="expected shape"):
        ladder.climb(forms, inputs=tmp_path / "other.npz")


def test_a_network_above_a_file_is_refused(files):
    with pytest.raises(ConfigError, match="the network itself comes first"):
        ladder.climb([files["onnx"], "resnet18"])


def test_one_form_alone_is_refused(files):
    with pytest.raises(ConfigError, match="nothing to compare with"):
        ladder.climb([files["onnx"]])


def test_networks_of_other_outputs_are_refused(files, tmp_path):
    export(load_network("resnet18"), tmp_path / "resnet18.onnx")
    with pytest.raises(InputFileError):
        ladder.climb([files["onnx"], tmp_path / "resnet18.onnx"], images=1)
