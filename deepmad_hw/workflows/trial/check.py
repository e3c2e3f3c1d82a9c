"""The last step of a trial: a design, named beforehand, against controls at equal latency on test images. Layer 4.

What is compared is written to ``check.json`` before anything of it is trained. The test images are read here and
nowhere else.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.files.jsonfile import Json, Place, parse_json, plain, read_text, record, versioned, write_json
from deepmad_hw.formats import serde
from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.problem.objective import Objective
from deepmad_hw.training.jobs import Job
from deepmad_hw.workflows.design.design import Question, design
from deepmad_hw.workflows.trial import images as data
from deepmad_hw.workflows.trial import members, plan
from deepmad_hw.workflows.trial.journal import JOURNAL_FILE, Journal
from deepmad_hw.workflows.trial.members import Measure
from deepmad_hw.workflows.trial.records import Member, ScaledReference, Trial
from deepmad_hw.workflows.trial.trial import (
    OBJECTIVE_FILE,
    PLAN_FOLDER,
    OnStep,
    TrainedMember,
    calibrated,
    ended_jobs,
    job_of,
    outcomes,
)

SCHEMA = 1
CHECK_FOLDER, CHECK_FILE = "check", "check.json"
EQUAL = 0.015  # largest difference of two latencies that count as equal
DEEPMAD_RHO = 0.3  # of the control that DeepMAD's own objective designs
NAMED, DEEPMAD, REFERENCE, BEST = "named design", "DeepMAD's design", "scaled reference", "best of the population"
BUDGET_FACTORS = (0.8, 0.84, 0.88, 0.92, 0.96, 1.0, 1.04, 1.08, 1.12, 1.16)  # of what a control is asked for
REFERENCE_FACTORS = (0.85, 0.9, 0.94, 0.97, 1.0, 1.03, 1.06, 1.1, 1.15)  # of the width that fitted the budget
MOST_ROUNDS = 5
LEAST_SHARE, AIMED_SHARE = 0.97, 0.985  # of the budget, that the named design's measured latency uses and aims at


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
        known = all(_latency_ms(each, self.measured) is not None for each in self.networks)
        return "latency" if known else "MACs"

    def cost_difference(self, control: Member) -> float:
        """Return by which share a control takes more than the named design, of what they are equal in.

        Args:
            control: one of the controls.
        """
        if self.equal_in == "MACs":
            return control.macs / self.named.macs - 1
        one, other = _latency_ms(control, self.measured), _latency_ms(self.named, self.measured)
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


def name_networks(
    folder: Path,
    trial: Trial,
    question: Question,
    journal: Journal,
    *,
    epochs: int,
    seeds: int,
    measure: Measure | None = None,
    on_step: OnStep = lambda text: None,
) -> Check:
    """Name the design and its controls, all at the latency of the design, and write that down.

    The controls: DeepMAD's design at rho 0.3 or the smaller limit that was asked for; of every reference the scaling
    that did best in the trial; and the network of the population that did best, at the latency that it has.

    Args:
        folder: of the trial.
        trial: the trial.
        question: its space and limits.
        journal: of its trainings.
        epochs: of every training of the check.
        seeds: trainings of every network.
        measure: times networks on this device; None goes by the table.
        on_step: is told what is being done.

    Raises:
        ConfigError: fewer than two seeds, or no design keeps the limits.
        InputFileError: the trial has no objective yet.
    """
    if seeds < 2:
        raise ConfigError(f"expected at least 2, got {seeds}", where="--seeds", hint="one says nothing of the noise")
    objective = fitted_objective(folder)
    trained = outcomes(trial, journal)
    on_step("designing with the calibrated objective")
    named = _named(question, objective, measure, on_step)
    controls: list[Member] = []
    rho = min(DEEPMAD_RHO, question.problem.limits.rho or DEEPMAD_RHO)
    plain_problem = replace(question.problem, objective=None, limits=replace(question.problem.limits, rho=rho))
    choices = {DEEPMAD: _designs(replace(question, problem=plain_problem), named, measure, on_step)}
    for best in _best_references(trained):
        assert best.reference is not None
        choices[f"{REFERENCE}: {best.reference.name}"] = _widths(best.reference, question, measured=measure is not None)
    if measure is not None:
        named, timed = _timed(named, choices, measure, question, on_step)
        choices = timed
    for why, each in choices.items():
        nearest = _nearest(each, named, measured=measure is not None)
        if nearest is not None:
            controls.append(replace(nearest, why=why))
    best_trained = max(
        (each for each in trained if each.member.architecture is not None and each.accuracy is not None),
        key=lambda each: each.accuracy or 0.0,
    )
    if best_trained.member.architecture not in [each.architecture for each in (named, *controls)]:
        controls.append(replace(best_trained.member, why=BEST))
    networks = (named, *controls)
    if measure is not None:
        on_step(f"measuring {len(networks)} networks")
        times_ms = measure({each.name: members.graph_of(each, question.problem) for each in networks})
        networks = tuple(replace(each, measured_ms=times_ms.get(each.name, each.measured_ms)) for each in networks)
    check = Check(epochs=epochs, seeds=seeds, measured=measure is not None, networks=networks)
    write_check(folder, check)
    return check


def fitted_objective(folder: Path) -> Objective:
    """Return the objective of a trial.

    Args:
        folder: of the trial.

    Raises:
        InputFileError: nothing was fitted yet.
    """
    if not (folder / OBJECTIVE_FILE).is_file():
        raise InputFileError(
            "the trial has no objective yet", where=str(folder), hint="finish its trainings: deepmad-hw trial run ..."
        )
    return serde.read_objective(folder / OBJECTIVE_FILE)


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
    graphs = {each.name: members.graph_of(each, question.problem) for each in check.networks}
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


# --- naming ---------------------------------------------------------------------------------------------------------


def _named(question: Question, objective: Objective, measure: Measure | None, on_step: OnStep) -> Member:
    """Return the design with the calibrated objective; where times are measured, corrected until it uses its budget."""
    asked = calibrated(question, objective)
    if measure is None:
        return _member(_design(asked), "named", NAMED, question)
    budget_ms = question.problem.limits.latency[0].budget_ms
    scale, kept = 1.0, None
    for number in range(1, MOST_ROUNDS + 1):
        member = _member(_design(members.scaled(asked, scale)), "named", NAMED, question)
        on_step(f"measuring the named design, round {number}")
        times_ms = measure({"named": expand(_architecture(member))})
        if "named" not in times_ms:
            break
        member = replace(member, measured_ms=times_ms["named"])
        share = times_ms["named"] / budget_ms
        if share <= 1 and (kept is None or times_ms["named"] > (kept.measured_ms or 0)):
            kept = member
        if LEAST_SHARE <= share <= 1:
            break
        scale *= AIMED_SHARE / share
    if kept is None:
        raise ConfigError("no design was measured within the budget", where=question.problem.name)
    return kept


def _designs(question: Question, named: Member, measure: Measure | None, on_step: OnStep) -> list[Member]:
    """Return DeepMAD's designs at budgets around that of the named design, each once."""
    factors = BUDGET_FACTORS if measure is not None else (1.0,)
    model_ms, budget = named.predicted_ms, question.problem.limits.latency
    start = 1.0
    if measure is not None and budget and model_ms and named.measured_ms:
        # What the table says too much of one design it says too much of another, about.
        start = budget[0].budget_ms / named.measured_ms * model_ms / named.measured_ms
    found: dict[Architecture, Member] = {}
    for factor in factors:
        on_step(f"designing DeepMAD's control, {factor:.2f} of its budget")
        asked = members.scaled(question, factor * start)
        answer = design(asked.problem, asked.models).architecture
        if answer is not None:
            found.setdefault(answer, _member(answer, f"deepmad-{factor:.2f}", DEEPMAD, question))
    return list(found.values())


def _best_references(trained: Sequence[TrainedMember]) -> list[Member]:
    """Return of every reference the scaling with the highest accuracy."""
    best: dict[str, TrainedMember] = {}
    for each in trained:
        if each.member.reference is None or each.accuracy is None:
            continue
        name = each.member.reference.name
        if name not in best or each.accuracy > (best[name].accuracy or 0.0):
            best[name] = each
    return [each.member for each in best.values()]


def _widths(chosen: ScaledReference, question: Question, *, measured: bool) -> list[Member]:
    found: dict[int, Member] = {}
    for factor in REFERENCE_FACTORS:
        width = replace(chosen, width=round(chosen.width * factor, 4))
        # Where times are measured, the table need not know the network.
        member = members.described(width, question) if measured else members.reference_member(question, width)
        if member is not None:
            found.setdefault(member.macs, member)
    return list(found.values())


def _timed(
    named: Member, choices: dict[str, list[Member]], measure: Measure, question: Question, on_step: OnStep
) -> tuple[Member, dict[str, list[Member]]]:
    """Return the named design and all choices with times of one interleaved run."""
    everything = [named, *(each for options in choices.values() for each in options)]
    on_step(f"measuring {len(everything)} networks")
    times_ms = measure({each.name: members.graph_of(each, question.problem) for each in everything})
    timed = {
        why: [replace(each, measured_ms=times_ms[each.name]) for each in options if each.name in times_ms]
        for why, options in choices.items()
    }
    return replace(named, measured_ms=times_ms.get(named.name, named.measured_ms)), timed


def _nearest(choices: Sequence[Member], named: Member, *, measured: bool) -> Member | None:
    """Return the choice whose latency, or MACs without one, is nearest to that of the named design."""

    def cost(member: Member) -> float | None:
        return member.macs if _latency_ms(named, measured) is None else _latency_ms(member, measured)

    target = cost(named) or 1.0
    known = [(abs(math.log(value / target)), each) for each in choices if (value := cost(each))]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def _latency_ms(member: Member, measured: bool) -> float | None:
    return member.measured_ms if measured else member.predicted_ms


def _design(question: Question) -> Architecture:
    solution = design(question.problem, question.models)
    if solution.architecture is None:
        raise ConfigError(f"no design keeps every limit: {solution.stopped}", where=question.problem.name)
    return solution.architecture


def _architecture(member: Member) -> Architecture:
    assert member.architecture is not None
    return member.architecture


def _member(architecture: Architecture, name: str, why: str, question: Question) -> Member:
    return Member(
        name=name,
        why=why,
        macs=costs.macs(architecture),
        params=costs.params(architecture),
        predicted_ms=members.predicted_ms(expand(architecture), question),
        architecture=architecture,
    )
