"""Objective and limits of thousands of designs at once, from the problem's tables. Layer 3 (optimize).

What is said here is quick, not final: `deepmad_hw.problem.check` judges every design that is returned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.encoding import Designs
from deepmad_hw.optimize.quantities import limited, objective_terms, sums_read
from deepmad_hw.optimize.walked import Walk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Values:
    """What is known of n designs.

    Args:
        objective: [n].
        excess: [n] sum over limits of the relative amount by which each is broken.
        magnitude: [n] what a share of 1 is: |objective| of DeepMAD's, else the sum of the terms' magnitudes.
    """

    objective: Floats
    excess: Floats
    magnitude: Floats


class Evaluator:
    """Evaluates designs, rows of positions as `Coefficients.encode` gives them.

    Args:
        tables: the problem's tables.
    """

    def __init__(self, tables: Coefficients) -> None:
        self.tables = tables
        self._limits, self._terms = limited(tables), objective_terms(tables)
        self._walk = Walk(tables, sums_read(self._limits, self._terms))
        self._allowed = [grid.allows for grid in tables.stages]

    def allowed(self, designs: Ints) -> NDArray[np.bool_]:
        """Return which designs keep the space's rules and are covered by all tables.

        Args:
            designs: [n, columns].
        """
        found = np.ones(len(designs), dtype=bool)
        for i, (before, out, inner, depth) in enumerate(Designs(designs).by_stage()):
            low, high = self.tables.stages[i].depth
            found &= self._allowed[i][before, out, inner] & (depth >= low) & (depth <= high)
        return found

    def evaluate(self, designs: Ints) -> Values:
        """Return objective and broken limits of designs that the space allows.

        Args:
            designs: [n, columns].
        """
        walked = self._walk(designs)
        excess = np.zeros(len(designs))
        for limit in self._limits:
            excess += limit.excess(walked)
        objective = np.zeros(len(designs))
        magnitude = np.zeros(len(designs))
        for term in self._terms:
            values = term.values(walked)
            objective += values
            magnitude += np.abs(values)
        if self.tables.problem.objective is None:
            magnitude = np.abs(objective)
        return Values(objective=objective, excess=excess, magnitude=magnitude)

    def magnitude(self, design: Ints) -> float:
        """Return what a share of 1 is for one design, see `Values`.

        Args:
            design: a row of positions.
        """
        return float(self.evaluate(design[None]).magnitude[0])
