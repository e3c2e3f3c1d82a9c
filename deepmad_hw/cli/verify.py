"""``deepmad-hw verify``: a stored design recomputed without a solver. Layer 4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepmad_hw.cli import options, output


def verify(
    path: Annotated[
        Path, typer.Argument(metavar="DIR|FILE", help="Folder that `design --out` wrote, or an ONNX file.")
    ],
    json: options.Json = False,
) -> None:
    """Recompute what a stored design says, without a solver."""
    if path.suffix == ".onnx":
        _verify_file(path, json=json)
        return
    from deepmad_hw.workflows.verify import verify as recompute

    found = recompute(options.existing_folder(path))
    if json:
        output.answer_json(
            {"schema": 1, "status": found.status.value, "checked": list(found.checked), "notes": list(found.notes)}
        )
        return
    output.answer(f"{path}: {found.status.value}, {len(found.checked)} fields recomputed and equal")
    for note in found.notes:
        output.answer(f"note: {note}")


def _verify_file(path: Path, *, json: bool) -> None:
    from deepmad_hw.workflows.export import check_exported

    checked = check_exported(path)
    if json:
        output.answer_json({"schema": 1, "checked": list(checked), "notes": []})
        return
    for sentence in checked:
        output.answer(f"{path}: {sentence}")
