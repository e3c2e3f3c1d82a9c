"""Looks at what ONNX Runtime makes of a model on this machine: its operations with the sizes of one run. Layer 3.

The model has passed `onnx_guard`. It is loaded and run in a process of its own all the same, in an empty folder, with
limited memory and time, because the runtime writes the graph it runs and the profile of the run into files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from deepmad_hw.exporters import onnx_guard, runtime_graph
from deepmad_hw.exporters.onnx_inputs import packed_values
from deepmad_hw.exporters.onnx_messages import Shape, attributes_of
from deepmad_hw.exporters.onnx_plain import graphs_of
from deepmad_hw.exporters.runtime_graph import RuntimeOperation

MODULE = "deepmad_hw.exporters.runtime_look"
LOOK_SECONDS = 120  # of processor time
LONGEST_WAIT_S = 600.0
TRACE_TYPES = {"float": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "double": 11}
_EVENT_SUFFIX = "_kernel_time"


@dataclass(frozen=True, kw_only=True, slots=True)
class LookedAt:
    """An operation that the runtime ran, in the order of the run.

    Args:
        operation: as the runtime's graph has it.
        reads: shapes of the inputs that are computed.
        constants: shapes of its weights.
        writes: shapes of its outputs.
        value_type: of its first input, as in `onnx.TensorProto`.
        mode: of a resizing, such as ``nearest``.
        axis: that a softmax goes along.
        perm: the order into which a transpose brings the axes.
    """

    operation: RuntimeOperation
    reads: tuple[Shape, ...]
    constants: tuple[Shape, ...]
    writes: tuple[Shape, ...]
    value_type: int
    mode: str = "nearest"
    axis: int = -1
    perm: tuple[int, ...] = ()


def look(data: bytes, values: Mapping[str, NDArray[Any]]) -> tuple[LookedAt, ...] | None:
    """Return what ONNX Runtime ran; None where it is not installed, or does not say.

    Args:
        data: a model that has passed the guard.
        values: of every input.
    """
    feed = packed_values(values)
    header = json.dumps({"feed_bytes": len(feed)}).encode() + b"\n"
    with tempfile.TemporaryDirectory(prefix="deepmad-hw-look-") as folder:
        try:
            done = subprocess.run(  # noqa: S603 - this interpreter, this package, no shell
                [sys.executable, "-P", "-m", MODULE],
                input=b"".join((header, feed, data)),
                capture_output=True,
                timeout=LONGEST_WAIT_S,
                check=False,
                cwd=folder,
                # The packages may be importable only because of where this process was started.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path)},
            )
        except subprocess.TimeoutExpired:
            return None
    if done.returncode:
        return None
    return tuple(_looked_at(item) for item in json.loads(done.stdout))


def _looked_at(item: dict[str, Any]) -> LookedAt:
    said: dict[str, Any] = item["operation"]
    lists: dict[str, Any] = {name: tuple(value) for name, value in said.items() if isinstance(value, list)}
    shapes = {name: tuple(map(tuple, item[name])) for name in ("reads", "constants", "writes")}
    return LookedAt(
        operation=RuntimeOperation(**{**said, **lists}),
        value_type=item["value_type"],
        mode=item["mode"],
        axis=item["axis"],
        perm=tuple(item["perm"]),
        **shapes,
    )


def main() -> None:
    """Run the model on standard input once; answer what ran as one line of JSON."""
    header = json.loads(sys.stdin.buffer.readline())
    values = onnx_guard.unpacked(sys.stdin.buffer.read(header["feed_bytes"]))
    data = sys.stdin.buffer.read()
    _limit(len(data))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the runtime prints is no answer
    json.dump([asdict(each) for each in _ran(data, values)], answers)
    answers.flush()


def _limit(size_bytes: int) -> None:
    import resource

    memory_bytes = onnx_guard.CHILD_MEMORY_BYTES + 8 * size_bytes
    for limit, value in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CPU, LOOK_SECONDS)):
        resource.setrlimit(limit, (value, value))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _ran(data: bytes, values: Mapping[str, Any]) -> Iterator[LookedAt]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = True
    options.optimized_model_filepath = "graph.onnx"
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "graph.weights")
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    session.run(None, dict(values))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    optimised = onnx.load("graph.onnx", load_external_data=False)
    source = onnx.load_model_from_string(data)
    return joined(runtime_graph.operations(optimised, source=source), optimised, events)


def joined(
    operations: tuple[RuntimeOperation, ...], optimised: Any, events: list[dict[str, Any]]
) -> Iterator[LookedAt]:
    """Return the operations of a profile, each with what the graph says of it.

    Args:
        operations: of the graph.
        optimised: the graph, an `onnx.ModelProto`.
        events: the profile.
    """
    by_name = {operation.name: operation for operation in operations if operation.name}
    held = {
        tensor.name: (tensor.data_type, tuple(tensor.dims))
        for graph in graphs_of(optimised.graph)
        for tensor in graph.initializer
    }
    nodes = {node.name: node for graph in graphs_of(optimised.graph) for node in graph.node if node.name}
    kernels = sorted((event for event in events if event.get("cat") == "Node"), key=lambda event: event["ts"])
    for event in kernels:
        name, kind = event["name"].removesuffix(_EVENT_SUFFIX), event["args"]["op_name"]
        inputs, outputs = (_shapes(event["args"][f"{side}_type_shape"]) for side in ("input", "output"))
        node = nodes.get(name)
        attributes = {} if node is None else attributes_of(node)
        names = [] if node is None else [each for each in node.input if each]
        inputs, constant = _told_apart(names, inputs, held)
        yield LookedAt(
            operation=by_name.get(name) or RuntimeOperation(name=name, kind=kind, inputs=(), outputs=()),
            reads=tuple(shape for (_, shape), kept in zip(inputs, constant, strict=True) if not kept),
            constants=tuple(shape for (_, shape), kept in zip(inputs, constant, strict=True) if kept),
            writes=tuple(shape for _, shape in outputs),
            value_type=next((kind for (kind, _), kept in zip(inputs, constant, strict=True) if not kept), 1),
            mode=attributes.get("mode", b"nearest").decode(),
            axis=attributes.get("axis", -1),
            perm=tuple(attributes.get("perm", ())),
        )


def _told_apart(
    names: list[str], inputs: list[tuple[int, Shape]], held: Mapping[str, tuple[int, Shape]]
) -> tuple[list[tuple[int, Shape]], list[bool]]:
    """Return the inputs of an operation, and for each whether it is constant.

    Weights that the runtime has packed in a form of its own are missing from a profile.
    """
    if len(names) == len(inputs):
        return inputs, [name in held for name in names]
    left, found = list(inputs), []
    for name in names:
        if left and (name not in held or left[0] == held[name]):
            found.append(left.pop(0))
        elif name in held:
            found.append(held[name])
    if left or len(found) != len(names):
        return inputs, [False] * len(inputs)
    return found, [name in held for name in names]


def _shapes(said: list[dict[str, list[int]]]) -> list[tuple[int, Shape]]:
    return [(TRACE_TYPES.get(kind, 0), tuple(shape)) for each in said for kind, shape in each.items()]


if __name__ == "__main__":
    main()
