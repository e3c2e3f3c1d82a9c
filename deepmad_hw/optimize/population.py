"""Designs near a problem's budget that differ as much as they can: what an objective is fitted to. Layer 3 (optimize).

A random walk over the grid gives a pool of designs that keep every limit and use most of the budget. From the pool come
designs that make a linear fit of their features as sure as possible (greedy D-optimality), and random ones:

    next design = argmax  x' (lambda I + sum over the chosen of x x')^-1 x

with x the standardised features of `deepmad_hw.problem.check.features`, the logarithms of sums among them, and 1.

Source: Fedorov, "Theory of Optimal Experiments", 1972.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import ConfigError, InfeasibleError
from deepmad_hw.latency.model import LatencyModel
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.optimize.coefficients import Coefficients, coefficients, sample_designs
from deepmad_hw.optimize.encoding import Designs, encoded
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.optimize.quantities import limited
from deepmad_hw.optimize.quantities.additive import Additive
from deepmad_hw.optimize.walked import Walk
from deepmad_hw.problem.problem import Problem, table_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WALKERS, STEPS = 3000, 600
STEADY_STEPS = 200  # after a design first fits, so that it forgets from where it came
RIDGE = 1e-3
COSTS = ("macs", "params")  # what a budget is, where no latency is limited


class Pool:
    """Designs that keep a problem's limits and use a share of its budget.

    Args:
        problem: with a limit on a latency, MACs or parameters.
        models: latency models by table name.
        least_share: of the budget that every design uses; of several latency budgets, of the one that binds.
        seed: of the walk.

    Raises:
        ConfigError: no budget, or no design that uses it.
        NotCoveredError: a table lacks a layer that every design needs.
    """

    def __init__(
        self, problem: Problem, models: Mapping[str, LatencyModel], *, least_share: float, seed: int = 0
    ) -> None:
        try:
            self._tables = coefficients(problem, models)
        except InfeasibleError as error:
            raise ConfigError(str(error), where=problem.name) from error
        budgets = _budgets(self._tables)
        if not budgets:
            raise ConfigError(
                "nothing says what a network may cost",
                where=problem.name,
                hint="give --latency TABLE=BUDGET, or --macs",
            )
        self._least_share = least_share
        self._budgets = budgets
        self._evaluator = Evaluator(self._tables)
        self._walk = Walk(self._tables, tuple(dict.fromkeys([*(each.name for each in budgets), *COSTS])))
        self._random = np.random.default_rng(seed)
        self.designs = self._walked()
        if not len(self.designs):
            hint = "raise the budget, or widen the space: --set space.stages.0.depth=[1,8]"
            raise ConfigError(
                f"no design was found that keeps all limits and uses {least_share:.0%} of its budget",
                where=problem.name,
                hint=hint,
            )

    def shares(self, designs: Ints) -> Floats:
        """Return which share of the budget designs use, [n].

        Args:
            designs: rows of positions.
        """
        sums = self._walk(designs).sums
        return np.asarray(np.max([sums[each.name] / each.bound() for each in self._budgets], axis=0))

    def chosen(self, *, given: Sequence[Architecture], spread: int, random: int) -> list[Architecture]:
        """Return designs of the pool that add most to what is given, then random ones, none of them twice.

        Args:
            given: designs that are there already.
            spread: how many to choose by what they add to a fit.
            random: how many to draw.

        Raises:
            ConfigError: the pool has fewer.
        """
        if len(self.designs) < spread + random:
            raise ConfigError(
                f"only {len(self.designs)} designs were found that use the budget", where=self._tables.problem.name
            )
        known = np.array([self._tables.encode(one) for one in given], dtype=np.int64).reshape(-1, self.designs.shape[1])
        features = self._features(np.concatenate([known, self.designs]))
        taken = [len(given) + row for row in _d_optimal(features[: len(given)], features[len(given) :], spread)]
        left = np.setdiff1d(np.arange(len(given), len(features)), taken)
        taken += self._random.permutation(left)[:random].tolist()
        return [self._tables.decode(self.designs[row - len(given)]) for row in taken]

    def condition(self, designs: Sequence[Architecture]) -> float:
        """Return the condition number of designs' standardised features: 1 at best, large where some move together.

        Args:
            designs: of the space.
        """
        features = self._features(np.array([self._tables.encode(one) for one in designs]))[:, 1:]
        varying = features[:, features.std(axis=0) > 0]
        return float(np.linalg.cond((varying - varying.mean(axis=0)) / varying.std(axis=0)))

    def _features(self, designs: Ints) -> Floats:
        """Return 1 and the standardised features: score, depths, their spread, log params, log MACs."""
        walked = self._walk(designs)
        depths = Designs(designs).depths.astype(float)
        scales = [
            np.log(scale.pixels * self._channels(designs, scale.stage, scale.after_head)) * walked.at(scale)[0] / 2
            for scale in self._tables.scales
        ]
        columns = [
            *scales,
            *depths.T,
            np.exp(depths.std(axis=1)),
            *(np.log(walked.sums[name]) for name in reversed(COSTS)),
        ]
        values = np.column_stack(columns)
        spread = values.std(axis=0)
        return np.column_stack([np.ones(len(values)), (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)])

    def _channels(self, designs: Ints, stage: int, after_head: bool) -> Floats:
        head = self._tables.problem.space.head
        if after_head and head is not None:
            return np.full(len(designs), float(head.out))
        return np.asarray(self._tables.out_widths(stage)[Designs(designs).width(stage)], dtype=float)

    def _walked(self) -> Ints:
        tables = self._tables
        low = encoded(0, [(0, 0, grid.depth[0]) for grid in tables.stages])
        ends = [(len(grid.out_widths) - 1, len(grid.bottleneck) - 1, grid.depth[1]) for grid in tables.stages]
        high = encoded(len(tables.stem_widths) - 1, ends)
        designs = sample_designs(tables, WALKERS, seed=int(self._random.integers(2**31)))
        distances = self._distances(designs)
        steady = np.zeros(WALKERS, dtype=np.int64)
        for _ in range(STEPS):
            moved = designs.copy()
            columns = self._random.integers(0, designs.shape[1], WALKERS)
            moved[np.arange(WALKERS), columns] += self._random.choice([-2, -1, 1, 2], WALKERS)
            fits = np.asarray(((moved >= low) & (moved <= high)).all(axis=1))
            fits[fits] = self._evaluator.allowed(moved[fits])
            there = np.full(WALKERS, np.inf)
            there[fits] = self._distances(moved[fits])
            better = there <= distances
            designs[better], distances[better] = moved[better], there[better]
            steady += distances == 0
        found = designs[(distances == 0) & (steady >= STEADY_STEPS)]
        return np.unique(found if len(found) else designs[distances == 0], axis=0)

    def _distances(self, designs: Ints) -> Floats:
        """Return how far designs are from keeping all limits and using the budget, 0 where they do both."""
        short = np.maximum(self._least_share - self.shares(designs), 0)
        return np.asarray(self._evaluator.evaluate(designs).excess + short)


def _budgets(tables: Coefficients) -> list[Additive]:
    """Return the limits that say what a network may cost: on latencies, else on MACs, else on parameters."""
    sums = [limit for limit in limited(tables) if isinstance(limit, Additive)]
    latencies = [limit for limit in sums if table_of(limit.name) is not None]
    return latencies or next(([limit] for name in COSTS for limit in sums if limit.name == name), [])


def _d_optimal(given: Floats, pool: Floats, count: int) -> list[int]:
    """Return the rows of a pool that add most to a linear fit, one after the other."""
    inverse = np.linalg.inv(RIDGE * np.eye(pool.shape[1]) + given.T @ given)
    taken: list[int] = []
    for _ in range(count):
        gains = np.einsum("ij,jk,ik->i", pool, inverse, pool)
        gains[taken] = -np.inf
        best = int(np.argmax(gains))
        taken.append(best)
        moved = inverse @ pool[best]
        inverse -= np.outer(moved, moved) / (1 + pool[best] @ moved)
    return taken
