"""Measures a plan: orders units from a measuring process, journals each, resumes, stops in time. Layer 3."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from deepmad_hw.errors import DeviceLostError, ForeignTableError, TooNoisyError
from deepmad_hw.latency.measurement import Environment, median_interval
from profilers import backend as backends
from profilers import environment, samples
from profilers.backend import Settings
from profilers.journal import Journal, Unit, device_lock
from profilers.plan import Plan, Probe
from profilers.timing import Rhythm

MAX_FAILURES_IN_A_ROW = 5
MAX_FAILURES_OF_A_PROBE = 2
EARLY_LOOK_S = 60.0  # after which a sitting that has seen nothing calm, in a run that never has, ends
EARLY_LOOK_UNITS = 3  # fewer say nothing about a run, however long they took
PATIENCE = 1.5  # how much longer than its budget a sitting on a disturbed machine may take


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much to measure.

    Args:
        budget_s: seconds of undisturbed measuring, over all sittings; the first `min_rounds` are finished in any case.
        min_rounds: rounds over all probes at least.
        max_rounds: rounds at most.
        target_error: relative 95 % half-width of a probe's median at which it is done.
        rhythm: how the time of one unit is spent.
        unit_timeout_s: a unit that takes longer is ended.
        memory_bytes: address space of the measuring process, 0 for no limit.
    """

    budget_s: float
    min_rounds: int = 2
    max_rounds: int = 50
    target_error: float = 0.01
    rhythm: Rhythm = field(default_factory=Rhythm)
    unit_timeout_s: float = 120.0
    memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """What to tell the user after a durable unit.

    Args:
        probe: what was measured.
        status: how it went.
        done: units stored.
        planned: units expected in all.
        left_s: seconds expected until the end.
    """

    probe: str
    status: str
    done: int
    planned: int
    left_s: float


def measure(
    plan: Plan, settings: Settings, *, journal: Path, effort: Effort, on_tick: Callable[[Tick], None]
) -> tuple[Environment, list[Unit]]:
    """Measure a plan into a journal; called again, it goes on where it was stopped.

    Args:
        plan: what to measure.
        settings: how to run it.
        journal: SQLite file of the measurement.
        effort: how much to measure.
        on_tick: told after each durable unit.

    Returns:
        The environment, and every unit measured so far.

    Raises:
        MissingExtraError: the runtime is not installed.
        ForeignTableError: the journal was begun elsewhere or with another plan, or the governor changes meanwhile.
        DeviceLostError: the measuring process fails again and again, or another one holds the device.
        TooNoisyError: everything was disturbed for as long as `EARLY_LOOK_S`; what was measured stays in the journal.
    """
    governor = environment.governor()
    found = backends.get(settings.runtime).environment(plan, settings)
    identity = {"plan": plan.sha256, **{key: _words(value) for key, value in asdict(found).items()}}
    with device_lock("cpu"), Journal(journal, identity) as book, _Child(plan, settings, effort) as child:
        _rounds(plan, book, child, effort, on_tick, governor)
        return found, list(book.units())


def stored(journal: Path) -> list[Unit]:
    """Return the units that a measurement has stored so far, whatever ended it.

    Args:
        journal: SQLite file of the measurement.
    """
    with Journal(journal, {}) as book:
        return list(book.units())


def _words(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _rounds(
    plan: Plan, book: Journal, child: _Child, effort: Effort, on_tick: Callable[[Tick], None], governor: str
) -> None:
    units = list(book.units())
    useful_s, sitting, sitting_s, failures = sum(map(_useful_s, units)), 0, 0.0, 0
    for probe, number, needed in _orders(plan, units, effort):
        if number >= effort.min_rounds:
            enough = useful_s >= effort.budget_s and not needed
            if enough or sitting_s >= PATIENCE * effort.budget_s:
                continue
        unit = child.measure(probe, number)
        _require_governor(governor, where=probe.name)  # before the unit is stored: the journal is of one governor
        book.add(unit)
        units.append(unit)
        useful_s += _useful_s(unit)
        sitting_s += unit.seconds
        failures = 0 if unit.status == "ok" else failures + 1
        if failures == MAX_FAILURES_IN_A_ROW:
            raise DeviceLostError(
                f"{failures} probes failed one after another, last: {unit.message}",
                where=probe.name,
                hint="see 'deepmad-hw doctor'; the same command goes on from here",
            )
        on_tick(_tick(plan, units, effort))
        sitting += 1
        if sitting >= EARLY_LOOK_UNITS and sitting_s + unit.seconds > EARLY_LOOK_S:  # the next may take as long as this
            _require_calm(units)


def _require_calm(units: list[Unit]) -> None:
    """End a run of which no unit was calm: going on as long as for a whole one would only tell the same later."""
    measured = [unit for unit in units if unit.status == "ok"]
    if measured and all(map(samples.disturbed, measured)):
        raise TooNoisyError(
            f"everything measured so far was disturbed ({', '.join(samples.disturbances(measured))})",
            hint="stop other work on this machine and run the same command again",
        )


def _require_governor(governor: str, *, where: str) -> None:
    now = environment.governor()
    if now != governor:
        raise ForeignTableError(
            f"the frequency governor changed from {governor} to {now} while this was measured",
            where=where,
            hint="set it back, and the same command goes on from here",
        )


def _useful_s(unit: Unit) -> float:
    """Return the time that a unit takes off the budget: what was disturbed is no use, so it is spent again."""
    return unit.seconds * samples.calm_share(unit) if unit.status == "ok" else 0.0


def _orders(plan: Plan, units: list[Unit], effort: Effort) -> Iterator[tuple[Probe, int, bool]]:
    """Return what to measure next: the probe, the round, and whether it still lacks rounds that can be trusted."""
    done = {(unit.probe, unit.round) for unit in units}
    for number in range(effort.max_rounds):
        # `units` grows while this runs: each round looks at all rounds before it.
        calm = Counter(probe for probe, _ in samples.calm_rounds(units))
        full = {probe for probe, rounds in calm.items() if rounds >= effort.min_rounds}
        passed = _given_up(units) | (_settled(units, effort) & full)
        for probe in plan.probes:
            if (probe.name, number) not in done and probe.name not in passed:
                yield probe, number, probe.name not in full
        if all(unit.round != number for unit in units):
            return  # nothing was worth measuring in it, and so nothing will be in later ones


def _given_up(units: list[Unit]) -> set[str]:
    failures = Counter(unit.probe for unit in units if unit.status != "ok")
    return {probe for probe, count in failures.items() if count >= MAX_FAILURES_OF_A_PROBE}


def _settled(units: list[Unit], effort: Effort) -> set[str]:
    calm = (m for m in samples.networks(units) if m.status == "ok")
    return {m.name for m in calm if _relative_error(m.samples_us) <= effort.target_error}


def _relative_error(samples_us: tuple[float, ...]) -> float:
    low, high = median_interval(samples_us)
    return (high - low) / (high + low)


def _tick(plan: Plan, units: list[Unit], effort: Effort) -> Tick:
    per_unit_s = sum(unit.seconds for unit in units) / len(units)
    least = effort.min_rounds * len(plan.probes)
    planned = max(least, min(round(effort.budget_s / per_unit_s), effort.max_rounds * len(plan.probes)))
    return Tick(
        probe=units[-1].probe,
        status=units[-1].status,
        done=len(units),
        planned=max(planned, len(units)),
        left_s=max(0.0, (planned - len(units)) * per_unit_s),
    )


class _Child:
    """The measuring process, started anew for every round and after it died.

    Where a process' memory happens to lie makes it quicker or slower; rounds in processes of their own average that.
    """

    def __init__(self, plan: Plan, settings: Settings, effort: Effort) -> None:
        self._plan, self._settings, self._effort = plan, settings, effort
        self._process: subprocess.Popen[str] | None = None
        self._round: int | None = None

    def measure(self, probe: Probe, number: int) -> Unit:
        if number != self._round:
            self._end()
        self._round = number
        begin = time.monotonic()
        order = {"probe": probe.name, "round": number, "rhythm": asdict(self._effort.rhythm)}
        answer = self._ask(json.dumps(order), probe, number)
        known = {f.name for f in fields(Unit)}
        values: dict[str, Any] = {key: value for key, value in answer.items() if key in known}
        return Unit(**{**values, "seconds": time.monotonic() - begin})

    def _ask(self, order: str, probe: Probe, number: int) -> dict[str, Any]:
        failed = {"probe": probe.name, "round": number}
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise DeviceLostError("the measuring process has no pipes", where=probe.name)
        try:
            process.stdin.write(order + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return {**failed, "status": "error", "message": f"measuring process ended ({self._end()})"}
        ready, _, _ = select.select([process.stdout], [], [], self._effort.unit_timeout_s)
        if not ready:
            self._end()
            return {**failed, "status": "timeout", "message": f"no answer in {self._effort.unit_timeout_s:.0f} s"}
        line = process.stdout.readline()
        if not line:
            return {**failed, "status": "error", "message": f"measuring process ended ({self._end()})"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        command = [
            *(sys.executable, "-m", "profilers", "child", str(self._plan.folder)),
            *("--runtime", self._settings.runtime, "--threads", str(self._settings.threads)),
            *("--memory-bytes", str(self._effort.memory_bytes), "--script", self._settings.script),
        ]
        # The packages may be importable only because of where this process was started.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this package, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone, which ends that one
        )
        return self._process

    def _end(self) -> int | None:
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.kill()
        code = process.wait()
        with contextlib.suppress(BrokenPipeError), process:  # leaving it closes its pipes
            pass
        return code

    def __enter__(self) -> _Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
