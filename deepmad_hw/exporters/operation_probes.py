"""Networks of operations outside the block families, to be timed one by one inside a running network. Layer 3.

Each network holds every kind of operation about once, at one size of image and at widths of its own, between cheap
convolutions, so that layouts change where they would in a real network. The layout changes themselves are planned as
``<reader>.reorder``: the reader is the operation that needs the other layout.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TensorProto, shape_inference

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters.onnx_graph import TensorSource
from deepmad_hw.exporters.onnx_messages import IMAGE_RANK, Shape, attributes_of, tensors_in
from deepmad_hw.exporters.onnx_operations import Sized, operation_of
from deepmad_hw.exporters.operation_groups import BYTEWISE_GROUPS, GROUPS, group_norm
from deepmad_hw.exporters.operation_network import NECK, OperationNetwork
from deepmad_hw.network.layer import OperationNode, OperationSpec

RUNTIMES = ("onnxruntime", "replay")  # those that read the files, and join times to operations
PRECISIONS = ("fp32", "int8")
# Operations with kernels on bytes, which are rounded in the networks of int8; the others run on floats between them.
BYTEWISE = (
    *("Add", "AveragePool", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "MaxPool"),
    *("Mul", "Reshape", "Resize", "Sigmoid", "Softmax", "Split", "Transpose"),
)
SIDES = (28, 56, 14, 112, 7, 80, 40, 20, 160, 10)  # pixels; any first few of them span the range
MOST_TIMES, PIXELS_OF_ONCE = 3, 90  # small images are quick, so networks on them hold every kind several times


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationProbe:
    """One network of operations.

    Args:
        name: unique in a plan.
        side: of its image, in pixels.
        seed: of its widths.
        precision: ``int8`` for a network that is rounded to bytes, as far as there are kernels on bytes.
    """

    name: str
    side: int
    seed: int
    precision: str = "fp32"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of the image."""
        return (NECK, self.side, self.side)


def operation_probes(count: int, *, seed: int = 0, precision: str = "fp32") -> list[OperationProbe]:
    """Return networks that together show every kind of operation over a range of sizes.

    Every second one of int8 is of floats: what has no kernel on bytes runs on them.

    Args:
        count: how many.
        seed: of the widths.
        precision: of the table that they are for, one of `PRECISIONS`.
    """
    forms = ("int8", "fp32") if precision == "int8" else (precision,)
    return [
        OperationProbe(
            name=f"operations{index:02}",
            side=SIDES[index // len(forms) % len(SIDES)],
            seed=seed * 1000 + index,
            precision=forms[index % len(forms)],
        )
        for index in range(count)
    ]


@functools.cache
def operations(probe: OperationProbe) -> tuple[OperationNode, ...]:
    """Return what is timed in a network, in execution order, for one image.

    Args:
        probe: the network.
    """
    network = _built(probe, _shape_only, batch=1)
    inferred = shape_inference.infer_shapes(network.model(probe.name), data_prop=True, strict_mode=True).graph
    shapes = {value.name: _shape(value) for value in tensors_in(inferred)}
    constants = {tensor.name: tensor for tensor in inferred.initializer}
    timed: list[OperationNode] = []
    for node in inferred.node:
        if node.name in network.reorders:
            timed += _changes(node.name, int(np.prod(shapes[node.input[0]])), bytewise=probe.precision == "int8")
        if node.name in network.kinds:
            bytewise = probe.precision == "int8" and node.op_type in BYTEWISE
            kind, nodes = network.kinds[node.name], network.parts.get(node.name, [node])
            spec = _spec(kind, nodes, shapes, constants, channels_last=bytewise)
            if bytewise:
                spec = replace(spec, value_type="int8")
            timed.append(OperationNode(name=node.name, spec=spec))
    return tuple(timed)


def _changes(reader: str, values: int, *, bytewise: bool) -> Iterator[OperationNode]:
    """Yield the changes of form that a runtime may make before an operation."""
    forms = (("transpose", "int8", 1), ("quantize", "fp32", 0), ("dequantize", "int8", 0))
    for kind, value_type, span in forms if bytewise else (("reorder", "fp32", 0),):
        spec = OperationSpec(kind=kind, value_type=value_type, read_values=values, written_values=values, span=span)
        yield OperationNode(name=f"{reader}.{kind}", spec=spec)


def operation_model(probe: OperationProbe, tensor: TensorSource, *, batch: int = 1) -> Any:
    """Return a network as an `onnx.ModelProto`.

    Args:
        probe: the network.
        tensor: gives the weights of convolutions and products, so that they may lie in a shared file.
        batch: images at once.
    """
    return _built(probe, tensor, batch=batch).model(probe.name)


@functools.cache
def weight_shapes(probe: OperationProbe) -> tuple[Shape, ...]:
    """Return the shapes of the weights that a network takes from the plan's file.

    Args:
        probe: the network.
    """
    shapes: list[Shape] = []

    def tensor(name: str, shape: Shape) -> Any:
        shapes.append(shape)
        return _shape_only(name, shape)

    _built(probe, tensor, batch=1)
    return tuple(shapes)


def _built(probe: OperationProbe, tensor: TensorSource, *, batch: int) -> OperationNetwork:
    bytewise, random = probe.precision == "int8", np.random.default_rng(probe.seed)
    network = OperationNetwork(side=probe.side, batch=batch, bytewise=bytewise, tensor=tensor, random=random)
    if not bytewise:
        group_norm(network)
    for repetition in range(max(1, min(MOST_TIMES, PIXELS_OF_ONCE // probe.side))):
        network.turn = probe.seed + repetition
        for group in BYTEWISE_GROUPS if bytewise else GROUPS:
            group(network)
    return network


def _shape_only(name: str, shape: Shape) -> Any:
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)


def _shape(value: Any) -> Shape:
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)


def _spec(
    kind: str, nodes: Sequence[Any], shapes: dict[str, Shape], constants: dict[str, Any], *, channels_last: bool
) -> OperationSpec:
    """Return the amounts of an operation, which one ONNX node or several are."""
    inside = {output for node in nodes for output in node.output}
    read = dict.fromkeys(name for node in nodes for name in node.input if name in shapes and name not in inside)
    node = nodes[-1]
    sized = Sized(
        operator=f"nchwc.{node.op_type}" if kind.endswith("_blocked") else node.op_type,
        attributes=attributes_of(node),
        reads=[shapes[name] for name in read],
        constants=[tuple(constants[name].dims) for each in nodes for name in each.input if name in constants],
        writes=[shapes[output] for output in node.output if output],
    )
    if kind == "depthwise_conv" and node.op_type == "BatchNormalization":
        channels = sized.writes[0][1]
        sized = replace(
            sized, operator="Conv", attributes={"group": channels}, constants=[(channels, 1, 1, 1), (channels,)]
        )
    if channels_last and (kind == "concat" or kind.endswith("_broadcast")):  # so it stands between convolutions
        reads, constant, writes = ([*map(_turned, each)] for each in (sized.reads, sized.constants, sized.writes))
        sized = replace(sized, reads=reads, constants=constant, writes=writes)
    spec = operation_of(sized)
    if spec is None:
        raise ConfigError(f"no kind of operation stands for {node.op_type}", where=node.name)
    return replace(spec, kind=kind)


def _turned(shape: Shape) -> Shape:
    """Return the shape of a map as runtimes lay it out for bytes: channels last."""
    return (shape[0], *shape[2:], shape[1]) if len(shape) == IMAGE_RANK else shape
