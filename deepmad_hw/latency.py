"""What the optimisers and the checker may ask of a latency table. Layer 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.architecture import Architecture
from deepmad_hw.errors import NotCoveredError
from deepmad_hw.expand import expand
from deepmad_hw.layer import Graph, LayerSpec

CONFIDENCE = 0.9  # of intervals, unless another is asked for


class LatencyModel(Protocol):
    """A table that answers for layers: a network's latency is `overhead_ms` plus the sum over its layers."""

    @property
    def name(self) -> str:
        """Return the table's name, as limits and results call it."""

    @property
    def device(self) -> str:
        """Return what the table's device calls itself."""

    @property
    def overhead_ms(self) -> float:
        """Return what a network costs besides its layers."""

    @property
    def margin(self) -> float | None:
        """Return m of ``upper = predicted * (1 + m)``, or None without a calibration."""

    def covers(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        """Return for each layer whether the table can answer.

        Args:
            specs: n layers.
        """

    def layers_ms(self, specs: Sequence[LayerSpec]) -> NDArray[np.float64]:
        """Return each layer's share of a network's latency in milliseconds.

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
    return model.overhead_ms + float(model.layers_ms([node.spec for node in graph]).sum())


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


def budget_for_prediction_ms(budget_ms: float, model: LatencyModel) -> float:
    """Return the largest prediction whose upper value keeps a budget.

    Args:
        budget_ms: the budget on the upper value.
        model: the table.
    """
    return budget_ms / (1 + (model.margin or 0.0))
