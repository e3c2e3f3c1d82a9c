"""Layer latencies between measured rows: a physical law, and what is learned of what it misses. Layer 3.

The law says that time is a sum of non-negative shares: of a call, of the multiply-adds as a blocked kernel rounds them
up, of the values read and written, of the weights, of the longest sum that one output needs, and of the rounds in
which a card's tiles cover the output. One law is fitted per sort of window. What is left is smooth for layers of one
kind, so a Gaussian process interpolates its logarithm; where rows are few, the prediction falls back to the law
instead of running off. The kernel is fixed rather than fitted: a table loads at once and always predicts the same.

Runtimes that pick between many kernels leave steps that no smooth function follows. Where the process's own
leave-one-out errors say so, or rows are more than it can take in, extra trees over all kinds answer in its place.
`benchmarks/v100.py` measures both beside other ways.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.latency.measurement import LayerMeasurement
from deepmad_hw.network.layer import ACTIVATIONS, OPERATIONS, LayerSpec
from deepmad_hw.predict.odd import OddRow, odd_rows

Floats = NDArray[np.float64]
Kind = tuple[str, bool, bool, str, bool, int]

CHANNEL_BLOCK = 16  # floats of a 512-bit register; kernels for narrower ones round up to 8, which 16 also keeps
# How far outside the measured range of a quantity a prediction may reach, as a factor.
REACH = 1.15
MIN_ROWS = 2
MIN_LAW_ROWS = 12  # windows of fewer rows share the law of their operation
# Trees answer for tables of more rows, and for those with a kind of more: a process costs the cube of its rows.
MAX_ROWS, MAX_ROWS_OF_KIND = 5000, 1500
MAX_PROCESS_ERROR = 0.047  # median leave-one-out error above which trees answer
TREES = 100  # fewer where rows are many: their number times that of the rows is what a load costs
LEAST_TREES, ROWS_TIMES_TREES = 12, 400_000
# Sides of the tiles that a card's matrix kernels cut an output into, and how many of them run at once on a large one.
TILES_AT_ONCE = {32: 320, 64: 160, 128: 80}

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


class _Numbers:
    """The numbers of n layers as arrays, each [n]."""

    def __init__(self, specs: Sequence[LayerSpec], batch: int) -> None:
        table = np.array(
            [
                (
                    s.in_channels,
                    s.out_channels,
                    s.height,
                    s.width,
                    s.kernel,
                    s.stride,
                    s.groups,
                    s.residual,
                    s.op == "global_pool",
                    OPERATIONS.index(s.op),
                    ACTIVATIONS.index(s.activation),
                )
                for s in specs
            ],
            dtype=np.float64,
        ).reshape(-1, 11)
        self.inside, self.outside, height, width, self.kernel, self.stride, groups = table.T[:7]
        self.residual, whole, self.operation, self.activation = table.T[7:]
        self.pixels = height * width
        out_height, out_width = (np.where(whole > 0, 1, self._moved(side)) for side in (height, width))
        self.out_pixels = out_height * out_width
        self.group_width = self.inside / groups
        self.depthwise = (groups > 1) & (groups == self.inside)
        self.read, self.written = self.inside * self.pixels, self.outside * self.out_pixels
        self.weights = self.kernel**2 * self.group_width * self.outside
        self.wide_inside, self.wide_outside = _padded(self.inside), _padded(self.outside)
        channels = np.where(self.depthwise, 1, self.wide_inside // groups)
        self.macs = self.out_pixels * self.kernel**2 * channels * self.wide_outside
        self.chain = self.kernel**2 * self.group_width
        self.columns = batch * self.out_pixels

    def _moved(self, side: Floats) -> Floats:
        padding = np.where(self.kernel % 2 > 0, self.kernel // 2, 0)
        moved: Floats = (side + 2 * padding - self.kernel) // self.stride + 1
        return moved

    def tiles(self, side: int) -> Floats:
        """Return the square tiles that cover the output as a matrix of channels by pixels of the batch."""
        counted: Floats = np.ceil(self.outside / side) * np.ceil(self.columns / side)
        return counted

    def rounds(self) -> list[Floats]:
        """Return for each side of tiles how long a card takes to fill with them, in steps of the sum of an output."""
        return [np.ceil(self.tiles(side) / at_once) * self.chain for side, at_once in TILES_AT_ONCE.items()]

    def shares(self) -> Floats:
        """Return the quantities that the law adds up, [n, shares], of similar size for typical layers."""
        return np.stack(
            [
                np.ones_like(self.inside),
                self.macs * 1e-4,
                self.read * 1e-3,
                self.written * 1e-3,
                self.weights * 1e-3,
                self.residual * self.written * 1e-3,
                self.chain * 1e-2,
                *(each * 1e-2 for each in self.rounds()),
                *(self.tiles(side) * side**2 * self.chain * 1e-4 for side in (64, 128)),
            ],
            axis=1,
        )

    def smooth_features(self) -> Floats:
        """Return the coordinates in which the process measures distance, [n, features]."""
        sizes = np.stack(
            [
                self.macs,
                self.inside,
                self.outside,
                self.pixels,
                self.kernel,
                self.read + self.written,
                self.weights,
                self.wide_inside / self.inside,
                self.wide_outside / self.outside,
            ],
            axis=1,
        )
        unaligned = np.stack([self.inside % CHANNEL_BLOCK > 0, self.outside % CHANNEL_BLOCK > 0], axis=1)
        features: Floats = np.hstack([np.log(sizes), unaligned]) / _STEPS
        return features

    def tree_features(self, law_us: Floats) -> Floats:
        """Return what trees may ask for, [n, features].

        Args:
            law_us: [n] what the law says.
        """
        moved = self.read + self.written + self.weights
        sizes = [self.inside, self.outside, self.pixels, self.out_pixels, self.macs, moved, self.weights, self.chain]
        ratios = [self.macs / moved, self.outside / self.inside, law_us, self.wide_outside / self.outside]
        rounded = [np.ceil(self.outside / side) * side / self.outside for side in TILES_AT_ONCE]
        full = self.tiles(128) / TILES_AT_ONCE[128]
        features: Floats = np.stack(
            [
                *(np.log(each) for each in (*sizes, *ratios, self.columns * self.outside)),
                *(np.log(self.tiles(side)) for side in TILES_AT_ONCE),
                *(np.log(each) for each in self.rounds()),
                *(np.log(each / law_us) for each in (self.macs, self.read, self.written)),
                *rounded,
                np.ceil(full) / full,
                self.residual * np.log(self.written),
                *(self.kernel == 1, self.kernel == 3, (self.kernel == 3) & (self.stride == 1)),
                *(self.kernel, self.stride, self.residual, self.operation, self.activation, 1.0 * self.depthwise),
            ],
            axis=1,
        )
        return features


def _padded(channels: Floats) -> Floats:
    # An image's few channels have kernels of their own, which do not round up.
    blocks: Floats = np.ceil(channels / CHANNEL_BLOCK) * CHANNEL_BLOCK
    return np.where(channels < CHANNEL_BLOCK // 2, channels, blocks)


class Interpolator:
    """Predicts rows that were not measured from rows of the same kind that were.

    Args:
        rows: measured rows; those without samples are ignored.
        batch: images at once, which the rows were measured with.
    """

    def __init__(self, rows: Sequence[LayerMeasurement], *, batch: int = 1) -> None:
        self._batch = batch
        with _one_thread():
            self._fit([row for row in rows if row.samples_us])

    @property
    def odd(self) -> tuple[OddRow, ...]:
        """Return the rows that lie so far from those around them that they were left out."""
        return self._odd

    def _fit(self, rows: Sequence[LayerMeasurement]) -> None:
        found = self._odd_among(rows)
        self._odd = tuple(found.values())
        measured = [row for index, row in enumerate(rows) if index not in found]
        specs = [row.spec for row in measured]
        numbers = _Numbers(specs, self._batch)
        measured_us = np.array([row.median_us for row in measured])
        self._laws = _fitted_laws(specs, numbers.shares(), measured_us)
        law_us = self._law_us(specs, numbers)
        rest = np.log(measured_us) - np.log(law_us) if specs else np.zeros(0)
        # Half a 95 % interval is about two standard deviations; one sample alone says nothing of its own.
        variances = np.array([row.relative_error / 1.96 for row in measured]) ** 2
        points = numbers.smooth_features()
        self._groups = {
            kind: _Group([specs[i] for i in found], points[found], rest[found], variances[found])
            for kind, found in _grouped(specs, kind_of).items()
            if len(found) >= MIN_ROWS
        }
        errors = np.concatenate([np.zeros(0), *(g.process.left_out for g in self._groups.values() if g.process)])
        stepped = len(errors) > 0 and float(np.median(np.abs(errors))) > MAX_PROCESS_ERROR
        lost = any(group.process is None for group in self._groups.values())
        self._by_trees = stepped or lost or len(specs) > MAX_ROWS
        self._learned = numbers.tree_features(law_us), rest

    def _odd_among(self, rows: Sequence[LayerMeasurement]) -> dict[int, OddRow]:
        specs = [row.spec for row in rows]
        numbers = _Numbers(specs, self._batch)
        shares, measured_us = numbers.shares(), np.array([row.median_us for row in rows])
        work = np.stack([numbers.macs, numbers.read + numbers.written + numbers.weights], axis=1)

        def law(kept: NDArray[np.bool_]) -> Floats:
            laws = _fitted_laws([specs[i] for i in np.flatnonzero(kept)], shares[kept], measured_us[kept])
            return _law_us(laws, specs, shares)

        return odd_rows(specs, numbers.smooth_features(), work, measured_us, law=law, keys=(kind_of, _operation))

    @functools.cached_property
    def _trees(self) -> Any:
        """Return the trees, grown when they are first asked."""
        from sklearn.ensemble import ExtraTreesRegressor

        points, rest = self._learned
        count = min(TREES, max(LEAST_TREES, ROWS_TIMES_TREES // len(rest)))
        return ExtraTreesRegressor(n_estimators=count, random_state=0).fit(points, rest)

    def covers(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        """Return for each layer whether measured rows surround it.

        Args:
            specs: n layers.
        """
        result = np.zeros(len(specs), dtype=np.bool_)
        for kind, found in _grouped(specs, kind_of).items():
            if kind in self._groups:
                result[found] = self._groups[kind].covers([specs[index] for index in found])
        return result

    def extrapolates(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        """Return for each layer whether the law of its operation is known, be it measured for other sizes only.

        Args:
            specs: n layers.
        """
        return np.array([_window(spec)[:2] in self._laws for spec in specs], dtype=np.bool_)

    def predict_us(self, specs: Sequence[LayerSpec]) -> Floats:
        """Return the latency of layers in microseconds; outside what was measured that is what the law says.

        Args:
            specs: n layers, all covered or extrapolated.
        """
        numbers = _Numbers(specs, self._batch)
        law_us = self._law_us(specs, numbers)
        with _one_thread():
            if self._by_trees and specs:
                rest = self._trees.predict(numbers.tree_features(law_us))
            else:
                rest = self._smooth_rest(specs, numbers.smooth_features())
        result: Floats = law_us * np.exp(rest)
        return result

    def _smooth_rest(self, specs: Sequence[LayerSpec], points: Floats) -> Floats:
        rest = np.zeros(len(specs))
        for kind, found in _grouped(specs, kind_of).items():
            process = self._groups[kind].process if kind in self._groups else None
            if process is not None:
                rest[found] = process.predict(points[found])
        return rest

    def _law_us(self, specs: Sequence[LayerSpec], numbers: _Numbers) -> Floats:
        return _law_us(self._laws, specs, numbers.shares())


class _Group:
    """The rows of one kind: their ranges, and the process fitted to what the law misses of them."""

    def __init__(self, specs: Sequence[LayerSpec], points: Floats, rest: Floats, variances: Floats) -> None:
        self._kernels = sorted({spec.kernel for spec in specs})
        ranges = _ranges(specs)
        self._low, self._high = ranges.min(axis=0) - np.log(REACH), ranges.max(axis=0) + np.log(REACH)
        self.process = _Process(points, rest, variances) if len(specs) <= MAX_ROWS_OF_KIND else None

    def covers(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        ranges = _ranges(specs)
        inside = np.all((self._low <= ranges) & (ranges <= self._high), axis=1)
        return np.asarray(inside & np.isin([spec.kernel for spec in specs], self._kernels), dtype=np.bool_)


class _Process:
    """A Gaussian process of fixed kernel: an offset, a smooth part (Matern 5/2), a linear trend, and noise.

    Args:
        points: [n, features].
        values: [n].
        variances: [n] of the values' own noise.
    """

    # Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, eqs. 2.25 and 5.12.

    def __init__(self, points: Floats, values: Floats, variances: Floats) -> None:
        self._center = points.mean(axis=0)
        self._points = points - self._center
        inverse = np.linalg.inv(_covariance(self._points, self._points) + np.diag(variances + _NOISE + _ALPHA))
        self._weights = inverse @ values
        self.left_out: Floats = self._weights / np.diag(inverse)  # errors where each value is predicted by the others

    def predict(self, points: Floats) -> Floats:
        answers: Floats = _covariance(points - self._center, self._points) @ self._weights
        return answers


def _covariance(some: Floats, others: Floats) -> Floats:
    products = some @ others.T
    squares = (some**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None, :] - 2 * products
    steps = np.sqrt(5 * np.maximum(squares, 0)) / _LENGTH
    covariance: Floats = _OFFSET + _SMOOTH * (1 + steps + steps**2 / 3) * np.exp(-steps) + _TREND * products
    return covariance


def _one_thread() -> Any:
    """Return a context in which linear algebra runs on one thread: quicker for small matrices, and always the same."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def _grouped(specs: Sequence[LayerSpec], key: Callable[[LayerSpec], Hashable]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = defaultdict(list)
    for index, spec in enumerate(specs):
        found[key(spec)].append(index)
    return found


def _window(spec: LayerSpec) -> tuple[Any, ...]:
    return (spec.op, spec.depthwise, spec.kernel, spec.stride)


def _operation(spec: LayerSpec) -> tuple[Any, ...]:
    return _window(spec)[:2]


def _law_us(laws: Mapping[tuple[Any, ...], Floats], specs: Sequence[LayerSpec], shares: Floats) -> Floats:
    result = np.zeros(len(specs))
    for window, found in _grouped(specs, _window).items():
        law = laws[window] if window in laws else laws[window[:2]]
        result[found] = shares[found] @ law
    return result


def _fitted_laws(specs: Sequence[LayerSpec], shares: Floats, measured_us: Floats) -> dict[tuple[Any, ...], Floats]:
    """Return the law of each operation and of each window with enough rows."""
    groups = {
        **_grouped(specs, _operation),
        **{key: found for key, found in _grouped(specs, _window).items() if len(found) >= MIN_LAW_ROWS},
    }
    return {key: _fitted_law(shares[found], measured_us[found]) for key, found in groups.items()}


def _fitted_law(shares: Floats, measured_us: Floats) -> Floats:
    """Return the non-negative shares that minimise the relative error over rows of one sort."""
    from scipy.optimize import nnls

    law: Floats = nnls(shares / measured_us[:, None], np.ones(len(measured_us)))[0]
    return law


def _ranges(specs: Sequence[LayerSpec]) -> Floats:
    # The group width keeps grouped convolutions from being answered for by dense ones.
    numbers = [(s.in_channels, s.out_channels, s.height * s.width, s.group_width) for s in specs]
    return np.log(np.array(numbers, dtype=np.float64))
