"""Objective and limits of thousands of designs at once, from the problem's tables. Layer 3 (optimize).

What is said here is quick, not final: `deepmad_hw.check` judges every design that is returned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmad_hw import entropy
from deepmad_hw.optimize.coefficients import Coefficients, StageTerms, Terms
from deepmad_hw.optimize.memory import memory_rows, peak_bytes, width_column

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Values:
    """What is known of n designs.

    Args:
        objective: [n] score minus penalty.
        excess: [n] sum over limits of the relative amount by which each is broken.
    """

    objective: Floats
    excess: Floats


class Evaluator:
    """Evaluates designs encoded as `Coefficients.encode` does.

    Args:
        tables: the problem's tables.
    """

    def __init__(self, tables: Coefficients) -> None:
        self.tables = tables
        terms = [tables.quantities[name] for name in tables.limits] + [tables.log_fan_in]
        self._bounds = np.array(list(tables.limits.values()))
        self._stem = np.stack([term.stem for term in terms], axis=-1)
        self._tail = np.stack([term.tail for term in terms], axis=-1)
        self._first = [np.stack([first_block(tables, term, i) for term in terms], axis=-1) for i in self._stages]
        self._further = [np.stack([term.stages[i].further for term in terms], axis=-1) for i in self._stages]
        self._memory = memory_rows(tables) if tables.problem.limits.memory_bytes else ()
        self._allowed = [whole_stage(tables, i) for i in self._stages]

    @property
    def _stages(self) -> range:
        return range(len(self.tables.stages))

    def allowed(self, designs: Ints) -> NDArray[np.bool_]:
        """Return which designs keep the space's rules and are covered by all tables.

        Args:
            designs: [n, choices].
        """
        found = np.ones(len(designs), dtype=bool)
        before = designs[:, 0]
        for i in self._stages:
            out, inner, depth = designs[:, 1 + 3 * i], designs[:, 2 + 3 * i], designs[:, 3 + 3 * i]
            low, high = self.tables.stages[i].depth
            found &= self._allowed[i][before, out, inner] & (depth >= low) & (depth <= high)
            before = out
        return found

    def evaluate(self, designs: Ints) -> Values:
        """Return objective and broken limits of designs that the space allows.

        Args:
            designs: [n, choices].
        """
        tables, limits = self.tables, self.tables.problem.limits
        total = self._stem[designs[:, 0]]
        depth = np.full(len(designs), float(tables.stem_layers))
        after = [(total[:, -1], depth)]
        before = designs[:, 0]
        for i in self._stages:
            out, inner, blocks = designs[:, 1 + 3 * i], designs[:, 2 + 3 * i], designs[:, 3 + 3 * i]
            total = total + self._first[i][before, out, inner] + (blocks - 1)[:, None] * self._further[i][out, inner]
            grid = tables.stages[i]
            depth = depth + grid.first_layers + (blocks - 1) * grid.further_layers
            after.append((total[:, -1], depth))
            before = out
        total = total + self._tail[before]
        end = (total[:, -1], depth + tables.head_layers)

        excess = np.maximum(total[:, :-1] / self._bounds - 1, 0.0).sum(axis=1)
        objective = -self._penalty(designs)
        for scale in tables.scales:
            log_fan_in, layers = end if scale.after_head else after[scale.stage]
            last = scale is tables.scales[-1]
            weight = entropy.LAST_SCALE_WEIGHT if last else 1
            objective += (
                weight * 0.5 * self._log_size(scale.stage, scale.pixels, scale.after_head, designs) * log_fan_in
            )
            if limits.rho is not None:
                excess += np.maximum(layers * np.exp(-log_fan_in / layers) / limits.rho - 1, 0.0)
        if limits.memory_bytes is not None:
            excess += np.maximum(peak_bytes(self._memory, tables, designs) / limits.memory_bytes - 1, 0.0)
        return Values(objective=objective, excess=excess)

    def _log_size(self, stage: int, pixels: int, after_head: bool, designs: Ints) -> Floats:
        head = self.tables.problem.space.head
        if after_head and head is not None:
            return np.full(len(designs), math.log(pixels) + math.log(head.out))
        return math.log(pixels) + np.log(self.tables.out_widths(stage))[designs[:, width_column(stage)]]

    def _penalty(self, designs: Ints) -> Floats:
        space = self.tables.problem.space
        counted = entropy.penalised_depths(space.family, range(len(space.stages)))
        if len(counted) < 2:
            return np.full(len(designs), float(entropy.PENALTY_WEIGHT))
        variance = designs[:, [3 + 3 * i for i in counted]].var(axis=1)
        spread = variance if self.tables.problem.penalty == "variance" else np.sqrt(variance)
        return np.asarray(entropy.PENALTY_WEIGHT * np.exp(spread))


def first_block(tables: Coefficients, terms: Terms, stage: int) -> Floats:
    """Return one quantity of a stage's first block over [in, out, inner].

    Args:
        tables: the problem's tables.
        terms: the quantity.
        stage: index of the stage from 0.
    """
    part: StageTerms = terms.stages[stage]
    total = part.first_in[:, None, :] + part.first_skip[:, :, None] + part.first_out[None, :, :]
    same = tables.stages[stage].same
    if same.any():
        total = total + same[:, :, None] * part.identity[None, :, :]
    return np.asarray(total)


def whole_stage(tables: Coefficients, stage: int) -> NDArray[np.bool_]:
    """Return which (in, out, inner) some design may have.

    Args:
        tables: the problem's tables.
        stage: index of the stage from 0.
    """
    grid = tables.stages[stage]
    return grid.allows_in_inner[:, None, :] & grid.allows_in_out[:, :, None] & grid.allows_out_inner[None, :, :]


def sample_designs(tables: Coefficients, count: int, *, seed: int) -> Ints:
    """Return random designs of the space as [count, choices].

    Args:
        tables: the problem's tables.
        count: how many.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    starts = np.flatnonzero(whole_stage(tables, 0).any(axis=(1, 2)))
    designs = np.empty((count, 1 + 3 * len(tables.stages)), dtype=np.int64)
    designs[:, 0] = random.choice(starts, count)
    for i, grid in enumerate(tables.stages):
        allowed = whole_stage(tables, i)
        for before in np.unique(designs[:, width_column(i)]):
            rows = designs[:, width_column(i)] == before
            pairs = np.argwhere(allowed[before])
            designs[np.ix_(rows, [1 + 3 * i, 2 + 3 * i])] = pairs[random.integers(0, len(pairs), rows.sum())]
        designs[:, 3 + 3 * i] = random.integers(grid.depth[0], grid.depth[1] + 1, count)
    return designs
