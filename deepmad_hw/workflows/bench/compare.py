"""Designs beside networks that others have designed, timed in turns in one run on one runtime. Layer 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from deepmad_hw.errors import ConfigError
from deepmad_hw.network import released
from deepmad_hw.problem.objective import Objective
from deepmad_hw.workflows.bench.bench import SECONDS_PER_NETWORK, BenchRow, Subject, bench, of_graph, subject
from deepmad_hw.workflows.bench.rows import row_of
from deepmad_hw.workflows.networks.networks import from_architecture
from deepmad_hw.workflows.results.results import Reference, Results, comparable
from deepmad_hw.workflows.results.results_folder import described
from deepmad_hw.workflows.tables.tables import load_table
from profilers.run import Tick

NETWORKS = ("resnet18", "resnet34", "resnet50", "mobilenet_v2", "efficientnet_b0", *released.names())
# ImageNet-1k top-1 in percent, of the weights that torchvision calls IMAGENET1K_V1, as its documentation lists them.
RELEASED_SOURCE = "Shen et al., DeepMAD, CVPR 2023"
TOP1_SOURCE = "torchvision, weights IMAGENET1K_V1"
TOP1_PERCENT = {
    "resnet18": 69.758,
    "resnet34": 73.314,
    "resnet50": 76.130,
    "mobilenet_v2": 71.878,
    "efficientnet_b0": 77.692,
}

Bench = Callable[..., list[BenchRow]]


def compared(
    results: Results,
    table: Path,
    *,
    networks: Sequence[str | Path] = NETWORKS,
    objective: Objective | None = None,
    seconds_per_network: float = SECONDS_PER_NETWORK,
    measure: Bench = bench,
    on_tick: Callable[[Tick], None] = lambda tick: None,
) -> Results:
    """Return results with a measurement of every design and of other networks, taken in turns, sure or not.

    Args:
        results: the designs.
        table: of this machine; its runtime and settings are used, and it predicts.
        networks: names, design folders or ONNX files to measure beside them.
        objective: what the designs maximise, None for DeepMAD's; networks that it says nothing of have none.
        seconds_per_network: measuring time.
        measure: times networks; as `bench`.
        on_tick: told after each unit.

    Raises:
        ConfigError: no design, or a network called like a point.
        ForeignTableError: the table was not taken on this machine.
    """
    ours = [
        of_graph(from_architecture(point.solution.architecture, name=point.name).graph)
        for point in results.points
        if point.solution.architecture is not None
    ]
    if not ours:
        raise ConfigError("no design to compare", where="--compare")
    others = [subject(network) for network in networks]
    subjects: list[Subject] = [*ours, *others]
    rows = measure(subjects, table=table, seconds_per_network=seconds_per_network, on_tick=on_tick)
    name = load_table(table).name
    told = {row.name: row_of(row, table=name) for row in rows}
    points = tuple(
        replace(point, rows=(*(row for row in point.rows if row.table != name), told[point.name]))
        if point.name in told
        else point
        for point in results.points
    )
    measured = [_with_accuracy(described(told[other.name], objective=objective)) for other in others]
    known = {reference.row.name for reference in measured}
    kept = tuple(reference for reference in results.references if reference.row.name not in known)
    return comparable(replace(results, points=points, references=(*kept, *measured)))


def _with_accuracy(found: Reference) -> Reference:
    name = found.row.name
    if name in released.names():
        return replace(found, top1_percent=released.top1_percent(name), top1_source=RELEASED_SOURCE)
    percent = TOP1_PERCENT.get(name)
    return found if percent is None else replace(found, top1_percent=percent, top1_source=TOP1_SOURCE)
