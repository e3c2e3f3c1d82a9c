"""Holds the walk of a graph to what ONNX Runtime ran: every operation of the run stands in one place. Layer 3.

The walk says which layers a runtime makes of a graph, by rules; the run says what it did make on this machine. Each
operation that ran belongs to the layer that makes its tensor, or is one of its own, with the sizes that it had. Where a
rule foresaw a merge that did not happen, the layer is taken apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from deepmad_hw.exporters.onnx_operations import Sized, operation_of
from deepmad_hw.exporters.onnx_walk import NEGLIGIBLE_VALUES
from deepmad_hw.exporters.runtime_look import LookedAt
from deepmad_hw.exporters.walked import Operation, Walk
from deepmad_hw.network.layer import Node

VIEW, LAYOUT, UNCOVERED = "(view)", "(layout)", "(uncovered)"  # no names of operations
# Nothing is computed in these: other sizes of the same values, and sizes themselves.
VIEWS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze"})
BODIES = frozenset({"If", "Loop", "Scan"})  # their operations are in the profile themselves
REORDERS = frozenset({"ReorderInput", "ReorderOutput"})
FORMS = frozenset({"Transpose", "QuantizeLinear", "DequantizeLinear"})  # of the runtime's own making, in int8
# What computes each kind of layer, by the runtime's names without the words for its layout.
HEAVY = {
    "conv": ("Conv", "ConvInteger", "FusedConv", "NhwcFusedConv"),
    "linear": ("Gemm", "FusedGemm", "MatMul", "FusedMatMul"),
    "max_pool": ("MaxPool", "NhwcMaxPool"),
    "avg_pool": ("AveragePool",),
    "global_pool": ("GlobalAveragePool",),
    "scale": ("Mul",),
    "add": ("Add", "Sum"),
}
MERGED = ("relu", "relu6", "sigmoid", "hardsigmoid")  # activations that cost nothing, because a convolution does them
_MARK = re.compile(
    r"(_bn)?_nchwc$|_token_\d+$"
)  # what the runtime appends to the name of what it makes an operation of
OWN_ACTIVATIONS = ("Relu", "Clip", "Sigmoid", "HardSigmoid", "LeakyRelu", "Tanh")


@dataclass(kw_only=True, slots=True)
class _Unit:
    """A layer with the operations that ran for it."""

    node: Node
    ran: list[LookedAt] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A walk held to a run.

    Args:
        walk: as the runtime has it.
        differences: where the rules said otherwise, a line each.
        places: for each operation of the run where it stands: the name of a layer or operation, or `VIEW`, `LAYOUT`
            (in a layer's row), or `UNCOVERED`.
    """

    walk: Walk
    differences: tuple[str, ...]
    places: tuple[str, ...]


def held(walk: Walk, run: Sequence[LookedAt]) -> Held:
    """Return a walk as a run shows it.

    Args:
        walk: by the rules.
        run: the operations that the runtime ran.

    Example:
        >>> held(walk(model), look(data, values)).differences  # doctest: +SKIP
        ()
    """
    return _Holder(walk).held(run)


class _Holder:
    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._owner = {tensor: name for name, tensors in walk.members.items() for tensor in tensors}
        self._units = {node.name: _Unit(node=node) for node in walk.nodes}
        self._operations: list[Operation] = []
        self._uncovered: list[str] = []
        self._differences: list[str] = []
        self._views = self._reorders = 0

    def held(self, run: Sequence[LookedAt]) -> Held:
        plain = [self._unit_of(each) for each in run]
        places = [self._take(index, run, plain) for index in range(len(run))]
        nodes = [node for unit in self._units.values() for node in self._settled(unit)]
        walk = replace(
            self._walk,
            nodes=tuple(nodes),
            operations=tuple(self._operations),
            uncovered=tuple(self._uncovered),
            notes=(*self._walk.notes, *self._noted()),
        )
        return Held(walk=walk, differences=tuple(self._differences), places=tuple(places))

    def _noted(self) -> Iterator[str]:
        if self._views:
            yield f"{self._views} views and operations on sizes are left out"
        if self._reorders:
            yield f"{self._reorders} changes of layout are in the rows of the layers beside them"

    def _unit_of(self, each: LookedAt) -> _Unit | None:
        # What is written in another layout goes by the tensor that is read in it; its own name still tells.
        own = _MARK.sub("", each.operation.name)
        owners = (*(self._owner.get(tensor, "") for tensor in each.operation.outputs), self._owner.get(own, own))
        return next((self._units[name] for name in owners if name in self._units), None)

    def _take(self, index: int, run: Sequence[LookedAt], units: Sequence[_Unit | None]) -> str:
        each, unit = run[index], units[index]
        kind = _plain(each)
        if _only_form(each):
            if not self._is_in_a_row(index, run, units):
                return self._stand_alone(each)
            self._reorders += 1
            return LAYOUT
        if kind in VIEWS | BODIES:
            self._views += 1
            return VIEW
        if unit is None:
            return self._stand_alone(each)
        unit.ran.append(each)
        return unit.node.name

    def _is_in_a_row(self, index: int, run: Sequence[LookedAt], units: Sequence[_Unit | None]) -> bool:
        """Return whether a change of layout or type is the price of a layer beside it, and so in that layer's row."""
        kind = _plain(run[index])
        beside = {"ReorderOutput": (_reader,), "ReorderInput": (_maker,)}.get(kind, (_maker, _reader))
        layers = [unit for unit in (find(run, units, index) for find in beside) if unit is not None]
        # A convolution has a kernel for blocks of channels, so a change to or from them is not of its making.
        return any(kind not in REORDERS or unit.node.spec.op != "conv" for unit in layers)

    def _stand_alone(self, each: LookedAt) -> str:
        name = self._named(each)
        spec = operation_of(_sized(each, batch=self._walk.batch))
        values = sum(map(math.prod, each.writes))
        if spec is not None:
            self._operations.append(Operation(name=name, spec=spec))
            return name
        if values > NEGLIGIBLE_VALUES:
            self._uncovered.append(f"{name}: {each.operation.kind} is no operation that tables hold")
            return UNCOVERED
        self._views += 1
        return VIEW

    def _named(self, each: LookedAt) -> str:
        tensors = [tensor for tensor in each.operation.outputs if tensor in self._owner]
        if tensors and self._owner[tensors[0]] not in self._units and not _only_form(each):
            return self._owner[tensors[0]]
        return each.operation.name or each.operation.kind

    def _settled(self, unit: _Unit) -> Iterator[Node]:
        """Return the layer as it ran, with what it was not merged with as operations of their own."""
        node, spec = unit.node, unit.node.spec
        heavy = [each for each in unit.ran if _plain(each) in HEAVY[spec.op]]
        if not heavy:  # whatever it ran instead stands alone
            self._differences.append(f"{node.name}: the runtime runs no {spec.op}")
            return
        if spec.op == "conv" and self._walk.precision == "fp32":
            node = self._taken_apart(unit, heavy[0])
        yield node

    def _taken_apart(self, unit: _Unit, conv: LookedAt) -> Node:
        node, spec, inputs = unit.node, unit.node.spec, unit.node.inputs
        rest = [each for each in unit.ran if each is not conv]
        sums = [each for each in rest if _plain(each) == "Add"]
        if spec.residual and not conv.operation.residual and sums:
            self._differences.append(f"{node.name}: its sum is an operation of its own")
            spec, inputs = replace(spec, residual=False), inputs[:-1]
            self._stand_alone(sums[0])
        apart = [each for each in rest if _plain(each) in OWN_ACTIVATIONS]
        if spec.activation in MERGED and not conv.operation.activation and apart:
            self._differences.append(f"{node.name}: its activation is an operation of its own")
            spec = replace(spec, activation="none")
            for each in apart:
                self._stand_alone(each)
        return replace(node, spec=spec, inputs=inputs)


def _sized(each: LookedAt, *, batch: int = 1) -> Sized:
    operation = each.operation
    return Sized(
        operator=operation.kind,
        attributes={
            "group": operation.group,
            "kernel_shape": operation.kernel_shape,
            "mode": each.mode.encode(),
            "axis": each.axis,
            "perm": each.perm,
        },
        reads=each.reads,
        constants=each.constants,
        writes=each.writes,
        value_type=each.value_type,
        batch=batch,
    )


def _only_form(each: LookedAt) -> bool:
    """Return whether an operation that the runtime put in makes the same values in another form."""
    kind, operation = _plain(each), each.operation
    return kind in REORDERS or (kind in FORMS and bool(operation.inputs) and operation.outputs == operation.inputs[:1])


def _plain(each: LookedAt) -> str:
    return _sized(each).plain_operator


def _reader(run: Sequence[LookedAt], units: Sequence[_Unit | None], index: int) -> _Unit | None:
    """Return the layer that reads what an operation makes, None where something else does."""
    tensors = set(run[index].operation.outputs)
    for each, unit in zip(run[index + 1 :], units[index + 1 :], strict=True):
        if tensors.intersection(each.operation.inputs) and not _only_form(each):
            return unit
    return None


def _maker(run: Sequence[LookedAt], units: Sequence[_Unit | None], index: int) -> _Unit | None:
    """Return the layer whose tensor an operation reads, None where something else made it."""
    tensors = set(run[index].operation.inputs)
    for each, unit in zip(run[:index][::-1], units[:index][::-1], strict=True):
        if tensors.intersection(each.operation.outputs) and not _only_form(each):
            return unit
    return None
