"""A trial from run file to certified design: choose networks, train them, fit an objective, design with it. Layer 4."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepmad_hw.errors import ConfigError, InputFileError, StorageError
from deepmad_hw.files.jsonfile import Place, parse_json, read_text, write_json
from deepmad_hw.formats import serde
from deepmad_hw.network.layer import Graph
from deepmad_hw.predict import accuracy
from deepmad_hw.predict.accuracy import Comparison
from deepmad_hw.problem.objective import Objective
from deepmad_hw.problem.solution import Solution
from deepmad_hw.training.jobs import Job
from deepmad_hw.workflows.bench.bench import bench, of_graph
from deepmad_hw.workflows.design.design import Question, design, problem_file, save_design, with_tables
from deepmad_hw.workflows.results.folders import PROBLEM_FILE
from deepmad_hw.workflows.runfile.config import load_run
from deepmad_hw.workflows.trial import images as data
from deepmad_hw.workflows.trial import members, plan
from deepmad_hw.workflows.trial.images import LabelledImages
from deepmad_hw.workflows.trial.journal import JOURNAL_FILE, EpochResult, Journal, read_line
from deepmad_hw.workflows.trial.members import Measure
from deepmad_hw.workflows.trial.records import (
    TRIAL_FILE,
    ImageData,
    Member,
    Trial,
    TrialSettings,
    read_trial,
    write_trial,
)

PLAN_FOLDER, NETWORKS_FOLDER, DESIGN_FOLDER = "plan", "networks", "design"
OBJECTIVE_FILE = "objective.json"
SECONDS_PER_NETWORK = 1.5  # of measuring

OnStep = Callable[[str], None]


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
    scaled = members.references(question, measure=measure, on_step=on_step)
    trial = Trial(
        settings=settings,
        data=ImageData(
            path=str(path),
            classes=whole.classes,
            train=len(train),
            validation=len(validation),
            sha256=data.digest(train, validation),
        ),
        least_share=members.LEAST_SHARE,
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
    return {each.name: members.graph_of(each, question.problem) for each in trial.networks}


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


# --- what came out --------------------------------------------------------------------------------------------------


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
    folder: Path, question: Question, objective: Objective, *, time_limit_s: float = 60.0, threads: int = 1
) -> Solution:
    """Design with a fitted objective within the trial's limits, and store the answer in ``design/``.

    Args:
        folder: of the trial.
        question: space and limits.
        objective: that was fitted.
        time_limit_s: of the solve.
        threads: of the solver.

    Raises:
        SolverError: the solver broke down.
        StorageError: the folder cannot be written.
    """
    asked = calibrated(question, objective)
    solution = design(asked.problem, asked.models, time_limit_s=time_limit_s, threads=threads)
    save_design(
        folder / DESIGN_FOLDER,
        solution,
        asked.problem,
        tables=asked.tables,
        confidence=asked.confidence,
        allow_uncovered=asked.allow_uncovered,
    )
    return solution


def belongs(path: Path, work: Sequence[Job]) -> bool:
    """Return whether the first line of a packed training's results is of some jobs, by network, seed and epochs.

    Args:
        path: ``results.jsonl`` that ``python train.py`` wrote.
        work: the jobs.

    Raises:
        InputFileError: it cannot be read.
    """
    first = next((line for line in read_text(path).splitlines() if line.strip()), "")
    return bool(first) and parse_json(first, where=f"{path}:1").get("job") in {job.name for job in work}


def import_lines(path: Path, journal: Journal, work: Sequence[Job]) -> int:
    """Put the lines of a packed training into a journal; nothing is stored where one of them is wrong.

    Args:
        path: ``results.jsonl`` that ``python train.py`` wrote.
        journal: of the jobs.
        work: the jobs.

    Returns:
        How many epochs were read.

    Raises:
        InputFileError: a line that is none, or of a job that is not among them.
        StorageError: the disk does not take them.
    """
    known = {job.name: job for job in work}
    parsed = [
        (f"{path}:{number}", parse_json(text, where=f"{path}:{number}"))
        for number, text in enumerate(read_text(path).splitlines(), start=1)
        if text.strip()
    ]
    for where, line in parsed:
        result = read_line(line, Place(where))
        if result.job not in known:
            raise InputFileError(f"there is no job {result.job[:60]!r}", where=where)
        if result.epoch is not None and result.epoch > known[result.job].epochs:
            raise InputFileError(f"epoch {result.epoch} of {known[result.job].epochs}", where=where)
    return sum(isinstance(journal.add(line, where=where), EpochResult) for where, line in parsed)


# --- writing --------------------------------------------------------------------------------------------------------


def measurer(question: Question) -> Measure:
    """Return a function that times networks on this device, at the speed that it had when the table was made.

    Args:
        question: with a latency budget, on a table of this device.

    Raises:
        ConfigError: no latency is limited.
    """
    limits = question.problem.limits.latency
    if not limits:
        raise ConfigError("nothing to measure against", where="--measure", hint="give a budget: --latency TABLE=25ms")
    table = question.tables[limits[0].table]

    def measure(networks: Mapping[str, Graph]) -> dict[str, float]:
        subjects = [of_graph(replace(graph, name=name)) for name, graph in networks.items()]
        rows = bench(subjects, table=table, seconds_per_network=SECONDS_PER_NETWORK)
        return {
            row.name: row.measurement.median_us / 1e3 / (row.drift or 1.0)
            for row in rows
            if row.measurement is not None and not row.reason
        }

    return measure


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
