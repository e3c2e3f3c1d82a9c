"""Reads ONNX files without trusting them: who they are, and what image they take. Layer 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters import onnx_loader
from deepmad_hw.exporters.onnx_graph import (
    ARCHITECTURE_KEY,
    CLASSES_KEY,
    REFERENCE_KEY,
    RESOLUTION_KEY,
)
from deepmad_hw.exporters.onnx_messages import free_inputs
from deepmad_hw.files.jsonfile import parse_json
from deepmad_hw.formats import serde
from deepmad_hw.network import reference
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import Graph


def load(path: Path) -> Any:
    """Return an ONNX model with all its weights; nothing outside its folder is opened.

    Args:
        path: the file.

    Raises:
        InputFileError: it does not pass `onnx_loader`.
    """
    return onnx_loader.read_model(path)


def read_identity(path: Path) -> dict[str, str]:
    """Return the facts by which our own files are known again; empty for a foreign model.

    Args:
        path: an ONNX file.

    Returns:
        The file's ``deepmad_hw.*`` metadata, as `onnx_graph.architecture_metadata` or `reference_metadata` made it.

    Raises:
        InputFileError: as `load`.
    """
    return _identity(load(path))


def graph_of(path: Path) -> Graph | None:
    """Return the graph behind one of our own files, named after the file; None for a foreign model.

    Args:
        path: an ONNX file.

    Raises:
        InputFileError: as `load`, or the file's facts make no network or another one than the file holds.
    """
    model, where = load(path), str(path)
    graph = _stated_graph(_identity(model), where=where)
    if graph is None:
        return None
    image = [_image_shape(info) for info in model.graph.input[:1]]  # none, if the file was tampered with
    missing = {node.name for node in graph} - {node.name for node in model.graph.node}
    if missing or image != [(graph.in_channels, graph.height, graph.width)]:
        raise InputFileError("holds another network than its own facts say", where=where, hint="export it anew")
    return replace(graph, name=path.stem)


def input_shape(path: Path) -> tuple[int, int, int]:
    """Return channels, height and width of a model's one image input, float32 or float16.

    Args:
        path: an ONNX file.

    Raises:
        InputFileError: as `load`, or the model takes something else than one image of a fixed size.
    """
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    model = load(path)
    inputs = free_inputs(model.graph)
    shapes = [_image_shape(info) for info in inputs]
    is_float = all(info.type.tensor_type.elem_type in kinds for info in inputs)
    if len(shapes) != 1 or len(shapes[0]) != 3 or min(shapes[0]) < 1 or not is_float:
        raise InputFileError(
            "takes something else than one float image of a fixed size",
            where=str(path),
            hint="export it with a fixed height and width",
        )
    channels, height, width = shapes[0]
    return channels, height, width


def _image_shape(info: Any) -> tuple[int, ...]:
    """Return a tensor's shape without the batch; a size that is not known becomes 0."""
    return tuple(size.dim_value for size in info.type.tensor_type.shape.dim[1:])


def _identity(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith("deepmad_hw.")}


def _stated_graph(identity: Mapping[str, str], *, where: str) -> Graph | None:
    if ARCHITECTURE_KEY in identity:
        data = parse_json(identity[ARCHITECTURE_KEY], where=where)
        try:
            return expand(serde.architecture_from_json(data, where=where))
        except ConfigError as error:
            raise InputFileError(error.what, where=where, hint=error.hint) from error
    if REFERENCE_KEY not in identity:
        return None
    try:
        height, width = (int(side) for side in identity[RESOLUTION_KEY].split("x"))
        classes = int(identity[CLASSES_KEY])
        return reference.get(identity[REFERENCE_KEY], resolution=(height, width), classes=classes)
    except (KeyError, ValueError) as error:  # a ConfigError is a ValueError
        raise InputFileError(f"its facts make no reference network: {error}", where=where) from error
