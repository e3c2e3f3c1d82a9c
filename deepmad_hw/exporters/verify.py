"""Holds exported networks against each other and against the runtime that will run them. Layer 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters import extras, onnx_graph, onnx_read, torch_module
from deepmad_hw.exporters.weights import Weights
from deepmad_hw.layer import Graph

TORCH_ONNX_TOLERANCE = 1e-4  # of the largest logit, for float32 on a CPU
BOTH_EXTRAS = "cpu,torch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far one network's outputs are from another's.

    Args:
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        p99_abs: 99th percentile of the absolute differences.
        relative_max: `max_abs` over the largest absolute reference value.
        cosine: cosine between both outputs as one vector each.
        top1_agreement: share of images with the same largest logit; None for feature maps.
    """

    max_abs: float
    mean_abs: float
    p99_abs: float
    relative_max: float
    cosine: float
    top1_agreement: float | None


def compare(reference: NDArray[Any], candidate: NDArray[Any]) -> Parity:
    """Return how far a candidate's outputs are from the reference's.

    Args:
        reference: outputs taken as right; logits are (images, classes).
        candidate: outputs of the same shape.

    Raises:
        ConfigError: the shapes differ, there are no values, a value is not finite, or the reference is all zero.
    """
    if reference.shape != candidate.shape or not reference.size:
        raise ConfigError(
            f"outputs of shape {reference.shape} and {candidate.shape} cannot be compared", where="verify"
        )
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        raise ConfigError("an output is not finite", where="verify")
    # float64, so that the comparison adds no error of its own.
    one, other = reference.astype(np.float64), candidate.astype(np.float64)
    largest = float(np.abs(one).max())
    if largest == 0:
        raise ConfigError("the reference output is all zero", where="verify")
    difference = np.abs(one - other)
    lengths = float(np.linalg.norm(one.ravel()) * np.linalg.norm(other.ravel()))
    return Parity(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        p99_abs=float(np.percentile(difference, 99)),
        relative_max=float(difference.max()) / largest,
        cosine=float(np.vdot(one, other)) / lengths if lengths else 0.0,
        top1_agreement=float(np.mean(one.argmax(1) == other.argmax(1))) if one.ndim == 2 else None,
    )


def random_images(graph: Graph, *, seed: int, images: int) -> NDArray[np.float32]:
    """Return images of standard-normal pixels for a network.

    Args:
        graph: the network.
        seed: any whole number >= 0.
        images: how many.

    Returns:
        An array (images, channels, height, width).
    """
    shape = (images, graph.in_channels, graph.height, graph.width)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def run_onnx(model: bytes, image: NDArray[np.float32], *, where: str = "onnx") -> list[NDArray[np.float32]]:
    """Return the outputs of a self-contained ONNX model in ONNX Runtime on the CPU.

    Args:
        model: the serialised model.
        image: its one input.
        where: names the model in errors.

    Raises:
        InputFileError: ONNX Runtime refuses the model.
        MissingExtraError: ONNX Runtime is not installed.
    """
    runtime = extras.load("onnxruntime", extra="cpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, not logged
    try:
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        outputs: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: image})
    except Exception as error:  # its exceptions share no base of their own
        raise InputFileError(f"ONNX Runtime refuses it: {_one_line(error)}", where=where) from error
    return outputs


def verify_torch_onnx(graph: Graph, weights: Weights, *, seed: int = 0, images: int = 2) -> Parity:
    """Return how far the exported ONNX model is from the PyTorch module of the same weights.

    Args:
        graph: the network.
        weights: training form.
        seed: of the random images.
        images: how many of them.

    Returns:
        The parity of all outputs together; `relative_max` should be at most `TORCH_ONNX_TOLERANCE`.

    Raises:
        ConfigError: the weights do not fit, or an output is not finite.
        MissingExtraError: torch or ONNX Runtime is not installed.
    """
    for package in ("onnxruntime", "torch"):
        extras.load(package, extra=BOTH_EXTRAS)
    image = random_images(graph, seed=seed, images=images)
    exported = run_onnx(onnx_graph.export_model(graph, weights, batch=images).SerializeToString(), image)
    built = _run_torch(graph, weights, image)
    if len(built) == 1:
        return compare(built[0], exported[0])
    return compare(_flat(built), _flat(exported))


def _run_torch(graph: Graph, weights: Weights, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    torch = extras.load("torch", extra=BOTH_EXTRAS)
    module = torch_module.build(graph)
    torch_module.load_weights(module, weights)
    module.eval()
    with torch.inference_mode():
        found = module(torch.from_numpy(image))
    return [output.numpy() for output in (found if isinstance(found, tuple) else (found,))]


def _flat(outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([output.ravel() for output in outputs])


def check_onnx(path: Path, *, seed: int = 0) -> dict[str, tuple[int, ...]]:
    """Check a model file against the ONNX standard and run it once in ONNX Runtime.

    Args:
        path: a self-contained ONNX file with one float32 input.
        seed: of the random input.

    Returns:
        The shape of every output, by name.

    Raises:
        InputFileError: it is no valid model, does not run, or returns values that are not finite.
        MissingExtraError: ONNX Runtime is not installed.
    """
    where = str(path)
    model = onnx_read.load(path)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputFileError(f"is no valid ONNX model: {_one_line(error)}", where=where) from error
    image = np.random.default_rng(seed).standard_normal(_input_shape(model, where=where), dtype=np.float32)
    names = [output.name for output in model.graph.output]
    outputs = run_onnx(model.SerializeToString(), image, where=where)
    for name, output in zip(names, outputs, strict=True):
        if not np.isfinite(output).all():
            raise InputFileError(f"output {name!r} is not finite", where=where)
    return {name: output.shape for name, output in zip(names, outputs, strict=True)}


def _input_shape(model: Any, *, where: str) -> tuple[int, ...]:
    """Return the one input's shape; a free batch becomes 1."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != 1:
        raise InputFileError("expected one float32 input", where=where)
    batch, *sizes = (size.dim_value for size in inputs[0].type.tensor_type.shape.dim)
    if not all(sizes):
        raise InputFileError(f"the size of input {inputs[0].name!r} is not fixed", where=where)
    return (batch or 1, *sizes)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
