"""Pyomo models in, values and multipliers out: IPOPT from the casadi wheel. Layer 3 (optimize).

A model is written as NL (Pyomo's own writer), read by casadi, solved by its IPOPT, and the point is put back into
the model. So no executable has to be installed; one on the PATH is used through Pyomo's interface when asked for.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import casadi
import numpy as np
import pyomo.environ as pyo
from pyomo.repn.plugins.nl_writer import NLWriter

from deepmad_hw.errors import MissingExtraError

MAX_ITERATIONS = 500
TOLERANCE = 1e-8


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


class NlpSolver(Protocol):
    """Solves one model, again from each new start."""

    def solve(self) -> NlpOutcome:
        """Solve from the model's current values; load values and, into ``model.dual``, multipliers."""


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


def _within(value: float, low: float | None, high: float | None) -> float:
    """Return a value moved into its bounds, which IPOPT oversteps by its tolerance."""
    value = value if low is None else max(value, low)
    return value if high is None else min(value, high)


class ExecutableIpopt:
    """An ``ipopt`` executable on the PATH, through Pyomo's own interface.

    Args:
        model: minimises; has an imported suffix ``dual``.

    Raises:
        MissingExtraError: there is none.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._solver = pyo.SolverFactory("ipopt")
        if not self._solver.available(exception_flag=False):
            raise MissingExtraError(
                "no ipopt executable is on the PATH", where="ipopt", hint="leave the option out to use casadi's IPOPT"
            )
        self._solver.options["max_iter"] = MAX_ITERATIONS
        self._solver.options["tol"] = TOLERANCE

    def solve(self) -> NlpOutcome:
        """Solve from the model's current values; load values and multipliers."""
        started = time.perf_counter()
        result = self._solver.solve(self._model, load_solutions=False)
        elapsed_ms = 1000 * (time.perf_counter() - started)
        condition = result.solver.termination_condition
        if result.solution:
            self._model.solutions.load_from(result)
        return NlpOutcome(
            converged=condition == pyo.TerminationCondition.optimal,
            stopped=str(condition),
            iterations=0,
            solve_ms=elapsed_ms,
        )


def nlp_solver(model: Any, *, executable: bool = False) -> NlpSolver:
    """Return the solver for a smooth model.

    Args:
        model: minimises; has an imported suffix ``dual``.
        executable: whether to use an ``ipopt`` on the PATH in place of casadi's.
    """
    return ExecutableIpopt(model) if executable else CasadiIpopt(model)
