"""Reads what an NVIDIA card is, and how fast, hot and throttled right now, from its driver. Layer 3, device side."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

INSTALL_LINE = 'pip install "deepmad-hw[gpu]"'

# Reasons for a clock below the usual one, as the driver names their bits. Those in `SLOWED` make a time worthless: the
# card protected itself. The others are how it always works: idle, a clock someone set, the power it may draw.
REASONS = {
    "GpuIdle": "idle",
    "ApplicationsClocksSetting": "clock_setting",
    "SwPowerCap": "power_cap",
    "HwSlowdown": "hw_slowdown",
    "SyncBoost": "sync_boost",
    "SwThermalSlowdown": "sw_thermal",
    "HwThermalSlowdown": "hw_thermal",
    "HwPowerBrakeSlowdown": "power_brake",
    "DisplayClockSetting": "display",
}
UNKNOWN = "unknown"  # a card that does not tell is not one that has no reason
T = TypeVar("T")

SLOWED = frozenset({"hw_slowdown", "sw_thermal", "hw_thermal", "power_brake"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A GPU.

    Args:
        name: as the driver calls it.
        compute_capability: such as ``9.0``.
        driver: version of the driver.
    """

    name: str
    compute_capability: str
    driver: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The state of a GPU at one moment.

    Args:
        sm_clock_mhz: clock of the processors.
        memory_clock_mhz: clock of the memory.
        power_w: what it draws.
        temperature_c: of the chip.
        reasons: why the clock is what it is, from the values of `REASONS`, ascending.
    """

    sm_clock_mhz: int
    memory_clock_mhz: int
    power_w: float
    temperature_c: int
    reasons: tuple[str, ...]

    @property
    def throttled(self) -> tuple[str, ...]:
        """Return the reasons that make a time taken now worthless."""
        return tuple(sorted(SLOWED.intersection(self.reasons)))


def installed() -> bool:
    """Return whether the driver can be asked at all."""
    return importlib.util.find_spec("pynvml") is not None


def card() -> Card | None:
    """Return the GPU that is used, None where there is none or nobody to ask."""
    return _ask(_card)


def read() -> Reading | None:
    """Return the state of the GPU that is used, None where there is none, nobody to ask, or it does not tell."""
    return _ask(_reading)


def _card(nvml: Any, handle: Any) -> Card:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Card(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        compute_capability=f"{major}.{minor}",
        driver=_text(nvml.nvmlSystemGetDriverVersion()),
    )


def _reading(nvml: Any, handle: Any) -> Reading:
    bits = _reason_bits(nvml, handle)
    return Reading(
        sm_clock_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        memory_clock_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        temperature_c=nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        reasons=tuple(sorted(word for name, word in REASONS.items() if bits & _bit(nvml, name))),
    )


def summary(readings: list[Reading]) -> dict[str, float | str]:
    """Return readings taken during one measurement as the numbers to keep; without any, that nothing is known.

    Args:
        readings: in order of time.
    """
    if not readings:
        return {"clock_reasons": UNKNOWN}
    reasons = sorted({word for reading in readings for word in reading.reasons})
    throttled = sorted({word for reading in readings for word in reading.throttled})
    return {
        "sm_clock_min_mhz": min(reading.sm_clock_mhz for reading in readings),
        "sm_clock_max_mhz": max(reading.sm_clock_mhz for reading in readings),
        "memory_clock_min_mhz": min(reading.memory_clock_mhz for reading in readings),
        "power_max_w": max(reading.power_w for reading in readings),
        "temperature_max_c": max(reading.temperature_c for reading in readings),
        "clock_reasons": " ".join(reasons),
        "throttled": " ".join(throttled),
    }


def _ask(question: Callable[[Any, Any], T]) -> T | None:
    if not installed():
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return question(pynvml, _handle(pynvml))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:  # no driver, no card, or one that does not tell
        return None


def _handle(nvml: Any) -> Any:
    """Return the first card that CUDA sees; `count_cards_as_the_bus_does` makes both count alike."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    if not first.isdecimal():  # CUDA then sees no card
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)
    return nvml.nvmlDeviceGetHandleByIndex(int(first))


def count_cards_as_the_bus_does() -> None:
    """Make CUDA's first card the one that is read here; to be called before CUDA starts in this process."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def _reason_bits(nvml: Any, handle: Any) -> int:
    """Return the reasons' bits; the call was renamed in 2024, and old drivers know the old name only."""
    new, old = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
    ask = getattr(nvml, new, None) or getattr(nvml, old)
    try:
        return int(ask(handle))
    except nvml.NVMLError:
        return int(getattr(nvml, old)(handle))


def _bit(nvml: Any, name: str) -> int:
    return int(getattr(nvml, f"nvmlClocksEventReason{name}", 0) or getattr(nvml, f"nvmlClocksThrottleReason{name}", 0))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
