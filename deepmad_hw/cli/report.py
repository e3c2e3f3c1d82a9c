"""``deepmad-hw report``: results as one page to look at and send around. Layer 4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepmad_hw.cli import options, output
from deepmad_hw.errors import ConfigError

PAGE_ENDINGS = (".html", ".htm")


def report(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that sweep, design or quickstart wrote.")],
    out: Annotated[Path, typer.Option(metavar="REPORT.html", help="The page to write.")],
    bench: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `bench --json` printed: its rows are shown beside the designs."),
    ] = None,
    plots: Annotated[
        bool, typer.Option(help="Also write each plot as SVG and PNG, into a folder beside the page.")
    ] = True,
    json: options.Json = False,
) -> None:
    """Write one HTML file that opens anywhere: trade-off, designs, accuracy, prices, rho, tables."""
    if out.suffix.lower() not in PAGE_ENDINGS:
        raise ConfigError("is no HTML file", where=f"--out {out}", hint="end it with .html")
    folder = options.existing_folder(path)

    from deepmad_hw.workflows.report.page import report as write

    with output.progress("drawing the report"):
        plots_folder = out.with_name(f"{out.stem}-plots") if plots else None
        written = write(folder, out, bench=bench, plots_folder=plots_folder)
    if json:
        size_bytes = written.page.stat().st_size
        output.answer_json(
            {
                "schema": 1,
                "report": str(written.page),
                "size_bytes": size_bytes,
                "plots": [str(plot) for plot in written.plots],
                "notes": list(written.notes),
            }
        )
        return
    output.answer(str(written.page))
    for note in written.notes:
        output.message(f"note: {folder}: {note}")
    if plots_folder is not None:
        output.message(f"plots as SVG and PNG in {plots_folder}")
