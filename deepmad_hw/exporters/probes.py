"""Packs networks to be timed: ONNX files that share one file of weights, and the JSON that names every node. Layer 3.

The device side reads this in `profilers.plan`; the two are held together by a contract test.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters.onnx_graph import TensorSource, save, to_onnx
from deepmad_hw.exporters.onnx_inputs import packed_values
from deepmad_hw.exporters.operation_network import SMALL
from deepmad_hw.exporters.operation_probes import (
    BYTEWISE,
    OperationProbe,
    operation_model,
    operations,
    weight_shapes,
)
from deepmad_hw.exporters.quantize import QUANTIZED_OPERATIONS, quantized
from deepmad_hw.exporters.weights import Shape
from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.files.planfile import PLAN_FILE, SCHEMA, WEIGHT_STEP_BYTES, WEIGHTS_FILE
from deepmad_hw.network.costs import FLOAT32_BYTES
from deepmad_hw.network.layer import IMAGE, Graph, LayerSpec, Node

CANARY = "canary"
PRECISIONS = ("fp32", "int8")
# Small enough that no depth overflows; the biases keep activations from fading into denormal numbers.
WEIGHT_DEVIATION = 0.02
# No time depends on the scales of int8, so they are made up. Runtimes use bytes only where a bias has the scale of its
# input times that of its weight, so these hang together.
INT8_DEVIATION = 30.0
INT8_WEIGHT_SCALE = np.float32(0.01)
INT8_RANGE = (-1.0, 1.0)
INT8_BIAS_SCALE = INT8_WEIGHT_SCALE * np.float32((INT8_RANGE[1] - INT8_RANGE[0]) / 255)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedProbe:
    """A network to be packed, by its graph or by a file that exists already.

    Args:
        name: unique in the plan.
        graph: the network, written with random weights unless `data` is given; None where nothing is known of it.
        by_layer: whether its nodes are timed, or only the whole.
        data: an ONNX file's bytes, complete in itself, or None.
        values: of every input of the file, by name.
        operations: a network of operations outside the block families, in place of a graph.
    """

    name: str
    graph: Graph | None = None
    by_layer: bool = False
    data: bytes | None = None
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    operations: OperationProbe | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Return the layers of the graph, none where only a file is known."""
        return self.graph.nodes if self.graph is not None else ()

    @property
    def most_outputs(self) -> int:
        """Return the outputs of the widest layer."""
        shapes = () if self.operations is None else weight_shapes(self.operations)
        return max((*(node.spec.out_channels for node in self.nodes), *(shape[0] for shape in shapes)), default=1)

    @property
    def weights(self) -> tuple[int, ...]:
        """Return the values of every tensor of weights, biases left out."""
        if self.operations is not None:
            return tuple(math.prod(shape) for shape in weight_shapes(self.operations))
        return tuple(_values(node.spec) for node in self.nodes)


def canary() -> Graph:
    """Return the fixed network that is timed between all others: convolutions bound by compute and by memory."""
    shapes = (
        ("dense3", 32, 32, 56, 3, 1, 1),
        ("reduce", 32, 128, 56, 1, 1, 1),
        ("depthwise", 128, 128, 56, 3, 2, 128),
        ("dense5", 128, 48, 28, 5, 1, 1),
        ("expand", 48, 256, 28, 1, 1, 1),
        ("stride", 256, 64, 28, 3, 2, 1),
        ("wide", 64, 512, 14, 1, 1, 1),
        ("square", 512, 512, 14, 1, 2, 1),
    )
    nodes: list[Node] = []
    source = IMAGE
    for name, in_channels, out_channels, side, kernel, stride, groups in shapes:
        spec = LayerSpec(
            op="conv",
            in_channels=in_channels,
            out_channels=out_channels,
            height=side,
            width=side,
            kernel=kernel,
            stride=stride,
            groups=groups,
            activation="relu",
        )
        nodes.append(Node(name=name, spec=spec, inputs=(source,), norm=True))
        source = name
    return Graph(name=CANARY, in_channels=32, height=56, width=56, nodes=tuple(nodes), outputs=(source,))


def write_plan(
    folder: Path,
    probes: list[PackedProbe],
    *,
    batch: int = 1,
    precision: str = "fp32",
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a plan into a folder; the JSON comes last, so a folder with one is complete.

    Args:
        folder: made if it does not exist.
        probes: the networks, in the order of measuring.
        batch: images at once.
        precision: one of `PRECISIONS`; files that exist already are taken to have it.
        on_probe: told after each network how many are written, and of how many; quantising one takes a second.

    Raises:
        ConfigError: two networks of one name, one called like the canary, or no such precision.
        MissingExtraError: int8, and ONNX Runtime, which quantises, is not installed.
        StorageError: the disk does not take it.
    """
    require_precision(precision)
    folder.mkdir(parents=True, exist_ok=True)
    packed = [*probes, PackedProbe(name=CANARY, graph=canary())]
    names = [probe.name for probe in packed]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("two networks of one name", where=name, hint="rename one of them")
    weights = _Int8Weights(packed) if precision == "int8" else _Float32Weights(packed)
    write_atomically(folder / WEIGHTS_FILE, weights.data)
    entries = []
    for probe in packed:
        entries.append(_pack(folder, probe, batch, weights))
        on_probe(len(entries), len(packed))
    plan = {"schema": SCHEMA, "batch": batch, "precision": precision, "canary": entries[-1], "probes": entries[:-1]}
    write_atomically(folder / PLAN_FILE, (json.dumps(plan, indent=1) + "\n").encode())


def require_precision(precision: str) -> None:
    """Refuse a precision that there are no probes of.

    Args:
        precision: what was asked for.

    Raises:
        ConfigError: it is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        hint = f"say {' or '.join(PRECISIONS)}"
        raise ConfigError(f"no probes of precision {precision!r}", where="--precision", hint=hint)


class _Float32Weights:
    """One file of values that all tensors share, each network's one step after the other.

    No two of a network begin at the same place: TensorRT takes tensors at one address for one tensor.
    """

    value_bytes = FLOAT32_BYTES

    def __init__(self, packed: Sequence[PackedProbe], *, begin: int = 0) -> None:
        self._begin = begin
        tensors = 2 * max(len(probe.weights) for probe in packed)
        self.data = _random(packed, WEIGHT_DEVIATION, extra=tensors * WEIGHT_STEP_BYTES // FLOAT32_BYTES).tobytes()

    def model(self, graph: Graph, *, batch: int) -> Any:
        return to_onnx(graph, self._source(), batch=batch)

    def operation_model(self, probe: OperationProbe, *, batch: int) -> Any:
        return operation_model(probe, self._source(), batch=batch)

    def _source(self) -> TensorSource:
        offsets = itertools.count(self._begin, WEIGHT_STEP_BYTES)

        def tensor(name: str, shape: Shape) -> Any:
            found = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            _lay_out(found, offset=next(offsets))
            return found

        return tensor


class _Int8Weights:
    """One file for all quantised networks: weights, scales of weights, scales of biases, zeros.

    The quantiser is given inline weights to treat as a whole, which is far quicker than channel by channel; its result
    is then replaced by the file's tensors, with a scale for every channel.
    """

    value_bytes = 1

    def __init__(self, packed: Sequence[PackedProbe]) -> None:
        self._float32 = _random(packed, WEIGHT_DEVIATION)
        weights = np.clip(np.rint(_random(packed, INT8_DEVIATION)), -127, 127).astype(np.int8)
        channels = max(probe.most_outputs for probe in packed)
        begin = -(-weights.size // FLOAT32_BYTES) * FLOAT32_BYTES
        constants = [np.full(channels, value, np.float32) for value in (INT8_WEIGHT_SCALE, INT8_BIAS_SCALE, 0)]
        self._weight_scale, self._bias_scale, self._zero = (begin + i * constants[0].nbytes for i in range(3))
        data = weights.tobytes().ljust(begin, b"\0") + b"".join(values.tobytes() for values in constants)
        floats = [probe for probe in packed if probe.operations is not None and probe.operations.precision == "fp32"]
        begin = -(-len(data) // WEIGHT_STEP_BYTES) * WEIGHT_STEP_BYTES
        self._floats = _Float32Weights(floats, begin=begin) if floats else None
        self.data = data.ljust(begin, b"\0") + self._floats.data if self._floats else data

    def model(self, graph: Graph, *, batch: int) -> Any:
        return self._rounded(to_onnx(graph, self._inline, batch=batch), QUANTIZED_OPERATIONS)

    def operation_model(self, probe: OperationProbe, *, batch: int) -> Any:
        if self._floats is not None and probe.precision == "fp32":
            return self._floats.operation_model(probe, batch=batch)
        return self._rounded(operation_model(probe, self._inline, batch=batch), BYTEWISE)

    def _rounded(self, plain: Any, operations: Sequence[str]) -> Any:
        tensors = [graph_input.name for graph_input in plain.graph.input]
        tensors += [output for node in plain.graph.node for output in node.output]
        small = [tensor.name for tensor in plain.graph.initializer if tensor.name.startswith(SMALL)]
        ranges = dict.fromkeys((*tensors, *small), INT8_RANGE)
        model = quantized(plain, ranges, per_channel=False, operations=operations)
        constants = {tensor.name: tensor for tensor in model.graph.initializer if not tensor.name.startswith(SMALL)}
        readers = {name: node.op_type for node in model.graph.node for name in node.input}
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in constants:
                by_channel = readers[node.output[0]] != "MatMul"  # whose outputs are not the weight's first axis
                self._share(node, *(constants[name] for name in node.input), by_channel=by_channel)
        return model

    def _inline(self, name: str, shape: Shape) -> Any:
        return numpy_helper.from_array(self._float32[: int(np.prod(shape))].reshape(shape), name)

    def _share(self, node: Any, values: Any, scale: Any, zero: Any, *, by_channel: bool) -> None:
        """Replace the weight or bias that a node dequantises, and give every output channel a scale of its own."""
        is_bias = values.data_type == TensorProto.INT32
        if not by_channel:
            _lay_out(values, offset=0)
            return
        node.attribute.append(helper.make_attribute("axis", 0))
        scale.dims[:] = zero.dims[:] = values.dims[:1]
        _lay_out(values, offset=self._zero if is_bias else 0)
        _lay_out(scale, offset=self._bias_scale if is_bias else self._weight_scale)
        _lay_out(zero, offset=self._zero)


_BYTES = {TensorProto.INT8: 1, TensorProto.FLOAT: FLOAT32_BYTES, TensorProto.INT32: 4}  # of one value


def _random(packed: Sequence[PackedProbe], deviation: float, *, extra: int = 0) -> Any:
    largest = max(values for probe in packed for values in probe.weights)
    return np.random.default_rng(0).normal(0.0, deviation, largest + extra).astype(np.float32)


def _pack(folder: Path, probe: PackedProbe, batch: int, weights: _Float32Weights | _Int8Weights) -> dict[str, Any]:
    file, feed, shape = f"{probe.name}.onnx", "", (0, 0, 0)
    weight_bytes = weights.value_bytes * sum(probe.weights)
    if probe.graph is not None:
        shape = (probe.graph.in_channels, probe.graph.height, probe.graph.width)
    if probe.data is not None:
        feed, weight_bytes = f"{probe.name}.npz", len(probe.data)
        write_atomically(folder / file, probe.data)
        write_atomically(folder / feed, packed_values(probe.values))
    elif probe.graph is not None:
        save(weights.model(probe.graph, batch=batch), folder / file)
    timed: dict[str, Any] = {
        "nodes": [{"name": node.name, "spec": asdict(node.spec), "inputs": list(node.inputs)} for node in probe.nodes]
    }
    if probe.operations is not None:
        shape = probe.operations.input_shape
        save(weights.operation_model(probe.operations, batch=batch), folder / file)
        timed["operations"] = [{"name": node.name, "spec": asdict(node.spec)} for node in operations(probe.operations)]
    return {
        "name": probe.name,
        "file": file,
        "feed": feed,
        "kind": "layers" if probe.by_layer else "network",
        "input_shape": [batch, *shape],
        "weight_bytes": weight_bytes,
        **timed,
    }


def _values(spec: LayerSpec) -> int:
    if spec.op not in ("conv", "linear"):
        return 0
    return spec.out_channels * spec.group_width * spec.kernel**2


def _lay_out(tensor: Any, *, offset: int) -> None:
    """Let a tensor's values lie in the shared file."""
    for held in ("raw_data", "float_data", "int32_data"):
        tensor.ClearField(held)
    tensor.data_location = TensorProto.EXTERNAL
    length = _BYTES[tensor.data_type] * int(np.prod(tensor.dims))
    for key, value in (("location", WEIGHTS_FILE), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
