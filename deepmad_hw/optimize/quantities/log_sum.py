"""Logarithms of sums over layers: log params, log MACs. Layer 3 (optimize).

    t <= log x_0 + (x - x_0) / x_0        for tangent points x_0

The logarithm is concave, so its tangents lie above it: with a weight >= 0 the model's term is never below a design's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from deepmad_hw.network import costs
from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.layer_tables import Terms
from deepmad_hw.optimize.linear import Cut, Milp, Sum
from deepmad_hw.optimize.quantities.additive import largest_sum, smallest_sum
from deepmad_hw.optimize.smooth import Nlp
from deepmad_hw.optimize.walked import Walked
from deepmad_hw.problem import limits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TANGENT_STEP = 0.04  # of log x between tangents: the logarithm comes out at most 2e-4 too large
ROUNDING = 1e-9  # relative, that the ends of x are moved out by


class LogSum:
    """``weight * log(sum over layers)`` as a term of the objective.

    Args:
        tables: the problem's tables.
        name: of the quantity.
        weight: at least 0.
    """

    def __init__(self, tables: Coefficients, name: str, weight: float) -> None:
        self._terms, self._name, self._weight = tables.quantities[name], name, weight
        self.sums = (name,)
        self._low = smallest_sum(tables, self._terms)[0] * (1 - ROUNDING)

    def values(self, walked: Walked) -> Floats:
        """Return ``weight * log(sum)``, [n]."""
        return np.asarray(self._weight * np.log(walked.sums[self._name]))

    def add_to_milp(self, milp: Milp) -> Sum:
        """Add ``x = sum / low`` and t with its tangents on a grid, and return ``weight * (t + log low)``."""
        block = pyo.Block()
        milp.model.add_component(f"log_{self._name}", block)
        most = _largest(milp.tables, self._name, self._terms, limited=milp.leave_out is None) / self._low
        block.x = pyo.Var(bounds=(1.0, most))
        block.t = pyo.Var(bounds=(0.0, math.log(most)))
        row = Sum(variables=[block.x], factors=[-1.0]).extend(milp.sum_of(self._terms), 1 / self._low)
        milp.model.rows.add((0, row.expression(), 0))
        for at in np.arange(0.0, math.log(most) + TANGENT_STEP, TANGENT_STEP):
            cut = self._tangent(milp, math.exp(float(at)))
            milp.model.rows.add((cut.low, cut.sum.expression(), None))
        return Sum(variables=[block.t], factors=[self._weight], constant=self._weight * math.log(self._low))

    def _tangent(self, milp: Milp, at: float) -> Cut:
        """Return ``x / at - t >= 1 - log at``."""
        block = milp.model.find_component(f"log_{self._name}")
        row = Sum(variables=[block.x, block.t], factors=[1 / at, -1.0])
        return Cut(key=(self._name, at), sum=row, low=1 - math.log(at))

    def cut(self, milp: Milp, design: Ints) -> Cut | None:
        """Return the tangent at a design."""
        total = float(self._terms.of(milp.tables.stages, design))
        return self._tangent(milp, total / self._low)

    def of_nlp(self, nlp: Nlp) -> Any:
        """Return ``weight * log(sum)`` as an expression."""
        share = limits.quantity(self._name).layer
        assert share is not None
        return self._weight * pyo.log(costs.total(nlp.network, share))


def _largest(tables: Coefficients, name: str, terms: Terms, *, limited: bool) -> float:
    """Return what the sum is at most: in the space, and within the problem's limit and the range that was seen."""
    high = largest_sum(tables, terms)
    if limited:
        calibration = tables.problem.worth.calibration
        seen = [each.most for each in (() if calibration is None else calibration.ranges) if each.feature == name]
        high = min([high, tables.problem.limits.named().get(name, high), *seen])
    return high * (1 + ROUNDING)


def log_params(tables: Coefficients) -> LogSum | None:
    """Return the term of a problem, None where it has no weight.

    Args:
        tables: the problem's tables.
    """
    weight = tables.problem.worth.log_params
    return LogSum(tables, "params", weight) if weight else None


def log_macs(tables: Coefficients) -> LogSum | None:
    """Return the term of a problem, None where it has no weight.

    Args:
        tables: the problem's tables.
    """
    weight = tables.problem.worth.log_macs
    return LogSum(tables, "macs", weight) if weight else None
