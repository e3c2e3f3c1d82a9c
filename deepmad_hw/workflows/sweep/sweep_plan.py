"""Which points a sweep has, and which point's design starts the search of which. Layer 4.

Points of one line differ in how large their budgets are and in nothing else. They are solved from the smallest budget
to the largest: a design keeps every larger budget too, so it starts the next search as it is, and no point of the line
can be worth less than the one before it. (Downwards, a design breaks the next budget and has to be repaired first.)

A line is cut into chains of at most `CHAIN_POINTS`, which run side by side. Where it is cut depends on nothing but the
number of points, so results are the same however many processes there are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from deepmad_hw.errors import ConfigError
from deepmad_hw.problem.limits import QUANTITIES
from deepmad_hw.problem.objective import Objective
from deepmad_hw.problem.problem import Limits
from deepmad_hw.problem.settings import Settings
from deepmad_hw.workflows.design.design import Question

CHAIN_POINTS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One point: a question with a name.

    Args:
        name: short and distinct, such as ``25ms``.
        question: the problem and its tables.
        group: points of one group make one line.
    """

    name: str
    question: Question
    group: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All points of a sweep.

    Args:
        name: of the sweep.
        lines: points whose budgets grow, one line per group.
        settings: how each is solved.
    """

    name: str
    lines: tuple[tuple[Asked, ...], ...]
    settings: Settings = Settings()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        """Refuse a plan without points, points of one name, and lines along which a budget shrinks."""
        names = [asked.name for line in self.lines for asked in line]
        if not names:
            raise ConfigError("a sweep needs at least one point")
        for name in names:
            if names.count(name) > 1:
                raise ConfigError("two points of one name", where=name)
        if len({asked.question.problem.worth.unit for asked in self.points}) > 1:
            raise ConfigError(
                "objectives of different units in one sweep", where="objective", hint="sweep them one after the other"
            )
        if self.settings.solver_log is not None:
            raise ConfigError("points that are solved side by side share no log", where="solver_log")
        for line in self.lines:
            for smaller, larger in pairwise(line):
                _require_growth(smaller, larger)

    @property
    def objective(self) -> Objective | None:
        """Return what all points maximise, None for DeepMAD's objective and for different ones."""
        found = [asked.question.problem.objective for asked in self.points]
        return found[0] if found.count(found[0]) == len(found) else None

    @property
    def points(self) -> tuple[Asked, ...]:
        """Return every point, line by line."""
        return tuple(asked for line in self.lines for asked in line)

    @property
    def chains(self) -> tuple[tuple[Asked, ...], ...]:
        """Return the points in runs that are solved one after the other."""
        return tuple(chain for line in self.lines for chain in _cut(line))


def line(questions: Sequence[tuple[str, Question]], *, group: str = "") -> tuple[Asked, ...]:
    """Return named questions as a line, the smallest budgets first.

    Args:
        questions: (name, question), in any order.
        group: of the line; it stands before each name.
    """
    ordered = sorted(questions, key=lambda named: _values(named[1].problem.limits))
    start = f"{_plain(group)}-" if group else ""
    return tuple(
        Asked(name=start + (_plain(name) or "design"), question=question, group=group) for name, question in ordered
    )


def each_device(points: Sequence[Asked]) -> tuple[tuple[Asked, ...], ...]:
    """Return, for points with budgets on several devices, lines of the best designs for one device alone.

    Args:
        points: a line.

    Raises:
        ConfigError: the points have a budget on one device only.
    """
    tables = [limit.table for limit in points[0].question.problem.limits.latency]
    if len(tables) < 2:
        raise ConfigError("there is one device only", where="--each-device", hint="give several --latency TABLE=BUDGET")
    lines = []
    for table in tables:
        alone = [
            replace(asked, name=f"{_plain(table)}-only-{asked.name}", group=own_group(table, asked.group))
            for asked in points
        ]
        lines.append(tuple(replace(asked, question=_only(asked.question, table)) for asked in alone))
    return tuple(lines)


def own_group(table: str, group: str) -> str:
    """Return the group of the designs for one device alone.

    Args:
        table: of the device.
        group: of the designs that all devices share.
    """
    return f"{group}, {table} only" if group else f"{table} only"


def _only(question: Question, table: str) -> Question:
    limits = question.problem.limits
    kept = replace(limits, latency=tuple(limit for limit in limits.latency if limit.table == table))
    return replace(
        question,
        problem=replace(question.problem, limits=kept),
        models={table: question.models[table]},
        tables={table: question.tables[table]},
    )


def _cut(points: tuple[Asked, ...]) -> list[tuple[Asked, ...]]:
    chains = -(-len(points) // CHAIN_POINTS)
    ends = [round(len(points) * chain / chains) for chain in range(chains + 1)]
    return [points[start:end] for start, end in pairwise(ends)]


def _values(limits: Limits) -> tuple[float, ...]:
    """Return every limit as a number, a quantity without one as endless."""
    named, budgets_ms = limits.named(), [limit.budget_ms for limit in limits.latency]
    return (*budgets_ms, *(named.get(name, float("inf")) for name in QUANTITIES))


def _require_growth(smaller: Asked, larger: Asked) -> None:
    before, after = (asked.question.problem.limits for asked in (smaller, larger))
    if any(a > b for a, b in zip(_values(before), _values(after), strict=True)):
        raise ConfigError(
            f"one budget grows and another shrinks from {smaller.name} to {larger.name}",
            where="sweep",
            hint="give all ranges in one order, or sweep them one after the other",
        )


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+]+", "-", text).strip("-.")


def table_paths(plan: Plan) -> dict[str, Path]:
    """Return the file of every table of a plan, by table name.

    Args:
        plan: the plan.

    Raises:
        ConfigError: two of them have one name.
    """
    found: dict[str, Path] = {}
    for asked in plan.points:
        for name, path in asked.question.tables.items():
            if found.setdefault(name, path).resolve() != path.resolve():
                raise ConfigError(f"two tables are called {name!r}", where=str(path), hint="rename one of the files")
    return found
