"""The weighted entropies of all scales. Layer 3 (optimize).

    score = sum_s a_s H_s        H_s = 1/2 log(r_s^2 c_s) S_s        a = 1, ..., 1, 8 in DeepMAD's objective

with S_s the sum of log w up to scale s. In the integer model ``log(r^2 c) S`` is linear: ``z[o]``, the sum if the width
is o and 0 else, carries it by equations, so weights may have any sign, and the product needs no big constant but valid
bounds on the sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.optimize.coefficients import Coefficients, ScalePlace
from deepmad_hw.optimize.encoding import Designs
from deepmad_hw.optimize.linear import Cut, Milp, Sum
from deepmad_hw.optimize.smooth import Nlp
from deepmad_hw.optimize.walked import Walked
from deepmad_hw.problem import entropy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class EntropyScore:
    """The entropies as a term of the objective.

    Args:
        tables: the problem's tables.
    """

    sums: tuple[str, ...] = ()

    def __init__(self, tables: Coefficients) -> None:
        self._tables = tables
        weights = tables.problem.worth.scale_weights or entropy.scale_weights(len(tables.scales))
        self._weights = list(zip(tables.scales, weights, strict=True))

    def values(self, walked: Walked) -> Floats:
        """Return ``sum_s a_s H_s``, [n]."""
        found = np.zeros(len(walked.designs.rows))
        for scale, weight in self._weights:
            log_fan_in, _ = walked.at(scale)
            found += weight * 0.5 * _log_size(self._tables, scale, walked.designs) * log_fan_in
        return found

    def add_to_milp(self, milp: Milp) -> Sum:
        """Return ``sum_s a_s / 2 sum_o log(r_s^2 o) z_s[o]``, which is the term itself."""
        total = Sum()
        for scale, weight in self._weights:
            add_entropy(total, milp, scale, weight)
        return total

    def cut(self, milp: Milp, design: Ints) -> Cut | None:
        """Return None: the model's entropies are exact."""
        return None

    def of_nlp(self, nlp: Nlp) -> Any:
        """Return ``sum_s a_s H_s`` as an expression."""
        if nlp.tables.problem.worth.scale_weights is None:
            return entropy.score(nlp.scales)
        return sum(weight * scale.entropy for (_, weight), scale in zip(self._weights, nlp.scales, strict=True))


def entropy_of(tables: Coefficients, scale: ScalePlace, walked: Walked) -> Floats:
    """Return the entropy H of one scale, [n].

    Args:
        tables: the problem's tables.
        scale: the scale.
        walked: the designs.
    """
    log_fan_in, _ = walked.at(scale)
    return np.asarray(0.5 * _log_size(tables, scale, walked.designs) * log_fan_in)


def _log_size(tables: Coefficients, scale: ScalePlace, designs: Designs) -> Floats:
    head = tables.problem.space.head
    if scale.after_head and head is not None:
        return np.full(len(designs.rows), math.log(scale.pixels) + math.log(head.out))
    return np.asarray(math.log(scale.pixels) + np.log(tables.out_widths(scale.stage))[designs.width(scale.stage)])


def add_entropy(total: Sum, milp: Milp, scale: ScalePlace, weight: float) -> None:
    """Add ``weight * H`` of one scale to a sum: ``weight / 2 sum_o log(r^2 o) z[o]``.

    Args:
        total: the sum.
        milp: the model.
        scale: the scale.
        weight: of its entropy.
    """
    tables, head, weight = milp.tables, milp.tables.problem.space.head, 0.5 * weight
    if scale.after_head and head is not None:
        size = weight * (math.log(scale.pixels) + math.log(head.out))
        total.extend(milp.log_fan_in(scale.stage, after_head=True), size)
        return
    sizes = weight * (math.log(scale.pixels) + np.log(tables.out_widths(scale.stage)))
    if scale.stage:
        total.add(milp.stages[scale.stage - 1].log_fan_in, sizes)
    else:
        total.add(milp.stem, sizes * tables.log_fan_in.stem)
