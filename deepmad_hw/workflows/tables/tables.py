"""Latency tables as models: load one, hold it against this machine, check that it can be true. Layer 4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepmad_hw.errors import ForeignTableError, InputFileError
from deepmad_hw.exporters.probes import PackedProbe, canary, write_plan
from deepmad_hw.formats.serde_table import read_table
from deepmad_hw.latency.measurement import Environment, LayerMeasurement
from deepmad_hw.latency.model import CONFIDENCE
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.network import costs
from deepmad_hw.predict.network import TableModel
from deepmad_hw.predict.odd import MIN_ROWS
from profilers import backend as backends
from profilers import samples
from profilers.backend import Settings
from profilers.journal import Unit, device_lock
from profilers.plan import read_plan

# The canary of an unchanged machine wanders by 5 to 10 % within minutes on shared hosts.
MAX_CANARY_DRIFT = 0.15
CANARY_RUNS_OF_CHECK = 200
# No device multiplies faster, and no memory carries more, than this; a table that implies it has another unit.
MAX_GMACS_PER_S = 1e5
MAX_GBYTES_PER_S = 1e4
# What one thread of a processor can do at the very most: registers of 512 bits, matrix units (two thousand bytes a
# cycle, half as many of 16 bits), first-level caches.
MAX_GMACS_PER_S_OF_THREAD = {"fp32": 500.0, "fp16": 2000.0, "int8": 4000.0}
# Registers of 128 bits without wider units: four floats, four units, 4 GHz; int8 takes four times as many values.
MAX_GMACS_PER_S_OF_NARROW_THREAD = {"fp32": 100.0, "fp16": 200.0, "int8": 400.0}
WIDE_ARM_UNITS = frozenset(("sve", "sve2", "sme", "i8mm"))
MAX_GBYTES_PER_S_OF_THREAD = 500.0
# Large convolutions reach a sensible share of any device's peak, so a table whose best is less has another unit too.
MIN_BEST_GMACS_PER_S = {"avx2": 1.0, "asimd": 0.1}  # by instruction set
MIN_BEST_GMACS_PER_S_ELSEWHERE = 0.02
MIN_BEST_GMACS_PER_S_OF_CARD = 50.0  # the smallest that CUDA runs on today have a peak of some 250
CARD_RUNTIMES = ("tensorrt", "torch_cuda", "torch_cuda_eager", "rtx")
# The best layer against the canary: seen 1.7 (x86). The band is narrower than 1000, so of a table and the same table
# with its rows in milliseconds at most one passes.
MAX_BEST_OVER_CANARY = 30.0
# One layer against the table's own best speeds: seen up to 20 (average pools on CPUs), 90 (a card), and 370 in a few of
# a card's rows, where its runtime had no other kernel.
MAX_SLOWNESS = 200.0
LAYER_OVERHEAD_US = 2.0  # of the slowness: what a layer without work may take
# A unit is a matter of the whole table: so many of its rows may have impossible times, which `TableModel` then leaves
# out if they are odd among their neighbours. The best speeds are those that as many rows exceed.
MAX_WRONG_SHARE = 0.01
MIN_ROWS_FOR_WRONG = 20  # tables of fewer rows may have none


def load_model(path: Path, *, confidence: float = CONFIDENCE) -> TableModel:
    """Return a table as a model of networks.

    Args:
        path: the table's CSV.
        confidence: of its intervals.

    Raises:
        InputFileError: the table is missing or damaged, or its times are impossible.
    """
    return model_of(load_table(path), where=str(path), confidence=confidence)


def model_of(table: LatencyTable, *, where: str, confidence: float = CONFIDENCE) -> TableModel:
    """Return a possible table as a model of networks.

    Args:
        table: what was read.
        where: its file, for messages.
        confidence: of its intervals.

    Raises:
        InputFileError: a row's time is impossible, and the rows around it do not say what it should be.
    """
    model = TableModel(table, confidence=confidence)
    left_out = {row.spec for row in model.odd_rows}
    for row in _timed(table, where):
        if row.measured.spec not in left_out and _unreachable(row, table.environment):
            raise _unreachable_error(row)
    return model


def load_table(path: Path) -> LatencyTable:
    """Return a table whose times are possible.

    Args:
        path: the table's CSV.

    Raises:
        InputFileError: the table is missing or damaged, or its times are impossible.
    """
    table = read_table(path)
    require_possible(table, where=str(path))
    return table


def require_possible(table: LatencyTable, *, where: str) -> None:
    """Refuse a table whose times imply speeds that its device cannot have, most often because of another unit.

    Args:
        table: what was read.
        where: its file, for messages.

    Raises:
        InputFileError: the speeds are impossible.
    """
    rows = _timed(table, where)
    if not rows:
        return
    unreachable = [row for row in rows if _unreachable(row, table.environment)]
    _require_few(unreachable, rows, _unreachable_error)
    best = _Speed(gmacs_per_s=_best([r.gmacs_per_s for r in rows]), gbytes_per_s=_best([r.gbytes_per_s for r in rows]))
    _require_worthy(table, best, where=where)
    _require_few([row for row in rows if _slowness(row, best) > MAX_SLOWNESS], rows, lambda row: _slow_error(row, best))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Speed:
    """What a time implies: multiply-adds per second, and values of activations and weights moved per second."""

    gmacs_per_s: float
    gbytes_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _TimedRow(_Speed):
    """A measured row, its place in its file, and what its time implies."""

    measured: LayerMeasurement
    place: str


def _timed(table: LatencyTable, where: str) -> list[_TimedRow]:
    return [
        _timed_row(row, table.environment.batch, f"{where}:{number}:median_us")
        for number, row in enumerate(table.rows, start=2)
        if row.samples_us
    ]


def _timed_row(row: LayerMeasurement, batch: int, place: str) -> _TimedRow:
    spec = row.spec
    values = spec.in_channels * spec.height * spec.width + spec.out_channels * spec.out_height * spec.out_width
    moved_bytes = (values * batch + costs.layer_weights(spec)) * costs.FLOAT32_BYTES
    return _TimedRow(
        measured=row,
        place=place,
        gmacs_per_s=costs.layer_macs(spec) * batch / (row.median_us * 1e3),
        gbytes_per_s=moved_bytes / (row.median_us * 1e3),
    )


def _best(speeds: Sequence[float]) -> float:
    """Return the highest speed of a table but for those of a few rows that may be wrong."""
    return sorted(speeds, reverse=True)[_allowed(len(speeds))]


def _allowed(rows: int) -> int:
    """Return how many of a table's rows may be wrong."""
    return max(1, int(MAX_WRONG_SHARE * rows)) if rows >= MIN_ROWS_FOR_WRONG else 0


def _require_few(
    wrong: Sequence[_TimedRow], rows: Sequence[_TimedRow], error: Callable[[_TimedRow], InputFileError]
) -> None:
    """Refuse a table of which too many rows are wrong, or one of an operation with too few rows to say that it is."""
    if len(wrong) > _allowed(len(rows)):
        raise error(wrong[0])
    counts = Counter(_operation(row) for row in rows)
    for row in wrong:
        if counts[_operation(row)] < MIN_ROWS:
            raise error(row)


def _operation(row: _TimedRow) -> tuple[str, bool]:
    return row.measured.spec.op, row.measured.spec.depthwise


def _slowness(row: _TimedRow, best: _Speed) -> float:
    busy = row.gmacs_per_s / (best.gmacs_per_s or 1.0) + row.gbytes_per_s / best.gbytes_per_s
    return 1 / (busy + LAYER_OVERHEAD_US / row.measured.median_us)


def _slow_error(row: _TimedRow, best: _Speed) -> InputFileError:
    return InputFileError(
        f"{row.measured.spec} in {row.measured.median_us:.4g} us is {_slowness(row, best):.0f} times slower "
        "than the table's best layers",
        where=row.place,
        hint="times must be in microseconds",
    )


def _unreachable(row: _TimedRow, environment: Environment) -> bool:
    processor = bool(environment.features)  # instruction sets are told of processors only
    narrow = "asimd" in environment.features and not WIDE_ARM_UNITS.intersection(environment.features)
    of_thread = MAX_GMACS_PER_S_OF_NARROW_THREAD if narrow else MAX_GMACS_PER_S_OF_THREAD
    max_gmacs_per_s = of_thread[environment.precision] * environment.threads if processor else MAX_GMACS_PER_S
    max_gbytes_per_s = MAX_GBYTES_PER_S_OF_THREAD * environment.threads if processor else MAX_GBYTES_PER_S
    return row.gmacs_per_s > max_gmacs_per_s or row.gbytes_per_s > max_gbytes_per_s


def _unreachable_error(row: _TimedRow) -> InputFileError:
    return InputFileError(
        f"{row.measured.spec} in {row.measured.median_us:.4g} us implies {row.gmacs_per_s:.3g} GMAC/s "
        f"and {row.gbytes_per_s:.3g} GB/s",
        where=row.place,
        hint="times must be in microseconds",
    )


def _require_worthy(table: LatencyTable, best: _Speed, *, where: str) -> None:
    if not best.gmacs_per_s:  # pools and the like only
        return
    least = max(
        (speed for name, speed in MIN_BEST_GMACS_PER_S.items() if name in table.environment.features),
        default=MIN_BEST_GMACS_PER_S_ELSEWHERE,
    )
    if table.environment.runtime in CARD_RUNTIMES:
        least = MIN_BEST_GMACS_PER_S_OF_CARD
    if best.gmacs_per_s < least:
        raise InputFileError(
            f"its fastest layer reaches {best.gmacs_per_s:.3g} GMAC/s only",
            where=f"{where}:1:median_us",
            hint="times must be in microseconds",
        )
    if table.canary_us is None:
        return
    canary_gmacs_per_s = costs.macs(canary()) * table.environment.batch / (table.canary_us * 1e3)
    ratio = best.gmacs_per_s / canary_gmacs_per_s
    if not 1 / MAX_BEST_OVER_CANARY <= ratio <= MAX_BEST_OVER_CANARY:
        raise InputFileError(
            f"its fastest layer reaches {best.gmacs_per_s:.3g} GMAC/s, its canary {canary_gmacs_per_s:.3g}",
            where=f"{where}:1:median_us",
            hint="times must be in microseconds",
        )


def require_this_machine(table: LatencyTable, found: Environment, *, where: str) -> None:
    """Refuse a table that was not taken in this environment.

    Args:
        table: the table.
        found: the environment here.
        where: the table's file, for messages.

    Raises:
        ForeignTableError: naming every field that differs.
    """
    differences = table.environment.differences(found)
    if differences:
        raise ForeignTableError(
            f"the table was not taken here: {'; '.join(differences)}",
            where=where,
            hint="profile this machine, or compare where the table belongs",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TableCheck:
    """What checking a table on this machine showed.

    Args:
        rows: measured rows.
        failed_rows: rows without a time.
        noisy_rows: rows whose times were disturbed.
        odd_rows: rows that lie so far from those around them that no prediction uses them.
        margin: of the table's network predictions, or None.
        canary_us: what the canary takes now.
        drift: that over what it took when the table was made, or None where the table does not say.
    """

    rows: int
    failed_rows: int
    noisy_rows: int
    odd_rows: int
    margin: float | None
    canary_us: float
    drift: float | None


def check_table(path: Path, *, folder: Path) -> TableCheck:
    """Hold a table against this machine: possible times, same environment, same speed.

    Args:
        path: the table's CSV.
        folder: for the canary's files.

    Raises:
        InputFileError: the table is damaged or impossible.
        ForeignTableError: it was taken elsewhere, or the machine's speed has changed.
        MissingExtraError: its runtime is not installed.
        DeviceLostError: something else is being measured.
    """
    model = load_model(path)
    table = model.table
    canary_us = _canary_now_us(table, folder, where=str(path))
    drift = canary_us / table.canary_us if table.canary_us else None
    if drift is not None and abs(drift - 1) > MAX_CANARY_DRIFT:
        raise ForeignTableError(
            f"the canary takes {canary_us:.0f} us now and took {table.canary_us:.0f} us then ({drift - 1:+.0%})",
            where=str(path),
            hint="the machine has changed or is busy; profile again when it is calm",
        )
    return TableCheck(
        rows=sum(bool(row.samples_us) for row in table.rows),
        failed_rows=sum(not row.samples_us for row in table.rows),
        noisy_rows=sum(row.status == "noisy" for row in table.rows),
        odd_rows=len(model.odd_rows),
        margin=model.margin,
        canary_us=canary_us,
        drift=drift,
    )


def _canary_now_us(table: LatencyTable, folder: Path, *, where: str) -> float:
    """Return what the canary takes on this machine in the table's setting, found as it was for the table."""
    environment = table.environment
    alone = [PackedProbe(name="check", graph=replace(canary(), name="check"))]
    write_plan(folder, alone, batch=environment.batch, precision=environment.precision)
    plan = read_plan(folder)
    settings = Settings(runtime=environment.runtime, threads=environment.threads)
    backend = backends.get(settings.runtime)
    require_this_machine(table, backend.environment(plan, settings), where=where)
    with device_lock("cpu"):
        session = backend.load(plan, plan.canary, settings, profiled=False)
        times_us = tuple(session.run() for _ in range(CANARY_RUNS_OF_CHECK))
    return samples.canary_level_us(Unit(probe="check", round=0, canary_us=times_us))
