"""Pyomo models in, points out: IPOPT from the casadi wheel, HiGHS from the highspy wheel. Layer 3 (optimize).

A smooth model is written as NL (Pyomo's own writer), read by casadi, solved by its IPOPT, and the point is put back
into the model. So no executable has to be installed.
A linear model is compiled to matrices (Pyomo's own compiler) and handed to HiGHS in memory.
"""

from __future__ import annotations

import math
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import casadi
import highspy
import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray
from pyomo.common.collections import ComponentMap
from pyomo.repn.plugins.nl_writer import NLWriter
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

MAX_ITERATIONS = 500
TOLERANCE = 1e-8
HEURISTIC_EFFORT = 0.05  # HiGHS's default
ABSOLUTE_GAP = 1e-9
OPTIMA = {  # of a smooth model, as Pyomo's interfaces name them
    *(pyo.TerminationCondition.optimal, pyo.TerminationCondition.locallyOptimal),
    pyo.TerminationCondition.globallyOptimal,
}
WHOLE = 1e-5  # how far from a whole number an integer may be; HiGHS grants itself a tenth of it
_STOPPED = highspy.HighsModelStatus
BELIEVED = {  # how a search may end whose bound means something; after an error it means nothing
    *(_STOPPED.kOptimal, _STOPPED.kTimeLimit, _STOPPED.kIterationLimit, _STOPPED.kSolutionLimit),
    *(_STOPPED.kMemoryLimit, _STOPPED.kInterrupt, _STOPPED.kObjectiveBound, _STOPPED.kObjectiveTarget),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NlpOutcome:
    """How a solve ended; the point itself is in the model.

    Args:
        converged: whether the point is a local optimum within the tolerance.
        stopped: why the solver stopped, in its own words.
        iterations: of the interior-point method.
        solve_ms: time in the solver.
    """

    converged: bool
    stopped: str
    iterations: int
    solve_ms: float


class CasadiIpopt:
    """IPOPT with MUMPS from the casadi wheel.

    Multipliers follow Pyomo's convention: derivative of the (minimised) objective by the constraint's bound.

    Args:
        model: minimises; has an imported suffix ``dual``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.nl"
            with path.open("w", encoding="utf-8") as stream:
                info = NLWriter().write(model, stream, linear_presolve=False, scale_model=False)
            problem = casadi.NlpBuilder()
            problem.import_nl(str(path))
        self._variables, self._constraints = info.variables, info.constraints
        self._bounds = {"lbx": problem.x_lb, "ubx": problem.x_ub, "lbg": problem.g_lb, "ubg": problem.g_ub}
        functions: Any = {"x": casadi.vertcat(*problem.x), "f": problem.f, "g": casadi.vertcat(*problem.g)}
        options: Any = {
            "print_time": False,
            "ipopt.print_level": 0,
            "ipopt.sb": "yes",
            "ipopt.max_iter": MAX_ITERATIONS,
            "ipopt.tol": TOLERANCE,
        }
        self._solver = casadi.nlpsol("solver", "ipopt", functions, options)

    def solve(self) -> NlpOutcome:
        """Solve from the model's current values; load values and multipliers."""
        started = time.perf_counter()
        with _interruptible():
            point = self._solver(x0=[pyo.value(variable) for variable in self._variables], **self._bounds)
        elapsed_ms = 1000 * (time.perf_counter() - started)
        stats = self._solver.stats()
        for variable, value in zip(self._variables, np.array(point["x"]).ravel(), strict=True):
            variable.set_value(_within(float(value), *variable.bounds))
        self._model.dual.clear()
        for constraint, value in zip(self._constraints, np.array(point["lam_g"]).ravel(), strict=True):
            self._model.dual[constraint] = -float(value)
        return NlpOutcome(
            converged=bool(stats["success"]),
            stopped=str(stats["return_status"]),
            iterations=int(stats["iter_count"]),
            solve_ms=elapsed_ms,
        )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise Ctrl-C again that casadi took for itself: IPOPT then only stops, as if it had failed."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        usual(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if seen:
        raise KeyboardInterrupt


def _within(value: float, low: float | None, high: float | None) -> float:
    """Return a value moved into its bounds, which IPOPT oversteps by its tolerance."""
    value = value if low is None else max(value, low)
    return value if high is None else min(value, high)


@dataclass(frozen=True, kw_only=True, slots=True)
class MilpOutcome:
    """How a linear or mixed-integer solve ended; the point itself is in the model.

    Args:
        stopped: why the solver stopped, in its own words.
        infeasible: whether it proved that no point exists.
        optimal: whether it closed the gap it was asked to close.
        has_point: whether the model's values are a feasible point by the solver's tolerances.
        bound: the solver's claim on the largest objective any point has, or None.
    """

    stopped: str
    infeasible: bool
    optimal: bool
    has_point: bool
    bound: float | None


def compiled(model: Any) -> Any:
    """Return a linear model that maximises as matrices: Pyomo's `LinearStandardFormInfo` with each row once.

    Args:
        model: linear, with one objective to maximise.
    """
    return LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=pyo.maximize)


class HighsModel:
    """HiGHS on a linear Pyomo model that maximises; rows can be added and the objective changed between runs.

    Args:
        model: linear, with one objective to maximise.
        threads: of the solver.
        log: file to which it adds its own words, or None.
    """

    def __init__(self, model: Any, *, threads: int = 1, log: Path | None = None) -> None:
        highspy.Highs.resetGlobalScheduler(True)
        form = compiled(model)
        self._variables = form.columns
        self._column: Any = ComponentMap((variable, index) for index, variable in enumerate(form.columns))
        self._whole = np.array([not variable.is_continuous() for variable in form.columns])
        self._ends = (
            np.array([form.columns[i].bounds for i in np.flatnonzero(self._whole)], dtype=float).reshape(-1, 2).T
        )
        self._highs = highspy.Highs()
        options: dict[str, Any] = {"output_flag": log is not None, "threads": threads}
        if log is not None:
            options |= {"log_to_console": False, "log_file": str(log)}
        for option, value in options.items():
            self._highs.setOptionValue(option, value)
        self._highs.passModel(_highs_lp(form))

    def add_row(self, variables: Sequence[Any], factors: Sequence[float], *, low: float, high: float) -> None:
        """Add ``low <= sum(factors * variables) <= high``.

        Args:
            variables: of the model.
            factors: one per variable.
            low: or ``-inf``.
            high: or ``inf``.
        """
        self._highs.addRow(low, high, len(variables), self._columns(variables), np.asarray(factors, dtype=float))

    def maximise(self, variables: Sequence[Any], factors: Sequence[float]) -> None:
        """Replace the objective.

        Args:
            variables: of the model.
            factors: one per variable.
        """
        cost = np.zeros(len(self._variables))
        np.add.at(cost, self._columns(variables), factors)
        self._highs.changeColsCost(len(cost), np.arange(len(cost), dtype=np.int32), cost)
        self._highs.changeObjectiveOffset(0.0)

    def run(
        self,
        *,
        relaxed: bool,
        gap: float = 0.0,
        absolute: float | None = None,
        time_limit_s: float = math.inf,
        heuristics: bool = True,
    ) -> MilpOutcome:
        """Solve; put the best point into the model.

        Args:
            relaxed: whether integers may be fractions.
            gap: relative distance of point and bound at which to stop.
            absolute: the distance itself, which then counts alone.
            time_limit_s: after which to stop.
            heuristics: whether to look for points besides those that the search meets.
        """
        highs = self._highs
        highs.setOptionValue("mip_heuristic_effort", HEURISTIC_EFFORT if heuristics else 0.0)
        highs.setOptionValue("solve_relaxation", relaxed)
        highs.setOptionValue("mip_rel_gap", gap if absolute is None else 0.0)
        highs.setOptionValue("mip_abs_gap", ABSOLUTE_GAP if absolute is None else max(absolute, ABSOLUTE_GAP))
        highs.setOptionValue("time_limit", highs.getRunTime() + time_limit_s)
        highs.run()
        status, info = highs.getModelStatus(), highs.getInfo()
        has_point = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        has_point = has_point and self._load(relaxed=relaxed)
        optimal = has_point and status == _STOPPED.kOptimal
        claim = info.objective_function_value if relaxed else info.mip_dual_bound
        known = math.isfinite(claim) and (optimal if relaxed else status in BELIEVED)
        return MilpOutcome(
            stopped=highs.modelStatusToString(status),
            infeasible=status == _STOPPED.kInfeasible,
            optimal=optimal,
            has_point=has_point,
            bound=claim if known else None,
        )

    def _load(self, *, relaxed: bool) -> bool:
        """Put the solver's point into the model; return whether it is one: numbers, whole ones where they must be."""
        values = np.array(self._highs.getSolution().col_value)
        if not np.isfinite(values).all():
            return False
        whole, (low, high) = values[self._whole], self._ends
        off = np.maximum(np.abs(whole - whole.round()), np.maximum(low - whole, whole - high))
        if not relaxed and (off > WHOLE).any():
            return False
        for variable, value in zip(self._variables, values.tolist(), strict=True):
            variable.set_value(value, skip_validation=True)
        return True

    def _columns(self, variables: Sequence[Any]) -> NDArray[np.int32]:
        return np.array([self._column[variable] for variable in variables], dtype=np.int32)


def _highs_lp(form: Any) -> Any:
    """Return Pyomo's compiled matrices as HiGHS takes them."""
    rows = form.A.tocsr()
    kinds = np.array([row.bound_type for row in form.rows])  # -1: >=, 0: ==, 1: <=
    problem = highspy.HighsLp()
    problem.num_row_, problem.num_col_ = rows.shape
    problem.row_lower_ = np.where(kinds <= 0, form.rhs, -highspy.kHighsInf)
    problem.row_upper_ = np.where(kinds >= 0, form.rhs, highspy.kHighsInf)
    bounds = [variable.bounds for variable in form.columns]
    problem.col_lower_ = np.array([-highspy.kHighsInf if low is None else low for low, _ in bounds], dtype=float)
    problem.col_upper_ = np.array([highspy.kHighsInf if high is None else high for _, high in bounds], dtype=float)
    problem.col_cost_ = np.asarray(form.c.todense(), dtype=float).ravel()
    problem.offset_ = float(form.c_offset[0])
    problem.sense_ = highspy.ObjSense.kMaximize
    problem.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    problem.a_matrix_.start_, problem.a_matrix_.index_ = rows.indptr, rows.indices
    problem.a_matrix_.value_ = rows.data
    kind = highspy.HighsVarType
    problem.integrality_ = [kind.kContinuous if v.is_continuous() else kind.kInteger for v in form.columns]
    return problem
