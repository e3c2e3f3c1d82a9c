"""Well-known networks scaled to a trial's budget, to be trained beside its own. Layer 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from deepmad_hw.errors import NotCoveredError
from deepmad_hw.network import costs, reference
from deepmad_hw.workflows.design.design import Question, design
from deepmad_hw.workflows.trial.budgets import (
    Measure,
    cost_share,
    graph_of,
    measured_ms_of,
    measured_share,
    predicted_ms,
)
from deepmad_hw.workflows.trial.records import Member, ScaledReference

REFERENCE_DEPTHS = (0.5, 1.0, 2.0)
WIDTHS_AT_ONCE = 5  # of each reference, in one round of measuring
WIDTH_STEPS = np.arange(0.05, 4.0, 0.01)  # of the widths that references are scaled to
MOST_ROUNDS = 6  # of measuring
DESIGN_S = 20.0


def references(
    question: Question, *, measure: Measure | None = None, on_step: Callable[[str], None] = lambda text: None
) -> tuple[Member, ...]:
    """Return well-known networks, each in three depths, scaled by width to the budget.

    Args:
        question: space and limits, a budget among them.
        measure: times networks on this device, so that widths go by measured times; None goes by the table, and leaves
            out what the table has no rows of.
        on_step: is told what is being done.
    """
    kinds = [(name, depth) for name in reference.SCALABLE for depth in REFERENCE_DEPTHS]
    if measure is None:
        on_step("scaling reference networks")
        by_table = [widest(question, name, depth) for name, depth in kinds]
        return tuple(each for each in by_table if each is not None)
    widths = {kind: _widths(question, *kind) for kind in kinds}
    found: dict[tuple[str, float], Member] = {}
    for number in range(1, MOST_ROUNDS + 1):
        tried = {
            member.name: (kind, member)
            for kind, choices in widths.items()
            for member in _evenly(choices, WIDTHS_AT_ONCE)
        }
        if not tried:
            break
        on_step(f"measuring {len(tried)} scaled references, round {number}")
        times_ms = measure({name: graph_of(member, question.problem) for name, (_, member) in tried.items()})
        for kind, choices in widths.items():
            timed = [
                replace(member, measured_ms=times_ms[name])
                for name, (own, member) in tried.items()
                if own == kind and name in times_ms
            ]
            fits = [each for each in timed if measured_share(each, question) <= 1]
            if fits and (kind not in found or measured_ms_of(found[kind]) < max(map(measured_ms_of, fits))):
                found[kind] = max(fits, key=measured_ms_of)
            # Costs grow with the width: what lies between the widest that fits and the next that does not is left.
            low = max((each.macs for each in fits), default=0)
            high = min((each.macs for each in timed if each not in fits), default=np.inf)
            widths[kind] = [each for each in choices if low < each.macs < high]
    return tuple(found.values())


def _widths(question: Question, name: str, depth: float) -> list[Member]:
    """Return a reference in all widths with a fifth to five times the MACs of the budget's best design."""
    best = design(question.problem, question.models, method="fast", time_limit_s=DESIGN_S).architecture
    if best is None:
        return []
    found: dict[int, Member] = {}
    for width in WIDTH_STEPS:
        member = described(ScaledReference(name=name, width=round(float(width), 4), depth=depth), question)
        if costs.macs(best) / 5 <= member.macs <= 5 * costs.macs(best):
            found.setdefault(member.macs, member)
    return list(found.values())


def _evenly(choices: Sequence[Member], count: int) -> list[Member]:
    if len(choices) <= count:
        return list(choices)
    return [choices[round(position)] for position in np.linspace(0, len(choices) - 1, count)]


def described(chosen: ScaledReference, question: Question) -> Member:
    """Return a scaled reference with its costs, not yet with a latency.

    Args:
        chosen: the network.
        question: whose images and classes it is built for.
    """
    name = f"{chosen.name}-x{chosen.width:g}-d{chosen.depth:g}"
    member = Member(name=name, why="reference", macs=0, params=0, reference=chosen)
    graph = graph_of(member, question.problem)
    return replace(member, macs=costs.macs(graph), params=costs.params(graph))


def widest(question: Question, name: str, depth: float) -> Member | None:
    """Return a reference at the largest width that keeps the budget, None where none does or the table cannot say.

    Args:
        question: space and limits, a budget among them.
        name: of the reference.
        depth: factor of its blocks.
    """
    low, high, best = 0, len(WIDTH_STEPS), None
    while low < high:  # costs grow with the width
        middle = (low + high) // 2
        member = reference_member(question, ScaledReference(name=name, width=float(WIDTH_STEPS[middle]), depth=depth))
        if member is None:
            return None
        if cost_share(member, question) <= 1:
            best, low = member, middle + 1
        else:
            high = middle
    return best


def reference_member(question: Question, chosen: ScaledReference) -> Member | None:
    """Return a scaled reference with its costs, None where a table cannot predict it.

    Args:
        question: whose images, classes and tables are taken.
        chosen: the network.
    """
    member = described(replace(chosen, width=round(chosen.width, 4)), question)
    try:
        return replace(member, predicted_ms=predicted_ms(graph_of(member, question.problem), question))
    except NotCoveredError:
        return None
