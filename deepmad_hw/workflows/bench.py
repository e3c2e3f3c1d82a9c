"""Measures networks beside their prediction: profiling with one big probe, interleaved. Layer 4."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepmad_hw.errors import ConfigError, InputFileError, NotCoveredError, TooNoisyError
from deepmad_hw.exporters import onnx_read
from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.latency import predict_ms, uncovered
from deepmad_hw.layer import Graph
from deepmad_hw.measurement import NetworkMeasurement
from deepmad_hw.predict.network import TableModel
from deepmad_hw.workflows.networks import load_network
from deepmad_hw.workflows.tables import load_model, require_this_machine
from profilers import backend as backends
from profilers import run, samples
from profilers.backend import Settings
from profilers.plan import Plan, read_plan
from profilers.run import Effort, Tick
from profilers.timing import Rhythm

SECONDS_PER_NETWORK = 6.0
ROUNDS = 8
BLOCKS_PER_ROUND = 2
MAX_RELATIVE_ERROR = 0.05  # half-width of the median's interval that a disturbed network may have


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A network to be benched.

    Args:
        name: how it is shown.
        graph: its layers, or None for a file that says nothing of them.
        file: its ONNX file, or None to write one from the graph.
        input_shape: channels, height, width.
    """

    name: str
    graph: Graph | None
    file: Path | None
    input_shape: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRow:
    """One network's prediction and measurement.

    Args:
        name: of the network.
        predicted_ms: by the table, or None where it cannot say.
        lower_ms: prediction less the table's margin, or None.
        upper_ms: prediction plus the table's margin, or None.
        uncovered: layers that the table cannot answer for.
        measurement: the times, or None if only predicted.
        drift: how much slower the machine is now than when the table was made, as a factor, or None.
    """

    name: str
    predicted_ms: float | None = None
    lower_ms: float | None = None
    upper_ms: float | None = None
    uncovered: tuple[str, ...] = ()
    measurement: NetworkMeasurement | None = None
    drift: float | None = None

    @property
    def measured_ms(self) -> float | None:
        """Return the median measured latency in milliseconds."""
        return None if self.measurement is None else self.measurement.median_us / 1e3

    @property
    def error(self) -> float | None:
        """Return predicted over measured, minus one."""
        if self.predicted_ms is None or self.measured_ms is None:
            return None
        return self.predicted_ms / self.measured_ms - 1


def subject(name_or_path: str | Path) -> Subject:
    """Return what a word on the command line names.

    Args:
        name_or_path: an ONNX file, or what `deepmad_hw.workflows.networks.load_network` takes.

    Raises:
        ConfigError: no such file or name.
        InputFileError: the folder or file cannot be used.
    """
    path = Path(name_or_path)
    if path.suffix != ".onnx":
        return of_graph(load_network(name_or_path).graph)
    return Subject(
        name=path.stem,
        graph=onnx_read.graph_of(path),
        file=path.resolve(),
        input_shape=onnx_read.image_shape(path),
    )


def of_graph(graph: Graph) -> Subject:
    """Return a graph as something to be benched.

    Args:
        graph: the network.
    """
    return Subject(name=graph.name, graph=graph, file=None, input_shape=(graph.in_channels, graph.height, graph.width))


def predict(subjects: Sequence[Subject], model: TableModel) -> list[BenchRow]:
    """Return what a table says of networks.

    Args:
        subjects: the networks.
        model: the table.
    """
    return [_predicted(item, model) for item in subjects]


def _predicted(item: Subject, model: TableModel) -> BenchRow:
    if item.graph is None:
        return BenchRow(name=item.name, uncovered=("the file does not say what its layers are",))
    missing = uncovered(item.graph, model)
    if missing:
        return BenchRow(name=item.name, uncovered=missing)
    predicted_ms, margin = predict_ms(item.graph, model), model.margin
    if margin is None:
        return BenchRow(name=item.name, predicted_ms=predicted_ms)
    return BenchRow(
        name=item.name,
        predicted_ms=predicted_ms,
        lower_ms=predicted_ms * (1 - margin),
        upper_ms=predicted_ms * (1 + margin),
    )


def bench(
    networks: Sequence[str | Path | Subject],
    *,
    table: Path | None = None,
    threads: int = 1,
    runtime: str = "onnxruntime",
    seconds_per_network: float = SECONDS_PER_NETWORK,
    predict_only: bool = False,
    on_tick: Callable[[Tick], None] = lambda tick: None,
) -> list[BenchRow]:
    """Measure networks on this machine, interleaved in one run, beside their prediction.

    Args:
        networks: design folders, ONNX files, reference names, or subjects.
        table: latency table to predict with; its runtime and threads are then used.
        threads: threads per operator, without a table.
        runtime: backend, without a table.
        seconds_per_network: measuring time.
        predict_only: leave the measuring out.
        on_tick: told after each unit.

    Returns:
        One row per network, in their order.

    Raises:
        ConfigError: no network, two networks of one name, or nothing to predict with.
        InputFileError: a file cannot be used.
        NotCoveredError: prediction only, and the table covers none of the networks.
        ForeignTableError: the table was not taken on this machine.
        TooNoisyError: a network was disturbed whenever it was measured, and its median is not sure.
    """
    subjects = [item if isinstance(item, Subject) else subject(item) for item in networks]
    if not subjects:
        raise ConfigError("no network to bench", hint="name designs, ONNX files or reference networks")
    _require_distinct(subjects)
    model = load_model(table) if table is not None else None
    if predict_only and model is None:
        raise ConfigError("nothing to predict with", where="--table", hint="name a latency table")
    rows = predict(subjects, model) if model is not None else [BenchRow(name=item.name) for item in subjects]
    if predict_only:
        if all(row.predicted_ms is None for row in rows):
            raise NotCoveredError(f"no network is covered; first uncovered: {rows[0].uncovered[0]}", where=str(table))
        return rows
    environment = model.table.environment if model is not None else None
    settings = Settings(
        runtime=environment.runtime if environment else runtime, threads=environment.threads if environment else threads
    )
    batch = environment.batch if environment else 1
    with tempfile.TemporaryDirectory(prefix="deepmad-hw-bench-") as folder:
        plan = _packed(subjects, batch, Path(folder))
        if model is not None:
            found = backends.get(settings.runtime).environment(plan, settings)
            require_this_machine(model.table, found, where=str(table))
        measured, canary_us = _measure(plan, settings, seconds_per_network, on_tick)
    was_us = model.table.canary_us if model is not None else None
    drift = canary_us / was_us if was_us else None
    return [replace(row, measurement=_sure(measured, row.name), drift=drift) for row in rows]


def _packed(subjects: Sequence[Subject], batch: int, folder: Path) -> Plan:
    packed = [
        PackedProbe(
            name=item.name,
            graph=item.graph if item.file is None else None,
            file=item.file,
            input_shape=item.input_shape,
        )
        for item in subjects
    ]
    write_plan(folder, packed, batch=batch)
    return read_plan(folder)


def _measure(
    plan: Plan, settings: Settings, seconds_per_network: float, on_tick: Callable[[Tick], None]
) -> tuple[dict[str, NetworkMeasurement], float]:
    """Return every network's times, and what the canary took meanwhile."""
    block_us = seconds_per_network * 1e6 / ROUNDS / BLOCKS_PER_ROUND
    effort = Effort(
        budget_s=seconds_per_network * len(plan.probes) * 2,
        min_rounds=ROUNDS,
        max_rounds=2 * ROUNDS,
        rhythm=Rhythm(blocks=BLOCKS_PER_ROUND, block_us=block_us, max_runs=1000),
    )
    _, units = run.measure(plan, settings, journal=plan.folder / "bench.journal", effort=effort, on_tick=on_tick)
    broken = [unit for unit in units if unit.status != "ok"]
    if broken:
        raise InputFileError(f"cannot be run: {broken[0].message or broken[0].status}", where=broken[0].probe)
    canary_us = statistics.median(samples.canary_level_us(unit) for unit in samples.trusted(units))
    return {measured.name: measured for measured in samples.networks(units)}, canary_us


def _sure(measured: Mapping[str, NetworkMeasurement], name: str) -> NetworkMeasurement:
    """Return a measurement whose median is known well enough, calm or not."""
    found = measured[name]
    if found.status == "noisy" and found.relative_error > MAX_RELATIVE_ERROR:
        raise TooNoisyError(
            f"was disturbed every time it was measured, its median is known to {found.relative_error:.0%} only",
            where=name,
            hint="stop other work on this machine and run the same command again",
        )
    return found


def _require_distinct(subjects: Sequence[Subject]) -> None:
    names = [item.name for item in subjects]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("two networks of one name", where=name, hint="rename one of the files")
