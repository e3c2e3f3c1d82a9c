"""Which networks a profile measures in its time, and how much that is. Layer 4."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters import operation_probes
from deepmad_hw.exporters.operation_probes import OperationProbe
from deepmad_hw.exporters.probes import require_precision
from deepmad_hw.network import costs, reference
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import Graph
from deepmad_hw.problem import sampling
from deepmad_hw.problem.space import Space
from deepmad_hw.workflows.profiling import calibration
from deepmad_hw.workflows.runfile.config import load_run
from profilers.run import Effort
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
_PACKED_BYTES = {"fp32": (4, 900), "int8": (1, 2400)}  # of one weight, and of one node's ONNX and JSON together


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileRequest:
    """What a table is wanted for, and how much time there is.

    Args:
        spaces: designs whose layers it must cover.
        runtime: name of the backend.
        threads: threads per operator.
        batch: images at once.
        precision: of the probes, one of `deepmad_hw.exporters.probes.PRECISIONS`.
        minutes: measuring time.
        seed: of the choice of probes.
        references: well-known networks whose kinds of layers it must cover too.
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
    least, most = CALIBRATION_NETWORKS
    for source, until_s, counts in (
        (probes, seconds * (1 - CALIBRATION_SHARE), (MIN_PROBES_PER_SPACE * len(request.spaces), math.inf)),
        (networks, seconds, (max(least, NETWORKS_PER_SPACE * len(request.spaces)), most)),
    ):
        for count in itertools.count():
            if count >= counts[1] or (spent_s >= until_s and count >= counts[0]):
                break
            chosen.append(next(source))
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
    chosen, left_s = [], OPERATION_SHARE * _round_s(request)
    probes = operation_probes.operation_probes(MAX_OPERATION_PROBES, seed=request.seed, precision=request.precision)
    for probe in probes:
        left_s -= _operations_s(probe, request.batch)
        if left_s < 0:
            break
        chosen.append(probe)
    return chosen if len(chosen) >= MIN_OPERATION_PROBES else []


def _round_s(request: ProfileRequest) -> float:
    return request.minutes * 60 / Effort(budget_s=0).min_rounds


def _probes(request: ProfileRequest, random: np.random.Generator) -> Iterator[Chosen]:
    for index, space in enumerate(itertools.cycle(request.spaces)):
        yield Chosen(graph=_probe(space, random, name=f"probe{index:03}", batch=request.batch))


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
    for index, (space, limit) in enumerate(itertools.cycle(zip(request.spaces, limits, strict=True))):
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
    graphs = []
    for name in names:
        graph = reference.get(name)
        factors = WIDTH_FACTORS if costs.macs(graph) > SMALL_NETWORK_MACS else WIDTH_FACTORS + MORE_WIDTH_FACTORS
        graphs += [sampling.rescaled(graph, factor, name=f"{name}_x{factor:g}") for factor in factors]
    return graphs


def _of_other_sizes() -> list[Graph]:
    return [
        sampling.rescaled(reference.get(name, resolution=(side, side)), factor, name=f"{name}_x{factor:g}_{side}")
        for name, factor, side in OTHER_SIZES
    ]


def _small_networks(request: ProfileRequest) -> list[Chosen]:
    """Return networks so short that they may find their weights in the cache, of spaces that have such."""
    small: list[Chosen] = []
    for space in request.spaces:
        for architecture in _by_size(space)[:SMALL_NETWORKS_PER_SPACE]:
            graph = expand(architecture, name=f"small{len(small):03}")
            if _run_s(graph, request.batch) < SMALL_NETWORK_S:
                small.append(Chosen(graph=graph, architecture=architecture))
    return small


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
