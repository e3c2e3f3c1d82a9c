"""``deepmad-hw verify``: a stored design recomputed, or a file held against what it was made of. Layer 4."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepmad_hw.cli import options, output
from deepmad_hw.errors import InputFileError

if TYPE_CHECKING:
    from deepmad_hw.workflows.export.parity import ParityStep


def verify(
    path: Annotated[
        Path, typer.Argument(metavar="DIR|FILE", help="Folder that `design --out` wrote, or an exported file.")
    ],
    against: Annotated[
        list[str],
        typer.Option(
            metavar="NETWORK|FILE",
            help="What the file was made of: the design (run in PyTorch), then files in the order they were made.",
        ),
    ] = [],  # noqa: B006 - read only
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The design's trained weights (safetensors).")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Images to compare on (.npz); random ones otherwise.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="How many random images.")] = 256,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Recompute what a design says, or check a file; --against compares it with what it was made of, step by step."""
    if against:
        _verify_chain([*against, str(path)], weights=weights, inputs=inputs, images=images, seed=seed, json=json)
    elif path.suffix == ".onnx":
        _verify_file(path, json=json)
    else:
        _verify_design(path, json=json)


def _verify_design(path: Path, *, json: bool) -> None:
    from deepmad_hw.workflows.design.verify import verify as recompute

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
    from deepmad_hw.workflows.export.export import check_exported

    checked = check_exported(path)
    if json:
        output.answer_json({"schema": 1, "checked": list(checked), "notes": []})
        return
    for sentence in checked:
        output.answer(f"{path}: {sentence}")


def _verify_chain(
    forms: list[str], *, weights: Path | None, inputs: Path | None, images: int, seed: int, json: bool
) -> None:
    from deepmad_hw.workflows.export.parity import broken, parity_steps

    with output.progress(f"running {len(forms)} forms of the network", total=len(forms)) as steps:
        chain = parity_steps(
            forms,
            weights=weights,
            inputs=inputs,
            images=images,
            seed=seed,
            on_step=lambda done: steps.advance(done=done),
        )
    worst = broken(chain)
    if json:
        name = worst.name if worst is not None else None
        output.answer_json({"schema": 1, "rungs": [asdict(step) for step in chain], "broken": name})
    else:
        _show(chain)
    if worst is not None:
        below = chain[chain.index(worst) - 1]
        hint = "give the weights it was made with: --weights" if below.runtime == "torch" and weights is None else None
        raise InputFileError(f"differs from {below.name}: {'; '.join(worst.faults)}", where=worst.name, hint=hint)


def _show(chain: tuple[ParityStep, ...]) -> None:
    columns = ("form", "runtime", "precision", "max", "mean", "p99", "cosine", "top-1", "")
    rows = [(step.name, step.runtime, step.precision, *_figures(step)) for step in chain]
    output.table(columns, rows, title="differences from the line above", numbers=range(3, 8))


def _figures(step: ParityStep) -> tuple[str, ...]:
    found = step.parity
    if found is None:
        return ("", "", "", "", "", "reference")
    top1 = "" if found.top1_agreement is None else f"{found.top1_agreement:.2%}"
    differences = (f"{value:.2g}" for value in (found.max_abs, found.mean_abs, found.p99_abs))
    return (*differences, f"{found.cosine:.6f}", top1, "broken" if step.faults else "ok")
