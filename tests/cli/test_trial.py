"""`trial` as a user runs it: choose, train, fit, design, check; stopped, packed and imported on the way."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_images import CLASSES, TINY_RUN, write_npz

from deepmad_hw.workflows.trial import images, runner
from deepmad_hw.workflows.trial.journal import EpochResult
from deepmad_hw.workflows.trial.trial import open_journal

pytest.importorskip("torch")

SHORT = ("--networks", 8, "--epochs", 2, "--repeats", 2, "--batch", 32, "--no-flips", "--workers", 2)
NETWORKS = 8


def lines_here(folder, job, *, device, threads, on_start=None):
    """Train in this process: many jobs of a second, without a new interpreter for each."""
    from deepmad_hw.training import trainer

    trainer.prepare(device, threads)
    plan = trainer.Plan(folder)
    yield from trainer.lines(plan, plan.job(job), device)


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Give all tests but those of child processes the quick way to train."""
    import torch

    if "children" not in request.keywords:
        monkeypatch.setattr(runner, "child_lines", lines_here)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def question(tmp_path_factory):
    """Return a run file and images."""
    folder = tmp_path_factory.mktemp("question")
    (folder / "tiny.yaml").write_text(TINY_RUN)
    return folder / "tiny.yaml", write_npz(folder / "images.npz", train=120)


@pytest.fixture(scope="module")
def finished(question, tmp_path_factory):
    """Return the folder of a finished trial."""
    from deepmad_hw.cli import main

    config, data = question
    folder = tmp_path_factory.mktemp("finished") / "trial"
    words = ["trial", str(config), "--data", str(data), "--out", str(folder), *map(str, SHORT)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "child_lines", lines_here)
        assert main(words) == 0
    return folder


@pytest.fixture
def trial(finished, tmp_path):
    """Return a copy of the finished trial, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "trial"))


def start(run, question, folder, *more):
    config, data = question
    return run("trial", config, "--data", data, "--out", folder, *SHORT, *more)


# --- the whole way --------------------------------------------------------------------------------------------------


def test_a_trial_ends_with_an_objective_a_certified_design_and_a_sentence(run, finished):
    ran = run("trial", "show", finished, "--json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert said["left"] == 0
    assert len(said["members"]) == NETWORKS
    trained = [each for each in said["trained"] if each["accuracies"]]
    assert len(trained) == len(said["members"]) + len(said["references"])
    assert sum(len(each["accuracies"]) == 2 for each in trained) == 2
    assert said["noise"] > 0
    assert said["comparison"]["networks"] == NETWORKS
    assert said["design"]["status"] == "certified"
    assert any("rank" in sentence for sentence in said["sentences"])
    assert json.loads((finished / "objective.json").read_text()) == said["objective"]


def test_show_has_a_row_for_every_network(run, finished):
    ran = run("trial", "show", finished)
    assert ran.code == 0, ran.err
    for name in ("rho", "most-params", "spread1", "random1", "resnet18"):
        assert name in ran.out
    assert "Between two seeds" in ran.out


def test_the_design_and_every_network_are_files_that_other_verbs_read(run, finished, tmp_path):
    assert run("verify", finished / "design").code == 0
    for path in sorted((finished / "networks").iterdir())[:2]:
        assert run("export", path, "--target", "onnx", "--out", tmp_path / f"{path.stem}.onnx").code == 0


def test_the_report_shows_what_was_found_and_refers_to_nothing_outside(run, trial, tmp_path):
    assert run("trial", "verify", trial, "--epochs", 1, "--seeds", 2).code == 0
    ran = run("report", trial, "--out", tmp_path / "trial.html")
    assert ran.code == 0, ran.err
    page = (tmp_path / "trial.html").read_text()
    for part in ("Between two seeds", "What ranks them", "Weights of the calibrated objective", "spread1", "Check"):
        assert part in page
    assert page.count("<script") == page.count("<style") == 1
    assert not re.search(r"""(?:src|href)=["'](?!#)|https?://(?!www\.w3\.org)""", page)
    names = {path.name for path in (tmp_path / "trial-plots").iterdir()}
    assert names == {f"{plot}.{kind}" for plot in ("accuracy", "rules", "weights") for kind in ("svg", "png")}
    again = run("report", trial, "--out", tmp_path / "again.html")
    assert again.code == 0
    assert (tmp_path / "again.html").read_text() == page
    assert run("report", trial, "--bench", tmp_path / "b.json", "--out", tmp_path / "x.html").code == 2


def test_a_report_of_an_unfinished_trial_says_how_far_it_is(run, question, tmp_path):
    folder = tmp_path / "trial"
    assert start(run, question, folder, "--pack", tmp_path / "pack").code == 0
    assert run("report", folder, "--out", tmp_path / "trial.html").code == 0
    assert "trainings have ended; the same command goes on" in (tmp_path / "trial.html").read_text()


def test_run_is_the_verb_where_none_is_named(run, question, finished):
    config, data = question
    words = ("--data", data, "--out", finished, *SHORT)
    first, again = run("trial", config, *words), run("trial", "run", config, *words)
    assert first.code == again.code == 0, first.err
    assert first.out == again.out


def test_a_finished_trial_trains_nothing_again(run, question, finished, monkeypatch):
    monkeypatch.setattr(runner, "child_lines", None)
    assert start(run, question, finished).code == 0


def test_the_check_names_first_then_trains_then_judges(run, trial, question):
    named = run("trial", "verify", trial, "--epochs", 2, "--seeds", 2, "--dry-run")
    assert named.code == 0, named.err
    protocol = (trial / "check" / "check.json").read_text()
    names = [each["name"] for each in json.loads(protocol)["networks"]]
    assert names[0] == "named"
    assert {"deepmad-1"} < set(names)
    assert not (trial / "check" / "plan.json").exists()

    ran = run("trial", "verify", trial, "--epochs", 2, "--seeds", 2, "--workers", 2, "--json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert (trial / "check" / "check.json").read_text() == protocol
    assert len(said["verdicts"]) == len(names) - 1
    for verdict in said["verdicts"]:
        assert verdict["seeds"] == 2
        assert verdict["equal_in"] == "MACs"
    assert 0 <= said["named_accuracy"]["mean"] <= 100
    other = run("trial", "verify", trial, "--epochs", 3, "--seeds", 2)
    assert other.code == 2
    assert "begun with 2 epochs" in other.error


def test_only_the_check_reads_the_test_images(run, question, tmp_path, monkeypatch):
    real = images.read_images
    parts = []

    def watched(path, part, **more):
        parts.append(part)
        return real(path, part, **more)

    monkeypatch.setattr(images, "read_images", watched)
    folder = tmp_path / "trial"
    assert start(run, question, folder).code == 0
    assert run("trial", "show", folder).code == 0
    assert run("trial", "verify", folder, "--epochs", 1, "--seeds", 2, "--dry-run").code == 0
    assert set(parts) == {"train"}
    assert not list(folder.rglob("test_*"))
    assert run("trial", "verify", folder, "--epochs", 1, "--seeds", 2, "--workers", 2).code == 0
    assert parts.count("test") == 1


def test_images_for_testing_need_not_exist_before_the_check(run, question, tmp_path):
    config, data = question
    with np.load(data) as stored:
        np.savez(tmp_path / "train.npz", x_train=stored["x_train"], y_train=stored["y_train"])
    folder = tmp_path / "trial"
    assert start(run, (config, tmp_path / "train.npz"), folder).code == 0
    ran = run("trial", "verify", folder, "--epochs", 1, "--seeds", 2)
    assert ran.code == 3
    assert "x_test" in ran.error


# --- stopping, failing, other machines ------------------------------------------------------------------------------


def epochs_of(folder):
    with open_journal(folder) as journal:
        return {(each.job, each.epoch): each.right for each in journal.results()}


@pytest.mark.slow
@pytest.mark.children
def test_a_killed_trial_goes_on_and_ends_with_the_same_results(run, question, finished, tmp_path):
    config, data = question
    folder = tmp_path / "trial"
    words = [sys.executable, "-m", "deepmad_hw", "trial", config, "--data", data, "--out", folder, *SHORT]
    seen = 0
    for _ in range(3):
        with subprocess.Popen([str(word) for word in words], stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                if (folder / "journal.sqlite").exists() and len(epochs_of(folder)) > seen:
                    break
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        found = epochs_of(folder)
        assert len(found) >= seen
        seen = len(found)
    assert start(run, question, folder, "--workers", 1).code == 0  # on another number of workers
    assert epochs_of(folder) == epochs_of(finished)


def test_a_network_that_fails_is_named_and_the_others_go_on(run, question, tmp_path, monkeypatch):
    def lines(folder, job, **more):
        if job.startswith("most-params"):
            yield {"job": job, "failed": "out of memory"}
        else:
            yield from lines_here(folder, job, **more)

    monkeypatch.setattr(runner, "child_lines", lines)
    folder = tmp_path / "trial"
    ran = start(run, question, folder, "--networks", 9)
    assert ran.code == 0, ran.err
    assert "most-params-s0 failed: out of memory" in ran.err
    assert "out of memory" in ran.out
    assert json.loads((folder / "objective.json").read_text())["calibration"]["networks"] == 8
    monkeypatch.setattr(runner, "child_lines", lines_here)
    assert start(run, question, folder, "--networks", 9).code == 0  # what failed stays so
    assert ("most-params-s0", 2) not in epochs_of(folder)
    assert start(run, question, folder, "--networks", 9, "--retry").code == 0
    assert ("most-params-s0", 2) in epochs_of(folder)


@pytest.mark.slow
def test_a_packed_trial_comes_home(run, question, finished, tmp_path):
    folder, pack = tmp_path / "trial", tmp_path / "pack"
    assert start(run, question, folder, "--pack", pack).code == 0
    assert not epochs_of(folder)
    subprocess.run([sys.executable, "train.py", "--workers", "2"], cwd=pack, check=True, stdout=subprocess.DEVNULL)
    ran = run("trial", "import", folder, pack / "results.jsonl", "--json")
    assert ran.code == 0, ran.err
    assert epochs_of(folder) == epochs_of(finished)
    assert json.loads(ran.out)["design"]["status"] == "certified"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"job": "stranger-s0", "epoch": 1, "loss": 1, "right": 1, "images": 2, "seconds": 1}', "no job"),
        ('{"job": "most-params-s0", "epoch": 3, "loss": 1.0, "right": 1, "images": 2, "seconds": 1.0}', "epoch 3 of 2"),
        ('{"job": "most-params-s0", "epoch": 1, "right": 1}', "missing"),
        ("{", "1"),
        ("[1]", "object"),
    ],
)
def test_a_wrong_line_is_refused_and_nothing_of_the_file_is_stored(run, question, tmp_path, line, said):
    folder = tmp_path / "trial"
    assert start(run, question, folder, "--pack", tmp_path / "pack").code == 0
    good = '{"job": "most-params-s0", "epoch": 1, "loss": 1.0, "right": 1, "images": 2, "seconds": 1.0}'
    (tmp_path / "r.jsonl").write_text(f"{good}\n{line}\n")
    ran = run("trial", "import", folder, tmp_path / "r.jsonl")
    assert ran.code == 3
    assert said in ran.error
    assert "r.jsonl:2" in ran.error
    assert not epochs_of(folder)


@pytest.mark.slow
@pytest.mark.children
def test_a_cluster_trains_the_same(run, question, finished, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        folder = tmp_path / "trial"
        assert start(run, question, folder, "--dask", cluster.scheduler_address).code == 0
    assert epochs_of(folder) == epochs_of(finished)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--epochs", 3), "epochs = 2, now it is 3"),
        (("--networks", 12), "networks = 8, now it is 12"),
        (("--learning-rate", 0.2), "recipe"),
        (("--macs", "500k"), "another space or other limits"),
    ],
)
def test_a_trial_is_continued_as_it_was_begun(run, question, finished, more, said):
    ran = start(run, question, finished, *more)
    assert ran.code == 2
    assert said in ran.error


def test_another_number_of_classes_is_said_with_the_option_that_mends_it(run, question, tmp_path):
    ran = start(run, question, tmp_path / "trial", "--set", "space.classes=10")
    assert ran.code == 2
    assert f"--set space.classes={len(CLASSES)}" in ran.error


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("trial", "show", "nowhere"), 2),
        (("trial", "digits", "--data", "nowhere", "--out", "t"), 3),
        (("trial", "digits", "--out", "t"), 2),
        (("trial", "run", "digits", "--data", ".", "--out", "t", "--networks", "3"), 2),
    ],
)
def test_mistakes_are_one_line(run, words, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run(*words)
    assert ran.code == code
    assert ran.error


def test_a_folder_that_is_no_trial_is_refused(run, tmp_path):
    ran = run("trial", "show", tmp_path)
    assert ran.code == 3
    assert "trial.json" in ran.error


def test_a_check_without_an_objective_says_what_is_missing(run, question, tmp_path):
    folder = tmp_path / "trial"
    assert start(run, question, folder, "--pack", tmp_path / "pack").code == 0
    ran = run("trial", "verify", folder)
    assert ran.code == 3
    assert "no objective yet" in ran.error


def test_the_dry_run_says_what_training_costs(run, question, tmp_path):
    ran = start(run, question, tmp_path / "trial", "--dry-run")
    assert ran.code == 0, ran.err
    assert "condition number" in ran.out
    assert "minutes with 2 at once" in ran.out
    data = json.loads(start(run, question, tmp_path / "trial", "--dry-run", "--json").out)
    assert data["hours"] > 0
    assert set(data["step_seconds"]) == {each["name"] for each in (*data["members"], *data["references"])}


def test_results_have_accuracies_in_percent():
    found = EpochResult(job="a", epoch=1, loss=0.1, right=3, images=4, seconds=1.0)
    assert found.accuracy == 75.0
