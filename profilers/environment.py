"""Reads what this machine is, and how disturbed it is right now. Layer 3, device side."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from deepmad_hw.latency.measurement import Environment

# Extensions that decide which convolution kernels a runtime picks.
_KERNEL_FEATURES = frozenset(
    {
        "sse4_1",
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimdhp",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
        "sve2",
        "sme",
    }
)


def of_processor(*, runtime: str, runtime_version: str, precision: str, batch: int, threads: int) -> Environment:
    """Return the fingerprint of a runtime on this processor.

    Args:
        runtime: name of the backend.
        runtime_version: its version.
        precision: of the files.
        batch: images at once.
        threads: threads that run one operator.
    """
    return Environment(
        device=cpu_name(),
        machine=platform.machine(),
        cores=usable_cores(),
        features=cpu_features(),
        governor=governor(),
        runtime=runtime,
        runtime_version=runtime_version,
        precision=precision,
        batch=batch,
        threads=threads,
    )


def cpu_name() -> str:
    """Return what the processor calls itself, ``unknown`` where the system does not tell."""
    info = _cpuinfo()
    for key in ("model name", "Model", "Hardware", "cpu model"):
        if info.get(key):
            family = [info[k] for k in ("cpu family", "model", "stepping") if info.get(k)]
            return f"{info[key]} ({'/'.join(family)})" if family else info[key]
    return platform.processor() or "unknown"


def cpu_features() -> tuple[str, ...]:
    """Return the instruction extensions that matter for convolutions, ascending."""
    info = _cpuinfo()
    words = (info.get("flags") or info.get("Features") or "").split()
    return tuple(sorted(_KERNEL_FEATURES.intersection(words)))


def usable_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def governor() -> str:
    """Return the frequency governor of the first processor, ``unknown`` where the system does not tell."""
    return _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or "unknown"


def load_average() -> float:
    """Return the system's load over the last minute, in runnable processes."""
    return os.getloadavg()[0]


def stolen_and_total_ticks() -> tuple[int, int]:
    """Return the ticks that a hypervisor gave to others, and all ticks; (0, 0) where the system does not tell."""
    fields = _read("/proc/stat").split("\n", 1)[0].split()[1:]
    ticks = [int(field) for field in fields[:8]]
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else (0, 0)


def busy_s() -> float | None:
    """Return how long the processors that this process may use have run anything, in all; None where nobody tells."""
    own = {f"cpu{number}" for number in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set()
    lines = [line.split() for line in _read("/proc/stat").splitlines()]
    ticks = [[int(field) for field in fields[1:]] for fields in lines if fields and fields[0] in own]
    if not ticks or any(len(each) < 8 for each in ticks):
        return None
    # Of user, nice, system, idle, iowait, irq, softirq and steal; guests are counted as user.
    return sum(sum(each[:3]) + sum(each[5:7]) for each in ticks) / os.sysconf("SC_CLK_TCK")


def waited_ns() -> int | None:
    """Return how long threads have waited for a processor so far: this process's own, or all where only that is told.

    None where the system tells neither.
    """
    own = [_read(str(path)).split() for path in Path("/proc/self/task").glob("*/schedstat")]
    waits_ns = [int(fields[1]) for fields in own if len(fields) == 3]
    if waits_ns:
        return sum(waits_ns)
    total_us = re.search(r"^some .*total=(\d+)", _read("/proc/pressure/cpu"), re.MULTILINE)
    return int(total_us[1]) * 1000 if total_us else None


def memory_bytes() -> int:
    """Return the machine's memory, 0 where the system does not tell."""
    kib = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(kib[1]) * 1024 if kib else 0


def _cpuinfo() -> dict[str, str]:
    first = _read("/proc/cpuinfo").split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
