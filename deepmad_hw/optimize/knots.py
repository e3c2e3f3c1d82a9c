"""Knots: choices of a grid between which rows of a model are added up. Layer 3 (optimize).

Each row by choice takes part in the rows of the knots on either side of it, with the weights of linear interpolation in
channels; a row over two axes takes part with the products of both. `bound_tightening` says why that loses little.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.linear import RowPlace

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WIDTH_KNOTS = 18  # of a stage's out widths
BOTTLENECK_KNOTS = 9


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Axis:
    """One choice of a stage (or the stem).

    Args:
        knots: positions, ascending, both ends of what is left among them.
        weights: [choice, knot] of interpolation.
    """

    knots: Ints
    weights: Floats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Axes:
    """The knots of every axis.

    Args:
        widths: of the stem and of every stage.
        inner: of every stage, kernels included.
    """

    widths: tuple[Axis, ...]
    inner: tuple[Axis, ...]

    def of(self, place: RowPlace) -> tuple[Axis, ...]:
        """Return the axes along which rows of a place lie.

        Args:
            place: stage, and names of its axes.
        """
        named = {"in": self.widths[place.stage], "out": self.widths[place.stage + 1], "inner": self.inner[place.stage]}
        return tuple(named[axis] for axis in place.axes)


def axes_of(tables: Coefficients) -> Axes:
    """Return knots spread evenly in log channels over what is left of every axis.

    Args:
        tables: the problem's tables, without the choices that are ruled out.
    """
    stem = tables.stages[0].allows_in_out.any(axis=1)
    widths, inner = [_axis(tables.stem_widths, np.asarray(stem), WIDTH_KNOTS)], []
    for grid in tables.stages:
        widths.append(_axis(grid.out_widths, np.asarray(grid.allows_out_inner.any(axis=1)), WIDTH_KNOTS))
        kernels = len(np.unique(grid.kernel))
        used = grid.allows_out_inner.any(axis=0).reshape(-1, kernels).any(axis=1)
        bottleneck = _axis(grid.bottleneck[::kernels], np.asarray(used), BOTTLENECK_KNOTS)
        knots = (bottleneck.knots[:, None] * kernels + np.arange(kernels)).ravel()
        inner.append(Axis(knots=knots, weights=np.kron(bottleneck.weights, np.eye(kernels)).astype(np.float64)))
    return Axes(widths=tuple(widths), inner=tuple(inner))


def _axis(channels: Ints, used: Bools, count: int) -> Axis:
    left = np.flatnonzero(used)
    marks = np.geomspace(channels[left[0]], channels[left[-1]], count)
    nearest = np.abs(channels[left][None, :] - marks[:, None]).argmin(axis=1)
    knots = np.unique(left[nearest]) if len(left) > count else left
    weights = [np.interp(channels, channels[knots], row) for row in np.eye(len(knots))]
    return Axis(knots=knots, weights=np.stack(weights, axis=1))


def spread(rows: Sequence[Any], axes: Axes) -> Any:
    """Return how rows are added up, as a sparse matrix [row that is left, row of the model].

    Args:
        rows: constraints of the model; rows by choice are added up with the weights of their knots, others stay.
        axes: the knots.
    """
    numbers: dict[Any, int] = {}
    shares = [
        (weight, numbers.setdefault(key, len(numbers)), number)
        for number, row in enumerate(rows)
        for key, weight in _shares(row, axes)
    ]
    weights, left, originals = zip(*shares, strict=True)
    return sparse.csr_matrix((weights, (left, originals)), shape=(len(numbers), len(rows)))


def _shares(row: Any, axes: Axes) -> Iterator[tuple[Any, float]]:
    """Yield the knots' rows in which a row takes part, with its weight."""
    if row.parent_component().local_name != "by_choice":
        yield row.index(), 1.0
        return
    place, choices = row.index()
    weights = [axis.weights[choice] for axis, choice in zip(axes.of(place), choices, strict=True)]
    for knots in itertools.product(*(np.flatnonzero(weight).tolist() for weight in weights)):
        yield (place, knots), math.prod(float(weight[knot]) for weight, knot in zip(weights, knots, strict=True))
