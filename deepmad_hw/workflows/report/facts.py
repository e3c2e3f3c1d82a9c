"""What a report says of results, as numbers and words: no drawing, no markup. Layer 4."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepmad_hw import pareto, units
from deepmad_hw.errors import ConfigError
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.problem import limits
from deepmad_hw.problem.problem import table_of
from deepmad_hw.problem.solution import LatencyValue, Price, Solution
from deepmad_hw.workflows.results.results import Point, Reference, Results, Row

# Training compute: one forward pass and a backward pass of twice its work, over ImageNet-1k's training images.
PASSES_PER_STEP = 3
TRAINING_IMAGES = 1_281_167
TRAINING_EPOCHS = 300
MOST_PANELS = 4
NEAR = 0.15  # latencies that far apart, as a share, are still called the same


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
        group: designs that may be compared: one group of the plan at one rho_0.
        optimal: whether no other design of its group beats it at once in every latency and in objective.
    """

    index: int
    point: Point
    network: Architecture
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
        return float(self.solution.objective or 0.0)

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
        return self.solution.evaluation.macs if self.solution.evaluation is not None else 0

    def latency(self, table: str) -> LatencyValue | None:
        """Return what a table says of it.

        Args:
            table: the table's name.
        """
        values = self.solution.evaluation.latency if self.solution.evaluation is not None else ()
        return next((value for value in values if value.table == table), None)

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
    evaluation = design.solution.evaluation
    if evaluation is None:
        return []
    asked = {} if design.point.limits is None else design.point.limits.named()
    return [
        Shown(
            label=quantity.label,
            value=quantity.format(quantity.value(evaluation)),
            limit=quantity.format(asked[name]) if name in asked else "",
        )
        for name, quantity in limits.of_design(evaluation).items()
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
    found = [
        Design(index=i, point=point, network=network, group=_group(point, distinct_rho=len(rhos) > 1))
        for i, point in enumerate(results.points)
        if (network := point.solution.architecture) is not None and point.solution.evaluation is not None
    ]
    return tuple(_ranked(found))


def _group(point: Point, *, distinct_rho: bool) -> str:
    rho = None if point.limits is None else point.limits.rho
    parts = [point.group] if point.group else []
    if distinct_rho:
        parts.append("no limit on rho" if rho is None else f"rho_0 {number(rho)}")
    return ", ".join(parts)


def _ranked(found: Sequence[Design]) -> list[Design]:
    ranked = []
    for design in found:
        rivals = [each for each in found if each.group == design.group]
        costs = [_costs(each) for each in rivals]
        if len({len(cost) for cost in costs}) > 1:  # not on the same devices: nothing to compare
            ranked.append(design)
            continue
        best = pareto.front(costs, [each.objective for each in rivals])
        optimal = rivals.index(design) in best
        ranked.append(
            Design(index=design.index, point=design.point, network=design.network, group=design.group, optimal=optimal)
        )
    return ranked


def _costs(design: Design) -> tuple[float, ...]:
    values = design.solution.evaluation.latency if design.solution.evaluation is not None else ()
    return tuple(value.predicted_ms for value in values)


def tables(results: Results) -> tuple[str, ...]:
    """Return the names of the tables that the designs have latencies on, in their order.

    Args:
        results: what is reported.
    """
    named = [
        value.table
        for design in designs(results)
        if design.solution.evaluation is not None
        for value in design.solution.evaluation.latency
    ]
    return tuple(dict.fromkeys(named))


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A network that was predicted and measured.

    Args:
        kind: ``calibration``, ``design`` or ``reference``.
        key: of its mark, ``d3`` or ``r0``; empty for a calibration network.
        name: of the network.
        predicted_ms: by its table.
        measured_ms: median.
    """

    kind: str
    key: str
    name: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """Return predicted over measured, minus one."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A reference network and the design whose latency is nearest.

    Args:
        reference: the network.
        times: its own, or None where it was neither measured nor predicted.
        design: the nearest, or None where none is near.
        design_times: of that design.
    """

    reference: Reference
    times: Times | None
    design: Design | None = None
    design_times: Times | None = None


def comparison(results: Results) -> tuple[Pair, ...]:
    """Return the reference networks in order of latency, each with the design that takes about as long.

    Args:
        results: what is reported.
    """
    pairs = [_pair(reference, designs(results), tables(results)) for reference in results.references]
    return tuple(sorted(pairs, key=lambda pair: math.inf if pair.times is None else pair.times.middle))


def _pair(reference: Reference, found: Sequence[Design], names: Sequence[str]) -> Pair:
    times = times_of(reference.row)
    table = reference.row.table or (names[0] if names else "")
    # Measured times are held against measured ones, predictions against predictions.
    measured = reference.row.measured_ms is not None
    candidates = [
        (abs(math.log(theirs.middle / times.middle)), design.index, design, theirs)
        for design in found
        if times is not None and design.latency(table) is not None and (design.row(table) is not None) == measured
        for theirs in [design.times(table)]
    ]
    distance, _, design, theirs = min(candidates, default=(math.inf, 0, None, None))
    if distance > math.log1p(NEAR):
        return Pair(reference=reference, times=times)
    return Pair(reference=reference, times=times, design=design, design_times=theirs)


def predictions(results: Results) -> tuple[Prediction, ...]:
    """Return every network of the results that was both predicted and measured.

    Args:
        results: what is reported.
    """
    rows = [("calibration", "", each.name, each) for table in results.tables for each in table.calibration]
    found = [
        Prediction(kind=kind, key=key, name=name, predicted_ms=each.predicted_ms, measured_ms=each.measured_ms)
        for kind, key, name, each in rows
    ]
    named = [("design", f"d{i}", row) for i, point in enumerate(results.points) for row in point.rows]
    named += [("reference", f"r{j}", reference.row) for j, reference in enumerate(results.references)]
    for kind, key, row in named:
        if row.predicted_ms is not None and row.measured_ms is not None:
            pair = Prediction(
                kind=kind, key=key, name=row.name, predicted_ms=row.predicted_ms, measured_ms=row.measured_ms
            )
            found.append(pair)
    return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One limit's price along the designs.

    Args:
        title: the limit.
        unit: what one more of it is.
        along: what the x axis holds.
        values: design, place on the x axis, objective per unit (0 where the limit does not bind).
    """

    title: str
    unit: str
    along: str
    values: tuple[tuple[Design, float, float], ...]


def prices(found: Sequence[Design]) -> tuple[Panel, ...]:
    """Return what one more unit of each limit would buy, along the designs; limits that never bind are left out.

    Args:
        found: the designs.
    """
    along, place = _axis(found)
    priced = _priced(found)
    several = sum(table_of(limit) is not None for limit, _ in priced) > 1
    panels = []
    for limit, unit in priced:
        values = tuple(
            (design, x, _price(design.solution.prices, limit))
            for design in found
            if (x := place(design)) is not None and design.solution.prices
        )
        panels.append(Panel(title=_limit_title(limit, several=several), unit=unit, along=along, values=values))
    return tuple(panels[:MOST_PANELS])


def _priced(found: Sequence[Design]) -> list[tuple[str, str]]:
    """Return the limits whose prices are drawn, latencies first, with the step of each price."""
    order = ["", *limits.QUANTITIES]
    binding = {
        (name, price.unit)
        for design in found
        for price in design.solution.prices
        if price.binding and (name := _limited(price.limit)) is not None
    }
    return sorted(binding, key=lambda item: (order.index("" if table_of(item[0]) else item[0]), item[0]))


def _limited(limit: str) -> str | None:
    """Return the limit that a price is about (rho has one at every scale), None for a rule of the space."""
    try:
        return limits.quantity(limit).name
    except ConfigError:
        return None


def _limit_title(limit: str, *, several: bool) -> str:
    return limits.quantity(limit).title if several or table_of(limit) is None else "latency"


def _price(found: Sequence[Price], limit: str) -> float:
    """Return a limit's price; rho counts at its dearest scale."""
    matching = [price.objective_per_unit for price in found if _limited(price.limit) == limit and price.binding]
    return max(matching, default=0.0)


def _axis(found: Sequence[Design]) -> tuple[str, Callable[[Design], float | None]]:
    """Return what differs most between designs and how to read it: the first budget, rho_0, or the MACs."""
    budgets = {_budget_ms(design) for design in found}
    rhos = {design.rho_limit for design in found}
    if len(budgets) > 1 and None not in budgets:
        return "latency budget in ms", _budget_ms
    if len(rhos) > 1 and None not in rhos:
        return "rho_0", lambda design: design.rho_limit
    return "GMACs", lambda design: design.macs / 1e9


def _budget_ms(design: Design) -> float | None:
    values = design.solution.evaluation.latency if design.solution.evaluation is not None else ()
    return values[0].budget_ms if values else None


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
    values = design.solution.evaluation.latency if design.solution.evaluation is not None else ()
    return design.times(values[0].table).middle if values else float("nan")


SHAPES = (
    Shape(title="depth, blocks", of=lambda design: design.depth),
    Shape(title="mean width, channels", of=lambda design: design.mean_width),
    Shape(title="GMACs", of=lambda design: design.macs / 1e9),
    Shape(title="latency, ms", of=first_latency_ms),
    Shape(title="training, EMACs", of=lambda design: training_emacs(design.macs)),
)


def at_equal_latency(found: Sequence[Design]) -> list[list[Design]]:
    """Return the designs in families that share every budget, so that only rho_0 differs.

    Args:
        found: designs with a limit on rho.
    """
    families: dict[tuple[float | None, ...], list[Design]] = {}
    for design in found:
        values = design.solution.evaluation.latency if design.solution.evaluation is not None else ()
        families.setdefault(tuple(value.budget_ms for value in values), []).append(design)
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
