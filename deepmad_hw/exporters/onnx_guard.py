"""Judges an ONNX model in a process of its own that can open no file; `onnx_loader` starts it. Layer 3.

A model file can name other files, ask for terabytes, loop for ever or crash the C++ that reads it. This process gets
its bytes over a pipe, gives up the right to open files and all but a little memory and time, and only then parses them.
What the runtime itself would load is let in, as long as it is complete in itself: sizes may be known at run time only,
operations may be the runtime's own, and graphs may stand in attributes. Where sizes must be known, it runs the model
once and says what they were.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import TensorProto, shape_inference

LARGEST_TENSOR_BYTES = 2**31
LARGEST_SIZE = 2**20  # of kernels, strides, pads and their like
MOST_SIZES = 4096  # of one attribute
MOST_NODES = 100_000  # in all graphs of a model together
LONGEST_TEXT = 2**16  # bytes of one attribute
DEEPEST_GRAPH = 8  # graphs in attributes of operations of graphs in attributes ...

CHILD_MEMORY_BYTES = 3 * 2**30
LOAD_SECONDS = 4  # of processor time; a wall clock would punish a busy machine
BYTES_PER_SECOND = 50e6  # what large files are read with at least

# The standard's, and those that the runtime brings itself. Operations in them that read files are refused by name.
STANDARD_DOMAINS = ("", "ai.onnx")
RUNTIME_DOMAINS = ("ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
READS_FILES = frozenset({"EPContext"})
# Attributes that are sizes, positions and counts; others may be any number, such as the end of a slice.
SIZES = frozenset(
    {
        *("kernel_shape", "strides", "pads", "dilations", "output_padding", "output_shape", "group", "blocksize"),
        *("axis", "axes", "perm", "split", "num_outputs", "tiles", "repeats", "block_size", "hidden_size"),
    }
)
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)
_TYPED_DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_PER_VALUE = {TensorProto.COMPLEX64: 2, TensorProto.COMPLEX128: 2}  # numbers that typed data spends on one value

JUDGE, RUN = "judge", "run"


class _RefusedError(Exception):
    """What is wrong with a model, in words; the path is the parent's to add."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what, self.hint = what, hint


def main() -> None:
    """Do what the first line of standard input asks with the model behind it; answer one line of JSON."""
    header = json.loads(sys.stdin.buffer.readline())
    feed = sys.stdin.buffer.read(header["feed_bytes"])
    run = header["task"] == RUN
    run_seconds = header["run_seconds"] if run else 0
    values = unpacked(feed) if run else {}  # the parent's own work, so it needs no guard
    data = sys.stdin.buffer.read()
    _import_runtime()
    _shut_in(len(data) + len(feed), run_seconds=run_seconds)
    try:
        answer = _ran(data, values) if run else judge(data)
    except _RefusedError as refused:
        answer = {"refused": [refused.what, refused.hint]}
    print(json.dumps(answer))  # noqa: T201 - the answer to the parent


def _import_runtime() -> None:
    """Load what could not be loaded later, when no file can be opened."""
    if importlib.util.find_spec("onnxruntime") is not None:
        with contextlib.suppress(ImportError):
            importlib.import_module("onnxruntime")


def unpacked(feed: bytes) -> dict[str, Any]:
    """Return the arrays that `onnx_inputs.packed_values` packed, by name.

    Args:
        feed: its bytes.
    """
    with np.load(io.BytesIO(feed), allow_pickle=False) as archive:
        return {str(name): archive[f"array{index}"] for index, name in enumerate(archive["names"])}


def _shut_in(size_bytes: int, *, run_seconds: int = 0) -> None:
    """Give up everything that reading a model does not need, above all the right to open files."""
    import resource

    memory_bytes = CHILD_MEMORY_BYTES + 8 * size_bytes
    used = resource.getrusage(resource.RUSAGE_SELF)  # by starting; the limit counts from the process' begin
    seconds = math.ceil(used.ru_utime + used.ru_stime) + LOAD_SECONDS + int(size_bytes / BYTES_PER_SECOND)
    for limit, value in (
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        resource.setrlimit(limit, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + run_seconds))


def _allow_run() -> None:
    """Let the run take longer than the loading did: up to what `_shut_in` left."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))


def judge(data: bytes) -> dict[str, Any]:
    """Return which files beside it a model needs, and refuse it if it is nothing that may be loaded.

    Args:
        data: the serialised model.

    Returns:
        ``external``: the tensors kept in other files, as [location, offset, length] in the order of
        `onnx.external_data_helper`; empty if the model is complete.
    """
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise _RefusedError("is no ONNX model") from error
    if not model.ir_version or not model.graph.node:
        raise _RefusedError("is no ONNX model")
    external = _require_plain(model)
    if not external:
        _require_valid(model, data)
    return {"external": external}


def _require_valid(model: Any, data: bytes) -> None:
    """Refuse what neither ONNX's checker nor the runtime takes."""
    complaint = _complaint(model)
    if complaint is None:
        return
    if "onnxruntime" in sys.modules:
        # The checker knows fewer operations, and fewer ways to infer shapes, than the runtime.
        with contextlib.suppress(_RefusedError):
            _session(data)
            return
    raise _RefusedError(complaint)


def _complaint(model: Any) -> str | None:
    sized = type(model)()
    sized.CopyFrom(model)
    # What the file says of the sizes inside is left out: they are worked out anew.
    del sized.graph.value_info[:]
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    for size in (size for value in sized.graph.input for size in value.type.tensor_type.shape.dim):
        if size.dim_value < 0:  # free, as some exporters write it
            size.Clear()
    try:
        inferred = shape_inference.infer_shapes(sized, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(inferred)
    except (onnx.checker.ValidationError, shape_inference.InferenceError, EncodeError, ValueError) as error:
        return f"is no valid ONNX model: {' '.join(str(error).split())}"[:300]
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        _require_volume(value)
    return None


def _require_volume(value: Any) -> None:
    sizes = value.type.tensor_type.shape.dim
    if all(size.HasField("dim_value") for size in sizes):
        _volume(tuple(size.dim_value for size in sizes), value.name[:60])


# --- running once -------------------------------------------------------------------------------------------------


def _session(data: bytes, *, optimised: bool = False) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _RefusedError(_runtime_words("cannot be loaded by ONNX Runtime", error)) from error


def _runtime_words(what: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    # Its messages begin with a code and a class, such as "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ".
    return f"{what}: {said.rpartition(' : ')[2] if said.startswith('[ONNXRuntimeError]') else said}"[:300]


def _ran(data: bytes, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes and types of all tensors of a model that has been judged, after one run of it.

    The model is loaded twice: as it is measured later, which tells whether that works; and with every tensor as an
    output whose size cannot be known without running it. Where the runtime is not installed, it is not run.
    """
    model = onnx.load_model_from_string(data)
    for info in model.graph.input:
        if info.name in values:
            _fix(info, values[info.name].shape)
    if "onnxruntime" not in sys.modules:
        return {"ran": False, "tensors": dict(_inferred(model))}
    session = _session(data, optimised=True)
    _allow_run()
    try:
        session.run(None, values)
    except Exception as error:
        raise _RefusedError(_runtime_words("cannot be run", error)) from error
    del session
    return {"ran": True, "tensors": _sizes(model, values)}


def _sizes(model: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return [value type, shape] of every tensor that has one, by inference and where that ends by running."""
    known = dict(_inferred(model))
    names = [name for node in model.graph.node for name in node.output if name and name not in known]
    outputs = {info.name for info in model.graph.output}
    for name in names:
        if name not in outputs:
            model.graph.output.add(name=name)
    if names:
        with contextlib.suppress(_RefusedError, EncodeError, ValueError):
            session = _session(model.SerializeToString())
            with contextlib.suppress(Exception):  # what is not found out stays unknown
                known |= _shown(zip(names, session.run(names, values), strict=True))
    return known


def _shown(results: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    kinds: Mapping[Any, int] = {onnx.helper.tensor_dtype_to_np_dtype(kind): kind for kind in _BITS}
    return {
        name: [kinds[result.dtype], list(result.shape)]
        for name, result in results
        if isinstance(result, np.ndarray) and result.dtype in kinds
    }


def _fix(info: Any, shape: tuple[int, ...]) -> None:
    del info.type.tensor_type.shape.dim[:]
    for size in shape:
        info.type.tensor_type.shape.dim.add(dim_value=size)


def _inferred(model: Any) -> Iterator[tuple[str, Any]]:
    copy = type(model)()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for info in copy.graph.output:
        info.type.tensor_type.ClearField("shape")
    try:
        graph = shape_inference.infer_shapes(copy, data_prop=True).graph
    except (shape_inference.InferenceError, EncodeError, ValueError):
        return
    for info in (*graph.input, *graph.value_info, *graph.output):
        kind = info.type.tensor_type
        sizes = kind.shape.dim
        if kind.HasField("shape") and all(size.HasField("dim_value") and size.dim_value >= 0 for size in sizes):
            yield info.name, [kind.elem_type, [size.dim_value for size in sizes]]


# --- what may be loaded -------------------------------------------------------------------------------------------


def graphs_of(graph: Any, *, depth: int = 0) -> Iterator[Any]:
    """Return a graph and all graphs in attributes of its operations, each before those inside it.

    Args:
        graph: an `onnx.GraphProto`.
        depth: how deep it stands in others.

    Raises:
        _RefusedError: they are nested too deeply.
    """
    if depth > DEEPEST_GRAPH:
        raise _RefusedError(f"nests graphs more than {DEEPEST_GRAPH} deep")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graphs_of(inner, depth=depth + 1)


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


def _require_plain(model: Any) -> list[list[Any]]:
    """Refuse whatever is more than operations of the runtime and plain tensors; return those in other files."""
    newest = onnx.defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    if len(versions) != 1 or not 1 <= versions[0] <= newest:
        raise _RefusedError(f"is of no operation set from 1 to {newest}")
    if model.functions or model.training_info:
        raise _RefusedError("brings functions of its own", "inline them (onnx.inliner.inline_local_functions)")
    things = 0
    for graph in graphs_of(model.graph):
        things += len(graph.node) + len(graph.initializer) + len(graph.value_info) + len(graph.input)
        if things > MOST_NODES:
            raise _RefusedError(f"has more than {MOST_NODES} operations and weights")
        if graph.sparse_initializer:
            raise _RefusedError("keeps weights as sparse tensors", "store them densely")
        for node in graph.node:
            _require_operation(node, opset=versions[0])
    _require_order(model.graph, known=frozenset())
    for value in model.graph.input:
        _require_input(value)
    return [place for place in map(_required_tensor, tensors_of(model)) if place is not None]


def _require_operation(node: Any, *, opset: int) -> None:
    kind = node.op_type[:60]
    if node.domain not in STANDARD_DOMAINS + RUNTIME_DOMAINS:
        raise _RefusedError(f"uses operations of {node.domain[:60]!r}", "export it in standard ONNX operations")
    if kind in READS_FILES:
        raise _RefusedError(f"uses {kind}, which reads other files")
    if node.domain in STANDARD_DOMAINS and not onnx.defs.has(node.op_type):
        raise _RefusedError(f"is no valid ONNX model: there is no operation {kind!r}")
    if node.domain in STANDARD_DOMAINS and not onnx.defs.has(node.op_type, opset):
        history = onnx.defs.get_all_schemas_with_history()
        since = min(each.since_version for each in history if each.name == node.op_type and not each.domain)
        raise _RefusedError(f"is no valid ONNX model: opset {opset} has no {kind}", f"it came with opset {since}")
    for attribute in node.attribute:
        _require_attribute(attribute)


def _require_attribute(attribute: Any) -> None:
    name = attribute.name[:60]
    if attribute.type in _SPARSE or attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise _RefusedError(f"attribute {name!r} is sparse", "store it densely")
    if max((len(text) for text in (attribute.s, *attribute.strings)), default=0) > LONGEST_TEXT:
        raise _RefusedError(f"attribute {name!r} is longer than {LONGEST_TEXT} bytes")
    if attribute.name not in SIZES:
        return
    values = (*attribute.ints, attribute.i)
    if len(values) > MOST_SIZES:
        raise _RefusedError(f"attribute {name!r} has more than {MOST_SIZES} values")
    if max(abs(value) for value in values) > LARGEST_SIZE:
        raise _RefusedError(f"attribute {name!r} is beyond {LARGEST_SIZE}")


def _require_input(value: Any) -> None:
    name, kind = value.name[:60], value.type
    if not kind.HasField("tensor_type"):
        raise _RefusedError(f"input {name!r} is no tensor")
    sizes = [size.dim_value for size in kind.tensor_type.shape.dim if size.HasField("dim_value")]
    if any(size < -1 for size in sizes):  # -1: free, as some exporters write it
        raise _RefusedError(f"tensor {name!r} has a negative size")
    _volume(tuple(size for size in sizes if size > 0), name)


def _required_tensor(tensor: Any) -> list[Any] | None:
    """Refuse a tensor that is not as large as it says; return where it lies if that is another file."""
    name = tensor.name[:60]
    if tensor.data_type == TensorProto.UNDEFINED and not tensor.ByteSize():
        return None  # the empty tensor of an attribute that is none
    if tensor.data_type not in _BITS or tensor.HasField("segment") or tensor.string_data:
        raise _RefusedError(f"weight {name!r} is no plain tensor")
    values = _volume(tuple(tensor.dims), name)
    bits = _BITS[tensor.data_type]
    size_bytes = (values * bits + 7) // 8
    stored = sum(len(getattr(tensor, field)) for field in _TYPED_DATA)
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        inside = tensor.data_location != TensorProto.EXTERNAL or tensor.HasField("raw_data") or stored
        if inside:
            raise _RefusedError(f"weight {name!r} says that it is in this file and in another one")
        return _place(tensor, size_bytes, name)
    if tensor.HasField("raw_data"):
        fits = len(tensor.raw_data) == size_bytes
    elif bits < 8:
        fits = stored == size_bytes
    else:
        fits = stored == values * _PER_VALUE.get(tensor.data_type, 1)
    if not fits:
        raise _RefusedError(f"weight {name!r} is not as large as it says")
    return None


def _place(tensor: Any, size_bytes: int, name: str) -> list[Any]:
    """Return [location, offset, length in bytes] of a tensor in another file; whether it may be read is not said."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = said.get("offset", "0"), said.get("length", str(size_bytes))
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in (offset, length)):
        raise _RefusedError(f"weight {name!r} lies at no place in a file")
    if int(length) != size_bytes:
        raise _RefusedError(f"weight {name!r} is not as large as it says")
    return [said.get("location", ""), int(offset), size_bytes]


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
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
}


def _volume(dims: tuple[int, ...], name: str) -> int:
    """Return how many values a shape holds, refusing what memory would not."""
    if any(size < 0 for size in dims):
        raise _RefusedError(f"tensor {name!r} has a negative size")
    if len(dims) > 8 or math.prod(dims) * 4 > LARGEST_TENSOR_BYTES:
        raise _RefusedError(f"tensor {name!r} is too large: {'x'.join(str(size) for size in dims[:8])}")
    return math.prod(dims)


def _require_order(graph: Any, *, known: frozenset[str]) -> None:
    """Refuse names that stand for two things, and operations that use what is not there yet, as in a cycle."""
    seen = {"", *known}  # the empty name is that of an input that is left out
    weights = [tensor.name for tensor in graph.initializer]
    for names in (weights, [value.name for value in graph.input]):
        if len(set(names)) < len(names) or "" in names:
            raise _RefusedError("two of its weights or inputs have one name")
        seen.update(names)
    called: set[str] = set()
    for node in graph.node:
        for name in node.input:
            if name not in seen:
                raise _RefusedError(f"{node.op_type[:60]} uses {name[:60]!r} before it is computed")
        results = [name for name in node.output if name]
        if len(set(results)) < len(results) or seen.intersection(results):
            raise _RefusedError(f"{results[0][:60]!r} is computed twice")
        if node.name and node.name in called:
            raise _RefusedError(f"two of its operations are called {node.name[:60]!r}")
        called.add(node.name)
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                _require_order(inner, known=frozenset(seen))
        seen.update(results)


if __name__ == "__main__":
    main()
