"""From a problem and its latency tables to a stored design. Layer 4."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deepmad_hw import units
from deepmad_hw.errors import ConfigError, InputFileError, StorageError
from deepmad_hw.files.jsonfile import write_json
from deepmad_hw.formats import serde
from deepmad_hw.formats.certificate import certificate
from deepmad_hw.formats.serde import ProblemFile, TableReference
from deepmad_hw.formats.serde_table import table_sha256
from deepmad_hw.latency.model import CONFIDENCE, LatencyModel, predict_ms, upper_ms
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.problem.problem import LatencyLimit, Problem, latency_name
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Solution, Status
from deepmad_hw.workflows.networks.networks import load_network
from deepmad_hw.workflows.results.folders import DESIGN_FILE, PROBLEM_FILE
from deepmad_hw.workflows.runfile.config import LatencyRequest, Run
from deepmad_hw.workflows.tables.uncovered import LenientModel, notes, require_operations

CERTIFICATE_FILE = "certificate.json"

Loader = Callable[[Path], LatencyModel]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A problem with everything that is needed to solve it.

    Args:
        problem: with its latency limits in milliseconds.
        models: latency models by table name.
        tables: file of each table, by table name.
        confidence: of the upper values that the budgets are held against.
        allow_uncovered: whether operations that a table has no row of count as nothing.
    """

    problem: Problem
    models: Mapping[str, LatencyModel] = field(default_factory=dict)
    tables: Mapping[str, Path] = field(default_factory=dict)
    confidence: float = CONFIDENCE
    allow_uncovered: bool = False


def design(
    problem: Problem,
    models: Mapping[str, LatencyModel] | None = None,
    *,
    method: str = "certified",
    gap: float | None = None,
    time_limit_s: float = 60.0,
    threads: int = 1,
    seed: int = 0,
    known: Sequence[Architecture] = (),
    solver_log: Path | None = None,
) -> Solution:
    """Return the best design of a problem's space within its limits.

    Args:
        problem: space and limits.
        models: latency models by table name, at least those that the limits name.
        method: ``certified`` (with a proved bound), ``fast`` (integer, no bound) or ``continuous`` (real widths).
        gap: at which the proof may stop, as `Solution.gap` has it; None takes 0.5 %, or 0.05 points of a calibrated
            objective.
        time_limit_s: after which the best design so far is returned.
        threads: of the solver.
        seed: of every random choice.
        known: designs to start from, such as the answer to a neighbouring budget.
        solver_log: file to which the exact solver adds its own words, or None.

    Returns:
        The design, what it is worth, and how sure that is; status ``infeasible`` where no design keeps the limits.

    Raises:
        ConfigError: unknown method, a limit without its table, or a gap or time that is not positive.
        NotCoveredError: a table covers nothing of the space.
        SolverError: the solver broke down.
    """
    settings = Settings(
        method=method, gap=gap, time_limit_s=time_limit_s, threads=threads, seed=seed, solver_log=solver_log
    )
    return solved(problem, models or {}, settings, known=known)


def solved(
    problem: Problem,
    models: Mapping[str, LatencyModel],
    settings: Settings,
    *,
    known: Sequence[Architecture] = (),
) -> Solution:
    """Return the best design as `design` does, which spells the settings out for people.

    Args:
        problem: space and limits.
        models: latency models by table name, at least those that the limits name.
        settings: how it is solved.
        known: designs to start from, such as the answer to a neighbouring budget.

    Raises:
        ConfigError: a limit without its table, or a gap of 100 % or more.
        NotCoveredError: a table covers nothing of the space.
        SolverError: the solver broke down.
    """
    gap = settings.gap_for(problem.worth)
    for limit in problem.limits.latency:
        if limit.table not in models:
            raise ConfigError(f"no latency table is called {limit.table!r}", where=latency_name(limit.table))
    from deepmad_hw.optimize.solve import solve

    solution: Solution = solve(problem, models, settings, known=known)
    return replace(
        solution,
        gap_tolerance=gap if settings.method == "certified" else None,
        notes=(*solution.notes, *notes(solution.architecture, models)),
    )


def best_design(questions: Sequence[Question], settings: Settings) -> tuple[Question, Solution]:
    """Solve the same question for several spaces and return the best answer, with a note on the others.

    A bound speaks of the answer's own space only.

    Args:
        questions: at least one; they differ in the space, such as in its resolution.
        settings: of each.

    Raises:
        ConfigError: as `design`.
    """
    answers = [(question, solved(question.problem, question.models, settings)) for question in questions]
    if len(answers) == 1:
        return answers[0]
    question, solution = max(answers, key=lambda answer: _worth(answer[1]))
    note = f"best of {len(answers)} resolutions: {'; '.join(_told(*answer) for answer in answers)}"
    return question, replace(solution, notes=(note, *solution.notes))


def _worth(solution: Solution) -> tuple[bool, float]:
    """Return what answers are compared by: a design at all, then its objective, which may be negative."""
    answered = solution.status not in (Status.INFEASIBLE, Status.FAILED)
    return answered, -math.inf if solution.objective is None else solution.objective


def _told(question: Question, solution: Solution) -> str:
    height, width = question.problem.space.resolution
    worth = "none" if solution.objective is None else units.format_objective(solution.objective)
    return f"{height}x{width} {solution.status.value} {worth}"


def with_tables(
    run: Run, *, load: Loader | None = None, confidence: float | None = None, allow_uncovered: bool = False
) -> Question:
    """Load the tables that a run asks for and turn its budgets into milliseconds.

    Args:
        run: what was asked.
        load: reads a table; None takes `deepmad_hw.workflows.tables.tables.load_model`.
        confidence: of the upper values that the budgets are held against; a table that cannot say at a confidence
            that was asked for is refused. None takes the usual one, where a table can say.
        allow_uncovered: count operations that a table has no row of as nothing; the answer lists them.

    Raises:
        InputFileError: a table is missing or cannot be used.
        ConfigError: two budgets on one table, or two tables of one name.
        NotCoveredError: a table has no row of an operation that every design needs.
    """
    models: dict[str, LatencyModel] = {}
    tables: dict[str, Path] = {}
    limits = []
    for request in run.latency:
        model = load_table(
            request.path, load=load, confidence=confidence or CONFIDENCE, allow_uncovered=allow_uncovered
        )
        require_operations(run.problem.space, model)
        if confidence is not None and model.margin is None:
            raise _too_few(request.path, confidence)
        if tables.setdefault(model.name, request.path) != request.path:
            raise ConfigError(
                f"two tables are called {model.name!r}", where=str(request.path), hint="rename one of the files"
            )
        models[model.name] = model
        limits.append(LatencyLimit(table=model.name, budget_ms=_budget_ms(request, model)))
    kept = replace(run.problem.limits, latency=tuple(limits))
    return Question(
        problem=replace(run.problem, limits=kept),
        models=models,
        tables=tables,
        confidence=confidence or CONFIDENCE,
        allow_uncovered=allow_uncovered,
    )


def _too_few(path: Path, confidence: float) -> ConfigError:
    from deepmad_hw.predict.intervals import networks_needed

    return ConfigError(
        f"{path} has too few calibration networks to say what {confidence:.4g} of all networks keep",
        where="--confidence",
        hint=f"it takes {networks_needed(confidence)}: profile for longer, or ask for less",
    )


def load_table(
    path: Path, *, load: Loader | None = None, confidence: float = CONFIDENCE, allow_uncovered: bool = False
) -> LatencyModel:
    """Return the latency model of a table's file.

    Args:
        path: of the table.
        load: reads it; None takes `deepmad_hw.workflows.tables.tables.load_model`.
        confidence: of its upper values, where `load` is None.
        allow_uncovered: count operations that it has no row of as nothing.

    Raises:
        InputFileError: there is no such file, or it cannot be used.
    """
    if not path.is_file():
        raise InputFileError(
            "no such latency table", where=str(path), hint=f"make it with: deepmad-hw profile --out {path}"
        )
    if load is not None:
        return load(path)
    from deepmad_hw.workflows.tables.tables import load_model

    model = load_model(path, confidence=confidence)
    return LenientModel(model) if allow_uncovered else model


def _budget_ms(request: LatencyRequest, model: LatencyModel) -> float:
    if request.budget_ms is not None:
        return request.budget_ms
    if request.rate_per_s is not None:
        batch: int = getattr(model, "batch", 1)
        return 1000.0 * batch / request.rate_per_s
    predicted_ms = predict_ms(load_network(request.like or "").graph, model)
    return upper_ms(predicted_ms, model) or predicted_ms


def save_design(
    folder: Path,
    solution: Solution,
    problem: Problem,
    *,
    tables: Mapping[str, Path] | None = None,
    confidence: float = CONFIDENCE,
    allow_uncovered: bool = False,
) -> None:
    """Write a solution and its problem, so that `verify`, `export` and `bench` work from the folder alone.

    Args:
        folder: made where it is not there; files of an earlier design in it are replaced.
        solution: the answer.
        problem: the question, with every default written out.
        tables: file of each latency table, by table name; they are named by path and sha256, not copied.
        confidence: of their upper values.
        allow_uncovered: whether operations that they have no row of count as nothing.

    Raises:
        StorageError: a file could not be written.
        InputFileError: a table is gone.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder cannot be made: {error.strerror}", where=str(folder)) from error
    file = problem_file(folder, problem, tables=tables or {}, confidence=confidence, allow_uncovered=allow_uncovered)
    # The design last: where it stands, the problem it answers and its certificate stand too.
    serde.write_problem(folder / PROBLEM_FILE, file)
    if solution.status is Status.CERTIFIED:
        write_json(folder / CERTIFICATE_FILE, certificate(solution, file))
    else:
        (folder / CERTIFICATE_FILE).unlink(missing_ok=True)
    serde.write_solution(folder / DESIGN_FILE, solution, space=problem.space)


def problem_file(
    folder: Path, problem: Problem, *, tables: Mapping[str, Path], confidence: float, allow_uncovered: bool
) -> ProblemFile:
    """Return a problem as it is stored in a folder, its tables named by path and sha256.

    Args:
        folder: that the paths start from.
        problem: the question, with every default written out.
        tables: file of each latency table, by table name.
        confidence: of their upper values.
        allow_uncovered: whether operations that they have no row of count as nothing.

    Raises:
        InputFileError: a table is gone.
    """
    references = tuple(
        replace(_reference(name, path, folder, confidence), allow_uncovered=allow_uncovered)
        for name, path in sorted(tables.items())
    )
    return ProblemFile(problem=problem, tables=references)


def _reference(name: str, path: Path, folder: Path, confidence: float) -> TableReference:
    # Relative, so that a project's folder can move as a whole.
    relative = Path(os.path.relpath(path.resolve(), folder.resolve()))
    return TableReference(table=name, path=relative.as_posix(), sha256=table_sha256(path), confidence=confidence)
