"""Layer latencies between measured rows: a physical law, and a Gaussian process for what it misses. Layer 3.

The law says that time is a sum of non-negative shares: of a call, of the multiply-adds as a blocked kernel rounds them
up, of the values read, written, and of the weights. One law is fitted per sort of operation. What is left is
smooth for layers of one kind, so a Gaussian process interpolates its logarithm. Where rows are few, the
prediction falls back to the law instead of running off. The kernel is fixed rather than fitted: a table loads at once
and always predicts the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.layer import LayerSpec
from deepmad_hw.measurement import LayerMeasurement

Floats = NDArray[np.float64]
Kind = tuple[str, bool, bool, str, bool, int]

CHANNEL_BLOCK = 16  # floats of a 512-bit register; kernels for narrower ones round up to 8, which 16 also keeps
# How far outside the measured range of a quantity a prediction may reach, as a factor.
REACH = 1.15
MIN_ROWS = 2

# Variances of the process: of a kind as a whole, of its smooth part, of its trend, of noise (5 % standard deviation).
_OFFSET, _SMOOTH, _TREND, _NOISE = 0.5, 0.1, 0.05, 0.003
_LENGTH = 3.0
_ALPHA = 1e-10  # keeps the matrix positive definite
# What counts as one step in each feature: e-fold for most, less for kernels and for padding.
_STEPS = np.array([1.5, 1.0, 1.0, 1.4, 0.5, 1.0, 1.5, 0.05, 0.05, 0.3, 0.3])


def kind_of(spec: LayerSpec) -> Kind:
    """Return what two layers must share to be interpolated together.

    Args:
        spec: a layer.
    """
    return (spec.op, spec.kernel > 1, spec.depthwise, spec.activation, spec.residual, spec.stride)


def _padded(channels: int) -> int:
    # An image's few channels have kernels of their own, which do not round up.
    return channels if channels < CHANNEL_BLOCK // 2 else -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK


def _macs(spec: LayerSpec) -> int:
    pixels = spec.out_height * spec.out_width * spec.kernel * spec.kernel
    channels = 1 if spec.depthwise else _padded(spec.in_channels) // spec.groups
    return pixels * channels * _padded(spec.out_channels)


def _values(spec: LayerSpec) -> tuple[int, int, int]:
    """Return the values read, written, and of the weights."""
    return (
        spec.in_channels * spec.height * spec.width,
        spec.out_channels * spec.out_height * spec.out_width,
        spec.kernel * spec.kernel * spec.group_width * spec.out_channels,
    )


def _shares(spec: LayerSpec) -> tuple[float, ...]:
    """Return the quantities that the law adds up, of similar size for typical layers."""
    read, written, weights = _values(spec)
    return (1.0, _macs(spec) * 1e-4, read * 1e-3, written * 1e-3, weights * 1e-3)


def _features(spec: LayerSpec) -> Floats:
    read, written, weights = _values(spec)
    channels = (spec.in_channels, spec.out_channels)
    sizes = (_macs(spec), *channels, spec.height * spec.width, spec.kernel, read + written, weights)
    padding = [_padded(count) / count for count in channels]
    unaligned = [float(count % CHANNEL_BLOCK > 0) for count in channels]
    features: Floats = np.concatenate([np.log(np.array([*sizes, *padding], dtype=np.float64)), unaligned]) / _STEPS
    return features


class Interpolator:
    """Predicts rows that were not measured from rows of the same kind that were.

    Args:
        rows: measured rows; those without samples are ignored.
    """

    def __init__(self, rows: Sequence[LayerMeasurement]) -> None:
        with _one_thread():
            self._fit([row for row in rows if row.samples_us])

    def _fit(self, measured: Sequence[LayerMeasurement]) -> None:
        self._laws = {
            sort: _fitted_law(found) for sort, found in _grouped(measured, lambda spec: (spec.op, spec.depthwise))
        }
        self._groups = {
            kind: _Group(found, self._law_us([row.spec for row in found]))
            for kind, found in _grouped(measured, kind_of)
            if len(found) >= MIN_ROWS
        }

    def covers(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        """Return for each layer whether measured rows surround it.

        Args:
            specs: n layers.
        """
        groups = (self._groups.get(kind_of(spec)) for spec in specs)
        found = [group is not None and group.covers(spec) for group, spec in zip(groups, specs, strict=True)]
        return np.array(found, dtype=np.bool_)

    def predict_us(self, specs: Sequence[LayerSpec]) -> Floats:
        """Return the latency of layers in microseconds.

        Args:
            specs: n layers, all covered.
        """
        result = self._law_us(specs)
        by_kind: dict[Kind, list[int]] = defaultdict(list)
        for index, spec in enumerate(specs):
            by_kind[kind_of(spec)].append(index)
        with _one_thread():
            for kind, indices in by_kind.items():
                result[indices] *= self._groups[kind].correction([specs[index] for index in indices])
        return result

    def _law_us(self, specs: Sequence[LayerSpec]) -> Floats:
        return np.array([np.dot(_shares(spec), self._laws[spec.op, spec.depthwise]) for spec in specs])


class _Group:
    """The rows of one kind: their ranges, and the process fitted to what the law misses of them."""

    def __init__(self, rows: Sequence[LayerMeasurement], law_us: Floats) -> None:
        self._kernels = {row.spec.kernel for row in rows}
        ranges = np.log(np.array([_range_numbers(row.spec) for row in rows], dtype=np.float64))
        self._low, self._high = ranges.min(axis=0) - np.log(REACH), ranges.max(axis=0) + np.log(REACH)
        points = np.array([_features(row.spec) for row in rows])
        self._center = points.mean(axis=0)
        # Half a 95 % interval is about two standard deviations; one sample alone says nothing of its own.
        unsure = np.array([row.relative_error / 1.96 for row in rows])
        self._process: Any = _process(unsure**2 + _ALPHA)
        self._process.fit(points - self._center, np.log([row.median_us for row in rows]) - np.log(law_us))

    def covers(self, spec: LayerSpec) -> bool:
        numbers = np.log(np.array(_range_numbers(spec), dtype=np.float64))
        inside = bool(np.all((self._low <= numbers) & (numbers <= self._high)))
        return inside and spec.kernel in self._kernels

    def correction(self, specs: Sequence[LayerSpec]) -> Floats:
        points = np.array([_features(spec) for spec in specs]) - self._center
        factor: Floats = np.exp(self._process.predict(points))
        return factor


def _one_thread() -> Any:
    """Return a context in which linear algebra runs on one thread: quicker for small matrices, and always the same."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def _grouped(rows: Sequence[LayerMeasurement], key: Any) -> list[tuple[Any, list[LayerMeasurement]]]:
    found: dict[Any, list[LayerMeasurement]] = defaultdict(list)
    for row in rows:
        found[key(row.spec)].append(row)
    return list(found.items())


def _fitted_law(rows: Sequence[LayerMeasurement]) -> Floats:
    """Return the non-negative shares that minimise the relative error over rows of one sort."""
    from scipy.optimize import nnls

    shares = np.array([_shares(row.spec) for row in rows])
    measured_us = np.array([row.median_us for row in rows])
    law: Floats = nnls(shares / measured_us[:, None], np.ones(len(rows)))[0]
    return law


def _process(variances: Floats) -> Any:
    """Return the process, not fitted yet; `variances` of the rows' logarithms come on top of its own noise."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    smooth = ConstantKernel(_SMOOTH) * Matern(_LENGTH, nu=2.5)
    trend = ConstantKernel(_TREND) * DotProduct(sigma_0=0, sigma_0_bounds="fixed")
    return GaussianProcessRegressor(
        ConstantKernel(_OFFSET) + smooth + trend + WhiteKernel(_NOISE), alpha=variances, optimizer=None
    )


def _range_numbers(spec: LayerSpec) -> tuple[int, int, int, int]:
    # The group width keeps grouped convolutions from being answered for by dense ones.
    return (spec.in_channels, spec.out_channels, spec.height * spec.width, spec.group_width)
