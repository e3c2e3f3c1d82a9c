"""Ranges in which a calibrated objective holds: of entropies, parameters, MACs and depths. Layer 3 (optimize).

    least <= value <= most

Every feature is linear in the integer model: entropies by ``z``, parameters and MACs as sums over layers, depths as
they stand. So both ends are single rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from deepmad_hw.network import costs
from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.linear import ROW_SCALE, Milp, Sum
from deepmad_hw.optimize.quantities.additive import largest_sum, smallest_sum
from deepmad_hw.optimize.quantities.base import Limited, Minimum, Relaxed
from deepmad_hw.optimize.quantities.entropy import add_entropy, entropy_of
from deepmad_hw.optimize.smooth import Nlp, PricedRow
from deepmad_hw.optimize.walked import Walk, Walked
from deepmad_hw.problem import check
from deepmad_hw.problem.objective import FeatureRange
from deepmad_hw.problem.solution import MinimumValue

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PREFIX = "range:"


class InRange(Limited):
    """A feature that stays within the range in which it was seen.

    Args:
        tables: the problem's tables.
        seen: the range.
    """

    def __init__(self, tables: Coefficients, seen: FeatureRange) -> None:
        self.tables, self.name, self.limit, self.seen = tables, f"{PREFIX}{seen.feature}", seen.most, seen
        kind, _, number = seen.feature.partition(":")
        self._kind, self._number = kind, int(number or 0)
        self.sums = (kind,) if kind in ("params", "macs") else ()
        self._unit = max(abs(seen.least), abs(seen.most), 1e-12)

    # --- values -----------------------------------------------------------------------------------------------------

    def _values(self, walked: Walked) -> Floats:
        if self._kind == "entropy":
            return entropy_of(self.tables, self.tables.scales[self._number - 1], walked)
        if self._kind == "depth":
            return np.asarray(walked.designs.depth(self._number), dtype=float)
        return walked.sums[self._kind]

    def excess(self, walked: Walked) -> Floats:
        """Return how far outside the range each design lies, as a share of the range's larger end, [n]."""
        values, room = self._values(walked), check.RANGE_ROUNDING * self._unit
        outside = np.maximum(self.seen.least - room - values, values - self.seen.most - room)
        return np.asarray(np.maximum(outside / self._unit, 0.0))

    def of(self, design: Ints) -> float:
        """Return the feature of one design."""
        return float(self._values(Walk(self.tables, self.sums)(design[None]))[0])

    # --- models -----------------------------------------------------------------------------------------------------

    def _sum(self, milp: Milp) -> Sum:
        total = Sum()
        if self._kind == "entropy":
            add_entropy(total, milp, self.tables.scales[self._number - 1], 1.0)
        elif self._kind == "depth":
            total.extend(Sum(variables=[milp.stages[self._number - 1].depth], factors=[1.0]))
        else:
            total.extend(milp.sum_of(self.tables.quantities[self._kind]))
        return total

    def add_to_milp(self, milp: Milp) -> None:
        """Add ``least <= value <= most``, scaled."""
        scaled = Sum().extend(self._sum(milp), ROW_SCALE / self._unit)
        ends = (ROW_SCALE * self.seen.least / self._unit, ROW_SCALE * self.seen.most / self._unit)
        milp.model.rows.add((None, scaled.expression(), ends[1]))
        milp.model.rows.add((ends[0], scaled.expression(), None))

    def add_share_to_milp(self, milp: Milp, share: Sum, factor: float) -> None:
        """Add the range itself: no factor moves it."""
        self.add_to_milp(milp)

    def amount(self, milp: Milp) -> Sum:
        """Return a variable that is at least the distance from the range."""
        milp.model.outside = pyo.Var(bounds=(0, None))
        value = Sum().extend(self._sum(milp), 1 / self._unit)
        distance = Sum(variables=[milp.model.outside], factors=[1.0])
        above = Sum().extend(value).extend(distance, -1.0)
        below = Sum().extend(value).extend(distance)
        milp.model.rows.add((None, above.expression(), self.seen.most / self._unit))
        milp.model.rows.add((self.seen.least / self._unit, below.expression(), None))
        return distance

    def add_to_nlp(self, nlp: Nlp) -> None:
        """Add both ends, with what a hundredth of the larger one is worth."""
        value = self._of_nlp(nlp) / self._unit
        if isinstance(value, int | float):
            return
        rows = []
        if self.seen.most < math.inf:
            rows.append(PricedRow(row=nlp.model.rows.add(value <= self.seen.most / self._unit), per_step=lambda: 0.01))
        rows.append(PricedRow(row=nlp.model.rows.add(-value <= -self.seen.least / self._unit), per_step=lambda: 0.01))
        nlp.rows[self.name] = ("%", rows)

    def _of_nlp(self, nlp: Nlp) -> Any:
        if self._kind == "entropy":
            return nlp.scales[self._number - 1].entropy
        if self._kind == "depth":
            return nlp.model.depth[self._number]
        return costs.macs(nlp.network) if self._kind == "macs" else costs.params(nlp.network)

    # --- what can be reached ----------------------------------------------------------------------------------------

    def smallest(self) -> Minimum:
        """Return the value nearest to the range that a design has, or the range's own end where that is not known."""
        if self._kind in ("params", "macs"):
            terms = self.tables.quantities[self._kind]
            low, design = smallest_sum(self.tables, terms)
            high = largest_sum(self.tables, terms)
            nearest = low if low > self.seen.most else high if high < self.seen.least else self.seen.most
            return Minimum(value=nearest, design=design)
        if self._kind == "depth":
            low, high = self.tables.stages[self._number - 1].depth
            nearest = low if low > self.seen.most else high if high < self.seen.least else self.seen.most
            return Minimum(value=float(nearest), design=np.zeros(0, dtype=np.int64))
        return Minimum(value=self.seen.most, design=np.zeros(0, dtype=np.int64))

    def smallest_given_others(self, relaxed: Relaxed) -> tuple[Minimum, bool] | None:
        """Return the value nearest to the range among designs that keep everything else."""
        milp = relaxed.milp()
        answer = None if milp is None else relaxed.minimise(milp, self.amount(milp))
        if answer is None:
            return None
        design, proved = answer
        value = check.features(self.tables.decode(design), relaxed.evaluate(design))[self.seen.feature]
        return Minimum(value=value, design=design), proved

    def is_broken(self, value: float) -> bool:
        """Return whether a value lies outside the range."""
        return not check.within(value, self.seen)

    def minimum_value(self, value: float, *, proved: bool) -> MinimumValue:
        """Return a value as solutions carry it."""
        return MinimumValue(limit=self.name, value=value, unit=self.seen.feature.partition(":")[0], proved=proved)
