"""Sums over layers: MACs, parameters, a device's latency, and whatever else a layer adds to. Layer 3 (optimize).

    value = curve(sum over layers) <= limit    <=>    sum over layers <= curve^-1(limit)

with the sum by the formula at the head of `deepmad_hw.optimize.layer_tables`. The curve is that of a latency table
(`deepmad_hw.latency.model.Curve`, increasing), and the identity of all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from deepmad_hw.latency.model import Curve
from deepmad_hw.network import costs
from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.encoding import encoded
from deepmad_hw.optimize.layer_tables import Terms
from deepmad_hw.optimize.linear import ROW_SCALE, Milp, Sum, at_most
from deepmad_hw.optimize.quantities.base import Limited, Minimum
from deepmad_hw.optimize.smooth import Nlp, PricedRow
from deepmad_hw.optimize.surrogate import Surrogate, fit_surrogate, stage_value
from deepmad_hw.optimize.walked import Walked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_SUM = 1e-9  # as which sums stand that no network can have, so that limits stay above 0
SAME = Curve()


class Additive(Limited):
    """A limit on a sum over layers.

    Args:
        tables: the problem's tables.
        name: of the limit, one of `Coefficients.quantities`.
        limit: largest value allowed, in the quantity's unit.
    """

    def __init__(self, tables: Coefficients, name: str, limit: float) -> None:
        super().__init__(tables, name, limit)
        self.sums = (name,)
        self.terms: Terms = tables.quantities[name]
        self.curve = tables.curves.get(name, SAME)

    def bound(self, *, factor: float = 1.0) -> float:
        """Return what the sum over layers must not exceed.

        Args:
            factor: that the limit is multiplied by.
        """
        return max(LEAST_SUM, self.curve.sum_ms(factor * self.limit))

    def excess(self, walked: Walked) -> Floats:
        """Return ``max(sum / bound - 1, 0)``, [n]."""
        return np.asarray(np.maximum(walked.sums[self.name] / self.bound() - 1, 0.0))

    def amount(self, milp: Milp) -> Sum:
        """Return the sum over layers."""
        return milp.sum_of(self.terms)

    def add_to_milp(self, milp: Milp) -> None:
        """Add ``1000 / bound * sum <= 1000``."""
        at_most(milp.model, Sum().extend(self.amount(milp), ROW_SCALE / self.bound()), ROW_SCALE)

    def add_share_to_milp(self, milp: Milp, share: Sum, factor: float) -> None:
        """Add ``sum / bound - share <= 0``."""
        row = Sum().extend(share, -1.0).extend(self.amount(milp), 1 / self.bound(factor=factor))
        at_most(milp.model, row, 0)

    def add_to_nlp(self, nlp: Nlp) -> None:
        """Add ``sum / bound <= 1``, of a latency by a smooth stand-in for its table."""
        if self.quantity.layer is not None:
            total = costs.total(nlp.network, self.quantity.layer)
        else:
            stand_in = fit_surrogate(self.tables, self.terms)
            nlp.surrogate_error[self.name] = stand_in.median_error, stand_in.worst_error
            total = _smooth_sum(nlp, stand_in)
        bound = self.bound()
        row = nlp.model.rows.add(total / bound <= 1)
        step, amount = self.quantity.price
        # What a step of the limit adds to the bound on the sum, as a share of that bound.
        per_step = amount / (self.curve.slope_at(self.limit) * bound)
        nlp.rows[self.name] = (step, [PricedRow(row=row, per_step=lambda: per_step)])

    def of(self, design: Ints) -> float:
        """Return the quantity of one design."""
        return self.curve.latency_ms(float(self.terms.of(self.tables.stages, design)))

    def smallest(self) -> Minimum:
        """Return the smallest value that a design of the space has."""
        total, design = smallest_sum(self.tables, self.terms)
        return Minimum(value=self.curve.latency_ms(total), design=design)


def _smooth_sum(nlp: Nlp, stand_in: Surrogate) -> Any:
    model = nlp.model
    total = stand_in.stem([model.log_width[0]], exp=pyo.exp)
    total = total + stand_in.tail([model.log_width[len(stand_in.stages)]], exp=pyo.exp)
    for i, fit in enumerate(stand_in.stages, start=1):
        widths = model.log_width[i - 1], model.log_width[i]
        inner = model.log_bottleneck[i], model.log_kernel[i]
        total = total + stage_value(fit, *widths, *inner, model.depth[i], exp=pyo.exp)
    return total


def smallest_sum(tables: Coefficients, terms: Terms) -> tuple[float, Ints]:
    """Return the smallest sum over layers in the space and a design that has it, by dynamic programming over stages.

    ``V_i[o] = min over (c, inner, L) of V_i-1[c] + first[c, o, inner] + (L - 1) further[o, inner]``

    Args:
        tables: the problem's tables.
        terms: the quantity.
    """
    so_far = terms.stem
    steps: list[tuple[Ints, Ints, Ints]] = []
    for grid, part in zip(tables.stages, terms.stages, strict=True):
        depths = np.where(part.further < 0, grid.depth[1], grid.depth[0])
        step = part.first(grid) + ((depths - 1) * part.further)[None, :, :]
        so_far, before, inner = best_way(np.where(grid.allows, so_far[:, None, None] + step, np.inf))
        steps.append((before, inner, depths[np.arange(len(inner)), inner]))
    so_far = so_far + terms.tail
    return float(so_far.min()), walked_back(int(np.argmin(so_far)), steps)


def largest_sum(tables: Coefficients, terms: Terms) -> float:
    """Return the largest sum over layers in the space, as `smallest_sum` finds the smallest.

    Args:
        tables: the problem's tables.
        terms: the quantity.
    """
    return -smallest_sum(tables, terms.negated)[0]


def best_way(total: Floats) -> tuple[Floats, Ints, Ints]:
    """Return the smallest value per out, with the in and inner that give it.

    Args:
        total: [in, out, inner].
    """
    ways = np.moveaxis(total, 1, 0).reshape(total.shape[1], -1)
    chosen = np.argmin(ways, axis=1)
    before, inner = np.divmod(chosen, total.shape[2])
    return ways[np.arange(len(ways)), chosen], before, inner


def walked_back(out: int, steps: list[tuple[Ints, Ints, Ints]]) -> Ints:
    """Return the design that ends at a width.

    Args:
        out: position of the last stage's width.
        steps: for each stage [out], the in, the inner and the depth that lead there.
    """
    stages: list[tuple[int, int, int]] = []
    for before, inner, depth in reversed(steps):
        stages.insert(0, (out, int(inner[out]), int(depth[out])))
        out = int(before[out])
    return encoded(out, stages)
