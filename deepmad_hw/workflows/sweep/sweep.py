"""Many budgets: a plan of points is solved, stored point by point, and goes on where it was stopped. Layer 4.

Each point has a folder of its own with the files of ``design --out``. Its name ends in an address: the sha256 of
everything that the point depends on, which are the problem, the bytes of its tables, the settings, the versions, and
the address of the point that starts its search. A folder with that name is the answer, whoever has worked it out.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from deepmad_hw import __version__, units
from deepmad_hw.errors import DeepmadError, InputFileError, SolverError, StorageError
from deepmad_hw.files.jsonfile import parse_json, plain
from deepmad_hw.formats import serde
from deepmad_hw.formats.serde import ProblemFile, TableReference
from deepmad_hw.formats.serde_table import table_sha256
from deepmad_hw.installed import SWEEPING, versions
from deepmad_hw.latency.model import LatencyModel
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import Problem
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Solution, Status
from deepmad_hw.workflows import executors
from deepmad_hw.workflows.design.design import Question, load_table, save_design, solved
from deepmad_hw.workflows.results.folders import DESIGN_FILE
from deepmad_hw.workflows.results.results import Point, Results, TableHealth, write_results
from deepmad_hw.workflows.results.results_folder import table_health
from deepmad_hw.workflows.sweep.sweep_plan import Asked, Plan, own_group, table_paths

if TYPE_CHECKING:
    from deepmad_hw.predict.network import TableModel

POINTS_FOLDER = "points"
ADDRESS_LENGTH = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a sweep is.

    Args:
        done: finished points.
        total: points in all.
        name: of the point that was finished last.
        found: whether it was there already.
    """

    done: int
    total: int
    name: str
    found: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """A finished point."""

    asked: Asked
    address: str
    solution: Solution
    after: str | None


def sweep(
    plan: Plan,
    folder: Path,
    *,
    jobs: int = 1,
    dask: str | None = None,
    command: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Results:
    """Solve every point of a plan and store it; points that are stored already are taken as they are.

    Args:
        plan: the points.
        folder: for the results.
        jobs: local processes.
        dask: address of a Dask scheduler, whose workers find the tables under the same paths; None for this machine.
        command: that makes these results again.
        on_progress: told after each point.

    Returns:
        The designs in the plan's order; along each line none is worth less than one with smaller budgets.

    Raises:
        ConfigError: two tables of one name.
        InputFileError: a table cannot be used, or a stored point was changed.
        MissingExtraError: Dask is asked for and not installed.
        DeviceLostError: no scheduler answers.
        SolverError: a worker was killed.
        StorageError: a file could not be written.
    """
    paths = table_paths(plan)
    try:
        (folder / POINTS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder cannot be made: {error.strerror}", where=str(folder)) from error
    answers = {}
    with executors.workers(jobs=jobs, dask=dask) as workers:
        for answer, found in _solved(plan, folder, workers):
            answers[answer.asked.name] = answer
            on_progress(Progress(done=len(answers), total=len(plan.points), name=answer.asked.name, found=found))
    final = [
        answer for line in plan.lines for answer in _monotone([answers[asked.name] for asked in line], plan, folder)
    ]
    results = Results(
        name=plan.name,
        points=tuple(_point(answer, folder) for answer in final),
        tables=_tables(plan, paths),
        notes=sharing_notes(plan, {answer.asked.name: answer.solution for answer in final}),
        versions=(("deepmad-hw", __version__), *versions(SWEEPING)),
        commands=() if command is None else (command,),
    )
    write_results(folder, results)
    return results


def _solved(plan: Plan, folder: Path, workers: executors.Workers) -> Iterator[tuple[_Answer, bool]]:
    """Yield every point when it is stored, and whether it was before."""
    # The gap written out, so that an address says which one it was.
    settings = replace(plan.settings, gap=plan.settings.gap_for(plan.points[0].question.problem.worth))
    ready = [_Chain(points=chain, settings=settings) for chain in plan.chains]
    running: dict[Future[str], _Chain] = {}
    while ready or running:
        while ready and len(running) < workers.width:
            chain = ready.pop(0)
            stored = _stored(folder, chain.asked, chain.address)
            if stored is None:
                running[workers.executor.submit(solve_text, chain.task())] = chain
                continue
            yield chain.answered(stored), True
            ready = [chain, *ready] if chain.points else ready
        done, _ = wait(running, return_when=FIRST_COMPLETED) if running else (set(), set())
        for future in sorted(done, key=lambda future: running[future].asked.name):
            chain = running.pop(future)
            solution = _answer_of(future)
            _save(folder, chain.asked, chain.address, solution)
            yield chain.answered(solution), False
            ready = [chain, *ready] if chain.points else ready


class _Chain:
    """Points that are solved one after the other: those to come, and what the last one leaves to the next."""

    def __init__(self, *, points: tuple[Asked, ...], settings: Settings) -> None:
        self.points = points
        self._settings = settings
        self._known: tuple[Architecture, ...] = ()
        self._before: _Answer | None = None

    @property
    def asked(self) -> Asked:
        """Return the next point."""
        return self.points[0]

    @property
    def address(self) -> str:
        """Return the next point's address."""
        return _address(self.asked, self._settings, after=None if self._before is None else self._before.address)

    def task(self) -> str:
        """Return the next point's question as text."""
        question = self.asked.question
        file = ProblemFile(problem=question.problem, tables=_references(question, absolute=True))
        return json.dumps(
            {
                "problem": serde.problem_to_json(file),
                "settings": plain(self._settings),
                "known": [serde.architecture_to_json(design) for design in self._known],
            }
        )

    def answered(self, solution: Solution) -> _Answer:
        """Take the next point's answer and step on."""
        answer = _Answer(
            asked=self.asked,
            address=self.address,
            solution=solution,
            after=None if self._before is None else self._before.asked.name,
        )
        if solution.architecture is not None:
            self._known = (solution.architecture,)
        self._before, self.points = answer, self.points[1:]
        return answer


def solve_text(task: str) -> str:
    """Return the answer to a question; both are JSON, so that they pass to any worker as they are.

    Args:
        task: problem, settings and known designs.

    Raises:
        InputFileError: a table is missing here, or is another one.
        DeepmadError: as `design`.
    """
    data = json.loads(task)
    file = serde.problem_from_json(data["problem"])
    models = {named.table: _model(named) for named in file.tables}
    settings = Settings(**data["settings"])
    known = [serde.architecture_from_json(design) for design in data["known"]]
    solution, gap = solved(file.problem, models, settings, known=known), settings.gap_for(file.problem.worth)
    for neighbour in known:
        solution = not_below(solution, file.problem, neighbour, models, gap=gap)
    return json.dumps(serde.solution_to_json(solution))


@functools.lru_cache(maxsize=16)
def _model(named: TableReference) -> LatencyModel:
    path = Path(named.path)
    if table_sha256(path) != named.sha256:
        raise InputFileError("is another table here than where the sweep was started", where=str(path))
    return load_table(path, confidence=named.confidence, allow_uncovered=named.allow_uncovered)


def not_below(
    solution: Solution, problem: Problem, neighbour: Architecture, models: Mapping[str, LatencyModel], *, gap: float
) -> Solution:
    """Return a solution, or a neighbour's design in its place where that keeps the limits and is worth more.

    Args:
        solution: of the problem.
        problem: whose limits the neighbour must keep.
        neighbour: a design for other limits.
        models: latency models by table name.
        gap: at which a design counts as certified.
    """
    if problem.space.violations(neighbour):
        return solution
    evaluation = check.evaluate_for(problem, neighbour, models)
    if check.refusals(problem, neighbour, evaluation):
        return solution
    # Equal designs are worth the same to the last digit; nothing is taken for rounding.
    if solution.evaluation is not None and solution.evaluation.objective >= evaluation.objective:
        return solution
    # A bound below a design that is there is no bound.
    bound = solution.bound if solution.bound is not None and solution.bound >= evaluation.objective else None
    proved = bound is not None and bound - evaluation.objective <= gap * evaluation.gap_scale
    note = "the design of a neighbouring point, which is worth more than what was found for this one"
    return replace(
        solution,
        status=Status.CERTIFIED if proved else Status.FEASIBLE,
        architecture=neighbour,
        evaluation=evaluation,
        bound=bound,
        gap_tolerance=solution.gap_tolerance if solution.gap_tolerance is not None else gap if proved else None,
        minimum_values=(),
        notes=(*solution.notes, note),
    )


def _monotone(line: list[_Answer], plan: Plan, folder: Path) -> list[_Answer]:
    """Return a line whose objectives never fall, also where two chains meet."""
    kept: list[_Answer] = []
    best: _Answer | None = None
    for answer in line:
        question = answer.asked.question
        if best is not None and best.solution.architecture is not None:
            gap = plan.settings.gap_for(question.problem.worth)
            taken = not_below(answer.solution, question.problem, best.solution.architecture, question.models, gap=gap)
            if taken is not answer.solution:
                address = _sha256({"answer": answer.address, "takes": best.address})
                if _stored(folder, answer.asked, address) is None:
                    _save(folder, answer.asked, address, taken)
                answer = replace(answer, solution=taken, address=address)
        kept.append(answer)
        best = answer if answer.solution.architecture is not None else best
    return kept


def _address(asked: Asked, settings: Settings, *, after: str | None) -> str:
    question = asked.question
    tables = [
        {"table": named.table, "sha256": named.sha256, "confidence": named.confidence, "lenient": named.allow_uncovered}
        for named in _references(question, absolute=False)
    ]
    return _sha256(
        {
            "problem": serde.problem_to_json(ProblemFile(problem=question.problem)),
            "tables": tables,
            "settings": plain(settings),
            "versions": [["deepmad-hw", __version__], *versions(SWEEPING)],
            "after": after,
        }
    )


def _sha256(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def _references(question: Question, *, absolute: bool) -> tuple[TableReference, ...]:
    return tuple(
        TableReference(
            table=name,
            path=str(path.resolve()) if absolute else path.name,
            sha256=_table_sha256(path, path.stat().st_mtime_ns),
            confidence=question.confidence,
            allow_uncovered=question.allow_uncovered,
        )
        for name, path in sorted(question.tables.items())
    )


@functools.lru_cache(maxsize=64)
def _table_sha256(path: Path, _changed_ns: int) -> str:
    return table_sha256(path)


def point_folder(asked: Asked, address: str) -> str:
    """Return the folder of a point, relative to the sweep's.

    Args:
        asked: the point.
        address: of its answer.
    """
    return f"{POINTS_FOLDER}/{asked.name}-{address[:ADDRESS_LENGTH]}"


def _stored(folder: Path, asked: Asked, address: str) -> Solution | None:
    path = folder / point_folder(asked, address) / DESIGN_FILE
    return serde.read_solution(path) if path.is_file() else None


def _save(folder: Path, asked: Asked, address: str, solution: Solution) -> None:
    question = asked.question
    save_design(
        folder / point_folder(asked, address),
        solution,
        question.problem,
        tables=question.tables,
        confidence=question.confidence,
        allow_uncovered=question.allow_uncovered,
    )


def _answer_of(future: Future[str]) -> Solution:
    try:
        text = future.result()
    except DeepmadError:
        raise
    except BrokenProcessPool as error:
        raise SolverError(
            "a worker was killed, most often for want of memory",
            hint="give the same command again, with fewer --jobs; finished points are kept",
        ) from error
    return serde.solution_from_json(parse_json(text, where="a worker's answer"))


def _point(answer: _Answer, folder: Path) -> Point:
    problem = answer.asked.question.problem
    return Point(
        name=answer.asked.name,
        solution=answer.solution,
        limits=problem.limits,
        grid=serde.grid_to_json(problem.space),
        folder=point_folder(answer.asked, answer.address),
        group=answer.asked.group,
        warm_start=answer.after,
    )


def _tables(plan: Plan, paths: Mapping[str, Path]) -> tuple[TableHealth, ...]:
    models = {name: model for asked in plan.points for name, model in asked.question.models.items()}
    found = ((path, cast("TableModel", models[name])) for name, path in sorted(paths.items()))
    return tuple(table_health(path, model) for path, model in found)


def sharing_notes(plan: Plan, solutions: Mapping[str, Solution]) -> tuple[str, ...]:
    """Return what one design for all devices costs each of them, where the plan has their own designs too.

    Args:
        plan: the points.
        solutions: by point.
    """
    lines = {line[0].group: line for line in plan.lines}
    notes = []
    for line in plan.lines:
        for table in (limit.table for limit in line[0].question.problem.limits.latency):
            for shared, own in zip(line, lines.get(own_group(table, line[0].group), ()), strict=False):
                together, alone = solutions[shared.name].evaluation, solutions[own.name].evaluation
                if together is None or alone is None or alone.gap_scale == 0:
                    continue
                loss = (alone.objective - together.objective) / alone.gap_scale
                cost = units.format_gap(loss, alone.unit) if alone.unit else f"{loss:.1%}"
                notes.append(
                    f"{shared.name}: one design for all devices costs {table} {cost} of its own design's objective "
                    f"({units.format_objective(together.objective)} instead of "
                    f"{units.format_objective(alone.objective)})"
                )
    return tuple(notes)
