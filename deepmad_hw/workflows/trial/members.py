"""The networks of a trial: spread over the features of an objective, all near one budget. Layer 4."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase

from deepmad_hw.errors import ConfigError
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.optimize.population import Pool
from deepmad_hw.problem import entropy
from deepmad_hw.problem.objective import Objective
from deepmad_hw.workflows.design.design import Question, design
from deepmad_hw.workflows.trial.budgets import (
    AIMED_SHARE,
    LEAST_SHARE,
    Measure,
    architecture_of,
    measured_share,
    median_over_upper,
    member_of,
    scaled,
)
from deepmad_hw.workflows.trial.records import Member

MOST_ROUNDS = 6  # of measuring
SPARE = 1.5  # networks drawn for each that is missing, because some miss the budget
DESIGN_S = 20.0
RHO_SHARES = (0.7, 0.5, 0.35, 0.25, 0.18)  # of the rho that the budget's best design has
RHO, END, SPREAD, RANDOM = "best at its rho", "an end", "spread", "random"


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
            times_ms = measure({each.name: expand(architecture_of(each)) for each in new})
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
    return Chosen(members=members, condition=drawer.pool().condition([architecture_of(each) for each in members]))


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
        start = median_over_upper(question) if measured else 1.0
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
        there = {architecture_of(each) for each in self.kept}
        new = [each for each in _distinct(new) if architecture_of(each) not in there]
        self._on_step("drawing networks near the budget")
        spare = SPARE if self._measured else 1.0
        left = self._networks - len(self.kept) - len(new)
        random = min(left, max(0, self._wanted[RANDOM] - self._count(RANDOM)))
        counts = {SPREAD: math.ceil(spare * (left - random)), RANDOM: math.ceil(spare * random)}
        drawn = self.pool().chosen(
            given=[architecture_of(each) for each in (*self.kept, *new)], spread=counts[SPREAD], random=counts[RANDOM]
        )
        for position, architecture in enumerate(drawn):
            kind = SPREAD if position < counts[SPREAD] else RANDOM
            self._numbers[kind] += 1
            if architecture not in there:
                new.append(member_of(f"{kind}{self._numbers[kind]}", kind, architecture, self._question))
        return new

    def take(self, new: Sequence[Member]) -> None:
        """Keep what uses the budget, as far as it is wanted, and correct what is asked for next.

        Args:
            new: what was drawn; where times are measured, with them.
        """
        pool_shares = []
        for each in new:
            kind = each.why.partition(":")[0]
            share = measured_share(each, self._question) if self._measured else AIMED_SHARE
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
                taken = {each.name for each in (*self.kept, *found)}
                found.append(member_of(_free_name(f"rho{_rho(best):.2f}", taken), why, best, self._question))
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
                found.append(member_of(text.replace(" ", "-").lower(), why, best, self._question))
        return found


def _best(question: Question, on_step: Callable[[str], None], text: str) -> Architecture | None:
    on_step(f"designing {text}")
    return design(question.problem, question.models, method="fast", time_limit_s=DESIGN_S).architecture


def _distinct(members: Sequence[Member]) -> list[Member]:
    return list({architecture_of(each): each for each in reversed(members)}.values())[::-1]


def _free_name(name: str, taken: Collection[str]) -> str:
    """Return a name, or where it is taken, the first one with a letter behind it that is not."""
    return next(each for each in (name, *(f"{name}{letter}" for letter in ascii_lowercase)) if each not in taken)


def _rho(architecture: Architecture) -> float:
    return max(entropy.rho(scale) for scale in entropy.scales(architecture))
