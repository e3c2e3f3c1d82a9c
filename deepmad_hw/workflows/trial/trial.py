"""A trial from run file to certified design: choose networks, train them, fit an objective, design with it. Layer 4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepmad_hw.errors import ConfigError, StorageError
from deepmad_hw.files.jsonfile import write_json
from deepmad_hw.formats import serde
from deepmad_hw.network.layer import Graph
from deepmad_hw.training.jobs import Job
from deepmad_hw.workflows.design.design import Question, problem_file, with_tables
from deepmad_hw.workflows.results.folders import PROBLEM_FILE
from deepmad_hw.workflows.runfile.config import load_run
from deepmad_hw.workflows.trial import images as data
from deepmad_hw.workflows.trial import members, plan
from deepmad_hw.workflows.trial.budgets import LEAST_SHARE, OnStep, graph_of, measurer
from deepmad_hw.workflows.trial.images import LabelledImages
from deepmad_hw.workflows.trial.journal import JOURNAL_FILE, Journal
from deepmad_hw.workflows.trial.records import (
    TRIAL_FILE,
    ImageData,
    Member,
    Trial,
    TrialSettings,
    read_trial,
    write_trial,
)
from deepmad_hw.workflows.trial.scaled_references import references

PLAN_FOLDER, NETWORKS_FOLDER = "plan", "networks"


def prepare(
    folder: Path,
    question: Question,
    *,
    path: Path,
    settings: TrialSettings,
    measured: bool = False,
    on_step: OnStep = lambda text: None,
) -> Trial:
    """Choose the networks of a trial and write everything that training them needs; a trial that is there goes on.

    Args:
        folder: of the trial, made where it is not there.
        question: space and limits, a budget among them.
        path: of the images.
        settings: of the trial.
        measured: choose networks by times measured on this device, not by the table alone.
        on_step: is told what is being done.

    Raises:
        ConfigError: no budget, too few networks, or a folder whose trial was begun with something else.
        InputFileError: images that cannot be used.
        StorageError: the folder cannot be written.
    """
    if (folder / TRIAL_FILE).is_file():
        return _continued(folder, question, path, settings)
    on_step("reading images")
    space = question.problem.space
    shape = (space.in_channels, *space.resolution)
    whole = data.read_images(path, data.TRAIN, shape=shape)
    if space.classes != len(whole.classes):
        raise ConfigError(
            f"the images have {len(whole.classes)} classes, the space has {space.classes}",
            where="space.classes",
            hint=f"say --set space.classes={len(whole.classes)}",
        )
    train, validation = data.split(whole, settings.validation, seed=settings.seed)
    measure = measurer(question) if measured else None
    chosen = members.choose(question, networks=settings.networks, seed=settings.seed, measure=measure, on_step=on_step)
    scaled = references(question, measure=measure, on_step=on_step)
    trial = Trial(
        settings=settings,
        data=ImageData(
            path=str(path),
            classes=whole.classes,
            train=len(train),
            validation=len(validation),
            sha256=data.digest(train, validation),
        ),
        least_share=LEAST_SHARE,
        condition=chosen.condition,
        members=chosen.members,
        references=scaled,
    )
    on_step("writing the plan")
    _write(folder, trial, question, train, validation)
    return trial


def question_of(folder: Path) -> Question:
    """Return what a trial asks for.

    Args:
        folder: of the trial.

    Raises:
        InputFileError: it holds no trial, or a table is gone.
    """
    path = folder / PROBLEM_FILE
    references = serde.read_problem(path).tables
    return with_tables(
        load_run(path),
        confidence=references[0].confidence if references else None,
        allow_uncovered=any(each.allow_uncovered for each in references),
    )


def graphs(trial: Trial, question: Question) -> dict[str, Graph]:
    """Return the networks of a trial by name.

    Args:
        trial: the trial.
        question: whose images and classes they are built for.
    """
    return {each.name: graph_of(each, question.problem) for each in trial.networks}


def jobs_of(trial: Trial) -> list[Job]:
    """Return the trainings of a trial in their order: the population, the references, second seeds.

    Args:
        trial: the trial.
    """
    settings = trial.settings
    again = _evenly(trial.members, settings.repeats)
    work = [(each, 0) for each in trial.networks] + [(each, 1) for each in again]
    return [job_of(each.name, seed=settings.seed + extra, epochs=settings.epochs) for each, extra in work]


def job_of(network: str, *, seed: int, epochs: int, test: bool = False) -> Job:
    """Return one training.

    Args:
        network: its name.
        seed: of the training.
        epochs: of the training.
        test: whether the test images are looked at, once, at the end.
    """
    return Job(name=f"{network}-s{seed}", network=network, seed=seed, epochs=epochs, test=test)


def _evenly(items: Sequence[Member], count: int) -> list[Member]:
    return [items[int(position)] for position in np.linspace(0, len(items) - 1, count)] if count else []


def open_journal(folder: Path) -> Journal:
    """Return the journal of a trial.

    Args:
        folder: of the trial.

    Raises:
        InputFileError: it is damaged.
        StorageError: it cannot be written.
    """
    return Journal(folder / JOURNAL_FILE)


def _write(folder: Path, trial: Trial, question: Question, train: LabelledImages, validation: LabelledImages) -> None:
    try:
        (folder / NETWORKS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder cannot be made: {error.strerror}", where=str(folder)) from error
    write_plan(folder, trial, question, train, validation)
    for each in trial.members:
        assert each.architecture is not None
        write_json(folder / NETWORKS_FOLDER / f"{each.name}.json", serde.architecture_to_json(each.architecture))
    file = problem_file(
        folder,
        question.problem,
        tables=question.tables,
        confidence=question.confidence,
        allow_uncovered=question.allow_uncovered,
    )
    serde.write_problem(folder / PROBLEM_FILE, file)
    # The trial last: where it stands, its plan stands too.
    write_trial(folder, trial)


def write_plan(
    folder: Path, trial: Trial, question: Question, train: LabelledImages, validation: LabelledImages
) -> None:
    """Write what training a trial needs.

    Args:
        folder: of the trial.
        trial: the trial.
        question: whose images and classes its networks are built for.
        train: images to train on.
        validation: images that networks are compared on.

    Raises:
        StorageError: it could not be written.
    """
    where = folder / PLAN_FOLDER
    plan.write_images(where, train=train, validation=validation)
    plan.write_training_plan(where, graphs(trial, question), jobs_of(trial), recipe=trial.settings.recipe, train=train)


def _continued(folder: Path, question: Question, path: Path, settings: TrialSettings) -> Trial:
    """Return the trial of a folder, which must be the one that is asked for."""
    trial = read_trial(folder)
    for name in ("networks", "epochs", "repeats", "seed", "validation", "recipe"):
        before, now = getattr(trial.settings, name), getattr(settings, name)
        if before != now:
            raise ConfigError(
                f"the trial was begun with {name} = {before}, now it is {now}",
                where=str(folder),
                hint="continue it as it was begun, or give another --out",
            )
    if trial.data.path != str(path):
        raise ConfigError(f"the trial was begun with {trial.data.path}, now it is {path}", where=f"{folder}: --data")
    if serde.read_problem(folder / PROBLEM_FILE).problem != question.problem:
        raise ConfigError(
            "the trial was begun with another space or other limits", where=str(folder), hint="give another --out"
        )
    return trial
