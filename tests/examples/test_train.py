"""Training on folders: it learns, it resumes to the same weights after a kill, and it says what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters.weights import read_weights
from deepmad_hw.files.jsonfile import write_json
from deepmad_hw.formats import serde
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.workflows.export.export import export

pytestmark = pytest.mark.checkout

SCRIPT = Path(__file__).parents[2] / "examples" / "train.py"
NETWORK = Architecture(
    family="basic",
    resolution=(16, 16),
    stem=Stem(out=8),
    stages=(
        Stage(out=8, bottleneck=8, kernel=3, stride=1, depth=1),
        Stage(out=16, bottleneck=8, kernel=3, stride=2, depth=2),
    ),
)
OPTIONS = (
    "--epochs 3 --batch 2 --optimizer adamw --warm-up 1 --mixup 0.2 --drop-path 0.2 --dropout 0.1 "
    "--workers 0 --checkpoint-every 1"
)


@pytest.fixture
def network_file(tmp_path):
    """Return the JSON of a tiny network of 1000 classes."""
    write_json(tmp_path / "tiny.json", serde.architecture_to_json(NETWORK))
    return tmp_path / "tiny.json"


@pytest.fixture
def settings(train, network_file, image_folder):
    """Return a function: changes -> settings."""

    def make(**changes):
        given = vars(train.command_line().parse_args([str(network_file), str(image_folder), "--out", "x"]))
        for name in ("out", "workers", "checkpoint_every", "device"):
            given.pop(name)
        return train.Settings(**given | {"epochs": 2, "batch": 8, "warm_up": 0, "lr": 0.2, "ema": 0.5} | changes)

    return make


@pytest.fixture
def run(train):
    """Return a function that trains in this process."""

    def start(settings, out):
        return train.run(settings, out, workers=0, checkpoint_every=1, device="cpu")

    return start


def _command(network, data, out):
    return [sys.executable, str(SCRIPT), str(network), str(data), "--out", str(out), *OPTIONS.split()]


def test_a_killed_run_resumes_to_the_weights_of_an_undisturbed_one(train, network_file, image_folder, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    undisturbed, killed = (_command(network_file, image_folder, tmp_path / name) for name in "ab")
    subprocess.run(undisturbed, env=environment, check=True, capture_output=True)
    process = subprocess.Popen(killed, env=environment, stdout=subprocess.DEVNULL)
    while not (tmp_path / "b" / train.CHECKPOINT).exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "b" / train.WEIGHTS).exists()
    again = subprocess.run(killed, env=environment, check=True, capture_output=True, text=True)
    assert "resuming at step" in again.stdout
    one, other = (read_weights(tmp_path / name / train.WEIGHTS) for name in "ab")
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    histories = [json.loads((tmp_path / name / train.RESULT).read_text())["history"] for name in "ab"]
    assert histories[0] == histories[1]


def test_it_learns_and_its_weights_go_into_an_onnx_file(run, settings, tmp_path):
    result = run(settings(epochs=4), tmp_path / "out")
    assert result["classes"] == ["bright", "dark"]
    assert result["history"][-1]["accuracy"] == 1
    files = export(NETWORK, tmp_path / "net.onnx", weights=tmp_path / "out" / "weights.safetensors", classes=2)
    assert files[0].exists()


def test_a_finished_run_stays_finished(run, settings, tmp_path):
    first = run(settings(epochs=1), tmp_path / "out")
    stamp = (tmp_path / "out" / "checkpoint.safetensors").stat().st_mtime_ns
    assert run(settings(epochs=1), tmp_path / "out") == first
    assert (tmp_path / "out" / "checkpoint.safetensors").stat().st_mtime_ns == stamp


def test_other_settings_do_not_go_on_with_a_checkpoint(run, settings, tmp_path):
    run(settings(epochs=1), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"lr was 0\.2 in .*, now 0\.1"):
        run(settings(epochs=1, lr=0.1), tmp_path / "out")


def test_a_broken_checkpoint_is_one_line(run, settings, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint.safetensors").write_bytes(b"\x80\x04nothing")
    with pytest.raises(InputFileError, match="is no checkpoint of this script"):
        run(settings(), tmp_path / "out")


def test_an_image_that_cannot_be_read_is_named(run, settings, image_folder, tmp_path):
    broken = image_folder / "train" / "dark" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputFileError, match=r"dark/3\.png: is no image that can be read"):
        run(settings(), tmp_path / "out")


def test_folders_that_do_not_fit_are_named(run, settings, image_folder, tmp_path):
    shutil.move(image_folder / "val" / "dark", image_folder / "val" / "dim")
    with pytest.raises(InputFileError, match="class 'dark' is not in both"):
        run(settings(), tmp_path / "out")
    shutil.rmtree(image_folder / "val")
    with pytest.raises(InputFileError, match="val: no such folder"):
        run(settings(), tmp_path / "out")


def test_a_batch_larger_than_the_data_is_refused(run, settings, tmp_path):
    with pytest.raises(ConfigError, match="24 images make no batch of 25"):
        run(settings(batch=25), tmp_path / "out")


def test_the_learning_rate_rises_then_falls_to_zero(train, settings):
    chosen = settings(lr=1.0)
    rates = [train.learning_rate(step, settings=chosen, steps=100, warm_up=10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert sorted(rates[10:], reverse=True) == rates[10:]


@pytest.mark.parametrize("size", [(48, 40), (7, 300), (1, 1)])
def test_random_boxes_stay_inside_the_image(train, size):
    for seed in range(200):
        left, top, right, bottom = train.random_box(np.random.default_rng(seed), size)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_validation_sees_the_middle_in_the_wanted_proportions(train):
    assert train.center_box((400, 200), [100, 100]) == pytest.approx((112.5, 12.5, 287.5, 187.5))


def test_an_epoch_has_every_image_once_and_its_own_order(train, settings):
    chosen = settings(batch=8)
    first, second = (train.train_batches(chosen, images=24, epoch=epoch, skip=0) for epoch in (0, 1))
    for epoch, batches in enumerate((first, second)):
        assert sorted(index for batch in batches for _, index in batch) == list(range(24))
        assert {number for batch in batches for number, _ in batch} == {epoch}
    assert [index for _, index in first[0]] != [index for _, index in second[0]]
    assert train.train_batches(chosen, images=24, epoch=0, skip=2) == first[2:]
