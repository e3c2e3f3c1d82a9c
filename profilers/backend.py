"""What a runtime must offer to be timed, and the table of those there are. Layer 3, device side.

A new runtime is one file here and one line in `_BACKENDS`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from deepmad_hw.errors import ConfigError, known_names
from deepmad_hw.latency.measurement import Environment
from profilers.plan import Plan, Probe

_BACKENDS = {
    "onnxruntime": "profilers.onnxruntime_cpu:BACKEND",
    "openvino": "profilers.openvino_cpu:BACKEND",
    "replay": "profilers.replay:BACKEND",
    "tensorrt": "profilers.tensorrt_cuda:BACKEND",
    "torch": "profilers.torch_cpu:BACKEND",
    "torch_cuda": "profilers.torch_cuda:BACKEND",
    "torch_cuda_eager": "profilers.torch_cuda:EAGER",
}
# Whose address space may be limited to the machine's memory; those of cards map more addresses than there is memory.
LIMITED_RUNTIMES = ("onnxruntime", "openvino", "replay")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How to run what is timed.

    Args:
        runtime: name of the backend.
        threads: threads that run one operator.
        script: options of the replay backend, as ``key=value`` words.
    """

    runtime: str = "onnxruntime"
    threads: int = 1
    script: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeTimes:
    """Times of the nodes inside a running network.

    Args:
        us: per node, the microseconds of every run of the session, in order.
        operations: per node, how many operations the runtime made of it.
    """

    us: dict[str, tuple[float, ...]] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)


class Session(Protocol):
    """A loaded network."""

    def run(self) -> float:
        """Run one inference and return its time in microseconds."""

    def finish(self) -> NodeTimes:
        """Close the session and return what it knows of its nodes; nothing if it was not asked to profile."""


@runtime_checkable
class Watched(Protocol):
    """A session that knows the state of its device."""

    def conditions(self) -> dict[str, float | str]:
        """Return the state since the last call, names with units; ``throttled`` says why times are worthless."""


class Backend(Protocol):
    """A runtime on this device."""

    def environment(self, plan: Plan, settings: Settings) -> Environment:
        """Return the fingerprint of what would be measured.

        Args:
            plan: gives batch and precision.
            settings: gives the threads.

        Raises:
            MissingExtraError: the runtime is not installed.
        """

    def load(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> Session:
        """Return a probe ready to run on inputs of its own.

        Args:
            plan: holds the probe's file.
            probe: what to load.
            settings: how to run it.
            profiled: whether `Session.finish` reports times per node.
        """


def names() -> tuple[str, ...]:
    """Return the names of all backends."""
    return tuple(_BACKENDS)


def get(name: str) -> Backend:
    """Return the backend called `name`.

    Args:
        name: one of `names()`.

    Raises:
        ConfigError: there is no such backend.
    """
    if name not in _BACKENDS:
        raise ConfigError(f"unknown runtime {name!r}", where="--runtime", hint=known_names(name, _BACKENDS))
    module, attribute = _BACKENDS[name].split(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)
    return backend
