"""The trial on CIFAR-10: its results kept as text, and docs/evidence-cifar10.md written from them.

    tar -xf CIFAR10.tar.xz -C images/          # train/CLASS/*.jpg, test/CLASS/*.jpg
    deepmad-hw profile --space cifar10 --minutes 8 --out cifar10-fp32.csv
    deepmad-hw trial cifar10 --rho 1.0 --latency cifar10-fp32.csv=0.25ms --data images/ --measure --precision bf16 \\
        --workers 2 --out trial/
    python benchmarks/cifar10.py store trial/
    deepmad-hw trial verify trial/ --measure --workers 2
    python benchmarks/cifar10.py store trial/
    python benchmarks/cifar10.py page --out docs/evidence-cifar10.md

Trainings take hours. `store` keeps what has ended so far, `resume` makes a trial's folder of what is kept, for the same
commands to go on from; what was not finished starts anew.
"""

import argparse
import json
import shutil
import tarfile
from pathlib import Path

import origin

from deepmad_hw.workflows.trial import check as checks
from deepmad_hw.workflows.trial import images as data
from deepmad_hw.workflows.trial import trial as trials
from deepmad_hw.workflows.trial.records import TRIAL_FILE, read_trial

RESULTS = Path(__file__).parent / "results" / "cifar10"
TABLE = "cifar10-fp32"
TABLE_ARCHIVE = "table.tar.xz"
FILES = (TRIAL_FILE, "problem.json", "objective.json", "check/check.json")
EPOCHS = {"epochs.jsonl": trials.open_journal, "check/epochs.jsonl": checks.open_journal}


def store(folder, results):
    """Keep a trial's files, its epochs as lines and its latency table."""
    for name in FILES:
        if (folder / name).is_file():
            _parent(results / name)
            shutil.copyfile(folder / name, results / name)
    _place(results, "images", "..")
    for name, opened in EPOCHS.items():
        if not (folder / name).parent.is_dir():
            continue
        with opened(folder) as journal:
            lines = [json.dumps(_line(each)) for each in journal.results()]
        _parent(results / name)
        (results / name).write_text("".join(f"{line}\n" for line in lines))
    (table,) = trials.question_of(folder).tables.values()
    if not (results / TABLE_ARCHIVE).is_file():
        with tarfile.open(results / TABLE_ARCHIVE, "w:xz") as archive:
            for suffix in (".csv", ".json"):
                archive.add(table.with_suffix(suffix), arcname=f"{TABLE}{suffix}")
    origin_file = results / "origin.json"
    if not origin_file.is_file():
        origin_file.write_text(json.dumps({"machine": origin.machine()}, indent=1) + "\n")


def _place(folder, images, tables):
    """Say where images and table are, from a trial's folder."""
    problem, trial = (json.loads((folder / name).read_text()) for name in ("problem.json", TRIAL_FILE))
    for table in problem["tables"]:
        table["path"] = f"{tables}/{TABLE}.csv"
    trial["data"]["path"] = images
    for name, found in (("problem.json", problem), (TRIAL_FILE, trial)):
        (folder / name).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def _line(result):
    found = {name: getattr(result, name) for name in ("job", "epoch", "loss", "right", "images", "seconds")}
    if result.test_right is not None:
        found |= {"test_right": result.test_right, "test_images": result.test_images}
    return found


def _parent(path):
    path.parent.mkdir(parents=True, exist_ok=True)


def resume(results, folder, images):
    """Make a trial's folder of what is kept; jobs that were not finished start anew."""
    folder.mkdir(parents=True)
    with tarfile.open(results / TABLE_ARCHIVE) as archive:
        archive.extractall(folder.parent, filter="data")
    for name in FILES:
        if (results / name).is_file():
            _parent(folder / name)
            shutil.copyfile(results / name, folder / name)
    _place(folder, str(images), "..")
    trial, question = read_trial(folder), trials.question_of(folder)
    space = question.problem.space
    whole = data.read_images(images, data.TRAIN, shape=(space.in_channels, *space.resolution))
    train, validation = data.split(whole, trial.settings.validation, seed=trial.settings.seed)
    assert data.digest(train, validation) == trial.data.sha256, "these are other images"
    trials.write_plan(folder, trial, question, train, validation)
    work = {"epochs.jsonl": trials.jobs_of(trial)}
    check = checks.read_check(folder)
    if check is not None:
        work["check/epochs.jsonl"] = checks.jobs_of(check, trial)
    for name, jobs in work.items():
        if not (results / name).is_file():
            continue
        lines = [json.loads(line) for line in (results / name).read_text().splitlines()]
        ended = {line["job"] for line in lines if line["epoch"] == jobs[0].epochs}
        with EPOCHS[name](folder) as journal:
            for line in lines:
                if line["job"] in ended:
                    journal.add(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("store", help="keep the results of a trial")
    one.add_argument("folder", type=Path)
    other = verbs.add_parser("resume", help="make a trial's folder of what is kept")
    other.add_argument("folder", type=Path)
    other.add_argument("--data", type=Path, required=True)
    page = verbs.add_parser("page", help="write the page")
    page.add_argument("--out", type=Path, required=True)
    for each in (one, other, page):
        each.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.verb == "store":
        given.results.mkdir(parents=True, exist_ok=True)
        store(given.folder, given.results)
    elif given.verb == "resume":
        resume(given.results, given.folder, given.data)
    else:
        import cifar10_page

        cifar10_page.write(given.results, given.out)


if __name__ == "__main__":
    main()
