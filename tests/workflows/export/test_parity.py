"""The chain from PyTorch to what is deployed: every step beside the one below, the broken one named."""

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters.verify import TOLERANCES
from deepmad_hw.workflows.export import parity
from deepmad_hw.workflows.export.export import export
from deepmad_hw.workflows.networks.networks import load_network

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
    chain = parity.parity_steps(
        [design, files["onnx"], files["onnx-fp16"]],
        weights=digits_folder / "basic.safetensors",
        images=IMAGES,
        on_step=done.append,
    )
    assert [(step.runtime, step.precision) for step in chain] == [
        ("torch", "fp32"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "fp16"),
    ]
    assert [step.tolerance for step in chain] == [None, TOLERANCES["fp32"], TOLERANCES["fp16"]]
    assert chain[0].parity is None
    assert chain[1].parity.relative_max <= 1e-4
    assert parity.broken(chain) is None
    assert done == [1, 2, 3]


def test_the_step_that_broke_is_the_lowest_one(design, files, tmp_path):
    other = tmp_path / "other.onnx"
    export(load_network(design), other, seed=1)
    chain = parity.parity_steps([files["onnx"], other, files["onnx-fp16"]], images=IMAGES)
    assert [bool(step.faults) for step in chain] == [False, True, True]
    assert parity.broken(chain).name == str(other)


def test_int8_is_held_to_what_int8_can(files):
    chain = parity.parity_steps([files["onnx"], files["onnx-int8"]], images=IMAGES)
    assert chain[1].tolerance == TOLERANCES["int8"]
    assert chain[1].parity.cosine > 0.99


def test_given_images_are_used_and_must_fit(files, tmp_path):
    np.savez(tmp_path / "fits.npz", np.zeros((7, 1, 32, 32), np.float32))
    np.savez(tmp_path / "other.npz", np.zeros((7, 3, 32, 32), np.float32))
    forms = [files["onnx"], files["onnx-fp16"]]
    assert parity.broken(parity.parity_steps(forms, inputs=tmp_path / "fits.npz")) is None
    with pytest.raises(InputFileError, match="expected shape"):
        parity.parity_steps(forms, inputs=tmp_path / "other.npz")


def test_a_network_above_a_file_is_refused(files):
    with pytest.raises(ConfigError, match="the network itself comes first"):
        parity.parity_steps([files["onnx"], "resnet18"])


def test_one_form_alone_is_refused(files):
    with pytest.raises(ConfigError, match="nothing to compare with"):
        parity.parity_steps([files["onnx"]])


def test_networks_of_other_outputs_are_refused(files, tmp_path):
    export(load_network("resnet18"), tmp_path / "resnet18.onnx")
    with pytest.raises(InputFileError):
        parity.parity_steps([files["onnx"], tmp_path / "resnet18.onnx"], images=1)
