"""``deepmad-hw table``: look at latency tables and hold them against this machine. Layer 4."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deepmad_hw.cli import options, output

TablePath = Annotated[Path, typer.Argument(metavar="TABLE.csv", help="Latency table.")]

table = typer.Typer(no_args_is_help=True, help="Look at latency tables.", rich_markup_mode=None)


@table.command()
def show(path: TablePath, json: options.Json = False) -> None:
    """Say what a table holds and where it was taken."""
    from deepmad_hw.workflows.tables import load_model

    model = load_model(path)
    found = model.table
    kinds = Counter(row.spec.op for row in found.rows)
    statuses = Counter(row.status for row in found.rows)
    data = {
        "schema": 1,
        "name": found.name,
        "environment": asdict(found.environment),
        "measured_on": found.measured_on,
        "rows": len(found.rows),
        "operations": dict(kinds),
        "statuses": dict(statuses),
        "calibration_networks": len(found.calibration),
        "margin": model.margin,
        "notes": list(found.notes),
    }
    if json:
        output.answer_json(data)
        return
    rows = [(key.replace("_", " "), _text(value)) for key, value in asdict(found.environment).items()]
    rows += [("measured on", found.measured_on or "unknown")]
    rows += [("rows", f"{len(found.rows)}: {_text(kinds)}"), ("statuses", _text(statuses))]
    rows += [("calibration networks", str(len(found.calibration)))]
    rows += [("margin at 90 %", "none" if model.margin is None else f"{model.margin:.1%}")]
    rows += [("note", note) for note in found.notes]
    output.table((found.name, ""), rows)


def _text(value: object) -> str:
    if isinstance(value, Counter):
        return ", ".join(f"{count} {name}" for name, count in value.most_common())
    return " ".join(value) if isinstance(value, tuple) else str(value)


@table.command()
def check(path: TablePath, json: options.Json = False) -> None:
    """Hold a table against this machine: possible times, same environment, same speed."""
    from deepmad_hw.workflows.tables import check_table

    with tempfile.TemporaryDirectory(prefix="deepmad-hw-check-") as folder:
        found = check_table(path, folder=Path(folder))
    if json:
        output.answer_json({"schema": 1, "table": str(path), **asdict(found)})
        return
    drift = "unknown" if found.drift is None else f"{found.drift - 1:+.1%}"
    margin = "none" if found.margin is None else f"{found.margin:.1%}"
    output.answer(
        f"{path}: fits this machine; {found.rows} rows, {found.noisy_rows} noisy, {found.failed_rows} failed; "
        f"margin {margin}; canary {found.canary_us:.0f} us, {drift} since the table was made"
    )
