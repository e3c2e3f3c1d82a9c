"""The one door through which ONNX files come in: a child process looks at them before anything else does. Layer 3.

A model file can name other files, ask for terabytes, loop for ever or crash the C++ that reads it. The child gets its
bytes over a pipe, can open no file at all, and has little memory and time; what it does not pass is refused. Beyond
that, only what networks for images need is let in: standard operations on tensors whose sizes are known beforehand.
"""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, shape_inference

from deepmad_hw.errors import InputFileError

LARGEST_FILE_BYTES = 2**31 - 1  # one protobuf message holds no more
LARGEST_TENSOR_BYTES = 2**31
LARGEST_NUMBER = 2**20  # of kernels, strides, pads and their like
MOST_NODES = 100_000
MOST_VALUES = 4096  # of one attribute
LONGEST_TEXT = 2**16  # bytes of one attribute

MODULE = "deepmad_hw.exporters.onnx_door"  # what the child runs: this
CHILD_MEMORY_BYTES = 3 * 2**30
CHILD_SECONDS = 4  # of processor time; a wall clock would punish a busy machine
BYTES_PER_SECOND = 50e6  # what large files are read with at least
LONGEST_WAIT_S = 600.0

STANDARD_DOMAINS = ("", "ai.onnx")
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)
_TYPED_DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_PER_VALUE = {TensorProto.COMPLEX64: 2, TensorProto.COMPLEX128: 2}  # numbers that typed data spends on one value


class _RefusedError(Exception):
    """What is wrong with a model, in words; the path is the caller's to add."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what, self.hint = what, hint


def read_model(path: Path) -> Any:
    """Return the model of a file that passed the door.

    Args:
        path: a self-contained ONNX file; nothing else is opened.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        InputFileError: it cannot be read, is no ONNX model, points to other files, or asks for more than an image
            network needs.
    """
    where = str(path)
    data = _bytes_of(path)
    what, hint = _verdict(data)
    if what:
        raise InputFileError(what, where=where, hint=hint or None)
    return onnx.load_model_from_string(data)


def _bytes_of(path: Path) -> bytes:
    where = str(path)
    try:
        if path.exists() and not path.is_file():
            raise InputFileError("cannot be read: is no file", where=where)
        size_bytes = path.stat().st_size
        if size_bytes > LARGEST_FILE_BYTES:
            raise InputFileError(f"{size_bytes / 1e9:.1f} GB is more than one ONNX file holds", where=where)
        return path.read_bytes()
    except OSError as error:
        raise InputFileError(f"cannot be read: {error.strerror or error}", where=where) from error


@functools.lru_cache(maxsize=4)  # several readers look at one file in turn
def _verdict(data: bytes) -> tuple[str, str]:
    """Return what a child finds wrong with a model and what to do about it; two empty texts if nothing."""
    command = [sys.executable, "-P", "-m", MODULE]  # -P: a folder's own onnx.py is not ours
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=LONGEST_WAIT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return "could not be checked in time", ""
    if done.returncode:
        reason = "it crashed, or asked for too much memory or time"
        return f"could not be checked: {reason}", "a network for images needs neither"
    what, _, hint = done.stdout.decode(errors="replace").partition("\n")
    return what, hint.strip()


def main() -> None:
    """Judge the model on standard input; answer what is wrong and what to do, a line each."""
    data = sys.stdin.buffer.read()
    _shut_in(len(data))
    try:
        judge(data)
    except _RefusedError as refused:
        print(refused.what, refused.hint, sep="\n")  # noqa: T201 - the answer to the parent


def _shut_in(size_bytes: int) -> None:
    """Give up everything that reading a model does not need, above all the right to open files."""
    import resource

    memory_bytes = CHILD_MEMORY_BYTES + 8 * size_bytes
    seconds = CHILD_SECONDS + int(size_bytes / BYTES_PER_SECOND)
    for limit, value in (
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds),
    ):
        resource.setrlimit(limit, (value, value))


def judge(data: bytes) -> None:
    """Raise if a model is anything else than a network for images of a known size, complete in itself.

    Args:
        data: the serialised model.
    """
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise _RefusedError("is no ONNX model") from error
    if not model.ir_version or not model.graph.node:
        raise _RefusedError("is no ONNX model")
    _require_plain(model)
    _require_order(model.graph)
    try:
        onnx.checker.check_model(_with_sizes(model))
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise _RefusedError(f"is no valid ONNX model: {' '.join(str(error).split())}"[:300]) from error


def _require_plain(model: Any) -> None:
    """Refuse whatever is more than a list of standard operations and plain tensors."""
    graph = model.graph
    newest = onnx.defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    if len(versions) != 1 or not 1 <= versions[0] <= newest:
        raise _RefusedError(f"is of no operation set from 1 to {newest}")
    if model.functions or model.training_info:
        raise _RefusedError("brings functions of its own", "inline them (onnx.inliner.inline_local_functions)")
    if graph.sparse_initializer:
        raise _RefusedError("keeps weights as sparse tensors", "store them densely")
    if max(len(graph.node), len(graph.initializer), len(graph.value_info), len(graph.input)) > MOST_NODES:
        raise _RefusedError(f"has more than {MOST_NODES} operations or weights")
    for tensor in graph.initializer:
        _require_tensor(tensor)
    for node in graph.node:
        if node.domain not in STANDARD_DOMAINS:
            raise _RefusedError(f"uses operations of {node.domain[:60]!r}", "export it in standard ONNX operations")
        if not onnx.defs.has(node.op_type):
            raise _RefusedError(f"is no valid ONNX model: there is no operation {node.op_type[:60]!r}")
        for attribute in node.attribute:
            _require_attribute(attribute)


def _require_attribute(attribute: Any) -> None:
    name = attribute.name[:60]
    if attribute.type in _GRAPHS or attribute.HasField("g") or attribute.graphs:
        raise _RefusedError(f"attribute {name!r} holds a graph", "export it without branches and loops")
    if attribute.type in _SPARSE or attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise _RefusedError(f"attribute {name!r} is sparse", "store it densely")
    values = (*attribute.ints, attribute.i)
    if max(len(values), len(attribute.floats), len(attribute.strings), len(attribute.tensors)) > MOST_VALUES:
        raise _RefusedError(f"attribute {name!r} has more than {MOST_VALUES} values")
    if max((len(text) for text in (attribute.s, *attribute.strings)), default=0) > LONGEST_TEXT:
        raise _RefusedError(f"attribute {name!r} is longer than {LONGEST_TEXT} bytes")
    if max(abs(value) for value in values) > LARGEST_NUMBER:
        raise _RefusedError(f"attribute {name!r} is beyond {LARGEST_NUMBER}")
    for tensor in (attribute.t, *attribute.tensors):
        _require_tensor(tensor)


def _require_tensor(tensor: Any) -> None:
    """Refuse a tensor that is elsewhere, or that is not as large as it says."""
    name = tensor.name[:60]
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise _RefusedError(
            "keeps its weights in other files, which are not opened",
            "save it as one file (onnx.save_model with save_as_external_data=False)",
        )
    if tensor.data_type == TensorProto.UNDEFINED and not tensor.ByteSize():
        return  # the empty tensor of an attribute that is none
    if tensor.data_type not in _BITS or tensor.HasField("segment") or tensor.string_data:
        raise _RefusedError(f"weight {name!r} is no plain tensor")
    values = _volume(tuple(tensor.dims), name)
    bits = _BITS[tensor.data_type]
    if tensor.HasField("raw_data"):
        fits = len(tensor.raw_data) == (values * bits + 7) // 8
    else:
        stored = sum(len(getattr(tensor, field)) for field in _TYPED_DATA)
        packed = bits < 8
        fits = (
            (stored == (values * bits + 7) // 8) if packed else stored == values * _PER_VALUE.get(tensor.data_type, 1)
        )
    if not fits:
        raise _RefusedError(f"weight {name!r} is not as large as it says")


_BITS = {
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.BOOL: 8,
}


def _volume(dims: tuple[int, ...], name: str) -> int:
    """Return how many values a shape holds, refusing what memory would not."""
    if any(size < 0 for size in dims):
        raise _RefusedError(f"tensor {name!r} has a negative size")
    if len(dims) > 8 or math.prod(dims) * 4 > LARGEST_TENSOR_BYTES:
        raise _RefusedError(f"tensor {name!r} is too large: {'x'.join(str(size) for size in dims[:8])}")
    return math.prod(dims)


def _require_order(graph: Any) -> None:
    """Refuse names that stand for two things, and operations that use what is not there yet, as in a cycle."""
    known: set[str] = {""}  # the name of an input that is left out
    weights = [tensor.name for tensor in graph.initializer]
    for names in (weights, [value.name for value in graph.input]):
        if len(set(names)) < len(names) or "" in names:
            raise _RefusedError("two of its weights or inputs have one name")
        known.update(names)
    called: set[str] = set()
    for node in graph.node:
        for name in node.input:
            if name not in known:
                raise _RefusedError(f"{node.op_type[:60]} uses {name[:60]!r} before it is computed")
        results = [name for name in node.output if name]
        if len(set(results)) < len(results) or known.intersection(results):
            raise _RefusedError(f"{results[0][:60]!r} is computed twice")
        if node.name and node.name in called:
            raise _RefusedError(f"two of its operations are called {node.name[:60]!r}")
        called.add(node.name)
        known.update(results)


def _with_sizes(model: Any) -> Any:
    """Return the model with its sizes for one image, refused unless every tensor's is known beforehand and fits."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in weights:
            _fix_batch(value)
    # What the file says of the sizes inside is left out: they are worked out anew.
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    shapes = {value.name: value.type for value in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in graph.node:
        for name in filter(None, node.output):
            _require_known(shapes.get(name), name[:60])
    return inferred


def _fix_batch(value: Any) -> None:
    name = value.name[:60]
    sizes = value.type.tensor_type.shape.dim
    if not value.type.HasField("tensor_type") or not sizes:
        raise _RefusedError(f"input {name!r} is no tensor of a known size")
    if not sizes[0].HasField("dim_value"):
        sizes[0].dim_value = 1
    if not all(size.dim_value > 0 for size in sizes):
        raise _RefusedError(f"the size of input {name!r} is not fixed", "export it with a fixed height and width")
    _volume(tuple(size.dim_value for size in sizes), name)


def _require_known(kind: Any, name: str) -> None:
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        raise _RefusedError(f"the size of tensor {name!r} is not known before it runs")
    sizes = kind.tensor_type.shape.dim
    if not all(size.HasField("dim_value") for size in sizes):
        raise _RefusedError(f"the size of tensor {name!r} is not known before it runs")
    _volume(tuple(size.dim_value for size in sizes), name)


if __name__ == "__main__":
    main()
