"""The way into this room: one problem, three methods, one kind of answer. Layer 3 (optimize)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import InfeasibleError
from deepmad_hw.installed import versions
from deepmad_hw.latency.model import LatencyModel
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.optimize.certified import Certified, certify
from deepmad_hw.optimize.coefficients import Coefficients, coefficients
from deepmad_hw.optimize.continuous import ContinuousResult, solve_continuous
from deepmad_hw.optimize.infeasibility import Infeasibility
from deepmad_hw.optimize.local_search import PERTURBATIONS, LocalSearch
from deepmad_hw.optimize.quantities import limited
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import Problem
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Evaluation, MinimumValue, Solution, Status

MAX_REFUSALS = 10
_EXTRAPOLATION = "the design lies farther out than every network that the objective was fitted to: an extrapolation"
ANY_GAP = 1e6  # relative: the first design that keeps all limits is good enough
PERTURBATIONS_BEFORE_PROOF = 4 * PERTURBATIONS  # a better start saves the exact solver far more than it costs


def solve(
    problem: Problem,
    models: Mapping[str, LatencyModel],
    settings: Settings = Settings(),  # noqa: B008 - frozen
    *,
    known: Sequence[Architecture] = (),
) -> Solution:
    """Return the answer to a problem.

    Args:
        problem: the problem.
        models: latency models by table name; each one that the problem limits must be there.
        settings: how it is solved.
        known: designs to start from, such as the answer to a neighbouring budget; those outside the space are passed
            over, and they may break limits.

    Raises:
        ConfigError: a gap of 100 % or more, or a limit's table is not among the models.
        NotCoveredError: a table lacks a layer that every design needs.
    """
    gap = settings.gap_for(problem.worth)
    clock = _Clock()
    try:
        tables = coefficients(problem, models)
    except InfeasibleError as error:
        return Solution(
            problem=problem.name,
            method=settings.method,
            status=Status.INFEASIBLE,
            stopped=str(error),
            versions=versions(),
            seed=settings.seed,
        )
    clock.lap("tables")
    continuous = solve_continuous(tables)
    clock.lap("continuous")
    run = _Run(
        problem=problem,
        settings=settings,
        models=models,
        tables=tables,
        continuous=continuous,
        known=tuple(design for design in known if not problem.space.violations(design)),
        clock=clock,
    )
    if settings.method == "continuous":
        return _local(run)
    return _fast_or_none(run) if settings.method == "fast" else _certified(run, gap=gap)


@dataclass(kw_only=True)
class _Clock:
    """Takes the time between steps."""

    started: float = field(default_factory=time.monotonic)
    laps: list[tuple[str, float]] = field(default_factory=list)
    _last: float = field(default_factory=time.monotonic)

    def lap(self, step: str) -> None:
        """Note the milliseconds since the last lap under a name."""
        now = time.monotonic()
        self.laps.append((step, 1000 * (now - self._last)))
        self._last = now


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What every step of one solve knows."""

    problem: Problem
    settings: Settings
    models: Mapping[str, LatencyModel]
    tables: Coefficients
    continuous: ContinuousResult | None
    known: tuple[Architecture, ...]
    clock: _Clock

    @property
    def deadline(self) -> float:
        """Return the `time.monotonic` at which the search ends."""
        return self.clock.started + self.settings.time_limit_s

    def exact(self, *, start: NDArray[np.int64] | None, gap: float) -> Certified:
        """Run the exact model from a design, or from none, until a gap is proved."""
        outcome = certify(
            self.tables,
            self.judge,
            start=start,
            gap=gap,
            deadline=self.deadline,
            threads=self.settings.threads,
            log=self.settings.solver_log,
        )
        self.clock.lap("exact model")
        return outcome

    def judge(self, design: NDArray[np.int64]) -> float | None:
        """Return a design's objective if the checker takes it, else None."""
        architecture = self.tables.decode(design)
        evaluation = check.evaluate_for(self.problem, architecture, self.models)
        return None if check.refusals(self.problem, architecture, evaluation) else evaluation.objective

    def answer(self, status: Status, stopped: str, *, minimum_values: tuple[MinimumValue, ...] = ()) -> Solution:
        """Return a solution without a design."""
        return Solution(
            problem=self.problem.name,
            method=self.settings.method,
            status=status,
            stopped=stopped,
            continuous=self.continuous.design if self.continuous else None,
            prices=self.continuous.prices if self.continuous else (),
            minimum_values=minimum_values,
            notes=_notes(self.tables),
            versions=versions(),
            seed=self.settings.seed,
            timings_ms=tuple(self.clock.laps),
        )

    def designed(
        self,
        stopped: str,
        architecture: Architecture,
        evaluation: Evaluation,
        *,
        bound: float | None = None,
        notes: Sequence[str] = (),
    ) -> Solution:
        """Return a solution with a design that the checker takes, and what a reader should know of it."""
        answer = self.answer(Status.FEASIBLE, stopped)
        extrapolates = evaluation.worth is not None and evaluation.worth.extrapolates
        return replace(
            answer,
            architecture=architecture,
            evaluation=evaluation,
            bound=bound,
            notes=(*answer.notes, *notes, *([_EXTRAPOLATION] if extrapolates else [])),
        )


def _notes(tables: Coefficients) -> tuple[str, ...]:
    return tuple(f"{count} layers not in {table} left the grid" for table, count in tables.uncovered.items() if count)


def _local(run: _Run) -> Solution:
    if run.continuous is None:
        return _nothing_found(run)
    return run.answer(Status.LOCAL, run.continuous.stopped)


def _fast(run: _Run, *, perturbations: int = PERTURBATIONS) -> Solution:
    search = LocalSearch(run.tables, seed=run.settings.seed, perturbations=perturbations, deadline=run.deadline)
    start = run.continuous.design if run.continuous else None
    notes: list[str] = []
    for _ in range(MAX_REFUSALS):
        found = search.run(start, known=[run.tables.encode(design) for design in run.known])
        if found is None:
            break
        architecture = run.tables.decode(found.design)
        evaluation = check.evaluate_for(run.problem, architecture, run.models)
        refusals = check.refusals(run.problem, architecture, evaluation)
        if not refusals:
            run.clock.lap("search")
            return run.designed("local search ended", architecture, evaluation, notes=notes)
        notes = [f"the checker refused a design that the search took for good: {refusals[0]}"]
        search.refuse(found.design)
    run.clock.lap("search")
    return _nothing_found(run)


def _fast_or_none(run: _Run) -> Solution:
    """LocalSearch; where that finds nothing, ask the exact model for any design, or the proof that there is none."""
    fast = _fast(run)
    if fast.status is not Status.FAILED:
        return fast
    outcome = run.exact(start=None, gap=ANY_GAP)
    if outcome.infeasible and not outcome.refused:
        return _proved_infeasible(run, outcome, fast)
    return fast if outcome.design is None else _judged(run, replace(outcome, bound=None), gap=0.0)


def _proved_infeasible(run: _Run, outcome: Certified, fast: Solution) -> Solution:
    answer = run.answer(Status.INFEASIBLE, f"proved: {outcome.stopped}", minimum_values=fast.minimum_values)
    return _with_needs(run, answer)


def _certified(run: _Run, *, gap: float) -> Solution:
    fast = _fast(run, perturbations=PERTURBATIONS if run.known else PERTURBATIONS_BEFORE_PROOF)
    if fast.status is Status.INFEASIBLE:
        return _with_needs(run, fast)
    start = None if fast.architecture is None else run.tables.encode(fast.architecture)
    outcome = run.exact(start=start, gap=gap)
    if outcome.infeasible:
        return _proved_infeasible(run, outcome, fast)
    if outcome.design is None:
        return run.answer(Status.FAILED, outcome.stopped, minimum_values=fast.minimum_values)
    return _judged(run, outcome, gap=gap)


def _judged(run: _Run, outcome: Certified, *, gap: float) -> Solution:
    """Return the design with what it is worth: certified only if checked, and within the gap of a bound above it."""
    assert outcome.design is not None
    architecture = run.tables.decode(outcome.design)
    evaluation = check.evaluate_for(run.problem, architecture, run.models)
    refusals = check.refusals(run.problem, architecture, evaluation)
    if refusals:
        return run.answer(Status.FAILED, f"the checker refused the design: {refusals[0]}")
    refused = f"the checker refused {outcome.refused} points of the solver, which were cut off"
    notes = [refused] if outcome.refused else []
    answer = run.designed(outcome.stopped, architecture, evaluation, bound=outcome.bound, notes=notes)
    if outcome.bound is None:
        return answer
    proved = 0 <= outcome.bound - evaluation.objective <= gap * evaluation.gap_scale
    return replace(answer, status=Status.CERTIFIED) if proved else answer


def _with_needs(run: _Run, answer: Solution) -> Solution:
    """Return an infeasible answer with what each limit would need given the others."""
    threads, deadline = run.settings.threads, run.deadline
    needs = Infeasibility(run.tables, run.models, threads=threads, deadline=deadline).minimum_values()
    run.clock.lap("smallest values given the others")
    notes = answer.notes if needs else (*answer.notes, "what each limit would need given the others was not found")
    return replace(
        answer,
        minimum_values=needs or answer.minimum_values,
        notes=notes,
        timings_ms=tuple(run.clock.laps),
    )


def _nothing_found(run: _Run) -> Solution:
    """Return that limits cannot be kept where one of them cannot even alone, else only that nothing was found."""
    smallest = [(limit, limit.smallest().value) for limit in limited(run.tables)]
    run.clock.lap("smallest values")
    values = tuple(
        limit.minimum_value(value, proved=True)
        for limit, value in smallest
        if limit.is_broken(value) or limit.name in run.problem.limits.named()
    )
    broken = [f"{limit.name} cannot go below {value:.6g}" for limit, value in smallest if limit.is_broken(value)]
    if broken:
        return run.answer(Status.INFEASIBLE, "; ".join(broken), minimum_values=values)
    stopped = "no design was found that keeps all limits at once, though each alone can be kept"
    return run.answer(Status.FAILED, stopped, minimum_values=values)
