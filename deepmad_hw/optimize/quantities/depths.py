"""Depths of single stages, and a constant: terms that are linear as they stand. Layer 3 (optimize)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.linear import Cut, Milp, Sum
from deepmad_hw.optimize.smooth import Nlp
from deepmad_hw.optimize.walked import Walked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class StageDepths:
    """``sum_i d_i L_i + constant`` as a term of the objective; weights of any sign.

    Args:
        weights: d_i of every stage, or none.
        constant: of every design.
    """

    sums: tuple[str, ...] = ()

    def __init__(self, weights: tuple[float, ...], constant: float) -> None:
        self._weights, self._constant = weights, constant

    def values(self, walked: Walked) -> Floats:
        """Return the term, [n]."""
        depths = walked.designs.depths
        weights = np.array(self._weights) if self._weights else np.zeros(depths.shape[1])
        return np.asarray(depths @ weights + self._constant)

    def add_to_milp(self, milp: Milp) -> Sum:
        """Return the term itself."""
        depths = [stage.depth for stage in milp.stages][: len(self._weights)]
        return Sum(variables=depths, factors=list(self._weights), constant=self._constant)

    def cut(self, milp: Milp, design: Ints) -> Cut | None:
        """Return None: the term is exact."""
        return None

    def of_nlp(self, nlp: Nlp) -> Any:
        """Return the term as an expression."""
        depths = list(nlp.model.depth.values())[: len(self._weights)]
        return sum(weight * depth for weight, depth in zip(self._weights, depths, strict=True)) + self._constant


def stage_depths(tables: Coefficients) -> StageDepths | None:
    """Return the term of a problem, None where it has none.

    Args:
        tables: the problem's tables.
    """
    worth = tables.problem.worth
    return StageDepths(worth.depth_weights, worth.constant) if worth.depth_weights or worth.constant else None
