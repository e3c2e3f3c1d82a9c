"""The measured loop for every point of a sweep, one after the other, each stored when it has ended. Layer 4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deepmad_hw.errors import TooNoisyError
from deepmad_hw.formats import serde
from deepmad_hw.workflows.design.design import save_design
from deepmad_hw.workflows.design.loop import Measure, measured_loop
from deepmad_hw.workflows.results.folders import DESIGN_FILE
from deepmad_hw.workflows.results.loop_file import LOOP_FILE, read_loop, write_loop
from deepmad_hw.workflows.results.results import Point, Results, Round, write_results
from deepmad_hw.workflows.sweep.sweep_plan import Asked, Plan

MEASURED_FOLDER = "measured"


def measured_sweep(
    plan: Plan,
    results: Results,
    folder: Path,
    *,
    measure: Measure | None = None,
    on_round: Callable[[Round], None] = lambda round_: None,
    on_point: Callable[[str], None] = lambda name: None,
) -> Results:
    """Return a sweep whose designs keep and use their budgets as measured, and store it.

    Measured designs are found for corrected budgets, so they need not grow along a line as predicted ones do.

    Args:
        plan: the points.
        results: their predicted designs; each starts its loop.
        folder: of the sweep.
        measure: times a design; None takes this machine.
        on_round: told after each round.
        on_point: told after each point.

    Raises:
        ConfigError: a point without a latency limit.
        ForeignTableError: no table belongs to this machine.
        TooNoisyError: a design was disturbed whenever it was measured.
        StorageError: a file could not be written.
    """
    asked = {each.name: each for each in plan.points}
    points: list[Point] = []
    rounds: list[Round] = []
    for point in results.points:
        if point.solution.architecture is None or point.folder is None:
            points.append(point)
            continue
        place = f"{point.folder}/{MEASURED_FOLDER}"
        if not (folder / place / LOOP_FILE).is_file():
            _run(asked[point.name], point, folder / place, plan, measure=measure, on_round=on_round)
        found, rows = read_loop(folder / place)
        solution = serde.read_solution(folder / place / DESIGN_FILE)
        points.append(replace(point, solution=solution, rows=rows, folder=place))
        rounds += found
        on_point(point.name)
    done = replace(results, points=tuple(points), rounds=tuple(rounds))
    write_results(folder, done)
    return done


def _run(
    asked: Asked, point: Point, folder: Path, plan: Plan, *, measure: Measure | None, on_round: Callable[[Round], None]
) -> None:
    found = measured_loop(
        asked.question,
        point=point.name,
        settings=plan.settings,
        first=point.solution,
        measure=measure,
        on_round=on_round,
    )
    if found.too_noisy:  # its loop begins again when the same command is given again; what is stored stays
        raise TooNoisyError(found.ended)
    question = found.question
    save_design(
        folder,
        found.solution,
        question.problem,
        tables=question.tables,
        confidence=question.confidence,
        allow_uncovered=question.allow_uncovered,
    )
    write_loop(
        folder, ended=found.ended, rounds=found.rounds, rows=found.rows
    )  # last: where it stands, the loop has ended and its design stands too
