"""Names a trial's design and its controls, all brought to one latency, before any of them is trained. Layer 4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.formats import serde
from deepmad_hw.latency.model import upper_ms
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.problem.objective import Objective
from deepmad_hw.workflows.design.design import Question, design
from deepmad_hw.workflows.trial.budgets import (
    Measure,
    OnStep,
    architecture_of,
    correction,
    graph_of,
    member_of,
    scaled,
)
from deepmad_hw.workflows.trial.check import EQUAL, Check, latency_ms, write_check
from deepmad_hw.workflows.trial.journal import Journal
from deepmad_hw.workflows.trial.outcomes import OBJECTIVE_FILE, TrainedMember, calibrated, outcomes
from deepmad_hw.workflows.trial.records import Member, ScaledReference, Trial
from deepmad_hw.workflows.trial.scaled_references import described, reference_member

NAMED, DEEPMAD, REFERENCE, BEST = "named design", "DeepMAD's design", "scaled reference", "best of the population"
REFERENCE_FACTORS = (0.85, 0.9, 0.94, 0.97, 1.0, 1.03, 1.06, 1.1, 1.15)  # of the width that fitted the budget
MOST_ROUNDS = 5
LEAST_SHARE, AIMED_SHARE = 0.97, 0.985  # of the budget, that the named design's measured latency uses and aims at
DEEPMAD_RHO = 0.3  # of the control that DeepMAD's own objective designs


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
    named = _named(trial, question, objective, measure, on_step)
    controls: list[Member] = []
    choices = {DEEPMAD: _deepmad(question, named, measure, on_step)}
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
        times_ms = measure({each.name: graph_of(each, question.problem) for each in networks})
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


def _named(trial: Trial, question: Question, objective: Objective, measure: Measure | None, on_step: OnStep) -> Member:
    """Return the design with the calibrated objective; where times are measured, corrected until it uses its budget."""
    asked = calibrated(question, objective)
    if measure is None:
        return member_of("named", NAMED, _design(scaled(asked, correction(trial.members, question))), question)
    budget_ms = question.problem.limits.latency[0].budget_ms
    scale, kept = correction(trial.members, question), None
    for number in range(1, MOST_ROUNDS + 1):
        member = member_of("named", NAMED, _design(scaled(asked, scale)), question)
        on_step(f"measuring the named design, round {number}")
        times_ms = measure({"named": expand(architecture_of(member))})
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


def _deepmad(question: Question, named: Member, measure: Measure | None, on_step: OnStep) -> list[Member]:
    """Return designs by DeepMAD's own objective near the latency of the named design, each once.

    Their rho is limited to 0.3 or the smaller limit that was asked for; where no design has that, to the latter.
    """
    limits = question.problem.limits
    for rho in dict.fromkeys((min(DEEPMAD_RHO, limits.rho or DEEPMAD_RHO), limits.rho)):
        problem = replace(question.problem, objective=None, limits=replace(limits, rho=rho))
        found = _designs(replace(question, problem=problem), named, measure, on_step)
        if found:
            return found
    return []


def _designs(question: Question, named: Member, measure: Measure | None, on_step: OnStep) -> list[Member]:
    """Return designs at budgets that bring their measured latency nearer and nearer to that of the named design."""
    factor, below, above = _first_factor(question, named, measure), 0.0, math.inf
    found: dict[Architecture, Member] = {}
    for number in range(1, (1 if measure is None else MOST_ROUNDS) + 1):
        on_step(f"designing DeepMAD's control, round {number}")
        asked = scaled(question, factor)
        answer = design(asked.problem, asked.models).architecture
        if answer is not None:
            found.setdefault(answer, member_of(f"deepmad-{len(found) + 1}", DEEPMAD, answer, question))
        if measure is None:
            break
        ratio = 1.0 if answer is None else _ratio(found[answer], named, measure, question)
        if answer is None or ratio < 1:
            below = factor
        else:
            above = factor
        if answer is not None and abs(ratio - 1) < EQUAL / 3:
            break
        # A step by the ratio, kept between what was too slow and what was too fast.
        factor = factor / ratio if answer is not None else factor * 1.1
        if not below < factor < above:
            factor = math.sqrt(below * above) if below and above < math.inf else (below * 1.05 or above / 1.05)
    return list(found.values())


def _first_factor(question: Question, named: Member, measure: Measure | None) -> float:
    """Return by what budgets are multiplied so that what they allow is predicted as the named design is."""
    limits = question.problem.limits.latency
    if measure is None or not limits or named.predicted_ms is None:
        return 1.0
    model = question.models[limits[0].table]
    return (upper_ms(named.predicted_ms, model) or named.predicted_ms) / limits[0].budget_ms


def _ratio(member: Member, named: Member, measure: Measure, question: Question) -> float:
    """Return how much slower a network is than the named design, both measured in one run."""
    times_ms = measure({each.name: graph_of(each, question.problem) for each in (named, member)})
    if named.name not in times_ms or member.name not in times_ms:
        return 1.0
    return times_ms[member.name] / times_ms[named.name]


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
        member = described(width, question) if measured else reference_member(question, width)
        if member is not None:
            found.setdefault(member.macs, member)
    return list(found.values())


def _timed(
    named: Member, choices: dict[str, list[Member]], measure: Measure, question: Question, on_step: OnStep
) -> tuple[Member, dict[str, list[Member]]]:
    """Return the named design and all choices with times of one interleaved run."""
    everything = [named, *(each for options in choices.values() for each in options)]
    on_step(f"measuring {len(everything)} networks")
    times_ms = measure({each.name: graph_of(each, question.problem) for each in everything})
    timed = {
        why: [replace(each, measured_ms=times_ms[each.name]) for each in options if each.name in times_ms]
        for why, options in choices.items()
    }
    return replace(named, measured_ms=times_ms.get(named.name, named.measured_ms)), timed


def _nearest(choices: Sequence[Member], named: Member, *, measured: bool) -> Member | None:
    """Return the choice whose latency, or MACs without one, is nearest to that of the named design."""

    def cost(member: Member) -> float | None:
        return member.macs if latency_ms(named, measured) is None else latency_ms(member, measured)

    target = cost(named) or 1.0
    known = [(abs(math.log(value / target)), each) for each in choices if (value := cost(each))]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def _design(question: Question) -> Architecture:
    solution = design(question.problem, question.models)
    if solution.architecture is None:
        raise ConfigError(f"no design keeps every limit: {solution.stopped}", where=question.problem.name)
    return solution.architecture
