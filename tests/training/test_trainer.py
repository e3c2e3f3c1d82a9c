"""Training: first values, images, the learning rate, and that nothing but an epoch is ever lost."""

import itertools
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tiny_images import TINY

from deepmad_hw.exporters.weights import initial_weights
from deepmad_hw.network.expand import expand
from deepmad_hw.training import jobs
from deepmad_hw.workflows.trial import plan as plans
from deepmad_hw.workflows.trial.records import Recipe

torch = pytest.importorskip("torch")
trainer = pytest.importorskip("deepmad_hw.training.trainer")


@pytest.fixture(autouse=True)
def prepared():
    before = torch.get_num_threads()
    trainer.prepare("cpu", 1)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before)


def results(folder, job="net-s0"):
    """Return the lines of a job without the times, which differ."""
    plan = trainer.Plan(folder)
    return [without_time(line) for line in trainer.lines(plan, plan.job(job), "cpu")]


def without_time(line):
    return {key: value for key, value in line.items() if key != "seconds"}


def final_weights(folder, job="net-s0"):
    with np.load(folder / jobs.CHECKPOINTS / f"{job}.npz") as stored:
        return {name: stored[name] for name in stored.files if name.startswith("module.")}


def test_first_values_are_those_of_every_other_module(tiny_plan):
    module = trainer.Plan(tiny_plan()).module("net", seed=5)
    expected = initial_weights(expand(TINY), seed=5)
    found = {name: value.numpy() for name, value in module.state_dict().items() if "num_batches" not in name}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_a_network_learns(tiny_plan):
    last = results(tiny_plan(epochs=25))[-1]
    assert last["right"] / last["images"] > 0.9


def test_the_same_job_gives_the_same_results_and_another_seed_others(tiny_plan):
    first, again = tiny_plan(name="one"), tiny_plan(name="other")
    assert results(first) == results(again)
    assert results(first) != results(again, "net-s1")


def test_the_test_images_are_looked_at_once_and_only_where_they_are_wanted(tiny_plan):
    assert not any("test_right" in line for line in results(tiny_plan(name="without")))
    lines = results(tiny_plan(name="with", test=True))
    assert ["test_right" in line for line in lines] == [False, False, False, True]
    assert lines[-1]["test_images"] == 24


def test_a_stopped_job_ends_with_the_weights_of_one_that_was_not(tiny_plan):
    whole, stopped = tiny_plan(name="whole"), tiny_plan(name="stopped")
    expected = results(whole)
    plan = trainer.Plan(stopped)
    for count in (1, 3):  # each time it is stopped in the epoch after
        list(itertools.islice(trainer.Training(plan, plan.job("net-s0"), "cpu").run(), count))
    assert results(stopped) == expected
    for name, value in final_weights(whole).items():
        np.testing.assert_array_equal(final_weights(stopped)[name], value)


@pytest.mark.slow
@pytest.mark.promise("T23", 100)
def test_killed_at_any_moment_a_job_loses_at_most_an_epoch(tiny_plan, tries):
    expected = results(tiny_plan(name="whole", epochs=30))
    folder = tiny_plan(name="killed", epochs=30)
    chance, kept = random.Random(tries.start), 0
    words = [sys.executable, str(jobs.TRAINER), "--plan", str(folder), "--job", "net-s0"]
    for _ in tries:
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
            said = [child.stdout.readline() for _ in range(kept)]  # what was there before is said again
            assert [without_time(json.loads(line)) for line in said] == expected[:kept]
            time.sleep(chance.random() * 0.2)
            os.kill(child.pid, signal.SIGKILL)
            rest = [line for line in child.stdout.read().splitlines() if line.endswith("}")]
        assert [without_time(json.loads(line)) for line in rest] == expected[kept : kept + len(rest)]
        kept += len(rest)  # what was said is stored
    assert results(folder) == expected


def test_a_loss_that_is_no_number_is_said_and_ends_the_job(tiny_plan):
    folder = tiny_plan(recipe=Recipe(batch=32, learning_rate=1e30, flips=False))
    last = results(folder)[-1]
    assert "loss" in last["failed"]


def test_a_checkpoint_of_another_recipe_is_refused(tiny_plan):
    folder = tiny_plan(name="plan")
    results(folder)
    tiny_plan(name="plan", recipe=Recipe(batch=16, flips=False))
    with pytest.raises(SystemExit, match="another plan"):
        results(folder)


def test_a_child_that_is_killed_says_so(tiny_plan, tmp_path):
    script = tmp_path / "dies.py"
    script.write_text("import os\nos.kill(os.getpid(), 9)\n")
    (line,) = jobs.child_lines(tiny_plan(), "net-s0", device="cpu", threads=1, script=script)
    assert "signal 9" in line["failed"]


def test_a_child_that_ends_with_an_error_says_its_last_line(tiny_plan, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit('no CUDA device is there')\n")
    (line,) = jobs.child_lines(tiny_plan(), "net-s0", device="cpu", threads=1, script=script)
    assert line == {"job": "net-s0", "failed": "no CUDA device is there"}


def test_a_packed_folder_trains_without_this_package(tiny_plan, tmp_path, monkeypatch, capsys):
    expected = results(tiny_plan(name="here"))
    folder = tmp_path / "pack"
    plans.write_pack(tiny_plan(name="packed"), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "jobs.py",
        "layers.py",
        "plan.json",
        "train.py",
        "train_images.npy",
        "train_labels.npy",
        "validation_images.npy",
        "validation_labels.npy",
    ]
    for name in [name for name in sys.modules if name.partition(".")[0] == "deepmad_hw"]:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "argv", ["train.py", "--job", "net-s0"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(folder / "train.py"), run_name="__main__")
    assert ended.value.code == 0
    assert [without_time(json.loads(line)) for line in capsys.readouterr().out.splitlines()] == expected


def test_a_packed_folder_writes_its_results_as_lines(tiny_plan, tmp_path):
    folder = tmp_path / "pack"
    plans.write_pack(tiny_plan(epochs=2), folder)
    done = subprocess.run(
        [sys.executable, "train.py", "--workers", "2"], cwd=folder, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in (folder / jobs.RESULTS).read_text().splitlines()]
    assert sorted((line["job"], line["epoch"]) for line in lines) == [
        ("net-s0", 1),
        ("net-s0", 2),
        ("net-s1", 1),
        ("net-s1", 2),
    ]
    assert "% of the validation images" in done.stdout


def test_steps_are_timed(tiny_plan, capsys):
    trainer.time_all(trainer.Plan(tiny_plan()), device="cpu")
    assert 0 < json.loads(capsys.readouterr().out)["net"] < 10


# --- parts ----------------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_in_a_line_and_falls_to_nothing():
    recipe = {"warm_up": 0.2, "learning_rate": 0.5}
    rates = [trainer.learning_rate(step, 100, recipe) for step in range(100)]
    np.testing.assert_allclose(rates[:20], np.linspace(0.025, 0.5, 20))
    assert rates[20] == pytest.approx(0.5)
    assert rates[60] == pytest.approx(0.25)
    assert rates[99] < 0.001
    assert (np.diff(rates[20:]) < 0).all()


def test_shifted_images_are_windows_of_the_image_mirrored_at_its_edges():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    moved = trainer.augmented(pixels, np.random.default_rng(1), {"shift": 0.25, "flips": True})
    seen = set()
    for before, after in zip(pixels, moved, strict=True):
        wide = np.pad(before, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        windows = {
            (up, left, flipped): window[:, ::-1] if flipped else window
            for up in range(5)
            for left in range(5)
            for flipped in (False, True)
            for window in (wide[up : up + 8, left : left + 8],)
        }
        (where,) = [place for place, window in windows.items() if (window == after).all()]
        seen.add(where)
    assert len(seen) > 20


def test_without_shift_and_flips_images_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    moved = trainer.augmented(pixels, np.random.default_rng(1), {"shift": 0.0, "flips": False})
    np.testing.assert_array_equal(moved, pixels)


def test_every_image_but_those_of_a_part_batch_is_seen_once_an_epoch(tiny_plan):
    plan = trainer.Plan(tiny_plan(recipe=Recipe(batch=36, flips=False, shift=0.0)))
    images = plan.images("train")
    sums = {}
    for epoch in (0, 1):
        batches = list(trainer.Batches(plan, "cpu").train(images, seed=0, epoch=epoch))
        assert [len(labels) for _, labels in batches] == [36, 36]
        sums[epoch] = sorted(float(image.sum()) for pixels, _ in batches for image in pixels)
        assert len(set(sums[epoch])) == 72
    assert sums[0] != sums[1]
