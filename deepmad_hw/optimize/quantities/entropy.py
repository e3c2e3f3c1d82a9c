"""DeepMAD's score: the weighted entropies of all scales. Layer 3 (optimize).

    score = sum_s alpha_s H_s        H_s = 1/2 log(r_s^2 c_s) S_s        alpha = 1, ..., 1, 8

with S_s the sum of log w up to scale s. In the integer model ``log(r^2 c) S`` is linear: ``z[o]``, the sum if the width
is o and 0 else, carries it, so the product needs no big constant but valid bounds on the sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmad_hw import entropy
from deepmad_hw.optimize.coefficients import Coefficients, ScalePlace
from deepmad_hw.optimize.encoding import Designs
from deepmad_hw.optimize.linear import Cut, Milp, Sum
from deepmad_hw.optimize.smooth import Nlp
from deepmad_hw.optimize.walked import Walked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class EntropyScore:
    """The score as a term of the objective.

    Args:
        tables: the problem's tables.
    """

    sums: tuple[str, ...] = ()

    def __init__(self, tables: Coefficients) -> None:
        self._tables = tables

    def _weights(self) -> list[tuple[ScalePlace, float]]:
        scales = self._tables.scales
        return [(scale, entropy.LAST_SCALE_WEIGHT if scale is scales[-1] else 1) for scale in scales]

    def values(self, walked: Walked) -> Floats:
        """Return ``sum_s alpha_s H_s``, [n]."""
        found = np.zeros(len(walked.designs.rows))
        for scale, weight in self._weights():
            log_fan_in, _ = walked.at(scale)
            found += weight * 0.5 * self._log_size(scale, walked.designs) * log_fan_in
        return found

    def _log_size(self, scale: ScalePlace, designs: Designs) -> Floats:
        head = self._tables.problem.space.head
        if scale.after_head and head is not None:
            return np.full(len(designs.rows), math.log(scale.pixels) + math.log(head.out))
        return np.asarray(
            math.log(scale.pixels) + np.log(self._tables.out_widths(scale.stage))[designs.width(scale.stage)]
        )

    def add_to_milp(self, milp: Milp) -> Sum:
        """Return ``sum_s alpha_s / 2 sum_o log(r_s^2 o) z_s[o]``, which is the score itself."""
        total = Sum()
        for scale, weight in self._weights():
            self._add_scale(total, milp, scale, 0.5 * weight)
        return total

    def _add_scale(self, total: Sum, milp: Milp, scale: ScalePlace, weight: float) -> None:
        tables, head = self._tables, self._tables.problem.space.head
        if scale.after_head and head is not None:
            size = weight * (math.log(scale.pixels) + math.log(head.out))
            total.extend(milp.log_fan_in(scale.stage, after_head=True), size)
            return
        sizes = weight * (math.log(scale.pixels) + np.log(tables.out_widths(scale.stage)))
        if scale.stage:
            total.add(milp.stages[scale.stage - 1].log_fan_in, sizes)
        else:
            total.add(milp.stem, sizes * tables.log_fan_in.stem)

    def cut(self, milp: Milp, design: Ints) -> Cut | None:
        """Return None: the model's score is exact."""
        return None

    def of_nlp(self, nlp: Nlp) -> Any:
        """Return the score as an expression."""
        return entropy.score(nlp.scales)
