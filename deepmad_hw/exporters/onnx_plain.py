"""Refuses ONNX models that are more than operations of the runtime and plain tensors of sensible sizes. Layer 3.

Used by `onnx_guard`, in a process that can open no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import onnx
from onnx import TensorProto

from deepmad_hw.exporters.onnx_messages import STANDARD_DOMAINS, bodies_of

LARGEST_TENSOR_BYTES = 2**31
LARGEST_SIZE = 2**20  # of kernels, strides, pads and their like
MOST_SIZES = 4096  # of one attribute
MOST_NODES = 100_000  # in all graphs of a model together
LONGEST_TEXT = 2**16  # bytes of one attribute
DEEPEST_GRAPH = 8  # graphs in attributes of operations of graphs in attributes ...

# What the runtime brings itself, beside the standard's. Operations in them that read files are refused by name.
RUNTIME_DOMAINS = ("ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
READS_FILES = frozenset({"EPContext"})
# Attributes that are sizes, positions and counts; others may be any number, such as the end of a slice.
SIZES = frozenset(
    {
        *("kernel_shape", "strides", "pads", "dilations", "output_padding", "output_shape", "group", "blocksize"),
        *("axis", "axes", "perm", "split", "num_outputs", "tiles", "repeats", "block_size", "hidden_size"),
    }
)
_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)
_TYPED_DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_PER_VALUE = {TensorProto.COMPLEX64: 2, TensorProto.COMPLEX128: 2}  # numbers that typed data spends on one value
BITS = {  # of one value, by type
    TensorProto.DataType.Value(name): bits
    for bits, names in (
        (4, "INT4 UINT4"),
        (8, "BOOL INT8 UINT8 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ"),
        (16, "BFLOAT16 FLOAT16 INT16 UINT16"),
        (32, "FLOAT INT32 UINT32"),
        (64, "DOUBLE INT64 UINT64"),
    )
    for name in names.split()
}


class RefusedError(Exception):
    """What is wrong with a model, in words; the path is the parent's to add."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what, self.hint = what, hint


def graphs_of(graph: Any, *, depth: int = 0) -> Iterator[Any]:
    """Return a graph and all graphs in attributes of its operations, each before those inside it.

    Args:
        graph: an `onnx.GraphProto`.
        depth: how deep it stands in others.

    Raises:
        RefusedError: they are nested too deeply.
    """
    if depth > DEEPEST_GRAPH:
        raise RefusedError(f"nests graphs more than {DEEPEST_GRAPH} deep")
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from graphs_of(body, depth=depth + 1)


def tensors_of(model: Any) -> Iterator[Any]:
    """Return all constants of a model, always in one order.

    Args:
        model: an `onnx.ModelProto`.
    """
    for graph in graphs_of(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def require_plain(model: Any) -> list[list[Any]]:
    """Refuse whatever is more than operations of the runtime and plain tensors; return those in other files.

    Args:
        model: an `onnx.ModelProto`.

    Returns:
        The tensors in other files as [location, offset, length in bytes].

    Raises:
        RefusedError: it is more than that.
    """
    newest = onnx.defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    if len(versions) != 1 or not 1 <= versions[0] <= newest:
        raise RefusedError(f"is of no operation set from 1 to {newest}")
    if model.functions or model.training_info:
        raise RefusedError("brings functions of its own", "inline them (onnx.inliner.inline_local_functions)")
    things = 0
    for graph in graphs_of(model.graph):
        things += len(graph.node) + len(graph.initializer) + len(graph.value_info) + len(graph.input)
        if things > MOST_NODES:
            raise RefusedError(f"has more than {MOST_NODES} operations and weights")
        if graph.sparse_initializer:
            raise RefusedError("keeps weights as sparse tensors", "store them densely")
        for node in graph.node:
            _require_operation(node, opset=versions[0])
    _require_order(model.graph, known=frozenset())
    for value in model.graph.input:
        _require_input(value)
    return [place for place in map(_required_tensor, tensors_of(model)) if place is not None]


def _require_operation(node: Any, *, opset: int) -> None:
    kind = node.op_type[:60]
    if node.domain not in STANDARD_DOMAINS + RUNTIME_DOMAINS:
        raise RefusedError(f"uses operations of {node.domain[:60]!r}", "export it in standard ONNX operations")
    if kind in READS_FILES:
        raise RefusedError(f"uses {kind}, which reads other files")
    if node.domain in STANDARD_DOMAINS and not onnx.defs.has(node.op_type):
        raise RefusedError(f"is no valid ONNX model: there is no operation {kind!r}")
    if node.domain in STANDARD_DOMAINS and not onnx.defs.has(node.op_type, opset):
        history = onnx.defs.get_all_schemas_with_history()
        since = min(each.since_version for each in history if each.name == node.op_type and not each.domain)
        raise RefusedError(f"is no valid ONNX model: opset {opset} has no {kind}", f"it came with opset {since}")
    for attribute in node.attribute:
        _require_attribute(attribute)


def _require_attribute(attribute: Any) -> None:
    name = attribute.name[:60]
    if attribute.type in _SPARSE or attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise RefusedError(f"attribute {name!r} is sparse", "store it densely")
    if max((len(text) for text in (attribute.s, *attribute.strings)), default=0) > LONGEST_TEXT:
        raise RefusedError(f"attribute {name!r} is longer than {LONGEST_TEXT} bytes")
    if attribute.name not in SIZES:
        return
    values = (*attribute.ints, attribute.i)
    if len(values) > MOST_SIZES:
        raise RefusedError(f"attribute {name!r} has more than {MOST_SIZES} values")
    if max(abs(value) for value in values) > LARGEST_SIZE:
        raise RefusedError(f"attribute {name!r} is beyond {LARGEST_SIZE}")


def _require_input(value: Any) -> None:
    name, kind = value.name[:60], value.type
    if not kind.HasField("tensor_type"):
        raise RefusedError(f"input {name!r} is no tensor")
    sizes = [size.dim_value for size in kind.tensor_type.shape.dim if size.HasField("dim_value")]
    if any(size < -1 for size in sizes):  # -1: free, as some exporters write it
        raise RefusedError(f"tensor {name!r} has a negative size")
    volume(tuple(size for size in sizes if size > 0), name)


def _required_tensor(tensor: Any) -> list[Any] | None:
    """Refuse a tensor that is not as large as it says; return where it lies if that is another file."""
    name = tensor.name[:60]
    if tensor.data_type == TensorProto.UNDEFINED and not tensor.ByteSize():
        return None  # the empty tensor of an attribute that is none
    if tensor.data_type not in BITS or tensor.HasField("segment") or tensor.string_data:
        raise RefusedError(f"weight {name!r} is no plain tensor")
    values = volume(tuple(tensor.dims), name)
    bits = BITS[tensor.data_type]
    size_bytes = (values * bits + 7) // 8
    stored = sum(len(getattr(tensor, field)) for field in _TYPED_DATA)
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        inside = tensor.data_location != TensorProto.EXTERNAL or tensor.HasField("raw_data") or stored
        if inside:
            raise RefusedError(f"weight {name!r} says that it is in this file and in another one")
        return _place(tensor, size_bytes, name)
    if tensor.HasField("raw_data"):
        fits = len(tensor.raw_data) == size_bytes
    elif bits < 8:
        fits = stored == size_bytes
    else:
        fits = stored == values * _PER_VALUE.get(tensor.data_type, 1)
    if not fits:
        raise RefusedError(f"weight {name!r} is not as large as it says")
    return None


def _place(tensor: Any, size_bytes: int, name: str) -> list[Any]:
    """Return [location, offset, length in bytes] of a tensor in another file; whether it may be read is not said."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = place.get("offset", "0"), place.get("length", str(size_bytes))
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in (offset, length)):
        raise RefusedError(f"weight {name!r} lies at no place in a file")
    if int(length) != size_bytes:
        raise RefusedError(f"weight {name!r} is not as large as it says")
    return [place.get("location", ""), int(offset), size_bytes]


def volume(dims: tuple[int, ...], name: str) -> int:
    """Return how many values a shape holds, refusing what memory would not.

    Args:
        dims: the shape.
        name: of the tensor.

    Raises:
        RefusedError: it is too large, or none.
    """
    if any(size < 0 for size in dims):
        raise RefusedError(f"tensor {name!r} has a negative size")
    if len(dims) > 8 or math.prod(dims) * 4 > LARGEST_TENSOR_BYTES:
        raise RefusedError(f"tensor {name!r} is too large: {'x'.join(str(size) for size in dims[:8])}")
    return math.prod(dims)


def _require_order(graph: Any, *, known: frozenset[str]) -> None:
    """Refuse names that stand for two things, and operations that use what is not there yet, as in a cycle."""
    seen = {"", *known}  # the empty name is that of an input that is left out
    weights = [tensor.name for tensor in graph.initializer]
    for names in (weights, [value.name for value in graph.input]):
        if len(set(names)) < len(names) or "" in names:
            raise RefusedError("two of its weights or inputs have one name")
        seen.update(names)
    called: set[str] = set()
    for node in graph.node:
        for name in node.input:
            if name not in seen:
                raise RefusedError(f"{node.op_type[:60]} uses {name[:60]!r} before it is computed")
        results = [name for name in node.output if name]
        if len(set(results)) < len(results) or seen.intersection(results):
            raise RefusedError(f"{results[0][:60]!r} is computed twice")
        if node.name and node.name in called:
            raise RefusedError(f"two of its operations are called {node.name[:60]!r}")
        called.add(node.name)
        for body in bodies_of(node):
            _require_order(body, known=frozenset(seen))
        seen.update(results)
