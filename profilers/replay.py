"""A runtime that runs nothing: times follow from the layers and a scripted clock. Layer 3, device side.

It stands in for a device in tests and shows a new backend's author the contract.
Script words are ``key=value``:
    speed: ``gmacs`` in GMAC/s, ``drift`` relative slowdown per thousand runs, ``noise`` relative noise, ``cold`` how
        many times as long the first run of a session takes, ``idle`` the same of the first run after another session's;
    time: ``clock`` a file that keeps the microseconds of all runs from process to process (without it each begins at
        0); in windows of this clock, ``FROM-TO*FACTOR,...`` in milliseconds, runs take longer: ``slow`` all of them,
        ``slow_canary`` and ``slow_probes`` those of one kind, ``throttle`` all of them, and the sensors tell;
    state: ``governor`` what the environment calls it;
    failure, of probes ``a,b,...``: ``fail`` cannot be loaded, ``crash`` ends the process, ``hang`` never ends loading,
        ``oom`` takes memory up to the process's limit.
"""

from __future__ import annotations

import mmap
import os
import random
import resource
import signal
import time
from dataclasses import dataclass

from deepmad_hw.errors import InputFileError
from deepmad_hw.latency.measurement import Environment
from deepmad_hw.network.layer import LayerSpec, OperationSpec
from profilers.backend import NodeTimes, Settings
from profilers.plan import Plan, Probe

PROFILER_US_PER_NODE = 2.0
FILE_US = 100.0  # a network whose layers the plan does not name
MEMORY_STEP_BYTES = 64 * 2**20


def layer_us(spec: LayerSpec, *, gmacs: float) -> float:
    """Return the scripted time of a layer: its multiply-adds at a speed, its values at 4 GB/s, one microsecond.

    Args:
        spec: the layer.
        gmacs: speed in billions of multiply-adds per second.
    """
    pixels = spec.out_height * spec.out_width
    macs = pixels * spec.group_width * spec.kernel**2 * spec.out_channels if spec.op in ("conv", "linear") else 0
    values = spec.in_channels * spec.height * spec.width + spec.out_channels * pixels * (1 + spec.residual)
    return 1.0 + macs / (gmacs * 1e3) + values * 4 / 4e3


def operation_us(spec: OperationSpec, *, gmacs: float) -> float:
    """Return the scripted time of an operation: multiply-adds at a speed, values and weights at 4 GB/s, a microsecond.

    Args:
        spec: the operation.
        gmacs: speed in billions of multiply-adds per second.
    """
    return 1.0 + spec.macs / (gmacs * 1e3) + (spec.moved_values + spec.weight_values) * 4 / 4e3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Window:
    """A part of the clock, in microseconds, in which runs that begin there take longer by a factor."""

    from_us: float
    to_us: float
    factor: float


def _windows(text: str) -> tuple[_Window, ...]:
    found = []
    for word in filter(None, text.split(",")):
        times, factor = word.split("*")
        begin, end = times.split("-")
        found.append(_Window(from_us=float(begin) * 1e3, to_us=float(end) * 1e3, factor=float(factor)))
    return tuple(found)


class _Clock:
    """The microseconds that all runs took so far: of this process, or of all that name one file."""

    def __init__(self, path: str | None) -> None:
        self._descriptor = None if path is None else os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.now_us = 0.0 if self._descriptor is None else float(os.pread(self._descriptor, 64, 0) or 0)

    def add(self, us: float) -> None:
        self.now_us += us
        if self._descriptor is not None:
            os.pwrite(self._descriptor, f"{self.now_us:32.3f}".encode(), 0)

    def factor(self, windows: tuple[_Window, ...]) -> float:
        return max((each.factor for each in windows if each.from_us <= self.now_us < each.to_us), default=1.0)


class _ReplaySession:
    def __init__(
        self, backend: _ReplayBackend, plan: Plan, probe: Probe, script: dict[str, str], *, profiled: bool
    ) -> None:
        self._backend, self._probe, self._profiled = backend, probe, profiled
        gmacs = float(script.get("gmacs", "20"))
        self._node_us = {node.name: layer_us(node.spec, gmacs=gmacs) for node in probe.nodes}
        self._node_us |= {node.name: operation_us(node.spec, gmacs=gmacs) for node in probe.operations}
        self._drift, self._noise = float(script.get("drift", "0")), float(script.get("noise", "0"))
        self._cold, self._idle = float(script.get("cold", "1")), float(script.get("idle", "1"))
        own = "slow_canary" if probe == plan.canary else "slow_probes"
        self._slow = _windows(",".join((script.get("slow", ""), script.get(own, ""))))
        self._throttle = _windows(script.get("throttle", ""))
        self._clock = backend.clock(script.get("clock"))
        self._random = random.Random(probe.name)  # noqa: S311 - scripted noise, no secret
        self._runs: list[dict[str, float]] = []

    def run(self) -> float:
        slow = self._slowness()
        extra = PROFILER_US_PER_NODE if self._profiled else 0.0
        times = {
            name: (us + extra) * slow * (1 + self._noise * self._random.random()) for name, us in self._node_us.items()
        }
        self._runs.append(times)
        us = sum(times.values()) or FILE_US * slow
        self._clock.add(us)
        return us

    def _slowness(self) -> float:
        """Return how many times as long as usual the run that begins now takes."""
        self._backend.runs += 1
        slow = 1 + self._backend.runs * self._drift / 1000
        slow *= self._clock.factor(self._slow) * self._clock.factor(self._throttle)
        if self._throttle and any(each.from_us <= self._clock.now_us < each.to_us for each in self._throttle):
            self._backend.throttled = True
        if not self._runs:
            slow *= self._cold
        if self._backend.last is not self:
            slow *= self._idle
        self._backend.last = self
        return slow

    def conditions(self) -> dict[str, float | str]:
        """Return what the scripted sensors tell: nothing where the script has none."""
        if not self._throttle:
            return {}
        throttled, self._backend.throttled = self._backend.throttled, False
        return {"throttled": "scripted" if throttled else ""}

    def finish(self) -> NodeTimes:
        if not self._profiled:
            return NodeTimes()
        return NodeTimes(
            us={name: tuple(run[name] for run in self._runs) for name in self._node_us},
            operations=dict.fromkeys(self._node_us, 1),
        )


class _ReplayBackend:
    SCRIPTED = True

    def __init__(self) -> None:
        self.runs = 0
        self.throttled = False
        self.last: _ReplaySession | None = None
        self._clocks: dict[str | None, _Clock] = {}

    def clock(self, path: str | None) -> _Clock:
        if path not in self._clocks:
            self._clocks[path] = _Clock(path)
        return self._clocks[path]

    def environment(self, plan: Plan, settings: Settings) -> Environment:
        return Environment(
            device="replay",
            machine="none",
            cores=1,
            features=(),
            governor=_words(settings).get("governor", "scripted"),
            runtime="replay",
            runtime_version="1",
            precision=plan.precision,
            batch=plan.batch,
            threads=settings.threads,
        )

    def load(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> _ReplaySession:
        script = _words(settings)
        doomed = {fate: probe.name in script.get(fate, "").split(",") for fate in ("fail", "crash", "hang", "oom")}
        if doomed["fail"]:
            raise InputFileError("scripted to fail", where=probe.name)
        if doomed["crash"]:
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory is short
        if doomed["oom"]:
            _take_all_memory(probe.name)
        while doomed["hang"]:
            time.sleep(1.0)
        return _ReplaySession(self, plan, probe, script, profiled=profiled)


def _words(settings: Settings) -> dict[str, str]:
    return dict(word.split("=", 1) for word in settings.script.split())


def _take_all_memory(name: str) -> None:
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        raise InputFileError("scripted to use up memory, which has no limit here", where=name)
    taken = []
    try:
        while True:
            taken.append(mmap.mmap(-1, MEMORY_STEP_BYTES))  # address space, which is not touched
    except OSError as error:
        raise MemoryError(f"{len(taken)} steps of {MEMORY_STEP_BYTES} bytes") from error


BACKEND = _ReplayBackend()
