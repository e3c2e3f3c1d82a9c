"""``deepmad-hw design``: solve one problem, show and store the answer. Layer 4."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepmad_hw import cli, units
from deepmad_hw.cli import answers, options, output
from deepmad_hw.errors import ConfigError, TooNoisyError

if TYPE_CHECKING:
    from deepmad_hw.problem.problem import Problem
    from deepmad_hw.problem.settings import Settings
    from deepmad_hw.problem.solution import Solution
    from deepmad_hw.workflows.design.design import Question
    from deepmad_hw.workflows.design.loop import Measured


class Method(StrEnum):
    """How a problem is solved."""

    CERTIFIED = "certified"
    FAST = "fast"
    CONTINUOUS = "continuous"


def design(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="Run file, or name of a problem such as deepmad-r18.")
    ],
    latency: options.Latency = [],  # noqa: B006
    confidence: options.Confidence = None,
    allow_uncovered: options.AllowUncovered = False,
    objective: options.Objective = None,
    grid: options.Grid = None,
    resolution: options.Resolution = None,
    settings: options.Set = [],  # noqa: B006
    method: Annotated[Method, typer.Option(help="How sure the answer is.")] = Method.CERTIFIED,
    gap: options.Gap = None,
    time_limit: options.TimeLimit = "60s",
    threads: options.Threads = 1,
    seed: options.Seed = 0,
    solver_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to which the exact solver adds its own words.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the design here and correct it until it uses its budget.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder that keeps the design.")] = None,
    json: options.Json = False,
    **limits: str | None,
) -> None:
    """Solve one problem: the best network of a space within its limits."""
    # What was typed is read before anything heavy is loaded.
    requests = options.latency_requests(latency)
    over = options.overrides(limits, grid=grid, objective=objective, settings=settings)
    choices = options.resolutions(resolution)
    time_limit_s = units.parse_seconds(time_limit, where="--time-limit")
    asked_confidence = options.confidence_share(confidence)
    folder = None if out is None else options.new_folder(out)

    from deepmad_hw.problem.settings import Settings
    from deepmad_hw.workflows.design import design as designs
    from deepmad_hw.workflows.runfile import config as configs

    runs = [configs.load_run(config, overrides={**over, **choice}).with_latency(requests) for choice in choices]
    questions = [designs.with_tables(run, confidence=asked_confidence, allow_uncovered=allow_uncovered) for run in runs]
    asked = Settings(
        method=method.value,
        gap=options.gap(gap, questions[0].problem),
        time_limit_s=time_limit_s,
        threads=threads,
        seed=seed,
        solver_log=solver_log,
    )
    if measure:
        _require_measurable(method, questions[0])
    with output.progress(f"solving {questions[0].problem.name} ({method.value})"):
        question, solution = designs.best_design(questions, asked)
    loop = None
    if measure and solution.architecture is not None:
        loop = _measured(question, solution, folder, asked)
        question, solution = loop.question, loop.solution
    if folder is not None:
        designs.save_design(
            folder,
            solution,
            question.problem,
            tables=question.tables,
            confidence=question.confidence,
            allow_uncovered=question.allow_uncovered,
        )
        _keep(loop, folder)
    if json:
        from deepmad_hw.formats import serde

        output.answer_json(serde.solution_to_json(solution, space=question.problem.space))
    else:
        answers.show(solution, question.problem)
    output.message(f"stored in {folder}" if folder is not None else "nothing was stored; --out DIR keeps the design")
    _stop(solution, question.problem)
    if loop is not None and loop.too_noisy:
        raise TooNoisyError(loop.ended)


options.with_limits(design, after="allow_uncovered")


def _measured(question: Question, solution: Solution, folder: Path | None, settings: Settings) -> Measured:
    from deepmad_hw.workflows.design.loop import measured_loop

    with output.progress("measuring and solving again"):
        return measured_loop(
            question,
            point=solution.problem if folder is None else folder.resolve().name,
            settings=settings,
            first=solution,
            on_round=answers.show_round,
        )


def _require_measurable(method: Method, question: Question) -> None:
    if method is Method.CONTINUOUS:
        raise ConfigError("a continuous design cannot be measured", where="--measure", hint="leave --method away")
    if not question.problem.limits.latency:
        raise ConfigError("nothing to measure against", where="--measure", hint="give a budget: --latency TABLE=25ms")


def _keep(loop: Measured | None, folder: Path) -> None:
    """Store a loop beside its design; what was measured of an earlier design in the folder goes."""
    from deepmad_hw.workflows.results.loop_file import LOOP_FILE, write_loop
    from deepmad_hw.workflows.results.results import MEASURED_FILE
    from deepmad_hw.workflows.results.results_folder import write_measured

    if loop is None:
        for name in (LOOP_FILE, MEASURED_FILE):
            (folder / name).unlink(missing_ok=True)
        return
    write_measured(folder, loop.rows, (), point=folder.resolve().name)
    write_loop(folder, ended=loop.ended, rounds=loop.rounds, rows=loop.rows)


def _stop(solution: Solution, problem: Problem) -> None:
    """End with the code that says what the answer is worth."""
    from deepmad_hw.workflows.results.folders import needs

    status, asked = solution.status.value, solution.method
    if status == "infeasible":
        output.message(f"error: no design keeps every limit: {needs(solution, problem.limits)}")
        raise typer.Exit(cli.EXIT_INFEASIBLE)
    wanted = {"certified": "certified", "fast": "feasible", "continuous": "local"}.get(asked, asked)
    if status not in (wanted, "certified"):
        output.message(f"error: the answer is {status}, not {wanted}: {solution.stopped}; raise --time-limit or --gap")
        raise typer.Exit(cli.EXIT_NOT_CERTIFIED)
