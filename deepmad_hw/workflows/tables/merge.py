"""Two tables as one, and one table beside another. Layer 4."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from deepmad_hw.errors import InputFileError
from deepmad_hw.latency.measurement import LayerMeasurement, OperationMeasurement
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.layer import LayerSpec, OperationSpec
from deepmad_hw.workflows.tables.tables import MAX_CANARY_DRIFT

Row = TypeVar("Row", LayerMeasurement, OperationMeasurement)


def merge(tables: Sequence[tuple[Path, LatencyTable]], *, name: str) -> LatencyTable:
    """Return one table with the rows of several that were taken in one environment.

    Times of each table are brought to the speed that the first one's canary saw. A layer that several have measured
    keeps all samples; disturbed and failed rows give way to calm ones.

    Args:
        tables: file and content of each, at least one.
        name: of the new table.

    Raises:
        InputFileError: the tables belong to different environments, or the machine's speed has changed in between.
    """
    (_, first), *others = tables
    for path, table in others:
        _require_alike(first, table, where=str(path))
    scaled = [_at_speed_of(first, table) for _, table in tables]
    return replace(
        first,
        name=name,
        rows=_merged_rows([row for table in scaled for row in table.rows]),
        operations=_merged_rows([row for table in scaled for row in table.operations]),
        calibration=_merged_networks([network for table in scaled for network in table.calibration]),
        measured_on=max((table.measured_on for _, table in tables if table.measured_on), default=None),
        notes=(
            f"merged from {', '.join(table.name for _, table in tables)}",
            *dict.fromkeys(note for _, table in tables for note in table.notes),
        ),
    )


def _require_alike(first: LatencyTable, table: LatencyTable, *, where: str) -> None:
    differences = [*first.environment.differences(table.environment)]
    if first.fused_activations != table.fused_activations:
        differences.append("fused_activations")
    if differences:
        raise InputFileError(
            f"is of another environment than {first.name}: {'; '.join(differences)}",
            where=f"{where}:1:1",
            hint="tables of different environments stay apart; compare them with 'table diff'",
        )
    if first.canary_us and table.canary_us and abs(table.canary_us / first.canary_us - 1) > MAX_CANARY_DRIFT:
        raise InputFileError(
            f"its canary took {table.canary_us:.0f} us, that of {first.name} {first.canary_us:.0f} us",
            where=f"{where}:1:1",
            hint="the machine has changed in between; profile it again",
        )


def _at_speed_of(first: LatencyTable, table: LatencyTable) -> LatencyTable:
    if not first.canary_us or not table.canary_us or table is first:
        return table
    factor = first.canary_us / table.canary_us
    return replace(
        table,
        rows=_scaled(table.rows, factor),
        operations=_scaled(table.operations, factor),
        calibration=tuple(
            replace(
                network,
                measurement=replace(
                    network.measurement, samples_us=tuple(t * factor for t in network.measurement.samples_us)
                ),
            )
            for network in table.calibration
        ),
    )


def _scaled(rows: Sequence[Row], factor: float) -> tuple[Row, ...]:
    return tuple(replace(row, samples_us=tuple(time_us * factor for time_us in row.samples_us)) for row in rows)


def _merged_rows(rows: Sequence[Row]) -> tuple[Row, ...]:
    found: dict[LayerSpec | OperationSpec, list[Row]] = {}
    for row in rows:
        found.setdefault(row.spec, []).append(row)
    return tuple(_merged_row(same) for same in found.values())


def _merged_row(rows: Sequence[Row]) -> Row:
    best = next((status for status in ("ok", "noisy") if any(row.status == status for row in rows)), rows[0].status)
    kept = [row for row in rows if row.status == best]
    return replace(kept[0], samples_us=tuple(sample for row in kept for sample in row.samples_us))


def _merged_networks(networks: Sequence[CalibrationNetwork]) -> tuple[CalibrationNetwork, ...]:
    found: dict[Architecture, CalibrationNetwork] = {}
    for network in networks:
        known = found.get(network.architecture)
        if known is None:
            measurement = replace(network.measurement, name=f"network{len(found):03}")
            found[network.architecture] = replace(network, measurement=measurement)
        elif network.measurement.status in ("ok", known.measurement.status):
            samples_us = network.measurement.samples_us
            if known.measurement.status == network.measurement.status:
                samples_us = known.measurement.samples_us + samples_us
            measurement = replace(known.measurement, samples_us=samples_us, status=network.measurement.status)
            found[network.architecture] = replace(known, measurement=measurement)
    return tuple(found.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class RowDifference:
    """One layer that two tables have measured.

    Args:
        spec: the layer.
        first_us: its median in the first table.
        second_us: its median in the second one.
    """

    spec: LayerSpec
    first_us: float
    second_us: float

    @property
    def ratio(self) -> float:
        """Return the second time over the first."""
        return self.second_us / self.first_us


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationDifference:
    """One kind of operation outside the block families that two tables have measured.

    Args:
        kind: of operation.
        common: operations of this kind that both hold.
        ratio: median over these of the second time over the first.
    """

    kind: str
    common: int
    ratio: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TableDifference:
    """One table beside another.

    Args:
        environment: fields that differ, as ``field: this != that``.
        rows: layers that both have measured, those that differ most first.
        operations: kinds of other operations that both have measured, by name.
        only_first: layers that only the first one has measured.
        only_second: layers that only the second one has measured.
        drift: median ratio of the second to the first time, None without common rows.
        total_drift: ratio of the sums over common rows, None without.
        canary_drift: ratio of the canaries, None where a table has none.
    """

    environment: tuple[str, ...]
    rows: tuple[RowDifference, ...]
    operations: tuple[OperationDifference, ...]
    only_first: int
    only_second: int
    drift: float | None
    total_drift: float | None
    canary_drift: float | None


def difference(first: LatencyTable, second: LatencyTable) -> TableDifference:
    """Return what changed from one table to another.

    Args:
        first: the table that is compared with.
        second: the other one.
    """
    one, other = ({row.spec: row.median_us for row in table.rows if row.samples_us} for table in (first, second))
    rows = [RowDifference(spec=spec, first_us=one[spec], second_us=other[spec]) for spec in one if spec in other]
    rows.sort(key=lambda row: (-max(row.ratio, 1 / row.ratio), row.spec))
    return TableDifference(
        environment=first.environment.differences(second.environment),
        rows=tuple(rows),
        operations=_operation_differences(first, second),
        only_first=len(one) - len(rows),
        only_second=len(other) - len(rows),
        drift=statistics.median(row.ratio for row in rows) if rows else None,
        total_drift=sum(row.second_us for row in rows) / sum(row.first_us for row in rows) if rows else None,
        canary_drift=second.canary_us / first.canary_us if first.canary_us and second.canary_us else None,
    )


def _operation_differences(first: LatencyTable, second: LatencyTable) -> tuple[OperationDifference, ...]:
    one, other = ({row.spec: row.median_us for row in table.operations if row.samples_us} for table in (first, second))
    ratios: dict[str, list[float]] = {}
    for spec in one:
        if spec in other:
            ratios.setdefault(spec.kind, []).append(other[spec] / one[spec])
    return tuple(
        OperationDifference(kind=kind, common=len(found), ratio=statistics.median(found))
        for kind, found in sorted(ratios.items())
    )
