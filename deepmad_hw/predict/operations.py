"""Times of operations outside the block families: a physical law for every kind. Layer 3.

A law says that time is a sum of non-negative shares: of a call, of values read and written, of those of them that pass
the caches, of stretches and rows that are begun anew, of weights, and of multiply-adds, which the kernels of
convolutions round up to whole blocks of channels. It is fitted to the relative errors of the measured operations of one
kind and value type. How far it strays is seen from operations that are left out of the fit in turn.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import NotCoveredError
from deepmad_hw.latency.measurement import OperationMeasurement
from deepmad_hw.network.layer import OperationSpec
from deepmad_hw.predict.intervals import CONFIDENCE, conformal_margin

Floats = NDArray[np.float64]
Key = tuple[str, str]  # kind and value type

# How far outside the measured range of an amount a law still counts as measured, as a factor.
REACH = 1.5
SLACK = 1024  # values or multiply-adds that are too few to tell in the time of a call
MIN_MEASURED = 4  # operations that make a law
# Values of a batch, read and written, beyond which some come from memory; of a core's second-level cache, about.
CACHED_VALUES = 2**20
# Channels that kernels round up to: floats of a 256-bit and of a 512-bit register.
BLOCKS = (8, 16)
ALIGNED_CHANNELS = 4  # inputs of a convolution in blocks are a multiple of it, all others go through a copy of windows

_UNARY = "sigmoid"
_MOVING = "concat"
# Kinds that answer, as extrapolations, for one that was never measured; the first that was.
SIMILAR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("abs", "neg", "clip", "leaky_relu", "hardsigmoid", "reciprocal", "sqrt"), ("relu", _UNARY)),
    **dict.fromkeys(("relu", "tanh", "silu", "hardswish", "exp", "prelu", "pow"), (_UNARY, "relu")),
    **dict.fromkeys(("erf", "gelu", "elu", "log", "other_unary"), ("erf", "gelu", "elu", _UNARY)),
    **dict.fromkeys(("softplus", "mish"), ("softplus", "elu", _UNARY)),
    "sigmoid": ("tanh", "exp"),
    **dict.fromkeys(("add", "sub", "mul", "div", "other_binary"), ("add", "mul", "sub")),
    **dict.fromkeys(
        ("add_broadcast", "sub_broadcast", "mul_broadcast", "div_broadcast", "other_binary_broadcast"),
        ("mul_broadcast", "add_broadcast", "mul", "add"),
    ),
    **dict.fromkeys(("expand", "tile", "gather", "slice", "split", "pad"), (_MOVING,)),
    "concat": ("split", "slice"),
    "resize_nearest": ("resize_linear",),
    "resize_linear": ("resize_nearest",),
    "resize_nearest_blocked": ("resize_linear_blocked", "resize_nearest"),
    "resize_linear_blocked": ("resize_nearest_blocked", "resize_linear"),
    "depth_to_space": ("transpose",),
    "transpose": ("reorder",),
    "reorder": ("transpose",),
    "batch_norm": ("mul_broadcast", "instance_norm"),
    "instance_norm": ("layer_norm", "batch_norm"),
    "group_norm": ("instance_norm", "layer_norm"),
    "layer_norm": ("instance_norm", "softmax"),
    "other_norm": ("layer_norm", "softmax"),
    "softmax": ("layer_norm", "exp"),
    "reduce": ("global_pool", "reduce_outer"),
    "reduce_outer": ("reduce",),
    "global_pool": ("reduce",),
    "avg_pool": ("max_pool",),
    "max_pool": ("avg_pool",),
    "global_pool_blocked": ("global_pool",),
    "avg_pool_blocked": ("max_pool_blocked", "avg_pool"),
    "max_pool_blocked": ("avg_pool_blocked", "max_pool"),
    **dict.fromkeys(("cast", "quantize", "dequantize"), ("cast", "quantize", "dequantize", _MOVING)),
    "grouped_conv": ("conv",),
    "depthwise_conv": ("grouped_conv",),
    "conv_transpose": ("conv",),
    "matmul": ("conv",),
}


class OperationLaws:
    """Predicts operations from those of the same kind that were measured.

    Args:
        measurements: those without samples are ignored.
        batch: images at once, which they were measured with; amounts are for one image, times for the batch.
        gain: factor of every answer, a table's.
        confidence: share of operations that margins shall cover.
    """

    def __init__(
        self,
        measurements: Sequence[OperationMeasurement],
        *,
        batch: int = 1,
        gain: float = 1.0,
        confidence: float = CONFIDENCE,
    ) -> None:
        self._batch, self._gain = batch, gain
        groups: dict[Key, list[OperationMeasurement]] = defaultdict(list)
        for row in measurements:
            if row.samples_us:
                groups[row.spec.kind, row.spec.value_type].append(row)
        self.laws = {
            key: _fitted(found, batch, confidence) for key, found in groups.items() if len(found) >= MIN_MEASURED
        }
        everything = [error for law in self.laws.values() for error in law.errors]
        self._common_margin = conformal_margin(everything, confidence=confidence)

    def covers(self, specs: Sequence[OperationSpec]) -> NDArray[np.bool_]:
        """Return for each operation whether a law answers, be it one of a similar kind.

        Args:
            specs: n operations.
        """
        return np.array([self._key(spec) is not None for spec in specs], dtype=np.bool_)

    def extrapolates(self, specs: Sequence[OperationSpec]) -> NDArray[np.bool_]:
        """Return for each operation whether its answer is a guess.

        It is where the law of another value type or of a similar kind answers, or where an amount lies more than a
        factor of `REACH` outside what was measured.

        Args:
            specs: n operations.
        """
        answers = ((spec, self._key(spec)) for spec in specs)
        return np.array(
            [key is not None and (key != _key_of(spec) or not self.laws[key].reaches(spec)) for spec, key in answers],
            dtype=np.bool_,
        )

    def predict_us(self, specs: Sequence[OperationSpec]) -> Floats:
        """Return the time of each operation inside a network in microseconds.

        Args:
            specs: n operations.

        Raises:
            NotCoveredError: no law answers for one of them.
        """
        shares = _shares(specs, self._batch)
        laws = [self._law(spec).coefficients for spec in specs]
        result: Floats = self._gain * np.array([np.dot(*pair) for pair in zip(shares, laws, strict=True)], dtype=float)
        return result

    def margins(self, specs: Sequence[OperationSpec]) -> list[float | None]:
        """Return for each operation m of ``time * (1 +- m)``, within which a measurement of it lies at the confidence.

        They hold inside what was measured, not where `extrapolates` says so. A law of too few operations takes the
        margin of all laws together; None where even these are too few.

        Args:
            specs: n operations, all covered.

        Raises:
            NotCoveredError: no law answers for one of them.
        """
        margins = (self._law(spec).margin for spec in specs)
        return [self._common_margin if margin is None else margin for margin in margins]

    def _law(self, spec: OperationSpec) -> Law:
        key = self._key(spec)
        if key is None:
            raise NotCoveredError(f"nothing like {spec.kind} was measured", where=spec.kind)
        return self.laws[key]

    def _key(self, spec: OperationSpec) -> Key | None:
        for kind in (spec.kind, *SIMILAR.get(spec.kind, ())):
            for value_type in dict.fromkeys((spec.value_type, "fp32", "fp16", "int8", "other")):
                if (kind, value_type) in self.laws:
                    return kind, value_type
        return None


def _key_of(spec: OperationSpec) -> Key:
    return spec.kind, spec.value_type


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """The law of one kind and value type.

    Args:
        coefficients: microseconds of each of `_shares`.
        low: smallest measured amounts: read, written, multiply-adds, weights, stretches.
        high: largest ones.
        narrow: smallest measured sizes of kernels: values of a window, channels of a group, outputs.
        wide: largest ones.
        errors: of operations that were left out of the fit in turn, measured over predicted, minus one.
        margin: within which they lie at the confidence, None where they are too few.
    """

    coefficients: Floats
    low: tuple[float, ...]
    high: tuple[float, ...]
    narrow: tuple[float, ...]
    wide: tuple[float, ...]
    errors: tuple[float, ...]
    margin: float | None

    def reaches(self, spec: OperationSpec) -> bool:
        """Return whether every amount lies in the measured range, or a factor of `REACH` and `SLACK` outside.

        Sizes of kernels have no slack: one channel is not sixteen.

        Args:
            spec: an operation of the law's kind.
        """
        amounts = zip(_amounts(spec), self.low, self.high, strict=True)
        sizes = zip(_sizes(spec), self.narrow, self.wide, strict=True)
        near = all(low - SLACK <= amount * REACH and amount - SLACK <= high * REACH for amount, low, high in amounts)
        return near and all(low <= size * REACH and size <= high * REACH for size, low, high in sizes)


def _amounts(spec: OperationSpec) -> tuple[float, ...]:
    return spec.read_values, spec.written_values, spec.macs, spec.weight_values, _stretches(spec)


def _stretches(spec: OperationSpec) -> float:
    """Return how many rows, or stretches of memory, an operation goes over; 0 where it has windows."""
    return max(spec.read_values, spec.written_values) / spec.span if spec.span and not spec.macs else 0.0


def _sizes(spec: OperationSpec) -> tuple[float, ...]:
    if not spec.macs:
        return 0.0, 0.0, 0.0
    return spec.span, _group_width(spec), spec.channels


def _group_width(spec: OperationSpec) -> float:
    """Return the input channels that an output of a convolution sees, 0 for everything else."""
    return spec.macs / spec.written_values / spec.span if spec.channels and spec.span else 0.0


def _work(spec: OperationSpec) -> tuple[float, ...]:
    """Return multiply-adds, with channels rounded up to blocks of each size, and those that kernels do less quickly.

    The last are, of convolutions, those for whose channels there is no kernel in blocks, those of one block of outputs,
    which leaves registers idle, and those on the few channels of an image, which no block holds.
    """
    padded = [_padded_macs(spec, block) for block in BLOCKS]
    if not spec.channels:
        return spec.macs, *padded, 0.0, 0.0, 0.0
    narrow = spec.kind == "conv" and _group_width(spec) < BLOCKS[0]
    slow = (_is_unaligned(spec), spec.channels <= BLOCKS[0], narrow)
    return spec.macs, *padded, *(padded[0] if yes else 0.0 for yes in slow)


def _padded_macs(spec: OperationSpec, block: int) -> float:
    if not spec.channels:
        return spec.macs
    width = _group_width(spec)
    inside = math.ceil(round(width) / block) * block / width if width >= BLOCKS[0] else 1.0
    return spec.macs * inside * math.ceil(spec.channels / block) * block / spec.channels


def _is_unaligned(spec: OperationSpec) -> bool:
    if spec.kind == "depthwise_conv":
        return spec.channels % ALIGNED_CHANNELS > 0
    width = round(_group_width(spec))
    step = BLOCKS[0] if spec.kind == "grouped_conv" else ALIGNED_CHANNELS if width >= BLOCKS[0] else 1
    return width % step > 0


def _shares(specs: Sequence[OperationSpec], batch: int) -> Floats:
    """Return the quantities that a law adds up, [n, shares], of similar size for typical operations."""
    read, written, _, weights, stretches = np.array([_amounts(spec) for spec in specs]).reshape(-1, 5).T
    beyond = np.maximum(0.0, read + written - CACHED_VALUES / batch)
    moved = np.stack([np.full(len(specs), 1e3), read, written, beyond, weights, stretches], axis=1) * 1e-3
    return np.hstack([moved, np.array([_work(spec) for spec in specs]).reshape(-1, 6) * 1e-4])


def _fitted(rows: Sequence[OperationMeasurement], batch: int, confidence: float) -> Law:
    shares = _shares([row.spec for row in rows], batch)
    measured_us = np.array([row.median_us for row in rows])
    errors = []
    for left_out in range(len(rows)):
        kept = np.arange(len(rows)) != left_out
        predicted_us = float(shares[left_out] @ _coefficients(shares[kept], measured_us[kept]))
        if predicted_us > 0:  # a law fitted to others may say nothing of this one
            errors.append(float(measured_us[left_out]) / predicted_us - 1)
    amounts, sizes = (np.array([told(row.spec) for row in rows]) for told in (_amounts, _sizes))
    return Law(
        coefficients=_coefficients(shares, measured_us),
        low=tuple(amounts.min(axis=0).tolist()),
        high=tuple(amounts.max(axis=0).tolist()),
        narrow=tuple(sizes.min(axis=0).tolist()),
        wide=tuple(sizes.max(axis=0).tolist()),
        errors=tuple(errors),
        margin=conformal_margin(errors, confidence=confidence),
    )


def _coefficients(shares: Floats, measured_us: Floats) -> Floats:
    """Return the non-negative shares that minimise the relative error."""
    from scipy.optimize import nnls

    law: Floats = nnls(shares / measured_us[:, None], np.ones(len(measured_us)))[0]
    return law
