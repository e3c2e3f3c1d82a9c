"""Times as raw samples, with where they were taken. Layer 1, standard library only.

Statistics are computed, never stored in place of samples. The device side shares this file.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

from deepmad_hw.errors import ConfigError
from deepmad_hw.network.layer import LayerSpec, OperationSpec

PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_COUNT = 2**31 - 1  # of cores, images and threads: files hold whole numbers up to 2^53 only
STATUSES = ("ok", "noisy", "throttled", "oom", "timeout", "unsupported", "error")


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The device, the runtime and the settings that a time belongs to: a table's fingerprint.

    Args:
        device: what the processor or card calls itself.
        machine: instruction set, such as ``x86_64``.
        cores: processors that the measuring process may use.
        features: instruction extensions that decide which kernels run, ascending.
        governor: frequency governor, ``unknown`` where the system does not tell.
        runtime: name of the backend, such as ``onnxruntime``.
        runtime_version: its version.
        precision: one of `PRECISIONS`.
        batch: images at once.
        threads: threads that run one operator.
    """

    device: str
    machine: str
    cores: int
    features: tuple[str, ...]
    governor: str
    runtime: str
    runtime_version: str
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse environments in which nothing can run."""
        for name in ("cores", "batch", "threads"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"expected a whole number >= 1, got {value!r}", where=name)
            if value > LARGEST_COUNT:
                raise ConfigError(f"expected a whole number up to {LARGEST_COUNT}, got {value!r:.40}", where=name)
        for name in ("device", "machine", "governor", "runtime", "runtime_version"):
            if not getattr(self, name):
                raise ConfigError("expected a name, got nothing", where=name, hint="say unknown")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"unknown precision {self.precision!r}, expected one of {', '.join(PRECISIONS)}", where="precision"
            )

    def differences(self, other: Environment) -> tuple[str, ...]:
        """Return the fields in which two environments differ, as ``field: this != that``.

        Args:
            other: the environment to compare with.
        """
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return tuple(f"{name}: {_plain(mine)} != {_plain(theirs)}" for name, mine, theirs in pairs if mine != theirs)


def _plain(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % confidence interval of the median from order statistics (normal approximation of the ranks).

    Args:
        samples: raw values, in any unit; at least one.
    """
    ordered = sorted(samples)
    half_width = 0.98 * math.sqrt(len(ordered))
    low = max(0, math.floor((len(ordered) - 1) / 2 - half_width))
    high = min(len(ordered) - 1, math.ceil((len(ordered) - 1) / 2 + half_width))
    return ordered[low], ordered[high]


class _Timed:
    """What raw samples tell of every sort of measurement."""

    __slots__ = ()
    samples_us: tuple[float, ...]

    @property
    def median_us(self) -> float:
        """Return the median in microseconds."""
        return statistics.median(self.samples_us)

    @property
    def relative_error(self) -> float:
        """Return half the median's 95 % confidence interval over the median."""
        low, high = median_interval(self.samples_us)
        return (high - low) / 2 / self.median_us


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMeasurement(_Timed):
    """What one layer took inside networks.

    Args:
        spec: the layer.
        samples_us: drift-corrected times in microseconds, empty unless the status is ``ok`` or ``noisy``.
        status: one of `STATUSES`.
    """

    spec: LayerSpec
    samples_us: tuple[float, ...]
    status: str = "ok"

    def __post_init__(self) -> None:
        """Refuse times that are no times."""
        _require_samples(self.samples_us, self.status, str(self.spec))


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationMeasurement(_Timed):
    """What one operation outside the block families took inside networks.

    Args:
        spec: the operation.
        samples_us: drift-corrected times in microseconds, empty unless the status is ``ok`` or ``noisy``.
        status: one of `STATUSES`.
    """

    spec: OperationSpec
    samples_us: tuple[float, ...]
    status: str = "ok"

    def __post_init__(self) -> None:
        """Refuse times that are no times."""
        _require_samples(self.samples_us, self.status, str(self.spec))


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkMeasurement(_Timed):
    """What a whole network took, unprofiled.

    Args:
        name: of the network.
        samples_us: drift-corrected times of single runs in microseconds.
        status: one of `STATUSES`.
    """

    name: str
    samples_us: tuple[float, ...]
    status: str = "ok"

    def __post_init__(self) -> None:
        """Refuse times that are no times."""
        _require_samples(self.samples_us, self.status, self.name)

    def percentile_us(self, percent: float) -> float:
        """Return a percentile in microseconds: the smallest sample with at least `percent` % at or below it.

        Args:
            percent: between 0 and 100.
        """
        ordered = sorted(self.samples_us)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _require_samples(samples_us: tuple[float, ...], status: str, where: str) -> None:
    if status not in STATUSES:
        raise ConfigError(f"unknown status {status!r}, expected one of {', '.join(STATUSES)}", where=where)
    measured = status in ("ok", "noisy")
    if measured != bool(samples_us):
        raise ConfigError(f"status {status!r} with {len(samples_us)} samples", where=where)
    for value in samples_us:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise ConfigError(f"expected a time above 0 us, got {value!r}", where=where)
