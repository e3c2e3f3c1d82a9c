"""The one module that reads and writes the host's records as JSON: designs, problems, architectures. Layer 2.

Schema history (`SCHEMA`):
    1: first version.

Fields follow the records. Where a file differs from them, the difference is a function here: a square resolution is
one number, and a solution follows the contract of ``design --json``.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.files.jsonfile import (
    Json,
    Place,
    parse_json,
    plain,
    read_json,
    read_text,
    record,
    require_keys,
    typed,
    versioned,
    write_json,
)
from deepmad_hw.latency.model import CONFIDENCE
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.problem.objective import Objective
from deepmad_hw.problem.problem import Amount, Problem
from deepmad_hw.problem.solution import (
    ContinuousDesign,
    ContinuousStage,
    Evaluation,
    LatencyValue,
    MinimumValue,
    Price,
    ScaleValue,
    Solution,
    Status,
    Worth,
)
from deepmad_hw.problem.space import Space

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TableReference:
    """Which latency table a result rests on.

    Args:
        table: the model's name, as limits call it.
        path: of the table, relative to the folder of the file that names it, or absolute.
        sha256: of the bytes of the table's CSV and, behind them, of its sidecar.
        confidence: of the upper values that its limits speak of.
        allow_uncovered: whether operations that it has no row of count as nothing.
    """

    table: str
    path: str
    sha256: str
    confidence: float = CONFIDENCE
    allow_uncovered: bool = False

    def __post_init__(self) -> None:
        """Refuse a confidence that is no share, and an answer that is none."""
        if not isinstance(self.confidence, float) or not 0 < self.confidence < 1:
            raise ConfigError(f"expected a share between 0 and 1, got {self.confidence!r}", where="confidence")
        if not isinstance(self.allow_uncovered, bool):
            raise ConfigError(f"expected true or false, got {self.allow_uncovered!r}", where="allow_uncovered")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemFile:
    """A problem and the tables its latency limits speak of.

    Args:
        problem: what was asked.
        tables: the tables it was asked with.
    """

    problem: Problem
    tables: tuple[TableReference, ...] = ()


def read_architecture(path: Path) -> Architecture:
    """Return the architecture of a file: its own, or that of a design.

    Args:
        path: JSON of an architecture, or a ``design.json``.

    Raises:
        InputFileError: the file holds neither.
    """
    data = read_json(path)
    if "architecture" in data and data["architecture"] is None:
        raise InputFileError(f"holds no design, its status is {data.get('status')!r}", where=str(path))
    return architecture_from_json(data.get("architecture", data), where=str(path))


def read_problem(path: Path) -> ProblemFile:
    """Return a problem and the tables it speaks of.

    Args:
        path: a ``problem.json``.

    Raises:
        InputFileError: the file holds something else.
    """
    return problem_from_json(read_json(path), where=str(path))


def write_problem(path: Path, file: ProblemFile) -> None:
    """Write a problem and the tables it speaks of as JSON.

    Args:
        path: where.
        file: what.
    """
    write_json(path, problem_to_json(file))


def read_solution(path: Path) -> Solution:
    """Return the solution of a file.

    Args:
        path: a ``design.json``.

    Raises:
        InputFileError: the file holds something else.
    """
    return solution_from_json(read_json(path), where=str(path))


def write_solution(path: Path, solution: Solution, *, space: Space | None = None) -> None:
    """Write a solution as JSON.

    Args:
        path: where.
        solution: what.
        space: whose grid is shown beside it.
    """
    write_json(path, solution_to_json(solution, space=space))


def architecture_to_json(architecture: Architecture) -> Json:
    """Return an architecture as JSON data; its activation is named only where it is not the family's own.

    Args:
        architecture: what.
    """
    data = plain(architecture)
    order = ("family", "resolution", "in_channels", "classes", "activation", "stem", "stages", "head")
    return {key: data[key] for key in order if key != "activation" or data[key] is not None}


def architecture_from_json(data: object, *, where: str = "architecture") -> Architecture:
    """Return the architecture that JSON data describe.

    Args:
        data: as `architecture_to_json` returns, with or without a schema version.
        where: the file it came from, for messages.

    Raises:
        InputFileError: an unknown or missing key, or a number that is no architecture's.
    """
    at = Place(where)
    fields = {"schema": SCHEMA, **data} if isinstance(data, dict) else data
    return record(Architecture, versioned(fields, at, schema=SCHEMA), at)


def space_to_json(space: Space) -> Json:
    """Return a space as JSON data.

    Args:
        space: what.
    """
    return typing.cast(Json, plain(space))


def problem_to_json(file: ProblemFile) -> Json:
    """Return a problem and its tables as JSON data.

    Args:
        file: what.
    """
    problem = plain(file.problem)
    order = ("name", "penalty", "objective", "limits", "space")
    return {"schema": SCHEMA, **{key: problem[key] for key in order if key in problem}, "tables": plain(file.tables)}


def problem_from_json(data: object, *, where: str = "problem") -> ProblemFile:
    """Return the problem and the tables that JSON data describe.

    Args:
        data: as `problem_to_json` returns.
        where: the file it came from, for messages.

    Raises:
        InputFileError: an unknown or missing key, another schema, or a value that is no problem's.
    """
    at = Place(where)
    fields = versioned(data, at, schema=SCHEMA)
    tables = fields.pop("tables", [])
    problem = record(Problem, fields, at)
    return ProblemFile(problem=problem, tables=typed(tuple[TableReference, ...], tables, at.key("tables")))


def read_objective(path: Path) -> Objective:
    """Return the objective of a file.

    Args:
        path: an ``objective.json``.

    Raises:
        InputFileError: the file holds something else, or weights that no bound could be proved for.
    """
    at = Place(str(path), text=read_text(path))
    return record(Objective, versioned(parse_json(at.text or "", where=str(path)), at, schema=SCHEMA), at)


def write_objective(path: Path, objective: Objective) -> None:
    """Write an objective as JSON.

    Args:
        path: where.
        objective: what.
    """
    write_json(path, objective_to_json(objective))


def objective_to_json(objective: Objective) -> Json:
    """Return an objective as JSON data.

    Args:
        objective: what.
    """
    return {"schema": SCHEMA, **plain(objective)}


def evaluation_to_json(evaluation: Evaluation | None) -> Json:
    """Return an evaluation as the keys it has in a design, or the same keys with nothing in them.

    Args:
        evaluation: what, or None.
    """
    if evaluation is None:
        return {"entropy": None, "rho": [], "macs": None, "params": None, "memory_bytes": None, "latency": []}
    scales = evaluation.scales
    return {
        "entropy": {
            "score": evaluation.score,
            "penalty": evaluation.penalty,
            "scales": [scale.entropy for scale in scales],
            "pixels": [scale.pixels for scale in scales],
            "channels": [scale.channels for scale in scales],
        },
        "rho": [scale.rho for scale in scales],
        "macs": evaluation.macs,
        "params": evaluation.params,
        "memory_bytes": evaluation.memory_bytes,
        "latency": plain(evaluation.latency),
        **({"others": plain(evaluation.others)} if evaluation.others else {}),
        **({"worth": plain(evaluation.worth)} if evaluation.worth is not None else {}),
    }


def solution_to_json(solution: Solution, *, space: Space | None = None) -> Json:
    """Return a solution as the contract of ``design --json`` has it.

    Args:
        solution: what.
        space: whose grid is shown beside it.
    """
    architecture = solution.architecture
    data = {
        "schema": SCHEMA,
        "status": solution.status.value,
        "objective": solution.objective,
        "bound": solution.bound,
        "gap": solution.gap,
        "gap_tolerance": solution.gap_tolerance,
        "method": solution.method,
        "problem": solution.problem,
        "stopped": solution.stopped,
        "architecture": None if architecture is None else architecture_to_json(architecture),
        **evaluation_to_json(solution.evaluation),
        "prices": plain(solution.prices),
        "tightest": plain(solution.minimum_values),
        "grid": None if space is None else grid_to_json(space),
        "continuous": _continuous_to_json(solution.continuous),
        "notes": list(solution.notes),
        "versions": dict(solution.versions),
        "seed": solution.seed,
        "timings": _timings_to_json(solution),
    }
    if solution.status is not Status.INFEASIBLE and not solution.minimum_values:
        del data["tightest"]
    return data


def solution_from_json(data: object, *, where: str = "design") -> Solution:
    """Return the solution that JSON data describe; `grid` and the derived `objective` and `gap` are not read.

    Args:
        data: as `solution_to_json` returns.
        where: the file it came from, for messages.

    Raises:
        InputFileError: an unknown or missing key, another schema, or a value that is no solution's.
    """
    at = Place(where)
    fields = versioned(data, at, schema=SCHEMA)
    require_keys(fields, _SOLUTION_KEYS, at, optional=("tightest", "grid", "continuous", "others", "worth"))
    architecture = fields["architecture"]
    timings = typed(dict[str, float], fields["timings"], at.key("timings"))
    continuous = _continuous_from_json(fields.get("continuous"), timings, at.key("continuous"))
    return Solution(
        problem=typed(str, fields["problem"], at.key("problem")),
        method=typed(str, fields["method"], at.key("method")),
        status=_status(fields["status"], at.key("status")),
        stopped=typed(str, fields["stopped"], at.key("stopped")),
        architecture=None if architecture is None else record(Architecture, architecture, at.key("architecture")),
        evaluation=_evaluation_from_json(fields, at),
        bound=typed(float | None, fields["bound"], at.key("bound")),
        gap_tolerance=typed(float | None, fields["gap_tolerance"], at.key("gap_tolerance")),
        continuous=continuous,
        prices=typed(tuple[Price, ...], fields["prices"], at.key("prices")),
        minimum_values=typed(tuple[MinimumValue, ...], fields.get("tightest", []), at.key("tightest")),
        notes=typed(tuple[str, ...], fields["notes"], at.key("notes")),
        versions=tuple(typed(dict[str, str], fields["versions"], at.key("versions")).items()),
        seed=typed(int, fields["seed"], at.key("seed")),
        timings_ms=tuple((key.removesuffix("_ms"), value) for key, value in timings.items() if key != _SOLVE_KEY),
    )


def grid_to_json(space: Space) -> Json:
    """Return the choices of a space: what a certificate's bound speaks of.

    Args:
        space: the space.
    """
    return {"stem": list(space.stem), "stages": plain(space.stages)}


_SOLVE_KEY = "continuous_solve_ms"  # a timing of the continuous design, kept with the others outside what is compared


def _timings_to_json(solution: Solution) -> dict[str, float]:
    timings = {f"{step}_ms": milliseconds for step, milliseconds in solution.timings_ms}
    if solution.continuous is not None:
        timings[_SOLVE_KEY] = solution.continuous.solve_ms
    return timings


def _continuous_to_json(design: ContinuousDesign | None) -> Json | None:
    if design is None:
        return None
    return {
        "objective": design.objective,
        "stem": design.stem,
        "stages": plain(design.stages),
        "iterations": design.iterations,
        "surrogate_error": [
            {"table": table, "median": median, "worst": worst} for table, median, worst in design.surrogate_error
        ],
    }


_SOLUTION_KEYS = (
    *("status", "objective", "bound", "gap", "gap_tolerance", "method", "problem", "stopped", "architecture"),
    *("entropy", "rho", "macs", "params", "memory_bytes", "latency", "others", "worth"),
    *("prices", "tightest", "grid", "continuous", "notes", "versions", "seed", "timings"),
)
_ENTROPY_KEYS = ("score", "penalty", "scales", "pixels", "channels")


def _status(item: object, at: Place) -> Status:
    try:
        return Status(typing.cast(str, item))
    except ValueError as error:
        known = ", ".join(status.value for status in Status)
        raise at.error(f"unknown status {item!r}", hint=f"expected one of {known}") from error


def _evaluation_from_json(fields: Json, at: Place) -> Evaluation | None:
    if fields["entropy"] is None:
        return None
    entropy = typed(Json, fields["entropy"], at.key("entropy"))
    require_keys(entropy, _ENTROPY_KEYS, at.key("entropy"))
    inside = at.key("entropy")
    columns = {
        "entropy": typed(tuple[float, ...], entropy["scales"], inside.key("scales")),
        "pixels": typed(tuple[int, ...], entropy["pixels"], inside.key("pixels")),
        "channels": typed(tuple[int, ...], entropy["channels"], inside.key("channels")),
        "rho": typed(tuple[float, ...], fields["rho"], at.key("rho")),
    }
    if len({len(column) for column in columns.values()}) != 1 or not columns["rho"]:
        raise at.key("rho").error(
            "expected one value per scale, as in entropy.scales, entropy.pixels, entropy.channels"
        )
    score = typed(float, entropy["score"], inside.key("score"))
    penalty = typed(float, entropy["penalty"], inside.key("penalty"))
    return Evaluation(
        score=score,
        penalty=penalty,
        objective=typed(float, fields["objective"], at.key("objective")),
        scales=tuple(ScaleValue(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)),
        macs=typed(int, fields["macs"], at.key("macs")),
        params=typed(int, fields["params"], at.key("params")),
        memory_bytes=typed(int, fields["memory_bytes"], at.key("memory_bytes")),
        latency=typed(tuple[LatencyValue, ...], fields["latency"], at.key("latency")),
        others=typed(tuple[Amount, ...], fields.get("others", []), at.key("others")),
        worth=typed(Worth | None, fields.get("worth"), at.key("worth")),
    )


def _continuous_from_json(data: object, timings: Mapping[str, float], at: Place) -> ContinuousDesign | None:
    if data is None:
        return None
    fields = typed(Json, data, at)
    require_keys(fields, ("objective", "stem", "stages", "iterations", "surrogate_error"), at)
    errors = typed(tuple[_SurrogateError, ...], fields["surrogate_error"], at.key("surrogate_error"))
    return ContinuousDesign(
        objective=typed(float, fields["objective"], at.key("objective")),
        stem=typed(float, fields["stem"], at.key("stem")),
        stages=typed(tuple[ContinuousStage, ...], fields["stages"], at.key("stages")),
        iterations=typed(int, fields["iterations"], at.key("iterations")),
        solve_ms=timings.get(_SOLVE_KEY, 0.0),
        surrogate_error=tuple((error.table, error.median, error.worst) for error in errors),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _SurrogateError:
    table: str
    median: float
    worst: float
