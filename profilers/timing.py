"""The one timing loop of the project: a probe between runs of the canary. Layer 3, device side."""

from __future__ import annotations

from dataclasses import dataclass

from profilers.backend import NodeTimes, Session
from profilers.environment import stolen_and_total_ticks
from profilers.journal import Unit

WARM_UP_RUNS = 2
CANARY_RUNS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Rhythm:
    """How a unit's time is spent.

    Args:
        blocks: how often canary, whole runs and profiled runs take turns.
        block_us: time each kind of run gets per block.
        min_runs: runs of each kind per block, at least.
        max_runs: runs of each kind per block, at most.
    """

    blocks: int = 3
    block_us: float = 120_000.0
    min_runs: int = 2
    max_runs: int = 40


def time_unit(
    probe: str, number: int, *, canary: Session, whole: Session, profiled: Session | None, rhythm: Rhythm
) -> Unit:
    """Return one probe's times, canary runs, whole runs and profiled runs taking turns.

    Args:
        probe: name of the probe.
        number: round of the measurement.
        canary: the loaded canary.
        whole: the loaded probe, unprofiled; finished afterwards unless it is kept by the caller.
        profiled: the loaded probe with its profiler on, or None; it is finished here.
        rhythm: how the time is spent.
    """
    canary_us: list[float] = []
    total_us: list[float] = []
    stolen_before, ticks_before = stolen_and_total_ticks()
    for _ in range(WARM_UP_RUNS):
        canary.run()
        estimate_us = whole.run()
        if profiled is not None:
            profiled.run()
    runs = min(max(round(rhythm.block_us / max(estimate_us, 1.0)), rhythm.min_runs), rhythm.max_runs)
    for _ in range(rhythm.blocks):
        canary_us += _runs(canary, CANARY_RUNS)
        total_us += _runs(whole, runs)
        if profiled is not None:
            _runs(profiled, runs)
    canary_us += _runs(canary, CANARY_RUNS)
    nodes = profiled.finish() if profiled is not None else NodeTimes()
    stolen, ticks = stolen_and_total_ticks()
    return Unit(
        probe=probe,
        round=number,
        canary_us=tuple(canary_us),
        total_us=tuple(total_us),
        nodes_us={name: values[WARM_UP_RUNS:] for name, values in nodes.us.items()},
        operations=nodes.operations,
        stolen=(stolen - stolen_before) / max(ticks - ticks_before, 1),
    )


def _runs(session: Session, count: int) -> list[float]:
    return [session.run() for _ in range(count)]
