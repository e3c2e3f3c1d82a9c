"""Results from whatever folder a person has: a sweep's, a design's, the first run's. Layer 4."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deepmad_hw import __version__, units
from deepmad_hw.errors import ConfigError, DeepmadError, InputFileError
from deepmad_hw.files.jsonfile import Json, Place, parse_json, read_json, typed, write_json
from deepmad_hw.formats import serde
from deepmad_hw.formats.serde import ProblemFile, TableReference
from deepmad_hw.formats.serde_table import table_sha256
from deepmad_hw.latency.model import predict_ms, uncovered
from deepmad_hw.network import costs, reference, reference_designs, released
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import Graph
from deepmad_hw.problem import check, entropy
from deepmad_hw.problem.objective import Objective, require_fit
from deepmad_hw.problem.solution import Solution
from deepmad_hw.workflows.results.folders import DESIGN_FILE, PROBLEM_FILE, QUICKSTART_DESIGN, SWEEP_FILE, reason
from deepmad_hw.workflows.results.loop_file import read_loop
from deepmad_hw.workflows.results.results import (
    MEASURED_FILE,
    Calibration,
    Point,
    Reference,
    Results,
    Row,
    TableHealth,
    comparable,
    is_deepmads,
    measured_from_json,
    measured_to_json,
    read_results,
    reference_from_json,
    row_from_json,
)

if TYPE_CHECKING:
    from deepmad_hw.predict.network import TableModel


def load_results(folder: Path, *, bench: Path | None = None) -> Results:
    """Return the results of a folder that `sweep`, `design` or `quickstart` wrote.

    Args:
        folder: the folder.
        bench: what ``bench --json`` printed, to be shown beside the designs, or None.

    Raises:
        InputFileError: the folder holds no results, or one of its files cannot be used.
    """
    if (folder / SWEEP_FILE).is_file():
        results = read_results(folder / SWEEP_FILE)
    elif (folder / DESIGN_FILE).is_file():
        results = _designed(folder, measured=folder / MEASURED_FILE)
    elif (folder / QUICKSTART_DESIGN / DESIGN_FILE).is_file():
        results = _designed(folder / QUICKSTART_DESIGN, measured=folder / MEASURED_FILE)
    else:
        raise InputFileError(
            f"holds neither {SWEEP_FILE} nor {DESIGN_FILE}",
            where=str(folder),
            hint="give a folder that 'sweep --out', 'design --out' or 'quickstart' wrote",
        )
    if bench is not None:
        results = with_bench(results, bench, objective=_objective(folder, results))
    return comparable(results)


def _objective(folder: Path, results: Results) -> Objective | None:
    """Return what all designs of a folder maximise, None for DeepMAD's objective and for different ones."""
    if is_deepmads(results):
        return None
    inside = folder.resolve()
    files = {(inside / (point.folder or ".") / PROBLEM_FILE).resolve() for point in results.points}
    found = [
        serde.read_problem(file).problem.objective
        for file in sorted(files)
        if file.is_relative_to(inside) and file.is_file()
    ]
    return found[0] if found and found.count(found[0]) == len(found) else None


def with_bench(results: Results, path: Path, *, objective: Objective | None = None) -> Results:
    """Return results with the rows of a bench: those named as a point are its own, others are references.

    Args:
        results: the designs.
        path: what ``bench --json`` printed.
        objective: what the designs maximise, None for DeepMAD's.

    Raises:
        InputFileError: the file holds no rows of a bench.
    """
    at = Place(str(path))
    items = [(row_from_json(item, at.index(i)), item, at.index(i)) for i, item in enumerate(_bench_rows(path, at))]
    names = {point.name for point in results.points}
    points = tuple(
        replace(point, rows=(*point.rows, *(row for row, _, _ in items if row.name == point.name)))
        for point in results.points
    )
    others = (
        _completed(reference_from_json(item, place), objective) for row, item, place in items if row.name not in names
    )
    return replace(results, points=points, references=(*results.references, *others))


def _bench_rows(path: Path, at: Place) -> tuple[Json, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError("cannot be read as text", where=str(path)) from error
    rows: tuple[Json, ...] = typed(tuple[Json, ...], parse_json(f'{{"rows":{text}}}', where=str(path))["rows"], at)
    return rows


def write_measured(folder: Path, rows: Sequence[Row], references: Sequence[Reference], *, point: str) -> None:
    """Keep what was measured of a single design beside it, where `load_results` finds it.

    Args:
        folder: of the design, or of the first run.
        rows: of the design.
        references: the networks beside it.
        point: the design's name: that of its folder.

    Raises:
        StorageError: the file could not be written.
    """
    write_json(folder / MEASURED_FILE, measured_to_json({point: tuple(rows)}, references=references))


def described(row: Row, *, objective: Objective | None = None) -> Reference:
    """Return a reference network with its costs, and with an objective where its layers have one.

    Args:
        row: its prediction and measurement; a name that is no reference network's leaves the rest open.
        objective: what the designs beside it maximise, None for DeepMAD's; one that speaks of other networks, such as
            those of another family, says nothing of this one.
    """
    return _completed(Reference(row=row), objective)


def _completed(found: Reference, objective: Objective | None) -> Reference:
    name = found.row.name
    network: Architecture | Graph
    own: Architecture | None
    if found.macs is not None:
        return found
    if name in released.names():
        network = own = released.get(name)
    elif name in reference.names():
        network, own = reference.get(name), reference_designs.in_own_layers(name)
    else:
        return found
    counted = replace(
        found, macs=costs.macs(network), params=costs.params(network), memory_bytes=costs.peak_memory_bytes(network)
    )
    if own is None:
        return counted
    fits = objective is None or _fits(objective, own)
    evaluation = check.evaluate(own, objective=objective if fits else None)
    return replace(
        counted,
        objective=evaluation.objective if fits else None,
        score=evaluation.score,
        penalty=evaluation.penalty,
        rho=evaluation.max_rho,
        worth=evaluation.worth,
    )


def _fits(objective: Objective, network: Architecture) -> bool:
    """Return whether an objective speaks of networks like one."""
    scales = len(entropy.scales(network))
    try:
        require_fit(objective, family=network.family, stages=len(network.stages), scales=scales)
    except ConfigError:
        return False
    return True


def _designed(folder: Path, *, measured: Path) -> Results:
    solution = serde.read_solution(folder / DESIGN_FILE)
    grid = read_json(folder / DESIGN_FILE).get("grid")
    name = folder.resolve().name
    rows: dict[str, tuple[Row, ...]] = {}
    references: tuple[Reference, ...] = ()
    if measured.is_file():
        rows, references = measured_from_json(read_json(measured), Place(str(measured)))
    problem = serde.read_problem(folder / PROBLEM_FILE) if (folder / PROBLEM_FILE).is_file() else None
    point = Point(
        name=name,
        solution=solution,
        limits=None if problem is None else problem.problem.limits,
        grid=grid,
        folder=".",
        rows=tuple(row for each in rows.values() for row in each),
    )
    return Results(
        name=solution.problem,
        points=(point,),
        references=references,
        rounds=read_loop(folder)[0],
        tables=() if problem is None else tuple(_health(folder, table) for table in problem.tables),
        notes=() if solution.architecture is not None else (f"holds no design: {reason(solution, point.limits)}",),
        versions=(("deepmad-hw", __version__), *solution.versions),
        commands=_commands(folder, solution, problem),
    )


def _commands(folder: Path, solution: Solution, problem: ProblemFile | None) -> tuple[str, ...]:
    verify = f"deepmad-hw verify {shlex.quote(str(folder))}"
    if problem is None:
        return (verify,)
    words = ["deepmad-hw", "design", str(folder / PROBLEM_FILE), "--method", solution.method]
    if solution.gap_tolerance is not None:
        words += ["--gap", units.exact_gap(solution.gap_tolerance, problem.problem.worth.unit)]
    return (shlex.join([*words, "--seed", str(solution.seed), "--out", str(folder)]), verify)


def _health(folder: Path, named: TableReference) -> TableHealth:
    path = folder / named.path
    try:
        if table_sha256(path) != named.sha256:
            return _unknown(named, "its file has changed since the design was made")
        from deepmad_hw.workflows.tables.tables import load_model

        return table_health(path, load_model(path))
    except DeepmadError as error:
        return _unknown(named, f"its file cannot be used here: {error.what}")


def _unknown(named: TableReference, why: str) -> TableHealth:
    return TableHealth(name=named.table, path=named.path, sha256=named.sha256, notes=(why,))


def table_health(path: Path, model: TableModel) -> TableHealth:
    """Return how far a table can be trusted, for results that outlive its file.

    Args:
        path: of its CSV.
        model: the table, loaded.

    Raises:
        InputFileError: the file cannot be read.
    """
    table = model.table
    calibration = [
        Calibration(
            name=network.measurement.name,
            family=network.architecture.family,
            predicted_ms=predict_ms(network.architecture, model),
            measured_ms=network.measurement.median_us / 1e3,
        )
        for network in table.calibration
        if network.measurement.samples_us and not uncovered(expand(network.architecture), model)
    ]
    return TableHealth(
        name=table.name,
        path=str(path),
        sha256=table_sha256(path),
        environment=table.environment,
        measured_on=table.measured_on,
        rows=len(table.rows),
        statuses=tuple(Counter(row.status for row in table.rows).most_common()),
        margin=model.margin,
        confidence=model.confidence,
        canary_us=table.canary_us,
        notes=(
            *table.notes,
            *([f"{len(model.odd_rows)} odd rows, which no prediction uses"] if model.odd_rows else []),
        ),
        calibration=tuple(calibration),
    )
