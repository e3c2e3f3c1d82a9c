"""Networks of a report held against others: references against designs, predicted against measured. Layer 4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deepmad_hw.workflows.report.facts import Design, Times, designs, tables, times_of
from deepmad_hw.workflows.results.results import Reference, Results

NEAR = 0.15  # latencies that far apart, as a share, are still called the same


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


def _pair(reference: Reference, shown: Sequence[Design], names: Sequence[str]) -> Pair:
    times = times_of(reference.row)
    table = reference.row.table or (names[0] if names else "")
    # Measured times are held against measured ones, predictions against predictions.
    measured = reference.row.measured_ms is not None
    candidates = [
        (abs(math.log(theirs.middle / times.middle)), design.index, design, theirs)
        for design in shown
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
    rows = [("design", f"d{index}", row) for index, point in enumerate(results.points) for row in point.rows]
    rows += [("reference", f"r{index}", reference.row) for index, reference in enumerate(results.references)]
    times = [
        ("calibration", "", network.name, network.predicted_ms, network.measured_ms)
        for table in results.tables
        for network in table.calibration
    ]
    times += [
        (kind, key, row.name, row.predicted_ms, row.measured_ms)
        for kind, key, row in rows
        if row.predicted_ms is not None and row.measured_ms is not None
    ]
    return tuple(
        Prediction(kind=kind, key=key, name=name, predicted_ms=predicted_ms, measured_ms=measured_ms)
        for kind, key, name, predicted_ms, measured_ms in times
    )
