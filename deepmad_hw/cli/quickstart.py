"""``deepmad-hw quickstart``: the main job on this machine, from profile to measured design. Layer 4."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepmad_hw import units
from deepmad_hw.cli import answers, bench, options, output

if TYPE_CHECKING:
    from deepmad_hw.problem.solution import Solution
    from deepmad_hw.workflows.quickstart import Line, Quickstart


def quickstart(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for table, design and model.")] = Path("quickstart"),
    minutes: Annotated[float, typer.Option(min=0.01, help="Profiling time, about.")] = 2.0,
    json: options.Json = False,
) -> None:
    """Profile this machine, design a network for it, export it, measure it: under five minutes."""
    from deepmad_hw.cli.profile import show_outlook, show_tick

    show_outlook()
    from deepmad_hw.workflows import quickstart as quickstarts
    from deepmad_hw.workflows.bench.bench import require_sure

    with output.progress("quickstart") as steps:
        show = quickstarts.Show(step=output.message, tick=lambda tick: show_tick(steps, tick))
        result = quickstarts.quickstart(out, show=show, minutes=minutes)
    if json:
        output.answer_json(_to_json(result))
    else:
        _show(result)
    require_sure(line.bench for line in result.lines)


def _show(result: Quickstart) -> None:
    columns = ("network", "budget ms", "predicted ms", "interval", "measured ms", "objective", "rho", "MACs", "params")
    output.table(columns, [_cells(line, result) for line in result.lines], numbers=range(1, len(columns)))
    output.answer("")
    output.answer(_worth(result.solution))
    for note in answers.penalties((line.bench.name, line.score, line.penalty) for line in result.lines):
        output.answer(note)
    for note in bench.notes([line.bench for line in result.lines]):
        output.answer(note)
    output.answer(
        "Objectives are DeepMAD's, of reference networks in this project's own layers. They are no accuracies,"
    )
    output.answer("and compare fairly at equal rho only.")
    output.answer(
        f"In {result.folder}: report.html (look), this-machine.csv (latency table), design/ (verify, export), "
        "design.onnx (deploy)"
    )


def _worth(solution: Solution) -> str:
    if solution.bound is None or solution.gap is None:
        return f"The design is {solution.status.value}: it keeps every limit, and no bound was proved."
    return (
        f"The design is {solution.status.value}: no network of the grid within the limits has an objective above "
        f"{solution.bound:,.0f}, {units.format_percent(solution.gap)} more."
    )


def _cells(line: Line, result: Quickstart) -> tuple[str, ...]:
    row = line.bench
    return (
        row.name,
        f"{result.budget_ms:g}" if line is result.lines[0] else "",
        bench.number(row.predicted_ms),
        bench.interval(row.lower_ms, row.upper_ms),
        bench.number(row.measured_ms),
        "" if line.objective is None else f"{line.objective:,.0f}",
        "" if line.rho is None else f"{line.rho:.3f}",
        units.format_count(line.macs),
        units.format_count(line.params),
    )


def _to_json(result: Quickstart) -> dict[str, Any]:
    return {
        "schema": 1,
        "folder": str(result.folder),
        "budget_ms": result.budget_ms,
        "status": result.solution.status.value,
        "networks": [
            {
                **bench.row_to_json(line.bench),
                "objective": line.objective,
                "score": line.score,
                "penalty": line.penalty,
                "rho": line.rho,
                "macs": line.macs,
                "params": line.params,
            }
            for line in result.lines
        ],
    }
