"""Latency tables as models: load one, hold it against this machine, check that it can be true. Layer 4."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deepmad_hw import costs
from deepmad_hw.errors import ForeignTableError, InputFileError
from deepmad_hw.exporters.probes import PackedProbe, canary, write_plan
from deepmad_hw.measurement import Environment
from deepmad_hw.predict.network import TableModel
from deepmad_hw.serde_table import read_table
from deepmad_hw.table import LatencyTable
from profilers import backend as backends
from profilers.backend import Settings
from profilers.plan import read_plan

# The canary of an unchanged machine wanders by 5 to 10 % within minutes on shared hosts.
MAX_CANARY_DRIFT = 0.15
# No processor core does more, and no memory carries more, than this; a table that implies it has another unit.
MAX_GMACS_PER_S = 1e5
MAX_GBYTES_PER_S = 1e4
# Large convolutions reach a sensible share of any device's peak, so less than this is another unit too.
MIN_BEST_GMACS_PER_S = 0.02


def load_model(path: Path) -> TableModel:
    """Return a table as a model of networks.

    Args:
        path: the table's CSV.

    Raises:
        InputFileError: the table is missing or damaged, or its times are impossible.
    """
    table = read_table(path)
    require_possible(table, where=str(path))
    return TableModel(table)


def require_possible(table: LatencyTable, *, where: str) -> None:
    """Refuse a table whose times imply speeds that no device has, most often because of another unit.

    Args:
        table: what was read.
        where: its file, for messages.

    Raises:
        InputFileError: the speeds are impossible.
    """
    best = 0.0
    for row in table.rows:
        if not row.samples_us:
            continue
        spec = row.spec
        values = spec.in_channels * spec.height * spec.width + spec.out_channels * spec.out_height * spec.out_width
        gbytes_per_s = values * costs.FLOAT32_BYTES * table.environment.batch / (row.median_us * 1e3)
        gmacs_per_s = costs.layer_macs(spec) * table.environment.batch / (row.median_us * 1e3)
        best = max(best, gmacs_per_s)
        if gmacs_per_s > MAX_GMACS_PER_S or gbytes_per_s > MAX_GBYTES_PER_S:
            raise InputFileError(
                f"{spec} in {row.median_us:.4g} us implies {gmacs_per_s:.3g} GMAC/s and {gbytes_per_s:.3g} GB/s",
                where=where,
                hint="times must be in microseconds",
            )
    if 0 < best < MIN_BEST_GMACS_PER_S:
        raise InputFileError(
            f"its fastest layer reaches {best:.3g} GMAC/s only", where=where, hint="times must be in microseconds"
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
        margin: of the table's network predictions, or None.
        canary_us: what the canary takes now.
        drift: that over what it took when the table was made, or None where the table does not say.
    """

    rows: int
    failed_rows: int
    noisy_rows: int
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
    """
    model = load_model(path)
    table = model.table
    write_plan(
        folder, [PackedProbe(name="check", graph=replace(canary(), name="check"))], batch=table.environment.batch
    )
    plan = replace(read_plan(folder), precision=table.environment.precision)
    settings = Settings(runtime=table.environment.runtime, threads=table.environment.threads)
    backend = backends.get(settings.runtime)
    require_this_machine(table, backend.environment(plan, settings), where=str(path))
    session = backend.load(plan, plan.canary, settings, profiled=False)
    times_us = sorted(session.run() for _ in range(200))
    canary_us = times_us[len(times_us) // 2]
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
        margin=model.margin,
        canary_us=canary_us,
        drift=drift,
    )
