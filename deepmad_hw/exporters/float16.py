"""Writes ONNX models whose weights and arithmetic are float16. Layer 3.

Written here rather than taken from a converter: every operation we export has a float16 form, so nothing is left out,
names stay as they are, and a value that float16 cannot hold is an error instead of a clipped weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters.onnx_graph import export_model, save
from deepmad_hw.exporters.options import Float16Options
from deepmad_hw.exporters.target import Target
from deepmad_hw.exporters.weights import Array
from deepmad_hw.network.layer import Graph

LARGEST = float(np.finfo(np.float16).max)


def to_float16(model: Any, *, float16_io: bool = False) -> Any:
    """Return a float32 model in float16.

    Args:
        model: a self-contained `onnx.ModelProto` as `onnx_graph` writes it.
        float16_io: whether the image and the outputs are float16 too; otherwise they are converted at the ends.

    Returns:
        An `onnx.ModelProto` with the same names.

    Raises:
        ConfigError: a weight is beyond what float16 holds.
    """
    converted = ModelProto()
    converted.CopyFrom(model)
    graph = converted.graph
    del graph.initializer[:]
    graph.initializer.extend(_rounded(tensor) for tensor in model.graph.initializer)
    if not float16_io:
        _convert_ends(graph)
    else:
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return converted


def _rounded(tensor: Any) -> Any:
    if tensor.data_type != TensorProto.FLOAT:
        return tensor
    values = numpy_helper.to_array(tensor)
    if values.size and float(np.abs(values).max()) > LARGEST:
        raise ConfigError(f"a weight is beyond float16's {LARGEST:.0f}", where=tensor.name, hint="export float32")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _convert_ends(graph: Any) -> None:
    """Keep float32 outside: the ends keep their names, the tensors inside that they stood for get a suffix."""
    inside = {value.name: f"{value.name}.float16" for value in (*graph.input, *graph.output)}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inside.get(name, name) for name in names]
    first = [_cast(value.name, inside[value.name], TensorProto.FLOAT16) for value in graph.input]
    last = [_cast(inside[value.name], value.name, TensorProto.FLOAT) for value in graph.output]
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)


def _cast(source: str, result: str, kind: int) -> Any:
    return helper.make_node("Cast", [source], [result], name=f"{result}.cast", to=kind)


def write(
    graph: Graph, weights: Mapping[str, Array], path: Path, metadata: Mapping[str, str], options: Float16Options
) -> tuple[Path, ...]:
    """Write the network as a float16 model with batch norm folded in.

    Args:
        graph: the network.
        weights: training form.
        path: where.
        metadata: facts stored in the file.
        options: what was chosen.

    Raises:
        ConfigError: the weights do not fit, pass 2 GB, or are beyond what float16 holds.
        StorageError: the file could not be written.
    """
    model = export_model(graph, weights, batch=options.batch_axis, metadata=metadata)
    save(to_float16(model, float16_io=options.float16_io), path)
    return (path,)


TARGET = Target(name="onnx-fp16", suffix=".onnx", extra=None, write=write, options=Float16Options)
