"""Writes the ONNX file that a TensorRT engine is built from; the precision lies in the file. Layer 3.

The engine itself is built on the device side (`profilers.tensorrt`), which `deepmad_hw.workflows.export.export` joins
to this.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deepmad_hw.exporters import float16, onnx_graph, onnx_int8
from deepmad_hw.exporters.options import EngineOptions, Float16Options, Int8Options, OnnxOptions
from deepmad_hw.exporters.target import Target
from deepmad_hw.exporters.weights import Array
from deepmad_hw.network.layer import Graph


def write(
    graph: Graph, weights: Mapping[str, Array], path: Path, metadata: Mapping[str, str], options: EngineOptions
) -> tuple[Path, ...]:
    """Write the network in the form that TensorRT's parser takes.

    Args:
        graph: the network.
        weights: training form.
        path: the ONNX file.
        metadata: facts stored in the file.
        options: what was chosen.

    Raises:
        ConfigError: the weights do not fit.
        InputFileError: the calibration images cannot be used.
        MissingExtraError: int8, and ONNX Runtime, which quantises, is not installed.
        StorageError: the file could not be written.
    """
    batch = options.batch
    match options.precision:
        case "fp16":
            return float16.write(graph, weights, path, metadata, Float16Options(batch=batch))
        case "int8":
            int8 = Int8Options(batch=batch, form="tensorrt", calibration=options.calibration)
            return onnx_int8.write(graph, weights, path, metadata, int8)
        case _:
            return onnx_graph.write(graph, weights, path, metadata, OnnxOptions(batch=batch))


TARGET = Target(
    name="tensorrt", suffix=".onnx", extra="tensorrt", write=write, options=EngineOptions, engine="tensorrt"
)
