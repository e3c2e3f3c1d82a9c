"""Holds exported networks against each other and against the runtime that will run them. Layer 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters import extras, onnx_graph, onnx_read, runtime, torch_module
from deepmad_hw.exporters import images as image_files
from deepmad_hw.exporters.onnx_messages import free_inputs
from deepmad_hw.exporters.weights import Weights
from deepmad_hw.network.layer import Graph

TORCH_ONNX_TOLERANCE = 1e-4  # of the largest logit, for float32 on a CPU
BOTH_EXTRAS = "cpu,torch"
PRECISIONS = ("fp32", "fp16", "int8")  # from fine to coarse


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far a step may be from the one below it.

    Args:
        relative_max: largest difference, as a share of the largest reference value; None sets no limit.
        cosine: least cosine, exclusive.
        top1_agreement: least share of images with the same largest logit.
    """

    relative_max: float | None = None
    cosine: float = 0.0
    top1_agreement: float = 0.0


# Source: what NVIDIA and Polygraphy ask of float16 and float32, and common practice for int8 on logits.
TOLERANCES = {
    "fp32": Tolerance(relative_max=TORCH_ONNX_TOLERANCE, top1_agreement=1.0),
    "fp16": Tolerance(relative_max=1e-2, cosine=0.999),
    "int8": Tolerance(cosine=0.99, top1_agreement=0.97),
}


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


def breaches(parity: Parity, tolerance: Tolerance) -> tuple[str, ...]:
    """Return what is beyond a tolerance, each in a few words.

    Args:
        parity: how far a step is from the one below.
        tolerance: how far it may be.
    """
    found = []
    if tolerance.relative_max is not None and parity.relative_max > tolerance.relative_max:
        found.append(
            f"largest difference {parity.relative_max:.2g} of the largest value, above {tolerance.relative_max:g}"
        )
    if parity.cosine <= tolerance.cosine:
        found.append(f"cosine {parity.cosine:.5f}, not above {tolerance.cosine:g}")
    if parity.top1_agreement is not None and parity.top1_agreement < tolerance.top1_agreement:
        found.append(f"top-1 agreement {parity.top1_agreement:.2%}, below {tolerance.top1_agreement:.0%}")
    return tuple(found)


def precision_of(model: Any) -> str:
    """Return in which numbers a model computes: the coarsest of `PRECISIONS` found in it.

    Args:
        model: an `onnx.ModelProto`.
    """
    if any(node.op_type in ("QuantizeLinear", "QLinearConv") for node in model.graph.node):
        return "int8"
    halves = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "fp16" if halves else "fp32"


def compare_outputs(reference: Sequence[NDArray[Any]], candidate: Sequence[NDArray[Any]]) -> Parity:
    """Return how far all outputs of a network together are from those of another.

    Args:
        reference: outputs taken as right.
        candidate: outputs of the same shapes, in the same order.

    Raises:
        ConfigError: as `compare`.
    """
    if len(reference) == len(candidate) == 1:
        return compare(reference[0], candidate[0])
    return compare(_flat(reference), _flat(candidate))


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
    return image_files.random_images((graph.in_channels, graph.height, graph.width), images=images, seed=seed)


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
    return runtime.session(model, where=where).run(image)


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
    built = run_torch(graph, weights, image)
    return compare_outputs(built, exported)


def run_torch(graph: Graph, weights: Weights, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the outputs of the PyTorch module of a graph.

    Args:
        graph: the network.
        weights: training form.
        image: (images, channels, height, width).

    Raises:
        ConfigError: the weights do not fit.
        MissingExtraError: torch is not installed.
    """
    torch = extras.load("torch", extra=BOTH_EXTRAS)
    module = torch_module.build(graph)
    torch_module.load_weights(module, weights)
    module.eval()
    parts = []
    with torch.inference_mode():
        for chunk in torch.from_numpy(image).split(runtime.IMAGES_AT_ONCE):
            found = module(chunk)
            parts.append(found if isinstance(found, tuple) else (found,))
    return [torch.cat(output).numpy() for output in zip(*parts, strict=True)]


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
    _require_written_opset(model, where=where)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputFileError(f"is no valid ONNX model: {runtime.one_line(error)}", where=where) from error
    image = np.random.default_rng(seed).standard_normal(_input_shape(model, where=where), dtype=np.float32)
    names = [output.name for output in model.graph.output]
    outputs = run_onnx(model.SerializeToString(), image, where=where)
    for name, output in zip(names, outputs, strict=True):
        if not np.isfinite(output).all():
            raise InputFileError(f"output {name!r} is not finite", where=where)
    return {name: output.shape for name, output in zip(names, outputs, strict=True)}


def _require_written_opset(model: Any, *, where: str) -> None:
    """Refuse one of our own files that says another opset than this program writes: a tool has changed it."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if model.producer_name == onnx_graph.PRODUCER and opsets != {"": onnx_graph.OPSET}:
        said = ", ".join(f"{domain} {version}".strip() for domain, version in opsets.items())
        raise InputFileError(f"says opset {said}, expected {onnx_graph.OPSET}", where=where, hint="export it anew")


def _input_shape(model: Any, *, where: str) -> tuple[int, ...]:
    """Return the one input's shape; a free batch becomes 1."""
    inputs = free_inputs(model.graph)
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise InputFileError("expected one input of float32 or float16", where=where)
    batch, *sizes = (size.dim_value for size in inputs[0].type.tensor_type.shape.dim)
    if not all(sizes):
        raise InputFileError(f"the size of input {inputs[0].name!r} is not fixed", where=where)
    return (batch or 1, *sizes)
