"""``deepmad-hw verify``: a stored design recomputed without a solver. Layer 4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepmad_hw.cli import options, output


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `design --out` wrote.")],
    json: options.Json = False,
) -> None:
    """Recompute what a stored design says, without a solver."""
    from deepmad_hw.workflows.verify import verify as recompute

    found = recompute(options.existing_folder(folder))
    if json:
        output.answer_json(
            {"schema": 1, "status": found.status.value, "checked": list(found.checked), "notes": list(found.notes)}
        )
        return
    output.answer(f"{folder}: {found.status.value}, {len(found.checked)} fields recomputed and equal")
    for note in found.notes:
        output.answer(f"note: {note}")
