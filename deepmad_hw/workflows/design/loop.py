"""The measured loop: solve, measure, correct what the table predicts, solve again. Layer 4.

A table's prediction of one design is off by a few per cent, and nearly the same for its neighbours. So each round asks
for a budget scaled by what the round before was off by, until the device itself says that the budget is kept and used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deepmad_hw.errors import ConfigError, ForeignTableError, TooNoisyError
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.problem.problem import LatencyLimit, Problem
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import LatencyValue, Solution
from deepmad_hw.workflows.design.design import Question, solved
from deepmad_hw.workflows.results.results import Round, Row

LOWEST_SHARE, HIGHEST_SHARE = 0.97, 1.0  # of the budget, that the measured median shall lie between
AIMED_SHARE = 0.985
MOST_ROUNDS = 5
BINDING_SHARE = 0.97  # of what was asked; a design that leaves more is held down by something else

Measure = Callable[[Architecture, str, Path], Row]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a measured loop ended with.

    Args:
        question: with the budgets that the design was found for.
        solution: the design.
        rounds: every round, one entry per table that belongs to this machine.
        rows: measurements of the design, one per such table.
        ended: why there was no further round.
        too_noisy: whether that was because the machine was too noisy to measure another one.
    """

    question: Question
    solution: Solution
    rounds: tuple[Round, ...]
    rows: tuple[Row, ...]
    ended: str
    too_noisy: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tried:
    """One round: a problem, its answer and what it takes."""

    problem: Problem
    solution: Solution
    rows: Mapping[str, Row]
    shares: Mapping[str, float]

    @property
    def kept(self) -> bool:
        """Return whether every budget was kept."""
        return all(share <= HIGHEST_SHARE for share in self.shares.values())

    @property
    def worth(self) -> tuple[bool, float]:
        """Return what to prefer a round by: budgets kept, then the objective, else how little they are exceeded."""
        excess = -max(self.shares.values())
        return self.kept, (self.solution.objective or 0.0) if self.kept else excess


def measured_loop(
    question: Question,
    *,
    point: str,
    settings: Settings,
    first: Solution | None = None,
    measure: Measure | None = None,
    most_rounds: int = MOST_ROUNDS,
    on_round: Callable[[Round], None] = lambda round_: None,
) -> Measured:
    """Return a design whose measured median keeps its budgets and uses them.

    Times are compared at the speed that the machine had when the table was made, as its canary tells.

    Args:
        question: with a budget on a table of this machine at least; other tables' budgets stay as they are.
        point: name for the rounds.
        settings: of every solve.
        first: the answer to the question, if it is known.
        measure: times a design (name, table's file); None takes this machine.
        most_rounds: after which the best design so far is returned.
        on_round: told after each round.

    Raises:
        ConfigError: there is no latency limit.
        ForeignTableError: no table belongs to this machine.
    """
    budgets_ms = {limit.table: limit.budget_ms for limit in question.problem.limits.latency}
    if not budgets_ms:
        raise ConfigError("nothing to measure against", where="--measure", hint="give a budget: --latency TABLE=25ms")
    timed = measure or measure_here
    problem, solution = question.problem, first or _solve(question.problem, question, settings, None)
    rounds: list[Round] = []
    tried: list[_Tried] = []
    ended, too_noisy = f"{most_rounds} rounds have passed", False
    for number in range(1, most_rounds + 1):
        if solution.architecture is None or solution.evaluation is None:
            ended = f"no design was found: {solution.stopped}"
            break
        try:
            rows = _rows(solution.architecture, point, question, timed)
        except TooNoisyError as error:
            ended, too_noisy = str(error), True
            break
        shares = {table: _at_tables_speed_ms(row) / budgets_ms[table] for table, row in rows.items()}
        this = _Tried(problem=problem, solution=solution, rows=rows, shares=shares)
        tried.append(this)
        for told in _rounds(this, point, number):
            rounds.append(told)
            on_round(told)
        over = _verdict(this)
        if over is not None or number == most_rounds:
            ended = over or ended
            break
        problem = _corrected(tried, question.problem)
        solution = _solve(problem, question, settings, solution.architecture)
        if solution.architecture == this.solution.architecture and this.kept:
            ended = "the next larger budget has the same design"
            break
    if not tried:
        return Measured(question=question, solution=solution, rounds=(), rows=(), ended=ended, too_noisy=too_noisy)
    best = max(tried, key=lambda each: each.worth)
    return Measured(
        question=replace(question, problem=best.problem),
        solution=replace(best.solution, notes=(*best.solution.notes, _note(best, budgets_ms, ended))),
        rounds=tuple(rounds),
        rows=tuple(best.rows.values()),
        ended=ended,
        too_noisy=too_noisy,
    )


def _verdict(tried: _Tried) -> str | None:
    """Return why a round is the last one, or None."""
    if not tried.kept:
        return None
    if max(tried.shares.values()) >= LOWEST_SHARE:
        return "the budget is kept and used"
    return None if _binds(tried) else "latency does not bind"


def _solve(problem: Problem, question: Question, settings: Settings, known: Architecture | None) -> Solution:
    return solved(problem, question.models, settings, known=() if known is None else (known,))


def _rows(architecture: Architecture, point: str, question: Question, measure: Measure) -> dict[str, Row]:
    """Return a measurement per table that belongs to this machine."""
    found: dict[str, Row] = {}
    foreign: ForeignTableError | None = None
    for limit in question.problem.limits.latency:
        try:
            row = measure(architecture, point, question.tables[limit.table])
        except ForeignTableError as error:
            foreign = error
            continue
        found[limit.table] = replace(row, table=limit.table)
    if not found and foreign is not None:
        raise foreign
    return found


def measure_here(architecture: Architecture, name: str, table: Path) -> Row:
    """Return what a design takes on this machine.

    Args:
        architecture: the design.
        name: what to call it.
        table: whose runtime and settings are used.

    Raises:
        ForeignTableError: the table was not taken on this machine.
        TooNoisyError: the design was disturbed whenever it was measured.
    """
    from deepmad_hw.workflows.bench.bench import bench, of_graph, require_sure
    from deepmad_hw.workflows.bench.rows import row_of
    from deepmad_hw.workflows.networks.networks import from_architecture

    (row,) = bench([of_graph(from_architecture(architecture, name=name).graph)], table=table)
    require_sure([row])
    return row_of(row, table=None)


def _at_tables_speed_ms(row: Row) -> float:
    if row.measured_ms is None:
        raise ConfigError("was not measured", where=row.name)
    return row.measured_ms / (row.drift or 1.0)


def _rounds(tried: _Tried, point: str, number: int) -> list[Round]:
    asked_ms = {limit.table: limit.budget_ms for limit in tried.problem.limits.latency}
    return [
        Round(
            point=point,
            number=number,
            table=table,
            asked_ms=asked_ms[table],
            predicted_ms=_value(tried.solution, table).predicted_ms,
            measured_ms=_at_tables_speed_ms(row),
            objective=tried.solution.objective or 0.0,
        )
        for table, row in tried.rows.items()
    ]


def _value(solution: Solution, table: str) -> LatencyValue:
    values = solution.evaluation.latency if solution.evaluation is not None else ()
    return next(value for value in values if value.table == table)


def _allowed_ms(solution: Solution, table: str) -> float:
    """Return what of a design is held against its budget."""
    value = _value(solution, table)
    return value.upper_ms if value.upper_ms is not None else value.predicted_ms


def _binds(tried: _Tried) -> bool:
    return any(
        _allowed_ms(tried.solution, limit.table) >= BINDING_SHARE * limit.budget_ms
        for limit in tried.problem.limits.latency
    )


def _corrected(tried: list[_Tried], problem: Problem) -> Problem:
    """Return the problem with budgets that the last round says would be measured as aimed at."""
    limits = [
        limit if limit.table not in tried[-1].shares else _corrected_limit(tried, limit.table)
        for limit in problem.limits.latency
    ]
    return replace(problem, limits=replace(problem.limits, latency=tuple(limits)))


def _corrected_limit(tried: list[_Tried], table: str) -> LatencyLimit:
    asked_ms = [_allowed_ms(each.solution, table) for each in tried]
    shares = [each.shares[table] for each in tried]
    next_ms = asked_ms[-1] * AIMED_SHARE / shares[-1]
    # What was too much stays too much, and what was too little too little, or rounds would chase the noise.
    over = [ms for ms, share in zip(asked_ms, shares, strict=True) if share > HIGHEST_SHARE]
    under = [ms for ms, share in zip(asked_ms, shares, strict=True) if share < LOWEST_SHARE]
    if over and under and max(under) < min(over):
        low_ms, span = max(under), min(over) / max(under)
        next_ms = min(max(next_ms, low_ms * span**0.25), low_ms * span**0.75)
    return LatencyLimit(table=table, budget_ms=float(f"{next_ms:.6g}"))


def _note(best: _Tried, budgets_ms: Mapping[str, float], ended: str) -> str:
    told = [
        f"{table} {share * budgets_ms[table]:.4g} ms measured of {budgets_ms[table]:.4g} ms"
        for table, share in best.shares.items()
    ]
    return f"measured loop: {'; '.join(told)}; {ended}"
