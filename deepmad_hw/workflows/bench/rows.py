"""A row of a bench as results keep it. Layer 4."""

from __future__ import annotations

from dataclasses import replace

from deepmad_hw.workflows.bench.bench import BenchRow
from deepmad_hw.workflows.results.results import Row


def row_of(row: BenchRow, *, table: str | None) -> Row:
    """Return a row of a bench as results keep it.

    Args:
        row: of a bench.
        table: name of the table that it was predicted with, or None.
    """
    found = Row(
        name=row.name,
        table=table,
        predicted_ms=row.predicted_ms,
        lower_ms=row.lower_ms,
        upper_ms=row.upper_ms,
        uncovered=row.uncovered,
        status=row.status,
        reason=row.reason,
        drift=row.drift,
    )
    measured = row.measurement
    if measured is None:
        return found
    p10_ms, p90_ms, p99_ms = (measured.percentile_us(percent) / 1e3 for percent in (10, 90, 99))
    return replace(
        found,
        measured_ms=measured.median_us / 1e3,
        p10_ms=p10_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        samples=len(measured.samples_us),
        relative_error=measured.relative_error,
        status=row.status or measured.status,
    )
