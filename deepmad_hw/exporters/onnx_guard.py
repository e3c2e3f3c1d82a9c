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
from onnx import shape_inference

from deepmad_hw.exporters.onnx_messages import sized_tensors, unsized
from deepmad_hw.exporters.onnx_plain import BITS, RefusedError, require_plain, volume

CHILD_MEMORY_BYTES = 3 * 2**30
LOAD_SECONDS = 4  # of processor time; a wall clock would punish a busy machine
BYTES_PER_SECOND = 50e6  # what large files are read with at least

JUDGE, RUN = "judge", "run"


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
    except RefusedError as refused:
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
        raise RefusedError("is no ONNX model") from error
    if not model.ir_version or not model.graph.node:
        raise RefusedError("is no ONNX model")
    external = require_plain(model)
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
        with contextlib.suppress(RefusedError):
            _session(data)
            return
    raise RefusedError(complaint)


def _complaint(model: Any) -> str | None:
    bare = unsized(model)
    for size in (size for value in bare.graph.input for size in value.type.tensor_type.shape.dim):
        if size.dim_value < 0:  # free, as some exporters write it
            size.Clear()
    try:
        inferred = shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(inferred)
    except (onnx.checker.ValidationError, shape_inference.InferenceError, EncodeError, ValueError) as error:
        return f"is no valid ONNX model: {' '.join(str(error).split())}"[:300]
    for name, _, shape in sized_tensors(inferred.graph):
        volume(shape, name[:60])
    return None


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
        raise RefusedError(_runtime_words("cannot be loaded by ONNX Runtime", error)) from error


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
        raise RefusedError(_runtime_words("cannot be run", error)) from error
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
        with contextlib.suppress(RefusedError, EncodeError, ValueError):
            session = _session(model.SerializeToString())
            with contextlib.suppress(Exception):  # what is not found out stays unknown
                known |= _shown(zip(names, session.run(names, values), strict=True))
    return known


def _shown(results: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    kinds: Mapping[Any, int] = {onnx.helper.tensor_dtype_to_np_dtype(kind): kind for kind in BITS}
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
    try:
        graph = shape_inference.infer_shapes(unsized(model), data_prop=True).graph
    except (shape_inference.InferenceError, EncodeError, ValueError):
        return
    for name, kind, shape in sized_tensors(graph):
        if min(shape, default=0) >= 0:
            yield name, [kind, shape]


if __name__ == "__main__":
    main()
