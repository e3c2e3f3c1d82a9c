"""Bounds on a fine grid from prices that are linear between knots. Layer 3 (optimize).

The relaxation over hundreds of widths has thousands of rows, one for each choice, but their prices (duals) hardly
differ between neighbouring widths. So only prices are looked for that are linear, in channels, between some of the
choices, the knots: the rows between two knots are added up with the weights of interpolation, and the columns, whose
own exact coefficients stay, are generated as their prices ask for them. Any prices give a valid bound (Lagrangian
duality): a design takes one of each group of alternatives, so it gains no more than the group's largest reduced cost.
A product of two widths is linear in each of them, so little is lost: what logarithms, and the steps of a measured
table, bend between two knots.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from numpy.typing import NDArray
from pyomo.common.collections import ComponentMap
from scipy import sparse

from deepmad_hw.optimize.coefficients import Coefficients, restricted
from deepmad_hw.optimize.encoding import Designs
from deepmad_hw.optimize.knots import Axes, axes_of, spread
from deepmad_hw.optimize.linear import Milp, Sum, Variables, exists
from deepmad_hw.optimize.milp import Range, build
from deepmad_hw.optimize.solvers import compiled

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_TURNS = 40  # of column generation for one sum
COLUMNS_A_TURN = 60  # of each group of alternatives
CLOSE = 2e-4
PRIMAL_SIMPLEX = 4  # the last point stays one when columns come in or the sum changes
SAFETY = 1e-6  # relative, on bounds, for rounding
SLACK = 1e-3  # relative, by which the relaxation's optimum may fall when ranges are asked for


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tightened:
    """What one round leaves.

    Args:
        tables: without the pairs that no good enough design has.
        ranges: of the sum of log w.
        bound: on every design's objective.
    """

    tables: Coefficients
    ranges: list[Range]
    bound: float

    @property
    def is_empty(self) -> bool:
        """Return whether some stage's sum of log w would have to be above and below a value at once."""
        return any(bool((known.least > known.most).all()) for known in self.ranges)


def tighten(
    tables: Coefficients,
    ranges: Sequence[Range],
    design: Ints,
    target: float,
    *,
    threads: int,
    deadline: float,
    magnitude: float = 0.0,
    unit: float | None = None,
) -> Tightened | None:
    """Return a bound, and what may still hold a design better than a target; None if there was no time for any.

    Args:
        tables: the problem's tables.
        ranges: of the sum of log w.
        design: choices that keep all limits; they always stay.
        target: objective that matters.
        threads: of the solver.
        deadline: `time.monotonic` at which to stop.
        magnitude: of the objective's terms, where rounding is a share of more than the objective itself.
        unit: what `CLOSE` and `SLACK` are shares of in the objective, None for the objective itself.
    """
    master = _RestrictedMaster(build(tables, ranges=ranges), ranges, design, threads=threads, deadline=deadline)
    objective = master.maximise(master.milp.objective, enough=target, magnitude=magnitude, unit=unit)
    if objective is None:
        return None
    if objective.bound <= target:
        return Tightened(tables=tables, ranges=list(ranges), bound=objective.bound)
    master.set_cutoff(target, unit=unit)
    narrowed = [ranges[0]]
    for known, stage in zip(ranges[1:], master.milp.stages, strict=True):
        most, least = (master.maximise(Sum().add(stage.log_fan_in, sign)) for sign in (1.0, -1.0))
        narrowed.append(
            Range(
                least=known.least if least is None else np.maximum(known.least, -least.bound),
                most=known.most if most is None else np.minimum(known.most, most.bound),
            )
        )
    pairs = master.possible_pairs(objective, design, target)
    return Tightened(tables=restricted(tables, pairs), ranges=narrowed, bound=objective.bound)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Gains:
    """What some prices say of a sum.

    Args:
        bound: on the sum.
        columns: reduced cost of every column.
    """

    bound: float
    columns: Floats


class _RestrictedMaster:
    """The relaxation with rows added up between knots, over the columns that were asked for so far.

    Args:
        milp: the whole model.
        ranges: with which it was built.
        design: choices that keep all limits.
        threads: of the solver.
        deadline: `time.monotonic` at which to stop.
    """

    def __init__(self, milp: Milp, ranges: Sequence[Range], design: Ints, *, threads: int, deadline: float) -> None:
        form = compiled(milp.model)
        self.milp, self._ranges, self._deadline = milp, ranges, deadline
        self._column: Any = ComponentMap((variable, index) for index, variable in enumerate(form.columns))
        bounds = [variable.bounds for variable in form.columns]
        self._low = np.array([-np.inf if low is None else low for low, _ in bounds], dtype=float)
        self._high = np.array([np.inf if high is None else high for _, high in bounds], dtype=float)
        axes = axes_of(milp.tables)
        self._spread = spread([row.constraint for row in form.rows], axes)
        self._columns = form.A.T.tocsr()
        self._added_up = (self._spread @ form.A).tocsc()
        self._rhs = self._spread @ np.asarray(form.rhs, dtype=float)
        kinds = np.zeros(self._spread.shape[0])
        shares = self._spread.tocoo()
        kinds[shares.row] = np.array([row.bound_type for row in form.rows])[shares.col]
        self._kinds = kinds  # -1: >=, 0: ==, 1: <=
        self._groups = [self._numbers(group[exists(group)]) for group in _alternatives(milp)]
        self._adding = [self._numbers(stage.added[exists(stage.added)]) for stage in milp.stages]
        self._objective = self._costs(milp.objective)
        self._cutoff = 0.0
        self._highs = _empty_highs(self._rhs, kinds, threads)
        self._active: Ints = np.zeros(0, dtype=np.int64)
        pairs = np.concatenate([*(self._numbers(group[exists(group)]) for group in _pairs(milp)), *self._adding])
        self._add(np.setdiff1d(np.arange(len(form.columns)), pairs))
        self._add(self._seeds(design, axes))

    # --- solving ---

    def maximise(
        self, total: Sum, *, enough: float = -math.inf, magnitude: float = 0.0, unit: float | None = None
    ) -> _Gains | None:
        """Return the least bound found on a sum, None if not even a first solve ended in time.

        Args:
            total: the sum.
            enough: bound at which to stop.
            magnitude: of the sum's terms, or 0.
            unit: what `CLOSE` is a share of, None for the sum itself.
        """
        costs = self._costs(total)
        self._highs.changeColsCost(len(self._active), np.arange(len(self._active), dtype=np.int32), costs[self._active])
        best: _Gains | None = None
        for _ in range(MOST_TURNS):
            self._highs.setOptionValue(
                "time_limit", self._highs.getRunTime() + max(0.0, self._deadline - time.monotonic())
            )
            self._highs.run()
            if self._highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
                break
            optimum = self._highs.getInfo().objective_function_value + total.constant
            gains = self._priced(costs, np.array(self._highs.getSolution().row_dual), total.constant, magnitude)
            best = gains if best is None or gains.bound < best.bound else best
            missing = self._worth_adding(gains)
            close = CLOSE * (abs(optimum) if unit is None else unit)
            if best.bound <= enough or best.bound - optimum <= close or not len(missing):
                break
            self._add(missing, costs)
        return best

    def set_cutoff(self, target: float, *, unit: float | None) -> None:
        """Look at designs of at least some objective from here on.

        Args:
            target: the objective; the relaxation's own optimum, less a little, if the columns so far have none better.
            unit: what `SLACK` is a share of, None for the objective itself.
        """
        objective = self.milp.objective
        optimum = self._highs.getInfo().objective_function_value + objective.constant
        self._cutoff = target - objective.constant
        row = self._objective[self._active]
        there = np.flatnonzero(row)
        slack = SLACK * (abs(optimum) if unit is None else unit)
        least = min(target, optimum - slack) - objective.constant
        self._highs.addRow(least, highspy.kHighsInf, len(there), there.astype(np.int32), row[there])

    def possible_pairs(self, gains: _Gains, design: Ints, target: float) -> list[tuple[Bools, Bools, Bools]]:
        """Return which pairs may be in a design of at least the target.

        Args:
            gains: of the objective.
            design: choices that always stay.
            target: the objective.
        """
        spare = gains.bound - target
        masks = []
        given = self._losses(gains, self.milp.stem)
        for stage, (before, out, chosen, _) in zip(self.milp.stages, Designs(design).by_stage(), strict=True):
            width, inner = self._losses(gains, stage.width), self._losses(gains, stage.inner)
            possible = (
                self._losses(gains, stage.first_in) + given[:, None] + inner[None, :] < spare,
                self._losses(gains, stage.skip).min(axis=0) + given[:, None] + width[None, :] < spare,
                self._losses(gains, stage.first_out).min(axis=0) + width[:, None] + inner[None, :] < spare,
            )
            possible[0][before, chosen] = possible[1][before, out] = possible[2][out, chosen] = True
            masks.append(possible)
            given = width
        return masks

    # --- pricing ---

    def _priced(self, costs: Floats, prices: Floats, constant: float, magnitude: float) -> _Gains:
        cutoff_price = min(float(prices[-1]), 0.0) if len(prices) > len(self._rhs) else 0.0
        prices = prices[: len(self._rhs)]
        prices = np.where(self._kinds > 0, np.maximum(prices, 0.0), prices)
        prices = np.where(self._kinds < 0, np.minimum(prices, 0.0), prices)
        gains: Floats = costs - self._columns @ (self._spread.T @ prices) - cutoff_price * self._objective
        self._count_sums_with_widths(gains)
        worth = float(prices @ self._rhs) + cutoff_price * self._cutoff + constant
        bound = worth + self._most(gains)
        return _Gains(bound=bound + SAFETY * max(abs(bound), magnitude), columns=gains)

    def _count_sums_with_widths(self, gains: Floats) -> None:
        """Give a width what the sum of log w that goes with it gains, at the better end of its range."""
        for known, stage in zip(self._ranges[1:], self.milp.stages, strict=True):
            there = exists(stage.width)
            width, total = self._numbers(stage.width[there]), self._numbers(stage.log_fan_in[there])
            gains[width] += np.maximum(gains[total] * known.least[there], gains[total] * known.most[there])
            gains[total] = 0.0

    def _most(self, gains: Floats) -> float:
        """Return the most that columns can gain: the best of each group of alternatives, the better end of others."""
        rest = np.ones(len(gains), dtype=bool)
        most = 0.0
        for numbers in self._groups:
            most += float(gains[numbers].max())
            rest[numbers] = False
        for numbers in self._adding:
            most += max(0.0, float(gains[numbers].max(initial=0.0)))
            rest[numbers] = False
        left, low, high = gains[rest], self._low[rest], self._high[rest]
        end = np.where(left > 0, high, low)
        return most + float((left * np.where(left == 0, 0.0, end)).sum())

    def _worth_adding(self, gains: _Gains) -> Ints:
        """Return the columns that gain most in their group and are not there yet."""
        columns = []
        for numbers in [*self._groups, *self._adding]:
            values = gains.columns[numbers]
            best = numbers[np.argsort(-values, kind="stable")[:COLUMNS_A_TURN]]
            columns.append(best[gains.columns[best] > 0])
        return np.setdiff1d(np.concatenate(columns), self._active)

    def _losses(self, gains: _Gains, group: Variables) -> Floats:
        """Return by how much each alternative gains less than the group's best; infinite where there is none."""
        there = exists(group)
        values = np.full(group.shape, -np.inf)
        values[there] = gains.columns[self._numbers(group[there])]
        return np.asarray(values.max() - values)

    # --- columns ---

    def _add(self, columns: Ints, costs: Floats | None = None) -> None:
        part = self._added_up[:, columns]
        starts, rows, factors = part.indptr[:-1], part.indices, part.data
        if self._highs.getNumRow() > len(self._rhs):  # the cutoff is the last row
            extended = sparse.vstack([part, sparse.csr_matrix(self._objective[columns])]).tocsc()
            starts, rows, factors = extended.indptr[:-1], extended.indices, extended.data
        cost = np.zeros(len(columns)) if costs is None else costs[columns]
        self._highs.addCols(
            *(len(columns), cost, self._low[columns], self._high[columns]),
            *(len(factors), starts.astype(np.int32), rows.astype(np.int32), factors),
        )
        self._active = np.concatenate([self._active, columns])

    def _seeds(self, design: Ints, axes: Axes) -> Ints:
        """Return the pairs of a design, so that there is a point, and those between two knots."""
        pairs = []
        chosen_of = Designs(design).by_stage()
        for index, (stage, (before, out, inner, _)) in enumerate(zip(self.milp.stages, chosen_of, strict=True)):
            given, width, chosen = (
                np.union1d(axis.knots, mine)
                for axis, mine in (
                    (axes.widths[index], before),
                    (axes.widths[index + 1], out),
                    (axes.inner[index], inner),
                )
            )
            for group, rows, columns in (
                (stage.first_in[None], given, chosen),
                (stage.skip, given, width),
                (stage.first_out, width, chosen),
                (stage.added[None], width, chosen),
            ):
                at_knots = group[:, rows][:, :, columns]
                pairs.append(self._numbers(at_knots[exists(at_knots)]))
        return np.unique(np.concatenate(pairs))

    def _costs(self, total: Sum) -> Floats:
        cost = np.zeros(len(self._column))
        np.add.at(cost, self._numbers(total.variables), total.factors)
        return cost

    def _numbers(self, variables: Sequence[Any] | Variables) -> Ints:
        return np.array([self._column[variable] for variable in variables], dtype=np.int64)


def _empty_highs(rhs: Floats, kinds: Floats, threads: int) -> Any:
    """Return a model with rows but no columns."""
    highspy.Highs.resetGlobalScheduler(True)  # or it keeps an earlier model's number of threads
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", threads)
    highs.setOptionValue("simplex_strategy", PRIMAL_SIMPLEX)
    highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
    low, high = np.where(kinds <= 0, rhs, -np.inf), np.where(kinds >= 0, rhs, np.inf)
    empty = np.zeros(0)
    highs.addRows(len(rhs), low, high, 0, np.zeros(len(rhs), dtype=np.int32), empty.astype(np.int32), empty)
    return highs


def _pairs(milp: Milp) -> Iterator[Variables]:
    for stage in milp.stages:
        yield from (stage.first_in, stage.skip, stage.first_out)


def _alternatives(milp: Milp) -> list[Variables]:
    """Return the groups of which every design takes one."""
    choices = [choice for stage in milp.stages for choice in (stage.width, stage.inner)]
    return [milp.stem, *choices, *_pairs(milp)]
