"""What a report says of results, as numbers and words: no drawing, no markup. Layer 4."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from deepmad_hw import pareto, units
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.problem import limits
from deepmad_hw.problem.solution import Evaluation, LatencyValue, Solution
from deepmad_hw.workflows.results.results import Point, Results, Row

# Training compute: one forward pass and a backward pass of twice its work, over ImageNet-1k's training images.
PASSES_PER_STEP = 3
TRAINING_IMAGES = 1_281_167
TRAINING_EPOCHS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """One network's time on one device, with what is known of its spread.

    Args:
        middle: measured median in ms, or the prediction.
        low: 10th percentile, or None.
        high: 90th percentile, or the upper value of a prediction, or None.
        p99: 99th percentile, or None.
    """

    middle: float
    low: float | None = None
    high: float | None = None
    p99: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """A point that has a network.

    Args:
        index: its position among all points.
        point: the point.
        network: the design.
        evaluation: its checked values.
        group: designs that may be compared: one group of the plan at one rho_0.
        optimal: whether no other design of its group beats it at once in every latency and in objective.
    """

    index: int
    point: Point
    network: Architecture
    evaluation: Evaluation
    group: str
    optimal: bool = True

    @property
    def name(self) -> str:
        """Return the point's name."""
        return self.point.name

    @property
    def solution(self) -> Solution:
        """Return the point's answer."""
        return self.point.solution

    @property
    def objective(self) -> float:
        """Return the checked objective."""
        return self.evaluation.objective

    @property
    def rho_limit(self) -> float | None:
        """Return the rho_0 that was asked for, if there was one."""
        return None if self.point.limits is None else self.point.limits.rho

    @property
    def depth(self) -> int:
        """Return the number of blocks."""
        return sum(stage.depth for stage in self.network.stages)

    @property
    def mean_width(self) -> float:
        """Return the channels that a block returns, on average over the blocks."""
        return sum(stage.out * stage.depth for stage in self.network.stages) / self.depth

    @property
    def macs(self) -> int:
        """Return the multiply-adds at batch 1."""
        return self.evaluation.macs

    def latency(self, table: str) -> LatencyValue | None:
        """Return what a table says of it.

        Args:
            table: the table's name.
        """
        return next((value for value in self.evaluation.latency if value.table == table), None)

    def row(self, table: str) -> Row | None:
        """Return its measurement on a table's device, or None.

        Args:
            table: the table's name.
        """
        rows = [row for row in self.point.rows if row.table in (table, None) and row.measured_ms is not None]
        return rows[-1] if rows else None

    def times(self, table: str) -> Times:
        """Return its measured times on a table's device, or else the predicted one.

        Args:
            table: a table that says something of it.
        """
        row = self.row(table)
        if row is not None and (measured := times_of(row)) is not None:
            return measured
        value = self.latency(table)
        if value is None:
            raise LookupError(table)
        return Times(middle=value.predicted_ms, low=value.predicted_ms, high=value.upper_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A quantity of a design in words.

    Args:
        label: what it is.
        value: of the design.
        limit: that was asked for, empty without one.
    """

    label: str
    value: str
    limit: str


def amounts(design: Design) -> list[Shown]:
    """Return the quantities of a design that can be limited, latencies aside.

    Args:
        design: the design.
    """
    requested = {} if design.point.limits is None else design.point.limits.named()
    return [
        Shown(
            label=quantity.label,
            value=quantity.format(quantity.value(design.evaluation)),
            limit=quantity.format(requested[name]) if name in requested else "",
        )
        for name, quantity in limits.of_design(design.evaluation).items()
    ]


def times_of(row: Row) -> Times | None:
    """Return a row's measured times, or else its predicted one, or None where it has neither.

    Args:
        row: of a bench.
    """
    if row.measured_ms is not None:
        return Times(middle=row.measured_ms, low=row.p10_ms, high=row.p90_ms, p99=row.p99_ms)
    if row.predicted_ms is not None:
        return Times(middle=row.predicted_ms, low=row.lower_ms, high=row.upper_ms)
    return None


def designs(results: Results) -> tuple[Design, ...]:
    """Return the points that have a checked network.

    Args:
        results: what is reported.
    """
    rhos = {point.limits.rho for point in results.points if point.limits is not None}
    every = [
        Design(
            index=index,
            point=point,
            network=network,
            evaluation=evaluation,
            group=_group(point, distinct_rho=len(rhos) > 1),
        )
        for index, point in enumerate(results.points)
        if (network := point.solution.architecture) is not None
        and (evaluation := point.solution.evaluation) is not None
    ]
    return tuple(_ranked(design, [rival for rival in every if rival.group == design.group]) for design in every)


def _group(point: Point, *, distinct_rho: bool) -> str:
    rho = None if point.limits is None else point.limits.rho
    parts = [point.group] if point.group else []
    if distinct_rho:
        parts.append("no limit on rho" if rho is None else f"rho_0 {number(rho)}")
    return ", ".join(parts)


def _ranked(design: Design, rivals: Sequence[Design]) -> Design:
    costs = [tuple(value.predicted_ms for value in rival.evaluation.latency) for rival in rivals]
    if len({len(cost) for cost in costs}) > 1:  # not on the same devices: nothing to compare
        return design
    best = pareto.front(costs, [rival.objective for rival in rivals])
    return replace(design, optimal=rivals.index(design) in best)


def tables(results: Results) -> tuple[str, ...]:
    """Return the names of the tables that the designs have latencies on, in their order.

    Args:
        results: what is reported.
    """
    named = (value.table for design in designs(results) for value in design.evaluation.latency)
    return tuple(dict.fromkeys(named))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One property of a family of designs.

    Args:
        title: what it is, with its unit.
        of: reads it.
    """

    title: str
    of: Callable[[Design], float]


def training_emacs(macs: float) -> float:
    """Return the multiply-adds of a usual training run, in 10^18: an estimate from the network's MACs alone.

    Args:
        macs: of one forward pass at batch 1.
    """
    return macs * PASSES_PER_STEP * TRAINING_IMAGES * TRAINING_EPOCHS / 1e18


def first_latency_ms(design: Design) -> float:
    """Return a design's time on its first table in ms, measured where it was; not a number without a table.

    Args:
        design: the design.
    """
    values = design.evaluation.latency
    return design.times(values[0].table).middle if values else math.nan


SHAPES = (
    Shape(title="depth, blocks", of=lambda design: design.depth),
    Shape(title="mean width, channels", of=lambda design: design.mean_width),
    Shape(title="GMACs", of=lambda design: design.macs / 1e9),
    Shape(title="latency, ms", of=first_latency_ms),
    Shape(title="training, EMACs", of=lambda design: training_emacs(design.macs)),
)


def at_equal_latency(shown: Sequence[Design]) -> list[list[Design]]:
    """Return the designs in families that share every budget, so that only rho_0 differs.

    Args:
        shown: designs with a limit on rho.
    """
    families: dict[tuple[float | None, ...], list[Design]] = {}
    for design in shown:
        budgets = tuple(value.budget_ms for value in design.evaluation.latency)
        families.setdefault(budgets, []).append(design)
    return list(families.values())


def number(value: float) -> str:
    """Return a number as an axis shows it: four significant digits, no exponent for everyday sizes.

    Args:
        value: the number.
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def time(value_ms: float | None) -> str:
    """Return milliseconds as a column of a table shows them, or a dash.

    Args:
        value_ms: the time, or None.
    """
    return "\u2013" if value_ms is None else f"{value_ms:.2f}"


def count(value: float | None) -> str:
    """Return a count with k, M or G, or a dash.

    Args:
        value: the count, or None.
    """
    return "\u2013" if value is None else units.format_count(value)
