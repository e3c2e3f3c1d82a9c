"""The one timing loop of the project: a probe between runs of the canary. Layer 3, device side."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deepmad_hw.errors import InputFileError
from profilers.backend import NodeTimes, Session
from profilers.environment import stolen_and_total_ticks, waited_ns
from profilers.journal import Unit

WARM_UP_RUNS = 2
CANARY_RUNS = 4
MIN_CLEAN_RUNS = 3
SETTLE_S = 0.002  # between sessions, for the threads of the one before to stop spinning
MIN_TICKS = 50  # of processor time; a share of fewer says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Rhythm:
    """How a unit's time is spent.

    Blocks are short, because a shared machine changes its speed several times a second; networks that take longer than
    a block's time have fewer of them.

    Args:
        blocks: how often canary, whole runs and profiled runs take turns, at most.
        min_blocks: how often at least.
        block_us: time each kind of run gets per block.
        min_runs: runs of each kind per block, at least.
        max_runs: runs of each kind per block, at most.
    """

    blocks: int = 6
    min_blocks: int = 3
    block_us: float = 60_000.0
    min_runs: int = 2
    max_runs: int = 40

    def turns(self, run_us: float) -> tuple[int, int]:
        """Return how many blocks a network gets, and how many runs of each kind in each of them.

        Args:
            run_us: what a run of it takes.
        """
        run_us = max(run_us, 1.0)
        runs = min(max(round(self.block_us / run_us), self.min_runs), self.max_runs)
        in_time = round(self.blocks * self.block_us / (runs * run_us))
        return min(self.blocks, max(in_time, self.min_blocks)), runs


def time_unit(
    probe: str,
    number: int,
    *,
    canary: Session,
    whole: Session,
    profiled: Session | None,
    rhythm: Rhythm,
    scripted: bool = False,
) -> Unit:
    """Return one probe's times, canary runs, whole runs and profiled runs taking turns.

    Args:
        probe: name of the probe.
        number: round of the measurement.
        canary: the loaded canary.
        whole: the loaded probe, unprofiled.
        profiled: the loaded probe with its profiler on, or None; it is finished here.
        rhythm: how the time is spent.
        scripted: whether the times are a script's, which does not feel what this machine does meanwhile.

    Raises:
        InputFileError: the profiler tells no time of any node.
    """
    canary_us: list[float] = []
    whole_runs, profiled_runs = _Runs(whole, scripted=scripted), _Runs(profiled, scripted=scripted)
    stolen_before, ticks_before = stolen_and_total_ticks()
    for _ in range(WARM_UP_RUNS):
        canary.run()
        estimate_us = whole.run()
        profiled_runs.warm_up()
    blocks, runs = rhythm.turns(estimate_us)
    waited_before, begin = waited_ns(), time.monotonic_ns()
    for _ in range(blocks):
        canary_us += _canary_block(canary)
        whole_runs.take(runs)
        profiled_runs.take(runs)
    canary_us += _canary_block(canary)
    waited = _share(waited_before, waited_ns(), time.monotonic_ns() - begin)
    nodes = profiled.finish() if profiled is not None else NodeTimes()
    if profiled is not None and not any(map(any, nodes.us.values())):
        raise InputFileError("the runtime's profile tells no time of any of its layers", where=probe)
    stolen, ticks = stolen_and_total_ticks()
    stolen_share = _share(stolen_before, stolen, max(ticks - ticks_before, MIN_TICKS)) if ticks else None
    return Unit(
        probe=probe,
        round=number,
        canary_us=tuple(canary_us),
        total_us=tuple(whole_runs.undisturbed(whole_runs.us)),
        nodes_us={name: tuple(profiled_runs.undisturbed(values[WARM_UP_RUNS:])) for name, values in nodes.us.items()},
        whole_runs=whole_runs.undisturbed_of_each(runs),
        profiled_runs=profiled_runs.undisturbed_of_each(runs),
        operations=nodes.operations,
        waited=0.0 if scripted else waited,
        stolen=0.0 if scripted else stolen_share,
    )


def _share(before: int | None, after: int | None, whole: int) -> float | None:
    """Return a counter's growth over a whole, or None where nobody counts."""
    return None if before is None or after is None else max(0, after - before) / whole


def _canary_block(canary: Session) -> list[float]:
    time.sleep(SETTLE_S)
    return [canary.run() for _ in range(CANARY_RUNS)]


class _Runs:
    """Timed runs of a session, and which of them the system interrupted for other work."""

    def __init__(self, session: Session | None, *, scripted: bool) -> None:
        self._session, self._scripted = session, scripted
        self.us: list[float] = []
        self._interrupted: list[bool] = []

    def warm_up(self) -> None:
        if self._session is not None:
            self._session.run()

    def take(self, count: int) -> None:
        if self._session is None:
            return
        time.sleep(SETTLE_S)
        for _ in range(count):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            self.us.append(self._session.run())
            after = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            self._interrupted.append(after > before and not self._scripted)

    def undisturbed(self, values: Sequence[float]) -> list[float]:
        """Return the values of runs that were not interrupted; all of them if fewer than `MIN_CLEAN_RUNS` are left."""
        return [value for value, kept in zip(values, self._kept(), strict=True) if kept]

    def undisturbed_of_each(self, runs: int) -> tuple[int, ...]:
        """Return how many of the undisturbed runs each block has.

        Args:
            runs: of a block.
        """
        kept = self._kept()
        return tuple(sum(kept[start : start + runs]) for start in range(0, len(kept), runs))

    def _kept(self) -> list[bool]:
        clean = [not hit for hit in self._interrupted]
        return clean if sum(clean) >= MIN_CLEAN_RUNS else [True] * len(clean)
