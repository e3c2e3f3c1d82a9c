"""What a sweep leaves behind: designs, how they were asked for, what was measured, on which tables. Layer 4.

A sweep's folder holds ``sweep.json`` (this record) and, for each point, a folder of its own with the files of
``design --out``, so that `verify`, `export` and `bench` work on each. Beside a single design, ``measured.json`` keeps
what was measured of it.

Schema history (`SCHEMA`):
    1: first version. Keys may be added; a reader passes over those that it does not know in measured rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from deepmad_hw.errors import ConfigError
from deepmad_hw.files.jsonfile import Json, Place, plain, read_json, record, require_keys, typed, versioned, write_json
from deepmad_hw.formats import serde
from deepmad_hw.latency.measurement import Environment
from deepmad_hw.problem.problem import Limits
from deepmad_hw.problem.solution import Solution, Worth
from deepmad_hw.workflows.results.folders import SWEEP_FILE

SCHEMA = 1
MEASURED_FILE = "measured.json"
# Of the score: a depth penalty above it is told apart. It grows as the exponential of the spread of depths, so that of
# ResNet-101 (3, 4, 23 and 3 blocks) is six times its score; designs have a hundredth.
TOLD_PENALTY_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One network's prediction and measurement: a row of ``bench --json``.

    Args:
        name: of the network.
        table: the latency table it was predicted with, or None where nobody said.
        predicted_ms: by the table, or None where it cannot say.
        lower_ms: prediction less the table's margin, or None.
        upper_ms: prediction plus the table's margin, or None.
        uncovered: layers that the table cannot answer for.
        measured_ms: median of the measured times, or None if only predicted.
        p10_ms: their 10th percentile.
        p90_ms: their 90th percentile.
        p99_ms: their 99th percentile.
        samples: how many there are.
        relative_error: half the median's 95 % confidence interval over the median.
        status: ``ok`` or ``noisy``, or what went wrong where there is no time.
        reason: why there is no measured time, or one that is not sure.
        drift: how much slower the machine was than when the table was made, as a factor.
    """

    name: str
    table: str | None = None
    predicted_ms: float | None = None
    lower_ms: float | None = None
    upper_ms: float | None = None
    uncovered: tuple[str, ...] = ()
    measured_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    samples: int | None = None
    relative_error: float | None = None
    status: str | None = None
    reason: str = ""
    drift: float | None = None

    def __post_init__(self) -> None:
        """Refuse times that are no times, and percentiles of nothing."""
        for name in ("predicted_ms", "lower_ms", "upper_ms", "measured_ms", "p10_ms", "p90_ms", "p99_ms", "drift"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"expected a number above 0, got {value!r}", where=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A network that others have designed, beside which a design is shown.

    Args:
        row: its prediction and measurement.
        objective: the designs' own, in this project's layers, or None where it is not defined.
        score: its entropy score, or None.
        penalty: what uneven depths take off the score, or None.
        rho: largest effectiveness, or None.
        macs: multiply-adds, or None for a file that does not say.
        params: trainable parameters, or None.
        memory_bytes: peak activation memory at fp32, or None.
        top1_percent: published ImageNet-1k accuracy, or None. Never of a network that was not trained.
        top1_source: who published it.
        worth: what the objective is made of, None for DeepMAD's.
    """

    row: Row
    objective: float | None = None
    score: float | None = None
    penalty: float | None = None
    rho: float | None = None
    macs: int | None = None
    params: int | None = None
    memory_bytes: int | None = None
    top1_percent: float | None = None
    top1_source: str | None = None
    worth: Worth | None = field(default=None, metadata={"left_out": None})

    def __post_init__(self) -> None:
        """Refuse an accuracy without its source."""
        if self.top1_percent is not None and not self.top1_source:
            raise ConfigError("an accuracy needs its source", where="top1_source")


def told_penalty(score: float | None, penalty: float | None) -> str | None:
    """Return what an objective consists of where the depth penalty says more than the score, else None.

    Args:
        score: entropy score, or None where it is not known.
        penalty: depth penalty, or None.
    """
    if score is None or penalty is None or penalty <= TOLD_PENALTY_SHARE * score:
        return None
    return f"score {score:,.0f}, depth penalty {penalty:,.0f}"


def told_objective(reference: Reference) -> str | None:
    """Return what to know of a reference network's objective, None where it needs no remark.

    Args:
        reference: the network.
    """
    if reference.objective is None:
        return None
    if reference.worth is None:
        return told_penalty(reference.score, reference.penalty)
    return "farther out than every network that the objective was fitted to" if reference.worth.extrapolates else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One design of a sweep and how it was asked for.

    Args:
        name: short and distinct in the sweep, such as ``25ms``.
        solution: the answer.
        limits: what was asked, or None where nobody kept it.
        grid: the choices of the space, as `deepmad_hw.formats.serde.grid_to_json` returns them.
        folder: of the design's own files, relative to the sweep's, or None.
        group: points of one group make one line of a plot, such as one device's own designs.
        warm_start: the point whose design started this one's search, or None.
        rows: measurements, at most one per table.
    """

    name: str
    solution: Solution
    limits: Limits | None = None
    grid: Json | None = None
    folder: str | None = None
    group: str = ""
    warm_start: str | None = None
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One round of the measured loop: what was asked of the solver, and what the device said.

    Args:
        point: name of the point.
        number: from 1.
        table: the latency table.
        asked_ms: the budget given to the solver.
        predicted_ms: of the design it found.
        measured_ms: median of that design.
        objective: of that design.
    """

    point: str
    number: int
    table: str
    asked_ms: float
    predicted_ms: float
    measured_ms: float
    objective: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A whole network of a table: what its layers add up to, and what it took.

    Args:
        name: of the network.
        family: its block family.
        predicted_ms: by the table, which these networks calibrate.
        measured_ms: median.
    """

    name: str
    family: str
    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TableHealth:
    """How far a latency table can be trusted.

    Args:
        name: how limits call it.
        path: of its CSV, as it was named.
        sha256: of the CSV.
        environment: the device and setting, or None where the file could not be read any more.
        measured_on: ``YYYY-MM-DD``, or None.
        rows: measured layers.
        statuses: rows by status.
        margin: at the confidence, or None with too few calibration networks.
        confidence: share of networks that the margin covers.
        canary_us: what the canary took, or None.
        notes: the table's own, and why it could not be read.
        calibration: its whole networks.
    """

    name: str
    path: str
    sha256: str
    environment: Environment | None = None
    measured_on: str | None = None
    rows: int = 0
    statuses: tuple[tuple[str, int], ...] = ()
    margin: float | None = None
    confidence: float = 0.9
    canary_us: float | None = None
    notes: tuple[str, ...] = ()
    calibration: tuple[Calibration, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Everything that a report tells of.

    Args:
        name: of the problem, or of the sweep.
        points: the designs, in the order of the plan; names are distinct.
        references: networks shown beside them.
        rounds: of the measured loop, in order.
        tables: the latency tables they rest on.
        notes: what a reader should know.
        versions: (package, version) of what took part.
        commands: that make these results again.
    """

    name: str
    points: tuple[Point, ...]
    references: tuple[Reference, ...] = ()
    rounds: tuple[Round, ...] = ()
    tables: tuple[TableHealth, ...] = ()
    notes: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two points of one name."""
        names = [point.name for point in self.points]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError("two points of one name", where=name)


def objective_unit(results: Results) -> str:
    """Return the unit of a calibrated objective of the designs, nothing for a formula or without a design.

    Args:
        results: the designs.
    """
    return next((worth.unit for worth in _worths(results) if worth is not None), "")


def objective_label(results: Results) -> str:
    """Return what a column or an axis of the designs' objective is called.

    Args:
        results: the designs.
    """
    unit = objective_unit(results)
    return f"objective in {unit}" if unit else "objective"


def is_deepmads(results: Results) -> bool:
    """Return whether DeepMAD's objective is that of every design.

    Args:
        results: the designs.
    """
    return all(worth is None for worth in _worths(results))


def comparable(results: Results) -> Results:
    """Return results whose references have an objective only where it is the one of all designs.

    Points of a calibrated objective and entropies are not one scale; files from before references had the designs'
    objective hold DeepMAD's.

    Args:
        results: designs and references.
    """
    kinds = {_kind(worth) for worth in _worths(results)}
    if not kinds:
        return results
    return replace(
        results,
        references=tuple(
            each if kinds == {_kind(each.worth)} else replace(each, objective=None, worth=None)
            for each in results.references
        ),
    )


def _worths(results: Results) -> list[Worth | None]:
    return [point.solution.evaluation.worth for point in results.points if point.solution.evaluation is not None]


def _kind(worth: Worth | None) -> str | None:
    return None if worth is None else worth.unit


def write_results(folder: Path, results: Results) -> None:
    """Write ``sweep.json``, whole or not at all.

    Args:
        folder: of the sweep; must exist.
        results: what.

    Raises:
        StorageError: the file could not be written.
    """
    write_json(folder / SWEEP_FILE, results_to_json(results))


def read_results(path: Path) -> Results:
    """Return the results of a ``sweep.json``.

    Args:
        path: the file.

    Raises:
        InputFileError: the file holds something else.
    """
    return results_from_json(read_json(path), where=str(path))


def results_to_json(results: Results) -> Json:
    """Return results as JSON data: what ``sweep --json`` prints.

    Args:
        results: what.
    """
    return {
        "schema": SCHEMA,
        "name": results.name,
        "points": [{**serde.solution_to_json(point.solution), "grid": point.grid} for point in results.points],
        "plan": [
            {
                "name": point.name,
                "folder": point.folder,
                "group": point.group,
                "warm_start": point.warm_start,
                "limits": None if point.limits is None else plain(point.limits),
            }
            for point in results.points
        ],
        **measured_to_json(
            {point.name: point.rows for point in results.points if point.rows}, references=results.references
        ),
        "rounds": plain(results.rounds),
        "tables": [{**plain(table), "statuses": dict(table.statuses)} for table in results.tables],
        "notes": list(results.notes),
        "versions": dict(results.versions),
        "commands": list(results.commands),
    }


def measured_to_json(measured: Mapping[str, Sequence[Row]], *, references: Sequence[Reference] = ()) -> Json:
    """Return measurements as JSON data: two keys of ``sweep.json``, and all of ``measured.json``.

    Args:
        measured: rows of our designs by point.
        references: the networks beside them.
    """
    return {
        "schema": SCHEMA,
        "measured": [{"point": name, **plain(row)} for name, rows in measured.items() for row in rows],
        "comparison": [_reference_to_json(reference) for reference in references],
    }


def _reference_to_json(reference: Reference) -> Json:
    facts: Json = plain(reference)
    return {**facts.pop("row"), **facts}


_REFERENCE_KEYS = tuple(field.name for field in fields(Reference) if field.name != "row")
_ROW_KEYS = tuple(field.name for field in fields(Row))
_PLAN_KEYS = ("name", "folder", "group", "warm_start", "limits")
_KEYS = ("name", "points", "plan", "measured", "comparison", "rounds", "tables", "notes", "versions", "commands")


def results_from_json(data: object, *, where: str = SWEEP_FILE) -> Results:
    """Return the results that JSON data describe.

    Args:
        data: as `results_to_json` returns.
        where: the file it came from, for messages.

    Raises:
        InputFileError: a missing or unknown key, another schema, or a value that is no result's.
    """
    at = Place(where)
    found = versioned(data, at, schema=SCHEMA)
    require_keys(found, _KEYS, at)
    measured, references = measured_from_json(
        {"schema": SCHEMA, **{k: found[k] for k in ("measured", "comparison")}}, at
    )
    tables = typed(tuple[Json, ...], found["tables"], at.key("tables"))
    try:
        return Results(
            name=typed(str, found["name"], at.key("name")),
            points=_points(found, measured, at),
            references=references,
            rounds=typed(tuple[Round, ...], found["rounds"], at.key("rounds")),
            tables=tuple(_table(table, at.key("tables").index(i)) for i, table in enumerate(tables)),
            notes=typed(tuple[str, ...], found["notes"], at.key("notes")),
            versions=tuple(typed(dict[str, str], found["versions"], at.key("versions")).items()),
            commands=typed(tuple[str, ...], found["commands"], at.key("commands")),
        )
    except ConfigError as error:
        raise at.error(error.what, hint=error.hint) from error


def measured_from_json(data: object, at: Place) -> tuple[dict[str, tuple[Row, ...]], tuple[Reference, ...]]:
    """Return measured rows by point, and the networks beside them.

    Args:
        data: as `measured_to_json` returns.
        at: where it stands.

    Raises:
        InputFileError: a missing key, another schema, or a value that is no measurement's.
    """
    found = versioned(data, at, schema=SCHEMA)
    require_keys(found, ("measured", "comparison"), at)
    measured: dict[str, tuple[Row, ...]] = {}
    for i, item in enumerate(typed(tuple[Json, ...], found["measured"], at.key("measured"))):
        place = at.key("measured").index(i)
        name = typed(str, item.get("point"), place.key("point"))
        measured[name] = (*measured.get(name, ()), row_from_json(item, place))
    references = tuple(
        reference_from_json(item, at.key("comparison").index(i))
        for i, item in enumerate(typed(tuple[Json, ...], found["comparison"], at.key("comparison")))
    )
    return measured, references


def row_from_json(data: Json, at: Place) -> Row:
    """Return a row of ``bench --json``; keys that it has beyond `Row`'s are passed over.

    Args:
        data: the row.
        at: where it stands.

    Raises:
        InputFileError: a value is no row's.
    """
    row: Row = record(Row, {key: value for key, value in data.items() if key in _ROW_KEYS}, at)
    return row


def reference_from_json(data: Json, at: Place) -> Reference:
    """Return a network that others have designed, from a row of a comparison.

    Args:
        data: the row.
        at: where it stands.

    Raises:
        InputFileError: a value is no reference's.
    """
    facts: dict[str, Any] = {key: data[key] for key in _REFERENCE_KEYS if key in data}
    found = record(Reference, {"row": {"name": ""}, **facts}, at)
    return Reference(row=row_from_json(data, at), **{key: getattr(found, key) for key in _REFERENCE_KEYS})


def _points(found: Json, measured: Mapping[str, tuple[Row, ...]], at: Place) -> tuple[Point, ...]:
    designs = typed(tuple[Json, ...], found["points"], at.key("points"))
    plan = typed(tuple[Json, ...], found["plan"], at.key("plan"))
    if len(designs) != len(plan):
        raise at.key("plan").error(f"expected one entry per point, {len(designs)}, got {len(plan)}")
    points = tuple(
        _point(design, asked, i, measured, at) for i, (design, asked) in enumerate(zip(designs, plan, strict=True))
    )
    unknown = measured.keys() - {point.name for point in points}
    if unknown:
        raise at.key("measured").error(f"no point is called {min(unknown)!r}")
    return points


def _point(design: Json, asked: Json, i: int, measured: Mapping[str, tuple[Row, ...]], at: Place) -> Point:
    place = at.key("plan").index(i)
    require_keys(asked, _PLAN_KEYS, place, optional=("group", "warm_start"))
    name = typed(str, asked["name"], place.key("name"))
    limits = asked["limits"]
    return Point(
        name=name,
        solution=serde.solution_from_json(design, where=f"{at.file}: points[{i}]"),
        limits=None if limits is None else record(Limits, limits, place.key("limits")),
        grid=design.get("grid"),
        folder=typed(str | None, asked["folder"], place.key("folder")),
        group=typed(str, asked.get("group", ""), place.key("group")),
        warm_start=typed(str | None, asked.get("warm_start"), place.key("warm_start")),
        rows=measured.get(name, ()),
    )


def _table(data: Json, at: Place) -> TableHealth:
    statuses = typed(dict[str, int], data.get("statuses", {}), at.key("statuses"))
    rest = {key: value for key, value in data.items() if key != "statuses"}
    table: TableHealth = record(TableHealth, {**rest, "statuses": [[name, n] for name, n in statuses.items()]}, at)
    return table
