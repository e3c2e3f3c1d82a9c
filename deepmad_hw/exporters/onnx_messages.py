"""Reads ONNX's own messages: attributes and bodies of a node, types and sizes of tensors. Layer 3."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from onnx import helper

Shape = tuple[int, ...]
IMAGE_RANK = 4  # images, channels, height, width
STANDARD_DOMAINS = ("", "ai.onnx")


def attributes_of(node: Any) -> dict[str, Any]:
    """Return a node's attributes by name: numbers, lists of numbers, bytes, tensors and graphs.

    Args:
        node: an `onnx.NodeProto`.
    """
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def bodies_of(node: Any) -> list[Any]:
    """Return the graphs in a node's attributes: the branches of an If, the body of a Loop.

    Args:
        node: an `onnx.NodeProto`.
    """
    return [body for item in node.attribute for body in (*([item.g] if item.HasField("g") else []), *item.graphs)]


def unsized(model: Any) -> Any:
    """Return a copy of a model without what the file says of the sizes inside it, so that they are worked out anew.

    Args:
        model: an `onnx.ModelProto`.
    """
    bare = copy.deepcopy(model)
    del bare.graph.value_info[:]
    for info in bare.graph.output:
        info.type.tensor_type.ClearField("shape")
    return bare


def tensors_in(graph: Any) -> list[Any]:
    """Return all `onnx.ValueInfoProto` of a graph: inputs, outputs, and what lies between as far as it is told.

    Args:
        graph: an `onnx.GraphProto`.
    """
    return [*graph.input, *graph.value_info, *graph.output]


def sized_tensors(graph: Any) -> Iterator[tuple[str, int, Shape]]:
    """Yield name, value type and shape of every tensor of which all sizes are known.

    Args:
        graph: an `onnx.GraphProto`.
    """
    for info in tensors_in(graph):
        kind = info.type.tensor_type
        sizes = kind.shape.dim
        if kind.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            yield info.name, kind.elem_type, tuple(size.dim_value for size in sizes)


def free_inputs(graph: Any) -> list[Any]:
    """Return the inputs of a graph that a run must be given: some files list weights among the inputs too.

    Args:
        graph: an `onnx.GraphProto`.
    """
    weights = {tensor.name for tensor in graph.initializer}
    return [info for info in graph.input if info.name not in weights]
