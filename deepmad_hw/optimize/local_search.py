"""Iterated local search: round the continuous point, ascend over the exact tables, perturb, repeat. Layer 3 (optimize).

Moves change one choice by a step or two, or two or three choices at once; every neighbour is evaluated with the true
tables, the true depth penalty and every limit. The result is a good design, and nothing is proved about it.

Source: Lourenco, Martin and Stuetzle, "Iterated Local Search", Handbook of Metaheuristics, 2003.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.optimize.coefficients import Coefficients, sample_designs
from deepmad_hw.optimize.encoding import encoded, inner_stage, stage_columns
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.problem.objective import search_unit
from deepmad_hw.problem.solution import ContinuousDesign

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROUNDINGS = 2000  # of the continuous point
RANDOM_STARTS = 2000  # random designs, for problems whose continuous point says nothing
PERTURBATIONS = 60  # of a good design, each followed by an ascent
PERTURBATION_MOVES = 6
ACCEPTANCE_THRESHOLD = 0.02  # share of the objective's magnitude below the best from where a restart may go on
LIMIT_PENALTY = 2.0  # relative objective given up to come nearer to a limit by a relative 1; doubled until limits hold


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Found:
    """What the search ended with.

    Args:
        design: choices as `Coefficients.encode` gives them.
        objective: by the tables.
    """

    design: Ints
    objective: float


class LocalSearch:
    """Iterated local search over designs of one problem; the same seed gives the same answer.

    Args:
        tables: the problem's tables.
        seed: of the roundings and perturbations.
        perturbations: how many times a good design is perturbed and improved again.
        deadline: `time.monotonic` after which no new ascent starts, or None.
    """

    def __init__(
        self, tables: Coefficients, *, seed: int = 0, perturbations: int = PERTURBATIONS, deadline: float | None = None
    ) -> None:
        self._tables = tables
        self._evaluator = Evaluator(tables)
        self._random = np.random.default_rng(seed)
        self._deadline = deadline
        self._perturbations = perturbations
        self._refused: set[bytes] = set()
        self._limit_penalty = LIMIT_PENALTY
        self._low = encoded(0, [(0, 0, grid.depth[0]) for grid in tables.stages])
        ends = [(len(grid.out_widths) - 1, len(grid.bottleneck) - 1, grid.depth[1]) for grid in tables.stages]
        self._high = encoded(len(tables.stem_widths) - 1, ends)

    def refuse(self, design: Ints) -> None:
        """Never return a design again.

        Args:
            design: choices.
        """
        self._refused.add(design.tobytes())

    def run(self, start: ContinuousDesign | None, *, known: Sequence[Ints] = ()) -> Found | None:
        """Return the best design found that keeps every limit, or None.

        Args:
            start: the continuous point, if there is one.
            known: choices of designs that may be near a good one.
        """
        best = current = self._improved(self._first(start))
        for design in known:
            found = self._improved(design)
            best = current = max(best, found, key=lambda candidate: candidate[0])
        for _ in range(self._perturbations):
            if self._deadline is not None and time.monotonic() > self._deadline:
                break
            if best[0] == -np.inf:
                self._limit_penalty *= 2
            found = self._improved(self._perturbed(current[1]))
            if found[0] > best[0] - ACCEPTANCE_THRESHOLD * self._unit(self._evaluator.magnitude(best[1])):
                current = found
            best = max(best, current, key=lambda candidate: candidate[0])
        best = self._polished(best)
        merit, design = best
        return Found(design=design, objective=float(merit)) if self._strict(design[None])[0] > -np.inf else None

    # --- starts -----------------------------------------------------------------------------------------------------

    def _first(self, start: ContinuousDesign | None) -> Ints:
        candidates = sample_designs(self._tables, RANDOM_STARTS, seed=int(self._random.integers(2**31)))
        if start is not None:
            rounded = self._roundings(start)
            candidates = np.concatenate([candidates, rounded[self._evaluator.allowed(rounded)]])
        return np.asarray(candidates[np.argmax(self._lenient(candidates))])

    def _roundings(self, point: ContinuousDesign) -> Ints:
        stem = self._near(self._tables.stem_widths, point.stem)
        stages = []
        for grid, stage in zip(self._tables.stages, point.stages, strict=True):
            out = self._near(grid.out_widths, stage.out)
            bottlenecks, kernels = np.unique(grid.bottleneck), np.unique(grid.kernel)
            inner = self._near(bottlenecks, stage.bottleneck) * len(kernels) + self._near(kernels, stage.kernel)
            depth = np.clip(np.floor(stage.depth) + self._random.integers(-1, 3, ROUNDINGS), *grid.depth)
            stages.append((out, inner, depth))
        return encoded(stem, stages)

    def _near(self, values: Ints, wanted: float) -> Ints:
        """Return random picks among the grid's values around a wanted one."""
        above = int(np.searchsorted(values, wanted))
        return np.clip(above + self._random.integers(-2, 2, ROUNDINGS), 0, len(values) - 1)

    def _perturbed(self, design: Ints) -> Ints:
        chosen = self._random.integers(0, len(self._singles), (64, PERTURBATION_MOVES))
        kept = self._inside(design + self._singles[chosen].sum(axis=1))
        return np.asarray(kept[self._random.integers(0, len(kept))]) if len(kept) else design

    # --- moves ------------------------------------------------------------------------------------------------------

    @cached_property
    def _singles(self) -> Ints:
        """Return moves of one choice as differences; neighbours on the inner grid may change width or kernel."""
        moves = []
        for column in range(len(self._low)):
            steps = {1, 2}
            stage = inner_stage(column)
            if stage is not None:
                kernels = len(np.unique(self._tables.stages[stage - 1].kernel))
                steps = {1, kernels, 2 * kernels} if kernels > 1 else {1, 2}
            for step in sorted(steps):
                for sign in (-step, step):
                    move = np.zeros(len(self._low), dtype=np.int64)
                    move[column] = sign
                    moves.append(move)
        return np.array(moves)

    @cached_property
    def _pairs(self) -> Ints:
        first, second = np.triu_indices(len(self._singles), k=1)
        return np.concatenate([self._singles, self._singles[first] + self._singles[second]])

    @cached_property
    def _triples(self) -> Ints:
        small = self._singles[np.abs(self._singles).sum(axis=1) == 1]
        first, second = np.triu_indices(len(small), k=1)
        pairs = small[first] + small[second]
        triples = (pairs[:, None, :] + self._singles[None, :, :]).reshape(-1, len(self._low))
        return np.unique(triples, axis=0)

    def _inside(self, designs: Ints) -> Ints:
        inside = ((designs >= self._low) & (designs <= self._high)).all(axis=1)
        designs = designs[inside]
        return designs[self._evaluator.allowed(designs)]

    def _whole_stages(self, design: Ints) -> Ints:
        """Return all designs that differ in one stage's width, inner choice or depth, whatever the distance."""
        found = []
        for stage, grid in enumerate(self._tables.stages, start=1):
            out, inner, depth = np.meshgrid(
                np.arange(len(grid.out_widths)),
                np.arange(len(grid.bottleneck)),
                np.arange(grid.depth[0], grid.depth[1] + 1),
                indexing="ij",
            )
            variants = np.repeat(design[None], out.size, axis=0)
            variants[:, stage_columns(stage)] = np.stack([out.ravel(), inner.ravel(), depth.ravel()], axis=1)
            found.append(self._inside(variants))
        return np.concatenate(found)

    # --- local optima -------------------------------------------------------------------------------------------------

    def _improved(self, design: Ints) -> tuple[float, Ints]:
        """Return the merit and design of a local optimum: towards the limits first, then within them."""
        return self._steepest_ascent(self._strict, self._steepest_ascent(self._lenient, design)[1])

    def _steepest_ascent(self, merit: Callable[[Ints], Floats], design: Ints) -> tuple[float, Ints]:
        value = float(merit(design[None])[0])
        while True:
            better = self._best(merit, self._inside(design + self._pairs))
            if better is None or better[0] <= value:
                return value, design
            value, design = better

    def _polished(self, best: tuple[float, Ints]) -> tuple[float, Ints]:
        while True:
            designs = np.concatenate([self._whole_stages(best[1]), self._inside(best[1] + self._triples)])
            better = self._best(self._strict, designs)
            if better is None or better[0] <= best[0]:
                return best
            best = self._steepest_ascent(self._strict, better[1])

    def _best(self, merit: Callable[[Ints], Floats], designs: Ints) -> tuple[float, Ints] | None:
        if not len(designs):
            return None
        values = merit(designs)
        index = int(np.argmax(values))
        return float(values[index]), designs[index]

    def _unit(self, magnitude: float) -> float:
        return search_unit(self._tables.problem.worth, magnitude=magnitude)

    def _lenient(self, designs: Ints) -> Floats:
        values = self._evaluator.evaluate(designs)
        merit = values.objective - self._limit_penalty * self._unit(float(values.magnitude.max())) * values.excess
        return self._without_refused(designs, merit)

    def _strict(self, designs: Ints) -> Floats:
        values = self._evaluator.evaluate(designs)
        return self._without_refused(designs, np.where(values.excess > 0, -np.inf, values.objective))

    def _without_refused(self, designs: Ints, merit: Floats) -> Floats:
        if self._refused:
            merit[[design.tobytes() in self._refused for design in np.ascontiguousarray(designs)]] = -np.inf
        return merit
