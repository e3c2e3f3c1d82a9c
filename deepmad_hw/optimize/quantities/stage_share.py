"""The largest share of a network's blocks that stand in one stage. Layer 3 (optimize).

max_i L_i / sum_j L_j <= s    <=>    L_i - s sum_j L_j <= 0  for every stage i
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from deepmad_hw.optimize.encoding import Designs, encoded
from deepmad_hw.optimize.linear import ROW_SCALE, Milp, Sum, at_most
from deepmad_hw.optimize.quantities.additive import smallest_sum
from deepmad_hw.optimize.quantities.base import Limited, Minimum, Relaxed, lowered
from deepmad_hw.optimize.smooth import Nlp, PricedRow
from deepmad_hw.optimize.walked import Walked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROUNDING = 1e-12  # relative, of a share, so that 3 of 10 blocks keep 30 %


class StageShare(Limited):
    """A limit on the largest share of blocks in one stage."""

    def excess(self, walked: Walked) -> Floats:
        """Return ``max(share / limit - 1, 0)``, [n]."""
        depths = walked.designs.depths
        return np.asarray(np.maximum(depths.max(axis=1) / depths.sum(axis=1) / self.limit - 1, 0.0))

    def add_to_milp(self, milp: Milp) -> None:
        """Add ``L_i - s sum L <= 0`` for every stage."""
        for row in self._rows(milp, self.limit):
            at_most(milp.model, Sum().extend(row, ROW_SCALE / self._most_blocks), 0.0)

    @property
    def _most_blocks(self) -> int:
        return sum(grid.depth[1] for grid in self.tables.stages)

    def _rows(self, milp: Milp, limit: float) -> list[Sum]:
        depths = [stage.depth for stage in milp.stages]
        share = limit * (1 + ROUNDING)
        return [
            Sum(variables=list(depths), factors=[(1.0 if one is other else 0.0) - share for other in depths])
            for one in depths
        ]

    def add_share_to_milp(self, milp: Milp, share: Sum, factor: float) -> None:
        """Add the limit at ``factor * s``: a ratio has no share of its own."""
        for row in self._rows(milp, self.limit * factor):
            at_most(milp.model, row, 0.0)

    def amount(self, milp: Milp) -> Sum:
        """Return minus the slack under the limit."""
        return self._minus_slack(milp, self.limit)

    def _minus_slack(self, milp: Milp, limit: float) -> Sum:
        milp.model.slack = pyo.Var()
        slack = Sum(variables=[milp.model.slack], factors=[1.0])
        for row in self._rows(milp, limit):
            at_most(milp.model, row.extend(slack), 0.0)
        return Sum().extend(slack, -1.0)

    def add_to_nlp(self, nlp: Nlp) -> None:
        """Add ``L_i - s sum L <= 0`` for every stage."""
        step, amount = self.quantity.price
        depths = list(nlp.model.depth.values())
        total: Any = sum(depths)

        def per_step() -> float:
            return float(amount * pyo.value(total))

        rows = [PricedRow(row=nlp.model.rows.add(one - self.limit * total <= 0), per_step=per_step) for one in depths]
        nlp.rows[self.name] = (step, rows)

    def of(self, design: Ints) -> float:
        """Return the share of one design."""
        depths = Designs(design).depths
        return float(depths.max() / depths.sum())

    def smallest(self) -> Minimum:
        """Return the smallest share in the space: of every number of blocks, the most even depths."""
        low, high = (np.array([grid.depth[end] for grid in self.tables.stages]) for end in (0, 1))
        ways = []
        for most in range(int(low.max()), int(high.max()) + 1):
            depths = np.minimum(high, most)
            ways.append((depths.max() / depths.sum(), depths))
        share, depths = min(ways, key=lambda way: way[0])
        _, design = smallest_sum(self.tables, self.tables.quantities["params"])
        columns = zip(Designs(design).by_stage(), depths, strict=True)
        row = encoded(int(design[0]), [(int(out), int(inner), int(depth)) for (_, out, inner, _), depth in columns])
        return Minimum(value=float(share), design=row)

    def smallest_given_others(self, relaxed: Relaxed) -> tuple[Minimum, bool] | None:
        """Return the smallest share of designs that keep all other limits."""
        return lowered(relaxed, self._minus_slack, self.of, 1.0 + ROUNDING)
