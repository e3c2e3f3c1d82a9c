"""Adds up a network from a table: its layers, and what else it computes, each from the surest source. Layer 3.

    predicted = curve(sum of layers + sum of operations), every part with its share of it
    interval  = +- sqrt((margin * layers)^2 + sum over kinds (margin_k * parts_k)^2 + (EXTRAPOLATED * rest)^2)

The kinds are those of operations, and those of layers that lie between rows: the margin of whole networks comes from
designs of the profiled spaces, most of whose layers have rows of their own. Kinds are taken to err independently of
each other, parts of one kind together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from deepmad_hw.network import costs
from deepmad_hw.network.layer import LayerSpec, OperationSpec
from deepmad_hw.predict.network import TableModel

MEASURED, LAW, EXTRAPOLATED, MISSING = "measured", "law", "extrapolated", "missing"
MAX_EXTRAPOLATED = 0.1  # share of a network's latency, beyond which no number is given for it
EXTRAPOLATED_MARGIN = 0.5  # of what rests on extrapolation
UNKNOWN_MARGIN = 0.3  # of a law with too few operations to tell how far it strays
# Activations that a convolution does on the way, whichever of them it is.
ON_THE_WAY = ("none", "relu", "relu6")
# What others are made of in int8: kind, value type, and inputs. Those without a kernel on bytes run on floats.
ON_BYTES = {"sigmoid": (("sigmoid", "int8", 1),), "silu": (("sigmoid", "int8", 1), ("mul", "int8", 2))}
DEQUANTIZE, QUANTIZE = ("dequantize", "int8", 1), ("quantize", "fp32", 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One layer's or operation's share of a prediction.

    Args:
        name: of the layer or operation.
        time_ms: its share, NaN where nothing answers for it.
        source: `MEASURED` (rows), `LAW`, `EXTRAPOLATED` or `MISSING`.
        kind: parts of one kind err together.
        margin: within ``time * (1 +- margin)`` it lies at the table's confidence; of a layer with rows, beside the
            margin of whole networks.
    """

    name: str
    time_ms: float
    source: str
    kind: str
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition:
    """A network's prediction and what it rests on.

    Args:
        layers: one part per layer, in order.
        operations: one part per operation, in order.
        margin: of the layers that rows answer for, together; None without calibration.
    """

    layers: tuple[Part, ...]
    operations: tuple[Part, ...]
    margin: float | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return layers and operations."""
        return self.layers + self.operations

    @property
    def known_ms(self) -> float:
        """Return what all parts that something answers for take together."""
        return math.fsum(part.time_ms for part in self.parts if part.source != MISSING)

    @property
    def extrapolated_ms(self) -> float:
        """Return how much of it rests on extrapolation."""
        return math.fsum(part.time_ms for part in self.parts if part.source == EXTRAPOLATED)

    @property
    def extrapolated_share(self) -> float:
        """Return the share of it that rests on extrapolation."""
        return self.extrapolated_ms / self.known_ms if self.known_ms else 0.0

    @property
    def half_width_ms(self) -> float | None:
        """Return half the width of the interval in which the latency lies, None without calibration networks."""
        if self.margin is None:
            return None
        errors: dict[str, float] = defaultdict(float)
        for part in self.parts:
            if part.source == MEASURED:
                errors[MEASURED] += self.margin * part.time_ms
                errors[f"{part.kind} between rows"] += part.margin * part.time_ms
            elif part.source in (LAW, EXTRAPOLATED):
                errors[EXTRAPOLATED if part.source == EXTRAPOLATED else part.kind] += part.margin * part.time_ms
        return math.sqrt(math.fsum(error**2 for error in errors.values()))


def composed(
    layers: Sequence[tuple[str, LayerSpec]], operations: Sequence[tuple[str, OperationSpec]], model: TableModel
) -> Composition:
    """Return what a table says of a network.

    Args:
        layers: name and shapes of each layer.
        operations: name and amounts of each operation that is no layer.
        model: the table.
    """
    found = Composition(
        layers=tuple(_layers(layers, model)),
        operations=tuple(_operations(operations, model)),
        margin=model.margin,
    )
    sum_ms = found.known_ms
    share = model.curve.latency_ms(sum_ms) / sum_ms if sum_ms else 1.0
    return replace(found, layers=_times(share, found.layers), operations=_times(share, found.operations))


def _times(share: float, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(replace(part, time_ms=share * part.time_ms) for part in parts) if share != 1 else parts


def _layers(layers: Sequence[tuple[str, LayerSpec]], model: TableModel) -> list[Part]:
    specs = [spec for _, spec in layers]
    covered = model.covers(specs) if specs else np.zeros(0, dtype=np.bool_)
    covered &= np.array([not _has_own_law(spec, model) for spec in specs], dtype=np.bool_)
    asked = [spec for spec, known in zip(specs, covered, strict=True) if known]
    answers = iter(zip(model.layers_ms(asked).tolist(), model.margins_between_rows(asked), strict=True))
    return [
        _by_rows(name, spec, *next(answers)) if known else _from_others(name, spec, model)
        for (name, spec), known in zip(layers, covered, strict=True)
    ]


def _by_rows(name: str, spec: LayerSpec, time_ms: float, margin: float) -> Part:
    kind = f"depthwise {spec.op}" if spec.depthwise else spec.op
    return Part(name=name, time_ms=time_ms, source=MEASURED, kind=kind, margin=margin)


def _has_own_law(spec: LayerSpec, model: TableModel) -> bool:
    """Return whether the law of its operation knows a layer better than rows of other layers do.

    Grouped convolutions stand between dense and depthwise ones. In float32 their kernels work in blocks like those of
    dense ones, in int8 each group is a product of matrices of its own.
    """
    if _value_type(model) != "int8" or spec.op != "conv" or spec.groups == 1 or spec.depthwise:
        return False
    law = costs.layer_operation(spec, value_type="int8")
    return bool(model.operations.covers([law])[0] and not model.operations.extrapolates([law])[0])


def _from_others(name: str, spec: LayerSpec, model: TableModel) -> Part:
    """Return a layer that no rows surround: from rows of nearly the same layer and laws, or by laws alone."""
    for other, more in _nearly(spec, _value_type(model)) if not _has_own_law(spec, model) else ():
        if model.covers([other])[0] and model.operations.covers(more).all():
            extra = _operations([(name, operation) for operation in more], model)
            base_ms = float(model.layers_ms([other])[0])
            sure = all(part.source == LAW for part in extra)
            time_ms = base_ms + math.fsum(part.time_ms for part in extra)
            margin = (model.margin or 0.0) + math.fsum(part.margin * part.time_ms for part in extra) / time_ms
            return Part(name=name, time_ms=time_ms, source=LAW if sure else EXTRAPOLATED, kind=spec.op, margin=margin)
    alone = _alone(name, spec, model)
    if alone is not None:
        return alone
    by_law_ms = float(model.extrapolated_ms([spec])[0])
    if not math.isnan(by_law_ms):
        return Part(name=name, time_ms=by_law_ms, source=EXTRAPOLATED, kind=spec.op, margin=EXTRAPOLATED_MARGIN)
    (part,) = _operations([(name, costs.layer_operation(spec, value_type=_value_type(model)))], model)
    return part


def _alone(name: str, spec: LayerSpec, model: TableModel) -> Part | None:
    """Return a layer by the law of its operation and that of its activation, None outside what these were fitted to."""
    value_type = _value_type(model)
    laws = [costs.layer_operation(spec, value_type=value_type), *_activation(spec, value_type)]
    if not model.operations.covers(laws).all() or model.operations.extrapolates(laws).any():
        return None
    parts = _operations([(name, law) for law in laws], model)
    time_ms = math.fsum(part.time_ms for part in parts)
    margin = math.fsum(part.margin * part.time_ms for part in parts) / time_ms
    return Part(name=name, time_ms=time_ms, source=LAW, kind=spec.op, margin=margin)


def _value_type(model: TableModel) -> str:
    return model.table.environment.precision


def _activation(spec: LayerSpec, value_type: str) -> list[OperationSpec]:
    """Return what an activation is beside its convolution: nothing, or its operations."""
    if spec.activation in ON_THE_WAY:
        return []
    values = spec.out_channels * spec.out_height * spec.out_width
    if value_type != "int8":
        parts: Sequence[tuple[str, str, int]] = [(spec.activation, value_type, 1)]
    else:
        parts = ON_BYTES.get(spec.activation) or (DEQUANTIZE, (spec.activation, "fp32", 1), QUANTIZE)
    return [
        OperationSpec(kind=kind, value_type=each, read_values=inputs * values, written_values=values)
        for kind, each, inputs in parts
    ]


def _nearly(spec: LayerSpec, value_type: str) -> list[tuple[LayerSpec, list[OperationSpec]]]:
    """Return layers that differ from one in activation or sum only, each with the operations that make up for it."""
    if spec.op != "conv":
        return []
    found: list[tuple[LayerSpec, list[OperationSpec]]] = []
    values = spec.out_channels * spec.out_height * spec.out_width
    after = _activation(spec, value_type)
    found += [(replace(spec, activation=other), after) for other in ON_THE_WAY if other != spec.activation]
    if spec.residual:
        total = OperationSpec(kind="add", value_type=value_type, read_values=2 * values, written_values=values)
        found += [(replace(spec, activation=other, residual=False), [total, *after]) for other in ON_THE_WAY]
    return found


def _operations(operations: Sequence[tuple[str, OperationSpec]], model: TableModel) -> list[Part]:
    laws = model.operations
    specs = [spec for _, spec in operations]
    covered, guessed = laws.covers(specs), laws.extrapolates(specs)
    known = [spec for spec, yes in zip(specs, covered, strict=True) if yes]
    answers = iter(zip((laws.predict_us(known) / 1e3).tolist(), laws.margins(known), strict=True))
    return [
        _by_law(name, spec, *next(answers), guessed=bool(guess))
        if yes
        else Part(name=name, time_ms=math.nan, source=MISSING, kind=spec.kind)
        for (name, spec), yes, guess in zip(operations, covered, guessed, strict=True)
    ]


def _by_law(name: str, spec: OperationSpec, time_ms: float, margin: float | None, *, guessed: bool) -> Part:
    if guessed:
        return Part(name=name, time_ms=time_ms, source=EXTRAPOLATED, kind=spec.kind, margin=EXTRAPOLATED_MARGIN)
    own = UNKNOWN_MARGIN if margin is None else margin
    return Part(name=name, time_ms=time_ms, source=LAW, kind=spec.kind, margin=own)
