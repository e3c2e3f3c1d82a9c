"""The hand-over example: from a design to accuracies of exported files."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from deepmad_hw.formats import serde
from deepmad_hw.workflows.runfile.config import load_problem

pytestmark = pytest.mark.checkout

DIGITS = Path(__file__).parents[1] / "data" / "digits"


@pytest.fixture(scope="module")
def short_run(train_digits, tmp_path_factory):
    """Return the result and the folder of a run of two epochs on a network that is given."""
    folder = tmp_path_factory.mktemp("digits")
    return train_digits.run(str(DIGITS / "basic.json"), folder, epochs=2, seed=0), folder


def test_two_epochs_learn_something_and_every_file_knows_it(short_run):
    result, _ = short_run
    accuracy = {name: row["accuracy"] for name, row in result["precisions"].items()}
    assert set(accuracy) == {"torch", "fp32", "fp16", "int8"}
    assert min(accuracy.values()) > 0.3  # chance is 0.1
    assert accuracy["fp32"] == accuracy["torch"]
    assert result["precisions"]["fp16"]["agreement"] > 0.99


def test_the_files_hold_the_precisions_they_are_named_by(short_run):
    _, folder = short_run
    kinds = {
        name: {tensor.data_type for tensor in onnx.load(folder / f"{name}.onnx").graph.initializer}
        for name in ("fp32", "fp16", "int8")
    }
    assert onnx.TensorProto.INT8 not in kinds["fp32"] | kinds["fp16"]
    assert onnx.TensorProto.FLOAT16 in kinds["fp16"]
    assert onnx.TensorProto.INT8 in kinds["int8"]


def test_the_result_is_stored_and_tells_what_made_it(short_run):
    result, folder = short_run
    stored = json.loads((folder / "result.json").read_text())
    assert stored == result
    assert {"epochs", "seed", "macs", "params", "versions", "test_images"} <= set(stored)


def test_training_and_test_images_share_none(train_digits):
    data = train_digits.digits(32)
    assert (len(data.train_images), len(data.test_images)) == (1257, 540)
    assert data.test_images.shape[1:] == (1, 32, 32)
    assert (data.train_images.min(), data.train_images.max()) == (-1, 1)
    train, test = ({image.tobytes() for image in images} for images in (data.train_images, data.test_images))
    assert not train & test


def test_the_same_seed_trains_the_same_weights(train_digits):
    import deepmad_hw as dm

    network = serde.read_architecture(DIGITS / "mbconv.json")
    data = train_digits.digits(32)
    few = train_digits.Digits(
        train_images=data.train_images[:128],
        train_labels=data.train_labels[:128],
        test_images=data.test_images,
        test_labels=data.test_labels,
    )
    states = []
    for seed in (1, 1, 2):
        module = dm.trainable(network, seed=seed)
        train_digits.train(module, few, epochs=1, seed=seed)
        states.append(np.concatenate([value.numpy().ravel() for value in module.state_dict().values()]))
    assert np.array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


def test_its_run_file_fits_the_digits():
    space = load_problem("digits").space
    assert (space.in_channels, space.classes, space.resolution) == (1, 10, (32, 32))
