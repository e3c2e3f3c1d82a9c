"""Measures networks on several runtimes side by side, the runtimes' rounds taking turns. Layer 4."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deepmad_hw.errors import DeviceLostError, MissingExtraError, TooNoisyError
from deepmad_hw.exporters.onnx_inputs import NOTHING_SAID, InputRequest
from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.latency.measurement import NetworkMeasurement
from deepmad_hw.workflows.bench.bench import SECONDS_PER_NETWORK, Subject, doubt, subjects_of
from profilers import backend as backends
from profilers import run, samples
from profilers.backend import Settings
from profilers.journal import Unit
from profilers.plan import Plan, read_plan
from profilers.run import Effort, Tick
from profilers.timing import Rhythm

EVERY = "all"  # every runtime that is here
ROUNDS = 4  # of each runtime, each in a process of its own
BLOCKS_PER_ROUND = 2
NO_RUNTIMES = ("replay",)  # stand-ins, only when asked for by name


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeRow:
    """One network on one runtime.

    Args:
        name: of the network.
        runtime: name of the backend.
        measurement: the times, or None where it cannot be run.
        reason: why it cannot, or why its measured time is not sure.
        conditions: what the device told of itself, see `profilers.backend.Watched`.
    """

    name: str
    runtime: str
    measurement: NetworkMeasurement | None = None
    reason: str = ""
    conditions: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def status(self) -> str | None:
        """Return how sure the measured time is, None without one: what a runtime cannot run is an answer too."""
        return None if self.measurement is None else self.measurement.status


def bench_runtimes(
    networks: Sequence[str | Path | Subject],
    runtimes: Sequence[str],
    *,
    threads: int = 1,
    seconds_per_network: float = SECONDS_PER_NETWORK,
    inputs: InputRequest = NOTHING_SAID,
    on_tick: Callable[[Tick], None] = lambda tick: None,
) -> list[RuntimeRow]:
    """Measure every network on every runtime of this machine in one run.

    A runtime that cannot run a network, as PyTorch a quantised file, says so in its row; the others go on.

    Args:
        networks: design folders, ONNX files, reference names, or subjects.
        runtimes: names of backends, or `EVERY` alone.
        threads: threads per operator.
        seconds_per_network: measuring time of a network on a runtime, about.
        inputs: shapes or values of the inputs of ONNX files.
        on_tick: told after each unit.

    Returns:
        One row per network and runtime, networks in their order, runtimes in theirs.

    Raises:
        ConfigError: no network, two of one name, or an unknown runtime.
        InputFileError: a file cannot be used.
        MissingExtraError: a runtime that was named is not installed, or its device is not here.
        DeviceLostError: the first runtime's process fails again and again, or another one holds the device.
    """
    subjects = subjects_of(networks, inputs=inputs)
    with tempfile.TemporaryDirectory(prefix="deepmad-hw-bench-") as folder:
        write_plan(Path(folder), [_packed(item) for item in subjects])
        plan = read_plan(Path(folder))
        chosen = _present(runtimes, plan, threads=threads)
        progress = _Progress(len(chosen) * len(subjects) * ROUNDS, on_tick)
        every = [Settings(runtime=runtime, threads=threads) for runtime in chosen]
        units = _in_turns(plan, every, seconds_per_network, progress)
    return [_row(item.name, runtime, units[runtime]) for item in subjects for runtime in chosen]


def _packed(item: Subject) -> PackedProbe:
    """Return a network with its file; its layers too, unless the file's numbers are others than the layers' float32."""
    plain = item.walk is None or item.walk.precision == "fp32"
    return PackedProbe(name=item.name, graph=item.graph if plain else None, data=item.data, values=item.values)


def _present(runtimes: Sequence[str], plan: Plan, *, threads: int) -> list[str]:
    """Return the runtimes to measure with, each of them here."""
    named = list(dict.fromkeys(runtimes))
    every = named == [EVERY]
    found = []
    for name in [name for name in backends.names() if name not in NO_RUNTIMES] if every else named:
        try:
            backends.get(name).environment(plan, Settings(runtime=name, threads=threads))
        except MissingExtraError:
            if not every:
                raise
        else:
            found.append(name)
    if not found:
        raise MissingExtraError("no runtime is here", hint="see 'deepmad-hw doctor'")
    return found


def _in_turns(
    plan: Plan, every: Sequence[Settings], seconds_per_network: float, on_tick: Callable[[Tick], None]
) -> dict[str, list[Unit]]:
    """Return every runtime's units, those of a runtime that was lost on the way too."""
    units: dict[str, list[Unit]] = {settings.runtime: [] for settings in every}
    lost: set[str] = set()
    for number in range(ROUNDS):
        for settings in (each for each in every if each.runtime not in lost):
            try:
                units[settings.runtime] = _round(plan, settings, number, seconds_per_network, on_tick)
            except DeviceLostError:
                if not any(units.values()):  # nothing is measured that would be thrown away
                    raise
                units[settings.runtime] = run.stored(_journal(plan, settings))
                lost.add(settings.runtime)
    return units


def _journal(plan: Plan, settings: Settings) -> Path:
    return plan.folder / f"{settings.runtime}.journal"


def _round(
    plan: Plan, settings: Settings, number: int, seconds_per_network: float, on_tick: Callable[[Tick], None]
) -> list[Unit]:
    """Measure one round more of a runtime, and return all of its units so far."""
    effort = Effort(
        budget_s=0.0,
        min_rounds=number + 1,
        max_rounds=number + 1,
        rhythm=Rhythm(
            blocks=BLOCKS_PER_ROUND, block_us=seconds_per_network * 1e6 / ROUNDS / BLOCKS_PER_ROUND, max_runs=1000
        ),
    )
    journal = _journal(plan, settings)
    try:
        return run.measure(plan, settings, journal=journal, effort=effort, on_tick=on_tick)[1]
    except TooNoisyError:  # the rows will say so
        return run.stored(journal)


class _Progress:
    """Counts the units of all runtimes together."""

    def __init__(self, planned: int, on_tick: Callable[[Tick], None]) -> None:
        self._planned, self._on_tick = planned, on_tick
        self._done, self._begin_s = 0, time.monotonic()

    def __call__(self, tick: Tick) -> None:
        self._done += 1
        left_s = (time.monotonic() - self._begin_s) / self._done * (self._planned - self._done)
        self._on_tick(replace(tick, done=self._done, planned=self._planned, left_s=left_s))


def _row(name: str, runtime: str, units: Sequence[Unit]) -> RuntimeRow:
    own = [unit for unit in units if unit.probe == name]
    failed = next((unit for unit in own if unit.status != "ok"), None)
    if failed is not None:
        return RuntimeRow(name=name, runtime=runtime, reason=failed.message or failed.status)
    measured = next((each for each in samples.networks(units) if each.name == name), None)
    if measured is None:
        return RuntimeRow(name=name, runtime=runtime, reason="was not measured")
    return RuntimeRow(
        name=name, runtime=runtime, measurement=measured, reason=doubt(measured), conditions=own[-1].conditions
    )
