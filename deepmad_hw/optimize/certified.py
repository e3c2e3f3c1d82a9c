"""Designs with a proof: the exact model solved by HiGHS, every point judged by the checker. Layer 3 (optimize).

The bound is HiGHS's claim about the model; designs are believed only after `deepmad_hw.problem.check` has recomputed
them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.optimize.bound_tightening import tighten
from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.optimize.linear import Milp
from deepmad_hw.optimize.milp import Range, build, log_fan_in_ranges
from deepmad_hw.optimize.solvers import HighsModel
from deepmad_hw.problem.objective import search_unit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_SOLVES = 60  # of the whole model: new tangents or refused designs
TANGENT_SHARE = 0.9  # the same where logarithms are bounded by tangents
GAP_SHARE = 0.99  # of the tolerance that the solver is asked for; the rest is for the penalty and rounding
MAX_REDUCTIONS = 8  # rounds of dropping pairs that no good enough design has
WORTH_A_ROUND = 0.8  # another round follows one that left at most this share of the pairs, or of the bound's excess
BOUND_SAFETY = 1e-6  # share of the objective's magnitude, on bounds that come from relaxations

Judge = Callable[[Ints], float | None]  # objective of a design if the checker takes it, else None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Certified:
    """What the exact solver ended with.

    Args:
        design: best design that the checker takes, or None.
        objective: its checked objective.
        bound: claimed upper bound on every design's objective, or None.
        infeasible: whether no design keeps all limits.
        stopped: why it stopped.
        refused: how many points of the solver the checker refused.
        solves: runs of the whole model.
    """

    design: Ints | None
    objective: float
    bound: float | None
    infeasible: bool
    stopped: str
    refused: int
    solves: int


@dataclass(kw_only=True)
class _State:
    """What is known so far."""

    design: Ints | None
    objective: float
    magnitude: Callable[[Ints], float]  # what rounding is a share of
    in_points: bool  # whether a gap is a number of points, not a share of the magnitude
    bound: float = math.inf
    stopped: str = "time limit"
    infeasible: bool = False
    refused: int = 0
    solves: int = 0
    target: float = -math.inf  # what designs outside the reduced tables do not exceed
    cuts: set[Hashable] = field(default_factory=set)

    @property
    def scale(self) -> float:
        """Return the magnitude of the best design's terms."""
        return self.magnitude(self.design) if self.design is not None else 0.0

    @property
    def gap_scale(self) -> float:
        """Return what a gap of 1 is."""
        return 1.0 if self.in_points else self.scale

    @property
    def gap(self) -> float:
        """Return the distance of bound and best design in units of `gap_scale`."""
        if self.design is None or self.gap_scale == 0:
            return math.inf
        return (self.bound - self.objective) / self.gap_scale

    def result(self) -> Certified:
        """Return it as a record; a bound that a checked design exceeds by more than rounding is no bound."""
        if self.design is not None and self.bound < self.objective:
            rounding = self.objective - self.bound <= BOUND_SAFETY * self.scale
            self.bound = self.objective if rounding else math.inf
            self.stopped = self.stopped if rounding else "the solver's bound lies below a checked design"
        return Certified(
            design=self.design,
            objective=self.objective,
            bound=self.bound if math.isfinite(self.bound) else None,
            infeasible=self.infeasible,
            stopped=self.stopped,
            refused=self.refused,
            solves=self.solves,
        )


def certify(
    tables: Coefficients,
    judge: Judge,
    *,
    start: Ints | None,
    gap: float,
    deadline: float,
    threads: int = 1,
    log: Path | None = None,
) -> Certified:
    """Return the best design within a gap of a proved bound, or what was reached by the deadline.

    Args:
        tables: the problem's tables.
        judge: says what a design is worth, from plain numbers.
        start: a design that the judge takes, or None.
        gap: to reach, as `deepmad_hw.problem.solution.Solution.gap` has it.
        deadline: `time.monotonic` at which to stop.
        threads: of the solver.
        log: file to which the solver adds its own words, or None.
    """
    state = _State(
        design=None,
        objective=-math.inf,
        magnitude=Evaluator(tables).magnitude,
        in_points=bool(tables.problem.worth.unit),
    )
    if start is not None:
        _consider(state, start, judge)
    reduced = _reduced(tables, state, gap=gap, threads=threads, deadline=deadline)
    if reduced is None:
        return state.result()
    milp = build(reduced[0], ranges=reduced[1])
    if state.design is not None:
        _add_cutoff(milp, state.target, room=BOUND_SAFETY * max(state.scale, abs(state.target)))
    solver = HighsModel(milp.model, threads=threads, log=log)
    while state.solves < MAX_SOLVES and time.monotonic() < deadline and not state.infeasible:
        refused = state.refused
        if not _solve_once(milp, solver, state, judge, gap=gap, deadline=deadline) or state.gap <= gap:
            break
        if state.refused > refused:
            solver = HighsModel(milp.model, threads=threads, log=log)
    return state.result()


def _consider(state: _State, design: Ints, judge: Judge) -> bool:
    objective = judge(design)
    if objective is None:
        return False
    if objective > state.objective:
        state.design, state.objective = design, objective
    return True


def _reduced(
    tables: Coefficients, state: _State, *, gap: float, threads: int, deadline: float
) -> tuple[Coefficients, list[Range]] | None:
    """Return the tables without pairs that no good enough design has, and bounds on the sum of log w by width.

    Good enough is what would still matter: better than the design in hand by more than the gap. All else is bounded
    by that target. Returns None where nothing is left to search.
    """
    ranges = log_fan_in_ranges(tables)
    if state.design is None:
        return tables, ranges
    state.target = state.objective + GAP_SHARE * gap * state.gap_scale
    spare = math.inf
    for _ in range(MAX_REDUCTIONS):
        tightened = tighten(
            tables,
            ranges,
            state.design,
            state.target,
            threads=threads,
            deadline=deadline,
            magnitude=state.scale,
            unit=_search_unit(tables, state, gap),
        )
        if tightened is None:
            break
        state.bound = min(state.bound, max(tightened.bound, state.target))
        if state.bound <= state.target or tightened.is_empty:
            state.bound = state.target
            state.stopped = "nothing better within the gap is left"
            return None
        before, tables, ranges = _pairs(tables), tightened.tables, tightened.ranges
        spare, spare_before = tightened.bound - state.target, spare
        if spare > WORTH_A_ROUND * spare_before and _pairs(tables) > WORTH_A_ROUND * before:
            break
    return tables, ranges


def _absolute_gap(milp: Milp, state: _State, gap: float) -> float | None:
    """Return the distance that the solver may leave; of DeepMAD's objective, whose gap is a share of it, None."""
    if milp.tables.problem.objective is None or state.gap_scale == 0:  # of a formula nothing is known without a design
        return None
    return TANGENT_SHARE * gap * state.gap_scale


def _search_unit(tables: Coefficients, state: _State, gap: float) -> float | None:
    """Return what the tolerances of the search are shares of: None for DeepMAD's objective itself."""
    problem = tables.problem
    return None if problem.objective is None else search_unit(problem.worth, magnitude=state.scale, gap=gap)


def _add_cutoff(milp: Milp, least: float, *, room: float) -> None:
    """Leave only designs of at least some objective: all others are bounded by it already."""
    milp.model.rows.add((least - room, milp.objective.expression(), None))


def _pairs(tables: Coefficients) -> int:
    return sum(int(grid.allows_in_inner.sum() + 2 * grid.allows_out_inner.sum()) for grid in tables.stages)


def _solve_once(milp: Milp, solver: HighsModel, state: _State, judge: Judge, *, gap: float, deadline: float) -> bool:
    """Run the whole model once; return whether another run can bring more."""
    state.solves += 1
    outcome = solver.run(
        relaxed=False,
        gap=GAP_SHARE * gap,
        absolute=_absolute_gap(milp, state, gap),
        time_limit_s=max(0.0, deadline - time.monotonic()),
        heuristics=state.design is None,
    )
    state.stopped = outcome.stopped
    if outcome.infeasible:
        _note_infeasible(state)
        return False
    if outcome.bound is not None:
        state.bound = min(state.bound, max(outcome.bound, state.target))
    design = milp.design() if outcome.has_point else None
    if design is None:
        return False
    if not _consider(state, design, judge):
        state.refused += 1
        milp.exclude(design)
        return True
    return outcome.optimal and _add_cuts(milp, solver, design, state)


def _note_infeasible(state: _State) -> None:
    """Take the solver's word that nothing (else) exists: with a design in hand, that design is the best one."""
    if state.design is None:
        state.infeasible, state.stopped = True, "no point keeps all limits"
    else:
        state.bound = max(state.objective, state.target)
        state.stopped = "nothing better within the gap is left"


def _add_cuts(milp: Milp, solver: HighsModel, design: Ints, state: _State) -> bool:
    """Make the model's objective of a design exact; return whether any of it was not."""
    found = [cut for term in milp.terms if (cut := term.cut(milp, design)) is not None]
    new = [cut for cut in found if cut.key not in state.cuts]
    for cut in new:
        state.cuts.add(cut.key)
        milp.model.rows.add((cut.low, cut.sum.expression(), None))
        solver.add_row(cut.sum.variables, cut.sum.factors, low=cut.low, high=math.inf)
    return bool(new)
