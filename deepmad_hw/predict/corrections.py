"""What whole networks take beyond the sum of their rows, found from the calibration networks. Layer 3.

    T = curve(gain * sum over layers of (t + c))

t is a layer's row. Of layers of a few microseconds, more than half of what they take under the runtime's profiler is
the profiler's, and no two operations pay it alike: what is taken off all of them is too much for the short ones. c is
the constant on a grid with which whole networks come out best.

The curve is the sum itself, but for networks so short that they find their weights in the cache, where rows of longer
ones do not: below a sum these take a share of it. In between the curve is a straight line, so that it increases.
What calibration networks do not clearly show is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.latency.model import Curve

Floats = NDArray[np.float64]

US_PER_LAYER = tuple(float(step) for step in range(9))
SHARES = (0.5, 0.6, 0.7)  # of their sum that the shortest networks may take
BEND_AT = tuple(np.linspace(0.05, 0.6, 8).tolist())  # shares of networks below either end of the straight line
# What a constant, and a bend, must each take off the mean error of whole networks: a share of it, and in all.
WORTH_SHARE, WORTH_ERROR = 0.1, 0.003
LARGEST_ERROR = 0.3  # as which larger ones count, so that no single network decides
MIN_NETWORKS = 8
MIN_SHORT = 3  # networks that take the full share off their sum
LEFT_OUT_TIMES = 100  # in so many turns networks are left out, one at a time where there are no more


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Bend:
    """Where the weights of short networks stay in the cache.

    Args:
        short_us: sums up to this take `share` of them (layers with the constant, without the gain).
        long_us: sums from this on are the latency.
        share: above 0, below 1.
    """

    short_us: float
    long_us: float
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Corrections:
    """What makes sums of rows the latency of whole networks.

    Args:
        us_per_layer: what every layer takes beyond its row.
        gain: of the sum.
        bend: of short networks, if they show one.
    """

    us_per_layer: float = 0.0
    gain: float = 1.0
    bend: Bend | None = None

    @property
    def curve(self) -> Curve:
        """Return the latency as a function of the sum over layers with constant and gain, both in milliseconds."""
        if self.bend is None:
            return Curve()
        short_ms, long_ms = (self.gain * us / 1e3 for us in (self.bend.short_us, self.bend.long_us))
        return Curve(knots=((0.0, 0.0), (short_ms, self.bend.share * short_ms), (long_ms, long_ms)))

    def latency_us(self, network: Observed) -> float:
        """Return what a network takes by them.

        Args:
            network: the network.
        """
        return 1e3 * self.curve.latency_ms(self.gain * network.total_us(self.us_per_layer) / 1e3)


def corrections(networks: Sequence[Observed]) -> Corrections:
    """Return what whole networks show, nothing but their gain where they are few.

    Args:
        networks: whole networks of different sizes.
    """
    if not networks:
        return Corrections()
    measured_us = np.array([network.measured_us for network in networks])
    constants = US_PER_LAYER if len(networks) >= MIN_NETWORKS else US_PER_LAYER[:1]
    fits = [fit for constant in constants for fit in _fits(constant, measured_us, networks)]
    return min(fits, key=lambda fit: fit[0])[1]


def left_out_errors(networks: Sequence[Observed]) -> tuple[float, ...]:
    """Return each network's measured time over its prediction, less one, where others alone calibrate.

    Args:
        networks: whole networks; a single one has no others.
    """
    turns = min(len(networks), LEFT_OUT_TIMES)
    if turns < 2:
        return ()
    by_others = [corrections([each for i, each in enumerate(networks) if i % turns != turn]) for turn in range(turns)]
    return tuple(
        network.measured_us / by_others[i % turns].latency_us(network) - 1 for i, network in enumerate(networks)
    )


def _fits(
    us_per_layer: float, measured_us: Floats, networks: Sequence[Observed]
) -> Iterator[tuple[float, Corrections]]:
    """Yield the best corrections without a bend and with one, each after its error, which what it takes in adds to."""
    totals_us = np.array([network.total_us(us_per_layer) for network in networks])
    bends = _bends(totals_us) if len(networks) >= MIN_NETWORKS else np.empty((0, 3))
    ratios = measured_us / np.concatenate([totals_us[None], _bent_us(totals_us, bends)])
    gains = np.median(ratios, axis=1)
    errors = np.minimum(np.abs(ratios / gains[:, None] - 1), LARGEST_ERROR).mean(axis=1)
    for at in {0, int(np.argmin(errors))}:
        parts = (us_per_layer > 0) + (at > 0)
        short_us, long_us, share = bends[at - 1].tolist() if at else (0.0, 0.0, 1.0)
        bend = Bend(short_us=short_us, long_us=long_us, share=share) if at else None
        found = Corrections(us_per_layer=us_per_layer, gain=float(gains[at]), bend=bend)
        yield float(errors[at] / (1 - WORTH_SHARE) ** parts + WORTH_ERROR * parts), found


def _bends(totals_us: Floats) -> Floats:
    """Return the bends that are tried, [bends, (short_us, long_us, share)]."""
    ends_us = np.unique(np.quantile(totals_us, BEND_AT))
    ends_us = ends_us[np.searchsorted(np.sort(totals_us), ends_us, side="right") >= MIN_SHORT]
    tried = [(*ends, share) for ends in itertools.combinations(ends_us.tolist(), 2) for share in SHARES]
    return np.array(tried).reshape(-1, 3)


def _bent_us(totals_us: Floats, bends: Floats) -> Floats:
    """Return what networks of some sums take, [bends, networks], without the gain."""
    short_us, long_us, share = bends.T[:, :, None]
    rise = (long_us - share * short_us) / (long_us - short_us)
    between_us = share * short_us + (totals_us - short_us) * rise
    found: Floats = np.where(totals_us <= short_us, share * totals_us, np.minimum(between_us, totals_us))
    return found
