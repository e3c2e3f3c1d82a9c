"""Measures networks beside their prediction: profiling with one big probe, interleaved. Layer 4."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypedDict

from numpy.typing import NDArray

from deepmad_hw.errors import ConfigError, InputFileError, NotCoveredError, TooNoisyError
from deepmad_hw.exporters import onnx_counts, onnx_inputs, onnx_loader, onnx_read, runtime_look, runtime_walk
from deepmad_hw.exporters.onnx_counts import Counts
from deepmad_hw.exporters.onnx_inputs import NOTHING_SAID, InputRequest
from deepmad_hw.exporters.onnx_walk import walk
from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.exporters.walked import Operation, Walk
from deepmad_hw.latency.measurement import NetworkMeasurement
from deepmad_hw.network import costs
from deepmad_hw.network.layer import Graph, LayerSpec, Node, OperationSpec
from deepmad_hw.predict.composition import (
    EXTRAPOLATED,
    MAX_EXTRAPOLATED,
    MEASURED,
    MISSING,
    Composition,
    Part,
    composed,
)
from deepmad_hw.predict.network import TableModel
from deepmad_hw.workflows.networks.networks import load_network
from deepmad_hw.workflows.tables.tables import load_model, require_this_machine
from profilers import backend as backends
from profilers import environment, run, samples
from profilers.backend import Settings
from profilers.journal import Unit
from profilers.plan import Plan, read_plan
from profilers.run import Effort, Tick
from profilers.timing import Rhythm

SECONDS_PER_NETWORK = 6.0
ROUNDS = 8
BLOCKS_PER_ROUND = 2
NEGLIGIBLE_VALUES = 8192  # of an operation that no law is measured for; a network's time does not show them
MAX_RELATIVE_ERROR = 0.05  # half-width of the median's interval that a disturbed network may have


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A network to be benched.

    Args:
        name: how it is shown.
        graph: the network, or None for an ONNX file of someone else.
        data: its ONNX file as it was judged, complete in itself; None to write one from the graph.
        values: of every input of the file, by name.
        walk: what its file is made of, or None without one.
        counts: MACs and parameters of its file, or None without one.
    """

    name: str
    graph: Graph | None
    data: bytes | None = field(default=None, repr=False)
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    walk: Walk | None = None
    counts: Counts | None = None

    @property
    def batch(self) -> int | None:
        """Return how many images its file takes at once, None where nothing says so."""
        first = next(iter(self.values.values()), None)
        return None if first is None or not first.shape else first.shape[0]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Return the layers as far as they are known."""
        return self.graph.nodes if self.graph is not None else self.walk.nodes if self.walk is not None else ()

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Return what else a foreign file computes."""
        return self.walk.operations if self.graph is None and self.walk is not None else ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One layer's share of a prediction.

    Args:
        name: of the layer.
        spec: what it is.
        predicted_ms: its share, or None where the table cannot say.
        lower_ms: what it takes at least, at the table's confidence, or None.
        upper_ms: what it takes at most, at the table's confidence, or None.
        source: what answers for it: ``measured`` rows, a ``law``, ``extrapolated`` or ``missing``.
    """

    name: str
    spec: LayerSpec | OperationSpec
    predicted_ms: float | None = None
    lower_ms: float | None = None
    upper_ms: float | None = None
    source: str = "measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRow:
    """One network's prediction and measurement.

    Args:
        name: of the network.
        predicted_ms: by the table, or None where it cannot say.
        lower_ms: prediction less the table's margin, or None.
        upper_ms: prediction plus the table's margin, or None.
        uncovered: what neither the table nor the walk of the file can answer for, with the reason.
        covered_ms: what the covered parts take alone, or None without a table.
        extrapolated: ``name: x ms`` of each part that rests on extrapolation, largest first.
        extrapolated_share: share of the prediction that they make up, or None without a table.
        macs: multiply-adds for one image, or None where nothing tells them.
        params: parameters, or None where nothing tells them.
        not_counted: ``name: reason`` of each operation that `macs` and `params` leave out.
        notes: where a layer stands for something that is only nearly the same.
        layers: one row per layer, if they were asked for.
        measurement: the times, or None if only predicted.
        status: how measuring it went, one of `deepmad_hw.latency.measurement.STATUSES`, or None if only predicted.
        reason: why it has no measured time, or one that is not sure.
        drift: how much slower the machine is now than when the table was made, as a factor, or None.
    """

    name: str
    predicted_ms: float | None = None
    lower_ms: float | None = None
    upper_ms: float | None = None
    uncovered: tuple[str, ...] = ()
    covered_ms: float | None = None
    extrapolated: tuple[str, ...] = ()
    extrapolated_share: float | None = None
    macs: int | None = None
    params: int | None = None
    not_counted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    measurement: NetworkMeasurement | None = None
    status: str | None = None
    reason: str = ""
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


def subject(name_or_path: str | Path, *, inputs: InputRequest = NOTHING_SAID, batch: int = 1) -> Subject:
    """Return what a word on the command line names.

    A file of someone else is run in guarded processes, where ONNX Runtime is installed: that tells whether it can be
    run, sizes that are known at run time only, and which operations the runtime makes of it.

    Args:
        name_or_path: an ONNX file, or what `deepmad_hw.workflows.networks.networks.load_network` takes.
        inputs: what the user says of the inputs of ONNX files.
        batch: images at once, where the file leaves it free.

    Raises:
        ConfigError: no such file or name, or what is said of its inputs does not fit it.
        InputFileError: the folder or file cannot be used.
    """
    path = Path(name_or_path)
    if path.suffix != ".onnx":
        return of_graph(load_network(name_or_path).graph)
    where = str(path)
    data, model = onnx_loader.read_bytes(path), onnx_loader.read_model(path)
    graph = onnx_read.graph_of(path)
    expected = onnx_inputs.inputs_of(model, where=where)
    shapes = onnx_inputs.shapes_of(expected, inputs, batch=batch, where=where)
    values = onnx_inputs.values_of(expected, shapes, inputs.data)
    tensors = onnx_loader.run_once(data, values, where=where) if graph is None else None
    found = walk(model, tensors)
    ran = runtime_look.look(data, values) if graph is None else None
    sizes = None if tensors is None else {name: kind.shape for name, kind in tensors.items()}
    return Subject(
        name=path.stem,
        graph=graph,
        data=data,
        values=values,
        walk=found if ran is None else runtime_walk.held(found, ran).walk,
        counts=onnx_counts.counts(model, shapes=sizes),
    )


def of_graph(graph: Graph) -> Subject:
    """Return a graph as something to be benched.

    Args:
        graph: the network.
    """
    return Subject(name=graph.name, graph=graph)


def predict(
    subjects: Sequence[Subject], model: TableModel, *, layers: bool = False, strict: bool = False
) -> list[BenchRow]:
    """Return what a table says of networks.

    Args:
        subjects: the networks.
        model: the table.
        layers: whether to tell of each layer too, with an interval of its own.
        strict: whether to give no number that rests on extrapolation, be it a small part of it.
    """
    most = 0.0 if strict else MAX_EXTRAPOLATED
    return [_predicted(item, model, layers=layers, most_extrapolated=most) for item in subjects]


def _predicted(item: Subject, model: TableModel, *, layers: bool, most_extrapolated: float) -> BenchRow:
    layered = [(node.name, node.spec) for node in item.nodes]
    others, left_out = _told_apart(item, model)
    specs: dict[str, LayerSpec | OperationSpec] = {**dict(others), **dict(layered)}
    found = composed(layered, others, model)
    missing = [f"{part.name}: no rows of the table surround {_told(specs[part.name])}" for part in _missing(found)]
    share = found.extrapolated_share
    if share > most_extrapolated:
        missing.append(f"the whole network: {share:.0%} of it rests on extrapolation")
    row = replace(
        _counted(item),
        uncovered=(*_strange(item, model), *missing),
        covered_ms=found.known_ms,
        extrapolated=tuple(_guesses(found)),
        extrapolated_share=share,
        notes=(*(item.walk.notes if item.walk is not None and item.graph is None else ()), *left_out),
        layers=tuple(_layer_rows(specs, found, model)) if layers else (),
    )
    if row.uncovered:
        return row
    predicted_ms, half_ms = found.known_ms, found.half_width_ms
    if half_ms is None:
        return replace(row, predicted_ms=predicted_ms)
    lower_ms, upper_ms = max(0.0, predicted_ms - half_ms), predicted_ms + half_ms
    return replace(row, predicted_ms=predicted_ms, lower_ms=lower_ms, upper_ms=upper_ms)


def _told_apart(item: Subject, model: TableModel) -> tuple[list[tuple[str, OperationSpec]], list[str]]:
    """Return the operations to predict, and what is left out where the table has no law: layout, and next to nothing.

    Tables made before there were laws have changes of layout in the rows of their layers, as far as these cause them.
    """
    kept, layouts, notes = [], 0, []
    for each in item.operations:
        known = bool(model.operations.covers([each.spec])[0])
        if known or (each.spec.kind != "reorder" and each.spec.moved_values > NEGLIGIBLE_VALUES):
            kept.append((each.name, each.spec))
        elif each.spec.kind == "reorder":
            layouts += 1
        else:
            notes.append(f"{each.name}: {each.spec.kind} of {each.spec.moved_values} values is left out as negligible")
    if layouts:
        notes.append(f"{layouts} changes of layout are left out: the table has no law of them")
    return kept, notes


def _missing(found: Composition) -> list[Part]:
    return [part for part in found.parts if part.source == MISSING]


def _guesses(found: Composition) -> list[str]:
    guessed = sorted((part for part in found.parts if part.source == EXTRAPOLATED), key=lambda part: -part.time_ms)
    return [f"{part.name}: {part.time_ms:.4f} ms" for part in guessed]


def _counted(item: Subject) -> BenchRow:
    """Return a row that says how large a network is."""
    if item.counts is not None and item.graph is None:
        counted = item.counts
        return BenchRow(name=item.name, macs=counted.macs, params=counted.params, not_counted=counted.not_counted)
    if item.graph is None:
        return BenchRow(name=item.name)
    return BenchRow(name=item.name, macs=costs.macs(item.graph), params=costs.params(item.graph))


def _strange(item: Subject, model: TableModel) -> tuple[str, ...]:
    """Return what of a file no table could answer for, and what this one could not because of its precision."""
    if item.walk is None:
        return ()
    precision = model.table.environment.precision
    wrong = []
    if item.walk.precision != precision:
        wrong.append(f"the whole file: is {item.walk.precision}, the table speaks of {precision}")
    if item.batch not in (None, model.batch):
        wrong.append(f"the whole file: takes {item.batch} images at once, the table speaks of {model.batch}")
    return (*wrong, *(item.walk.uncovered if item.graph is None else ()))


def _layer_rows(
    specs: Mapping[str, LayerSpec | OperationSpec], found: Composition, model: TableModel
) -> Iterator[LayerRow]:
    measured = (specs[part.name] for part in found.layers if part.source == MEASURED)
    margins = iter(model.layer_margins([spec for spec in measured if isinstance(spec, LayerSpec)]))
    for part in found.parts:
        spec = specs[part.name]
        row = LayerRow(name=part.name, spec=spec, source=part.source)
        margin = next(margins) if part.source == MEASURED else part.margin
        if part.source == MISSING:
            yield row
        elif margin is None:
            yield replace(row, predicted_ms=part.time_ms)
        else:
            lower_ms, upper_ms = part.time_ms * max(0.0, 1 - margin), part.time_ms * (1 + margin)
            yield replace(row, predicted_ms=part.time_ms, lower_ms=lower_ms, upper_ms=upper_ms)


def _told(spec: LayerSpec | OperationSpec) -> str:
    """Return a layer in a few words, such as ``conv3x3/2 16->32 at 56x56 relu``."""
    if isinstance(spec, OperationSpec):
        return f"{spec.kind} of {spec.read_values} to {spec.written_values} values"
    window = f"{spec.kernel}x{spec.kernel}" if spec.op in ("conv", "max_pool", "avg_pool") else ""
    stride = f"/{spec.stride}" if spec.stride > 1 else ""
    groups = f" in {spec.groups} groups" if spec.groups > 1 else ""
    ends = ("", f" {spec.activation}")[spec.activation != "none"] + ("", " with a sum")[spec.residual]
    return (
        f"{spec.op}{window}{stride} {spec.in_channels}->{spec.out_channels} at {spec.height}x{spec.width}{groups}{ends}"
    )


def bench(
    networks: Sequence[str | Path | Subject],
    *,
    table: Path | None = None,
    threads: int = 1,
    runtime: str = "onnxruntime",
    seconds_per_network: float = SECONDS_PER_NETWORK,
    predict_only: bool = False,
    layers: bool = False,
    strict: bool = False,
    inputs: InputRequest = NOTHING_SAID,
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
        layers: predict each layer too, with an interval of its own.
        strict: give no prediction that rests on extrapolation, be it a small part of it.
        inputs: shapes or values of the inputs of ONNX files.
        on_tick: told after each unit.

    Returns:
        One row per network, in their order. What was measured is kept, however unsure; a row whose time is not sure or
        missing says why, and `require_sure` raises that.

    Raises:
        ConfigError: no network, two networks of one name, or nothing to predict with.
        InputFileError: a file cannot be used, or none of the networks can be run.
        NotCoveredError: prediction only, and the table covers none of the networks.
        ForeignTableError: the table was not taken on this machine.
        DeviceLostError: the measuring process fails again and again, or another one holds the device.
    """
    model = load_model(table) if table is not None else None
    subjects = subjects_of(networks, inputs=inputs, batch=model.batch if model is not None else 1)
    if predict_only and model is None:
        raise ConfigError("nothing to predict with", where="--table", hint="name a latency table")
    rows = (
        predict(subjects, model, layers=layers, strict=strict)
        if model is not None
        else [_counted(item) for item in subjects]
    )
    if predict_only:
        if all(row.predicted_ms is None for row in rows):
            raise NotCoveredError(f"no network is covered; first uncovered: {rows[0].uncovered[0]}", where=str(table))
        return rows
    taken = model.table.environment if model is not None else None
    settings = Settings(runtime=taken.runtime if taken else runtime, threads=taken.threads if taken else threads)
    batch, precision = (taken.batch, taken.precision) if taken else (1, "fp32")
    with tempfile.TemporaryDirectory(prefix="deepmad-hw-bench-") as folder:
        plan = _packed(subjects, Path(folder), batch=batch, precision=precision)
        if model is not None:
            found = backends.get(settings.runtime).environment(plan, settings)
            require_this_machine(model.table, found, where=str(table))
        units, stopped = _measure(plan, settings, seconds_per_network, on_tick)
    canary_us = statistics.median(samples.canary_level_us(unit) for unit in samples.trusted(units))
    was_us = model.table.canary_us if model is not None else None
    drift = canary_us / was_us if was_us else None
    return [replace(row, **_outcome(row.name, units, stopped), drift=drift) for row in rows]


def subjects_of(
    networks: Sequence[str | Path | Subject], *, inputs: InputRequest = NOTHING_SAID, batch: int = 1
) -> list[Subject]:
    """Return what several words on the command line name, no two of one name.

    Args:
        networks: design folders, ONNX files, reference names, or subjects.
        inputs: shapes or values of the inputs of ONNX files.
        batch: images at once, where a file leaves it free.

    Raises:
        ConfigError: no network, two of one name, or inputs that none of them has.
        InputFileError: a file cannot be used.
    """
    subjects = [item if isinstance(item, Subject) else subject(item, inputs=inputs, batch=batch) for item in networks]
    if not subjects:
        raise ConfigError("no network to bench", hint="name designs, ONNX files or reference networks")
    _require_distinct(subjects)
    _require_known(inputs, {name for item in subjects for name in item.values})
    return subjects


def _require_known(inputs: InputRequest, names: set[str]) -> None:
    said = {*inputs.shapes, *inputs.data}
    if said and not names:
        raise ConfigError("none of the networks is an ONNX file", where=onnx_inputs.INPUT_OPTION)
    strangers = sorted(said - names - {""})
    if strangers:
        hint = f"there are: {', '.join(sorted(names))}"
        raise ConfigError(f"no input is called {strangers[0]!r}", where=onnx_inputs.INPUT_OPTION, hint=hint)


def _packed(subjects: Sequence[Subject], folder: Path, *, batch: int, precision: str) -> Plan:
    packed = [
        PackedProbe(
            name=item.name,
            graph=item.graph if item.data is None else None,
            data=item.data,
            values=item.values,
        )
        for item in subjects
    ]
    write_plan(folder, packed, batch=batch, precision=precision)
    return read_plan(folder)


def _measure(
    plan: Plan, settings: Settings, seconds_per_network: float, on_tick: Callable[[Tick], None]
) -> tuple[list[Unit], str]:
    """Return what was measured, and why that ended before its time if it did."""
    block_us = seconds_per_network * 1e6 / ROUNDS / BLOCKS_PER_ROUND
    guarded = any(probe.feed for probe in plan.probes) and settings.runtime in backends.LIMITED_RUNTIMES
    effort = Effort(
        memory_bytes=environment.memory_bytes() if guarded else 0,
        budget_s=seconds_per_network * len(plan.probes) * 2,
        min_rounds=ROUNDS,
        max_rounds=2 * ROUNDS,
        rhythm=Rhythm(blocks=BLOCKS_PER_ROUND, block_us=block_us, max_runs=1000),
    )
    journal, stopped = plan.folder / "bench.journal", ""
    try:
        _, units = run.measure(plan, settings, journal=journal, effort=effort, on_tick=on_tick)
    except TooNoisyError as error:
        units, stopped = run.stored(journal), error.what
    if all(unit.status != "ok" for unit in units):
        raise InputFileError(f"cannot be run: {units[0].message or units[0].status}", where=units[0].probe)
    return units, stopped


class _Outcome(TypedDict):
    measurement: NetworkMeasurement | None
    status: str
    reason: str


def _outcome(name: str, units: Sequence[Unit], stopped: str) -> _Outcome:
    """Return what measuring said of a network."""
    found = next((each for each in samples.networks(units) if each.name == name), None)
    failed = next((unit for unit in units if unit.probe == name and unit.status != "ok"), None)
    if failed is not None:
        reason = f"cannot be run: {failed.message or failed.status}"
        return {"measurement": found, "status": failed.status, "reason": reason}
    reason = stopped if found is None or stopped else doubt(found)
    return {"measurement": found, "status": "noisy" if found is None else found.status, "reason": reason}


def doubt(found: NetworkMeasurement) -> str:
    """Return why a measured median is not sure, nothing where it is; a disturbed one may be known well enough.

    Args:
        found: the times.
    """
    if found.status != "noisy" or found.relative_error <= MAX_RELATIVE_ERROR:
        return ""
    return f"was disturbed every time it was measured, its median is known to {found.relative_error:.0%} only"


class Told(Protocol):
    """A row that says how measuring a network went."""

    @property
    def name(self) -> str:
        """Return the network's name."""

    @property
    def status(self) -> str | None:
        """Return one of `deepmad_hw.latency.measurement.STATUSES`, or None if it was not to be measured."""

    @property
    def reason(self) -> str:
        """Return why its time is missing or not sure, or nothing."""


def require_sure(rows: Iterable[Told]) -> None:
    """Refuse networks that could not be run, and then those whose measured time is not sure.

    Args:
        rows: of a bench.

    Raises:
        InputFileError: a network could not be run.
        TooNoisyError: a network was disturbed whenever it was measured, and its median is not sure.
    """
    told = [row for row in rows if row.reason and row.status is not None]
    broken = [row for row in told if row.status != "noisy"]
    if broken:
        raise InputFileError(broken[0].reason, where=broken[0].name)
    if told:
        also = f" (unsure too: {', '.join(row.name for row in told[1:])})" if told[1:] else ""
        raise TooNoisyError(
            f"{told[0].reason}{also}",
            where=told[0].name,
            hint="stop other work on this machine and run the same command again",
        )


def _require_distinct(subjects: Sequence[Subject]) -> None:
    names = [item.name for item in subjects]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("two networks of one name", where=name, hint="rename one of the files")
