"""``deepmad-hw sweep``: many budgets, devices, spaces; the Pareto front. Layer 4."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepmad_hw import cli, units
from deepmad_hw.cli import answers, options, output
from deepmad_hw.errors import ConfigError

if TYPE_CHECKING:
    from deepmad_hw.workflows.results.results import Point, Results, Row
    from deepmad_hw.workflows.sweep.sweep import Progress
    from deepmad_hw.workflows.sweep.sweep_plan import Plan


class Method(StrEnum):
    """How each point is solved."""

    CERTIFIED = "certified"
    FAST = "fast"


def sweep(
    context: typer.Context,
    configs: Annotated[
        list[str], typer.Argument(metavar="CONFIG...", help="Run files, or names of problems such as deepmad-r18.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder that keeps every point; the same command resumes.")],
    latency: Annotated[
        list[str],
        typer.Option(
            metavar="TABLE=RANGE",
            help="Budgets on a table's device: T.csv=5ms:50ms:10, 5ms:50ms:10:log, or a list such as "
            "5ms,30fps,like:resnet18. Repeatable: ranges of several devices walk together.",
        ),
    ] = [],  # noqa: B006
    resolution: Annotated[
        str | None, typer.Option(metavar="SIDE|HxW[,...]", help="Pixels of the image; each makes a line of its own.")
    ] = None,
    objective: options.Objective = None,
    grid: options.Grid = None,
    settings: options.Set = [],  # noqa: B006
    each_device: Annotated[
        bool, typer.Option("--each-device", help="Also the best designs for each device alone: what sharing costs.")
    ] = False,
    confidence: options.Confidence = None,
    allow_uncovered: options.AllowUncovered = False,
    method: Annotated[Method, typer.Option(help="How sure the answers are.")] = Method.CERTIFIED,
    gap: options.Gap = None,
    time_limit: Annotated[str, typer.Option(metavar="TIME", help="Longest time to solve each point.")] = "60s",
    threads: options.Threads = 1,
    seed: options.Seed = 0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes that solve side by side. [default: one per core]")
    ] = None,
    dask: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Solve on the cluster of this scheduler.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure each design here and correct it until it uses its budget.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Measure the designs here in turns with well-known networks.")
    ] = False,
    beside: Annotated[
        list[str],
        typer.Option(metavar="NETWORK", help="Compare with this network, folder or file instead. Repeatable."),
    ] = [],  # noqa: B006
    json: options.Json = False,
    **limits: str | None,
) -> None:
    """Solve a problem for many budgets: every point certified, none worth less than one with smaller budgets."""
    from deepmad_hw.problem.settings import Settings
    from deepmad_hw.workflows.sweep import sweep as sweeps
    from deepmad_hw.workflows.sweep import sweep_axes

    plan = sweep_axes.make_plan(
        configs,
        sweep_axes.Ranges(
            limits={name: text for name, text in limits.items() if text is not None},
            resolution=resolution,
            latency=_tables(latency),
        ),
        overrides=options.overrides(grid=grid, objective=objective, settings=settings),
        own_designs=each_device,
        confidence=options.confidence_share(confidence),
        allow_uncovered=allow_uncovered,
    )
    first = plan.points[0].question.problem
    settings_of_points = Settings(
        method=method.value,
        gap=options.gap(gap, first),
        time_limit_s=units.parse_seconds(time_limit, where="--time-limit"),
        threads=threads,
        seed=seed,
    )
    plan = replace(plan, settings=settings_of_points)
    if (measure or compare or beside) and not all(asked.question.tables for asked in plan.points):
        raise ConfigError("nothing says which runtime to measure on", where="sweep", hint="give --latency TABLE=RANGE")
    folder = options.new_folder(out)
    words = options.words(context, but=("out", "jobs", "dask", "json", "gap"))
    words += ["--gap", units.exact_gap(settings_of_points.gap_for(first.worth), first.worth.unit)]
    total = len(plan.points)
    with output.progress(f"solving {total} points of {plan.name}", total=total) as steps:
        results = sweeps.sweep(
            plan,
            folder,
            jobs=jobs or min(len(plan.chains), len(os.sched_getaffinity(0))),
            dask=dask,
            command=shlex.join(["deepmad-hw", "sweep", *words, "--out", str(out)]),
            on_progress=lambda progress: _show_progress(steps, progress),
        )
    if measure:
        results = _measured(plan, results, folder)
    if compare or beside:
        results = _compared(plan, results, folder, beside)
    if json:
        from deepmad_hw.workflows.results.results import results_to_json

        output.answer_json(results_to_json(results))
    else:
        show(results)
    output.message(f"stored in {folder}; see it with: deepmad-hw report {shlex.quote(str(folder))} --out report.html")
    _stop(results, method=method)
    if compare or beside:
        from deepmad_hw.workflows.bench.bench import require_sure

        require_sure(_measured_rows(results))


options.with_limits(sweep, after="latency", ranges=True)


def _measured_rows(results: Results) -> list[Row]:
    return [*(row for point in results.points for row in point.rows), *(each.row for each in results.references)]


def _measured(plan: Plan, results: Results, folder: Path) -> Results:
    from deepmad_hw.workflows.sweep.sweep_measured import measured_sweep

    done: list[str] = []
    total = len(results.points)
    with output.progress(f"measuring {total} points", total=total) as steps:

        def count(name: str) -> None:
            done.append(name)
            steps.advance(done=len(done), total=total, text=f"{len(done)}/{total} points measured, {name}")

        return measured_sweep(plan, results, folder, on_round=answers.show_round, on_point=count)


def _compared(plan: Plan, results: Results, folder: Path, beside: Sequence[str]) -> Results:
    from deepmad_hw.cli.profile import show_tick
    from deepmad_hw.workflows.bench.compare import NETWORKS, compared
    from deepmad_hw.workflows.results.results import write_results
    from deepmad_hw.workflows.sweep.sweep_plan import table_paths

    table = next(iter(table_paths(plan).values()))
    with output.progress("measuring in turns") as steps:
        found = compared(
            results,
            table,
            networks=tuple(beside) or NETWORKS,
            objective=plan.objective,
            on_tick=lambda tick: show_tick(steps, tick),
        )
    write_results(folder, found)
    return found


def _tables(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        path, _, budgets = text.partition("=")
        if not path or not budgets:
            raise ConfigError("expected a table and its budgets", where="--latency", hint="say TABLE.csv=5ms:50ms:10")
        if path in found:
            raise ConfigError("two ranges for one table", where=f"--latency {path}", hint="put commas between values")
        found[path] = budgets
    return found


def _show_progress(steps: output.Steps, progress: Progress) -> None:
    text = f"{progress.done}/{progress.total} points, {progress.name} {'found' if progress.found else 'solved'}"
    steps.advance(done=progress.done, total=progress.total, text=text)


def show(results: Results) -> None:
    """Print a sweep as a table, and what to keep in mind when reading it.

    Args:
        results: the sweep.
    """
    columns = ("point", "status", "objective", "gap", "rho", "depth", "width", "MACs", "params", "latency", "training")
    output.table(columns, [_cells(point) for point in results.points], numbers=range(2, len(columns)))
    if len({point.limits.rho for point in results.points if point.limits is not None}) > 1:
        output.answer("note: objectives compare at equal rho only; training is an estimate, in 10^18 multiply-adds")
    if results.references or any(point.rows for point in results.points):
        _show_measured(results)
    for note in results.notes:
        output.answer(note)


def _show_measured(results: Results) -> None:
    from deepmad_hw.workflows.results.results import is_deepmads, objective_label

    deepmads = is_deepmads(results)
    rows = [
        *((row, point.solution.objective) for point in results.points for row in point.rows),
        *((reference.row, reference.objective) for reference in results.references),
    ]
    cells = [
        (
            row.name,
            *("" if value is None else f"{value:.2f}" for value in (row.measured_ms, row.p99_ms, row.predicted_ms)),
            _objective(objective, deepmads=deepmads),
        )
        for row, objective in rows
    ]
    columns = ("network", "measured ms", "p99", "predicted ms", objective_label(results))
    output.table(columns, cells, numbers=range(1, 5))
    for row, _ in rows:
        if row.reason:
            output.answer(f"note: {row.name} {row.reason}")
    notes = _notes(results) if deepmads else _notes_on_own_objective(results)
    for note in notes:
        output.answer(note)


def _objective(value: float | None, *, deepmads: bool) -> str:
    if deepmads:
        return "" if value is None else f"{value:,.1f}"
    return "-" if value is None else units.format_objective(value)


def _notes(results: Results) -> list[str]:
    penalties = answers.penalties((each.row.name, each.score, each.penalty) for each in results.references)
    return ["note: objectives are no accuracies, and compare at equal rho only", *penalties]


def _notes_on_own_objective(results: Results) -> list[str]:
    """Return how objectives other than DeepMAD's are to be read beside reference networks."""
    from deepmad_hw.workflows.results.results import objective_unit, told_objective

    unit = objective_unit(results)
    notes = [
        f"note: objectives are predicted {unit}, not measured ones" if unit else "note: objectives are no accuracies"
    ]
    if any(each.objective is None for each in results.references):
        notes.append("note: '-': the designs' objective says nothing of networks of that kind")
    told = {each.row.name: told_objective(each) for each in results.references}
    return [*notes, *(f"note: {name}: {text}" for name, text in told.items() if text is not None)]


def _cells(point: Point) -> tuple[str, ...]:
    from deepmad_hw.workflows.report.facts import training_emacs

    solution = point.solution
    network, values = solution.architecture, solution.evaluation
    if network is None or values is None:
        return (point.name, solution.status.value, *[""] * 9)
    depth = sum(stage.depth for stage in network.stages)
    width = sum(stage.out * stage.depth for stage in network.stages) / depth
    return (
        point.name,
        solution.status.value,
        f"{values.objective:,.1f}",
        answers.gap(solution),
        f"{values.max_rho:.3f}",
        str(depth),
        f"{width:.0f}",
        units.format_count(values.macs),
        units.format_count(values.params),
        ", ".join(units.format_time_ms(each.upper_ms or each.predicted_ms) for each in values.latency),
        f"{training_emacs(values.macs):.2f}",
    )


def _stop(results: Results, *, method: Method) -> None:
    """End with the code that says what the worst point is worth; points that nothing can keep are an answer too."""
    states = [point.solution.status.value for point in results.points]
    if all(state == "infeasible" for state in states):
        output.message("error: no design keeps the limits of any point")
        raise typer.Exit(cli.EXIT_INFEASIBLE)
    unsure = {"failed", "feasible"} if method is Method.CERTIFIED else {"failed"}
    short = [point.name for point in results.points if point.solution.status.value in unsure]
    if short:
        output.message(
            f"error: {len(short)} points are not {method.value}: {', '.join(short)}; raise --time-limit or --gap"
        )
        raise typer.Exit(cli.EXIT_NOT_CERTIFIED)
