"""The last step of a trial: a design, named beforehand, against controls at equal latency on test images. Layer 4.

What is compared is written to ``check.json`` before anything of it is trained. The test images are read here and
nowhere else.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.files.jsonfile import Json, Place, parse_json, plain, read_text, record, versioned, write_json
from deepmad_hw.training.jobs import Job
from deepmad_hw.workflows.design.design import Question
from deepmad_hw.workflows.trial import images as data
from deepmad_hw.workflows.trial import plan
from deepmad_hw.workflows.trial.budgets import graph_of
from deepmad_hw.workflows.trial.journal import JOURNAL_FILE, Journal
from deepmad_hw.workflows.trial.outcomes import ended_jobs
from deepmad_hw.workflows.trial.records import Member, Trial
from deepmad_hw.workflows.trial.trial import PLAN_FOLDER, job_of

SCHEMA = 1
CHECK_FOLDER, CHECK_FILE = "check", "check.json"
EQUAL = 0.015  # largest difference of two latencies that count as equal


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What is compared and how: the protocol of the last step.

    Args:
        epochs: of every training.
        seeds: trainings of every network.
        measured: whether latencies were measured on this device in one interleaved run.
        networks: the named design first, then its controls.
    """

    epochs: int
    seeds: int
    measured: bool
    networks: tuple[Member, ...]

    @property
    def named(self) -> Member:
        """Return the design that the trial stands for."""
        return self.networks[0]

    @property
    def controls(self) -> tuple[Member, ...]:
        """Return what it is held against."""
        return self.networks[1:]

    @property
    def equal_in(self) -> str:
        """Return in what the networks are equal: ``latency``, or ``MACs`` where no latency is known of all."""
        known = all(latency_ms(each, self.measured) is not None for each in self.networks)
        return "latency" if known else "MACs"

    def cost_difference(self, control: Member) -> float:
        """Return by which share a control takes more than the named design, of what they are equal in.

        Args:
            control: one of the controls.
        """
        if self.equal_in == "MACs":
            return control.macs / self.named.macs - 1
        one, other = latency_ms(control, self.measured), latency_ms(self.named, self.measured)
        assert one is not None
        assert other is not None
        return one / other - 1


def write_check(folder: Path, check: Check) -> None:
    """Write the protocol of a trial's last step.

    Args:
        folder: of the trial.
        check: what is compared.

    Raises:
        StorageError: it could not be written.
    """
    (folder / CHECK_FOLDER).mkdir(parents=True, exist_ok=True)
    write_json(folder / CHECK_FOLDER / CHECK_FILE, check_to_json(check))


def check_to_json(check: Check) -> Json:
    """Return a protocol as JSON data.

    Args:
        check: what.
    """
    return {"schema": SCHEMA, **plain(check)}


def read_check(folder: Path) -> Check | None:
    """Return the protocol of a trial's last step, None before it is written.

    Args:
        folder: of the trial.

    Raises:
        InputFileError: it cannot be read.
    """
    path = folder / CHECK_FOLDER / CHECK_FILE
    if not path.is_file():
        return None
    text = read_text(path)
    at = Place(str(path), text=text)
    check = record(Check, versioned(parse_json(text, where=str(path)), at, schema=SCHEMA), at)
    if not check.networks:
        raise at.key("networks").error("expected the named design and its controls")
    return check


def require_same(check: Check, *, epochs: int, seeds: int, where: Path) -> None:
    """Refuse to continue a check with another schedule.

    Args:
        check: that was begun.
        epochs: asked for now.
        seeds: asked for now.
        where: its folder.

    Raises:
        ConfigError: they are others.
    """
    if (check.epochs, check.seeds) != (epochs, seeds):
        raise ConfigError(
            f"the check was begun with {check.epochs} epochs and {check.seeds} seeds",
            where=str(where),
            hint="continue it as it was begun, or remove that folder",
        )


def prepare(folder: Path, trial: Trial, question: Question, check: Check) -> Path:
    """Write everything that training the check needs, the test images among it, and return its folder.

    Args:
        folder: of the trial.
        trial: the trial.
        question: whose images and classes the networks are built for.
        check: what is compared.

    Raises:
        InputFileError: images that cannot be used.
        StorageError: the folder cannot be written.
    """
    where = folder / CHECK_FOLDER
    space = question.problem.space
    shape = (space.in_channels, *space.resolution)
    path = Path(trial.data.path)
    whole = data.read_images(path, data.TRAIN, shape=shape)
    train, validation = data.split(whole, trial.settings.validation, seed=trial.settings.seed)
    if data.digest(train, validation) != trial.data.sha256:
        raise InputFileError("these are not the images that the trial was begun with", where=str(path))
    test = data.read_images(path, data.TEST, shape=shape)
    if test.classes != trial.data.classes:
        raise InputFileError("the test images have other classes", where=str(path))
    plan.share_images(folder / PLAN_FOLDER, where, "train", "validation")
    plan.write_images(where, test=test)
    graphs = {each.name: graph_of(each, question.problem) for each in check.networks}
    plan.write_training_plan(where, graphs, jobs_of(check, trial), recipe=trial.settings.recipe, train=train)
    return where


def jobs_of(check: Check, trial: Trial) -> list[Job]:
    """Return the trainings of a check: all networks with the first seed, then with the next.

    Args:
        check: what is compared.
        trial: whose seed is the first.
    """
    return [
        job_of(each.name, seed=trial.settings.seed + extra, epochs=check.epochs, test=True)
        for extra in range(check.seeds)
        for each in check.networks
    ]


def open_journal(folder: Path) -> Journal:
    """Return the journal of a trial's check.

    Args:
        folder: of the trial.

    Raises:
        InputFileError: it is damaged.
        StorageError: it cannot be written.
    """
    return Journal(folder / CHECK_FOLDER / JOURNAL_FILE)


# --- what came out --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean and its standard error.

    Args:
        mean: of the values.
        error: standard deviation of the values over the root of their number.
    """

    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Return the estimate of at least two values.

        Args:
            values: of equal weight.
        """
        return cls(mean=statistics.fmean(values), error=statistics.stdev(values) / math.sqrt(len(values)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The named design against one control.

    Args:
        control: the control.
        accuracy: its test accuracy, in percent.
        difference: the named design's accuracy less its own, seed by seed, in points.
        equal_in: what they are brought to: ``latency`` or ``MACs``.
        cost_difference: by which share the control takes more of it.
        seeds: that both have ended.
    """

    control: Member
    accuracy: Estimate
    difference: Estimate
    equal_in: str
    cost_difference: float
    seeds: int

    @property
    def sentence(self) -> str:
        """Return in one sentence what was shown, by the rule of two standard errors."""
        mean, error = self.difference.mean, self.difference.error
        figures = f"{mean:+.2f} +- {error:.2f} points, {self.seeds} seeds"
        more = self.cost_difference
        where = f"at equal {self.equal_in}" if abs(more) <= EQUAL else f"at {1 + more:.3f} times its {self.equal_in}"
        name = f"{self.control.name} ({self.control.why})"
        if abs(mean) <= 2 * error:
            return f"No difference is shown to {name} {where}: {figures}."
        return f"The named design is {'better' if mean > 0 else 'worse'} than {name} {where}: {figures}."


def verdicts(check: Check, trial: Trial, journal: Journal) -> tuple[Estimate | None, tuple[Verdict, ...]]:
    """Return the named design's accuracy and how it stands against every control, as far as two seeds have ended.

    Args:
        check: what is compared.
        trial: whose seed is the first.
        journal: of the check's trainings.
    """
    ended = ended_jobs(jobs_of(check, trial), journal)

    def of(member: Member) -> dict[int, float]:
        seeds = range(trial.settings.seed, trial.settings.seed + check.seeds)
        found = {seed: ended.get(job_of(member.name, seed=seed, epochs=check.epochs).name) for seed in seeds}
        return {
            seed: result.test_accuracy
            for seed, result in found.items()
            if result is not None and result.test_accuracy is not None
        }

    named = of(check.named)
    found = []
    for control in check.controls:
        other = of(control)
        both = sorted(named.keys() & other.keys())
        if len(both) > 1:
            found.append(
                Verdict(
                    control=control,
                    accuracy=Estimate.of([other[seed] for seed in both]),
                    difference=Estimate.of([named[seed] - other[seed] for seed in both]),
                    equal_in=check.equal_in,
                    cost_difference=check.cost_difference(control),
                    seeds=len(both),
                )
            )
    return (Estimate.of(list(named.values())) if len(named) > 1 else None), tuple(found)


def latency_ms(member: Member, measured: bool) -> float | None:
    """Return the latency by which networks are compared, None where it is not known.

    Args:
        member: a network.
        measured: whether measured times count, not the table.
    """
    return member.measured_ms if measured else member.predicted_ms
