"""What the optimisers and the checker may ask of a latency table. Layer 2."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import ConfigError, NotCoveredError
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import Graph, LayerSpec

CONFIDENCE = 0.9  # of intervals, unless another is asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A network's latency as an increasing function of the sum over its layers: straight lines through knots.

        latency = curve(sum of layers)

    Because it increases, a budget on the latency is a budget on the sum. Without knots it is the sum itself.

    Args:
        knots: (sum_ms, latency_ms), both increasing, the first sum 0.
        slope: beyond the last knot.

    Raises:
        ConfigError: the knots do not increase, or the slope is not above 0.

    Example:
        >>> Curve(knots=((0.0, 0.0), (2.0, 1.2), (2.5, 2.5))).latency_ms(1.0)
        0.6
    """

    knots: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    slope: float = 1.0

    def __post_init__(self) -> None:
        """Refuse curves that do not increase."""
        rises = all(a < c and b < d for (a, b), (c, d) in pairwise(self.knots))
        if not self.knots or self.knots[0][0] != 0 or not rises or self.slope <= 0:
            raise ConfigError(f"expected increasing knots from a sum of 0, got {self.knots}, then {self.slope}")

    def latency_ms(self, sum_ms: float) -> float:
        """Return the latency of a network.

        Args:
            sum_ms: over its layers.
        """
        (start_ms, latency_ms), slope = self._piece([knot[0] for knot in self.knots], sum_ms)
        return latency_ms + slope * (sum_ms - start_ms)

    def sum_ms(self, latency_ms: float) -> float:
        """Return the sum over layers with which a network has a latency; negative where that is below the least.

        Args:
            latency_ms: the latency.
        """
        (start_ms, least_ms), slope = self._piece([knot[1] for knot in self.knots], latency_ms)
        return start_ms + (latency_ms - least_ms) / slope

    def slope_at(self, latency_ms: float) -> float:
        """Return the milliseconds of latency that a millisecond of the sum costs.

        Args:
            latency_ms: at which latency.
        """
        return self._piece([knot[1] for knot in self.knots], latency_ms)[1]

    def times(self, factor: float) -> Curve:
        """Return the curve with every latency so many times as high.

        Args:
            factor: above 0.
        """
        knots = tuple((sum_ms, latency_ms * factor) for sum_ms, latency_ms in self.knots)
        return Curve(knots=knots, slope=self.slope * factor)

    def _piece(self, starts_ms: list[float], at_ms: float) -> tuple[tuple[float, float], float]:
        """Return the knot that a piece starts from, and its slope."""
        place = max(0, bisect_right(starts_ms, at_ms) - 1)
        if place == len(self.knots) - 1:
            return self.knots[-1], self.slope
        (a, b), (c, d) = self.knots[place : place + 2]
        return (a, b), (d - b) / (c - a)


class LatencyModel(Protocol):
    """A table that answers for layers: a network's latency is `curve` of the sum over them."""

    @property
    def name(self) -> str:
        """Return the table's name, as limits and results call it."""

    @property
    def device(self) -> str:
        """Return what the table's device calls itself."""

    @property
    def curve(self) -> Curve:
        """Return what a network takes for the sum over its layers."""

    @property
    def margin(self) -> float | None:
        """Return m of ``upper = predicted * (1 + m)``, or None without a calibration."""

    def covers(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        """Return for each layer whether the table can answer.

        Args:
            specs: n layers.
        """

    def layers_ms(self, specs: Sequence[LayerSpec]) -> NDArray[np.float64]:
        """Return what each layer adds to the sum, in milliseconds.

        Args:
            specs: n layers.

        Raises:
            NotCoveredError: the table cannot answer for one of them.
        """


def predict_ms(network: Architecture | Graph, model: LatencyModel) -> float:
    """Return the predicted latency of a network in milliseconds.

    Args:
        network: the network.
        model: the table that answers for its layers.

    Raises:
        NotCoveredError: the table cannot answer for every layer.
    """
    graph = expand(network) if isinstance(network, Architecture) else network
    missing = uncovered(graph, model)
    if missing:
        raise NotCoveredError(
            f"{len(missing)} of {len(graph.nodes)} layers are not covered, first {missing[0]}",
            where=model.name,
            hint="profile with a space that holds them",
        )
    return model.curve.latency_ms(float(model.layers_ms([node.spec for node in graph]).sum()))


def uncovered(graph: Graph, model: LatencyModel) -> tuple[str, ...]:
    """Return the names of the nodes that a table cannot answer for.

    Args:
        graph: the network.
        model: the table.
    """
    covered = model.covers([node.spec for node in graph])
    return tuple(node.name for node, known in zip(graph, covered, strict=True) if not known)


def upper_ms(predicted_ms: float, model: LatencyModel) -> float | None:
    """Return the upper value of a prediction at the table's confidence, or None without a calibration.

    Args:
        predicted_ms: the prediction.
        model: the table it came from.
    """
    return None if model.margin is None else predicted_ms * (1 + model.margin)


def upper_curve(model: LatencyModel) -> Curve:
    """Return the curve of upper values, of predictions where there is no calibration: what budgets are held against.

    Args:
        model: the table.
    """
    return model.curve.times(1 + (model.margin or 0.0))
