"""What this machine does just before a measurement, and what that will do to the result. Layer 4."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from deepmad_hw.workflows.doctor import MOST_LOAD_PER_CORE
from profilers import environment
from profilers.run import PATIENCE
from profilers.samples import MAX_STOLEN

LOOK_S = 1.0
MOST_BUSY_SHARE = 0.1  # of the usable cores; a system at rest takes less


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A machine over a moment in which this process did nothing.

    Args:
        cores: processors this process may use.
        busy_cores: how many of them others kept busy, or None if nobody tells.
        load: runnable processes over the last minute.
        stolen_share: share of processor time that a hypervisor gave to others, or None if nobody tells.
        governor: frequency governor, or ``unknown``.
    """

    cores: int
    busy_cores: float | None
    load: float
    stolen_share: float | None
    governor: str


def look(*, seconds: float = LOOK_S) -> Seen:
    """Watch this machine for a moment.

    Args:
        seconds: how long.
    """
    begin_s, before_s, (stolen_before, ticks_before) = (
        time.monotonic(),
        _others_s(),
        environment.stolen_and_total_ticks(),
    )
    time.sleep(seconds)
    took_s, after_s, (stolen, ticks) = time.monotonic() - begin_s, _others_s(), environment.stolen_and_total_ticks()
    return Seen(
        cores=environment.usable_cores(),
        busy_cores=None if before_s is None or after_s is None else max(0.0, after_s - before_s) / took_s,
        load=environment.load_average(),
        stolen_share=(stolen - stolen_before) / max(1, ticks - ticks_before) if ticks else None,
        governor=environment.governor(),
    )


def _others_s() -> float | None:
    """Return how long the usable processors have run anything but this process, None where nobody tells."""
    busy_s = environment.busy_s()
    return None if busy_s is None else busy_s - time.process_time()


def outlook(seen: Seen, *, threads: int = 1) -> tuple[str, ...]:
    """Return what will disturb a measurement and what that means for it, in two lines at most; nothing if all is quiet.

    Args:
        seen: the machine just before.
        threads: that will be measured with.
    """
    found = list(_disturbances(seen))
    lines = [f"not quiet here: {', '.join(found)}: {_consequence(seen, threads)}"] if found else []
    unknown = [
        *(["what other programs use"] if seen.busy_cores is None else []),
        *(["time taken by the host"] if seen.stolen_share is None else []),
        *(["frequency governor"] if seen.governor == "unknown" else []),
    ]
    if unknown:
        lines.append(f"unknown here: {', '.join(unknown)}: what of that disturbs the times, only their canary tells")
    return tuple(lines)


def _disturbances(seen: Seen) -> Iterator[str]:
    if seen.busy_cores is not None and seen.busy_cores > MOST_BUSY_SHARE * seen.cores:
        yield f"other programs use about {seen.busy_cores:.1f} of {seen.cores} cores"
    elif seen.load > MOST_LOAD_PER_CORE * seen.cores:
        yield f"programs used about {seen.load:.1f} of {seen.cores} cores over the last minute"
    if seen.stolen_share is not None and seen.stolen_share > MAX_STOLEN:
        yield f"the host takes away {seen.stolen_share:.0%} of processor time"
    if seen.governor not in ("performance", "unknown"):
        yield f"the frequency governor is {seen.governor}"


def _consequence(seen: Seen, threads: int) -> str:
    stolen = seen.stolen_share is not None and seen.stolen_share > MAX_STOLEN
    crowded = (seen.busy_cores or 0.0) > max(0, seen.cores - threads)
    if stolen or crowded:
        return "most times will be disturbed; stop that, or expect exit code 6"
    return f"disturbed times are measured again, for up to {PATIENCE:g} times as long; see 'deepmad-hw doctor'"
