"""What the trainings of a trial came to: accuracies, their noise, an objective fitted to them, a design. Layer 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepmad_hw.formats import serde
from deepmad_hw.predict import accuracy
from deepmad_hw.predict.accuracy import Comparison
from deepmad_hw.problem.objective import Objective
from deepmad_hw.problem.solution import Solution
from deepmad_hw.training.jobs import Job
from deepmad_hw.workflows.design.design import Question, design, save_design
from deepmad_hw.workflows.trial.budgets import correction, scaled
from deepmad_hw.workflows.trial.journal import EpochResult, Journal
from deepmad_hw.workflows.trial.records import Member, Trial
from deepmad_hw.workflows.trial.trial import jobs_of

DESIGN_FOLDER, OBJECTIVE_FILE = "design", "objective.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedMember:
    """A network and what its trainings came to.

    Args:
        member: the network.
        accuracies: in percent of the validation images, one per seed that has ended.
        failed: why a training of it failed, empty where none did.
    """

    member: Member
    accuracies: tuple[float, ...] = ()
    failed: str = ""

    @property
    def accuracy(self) -> float | None:
        """Return the accuracy with the first seed, in percent, None before it has ended."""
        return self.accuracies[0] if self.accuracies else None


def outcomes(trial: Trial, journal: Journal) -> tuple[TrainedMember, ...]:
    """Return what is known of every network of a trial.

    Args:
        trial: the trial.
        journal: of its trainings.
    """
    ended = ended_jobs(jobs_of(trial), journal)
    failures = journal.failures()
    found = []
    for each in trial.networks:
        names = [job.name for job in jobs_of(trial) if job.network == each.name]
        accuracies = tuple(ended[name].accuracy for name in names if name in ended)
        failed = next((failures[name] for name in names if name in failures), "")
        found.append(TrainedMember(member=each, accuracies=accuracies, failed=failed))
    return tuple(found)


def ended_jobs(work: Sequence[Job], journal: Journal) -> dict[str, EpochResult]:
    """Return the last epoch of every job that has ended, by the job's name.

    Args:
        work: jobs.
        journal: of their trainings.
    """
    epochs = {job.name: job.epochs for job in work}
    return {result.job: result for result in journal.results() if epochs.get(result.job) == result.epoch}


def noise(trained: Sequence[TrainedMember]) -> float | None:
    """Return the standard deviation of an accuracy between seeds, in points, None where no network has two.

        s^2 = mean over networks of (one - other)^2 / 2

    Args:
        trained: networks.
    """
    squares = [(each.accuracies[0] - each.accuracies[1]) ** 2 / 2 for each in trained if len(each.accuracies) > 1]
    return float(np.sqrt(np.mean(squares))) if squares else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """An objective fitted to a trial's population.

    Args:
        objective: its weights and ranges.
        comparison: how well it ranks networks that it has not seen, beside fixed rules.
    """

    objective: Objective
    comparison: Comparison


def fit(folder: Path, trial: Trial, journal: Journal) -> Fitted:
    """Fit an objective to the accuracies of a trial's population and store it as ``objective.json``.

    Args:
        folder: of the trial.
        trial: the trial.
        journal: of its trainings.

    Raises:
        ConfigError: too few networks have ended, or all are equally accurate.
        StorageError: it could not be written.
    """
    population = population_of(trial, journal)
    source = f"trial of {len(population)} networks, {trial.settings.epochs} epochs on {Path(trial.data.path).name}"
    fitted = Fitted(
        objective=accuracy.fit(population, source=source),
        comparison=accuracy.compare(population, seed=trial.settings.seed),
    )
    serde.write_objective(folder / OBJECTIVE_FILE, fitted.objective)
    return fitted


def population_of(trial: Trial, journal: Journal) -> accuracy.Population:
    """Return the trained networks of a trial's space with their accuracies.

    Args:
        trial: the trial.
        journal: of its trainings.

    Raises:
        ConfigError: none has ended.
    """
    trained = [
        (each.member.name, each.member.architecture, each.accuracy)
        for each in outcomes(trial, journal)
        if each.member.architecture is not None and each.accuracy is not None
    ]
    return accuracy.population(
        [(name, architecture, value) for name, architecture, value in trained if architecture and value is not None]
    )


def calibrated(question: Question, objective: Objective) -> Question:
    """Return a question that maximises a fitted objective.

    Args:
        question: space and limits.
        objective: what is maximised.
    """
    return replace(question, problem=replace(question.problem, objective=objective, penalty="std"))


def best_design(
    folder: Path,
    trial: Trial,
    question: Question,
    objective: Objective,
    *,
    time_limit_s: float = 60.0,
    threads: int = 1,
) -> Solution:
    """Design with a fitted objective within the trial's limits, and store the answer in ``design/``.

    Args:
        folder: of the trial.
        trial: whose measured times, if it has any, correct what the table says of the budget.
        question: space and limits.
        objective: that was fitted.
        time_limit_s: of the solve.
        threads: of the solver.

    Raises:
        SolverError: the solver broke down.
        StorageError: the folder cannot be written.
    """
    factor = correction(trial.members, question)
    asked = calibrated(scaled(question, factor), objective)
    solution = design(asked.problem, asked.models, time_limit_s=time_limit_s, threads=threads)
    if factor != 1.0:
        note = f"the table's budget is multiplied by {factor:.3f}, as the trial's networks were measured"
        solution = replace(solution, notes=(*solution.notes, note))
    save_design(
        folder / DESIGN_FOLDER,
        solution,
        asked.problem,
        tables=asked.tables,
        confidence=asked.confidence,
        allow_uncovered=asked.allow_uncovered,
    )
    return solution
