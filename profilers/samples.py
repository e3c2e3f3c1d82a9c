"""From timed units to measurements: drift divided out, what the profiler adds taken off. Layer 3."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from deepmad_hw.measurement import LayerMeasurement, NetworkMeasurement, OperationMeasurement
from profilers.journal import Unit
from profilers.plan import LAYERS, Plan, Probe
from profilers.timing import CANARY_RUNS

Spec = TypeVar("Spec", bound=Hashable)

# What a unit may show before it is not trusted.
MAX_STOLEN = 0.03  # share of processor time lost to a hypervisor
MAX_WAITED = 0.05  # time that threads waited for a processor, over the unit's time
MAX_CANARY_SWING = 1.12  # largest over smallest canary block within the unit
MAX_CANARY_LEVEL = 1.15  # its canary over that of the other units; smaller drift is divided out
MAX_OWN_LEVEL = 1.25  # its network over what that took in the best quarter of any round, both over the canary
MAX_GAP = 0.1  # of the median, between two neighbours of the sorted times that part them into two crowds
MIN_CROWD = 0.25  # share of the times that makes a crowd
MIN_RUNS_OF_CROWDS = 12  # fewer say nothing about crowds

LEAST_KEPT = 0.1  # share of a node's profiled time that is left to it, whatever the profiler is said to add


def canary_level_us(unit: Unit) -> float:
    """Return how slow the machine was during a unit: the median over the canary's blocks of their fastest run.

    Args:
        unit: a measured unit.
    """
    return statistics.median(_canary_blocks(unit))


def disturbed(unit: Unit) -> bool:
    """Return whether a unit shows by itself that something else was at work, or that the card slowed itself down.

    Args:
        unit: a measured unit.
    """
    return (
        bool(unit.conditions.get("throttled"))
        or (unit.stolen is not None and unit.stolen > MAX_STOLEN)
        or (unit.waited is not None and unit.waited > MAX_WAITED)
        or _swings(unit)
        or two_crowds(unit.total_us)
    )


def disturbances(units: Sequence[Unit]) -> tuple[str, ...]:
    """Return in a few words each what disturbed units show, shares as medians of the units that show them.

    Args:
        units: measured units.
    """
    stolen = [unit.stolen for unit in units if unit.stolen is not None and unit.stolen > MAX_STOLEN]
    waited = [unit.waited for unit in units if unit.waited is not None and unit.waited > MAX_WAITED]
    swings = [_swing(unit) for unit in units if _swings(unit)]
    throttled = sorted({str(unit.conditions["throttled"]) for unit in units if unit.conditions.get("throttled")})
    shown = (
        f"stolen {statistics.median(stolen):.0%}" if stolen else "",
        f"waited {statistics.median(waited):.0%}" if waited else "",
        f"canary swings by {statistics.median(swings) - 1:.0%}" if swings else "",
        f"throttled: {', '.join(throttled)}" if throttled else "",
        "runs of two speeds" if any(two_crowds(unit.total_us) for unit in units) else "",
    )
    return tuple(filter(None, shown))


def two_crowds(times: Sequence[float]) -> bool:
    """Return whether times gather around two values instead of one.

    Args:
        times: of single runs, in any unit.
    """
    if len(times) < MIN_RUNS_OF_CROWDS:
        return False
    ordered, crowd = sorted(times), math.ceil(MIN_CROWD * len(times))
    inner = ordered[crowd - 1 : len(ordered) - crowd + 1]
    return max(right - left for left, right in itertools.pairwise(inner)) > MAX_GAP * statistics.median(ordered)


def contaminated(units: Iterable[Unit]) -> set[tuple[str, int]]:
    """Return which measured units are not to be trusted, as (probe, round): by themselves, or beside the others.

    Args:
        units: units of one journal.
    """
    measured = [unit for unit in units if unit.status == "ok"]
    alone = {(unit.probe, unit.round) for unit in measured if disturbed(unit)}
    levels = {(unit.probe, unit.round): canary_level_us(unit) for unit in measured}
    calm = [level for key, level in levels.items() if key not in alone]
    if not calm:
        return alone
    usual = statistics.median(calm)
    slow = {key for key, level in levels.items() if level > MAX_CANARY_LEVEL * usual}
    return alone | slow | _beyond_their_best([unit for unit in measured if (unit.probe, unit.round) not in slow])


def _beyond_their_best(units: Sequence[Unit]) -> set[tuple[str, int]]:
    """Return units whose network took much longer than it can: what slows large networks may spare the canary."""
    steady = [unit for unit in units if not _swings(unit)]
    best: dict[str, float] = {}
    for unit in steady:
        quarter = sorted(unit.total_us)[math.ceil(MIN_CROWD * len(unit.total_us)) - 1] / canary_level_us(unit)
        best[unit.probe] = min(best.get(unit.probe, quarter), quarter)
    return {
        (unit.probe, unit.round)
        for unit in steady
        if statistics.median(unit.total_us) / canary_level_us(unit) > MAX_OWN_LEVEL * best[unit.probe]
    }


def _swings(unit: Unit) -> bool:
    return _swing(unit) > MAX_CANARY_SWING


def _swing(unit: Unit) -> float:
    blocks = _canary_blocks(unit)
    return max(blocks) / min(blocks)


def _canary_blocks(unit: Unit) -> list[float]:
    starts = range(0, len(unit.canary_us), CANARY_RUNS)
    return [min(unit.canary_us[start : start + CANARY_RUNS]) for start in starts]


def drift_factors(units: Iterable[Unit]) -> dict[tuple[str, int], float]:
    """Return for each measured unit how much slower than usual the machine was: its canary over the median canary.

    Args:
        units: units of one journal.
    """
    levels = {(unit.probe, unit.round): canary_level_us(unit) for unit in units if unit.status == "ok"}
    if not levels:
        return {}
    usual = statistics.median(levels.values())
    return {key: level / usual for key, level in levels.items()}


def trusted(units: Iterable[Unit]) -> list[Unit]:
    """Return the trustworthy units, and the contaminated ones of probes that have no other.

    Args:
        units: units of one journal.
    """
    measured = [unit for unit in units if unit.status == "ok"]
    bad = contaminated(measured)
    calm = [unit for unit in measured if (unit.probe, unit.round) not in bad]
    known = {unit.probe for unit in calm}
    return calm + [unit for unit in measured if unit.probe not in known]


def networks(units: Iterable[Unit]) -> list[NetworkMeasurement]:
    """Return the drift-corrected unprofiled times of every probe.

    Args:
        units: units of one journal.
    """
    kept = trusted(units := list(units))
    bad = contaminated(units)
    factors = drift_factors(kept)
    samples: dict[str, list[float]] = defaultdict(list)
    noisy: dict[str, bool] = {}
    for unit in kept:
        samples[unit.probe] += [value / factors[unit.probe, unit.round] for value in unit.total_us]
        noisy[unit.probe] = (unit.probe, unit.round) in bad
    return [
        NetworkMeasurement(name=name, samples_us=tuple(values), status="noisy" if noisy[name] else "ok")
        for name, values in samples.items()
    ]


def layers(plan: Plan, units: Iterable[Unit]) -> list[LayerMeasurement]:
    """Return what every layer of the plan's probes takes inside a network.

    The profiler slows a network down, every operation by about as much. That is taken off, and what is left is scaled,
    per probe and round, so that the layers of a probe add up to the time it takes unprofiled.

    Args:
        plan: names the layers.
        units: units of its journal.
    """
    rows = _rows(plan, units, lambda probe: {node.name: node.spec for node in probe.nodes})
    return [LayerMeasurement(spec=spec, samples_us=times, status=status) for spec, times, status in rows]


def operations(plan: Plan, units: Iterable[Unit]) -> list[OperationMeasurement]:
    """Return what every operation outside the block families takes inside a network, found as `layers` are.

    Args:
        plan: names the operations.
        units: units of its journal.
    """
    rows = _rows(plan, units, lambda probe: {node.name: node.spec for node in probe.operations})
    return [OperationMeasurement(spec=spec, samples_us=times, status=status) for spec, times, status in rows]


def _rows(
    plan: Plan, units: Iterable[Unit], specs_of: Callable[[Probe], Mapping[str, Spec]]
) -> list[tuple[Spec, tuple[float, ...], str]]:
    """Return samples and status of everything that a plan names; what a runtime made of nothing named has no row."""
    specs = {probe.name: specs_of(probe) for probe in plan.probes if probe.kind == LAYERS}
    units = list(units)
    everything, bad = trusted(units), contaminated(units)
    factors = drift_factors(everything)  # as in `networks`, so that layers and networks have one usual speed
    kept = [unit for unit in everything if unit.probe in specs]
    added_us = profiler_us(kept, factors)
    samples: dict[Spec, list[float]] = defaultdict(list)
    calm: set[Spec] = set()
    for unit in kept:
        drift = factors[unit.probe, unit.round]
        for name, values in unprofiled_us(unit, added_us * drift).items():
            if name not in specs[unit.probe]:
                continue
            spec = specs[unit.probe][name]
            samples[spec] += [value / drift for value in values if value > 0]
            if (unit.probe, unit.round) not in bad:
                calm.add(spec)
    rows = [(spec, tuple(values), "ok" if spec in calm else "noisy") for spec, values in samples.items() if values]
    failures = {unit.probe: unit.status for unit in units if unit.status != "ok"}
    known = {spec for spec, _, _ in rows}
    failed = {
        spec: failures[name] for name in specs if name in failures for spec in specs[name].values() if spec not in known
    }
    return rows + [(spec, (), status) for spec, status in failed.items()]


def profiler_us(units: Iterable[Unit], factors: Mapping[tuple[str, int], float]) -> float:
    """Return what the profiler adds to the time of an operation, the same for all, at the machine's usual speed.

    The median of what the networks show, weighted by how well they do: those of many short operations show it best, and
    disturbed ones move it little. That is the line through zero that fits the slowdowns by absolute deviations.

    Args:
        units: measured units with node times, of one runtime and one precision.
        factors: how slow the machine was during each, see `drift_factors`.
    """
    shown = []
    for unit in units:
        whole_us, operations = statistics.median(unit.total_us), sum(_operations(unit).values())
        usual = operations * factors[unit.probe, unit.round]
        shown.append(((_total_us(unit.nodes_us) - whole_us) / usual, usual / whole_us))
    shown.sort()
    passed = list(itertools.accumulate(weight for _, weight in shown))
    middle = (added_us for (added_us, _), weight in zip(shown, passed, strict=True) if weight >= passed[-1] / 2)
    return max(0.0, next(middle, 0.0))


def unprofiled_us(unit: Unit, added_us: float) -> dict[str, tuple[float, ...]]:
    """Return each node's times without the profiler; their sum's median is that of the unprofiled network.

    Args:
        unit: a measured unit with node times.
        added_us: what the profiler adds to an operation meanwhile, see `profiler_us`.
    """
    operations = _operations(unit)
    kept_us = {
        name: tuple(max(value - added_us * operations[name], LEAST_KEPT * value) for value in values)
        for name, values in unit.nodes_us.items()
    }
    scale = statistics.median(unit.total_us) / _total_us(kept_us)
    return {name: tuple(value * scale for value in values) for name, values in kept_us.items()}


def _operations(unit: Unit) -> dict[str, int]:
    return {name: max(unit.operations.get(name, 1), 1) for name in unit.nodes_us}


def _total_us(nodes_us: Mapping[str, Sequence[float]]) -> float:
    runs: list[float] = [sum(run) for run in zip(*nodes_us.values(), strict=True)]
    return statistics.median(runs)
