"""Times ONNX files with ONNX Runtime on the CPU, whole and node by node. Layer 3, device side.

Facts this rests on (ONNX Runtime 1.31/1.32, x86): the profiler names a fused convolution after its output tensor plus
``_nchwc``; activations that are not fused keep the tensor's name; layout changes (ReorderInput, ReorderOutput) are
anonymous and stand around the operations that have no blocked kernel, such as squeeze-excite's multiplication, the
classifier, and pooling of channels that are no multiple of the block. In int8 an operation on bytes is named after its
node plus ``_token_N``; what has no kernel on bytes runs on floats between conversions named after the tensor. Parts of
an operation that was taken apart (HardSwish) and changes of layout (Transpose) have names of their own; they follow
what they belong to, only those of the image go before it.

In networks of operations outside the block families, what follows an activation that is merged into a convolution is
seen from the event: it is a convolution under the activation's name. A batch norm alone runs as a convolution of its
own, named after its tensor plus ``_bn``, and is planned as one. Parts of an operation that was taken apart
(GroupNormalization, Mish) are called after their operator and a number. A change of layout or of type runs right before
the operation that needs it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepmad_hw.errors import MissingExtraError
from deepmad_hw.latency.measurement import Environment
from deepmad_hw.network.layer import Node, OperationNode
from profilers import environment, joining
from profilers.backend import NodeTimes, Settings
from profilers.plan import Plan, Probe

INSTALL_LINE = 'pip install "deepmad-hw[cpu]"'
# Several threads spin between operations, as users run them, but not for long after a run: the threads of one session
# would take the processors from the next one (seen on two cores: 5.9 ms instead of 3.8).
SPIN_US = 1000
_EVENT_SUFFIX = "_kernel_time"
_BLOCKED_SUFFIX = "_nchwc"
_LAYOUT_CHANGES = ("ReorderInput", "ReorderOutput")
# Changes of form before the operation that needs the other one, by what they are planned as.
_FORMS = {
    **dict.fromkeys(_LAYOUT_CHANGES, "reorder"),
    "Transpose": "transpose",
    "QuantizeLinear": "quantize",
    "DequantizeLinear": "dequantize",
}
_BYTES = ("int8", "uint8")
_NORM_SUFFIX = "_bn"
_CONVOLUTION_KINDS = ("conv", "depthwise_conv", "grouped_conv", "conv_transpose")
_PART = re.compile(r"([A-Za-z]+)_\d+")  # of an operation that was taken apart


class _OrtSession:
    def __init__(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0" if settings.threads == 1 else "1")
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        options.enable_profiling = profiled
        self._probe = probe
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if profiled:
            self._folder = tempfile.TemporaryDirectory(prefix="deepmad-hw-")
            options.profile_file_prefix = str(Path(self._folder.name) / "trace")
        with _memory_errors():
            self._session: Any = ort.InferenceSession(
                str(plan.path(probe)), options, providers=["CPUExecutionProvider"]
            )
        self._feed = plan.feed(probe, image=next((each.name for each in self._session.get_inputs()), ""))

    def run(self) -> float:
        with _memory_errors():
            begin = time.perf_counter_ns()
            self._session.run(None, self._feed)
            return (time.perf_counter_ns() - begin) / 1e3

    def finish(self) -> NodeTimes:
        if self._folder is None:
            return NodeTimes()
        with self._folder:
            trace = Path(self._session.end_profiling())
            events = json.loads(trace.read_text(encoding="utf-8"))
        if self._probe.operations:
            return operation_times(events, self._probe.operations, batch=self._probe.input_shape[0])
        return node_times(events, self._probe.nodes)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn the runtime's ways to say that memory is short into Python's."""
    try:
        yield
    except Exception as error:
        if any(words in str(error) for words in ("Failed to allocate memory", "bad allocation", "bad_alloc")):
            raise MemoryError(str(error)) from error
        raise


def node_times(events: list[dict[str, Any]], nodes: tuple[Node, ...]) -> NodeTimes:
    """Return a profile's times joined to the nodes of a probe.

    Every operation that ran belongs to some node. Layout changes are the price of the nodes that have no blocked
    kernel, so they are added to those.

    Args:
        events: the trace that ONNX Runtime wrote.
        nodes: the probe's layers in execution order.
    """
    position = {node.name: index for index, node in enumerate(nodes)}
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "model_run")
    kernels = sorted((e for e in events if e.get("cat") == "Node"), key=lambda e: e["ts"])
    plain = _without_blocked_kernel(kernels, position)
    us: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(runs))
    operations: dict[str, int] = defaultdict(int)
    for current, (begin, end) in enumerate(runs):
        last = 0
        for event in kernels:
            if not begin <= event["ts"] <= end:
                continue
            owner = _owner(event, position, plain, last)
            last = last if event["args"]["op_name"] in _LAYOUT_CHANGES else owner
            us[nodes[owner].name][current] += event["dur"]
            operations[nodes[owner].name] += current == 0
    return NodeTimes(us={name: tuple(values) for name, values in us.items()}, operations=dict(operations))


def _without_blocked_kernel(kernels: list[dict[str, Any]], position: dict[str, int]) -> list[int]:
    """Return the positions of nodes that run in plain layout, ascending."""
    blocked, seen = set(), set()
    for event in kernels:
        owner = _named_owner(event, position)
        if owner is not None:
            seen.add(owner)
            if event["name"].removesuffix(_EVENT_SUFFIX).endswith(_BLOCKED_SUFFIX):
                blocked.add(owner)
    return sorted(seen - blocked)


def _owner(event: dict[str, Any], position: dict[str, int], plain: list[int], last: int) -> int:
    """Return the position of the node an event belongs to; `last` is that of the event before it."""
    operation = event["args"]["op_name"]
    if operation == "ReorderOutput":
        return next((index for index in plain if index >= last), last)
    if operation == "ReorderInput":
        return next((index for index in reversed(plain) if index <= last), last)
    named = _named_owner(event, position)
    return last if named is None else named


def _named_owner(event: dict[str, Any], position: dict[str, int]) -> int | None:
    return joining.owner(event["name"].removesuffix(_EVENT_SUFFIX), position)


def operation_times(events: list[dict[str, Any]], operations: tuple[OperationNode, ...], *, batch: int) -> NodeTimes:
    """Return a profile's times joined to the operations of a probe.

    Every event counts, for what it is named after if that is planned and still is the operation that was planned; else
    under its own name, of which no row is made. Of several changes of layout before one operation one is the planned.

    Args:
        events: the trace that ONNX Runtime wrote.
        operations: what is planned, in execution order.
        batch: images at once.
    """
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "model_run")
    kernels = sorted((e for e in events if e.get("cat") == "Node"), key=lambda e: e["ts"])
    us: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(runs))
    counts: dict[str, int] = defaultdict(int)
    owners = _Owners(operations, {_label(event) for event in kernels}, batch)
    for current, (begin, end) in enumerate(runs):
        inside = [event for event in kernels if begin <= event["ts"] <= end]
        for event, name in zip(inside, owners.of(inside), strict=True):
            us[name][current] += event["dur"]
            counts[name] += current == 0
    return NodeTimes(us={name: tuple(values) for name, values in us.items()}, operations=dict(counts))


class _Owners:
    """Finds the planned operations that the events of a run belong to.

    Args:
        operations: what is planned, in execution order.
        labels: names of all events, without the runtime's marks.
        batch: images at once.
    """

    def __init__(self, operations: tuple[OperationNode, ...], labels: set[str], batch: int) -> None:
        self._operations, self._batch = operations, batch
        self._position = {node.name: index for index, node in enumerate(operations)}
        named = {self._named(label) for label in labels}
        self._nameless = [
            index for index, node in enumerate(operations) if index not in named and node.spec.kind != "reorder"
        ]

    def of(self, events: list[dict[str, Any]]) -> list[str]:
        found, reader, last = [], "", 0
        formed: set[str] = set()
        for event in reversed(events):
            if self._is_form(event):
                form = self._form(event, reader)
                found.append(str(event["name"]) if form in formed else form)
                formed.add(form)
            else:
                reader = _label(event)
                found.append("")
        found.reverse()
        for place, event in enumerate(events):
            if not self._is_form(event):
                named = self._named(_label(event))
                last = last if named is None else named
                found[place] = self._operation(event, named, last)
        return found

    def _named(self, label: str) -> int | None:
        position = joining.owner(label, self._position)
        if position is None and label.endswith(_NORM_SUFFIX):
            return self._position.get(label.removesuffix(_NORM_SUFFIX))
        return position

    def _operation(self, event: dict[str, Any], named: int | None, last: int) -> str:
        part = _PART.fullmatch(_label(event))
        if named is None and part and part[1] == event["args"]["op_name"]:
            named = next((index for index in self._nameless if index >= last), None)
        if named is None or self._merged(event, self._operations[named]):
            return str(event["name"])
        if _on_bytes(event) != (self._operations[named].spec.value_type == "int8"):
            return str(event["name"])
        return self._operations[named].name

    def _merged(self, event: dict[str, Any], node: OperationNode) -> bool:
        """Return whether an event is a convolution that took the planned operation in."""
        convolution = event["args"]["op_name"].endswith("Conv")
        return convolution and node.spec.kind not in _CONVOLUTION_KINDS

    def _is_form(self, event: dict[str, Any]) -> bool:
        kind = _FORMS.get(event["args"]["op_name"])
        position = self._position.get(_label(event))
        return kind is not None and (position is None or self._operations[position].spec.kind != kind)

    def _form(self, event: dict[str, Any], reader: str) -> str:
        position = self._position.get(f"{reader}.{_FORMS[event['args']['op_name']]}")
        shapes = [shape for each in event["args"].get("input_type_shape", ()) for shape in each.values()]
        if position is None or not shapes:
            return str(event["name"])
        planned = self._operations[position]
        fits = math.prod(shapes[0]) == planned.spec.read_values * self._batch
        same = _on_bytes(event) == (planned.spec.value_type == "int8")
        return planned.name if fits and same else str(event["name"])


def _on_bytes(event: dict[str, Any]) -> bool:
    """Return whether an operation reads bytes, for all that the event says."""
    first: dict[str, Any] = next(iter(event["args"].get("input_type_shape", ())), {})
    return event["args"]["op_name"].startswith("QLinear") or any(kind in _BYTES for kind in first)


def _label(event: dict[str, Any]) -> str:
    return joining.unmarked(event["name"].removesuffix(_EVENT_SUFFIX))


class _OrtBackend:
    def environment(self, plan: Plan, settings: Settings) -> Environment:
        if importlib.util.find_spec("onnxruntime") is None:
            raise MissingExtraError("ONNX Runtime is not installed", hint=f"install it with: {INSTALL_LINE}")
        import onnxruntime

        return environment.of_processor(
            runtime="onnxruntime",
            runtime_version=onnxruntime.__version__,
            precision=plan.precision,
            batch=plan.batch,
            threads=settings.threads,
        )

    def load(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> _OrtSession:
        return _OrtSession(plan, probe, settings, profiled=profiled)


BACKEND = _OrtBackend()
