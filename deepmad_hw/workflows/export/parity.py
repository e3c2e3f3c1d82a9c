"""Runs one network in its forms, from PyTorch to what is deployed, and finds the form that went wrong. Layer 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmad_hw import registry
from deepmad_hw.errors import ConfigError
from deepmad_hw.workflows.networks.networks import load_network

if TYPE_CHECKING:
    from deepmad_hw.exporters.images import Images
    from deepmad_hw.exporters.verify import Parity, Tolerance

IMAGES = 256  # fewer say little of top-1 agreement

# What runs a file, by its suffix: a function from path and images to a `Run`. Anything else is run in PyTorch.
RUNNERS = {
    ".onnx": "deepmad_hw.workflows.export.parity:run_onnx",
    ".plan": "deepmad_hw.workflows.export.parity:run_engine",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a form of the network returned.

    Args:
        runtime: what ran it.
        precision: numbers it computes in: fp32, fp16 or int8.
        outputs: every output for all images, float32.
    """

    runtime: str
    precision: str
    outputs: Sequence[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityStep:
    """One form of the network beside the one below it.

    Args:
        name: as it was given.
        runtime: what ran it.
        precision: numbers it computes in.
        parity: how far it is from the step below; None for the lowest.
        tolerance: how far it may be; None for the lowest.
        faults: what is beyond the tolerance.
    """

    name: str
    runtime: str
    precision: str
    parity: Parity | None = None
    tolerance: Tolerance | None = None
    faults: tuple[str, ...] = ()


def parity_steps(
    forms: Sequence[str | Path],
    *,
    weights: Path | None = None,
    inputs: Path | None = None,
    images: int = IMAGES,
    seed: int = 0,
    on_step: Callable[[int], None] = lambda done: None,
) -> tuple[ParityStep, ...]:
    """Run every form on the same images and compare each with the one before it.

    Args:
        forms: the network itself first (a design's folder, an architecture, a reference network), which is run in
            PyTorch, then files in the order in which they were made; or files alone.
        weights: of the network itself; None takes untrained ones.
        inputs: images (.npz); None takes random ones.
        images: how many random ones.
        seed: of the random images, and of untrained weights.
        on_step: told how many forms were run.

    Returns:
        One step per form. The first with faults is the form that went wrong.

    Raises:
        ConfigError: fewer than two forms, a network above a file, or outputs that cannot be compared.
        InputFileError: a file cannot be used.
        MissingExtraError: what runs a form is not installed.
    """
    from deepmad_hw.exporters.verify import PRECISIONS, TOLERANCES, breaches, compare_outputs

    _require_order(forms)
    shape = _image_shape(forms[0])
    pictures = _pictures(inputs, shape, images=images, seed=seed)
    chain: list[ParityStep] = []
    below: Run | None = None
    for done, form in enumerate(forms, 1):
        run = _run(form, pictures, weights=weights, seed=seed)
        step = ParityStep(name=str(form), runtime=run.runtime, precision=run.precision)
        if below is not None:
            coarsest = max(run.precision, below.precision, key=PRECISIONS.index)
            parity = compare_outputs(below.outputs, run.outputs)
            tolerance = TOLERANCES[coarsest]
            step = replace(step, parity=parity, tolerance=tolerance, faults=breaches(parity, tolerance))
        chain.append(step)
        below = run
        on_step(done)
    return tuple(chain)


def broken(chain: Sequence[ParityStep]) -> ParityStep | None:
    """Return the lowest step that is too far from the one below it, if any.

    Args:
        chain: as `parity_steps` returned them.
    """
    return next((step for step in chain if step.faults), None)


def run_onnx(path: Path, images: Images) -> Run:
    """Return what an ONNX file returns in ONNX Runtime on the CPU.

    Args:
        path: a self-contained file.
        images: (images, channels, height, width).

    Raises:
        InputFileError: the file cannot be used.
        MissingExtraError: ONNX Runtime is not installed.
    """
    from deepmad_hw.exporters import onnx_read, runtime, verify

    model = onnx_read.load(path)
    session = runtime.session(model.SerializeToString(), where=str(path))
    return Run(runtime="onnxruntime", precision=verify.precision_of(model), outputs=session.run_all(images))


def run_engine(path: Path, images: Images) -> Run:
    """Return what an engine returns on this machine's NVIDIA GPU.

    Args:
        path: an engine that was built here, its manifest beside it.
        images: (images, channels, height, width).

    Raises:
        InputFileError: the engine was not built by this user on this machine, or cannot be used.
        MissingExtraError: its library or a GPU is missing.
    """
    from profilers import tensorrt_cuda

    manifest, outputs = tensorrt_cuda.infer(path, images)
    names = {"int8": "int8", "float16": "fp16"}
    precision = next((name for kind, name in names.items() if kind in manifest.types), "fp32")
    return Run(runtime=manifest.flavour, precision=precision, outputs=outputs)


def _is_file(form: str | Path) -> bool:
    return Path(form).suffix in RUNNERS


def _require_order(forms: Sequence[str | Path]) -> None:
    if len(forms) < 2:
        raise ConfigError("nothing to compare with", where="--against", hint="name a network or a file")
    for form in forms[1:]:
        if not _is_file(form):
            kinds = ", ".join(RUNNERS)
            raise ConfigError(
                f"{str(form)!r} is no file that can be run ({kinds})",
                where="verify",
                hint="the network itself comes first: verify FILE --against NETWORK",
            )


def _image_shape(form: str | Path) -> tuple[int, int, int]:
    from deepmad_hw.exporters import onnx_read

    if Path(form).suffix == ".onnx":
        return onnx_read.input_shape(Path(form))
    graph = load_network(form).graph
    return graph.in_channels, graph.height, graph.width


def _pictures(inputs: Path | None, shape: tuple[int, int, int], *, images: int, seed: int) -> Images:
    from deepmad_hw.exporters.images import random_images, read_images

    return random_images(shape, images=images, seed=seed) if inputs is None else read_images(inputs, shape=shape)


def _run(form: str | Path, images: Images, *, weights: Path | None, seed: int) -> Run:
    if _is_file(form):
        runner = registry.load(Path(form).suffix, RUNNERS, what="kind of file", where=str(form))
        found: Run = runner(Path(form), images)
        return found
    from deepmad_hw.exporters.verify import run_torch
    from deepmad_hw.exporters.weights import initial_weights, read_weights

    graph = load_network(form).graph
    values = initial_weights(graph, seed=seed) if weights is None else read_weights(weights)
    return Run(runtime="torch", precision="fp32", outputs=run_torch(graph, values, images))
