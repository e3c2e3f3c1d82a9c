"""``deepmad-hw export``: a network as a file that another program can run. Layer 4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepmad_hw.cli import options, output


def export(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="Folder of a design, its JSON, or a reference network (resnet18).")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")],
    target: Annotated[str, typer.Option(help="Form of the file: onnx or torch.")] = "onnx",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trained weights (safetensors); untrained ones otherwise.")
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Write a network as an ONNX file or a PyTorch module."""
    from deepmad_hw.workflows.export import check_exported
    from deepmad_hw.workflows.export import export as write
    from deepmad_hw.workflows.networks import load_network

    files = write(load_network(network), out, target=target, weights=weights, seed=seed)
    checked = check_exported(files[0]) if files[0].suffix == ".onnx" else ()
    if json:
        names = [str(file) for file in files]
        output.answer_json({"schema": 1, "target": target, "files": names, "checked": list(checked)})
        return
    for file in files:
        output.answer(str(file))
    for sentence in checked:
        output.message(sentence)
