"""Rows that lie far from what the rows around them say, such as a time in another unit or a disturbed one. Layer 3."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.network.layer import LayerSpec

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Group = tuple[NDArray[np.intp], NDArray[np.intp]]  # which rows are judged, and among which their neighbours are sought

# A row is odd if its time is this many times longer or shorter than the rows around it say: more than the steps between
# a runtime's kernels (seen: 10 in full tables, 33 where few rows are left of one), less than between two units (1000).
ODD_FACTOR = 50.0
ROWS_AT_ONCE = 512  # whose distances to all others are held at once
NEIGHBOURS = 8  # whose median says what a row should take; half of them may be odd themselves
MIN_ROWS = 9  # of an operation; fewer cannot say which of them is odd
# Where more rows of a kind lie far from their neighbours, that is its nature: steps between kernels, not mistakes.
MAX_ODD_SHARE = 0.25
BEST_SHARE = 0.01  # of the rows may be faster than the speeds by which work is weighed


@dataclass(frozen=True, kw_only=True, slots=True)
class OddRow:
    """A row of a table that predictions leave out.

    Args:
        spec: the layer.
        median_us: what its row says.
        expected_us: what the rows around it say.
    """

    spec: LayerSpec
    median_us: float
    expected_us: float

    @property
    def factor(self) -> float:
        """Return how many times longer the row's time is than expected; below 1 where it is shorter."""
        return self.median_us / self.expected_us


def odd_rows(
    specs: Sequence[LayerSpec],
    points: Floats,
    work: Floats,
    measured_us: Floats,
    *,
    law: Callable[[Mask], Floats],
    keys: Sequence[Callable[[LayerSpec], Hashable]],
) -> dict[int, OddRow]:
    """Return the rows that lie far from those around them, by their position.

    Each row is predicted from its nearest neighbours, itself left out: what is expected of its work, times the median
    of what that misses of the neighbours. Suspects are found with the table's best speeds, which nothing odd can bend;
    those that are still far by the law, fitted without any suspect, are odd.

    Args:
        specs: n measured layers.
        points: [n, features] in which distance is measured.
        work: [n, kinds] of work that a layer consists of, such as multiply-adds and values moved.
        measured_us: [n] their times.
        law: from a mask of the rows to fit it to, what it says of all rows [n] in microseconds.
        keys: what two layers must share to be neighbours, strictest first; the first that leaves enough of them counts.
    """
    if len(specs) < MIN_ROWS:
        return {}
    groups = _neighbourhoods(specs, keys)
    best = np.quantile(work / measured_us[:, None], 1 - BEST_SHARE, axis=0)
    least_us = np.quantile(measured_us, BEST_SHARE) + (work / best).sum(axis=1)
    suspect = _far(measured_us / _expected_us(points, least_us, measured_us, groups), groups)
    if not suspect.any():
        return {}
    sound = [(judged[suspect[judged]], among[~suspect[among]]) for judged, among in groups if suspect[judged].any()]
    expected_us = _expected_us(points, law(~suspect), measured_us, sound)
    odd = suspect & _far(measured_us / expected_us, groups)
    return {
        i: OddRow(spec=specs[i], median_us=float(measured_us[i]), expected_us=float(expected_us[i]))
        for i in np.flatnonzero(odd).tolist()
    }


def _expected_us(points: Floats, first_us: Floats, measured_us: Floats, groups: Sequence[Group]) -> Floats:
    """Return what each judged row should take, by a first guess and by its neighbours; others as they are."""
    missed = np.log(measured_us / first_us)
    around = missed.copy()
    for judged, among in groups:
        around[judged] = _median_around(points, missed, judged, among)
    expected_us: Floats = first_us * np.exp(around)
    return expected_us


def _far(factors: Floats, groups: Sequence[Group]) -> Mask:
    """Return which rows are off by more than a factor, but for groups in which many are."""
    far = np.abs(np.log(factors)) > np.log(ODD_FACTOR)
    for judged, among in groups:
        if far[judged].sum() > MAX_ODD_SHARE * len(among):
            far[judged] = False
    found: Mask = far
    return found


def _neighbourhoods(specs: Sequence[LayerSpec], keys: Sequence[Callable[[LayerSpec], Hashable]]) -> list[Group]:
    """Return which rows are judged together, and among which rows their neighbours are sought."""
    groups, left = [], np.ones(len(specs), dtype=np.bool_)
    for key in keys:
        together: dict[Hashable, list[int]] = {}
        for index, spec in enumerate(specs):
            together.setdefault(key(spec), []).append(index)
        for found in together.values():
            among = np.array(found)
            judged = among[left[among]]
            if len(judged) and len(among) >= MIN_ROWS:
                groups.append((judged, among))
                left[judged] = False
    return groups


def _median_around(points: Floats, values: Floats, judged: NDArray[np.intp], among: NDArray[np.intp]) -> Floats:
    """Return for each row the median value of its nearest neighbours, itself left out."""
    count = min(NEIGHBOURS + 1, len(among))
    nearest = among[np.concatenate([_nearest(points[among], part, count) for part in _parts(points[judged])])]
    itself = nearest == judged[:, None]
    itself[~itself.any(axis=1), -1] = True  # it has as many twins as neighbours are asked for: one of them goes instead
    medians: Floats = np.median(values[nearest[~itself].reshape(len(judged), count - 1)], axis=1)
    return medians


def _parts(points: Floats) -> list[Floats]:
    return np.array_split(points, -(-len(points) // ROWS_AT_ONCE))


def _nearest(points: Floats, asked: Floats, count: int) -> NDArray[np.intp]:
    """Return the positions of the nearest points of each that is asked for, the nearest first, [asked, count].

    All distances at once: scipy's tree ended processes that had loaded solvers and runtimes before (segmentation
    fault in its query), and scikit-learn takes too long to load.
    """
    squares = (points**2).sum(axis=1) - 2 * asked @ points.T  # less the asked point's own, which orders nothing
    near = np.argpartition(squares, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(squares, near, axis=1), axis=1, kind="stable")
    nearest: NDArray[np.intp] = np.take_along_axis(near, order, axis=1)
    return nearest
