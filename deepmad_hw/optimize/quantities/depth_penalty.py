"""DeepMAD's depth penalty Q, in all forms. Layer 3 (optimize).

    Q = exp(s)        s = std(L) (released code) or var(L) (paper), over the depths that count; its weight is beta

Q is convex in the depths L. The integer model bounds it from below: s by a polyhedral cone, exp by tangents, and Q by
its own tangent at every design that was found, so the model's optimum bounds every design's objective.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.encoding import Designs
from deepmad_hw.optimize.linear import Cut, Milp, Sum
from deepmad_hw.optimize.smooth import Nlp
from deepmad_hw.optimize.walked import Walked
from deepmad_hw.problem import entropy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TURNS = 6  # of a polyhedral cone: the norm of two numbers comes out at most 0.03 % too small
SPREAD_STEP = 0.1  # between tangents of exp: Q comes out at most 0.13 % too small
STEEPEST = 8.0  # standard deviation of depths beyond which no more tangents are laid (Q is 30,000 there)
LARGEST_SPREAD = 100.0  # beyond which exp would be of no use
EQUAL = 1e-6  # standard deviation of depths below which they are the same, so that Q has no gradient
VARIANCE_FLOOR = 1e-4  # keeps the standard deviation smooth where all depths are equal; worth < 0.1 of the objective


def depth_penalty(tables: Coefficients) -> DepthPenalty | None:
    """Return the term of a problem, None where it has no weight.

    Args:
        tables: the problem's tables.
    """
    return DepthPenalty(tables) if tables.problem.worth.penalty_weight else None


class DepthPenalty:
    """Minus beta Q, as a term of the objective.

    Args:
        tables: the problem's tables.
    """

    sums: tuple[str, ...] = ()

    def __init__(self, tables: Coefficients) -> None:
        space, worth = tables.problem.space, tables.problem.worth
        self._weight = worth.penalty_weight
        self._squared = worth.penalty == "variance"
        self.stages = [i - 1 for i in entropy.penalised_stages(worth, space.family, len(space.stages))]

    def values(self, walked: Walked) -> Floats:
        """Return -beta Q, [n]."""
        if len(self.stages) < 2:
            return np.full(len(walked.designs.rows), -float(self._weight))
        variance = walked.designs.depths[:, self.stages].var(axis=1)
        return np.asarray(-self._weight * np.exp(variance if self._squared else np.sqrt(variance)))

    def add_to_milp(self, milp: Milp) -> Sum:
        """Return minus a variable that is at most Q: ``Q >= tangent of beta exp(s) at s_0`` for a row of s_0."""
        model = milp.model
        model.penalty = pyo.Var(bounds=(self._weight, None))
        total = Sum(variables=[model.penalty], factors=[-1.0])
        depths = self._depths(milp)
        if len(depths) < 2:
            model.penalty.setub(self._weight)
            return total
        mean = sum(depths) / len(depths)
        most = max(depth.ub for depth in depths) - min(depth.lb for depth in depths)
        model.cone = pyo.VarList(bounds=(0, most * len(depths)))  # finite, so that any prices of the rows give a bound
        norm = _norm(model, [depth - mean for depth in depths])
        model.spread = pyo.Var(bounds=(0, most))
        model.rows.add(model.spread == norm / math.sqrt(len(depths)))
        steepest = math.sqrt(STEEPEST) if self._squared else STEEPEST
        step = SPREAD_STEP / (2 if self._squared else 1)
        for at in np.arange(0.0, min(most / 2, steepest) + SPREAD_STEP, step):
            value = self._weight * math.exp(at**2 if self._squared else at)
            slope = value * (2 * at if self._squared else 1.0)
            model.rows.add(model.penalty >= value + slope * (model.spread - at))
            model.penalty.setub(max(self._weight, value + slope * (most - at)))
        return total

    def _depths(self, milp: Milp) -> list[Any]:
        return [milp.stages[i].depth for i in self.stages]

    def cut(self, milp: Milp, design: Ints) -> Cut | None:
        """Return the tangent of Q at a design: ``Q >= Q(L_0) + grad Q(L_0) . (L - L_0)``.

        None where depths are equal, and where it rises above the variable's upper bound for some depths.
        """
        depths = Designs(design).depths[self.stages].astype(float)
        if len(depths) < 2 or depths.std() < EQUAL:
            return None
        value = self._weight * math.exp(min(float(depths.var() if self._squared else depths.std()), LARGEST_SPREAD))
        slope = 2.0 if self._squared else 1 / depths.std()
        gradient = value * slope * (depths - depths.mean()) / len(depths)
        row = Sum(variables=[milp.model.penalty, *self._depths(milp)], factors=[1.0, *(-gradient).tolist()])
        low = float(value - gradient @ depths)
        ends = np.array([milp.tables.stages[i].depth for i in self.stages], dtype=float)
        highest = low + float(np.maximum(gradient * ends[:, 0], gradient * ends[:, 1]).sum())
        if highest > milp.model.penalty.ub:  # the variable could not follow: designs would be cut off
            return None
        return Cut(key=("depth penalty", *depths.tolist()), sum=row, low=low)

    def of_nlp(self, nlp: Nlp) -> Any:
        """Return -beta Q as an expression, the standard deviation smooth at 0."""
        depths = [nlp.model.depth[stage + 1] for stage in self.stages]
        if len(depths) < 2:
            return -self._weight
        mean = sum(depths) / len(depths)
        variance = sum((depth - mean) ** 2 for depth in depths) / len(depths)
        spread = variance if self._squared else pyo.sqrt(variance + VARIANCE_FLOOR)
        return -self._weight * pyo.exp(spread)


def _norm(model: Any, parts: Sequence[Any]) -> Any:
    """Return a variable that a least-cost solution makes the Euclidean norm of linear expressions, never above it.

    Pairs are joined in a tree; each pair's cone is cut out by a few rotations (Ben-Tal and Nemirovski, "On polyhedral
    approximations of the second-order cone", Mathematics of Operations Research 26, 2001).
    """
    while len(parts) > 1:
        joined = [_norm_of_two(model, *pair) for pair in zip(parts[0::2], parts[1::2], strict=False)]
        parts = joined + list(parts[len(parts) - len(parts) % 2 :])
    return parts[0]


def _norm_of_two(model: Any, one: Any, other: Any) -> Any:
    along, across = model.cone.add(), model.cone.add()
    for variable, part in ((along, one), (across, other)):
        model.rows.add(variable >= part)
        model.rows.add(variable >= -part)
    for turn in range(1, TURNS + 1):
        angle = math.pi / 2 ** (turn + 1)
        turned = math.cos(angle) * along + math.sin(angle) * across
        rest = -math.sin(angle) * along + math.cos(angle) * across
        along, across = model.cone.add(), model.cone.add()
        model.rows.add(along == turned)
        model.rows.add(across >= rest)
        model.rows.add(across >= -rest)
    model.rows.add(across <= math.tan(math.pi / 2 ** (TURNS + 1)) * along)
    return along
