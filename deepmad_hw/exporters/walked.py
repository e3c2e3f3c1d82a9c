"""What a walk over an ONNX graph says of it: layers, other operations, and what is neither. Layer 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deepmad_hw.network.layer import Node, OperationSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """An operation that is no layer of a block family, at its place in a network.

    Args:
        name: unique in the network.
        spec: its amounts of work.
    """

    name: str
    spec: OperationSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk:
    """What a graph is made of.

    Args:
        nodes: its layers in execution order; a layer that reads something else names that operation.
        operations: what is no layer of a block family, but known by its amounts of work.
        uncovered: ``name: reason`` of each operation that neither stands for.
        notes: what is left out, or stands for something that is only nearly the same.
        precision: ``fp32``, ``fp16`` or ``int8``.
        members: for each layer and operation the tensors that its operations make, the last one's last.
        batch: images that it takes at once.
    """

    nodes: tuple[Node, ...]
    operations: tuple[Operation, ...] = ()
    uncovered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    precision: str = "fp32"
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    batch: int = 1
