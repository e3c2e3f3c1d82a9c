"""``deepmad-hw export``: a network as a file that another program can run. Layer 4."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from deepmad_hw.cli import options, output
from deepmad_hw.exporters.options import flags


def export(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="Folder of a design, its JSON, or a reference network (resnet18).")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")],
    target: Annotated[
        str, typer.Option(help="Form of the file: onnx, onnx-fp16, onnx-int8, torch, tensorrt or rtx.")
    ] = "onnx",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trained weights (safetensors); untrained ones otherwise.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Classes of the trained weights, if not the design's.")
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    **choices: Any,
) -> None:
    """Write a network as ONNX (fp32, fp16, int8), a PyTorch module or an engine. Each target has its own choices."""
    from deepmad_hw.workflows.export.export import check_exported
    from deepmad_hw.workflows.export.export import export as write
    from deepmad_hw.workflows.networks.networks import load_network

    given = {name: value for name, value in choices.items() if value is not None}
    if target == "onnx-int8" and "calibration" not in given:
        output.message("scaling int8 with random images: say --calibration D.npz for a network that is to be used")
    files = write(load_network(network), out, target=target, weights=weights, classes=classes, seed=seed, choices=given)
    checked = check_exported(files[0]) if files[0].suffix == ".onnx" else ()
    if json:
        names = [str(file) for file in files]
        output.answer_json({"schema": 1, "target": target, "files": names, "checked": list(checked)})
        return
    for file in files:
        output.answer(str(file))
    for sentence in checked:
        output.message(sentence)


def _flags() -> Iterator[inspect.Parameter]:
    """Yield the choices of all targets as parameters, None unless given."""
    for name, flag in flags().items():
        words = [f"--{name.replace('_', '-')}"]  # alone, so that a truth value gets no --no-... beside it
        kind: Any = flag.kind
        kind = Annotated[kind | None, typer.Option(*words, help=flag.text, show_default=False)]
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


# The records say what can be chosen; typer reads it from the signature.
_own = [each for each in inspect.signature(export, eval_str=True).parameters.values() if each.name != "choices"]
export.__signature__ = inspect.Signature([*_own, *_flags()])  # type: ignore[attr-defined]
