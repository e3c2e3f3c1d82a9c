"""Makes a latency table of this device: choose probes, pack them, measure, publish. Layer 4."""

from __future__ import annotations

import datetime
import re
import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from deepmad_hw.errors import DeviceLostError, TooNoisyError
from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.files.jsonfile import write_json
from deepmad_hw.files.planfile import NETWORKS_FILE
from deepmad_hw.formats.serde import architecture_to_json
from deepmad_hw.formats.serde_table import write_table
from deepmad_hw.latency.measurement import Environment, LayerMeasurement
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.workflows.profiling.choice import Chosen, ProfileRequest, choose, choose_operations
from profilers import backend as backends
from profilers import environment, run, samples
from profilers.backend import Settings
from profilers.journal import Unit
from profilers.plan import Plan, read_plan
from profilers.run import Effort, Tick

MAX_NOISY_SHARE = 0.5


def pack(
    request: ProfileRequest, folder: Path, *, on_probe: Callable[[int, int], None] = lambda done, total: None
) -> list[Chosen]:
    """Write the plan of a profile into a folder, for this device or another one.

    Args:
        request: what is wanted.
        folder: made if it does not exist.
        on_probe: told after each network how many are written, and of how many.

    Returns:
        The networks in it, those of operations left out.
    """
    chosen = choose(request)
    packed = [
        PackedProbe(name=item.graph.name, graph=item.graph, by_layer=item.architecture is None) for item in chosen
    ]
    operations = choose_operations(request)
    packed = _spread(packed, [PackedProbe(name=probe.name, operations=probe, by_layer=True) for probe in operations])
    write_plan(folder, packed, batch=request.batch, precision=request.precision, on_probe=on_probe)
    networks = {item.graph.name: architecture_to_json(item.architecture) for item in chosen if item.architecture}
    write_json(folder / NETWORKS_FILE, {"schema": 1, "networks": networks})
    return chosen


def _spread(packed: list[PackedProbe], others: list[PackedProbe]) -> list[PackedProbe]:
    """Return both, the others evenly among the first: a run that is cut short has seen something of everything."""
    places = [(index / len(some), probe) for some in (packed, others) for index, probe in enumerate(some)]
    return [probe for _, probe in sorted(places, key=lambda place: place[0])]


def profile(
    request: ProfileRequest,
    *,
    out: Path,
    on_tick: Callable[[Tick], None] = lambda tick: None,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyTable:
    """Measure this device and write its latency table; called again after a stop, it goes on.

    While it is unfinished, the plan and the journal lie beside the table.

    Args:
        request: what is wanted.
        out: the table's CSV; the sidecar takes the ending ``.json``.
        on_tick: told after each stored unit.
        on_probe: told before that, after each network that is written for measuring, how many are, and of how many.

    Returns:
        The table.

    Raises:
        MissingExtraError: the runtime is not installed.
        TooNoisyError: most of what was measured was disturbed.
        ForeignTableError: the journal beside `out` belongs to another profile.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder, journal = out.with_suffix(".plan"), out.with_suffix(".journal")
    chosen = pack(request, folder, on_probe=on_probe)
    plan = read_plan(folder)
    settings = Settings(runtime=request.runtime, threads=request.threads, script=request.script)
    memory_bytes = environment.memory_bytes() if request.runtime in backends.LIMITED_RUNTIMES else 0
    effort = Effort(budget_s=request.minutes * 60, memory_bytes=memory_bytes)
    measured_in, units = run.measure(plan, settings, journal=journal, effort=effort, on_tick=on_tick)
    table = publish(plan, units, measured_in, chosen, name=table_name(out), request=request)
    write_table(out, table)
    shutil.rmtree(folder)
    for leftover in (journal, *journal.parent.glob(f"{journal.name}-*")):
        leftover.unlink(missing_ok=True)
    return table


def table_name(path: Path) -> str:
    """Return the name of a table that lies in a file: letters, digits, dots and dashes of its stem.

    Args:
        path: the CSV.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem) or "table"


def publish(
    plan: Plan,
    units: list[Unit],
    measured_in: Environment,
    chosen: Sequence[Chosen],
    *,
    name: str,
    request: ProfileRequest,
) -> LatencyTable:
    """Return the table that measured units make.

    Args:
        plan: what was measured.
        units: how it went.
        measured_in: the device and its settings.
        chosen: the networks of the plan.
        name: of the table.
        request: what was wanted.

    Raises:
        TooNoisyError: most probes were disturbed whenever they were measured.
        DeviceLostError: none could be measured at all.
    """
    rows = samples.layers(plan, units)
    _require_usable(rows, units, where=name)
    architectures = {item.graph.name: item.architecture for item in chosen if item.architecture is not None}
    calibration = [
        CalibrationNetwork(architecture=architectures[measured.name], measurement=measured)
        for measured in samples.networks(units)
        if measured.name in architectures
    ]
    return LatencyTable(
        name=name,
        environment=measured_in,
        rows=tuple(rows),
        calibration=tuple(calibration),
        operations=tuple(samples.operations(plan, units)),
        measured_on=datetime.datetime.now(datetime.UTC).date().isoformat(),
        canary_us=statistics.median(samples.canary_level_us(unit) for unit in samples.trusted(units)),
        notes=(
            f"profiled for {', '.join(dict.fromkeys(space.family for space in request.spaces))}",
            f"{request.minutes:g} minutes, seed {request.seed}, {len(units)} units",
        ),
    )


def _require_usable(rows: Sequence[LayerMeasurement], units: Sequence[Unit], *, where: str) -> None:
    if not any(row.samples_us for row in rows):
        last = next((unit.message or unit.status for unit in reversed(units) if unit.status != "ok"), "no layers")
        raise DeviceLostError(f"nothing could be measured, last: {last}", where=where, hint="see 'deepmad-hw doctor'")
    noisy = sum(row.status == "noisy" for row in rows)
    if noisy > MAX_NOISY_SHARE * len(rows):
        raise TooNoisyError(
            f"{noisy} of {len(rows)} layers were disturbed every time they were measured",
            where=where,
            hint="stop other work on this machine and run the same command again",
        )
