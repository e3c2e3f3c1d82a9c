"""A trial and its check as two calls. Layer 4."""

from __future__ import annotations

from pathlib import Path

from deepmad_hw.workflows.design.design import Question, with_tables
from deepmad_hw.workflows.runfile.config import load_run
from deepmad_hw.workflows.trial import check as checks
from deepmad_hw.workflows.trial import trial as trials
from deepmad_hw.workflows.trial.budgets import OnStep, measurer
from deepmad_hw.workflows.trial.check import Check
from deepmad_hw.workflows.trial.controls import name_networks
from deepmad_hw.workflows.trial.journal import EpochResult, FailedJob, Journal
from deepmad_hw.workflows.trial.outcomes import best_design, fit
from deepmad_hw.workflows.trial.records import Trial, TrialSettings, read_trial
from deepmad_hw.workflows.trial.runner import OnResult, Where, train, unfinished
from deepmad_hw.workflows.trial.summary import Summary, summarize


def _silent(_: str | EpochResult | FailedJob) -> None:
    """Say nothing."""


def trial(
    question: Question | str | Path,
    images: str | Path,
    out: str | Path,
    *,
    settings: TrialSettings = TrialSettings(),  # noqa: B008 - frozen
    where: Where = Where(),  # noqa: B008 - frozen
    measured: bool = False,
    retry: bool = False,
    on_step: OnStep = _silent,
    on_result: OnResult = _silent,
) -> Summary:
    """Train a population briefly, fit an objective to its accuracies, and design with that; the same call continues.

    Args:
        question: space and limits, a budget on latency, MACs or parameters among them; or a run file, or its name.
        images: folder with ``train/CLASS/*``, or npz file with ``x_train`` and ``y_train``.
        out: folder of the trial.
        settings: how many networks, how long, by which recipe.
        where: what they are trained on.
        measured: choose networks by latencies measured on this device, not by the table alone.
        retry: train once more what failed.
        on_step: is told what is being done.
        on_result: is told the result of every epoch.

    Raises:
        ConfigError: no budget, too few networks, or a folder whose trial was begun with something else.
        InputFileError: images or a table that cannot be used.
        MissingExtraError: torch is not installed.
        StorageError: the folder cannot be written.
    """
    if not isinstance(question, Question):
        question = with_tables(load_run(question))
    out = Path(out)
    found = trials.prepare(out, question, path=Path(images), settings=settings, measured=measured, on_step=on_step)
    with trials.open_journal(out) as journal:
        if retry:
            journal.forget_failures()
        train(out / trials.PLAN_FOLDER, trials.jobs_of(found), journal, where, on_result=on_result)
        conclude(out, found, journal, on_step=on_step)
    return summarize(out)


def conclude(folder: Path, found: Trial, journal: Journal, *, on_step: OnStep = _silent) -> None:
    """Fit the objective and design with it, once every training has ended or failed.

    Args:
        folder: of the trial.
        found: the trial.
        journal: of its trainings.
        on_step: is told what is being done.

    Raises:
        ConfigError: too few networks have ended.
    """
    if unfinished(trials.jobs_of(found), journal):
        return
    on_step("fitting the objective")
    fitted = fit(folder, found, journal)
    on_step("designing with it")
    best_design(folder, found, trials.question_of(folder), fitted.objective)


def protocol(
    folder: Path, *, epochs: int = 24, seeds: int = 3, measured: bool = False, on_step: OnStep = _silent
) -> Check:
    """Return what the check of a trial compares; it is written down before anything of it is trained.

    Args:
        folder: of the trial.
        epochs: of every training.
        seeds: trainings of every network.
        measured: bring all networks to one latency measured on this device.
        on_step: is told what is being done.

    Raises:
        ConfigError: the check was begun with something else.
        InputFileError: the trial has no objective yet.
    """
    check = checks.read_check(folder)
    if check is not None:
        checks.require_same(check, epochs=epochs, seeds=seeds, where=folder / checks.CHECK_FOLDER)
        return check
    question = trials.question_of(folder)
    measure = measurer(question) if measured else None
    with trials.open_journal(folder) as journal:
        return name_networks(
            folder,
            read_trial(folder),
            question,
            journal,
            epochs=epochs,
            seeds=seeds,
            measure=measure,
            on_step=on_step,
        )


def verify_trial(
    folder: str | Path,
    *,
    epochs: int = 24,
    seeds: int = 3,
    where: Where = Where(),  # noqa: B008 - frozen
    measured: bool = False,
    retry: bool = False,
    on_step: OnStep = _silent,
    on_result: OnResult = _silent,
) -> Summary:
    """Train the calibrated design longer beside its controls, and look at the test images; the same call continues.

    Args:
        folder: of a finished trial.
        epochs: of every training.
        seeds: trainings of every network, at least 2.
        where: what they are trained on.
        measured: bring all networks to one latency measured on this device.
        retry: train once more what failed.
        on_step: is told what is being done.
        on_result: is told the result of every epoch.

    Raises:
        ConfigError: the check was begun with something else.
        InputFileError: the trial has no objective yet, or the images are not those that it was begun with.
        MissingExtraError: torch is not installed.
        StorageError: the folder cannot be written.
    """
    folder = Path(folder)
    check = protocol(folder, epochs=epochs, seeds=seeds, measured=measured, on_step=on_step)
    found = read_trial(folder)
    on_step("writing the plan")
    plan = checks.prepare(folder, found, trials.question_of(folder), check)
    with checks.open_journal(folder) as journal:
        if retry:
            journal.forget_failures()
        train(plan, checks.jobs_of(check, found), journal, where, on_result=on_result)
    return summarize(folder)
