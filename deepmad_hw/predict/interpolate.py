"""Layer latencies between measured rows: one Gaussian process per kind of layer, refused outside. Layer 3.

The process works on logarithms: of the latency, and of the numbers that physics ties it to (multiply-adds, bytes,
channels as a blocked kernel rounds them up). Its kernel is fixed rather than fitted, so that a table loads at once and
always predicts the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.layer import LayerSpec
from deepmad_hw.measurement import LayerMeasurement

Kind = tuple[str, bool, bool, str, bool, int]

# Blocks to which vectorised kernels round channels up (8 floats for 256-bit, 16 for 512-bit registers).
CHANNEL_BLOCKS = (8, 16)
# How far outside the measured range of a quantity a prediction may reach, as a factor.
REACH = 1.15
MIN_ROWS = 2
_SMOOTH, _TREND, _NOISE, _LENGTH = 0.3, 1.0, 0.003, 3.0


def kind_of(spec: LayerSpec) -> Kind:
    """Return what two layers must share to be interpolated together.

    Args:
        spec: a layer.
    """
    return (spec.op, spec.kernel > 1, spec.depthwise, spec.activation, spec.residual, spec.stride)


def features(spec: LayerSpec) -> tuple[float, ...]:
    """Return the logarithms of the numbers that a layer's latency depends on.

    Args:
        spec: a layer.
    """
    channels = (spec.in_channels, spec.out_channels)
    pixels_in, pixels_out = spec.height * spec.width, spec.out_height * spec.out_width
    window = spec.kernel * spec.kernel * spec.group_width
    plain = (
        pixels_out * window * spec.out_channels,
        *channels,
        pixels_in,
        spec.kernel,
        channels[0] * pixels_in + channels[1] * pixels_out,
        window * spec.out_channels,
    )
    padding = [-(-count // block) * block / count for block in CHANNEL_BLOCKS for count in channels]
    return tuple(np.log(np.array([*plain, *padding], dtype=np.float64)).tolist())


class Interpolator:
    """Predicts rows that were not measured from rows of the same kind that were.

    Args:
        rows: measured rows; those without samples are ignored.
    """

    def __init__(self, rows: Sequence[LayerMeasurement]) -> None:
        by_kind: dict[Kind, list[LayerMeasurement]] = defaultdict(list)
        for row in rows:
            if row.samples_us:
                by_kind[kind_of(row.spec)].append(row)
        self._groups = {kind: _Group(found) for kind, found in by_kind.items() if len(found) >= MIN_ROWS}

    def covers(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        """Return for each layer whether measured rows surround it.

        Args:
            specs: n layers.
        """
        groups = (self._groups.get(kind_of(spec)) for spec in specs)
        found = [group is not None and group.covers(spec) for group, spec in zip(groups, specs, strict=True)]
        return np.array(found, dtype=np.bool_)

    def predict_us(self, specs: Sequence[LayerSpec]) -> NDArray[np.float64]:
        """Return the latency of layers in microseconds.

        Args:
            specs: n layers, all covered.
        """
        result = np.empty(len(specs), dtype=np.float64)
        by_kind: dict[Kind, list[int]] = defaultdict(list)
        for index, spec in enumerate(specs):
            by_kind[kind_of(spec)].append(index)
        for kind, indices in by_kind.items():
            result[indices] = self._groups[kind].predict_us([specs[index] for index in indices])
        return result


class _Group:
    """The rows of one kind and the process fitted to them."""

    def __init__(self, rows: Sequence[LayerMeasurement]) -> None:
        self._kernels = {row.spec.kernel for row in rows}
        ranges = np.log(np.array([_range_numbers(row.spec) for row in rows], dtype=np.float64))
        self._low, self._high = ranges.min(axis=0) - np.log(REACH), ranges.max(axis=0) + np.log(REACH)
        points = np.array([features(row.spec) for row in rows])
        self._center, spread = points.mean(axis=0), points.std(axis=0)
        self._scale = np.where(spread > 0, spread, 1.0)
        self._process: Any = _process()
        self._process.fit(self._scaled(points), np.log([row.median_us for row in rows]))

    def covers(self, spec: LayerSpec) -> bool:
        numbers = np.log(np.array(_range_numbers(spec), dtype=np.float64))
        inside = bool(np.all((self._low <= numbers) & (numbers <= self._high)))
        return inside and spec.kernel in self._kernels

    def predict_us(self, specs: Sequence[LayerSpec]) -> NDArray[np.float64]:
        points = np.array([features(spec) for spec in specs])
        predicted: NDArray[np.float64] = np.exp(self._process.predict(self._scaled(points)))
        return predicted

    def _scaled(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = (points - self._center) / self._scale
        return scaled


def _process() -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    smooth = ConstantKernel(_SMOOTH) * Matern(_LENGTH, nu=2.5)
    trend = ConstantKernel(_TREND) * DotProduct()
    return GaussianProcessRegressor(smooth + trend + WhiteKernel(_NOISE), normalize_y=True, optimizer=None)


def _range_numbers(spec: LayerSpec) -> tuple[int, int, int]:
    return (spec.in_channels, spec.out_channels, spec.height * spec.width)
