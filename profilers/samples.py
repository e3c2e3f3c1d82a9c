"""From timed units to measurements: drift divided out, what the profiler adds taken off. Layer 3."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from deepmad_hw.latency.measurement import LayerMeasurement, NetworkMeasurement, OperationMeasurement
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
MAX_MODE_GAP = 0.1  # of the median, between two neighbours of the sorted times that part them into two modes
MIN_MODE_SHARE = 0.25  # share of the times that makes a mode
MIN_BIMODAL_RUNS = 12  # fewer say nothing about modes

LEAST_KEPT = 0.1  # share of a node's profiled time that is left to it, whatever the profiler is said to add


Key = tuple[str, int, int]  # probe, round, block


def blocks(unit: Unit) -> list[Unit]:
    """Return the blocks of a unit, each with the canary's runs before and after it, as units of their own.

    A shared machine changes its speed within a unit; what is asked of a unit is then answered by each of its blocks.
    Blocks all of whose runs were interrupted are left out.

    Args:
        unit: a measured unit; one that does not tell its blocks is one block.
    """
    if len(unit.whole_runs) < 2:
        return [unit]
    found = []
    whole_ends = [0, *itertools.accumulate(unit.whole_runs)]
    profiled_ends = [0, *itertools.accumulate(unit.profiled_runs or [0] * len(unit.whole_runs))]
    for block, (whole, profiled) in enumerate(
        zip(itertools.pairwise(whole_ends), itertools.pairwise(profiled_ends), strict=True)
    ):
        total_us = unit.total_us[slice(*whole)]
        nodes_us = {name: values[slice(*profiled)] for name, values in unit.nodes_us.items()}
        if total_us and all(nodes_us.values()):
            around = unit.canary_us[block * CANARY_RUNS : (block + 2) * CANARY_RUNS]
            cleared: dict[str, Any] = {"whole_runs": (), "profiled_runs": (), "block": block}
            found.append(replace(unit, canary_us=around, total_us=total_us, nodes_us=nodes_us, **cleared))
    return found or [unit]


def canary_level_us(unit: Unit) -> float:
    """Return how slow the machine was during a unit: the median over the canary's blocks of their fastest run.

    Args:
        unit: a measured unit.
    """
    return statistics.median(_canary_blocks(unit))


def disturbed(unit: Unit) -> bool:
    """Return whether every block of a unit shows by itself that something else was at work, or that the card slowed.

    Args:
        unit: a measured unit.
    """
    return calm_share(unit) == 0.0


def calm_share(unit: Unit) -> float:
    """Return the share of a unit's blocks that show no disturbance by themselves.

    Args:
        unit: a measured unit.
    """
    return statistics.fmean(not _disturbed(block) for block in blocks(unit))


def _disturbed(block: Unit) -> bool:
    return (
        bool(block.conditions.get("throttled"))
        or (block.stolen is not None and block.stolen > MAX_STOLEN)
        or (block.waited is not None and block.waited > MAX_WAITED)
        or _swings(block)
        or bimodal(block.total_us)
    )


def disturbances(units: Sequence[Unit]) -> tuple[str, ...]:
    """Return in a few words each what disturbed units show, shares as medians of the units that show them.

    Args:
        units: measured units.
    """
    found = parts(units)
    stolen = [unit.stolen for unit in units if unit.stolen is not None and unit.stolen > MAX_STOLEN]
    waited = [unit.waited for unit in units if unit.waited is not None and unit.waited > MAX_WAITED]
    swings = [_swing(part) for part in found if _swings(part)]
    throttled = sorted({str(unit.conditions["throttled"]) for unit in units if unit.conditions.get("throttled")})
    shown = (
        f"stolen {statistics.median(stolen):.0%}" if stolen else "",
        f"waited {statistics.median(waited):.0%}" if waited else "",
        f"canary swings by {statistics.median(swings) - 1:.0%}" if swings else "",
        f"throttled: {', '.join(throttled)}" if throttled else "",
        "runs of two speeds" if any(bimodal(part.total_us) for part in found) else "",
    )
    return tuple(filter(None, shown))


def parts(units: Iterable[Unit]) -> list[Unit]:
    """Return the blocks of all units that were measured.

    Args:
        units: units of one journal, or blocks of them.
    """
    return [block for unit in units if unit.status == "ok" for block in blocks(unit)]


def _key(block: Unit) -> Key:
    return block.probe, block.round, block.block


def bimodal(times: Sequence[float]) -> bool:
    """Return whether times gather around two values instead of one.

    Args:
        times: of single runs, in any unit.
    """
    if len(times) < MIN_BIMODAL_RUNS:
        return False
    ordered, fewest = sorted(times), math.ceil(MIN_MODE_SHARE * len(times))
    inner = ordered[fewest - 1 : len(ordered) - fewest + 1]
    return max(right - left for left, right in itertools.pairwise(inner)) > MAX_MODE_GAP * statistics.median(ordered)


def calm_rounds(units: Iterable[Unit]) -> set[tuple[str, int]]:
    """Return which measured units have a block to be trusted, as (probe, round).

    Args:
        units: units of one journal.
    """
    bad = contaminated(units := list(units))
    return {(part.probe, part.round) for part in parts(units) if _key(part) not in bad}


def contaminated(units: Iterable[Unit]) -> set[Key]:
    """Return which blocks are not to be trusted: by themselves, or beside the others.

    Args:
        units: units of one journal, or blocks of them.
    """
    found = parts(units)
    alone = {_key(part) for part in found if _disturbed(part)}
    levels = {_key(part): canary_level_us(part) for part in found}
    calm = sorted(level for key, level in levels.items() if key not in alone)
    if not calm:
        return alone
    # Where a machine has two speeds, the one it has alone; a neighbour's share of a core slows some layers more.
    usual = calm[len(calm) // 4]
    slow = {key for key, level in levels.items() if level > MAX_CANARY_LEVEL * usual}
    return alone | slow | _beyond_their_best([part for part in found if _key(part) not in slow])


def _beyond_their_best(found: Sequence[Unit]) -> set[Key]:
    """Return blocks whose network took much longer than it can: what slows large networks may spare the canary."""
    steady = [part for part in found if not _swings(part)]
    best: dict[str, float] = {}
    for part in steady:
        quarter = sorted(part.total_us)[math.ceil(MIN_MODE_SHARE * len(part.total_us)) - 1] / canary_level_us(part)
        best[part.probe] = min(best.get(part.probe, quarter), quarter)
    return {
        _key(part)
        for part in steady
        if statistics.median(part.total_us) / canary_level_us(part) > MAX_OWN_LEVEL * best[part.probe]
    }


def _swings(unit: Unit) -> bool:
    return _swing(unit) > MAX_CANARY_SWING


def _swing(unit: Unit) -> float:
    blocks = _canary_blocks(unit)
    return max(blocks) / min(blocks)


def _canary_blocks(unit: Unit) -> list[float]:
    starts = range(0, len(unit.canary_us), CANARY_RUNS)
    return [min(unit.canary_us[start : start + CANARY_RUNS]) for start in starts]


def drift_factors(units: Iterable[Unit]) -> dict[Key, float]:
    """Return for each block how much slower than usual the machine was: its canary over the median canary.

    Args:
        units: units of one journal, or blocks of them.
    """
    levels = {_key(part): canary_level_us(part) for part in parts(units)}
    if not levels:
        return {}
    usual = statistics.median(levels.values())
    return {key: level / usual for key, level in levels.items()}


def trusted(units: Iterable[Unit]) -> list[Unit]:
    """Return the trustworthy blocks, and the contaminated ones of probes that have no other.

    Args:
        units: units of one journal.
    """
    found = parts(units)
    bad = contaminated(found)
    calm = [part for part in found if _key(part) not in bad]
    known = {part.probe for part in calm}
    return calm + [part for part in found if part.probe not in known]


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
    for part in kept:
        samples[part.probe] += [value / factors[_key(part)] for value in part.total_us]
        noisy[part.probe] = _key(part) in bad
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
    kept = [part for part in everything if part.probe in specs]
    added_us = profiler_us(kept, factors)
    samples: dict[Spec, list[float]] = defaultdict(list)
    calm: set[Spec] = set()
    for part in kept:
        drift = factors[_key(part)]
        for name, values in unprofiled_us(part, added_us * drift).items():
            if name not in specs[part.probe]:
                continue
            spec = specs[part.probe][name]
            samples[spec] += [value / drift for value in values if value > 0]
            if _key(part) not in bad:
                calm.add(spec)
    rows = [(spec, tuple(values), "ok" if spec in calm else "noisy") for spec, values in samples.items() if values]
    failures = {unit.probe: unit.status for unit in units if unit.status != "ok"}
    known = {spec for spec, _, _ in rows}
    failed = {
        spec: failures[name] for name in specs if name in failures for spec in specs[name].values() if spec not in known
    }
    return rows + [(spec, (), status) for spec, status in failed.items()]


def profiler_us(units: Iterable[Unit], factors: Mapping[Key, float]) -> float:
    """Return what the profiler adds to the time of an operation, the same for all, at the machine's usual speed.

    The median of what the networks show, weighted by how well they do: those of many short operations show it best, and
    disturbed ones move it little. That is the line through zero that fits the slowdowns by absolute deviations.

    Args:
        units: measured units with node times, of one runtime and one precision, or blocks of them.
        factors: how slow the machine was during each, see `drift_factors`.
    """
    shown = []
    for part in parts(units):
        whole_us, operations = statistics.median(part.total_us), sum(_operations(part).values())
        usual = operations * factors[_key(part)]
        shown.append(((_total_us(part.nodes_us) - whole_us) / usual, usual / whole_us))
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
