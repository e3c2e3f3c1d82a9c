"""A runtime that runs nothing: times follow from the layers and a scripted clock. Layer 3, device side.

It stands in for a device in tests and shows a new backend's author the contract.
Script words (``key=value``): ``gmacs`` speed in GMAC/s, ``drift`` relative slowdown per thousand runs, ``noise``
relative noise, ``fail`` name of a probe that cannot be loaded, ``crash`` one that ends the process, ``hang`` one whose
loading never ends.
"""

from __future__ import annotations

import os
import random
import signal
import time

from deepmad_hw.errors import InputFileError
from deepmad_hw.layer import LayerSpec
from deepmad_hw.measurement import Environment
from profilers.backend import NodeTimes, Settings
from profilers.plan import Plan, Probe

PROFILER_US_PER_NODE = 2.0
FILE_US = 100.0  # a network whose layers the plan does not name


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


class _ReplaySession:
    def __init__(self, backend: _ReplayBackend, probe: Probe, script: dict[str, str], *, profiled: bool) -> None:
        self._backend, self._probe, self._profiled = backend, probe, profiled
        gmacs = float(script.get("gmacs", "20"))
        self._node_us = {node.name: layer_us(node.spec, gmacs=gmacs) for node in probe.nodes}
        self._drift, self._noise = float(script.get("drift", "0")), float(script.get("noise", "0"))
        self._random = random.Random(probe.name)  # noqa: S311 - scripted noise, no secret
        self._runs: list[dict[str, float]] = []

    def run(self) -> float:
        self._backend.runs += 1
        slow = 1 + self._drift * self._backend.runs / 1000
        extra = PROFILER_US_PER_NODE if self._profiled else 0.0
        times = {
            name: (us + extra) * slow * (1 + self._noise * self._random.random()) for name, us in self._node_us.items()
        }
        self._runs.append(times)
        return sum(times.values()) or FILE_US * slow

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

    def environment(self, plan: Plan, settings: Settings) -> Environment:
        return Environment(
            device="replay",
            machine="none",
            cores=1,
            features=(),
            governor="scripted",
            runtime="replay",
            runtime_version="1",
            precision=plan.precision,
            batch=plan.batch,
            threads=settings.threads,
        )

    def load(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> _ReplaySession:
        script = dict(word.split("=", 1) for word in settings.script.split())
        if script.get("fail") == probe.name:
            raise InputFileError("scripted to fail", where=probe.name)
        if script.get("crash") == probe.name:
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory is short
        while script.get("hang") == probe.name:
            time.sleep(1.0)
        return _ReplaySession(self, probe, script, profiled=profiled)


BACKEND = _ReplayBackend()
