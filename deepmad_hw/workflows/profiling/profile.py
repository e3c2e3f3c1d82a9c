"""Makes a latency table of this device: choose probes, pack them, measure, publish. Layer 4."""

from __future__ import annotations

import datetime
import functools
import itertools
import re
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np

from deepmad_hw.errors import ConfigError, DeviceLostError, TooNoisyError
from deepmad_hw.exporters import operation_probes
from deepmad_hw.exporters.operation_probes import OperationProbe
from deepmad_hw.exporters.probes import PackedProbe, require_precision, write_plan
from deepmad_hw.files.jsonfile import write_json
from deepmad_hw.files.planfile import NETWORKS_FILE
from deepmad_hw.formats.serde import architecture_to_json
from deepmad_hw.formats.serde_table import write_table
from deepmad_hw.latency.measurement import Environment, LayerMeasurement
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network import costs, reference
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import Graph
from deepmad_hw.problem import sampling
from deepmad_hw.problem.space import Space
from deepmad_hw.workflows.profiling import calibration
from deepmad_hw.workflows.runfile.config import load_run
from profilers import backend as backends
from profilers import environment, run, samples
from profilers.backend import Settings
from profilers.journal import Unit
from profilers.plan import Plan, read_plan
from profilers.run import Effort, Tick
from profilers.timing import WARM_UP_RUNS, Rhythm

# Together they hold all four families in the ranges of the published problems.
DEFAULT_SPACES = ("deepmad-r18", "resnet-basic", "deepmad-29m-224", "deepmad-89m", "mobile-cpu")
# Networks whose rescaled copies show layers that no family has: strided projections, max pooling, large stems.
REFERENCES = ("resnet18", "mobilenet_v2", "resnet50", "efficientnet_b0")
# Widths around the originals, which are never measured themselves.
WIDTH_FACTORS = (0.75, 1.3)
MORE_WIDTH_FACTORS = (0.5, 1.7)  # for small networks, whose many sorts of layers are quickly timed
SMALL_NETWORK_MACS = 1e9
# Layers of other sizes than those of 224x224 images, for networks of elsewhere: name, factor of widths, pixels.
OTHER_SIZES = (
    ("resnet18", 0.5, 320),
    ("mobilenet_v2", 0.75, 320),
    ("resnet18", 0.75, 96),
    ("mobilenet_v2", 1.3, 96),
)
PROBE_STEPS = 3  # stages drawn from each stage of a space, fewer where that passes LARGEST_PROBE_MACS
LARGEST_PROBE_MACS = 6e9
# Short runs find their weights in the cache, long ones do not: of a space that has shorter ones, some are timed.
SMALL_NETWORK_S = 4e-3
SMALL_NETWORKS_PER_SPACE = 2
DRAWN_FOR_SMALL = 32
# A plan must not depend on this machine, or it could not be resumed; so its size follows from a nominal speed.
NOMINAL_MACS_PER_S = 40e9
NOMINAL_LAYER_S = 5e-6
NOMINAL_UNIT_S = 0.7
CALIBRATION_SHARE = 0.25
OPERATION_SHARE = 0.12  # of the measuring time, for operations outside the block families
# Fewer say too little to fit laws; the two minutes of a quickstart are kept for what designs are made of.
MIN_OPERATION_PROBES, MAX_OPERATION_PROBES = 4, 40
NOMINAL_VALUES_PER_S = 1.6e9  # of operations that move values
MIN_PROBES_PER_SPACE = 6
CALIBRATION_NETWORKS = (12, 80)  # at least, at most; the more, the surer the margin
NETWORKS_PER_SPACE = 2
CALIBRATION_RHO = (0.2, 0.6)
LARGEST_NETWORK_MACS = 4e9
MAX_NOISY_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileRequest:
    """What a table is wanted for, and how much time there is.

    Args:
        spaces: designs whose layers it shall cover.
        runtime: name of the backend.
        threads: threads per operator.
        batch: images at once.
        precision: of the probes, one of `deepmad_hw.exporters.probes.PRECISIONS`.
        minutes: measuring time.
        seed: of the choice of probes.
        references: well-known networks whose kinds of layers it shall cover too.
        script: options of the replay backend.
    """

    spaces: tuple[Space, ...]
    runtime: str = "onnxruntime"
    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    minutes: float = 10.0
    seed: int = 0
    references: tuple[str, ...] = REFERENCES
    script: str = ""

    def __post_init__(self) -> None:
        """Refuse requests that measure nothing."""
        if not self.spaces:
            raise ConfigError("no space to profile for", where="--space")
        for name, value in (("--threads", self.threads), ("--batch", self.batch), ("--minutes", self.minutes)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"expected a number above 0, got {value}", where=name)
        require_precision(self.precision)


def spaces(names: Sequence[str | Path]) -> tuple[Space, ...]:
    """Return the spaces of run files; without any, spaces that hold all four families at 224x224.

    Args:
        names: named problems or YAML files.

    Raises:
        ConfigError: no such file, or a mistake in it.
    """
    if names:
        return tuple(dict.fromkeys(load_run(name).problem.space for name in names))
    named = [load_run(name).problem.space for name in DEFAULT_SPACES]
    mobile = next(space for space in named if space.family == "mbconv_se")
    return (*named, replace(mobile, family="mbconv"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A network of the plan.

    Args:
        graph: what is timed.
        architecture: set for a calibration network, which is timed as a whole only.
    """

    graph: Graph
    architecture: Architecture | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a profile would measure.

    Args:
        probes: networks timed layer by layer.
        networks: networks timed as a whole.
        layers: distinct layer shapes among the probes.
        operation_probes: networks of operations outside the block families.
        operations: distinct ones of these.
        minutes: measuring time; more than was asked for where the least that is needed takes longer.
        megabytes: of the packed plan, about.
    """

    probes: int
    networks: int
    layers: int
    operation_probes: int
    operations: int
    minutes: float
    megabytes: float


def choose(request: ProfileRequest) -> list[Chosen]:
    """Return the networks that a profile measures, the same for the same request.

    Args:
        request: what is wanted.

    Raises:
        ConfigError: a space leaves nothing to draw.
    """
    random = np.random.default_rng(request.seed)
    seconds = _round_s(request) - sum(_operations_s(probe, request.batch) for probe in choose_operations(request))
    others = _of_other_sizes() if choose_operations(request) else []
    chosen = [Chosen(graph=graph) for graph in (*_corners(request.spaces), *_rescaled(request.references), *others)]
    chosen += _small_networks(request)
    probes, networks = _probes(request, random), _networks(request, random)
    spent_s = sum(_unit_s(item, request.batch) for item in chosen)
    for count in itertools.count():
        if spent_s >= seconds * (1 - CALIBRATION_SHARE) and count >= MIN_PROBES_PER_SPACE * len(request.spaces):
            break
        chosen.append(next(probes))
        spent_s += _unit_s(chosen[-1], request.batch)
    for count in range(CALIBRATION_NETWORKS[1]):
        if spent_s >= seconds and count >= max(CALIBRATION_NETWORKS[0], NETWORKS_PER_SPACE * len(request.spaces)):
            break
        chosen.append(next(networks))
        spent_s += _unit_s(chosen[-1], request.batch)
    # A run that is cut short has then seen something of everything.
    return [chosen[index] for index in random.permutation(len(chosen))]


def choose_operations(request: ProfileRequest) -> list[OperationProbe]:
    """Return the networks of operations outside the block families that a profile measures, in a share of its time.

    None where the runtime cannot time them, or where there is too little time for a few.

    Args:
        request: what is wanted.
    """
    if request.runtime not in operation_probes.RUNTIMES or request.precision not in operation_probes.PRECISIONS:
        return []
    found, left_s = [], OPERATION_SHARE * _round_s(request)
    probes = operation_probes.operation_probes(MAX_OPERATION_PROBES, seed=request.seed, precision=request.precision)
    for probe in probes:
        left_s -= _operations_s(probe, request.batch)
        if left_s < 0:
            break
        found.append(probe)
    return found if len(found) >= MIN_OPERATION_PROBES else []


def _round_s(request: ProfileRequest) -> float:
    return request.minutes * 60 / Effort(budget_s=0).min_rounds


def _probes(request: ProfileRequest, random: np.random.Generator) -> Iterator[Chosen]:
    for index, space in enumerate(cycle(request.spaces)):
        graph = _probe(space, random, name=f"probe{index:03}", batch=request.batch)
        yield Chosen(graph=graph)


def _probe(space: Space, random: np.random.Generator, *, name: str, batch: int) -> Graph:
    for steps in range(PROBE_STEPS, 0, -1):
        graph = expand(sampling.probe_architecture(space, random, steps=steps), name=name)
        if costs.macs(graph) * batch <= LARGEST_PROBE_MACS:
            return graph
    return graph


def _networks(request: ProfileRequest, random: np.random.Generator) -> Iterator[Chosen]:
    limits = [
        max(LARGEST_NETWORK_MACS / request.batch, costs.macs(_by_size(space)[0]) * 1.5) for space in request.spaces
    ]
    for index, (space, limit) in enumerate(cycle(zip(request.spaces, limits, strict=True))):
        architecture = sampling.random_architecture(space, random, max_macs=limit)
        if index // len(request.spaces) % 3 == 2:  # every third one of each space
            architecture = calibration.optimised(architecture, space, rho=random.uniform(*CALIBRATION_RHO))
        yield Chosen(graph=expand(architecture, name=f"network{index:03}"), architecture=architecture)


def _unit_s(item: Chosen, batch: int) -> float:
    """Return about how long one round of a network takes."""
    return _runs_s(_run_s(item.graph, batch), kinds=1 if item.architecture else 2)


def _run_s(graph: Graph, batch: int) -> float:
    return float(costs.macs(graph) * batch / NOMINAL_MACS_PER_S + NOMINAL_LAYER_S * len(graph.nodes))


def _operations_s(probe: OperationProbe, batch: int) -> float:
    specs = [node.spec for node in operation_probes.operations(probe)]
    values, macs = sum(spec.moved_values for spec in specs), sum(spec.macs for spec in specs)
    return _runs_s(batch * (values / NOMINAL_VALUES_PER_S + macs / NOMINAL_MACS_PER_S), kinds=2)


def _runs_s(run_s: float, *, kinds: int) -> float:
    """Return about how long one round takes of a network whose runs take so long, of one kind or of two."""
    blocks, runs = Rhythm().turns(run_s * 1e6)
    return float(NOMINAL_UNIT_S + run_s * (WARM_UP_RUNS + blocks * runs) * kinds)


def _corners(spaces: Sequence[Space]) -> list[Graph]:
    corners = itertools.chain.from_iterable(sampling.corner_architectures(space) for space in spaces)
    return [expand(architecture, name=f"corner{index:03}") for index, architecture in enumerate(corners)]


def _rescaled(names: Sequence[str]) -> list[Graph]:
    found = []
    for name in names:
        graph = reference.get(name)
        factors = WIDTH_FACTORS if costs.macs(graph) > SMALL_NETWORK_MACS else WIDTH_FACTORS + MORE_WIDTH_FACTORS
        found += [sampling.rescaled(graph, factor, name=f"{name}_x{factor:g}") for factor in factors]
    return found


def _of_other_sizes() -> list[Graph]:
    return [
        sampling.rescaled(reference.get(name, resolution=(side, side)), factor, name=f"{name}_x{factor:g}_{side}")
        for name, factor, side in OTHER_SIZES
    ]


def _small_networks(request: ProfileRequest) -> list[Chosen]:
    """Return networks so short that they may find their weights in the cache, of spaces that have such."""
    found: list[Chosen] = []
    for space in request.spaces:
        for architecture in _by_size(space)[:SMALL_NETWORKS_PER_SPACE]:
            graph = expand(architecture, name=f"small{len(found):03}")
            if _run_s(graph, request.batch) < SMALL_NETWORK_S:
                found.append(Chosen(graph=graph, architecture=architecture))
    return found


@functools.cache
def _by_size(space: Space) -> tuple[Architecture, ...]:
    """Return random networks of a space, always the same, the smallest first."""
    random = np.random.default_rng(0)
    drawn = [sampling.random_architecture(space, random) for _ in range(DRAWN_FOR_SMALL)]
    return tuple(sorted(drawn, key=costs.macs))


def preview(request: ProfileRequest) -> Preview:
    """Return what a profile would measure, without measuring.

    Args:
        request: what is wanted.
    """
    chosen = choose(request)
    probes = [item.graph for item in chosen if item.architecture is None]
    specs = {node.spec for graph in probes for node in graph}
    largest = max(costs.layer_weights(node.spec) for item in chosen for node in item.graph)
    others = choose_operations(request)
    operations = [node.spec for probe in others for node in operation_probes.operations(probe)]
    nodes = sum(len(item.graph.nodes) for item in chosen) + len(operations)
    round_s = sum(_unit_s(item, request.batch) for item in chosen)
    round_s += sum(_operations_s(probe, request.batch) for probe in others)
    least_s = Effort(budget_s=0).min_rounds * round_s
    value_bytes, node_bytes = _PACKED_BYTES[request.precision]
    return Preview(
        probes=len(probes),
        networks=len(chosen) - len(probes),
        layers=len(specs),
        operation_probes=len(others),
        operations=len(set(operations)),
        minutes=max(request.minutes, least_s / 60),
        megabytes=(largest * value_bytes + nodes * node_bytes) / 2**20,
    )


_PACKED_BYTES = {"fp32": (4, 900), "int8": (1, 2400)}  # of one weight, and of one node's ONNX and JSON together


def pack(
    request: ProfileRequest, folder: Path, *, on_probe: Callable[[int, int], None] = lambda done, total: None
) -> list[Chosen]:
    """Write the plan of a profile into a folder, for this device or another one.

    Args:
        request: what is wanted.
        folder: made if it does not exist.
        on_probe: told after each network how many are written, and of how many.

    Returns:
        The networks in it, those of operations left out.
    """
    chosen = choose(request)
    packed = [
        PackedProbe(name=item.graph.name, graph=item.graph, by_layer=item.architecture is None) for item in chosen
    ]
    packed = _spread(
        packed, [PackedProbe(name=each.name, operations=each, by_layer=True) for each in choose_operations(request)]
    )
    write_plan(folder, packed, batch=request.batch, precision=request.precision, on_probe=on_probe)
    networks = {item.graph.name: architecture_to_json(item.architecture) for item in chosen if item.architecture}
    write_json(folder / NETWORKS_FILE, {"schema": 1, "networks": networks})
    return chosen


def _spread(packed: list[PackedProbe], others: list[PackedProbe]) -> list[PackedProbe]:
    """Return both, the others evenly among the first: a run that is cut short has seen something of everything."""
    places = [(index / len(some), probe) for some in (packed, others) for index, probe in enumerate(some)]
    return [probe for _, probe in sorted(places, key=lambda place: place[0])]


def profile(
    request: ProfileRequest,
    *,
    out: Path,
    on_tick: Callable[[Tick], None] = lambda tick: None,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyTable:
    """Measure this device and write its latency table; called again after a stop, it goes on.

    While it is unfinished, the plan and the journal lie beside the table.

    Args:
        request: what is wanted.
        out: the table's CSV; the sidecar takes the ending ``.json``.
        on_tick: told after each stored unit.
        on_probe: told before that, after each network that is written for measuring, how many are, and of how many.

    Returns:
        The table.

    Raises:
        MissingExtraError: the runtime is not installed.
        TooNoisyError: most of what was measured was disturbed.
        ForeignTableError: the journal beside `out` belongs to another profile.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder, journal = out.with_suffix(".plan"), out.with_suffix(".journal")
    chosen = pack(request, folder, on_probe=on_probe)
    plan = read_plan(folder)
    settings = Settings(runtime=request.runtime, threads=request.threads, script=request.script)
    memory_bytes = environment.memory_bytes() if request.runtime in backends.LIMITED_RUNTIMES else 0
    effort = Effort(budget_s=request.minutes * 60, memory_bytes=memory_bytes)
    found, units = run.measure(plan, settings, journal=journal, effort=effort, on_tick=on_tick)
    table = publish(plan, units, found, chosen, name=table_name(out), request=request)
    write_table(out, table)
    shutil.rmtree(folder)
    for leftover in (journal, *journal.parent.glob(f"{journal.name}-*")):
        leftover.unlink(missing_ok=True)
    return table


def table_name(path: Path) -> str:
    """Return the name of a table that lies in a file: letters, digits, dots and dashes of its stem.

    Args:
        path: the CSV.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem) or "table"


def publish(
    plan: Plan,
    units: list[Unit],
    found: Environment,
    chosen: Sequence[Chosen],
    *,
    name: str,
    request: ProfileRequest,
) -> LatencyTable:
    """Return the table that measured units make.

    Args:
        plan: what was measured.
        units: how it went.
        found: where.
        chosen: the networks of the plan.
        name: of the table.
        request: what was wanted.

    Raises:
        TooNoisyError: most probes were disturbed whenever they were measured.
        DeviceLostError: none could be measured at all.
    """
    rows = samples.layers(plan, units)
    _require_usable(rows, units, where=name)
    architectures = {item.graph.name: item.architecture for item in chosen if item.architecture is not None}
    calibration = [
        CalibrationNetwork(architecture=architectures[measured.name], measurement=measured)
        for measured in samples.networks(units)
        if measured.name in architectures
    ]
    return LatencyTable(
        name=name,
        environment=found,
        rows=tuple(rows),
        calibration=tuple(calibration),
        operations=tuple(samples.operations(plan, units)),
        measured_on=datetime.datetime.now(datetime.UTC).date().isoformat(),
        canary_us=statistics.median(samples.canary_level_us(unit) for unit in samples.trusted(units)),
        notes=(
            f"profiled for {', '.join(dict.fromkeys(space.family for space in request.spaces))}",
            f"{request.minutes:g} minutes, seed {request.seed}, {len(units)} units",
        ),
    )


def _require_usable(rows: Sequence[LayerMeasurement], units: Sequence[Unit], *, where: str) -> None:
    if not any(row.samples_us for row in rows):
        last = next((unit.message or unit.status for unit in reversed(units) if unit.status != "ok"), "no layers")
        raise DeviceLostError(f"nothing could be measured, last: {last}", where=where, hint="see 'deepmad-hw doctor'")
    noisy = sum(row.status == "noisy" for row in rows)
    if noisy > MAX_NOISY_SHARE * len(rows):
        raise TooNoisyError(
            f"{noisy} of {len(rows)} layers were disturbed every time they were measured",
            where=where,
            hint="stop other work on this machine and run the same command again",
        )
