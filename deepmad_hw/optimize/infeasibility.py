"""What an infeasible problem would need: the smallest value of each limit given the others, proved. Layer 3 (optimize).

The same exact model as for the certified design, with one limit's quantity in place of the objective.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.linear import Milp, Sum
from deepmad_hw.optimize.milp import ALL_LIMITS, build, log_fan_in_ranges
from deepmad_hw.optimize.quantities import limited
from deepmad_hw.optimize.quantities.additive import smallest_sum
from deepmad_hw.optimize.quantities.ranges import InRange
from deepmad_hw.optimize.solvers import HighsModel
from deepmad_hw.problem import check
from deepmad_hw.problem.solution import Evaluation, MinimumValue

Ints = NDArray[np.int64]

PROOF_GAP = 1e-5  # relative, of a smallest value
FACTOR_GAP = 1e-4  # relative, of the smallest common factor
ANY_FACTOR = 1e6  # at which limits keep nothing out


class Infeasibility:
    """Finds what each limit of an infeasible problem would have to be.

    Args:
        tables: the problem's tables.
        models: latency models by table name.
        threads: of the solver.
        deadline: `time.monotonic` after which no new model is started.
    """

    def __init__(self, tables: Coefficients, models: check.Models, *, threads: int, deadline: float) -> None:
        self._tables = tables
        self._models = models
        self._threads = threads
        self._deadline = deadline
        self._ranges = log_fan_in_ranges(tables)
        self._limits = limited(tables)
        self._scaled = [limit for limit in self._limits if not isinstance(limit, InRange)]

    def minimum_values(self) -> tuple[MinimumValue, ...]:
        """Return a value for each limit that can help alone; if none can, the smallest factor on all."""
        found = []
        for limit in self._limits:
            answer = limit.smallest_given_others(_Without(self, limit.name))
            if answer is not None:
                minimum, proved = answer
                found.append(limit.minimum_value(minimum.value, proved=proved))
        common = None if found or not self._scaled else self._common_factor()
        return tuple(found) if common is None else (common,)

    def build(self, leave_out: str) -> Milp | None:
        """Return the problem's model without a limit, None once there is no time left.

        Args:
            leave_out: name of the limit.
        """
        if time.monotonic() > self._deadline:
            return None
        return build(self._tables, ranges=self._ranges, leave_out=leave_out)

    def minimise(self, milp: Milp, total: Sum) -> tuple[Ints, bool] | None:
        """Return the design of the smallest sum and whether it is proved, or None without a point.

        Args:
            milp: the model.
            total: the sum.
        """
        solver = HighsModel(milp.model, threads=self._threads)
        solver.maximise(total.variables, [-factor for factor in total.factors])
        left_s = max(0.0, self._deadline - time.monotonic())
        outcome = solver.run(relaxed=False, gap=PROOF_GAP, time_limit_s=left_s)
        return (milp.design(), outcome.optimal) if outcome.has_point else None

    def evaluate(self, design: Ints) -> Evaluation:
        """Return the checker's word on a design, so that a value is a limit which that design keeps.

        Args:
            design: a row of positions.
        """
        return check.evaluate_for(self._tables.problem, self._tables.decode(design), self._models)

    def _common_factor(self) -> MinimumValue | None:
        """Return the smallest factor on all limits at once, by halving an interval that holds it.

        At one factor on all limits the model gives the design that keeps them best; it keeps them all, or none does.
        None where no factor helps, because the ranges of a calibrated objective leave no design.
        """
        design = self._some_design()
        if design is None:
            return None
        low, high, proved = 1.0, self._largest_ratio(design), True
        while high > low * (1 + FACTOR_GAP):
            middle = math.sqrt(low * high)
            milp = self.build(ALL_LIMITS)
            answer = None if milp is None else self._least_share(milp, middle)
            proved = milp is not None and time.monotonic() <= self._deadline
            if not proved:
                break
            reached = math.inf if answer is None else self._largest_ratio(answer)
            if answer is None or reached > middle * (1 + PROOF_GAP):
                low = middle
            else:
                design, high = answer, min(high, reached)
        return MinimumValue(limit=ALL_LIMITS, value=self._largest_ratio(design), unit="times", proved=proved)

    def _some_design(self) -> Ints | None:
        """Return a design that keeps everything that no factor moves, None where none was found."""
        if len(self._scaled) == len(self._limits):
            return smallest_sum(self._tables, self._tables.quantities["params"])[1]
        milp = self.build(ALL_LIMITS)
        design = None if milp is None else self._least_share(milp, ANY_FACTOR)
        return None if design is None or self._largest_ratio(design) <= 1 else design

    def _least_share(self, milp: Milp, factor: float) -> Ints | None:
        """Return the design that keeps all limits best, or breaks them least, once they are that many times as high."""
        milp.model.share = pyo.Var(bounds=(0, None))
        share = Sum(variables=[milp.model.share], factors=[1.0])
        for limit in self._limits:
            limit.add_share_to_milp(milp, share, factor)
        answer = self.minimise(milp, share)
        return None if answer is None else answer[0]

    def _largest_ratio(self, design: Ints) -> float:
        """Return the largest of a design's values over their limits."""
        return max(limit.of(design) / limit.limit for limit in self._scaled)


@dataclass(frozen=True)
class _Without:
    """An infeasible problem without one of its limits; see `deepmad_hw.optimize.quantities.base.Relaxed`."""

    infeasibility: Infeasibility
    name: str

    def milp(self) -> Milp | None:
        return self.infeasibility.build(self.name)

    def minimise(self, milp: Milp, total: Sum) -> tuple[Ints, bool] | None:
        return self.infeasibility.minimise(milp, total)

    def evaluate(self, design: Ints) -> Evaluation:
        return self.infeasibility.evaluate(design)
