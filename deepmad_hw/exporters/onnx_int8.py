"""Writes networks as int8 ONNX models, scaled with calibration images. Layer 3."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepmad_hw.exporters.calibrate import tensor_ranges
from deepmad_hw.exporters.images import Images, random_images, read_images
from deepmad_hw.exporters.onnx_graph import export_model, save
from deepmad_hw.exporters.options import Int8Options
from deepmad_hw.exporters.quantize import quantized
from deepmad_hw.exporters.target import Target
from deepmad_hw.exporters.weights import Array
from deepmad_hw.network.layer import Graph

RANDOM_IMAGES = 32
CALIBRATION_KEY, FORM_KEY, RANGE_KEY, CPU_KEY = (
    f"deepmad_hw.int8.{name}" for name in ("calibration", "form", "reduce_range", "cpu_flags")
)
VNNI = ("avx512_vnni", "avx_vnni")  # adds products of bytes without saturating
RECORDED_FLAGS = ("avx2", "avx512f", *VNNI)
X86 = ("x86_64", "AMD64")


def quantize(
    graph: Graph,
    weights: Mapping[str, Array],
    images: Images,
    *,
    metadata: Mapping[str, str] | None = None,
    options: Int8Options | None = None,
) -> Any:
    """Return a network as an int8 ONNX model.

    Args:
        graph: the network.
        weights: training form.
        images: what activations are scaled with, (images, channels, height, width).
        metadata: facts stored in the model.
        options: what was chosen; None takes the defaults.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        ConfigError: the weights do not fit, or a value inside the network is not finite.
        MissingExtraError: ONNX Runtime, which brings the quantiser, is not installed.
    """
    chosen = options or Int8Options()
    narrow = reduce_range(chosen)
    facts = {
        **(metadata or {}),
        FORM_KEY: chosen.form,
        RANGE_KEY: "yes" if narrow else "no",
        CPU_KEY: " ".join(flag for flag in RECORDED_FLAGS if flag in cpu_flags()),
    }
    model = export_model(graph, weights, batch=chosen.batch_axis, metadata=facts)
    return quantized(model, tensor_ranges(model, images), form=chosen.form, reduce_range=narrow)


def reduce_range(options: Int8Options) -> bool:
    """Return whether weights get 7 bits: as chosen, or where this machine's processor would saturate.

    Args:
        options: what was chosen.
    """
    if options.reduce_range != "auto":
        return options.reduce_range == "yes"
    return options.form == "cpu" and platform.machine() in X86 and not cpu_flags() & set(VNNI)


def cpu_flags() -> frozenset[str]:
    """Return the processor's features as Linux lists them, none where it does not."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1] for line in text.splitlines() if line.startswith("flags")), "").split())


def write(
    graph: Graph, weights: Mapping[str, Array], path: Path, metadata: Mapping[str, str], options: Int8Options
) -> tuple[Path, ...]:
    """Write the network as an int8 model, without calibration images with ranges over random ones.

    Args:
        graph: the network.
        weights: training form.
        path: where.
        metadata: facts stored in the file.
        options: what was chosen.

    Raises:
        ConfigError: the weights do not fit, or a value inside the network is not finite.
        InputFileError: the calibration images cannot be used.
        MissingExtraError: ONNX Runtime is not installed.
        StorageError: the file could not be written.
    """
    shape = (graph.in_channels, graph.height, graph.width)
    if options.calibration is None:
        images, said = random_images(shape, images=RANDOM_IMAGES), f"{RANDOM_IMAGES} random images"
    else:
        images = read_images(options.calibration, shape=shape)
        said = f"{len(images)} given images"
    model = quantize(graph, weights, images, metadata={**metadata, CALIBRATION_KEY: said}, options=options)
    save(model, path)
    return (path,)


TARGET = Target(name="onnx-int8", suffix=".onnx", extra="cpu", write=write, options=Int8Options)
