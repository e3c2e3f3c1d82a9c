"""What an infeasible problem would need: the smallest value of each limit given the others, proved. Layer 3 (optimize).

The same exact model as for the certified design, with one limit's quantity in place of the objective. rho is no sum:
it is lowered in steps, each one the proof or refutation that some design is better (Dinkelbach's method).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from deepmad_hw import check
from deepmad_hw.optimize.coefficients import Coefficients, additive_limits, value_of
from deepmad_hw.optimize.milp import ALL_LIMITS, Milp, Sum, add_memory, add_rho, build, log_fan_in_ranges, quantity
from deepmad_hw.optimize.reach import smallest_sum
from deepmad_hw.optimize.solvers import HighsModel
from deepmad_hw.solution import Tightest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PROOF_GAP = 1e-5  # relative, of a smallest value
FACTOR_GAP = 1e-4  # relative, of the smallest common factor
RHO_STEPS = 40
RHO_START = 100.0  # far above any rho that is asked for


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Needed:
    """The smallest value of one limit given the others.

    Args:
        tightest: the value, as solutions carry it.
        design: choices that reach it.
    """

    tightest: Tightest
    design: Ints


class Relaxer:
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

    def run(self) -> tuple[Needed, ...]:
        """Return a value for each limit that can help alone; if none can, the smallest factor on all."""
        limits = self._tables.problem.limits
        names = list(self._tables.limits)
        names += ["memory"] if limits.memory_bytes is not None else []
        found = [needed for name in names if (needed := self._budget(name)) is not None]
        found += [needed for needed in [self._rho()] if needed is not None] if limits.rho is not None else []
        return tuple(found) or (self._common_factor(),)

    def _late(self) -> bool:
        return time.monotonic() > self._deadline

    def _minimise(self, milp: Milp, total: Sum) -> tuple[Ints, bool] | None:
        """Return the design of the smallest sum and whether it is proved, or None without a point."""
        solver = HighsModel(milp.model, threads=self._threads)
        solver.maximise(total.variables, [-factor for factor in total.factors])
        left_s = max(0.0, self._deadline - time.monotonic())
        outcome = solver.run(relaxed=False, gap=PROOF_GAP, time_limit_s=left_s)
        return (milp.design(), outcome.optimal) if outcome.has_point else None

    def _budget(self, name: str) -> Needed | None:
        if self._late():
            return None
        milp = build(self._tables, ranges=self._ranges, leave_out=name)
        total = self._peak(milp) if name == "memory" else quantity(milp, name)
        answer = self._minimise(milp, total)
        if answer is None:
            return None
        design, proved = answer
        return Needed(tightest=self._value(name, design, proved), design=design)

    def _peak(self, milp: Milp) -> Sum:
        milp.model.peak = pyo.Var(bounds=(0, None))
        add_memory(milp, Sum(variables=[milp.model.peak], factors=[-1.0]))
        return Sum(variables=[milp.model.peak], factors=[1.0])

    def _value(self, name: str, design: Ints, proved: bool) -> Tightest:
        """Return a design's value as the checker has it, so that it is a limit which that design keeps."""
        evaluation = check.evaluate(self._tables.decode(design), models=self._models)
        plain = {
            "macs": (evaluation.macs, "MACs"),
            "params": (evaluation.params, "params"),
            "memory": (evaluation.memory_bytes, "bytes"),
            "rho": (evaluation.max_rho, "1"),
        }
        latency = {f"latency:{each.table}": (each.upper_ms or each.predicted_ms, "ms") for each in evaluation.latency}
        value, unit = {**plain, **latency}[name]
        return Tightest(limit=name, value=float(value), unit=unit, proved=proved)

    def _rho(self) -> Needed | None:
        """Lower rho as long as a design with slack at every scale exists; each step ends at that design's rho."""
        limit, best = RHO_START, None
        for _ in range(RHO_STEPS):
            answer = None if self._late() else self._most_slack(limit)
            if answer is None:
                break
            rho = check.evaluate(self._tables.decode(answer[0])).max_rho
            if rho >= limit * (1 - PROOF_GAP):
                proved = answer[1]
                design = answer[0] if best is None or rho < limit else best
                return Needed(tightest=self._value("rho", design, proved), design=design)
            limit, best = rho, answer[0]
        return None if best is None else Needed(tightest=self._value("rho", best, False), design=best)

    def _most_slack(self, limit: float) -> tuple[Ints, bool] | None:
        milp = build(self._tables, ranges=self._ranges, leave_out="rho")
        milp.model.slack = pyo.Var()
        for scale in self._tables.scales:
            add_rho(milp, scale, limit, slack=milp.model.slack)
        return self._minimise(milp, Sum(variables=[milp.model.slack], factors=[-1.0]))

    def _common_factor(self) -> Needed:
        """Return the smallest factor on all limits at once, by halving an interval that holds it.

        At one factor on all limits the model gives the design that keeps them best; it keeps them all, or none does.
        """
        _, design = smallest_sum(self._tables, self._tables.quantities["params"])
        low, high, proved = 1.0, max(self._ratios(design)), True
        while high > low * (1 + FACTOR_GAP):
            middle = math.sqrt(low * high)
            answer = None if self._late() else self._budgets_at(middle)
            proved = proved and not self._late()
            if not proved:
                break
            reached = math.inf if answer is None else max(self._ratios(answer[0]))
            if answer is None or reached > middle * (1 + PROOF_GAP):
                low = middle
            else:
                design, high = answer[0], min(high, reached)
        value = max(self._ratios(design))
        return Needed(tightest=Tightest(limit=ALL_LIMITS, value=value, unit="times", proved=proved), design=design)

    def _budgets_at(self, factor: float) -> tuple[Ints, bool] | None:
        """Return the design that keeps all limits best, or breaks them least, once they are that many times as high."""
        tables, limits = self._tables, self._tables.problem.limits
        milp = build(tables, ranges=self._ranges, leave_out=ALL_LIMITS)
        milp.model.share = pyo.Var(bounds=(0, None))
        share: Any = milp.model.share
        for name, bound in additive_limits(tables.problem, tables.curves, factor=factor).items():
            row = Sum(variables=[share], factors=[-1.0]).extend(quantity(milp, name), 1 / bound)
            milp.model.rows.add((None, row.expression(), 0))
        if limits.memory_bytes is not None:
            add_memory(milp, Sum(variables=[share], factors=[-factor * limits.memory_bytes]))
        if limits.rho is not None:
            for scale in tables.scales:
                add_rho(milp, scale, limits.rho * factor)
        return self._minimise(milp, Sum(variables=[share], factors=[1.0]))

    def _ratios(self, design: Ints) -> Sequence[float]:
        """Return a design's values over their limits."""
        tables, limits = self._tables, self._tables.problem.limits
        evaluation = check.evaluate(tables.decode(design))
        asked = limits.named()
        found = [
            value_of(tables, name, tables.quantities[name].of(tables, design)) / asked[name] for name in tables.limits
        ]
        found += [evaluation.memory_bytes / limits.memory_bytes] if limits.memory_bytes is not None else []
        return found + ([evaluation.max_rho / limits.rho] if limits.rho is not None else [])
