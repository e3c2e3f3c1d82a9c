"""What every layer takes beyond its row, found from the calibration networks. Layer 3.

    T = gain * sum over layers of (t + c)

t is a layer's row. Of layers of a few microseconds, more than half of what they take under the runtime's profiler is
the profiler's, and no two operations pay it alike: what is taken off all of them is too much for the short ones. c is
the constant on a grid with which whole networks come out best; where that is not clearly better than without, it is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

US_PER_LAYER = tuple(0.5 * step for step in range(17))
# What the mean error of whole networks must fall by: a share of it, and in all.
WORTH_SHARE, WORTH_ERROR = 0.1, 0.003
LARGEST_ERROR = 0.3  # as which larger ones count, so that no single network decides
MIN_NETWORKS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """One whole network that was timed, and what rows say of it.

    Args:
        measured_us: what it took.
        rows_us: the sum of its layers' rows.
        layers: how many these are.
    """

    measured_us: float
    rows_us: float
    layers: int

    def total_us(self, us_per_layer: float) -> float:
        """Return what it takes by the rows and a constant for every layer, without the gain.

        Args:
            us_per_layer: the constant.
        """
        return self.rows_us + us_per_layer * self.layers


def us_per_layer(networks: Sequence[Observed]) -> float:
    """Return the constant with which whole networks come out best, 0 where they do not show one.

    Args:
        networks: whole networks of different sizes.
    """
    return US_PER_LAYER[_best(_ratios(networks))]


def left_out_errors(networks: Sequence[Observed]) -> tuple[float, ...]:
    """Return each network's measured time over its prediction, less one, where the others alone calibrate.

    Args:
        networks: whole networks; a single one has no others.
    """
    ratios, found = _ratios(networks), []
    for left_out in range(len(networks) if len(networks) > 1 else 0):
        others = np.delete(ratios, left_out, axis=1)
        place = _best(others)
        found.append(float(ratios[place, left_out] / np.median(others[place]) - 1))
    return tuple(found)


def _ratios(networks: Sequence[Observed]) -> Floats:
    """Return measured over predicted, [constants, networks]."""
    ratios = [[network.measured_us / network.total_us(constant) for network in networks] for constant in US_PER_LAYER]
    return np.array(ratios).reshape(len(US_PER_LAYER), len(networks))


def _best(ratios: Floats) -> int:
    """Return the place of the least mean error, 0 where that is not clearly better than without."""
    if ratios.shape[1] < MIN_NETWORKS:
        return 0
    strays = np.abs(ratios / np.median(ratios, axis=1, keepdims=True) - 1)
    errors = np.minimum(strays, LARGEST_ERROR).mean(axis=1)
    best = int(np.argmin(errors))
    return best if errors[0] - errors[best] >= max(WORTH_ERROR, WORTH_SHARE * errors[0]) else 0
