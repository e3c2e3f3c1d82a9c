"""The networks of a trial: spread over the features of an objective, all near one budget. Layer 4."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deepmad_hw.errors import ConfigError, NotCoveredError
from deepmad_hw.latency.model import LatencyModel, predict_ms, upper_ms
from deepmad_hw.network import costs, reference
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import Graph
from deepmad_hw.optimize.population import Pool
from deepmad_hw.problem import entropy
from deepmad_hw.problem.objective import Objective
from deepmad_hw.problem.problem import LatencyLimit, Problem
from deepmad_hw.workflows.design.design import Question, design
from deepmad_hw.workflows.trial.records import Member, ScaledReference

LEAST_SHARE = 0.85  # of the budget, that every network uses
AIMED_SHARE = 0.93  # of the budget, where networks are measured
MOST_ROUNDS = 6  # of measuring
SPARE = 1.5  # networks drawn for each that is missing, because some miss the budget
DESIGN_S = 20.0
RHO_SHARES = (0.7, 0.5, 0.35, 0.25, 0.18)  # of the rho that the budget's best design has
REFERENCE_DEPTHS = (0.5, 1.0, 2.0)
WIDTHS_AT_ONCE = 5  # of each reference, in one round of measuring
WIDTH_STEPS = np.arange(0.05, 4.0, 0.01)  # of the widths that references are scaled to
RHO, END, SPREAD, RANDOM = "best at its rho", "an end", "spread", "random"

Measure = Callable[[Mapping[str, Graph]], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A population and how well its features are spread.

    Args:
        members: the networks.
        condition: condition number of their standardised features, 1 at best.
    """

    members: tuple[Member, ...]
    condition: float


def choose(
    question: Question,
    *,
    networks: int,
    seed: int = 0,
    measure: Measure | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> Chosen:
    """Return networks of a problem's space that use 85 to 100 % of its budget and differ in every feature.

    A fifth are the best designs at several rho, four are ends (most parameters, most MACs, most and fewest blocks),
    a quarter are random, and the rest make a fit of the features as sure as possible.

    Args:
        question: space and limits, a budget among them.
        networks: how many.
        seed: of every random choice.
        measure: times networks on this device, in milliseconds; None goes by the table.
        on_step: is told what is being done.

    Raises:
        ConfigError: no budget, or too few designs that use it.
        NotCoveredError: a table lacks a layer that every design needs.
    """
    drawer = _Drawer(question, networks=networks, seed=seed, measured=measure is not None, on_step=on_step)
    for number in range(1, (1 if measure is None else MOST_ROUNDS) + 1):
        on_step(f"choosing networks, round {number}")
        new = drawer.draw()
        if measure is not None:
            on_step(f"measuring {len(new)} networks")
            times_ms = measure({each.name: expand(_architecture(each)) for each in new})
            new = [replace(each, measured_ms=times_ms[each.name]) for each in new if each.name in times_ms]
        drawer.take(new)
        if len(drawer.kept) == networks:
            break
    if len(drawer.kept) < networks:
        raise ConfigError(
            f"only {len(drawer.kept)} of {networks} networks use {LEAST_SHARE:.0%} to 100 % of the budget",
            where=question.problem.name,
            hint="ask for fewer, or widen the space",
        )
    members = tuple(sorted(drawer.kept, key=lambda each: [RHO, END, SPREAD, RANDOM].index(each.why.partition(":")[0])))
    return Chosen(members=members, condition=drawer.pool().condition([_architecture(each) for each in members]))


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
            fits = [each for each in timed if _measured_share(each, question) <= 1]
            if fits and (kind not in found or _measured(found[kind]) < max(map(_measured, fits))):
                found[kind] = max(fits, key=_measured)
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


def graph_of(member: Member, problem: Problem) -> Graph:
    """Return a member's layers.

    Args:
        member: a network of a trial.
        problem: whose images and classes it is built for.
    """
    if member.architecture is not None:
        return expand(member.architecture)
    chosen, space = member.reference, problem.space
    assert chosen is not None
    total_stride = space.stem_stride * int(np.prod([stage.stride for stage in space.stages]))
    return reference.scaled(
        chosen.name,
        width=chosen.width,
        depth=chosen.depth,
        resolution=space.resolution,
        in_channels=space.in_channels,
        classes=space.classes,
        total_stride=min(total_stride, reference.TOTAL_STRIDE),
    )


def cost_share(member: Member, question: Question) -> float:
    """Return which share of the budget a network uses by prediction, held against upper values as designs are.

    Args:
        member: a network.
        question: whose budget it is.
    """
    limits = question.problem.limits
    if limits.latency:
        shares = []
        for limit in limits.latency:
            model = question.models[limit.table]
            usual_ms = predict_ms(graph_of(member, question.problem), model)
            shares.append((upper_ms(usual_ms, model) or usual_ms) / limit.budget_ms)
        return max(shares)
    if limits.macs is not None:
        return member.macs / limits.macs
    return member.params / (limits.params or np.inf)


# --- one round ------------------------------------------------------------------------------------------------------


class _Drawer:
    """Draws what a population lacks, and learns by what each kind of network misses its measured budget.

    Args:
        question: space and limits.
        networks: wanted.
        seed: of the pool.
        measured: whether networks are measured.
        on_step: is told what is being done.
    """

    def __init__(
        self, question: Question, *, networks: int, seed: int, measured: bool, on_step: Callable[[str], None]
    ) -> None:
        self._question, self._seed, self._on_step = question, seed, on_step
        self._measured = measured
        start = _median_over_upper(question) if measured else 1.0
        self._scales: dict[str, float] = defaultdict(lambda: start)  # of the budget, by what is drawn
        self._wanted = {RHO: max(2, networks // 5), END: 4, RANDOM: networks // 4}
        self._wanted[SPREAD] = networks - sum(self._wanted.values())
        self._numbers = {SPREAD: 0, RANDOM: 0}
        self._rho: list[float | None] = [None]
        self._rounds = 0
        self._networks = networks
        self.kept: list[Member] = []

    def draw(self) -> list[Member]:
        """Return networks to be tried: what is missing, and some more from the pool where they are measured."""
        self._rounds += 1
        new = [*self._designs_at_rho(), *self._ends()]
        there = {_architecture(each) for each in self.kept}
        new = [each for each in _distinct(new) if _architecture(each) not in there]
        self._on_step("drawing networks near the budget")
        spare = SPARE if self._measured else 1.0
        left = self._networks - len(self.kept) - len(new)
        random = min(left, max(0, self._wanted[RANDOM] - self._count(RANDOM)))
        counts = {SPREAD: math.ceil(spare * (left - random)), RANDOM: math.ceil(spare * random)}
        drawn = self.pool().chosen(
            given=[_architecture(each) for each in (*self.kept, *new)], spread=counts[SPREAD], random=counts[RANDOM]
        )
        for position, architecture in enumerate(drawn):
            kind = SPREAD if position < counts[SPREAD] else RANDOM
            self._numbers[kind] += 1
            if architecture not in there:
                new.append(_member(f"{kind}{self._numbers[kind]}", kind, architecture, self._question))
        return new

    def take(self, new: Sequence[Member]) -> None:
        """Keep what uses the budget, as far as it is wanted, and correct what is asked for next.

        Args:
            new: what was drawn; where times are measured, with them.
        """
        pool_shares = []
        for each in new:
            kind = each.why.partition(":")[0]
            share = _measured_share(each, self._question) if self._measured else AIMED_SHARE
            if kind in (SPREAD, RANDOM):
                pool_shares.append(share)
            elif not LEAST_SHARE <= share <= 1:
                self._scales[each.why] *= AIMED_SHARE / share
            if LEAST_SHARE <= share <= 1 and len(self.kept) < self._networks:
                self.kept.append(each)
        if pool_shares:
            self._scales["pool"] *= AIMED_SHARE / statistics.median(pool_shares)

    def pool(self) -> Pool:
        """Return designs near the budget as it is asked for now."""
        asked = scaled(self._question, self._scales["pool"])
        return Pool(asked.problem, asked.models, least_share=LEAST_SHARE, seed=self._seed + self._rounds)

    def _count(self, kind: str) -> int:
        return sum(each.why.startswith(kind) for each in self.kept)

    def _designs_at_rho(self) -> list[Member]:
        found: list[Member] = []
        levels = list(self._rho)
        while levels and self._count(RHO) + len(found) < self._wanted[RHO]:
            level = levels.pop(0)
            why = RHO if level is None else f"{RHO}: up to {level:.2f}"
            if any(each.why == why for each in self.kept):
                continue
            asked = scaled(self._question, self._scales[why])
            if level is not None:
                asked = replace(asked, problem=replace(asked.problem, limits=replace(asked.problem.limits, rho=level)))
            best = _best(asked, self._on_step, why)
            if best is not None:
                found.append(_member(f"rho{_rho(best):.2f}", why, best, self._question))
            if level is None and best is not None and len(self._rho) == 1:
                self._rho += [share * _rho(best) for share in RHO_SHARES]
                levels = self._rho[1:]
        return found

    def _ends(self) -> list[Member]:
        """Return the designs with the most parameters, MACs and blocks, and the one with the fewest blocks."""
        space = self._question.problem.space
        stages, scales = len(space.stages), 1 + sum(stage.stride == 2 for stage in space.stages)
        nothing = Objective(scale_weights=(0.0,) * scales, penalty_weight=0.0)
        objectives = {
            "most params": replace(nothing, log_params=1.0),
            "most MACs": replace(nothing, log_macs=1.0),
            "most blocks": replace(nothing, depth_weights=(1.0,) * stages),
            "fewest blocks": replace(nothing, depth_weights=(-10.0,) * stages, log_macs=1.0),
        }
        found = []
        for text, objective in objectives.items():
            why = f"{END}: {text}"
            if any(each.why == why for each in self.kept):
                continue
            asked = scaled(self._question, self._scales[why])
            problem = replace(asked.problem, objective=objective, penalty="std")
            best = _best(replace(asked, problem=problem), self._on_step, why)
            if best is not None:
                found.append(_member(text.replace(" ", "-").lower(), why, best, self._question))
        return found


def _best(question: Question, on_step: Callable[[str], None], text: str) -> Architecture | None:
    on_step(f"designing {text}")
    return design(question.problem, question.models, method="fast", time_limit_s=DESIGN_S).architecture


def _distinct(members: Sequence[Member]) -> list[Member]:
    return list({_architecture(each): each for each in reversed(members)}.values())[::-1]


def _rho(architecture: Architecture) -> float:
    return max(entropy.rho(scale) for scale in entropy.scales(architecture))


def _member(name: str, why: str, architecture: Architecture, question: Question) -> Member:
    return Member(
        name=name,
        why=why,
        macs=costs.macs(architecture),
        params=costs.params(architecture),
        predicted_ms=predicted_ms(expand(architecture), question),
        architecture=architecture,
    )


def _architecture(member: Member) -> Architecture:
    assert member.architecture is not None
    return member.architecture


# --- budgets --------------------------------------------------------------------------------------------------------


def predicted_ms(graph: Graph, question: Question) -> float | None:
    """Return the latency by the table of the first budget, None where no latency is limited.

    Args:
        graph: of a network.
        question: whose tables are taken.

    Raises:
        NotCoveredError: the table has no row of a layer.
    """
    model = _first_model(question)
    return None if model is None else predict_ms(graph, model)


def _first_model(question: Question) -> LatencyModel | None:
    limits = question.problem.limits.latency
    return question.models[limits[0].table] if limits else None


def _measured(member: Member) -> float:
    assert member.measured_ms is not None
    return member.measured_ms


def _measured_share(member: Member, question: Question) -> float:
    return _measured(member) / question.problem.limits.latency[0].budget_ms


def _median_over_upper(question: Question) -> float:
    """Return by what a budget on medians is multiplied to be one on upper values, aimed a little below it."""
    model, budget_ms = _first_model(question), question.problem.limits.latency[0].budget_ms
    assert model is not None
    return (upper_ms(AIMED_SHARE * budget_ms, model) or AIMED_SHARE * budget_ms) / budget_ms


def scaled(question: Question, factor: float) -> Question:
    """Return a question whose latency budgets are multiplied by a factor.

    Args:
        question: the question.
        factor: above 0.
    """
    if factor == 1.0:
        return question
    limits = question.problem.limits
    latency = tuple(LatencyLimit(table=each.table, budget_ms=factor * each.budget_ms) for each in limits.latency)
    return replace(question, problem=replace(question.problem, limits=replace(limits, latency=latency)))
