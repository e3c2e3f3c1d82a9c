"""Effectiveness rho: D / (prod w)^(1/D) at every scale, over the D layers up to it. Layer 3 (optimize).

    rho_s <= rho_0    <=>    D log(D / rho_0) <= sum log w

The left side is convex in D. In the integer model it is exact by its chords between attainable D; in the continuous
one it stands as it is: no division, no root.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from deepmad_hw.optimize.coefficients import Coefficients, ScalePlace
from deepmad_hw.optimize.encoding import encoded
from deepmad_hw.optimize.linear import Milp, Sum
from deepmad_hw.optimize.quantities.additive import smallest_sum
from deepmad_hw.optimize.quantities.base import Limited, Minimum, Relaxed, bisected, lowered
from deepmad_hw.optimize.smooth import Nlp, PricedRow
from deepmad_hw.optimize.walked import Walked
from deepmad_hw.problem import check

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOLERANCE = 1e-6  # relative, of the smallest reachable rho
START = 100.0  # far above any rho that is asked for


class Effectiveness(Limited):
    """The limit rho_0 at every scale.

    Args:
        tables: the problem's tables.
        name: of the limit.
        limit: rho_0.
    """

    def excess(self, walked: Walked) -> Floats:
        """Return ``sum over scales of max(rho_s / rho_0 - 1, 0)``, [n]."""
        found = np.zeros(len(walked.designs.rows))
        for scale in self.tables.scales:
            log_fan_in, layers = walked.at(scale)
            found += np.maximum(layers * np.exp(-log_fan_in / layers) / self.limit - 1, 0.0)
        return found

    def add_to_milp(self, milp: Milp) -> None:
        """Add ``D log(D / rho_0) <= sum log w`` at every scale."""
        for scale in self.tables.scales:
            add_chords(milp, scale, self.limit)

    def add_share_to_milp(self, milp: Milp, share: Sum, factor: float) -> None:
        """Add the limit at ``factor * rho_0``: rho is no sum, so there is no share of it."""
        for scale in self.tables.scales:
            add_chords(milp, scale, self.limit * factor)

    def amount(self, milp: Milp) -> Sum:
        """Return minus the slack that all scales have at rho_0."""
        return self._minus_slack(milp, self.limit)

    def _minus_slack(self, milp: Milp, limit: float) -> Sum:
        milp.model.slack = pyo.Var()
        for scale in self.tables.scales:
            add_chords(milp, scale, limit, slack=milp.model.slack)
        return Sum(variables=[milp.model.slack], factors=[-1.0])

    def add_to_nlp(self, nlp: Nlp) -> None:
        """Add ``D log D - sum log w - D log rho_0 <= 0`` at every scale whose number of layers can change."""
        step, _ = self.quantity.price
        for index, scale in enumerate(nlp.scales, start=1):
            if not isinstance(scale.depth, int | float):
                body = scale.depth * pyo.log(scale.depth) - scale.log_fan_in - scale.depth * math.log(self.limit)
                priced = PricedRow(row=nlp.model.rows.add(body <= 0), per_step=partial(self._per_step, scale.depth))
                nlp.rows[f"{self.name}:scale{index}"] = (step, [priced])

    def _per_step(self, depth: Any) -> float:
        """Return by how much a step of rho_0 moves the right side: ``step * D / rho_0``."""
        return float(self.quantity.price[1] * pyo.value(depth) / self.limit)

    def of(self, design: Ints) -> float:
        """Return the largest rho of one design."""
        return check.evaluate(self.tables.decode(design)).max_rho

    def smallest(self) -> Minimum:
        """Return the smallest largest rho that a design of the space has, to `TOLERANCE`."""
        _, start = smallest_sum(self.tables, self.tables.quantities["macs"])
        return bisected(self._design_within, self.of, start, tolerance=lambda best: TOLERANCE * best)

    def smallest_given_others(self, relaxed: Relaxed) -> tuple[Minimum, bool] | None:
        """Return the smallest rho of designs that keep all other limits."""
        return lowered(relaxed, self._minus_slack, lambda design: relaxed.evaluate(design).max_rho, START)

    # --- the smallest rho of the space ----------------------------------------------------------------------------

    def _design_within(self, limit: float) -> Ints | None:
        """Return a design whose rho keeps a limit at every scale, or None where there is none.

        For one width and one number of layers so far, more log w is always at least as good: a state is that pair.
        """
        tables = self.tables
        most = sum(grid.first_layers + (grid.depth[1] - 1) * grid.further_layers for grid in tables.stages)
        log_w = np.full((len(tables.stem_widths), 1 + tables.stem_layers + most), -np.inf)
        log_w[:, tables.stem_layers] = tables.log_fan_in.stem
        log_w = self._kept(log_w, 0, limit)
        steps: list[tuple[Ints, Ints, Ints]] = []
        for stage in range(1, len(tables.stages) + 1):
            log_w, step = self._deeper(log_w, stage)
            log_w = self._kept(log_w, stage, limit)
            steps.append(step)
        if not np.isfinite(log_w).any():
            return None
        out, layers = np.unravel_index(int(np.argmax(log_w)), log_w.shape)
        return self._walked_back(int(out), int(layers), steps)

    def _kept(self, log_w: Floats, stage: int, limit: float) -> Floats:
        """Return the states after a stage without those that break rho at a scale taken there."""
        tables = self.tables
        for scale in tables.scales:
            if scale.stage != stage:
                continue
            layers = np.arange(log_w.shape[1], dtype=float) + (tables.head_layers if scale.after_head else 0)
            reached = log_w + (tables.log_fan_in.tail[:, None] if scale.after_head else 0.0)
            broken = layers * np.log(np.maximum(layers, 1) / limit) > reached
            log_w = np.where(broken, -np.inf, log_w)
        return log_w

    def _deeper(self, log_w: Floats, stage: int) -> tuple[Floats, tuple[Ints, Ints, Ints]]:
        """Return the states after one more stage, with the (in, inner, depth) that lead to each."""
        grid, part = self.tables.stages[stage - 1], self.tables.log_fan_in.stages[stage - 1]
        first, allowed = part.first(grid), grid.allows
        shape = (len(grid.out_widths), log_w.shape[1])
        best = np.full(shape, -np.inf)
        before, inner, depth = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        for blocks in range(grid.depth[0], grid.depth[1] + 1):
            gain = np.where(allowed, first + (blocks - 1) * part.further[None, :, :], -np.inf)
            best_inner, gain = gain.argmax(axis=2), gain.max(axis=2)
            shift = grid.first_layers + (blocks - 1) * grid.further_layers
            total = log_w[:, None, : log_w.shape[1] - shift] + gain[:, :, None]
            source, total = total.argmax(axis=0), total.max(axis=0)
            rows, columns = np.nonzero(total > best[:, shift:])
            came = source[rows, columns]
            best[rows, columns + shift] = total[rows, columns]
            before[rows, columns + shift] = came
            inner[rows, columns + shift] = best_inner[came, rows]
            depth[rows, columns + shift] = blocks
        return best, (before, inner, depth)

    def _walked_back(self, out: int, layers: int, steps: list[tuple[Ints, Ints, Ints]]) -> Ints:
        stages: list[tuple[int, int, int]] = []
        for grid, (before, inner, depth) in zip(reversed(self.tables.stages), reversed(steps), strict=True):
            blocks = int(depth[out, layers])
            stages.insert(0, (out, int(inner[out, layers]), blocks))
            out, layers = int(before[out, layers]), layers - grid.first_layers - (blocks - 1) * grid.further_layers
        return encoded(out, stages)


def add_chords(milp: Milp, scale: ScalePlace, limit: float, *, slack: Any = None) -> None:
    """Add ``D log(D / rho_0) <= sum of log w`` at one scale, by its chords between attainable D.

    Args:
        milp: the model.
        scale: the scale.
        limit: rho_0.
        slack: variable added to the left side, or None.
    """
    tables: Coefficients = milp.tables
    grids = tables.stages[: scale.stage]
    log_fan_in = milp.log_fan_in(scale.stage, after_head=scale.after_head)
    if slack is not None:
        log_fan_in.extend(Sum(variables=[slack], factors=[-1.0]))
    head = tables.head_layers if scale.after_head else 0
    fixed = tables.stem_layers + head + sum(grid.first_layers - grid.further_layers for grid in grids)
    step = grids[0].further_layers if grids else 0

    def needed(blocks: int) -> float:
        layers = fixed + step * blocks
        return layers * math.log(layers / limit)

    depths = [stage.depth for stage in milp.stages[: scale.stage]]
    fewest, most = sum(grid.depth[0] for grid in grids), sum(grid.depth[1] for grid in grids)
    for blocks in range(fewest, max(most, fewest + 1)):
        slope = needed(blocks + 1) - needed(blocks) if grids else 0.0
        chord = Sum(variables=list(depths), factors=[slope] * len(depths), constant=needed(blocks) - slope * blocks)
        chord.extend(log_fan_in, -1.0)
        milp.model.rows.add((None, chord.expression(), 0))
