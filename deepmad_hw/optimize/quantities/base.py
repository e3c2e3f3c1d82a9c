"""What a quantity must say of itself to be limited or maximised. Layer 3 (optimize)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.linear import LinearTerm, Milp, Sum
from deepmad_hw.optimize.smooth import Nlp
from deepmad_hw.optimize.walked import Walked
from deepmad_hw.problem import limits
from deepmad_hw.problem.solution import Evaluation, MinimumValue

MOST_STEPS = 40  # of `lowered`
PROOF_GAP = 1e-5  # relative, of the value that it ends with

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Minimum:
    """The smallest value of a quantity over designs, and one that has it.

    Args:
        value: in the quantity's unit.
        design: a row of positions.
    """

    value: float
    design: Ints


class Relaxed(Protocol):
    """An infeasible problem without one of its limits: what `Limited.smallest_given_others` asks."""

    def milp(self) -> Milp | None:
        """Return the problem's model without the limit, None if there is no time left."""

    def minimise(self, milp: Milp, total: Sum) -> tuple[Ints, bool] | None:
        """Return the design of the smallest sum and whether that is proved, or None without a point."""

    def evaluate(self, design: Ints) -> Evaluation:
        """Return the checker's word on a design."""


class Limited(ABC):
    """A quantity that a problem limits: ``value <= limit``.

    Args:
        tables: the problem's tables.
        name: of the limit.
        limit: largest value allowed, in the quantity's unit.
    """

    sums: tuple[str, ...] = ()
    """Names of the sums over layers that `excess` reads."""

    def __init__(self, tables: Coefficients, name: str, limit: float) -> None:
        self.tables, self.name, self.limit = tables, name, limit
        self.quantity = limits.quantity(name)

    @abstractmethod
    def excess(self, walked: Walked) -> Floats:
        """Return by which share of the limit each of n designs breaks it, 0 where it is kept.

        Args:
            walked: the designs.
        """

    @abstractmethod
    def add_to_milp(self, milp: Milp) -> None:
        """Add the rows of the limit.

        Args:
            milp: the model.
        """

    @abstractmethod
    def add_share_to_milp(self, milp: Milp, share: Sum, factor: float) -> None:
        """Add rows by which a share is at least the part of ``factor * limit`` that a design uses, where that is a sum.

        Args:
            milp: the model.
            share: of one variable.
            factor: that the limit is multiplied by.
        """

    @abstractmethod
    def amount(self, milp: Milp) -> Sum:
        """Return what grows with the quantity, for a model to minimise.

        Args:
            milp: the model.
        """

    @abstractmethod
    def add_to_nlp(self, nlp: Nlp) -> None:
        """Add the rows of the limit, with what a step of it is worth.

        Args:
            nlp: the model.
        """

    @abstractmethod
    def of(self, design: Ints) -> float:
        """Return the quantity of one design.

        Args:
            design: a row of positions.
        """

    @abstractmethod
    def smallest(self) -> Minimum:
        """Return the smallest value that a design of the space has, whatever else it costs."""

    def smallest_given_others(self, relaxed: Relaxed) -> tuple[Minimum, bool] | None:
        """Return the smallest value of designs that keep all other limits and whether it is proved, None if none does.

        Args:
            relaxed: the problem without this limit.
        """
        milp = relaxed.milp()
        answer = None if milp is None else relaxed.minimise(milp, self.amount(milp))
        if answer is None:
            return None
        design, proved = answer
        return Minimum(value=float(self.quantity.value(relaxed.evaluate(design))), design=design), proved

    def is_broken(self, value: float) -> bool:
        """Return whether a value breaks the limit.

        Args:
            value: of the quantity.
        """
        return value > self.limit

    def minimum_value(self, value: float, *, proved: bool) -> MinimumValue:
        """Return a value as solutions carry it.

        Args:
            value: the smallest value.
            proved: whether it is a proved minimum.
        """
        return MinimumValue(limit=self.name, value=value, unit=self.quantity.unit, proved=proved)


class ObjectiveTerm(LinearTerm, Protocol):
    """One term of the sum that a problem maximises."""

    @property
    def sums(self) -> tuple[str, ...]:
        """Return the names of the sums over layers that `values` reads."""

    def values(self, walked: Walked) -> Floats:
        """Return the term of each of n designs."""

    def of_nlp(self, nlp: Nlp) -> Any:
        """Return the term as an expression."""


def lowered(
    relaxed: Relaxed,
    minus_slack: Callable[[Milp, float], Sum],
    value: Callable[[Ints], float],
    start: float,
) -> tuple[Minimum, bool] | None:
    """Return the smallest value of a ratio among designs that keep all other limits (Dinkelbach's method).

    The limit is lowered as long as a design with slack under it exists; each step ends at that design's own value.

    Args:
        relaxed: the problem without the limit.
        minus_slack: returns minus the slack that a model's designs have under a limit.
        value: of a design.
        start: a limit that every design keeps.
    """
    limit, best = start, None
    for _ in range(MOST_STEPS):
        milp = relaxed.milp()
        answer = None if milp is None else relaxed.minimise(milp, minus_slack(milp, limit))
        if answer is None:
            break
        reached = value(answer[0])
        if reached >= limit * (1 - PROOF_GAP):
            design = answer[0] if best is None or reached < limit else best
            return Minimum(value=value(design), design=design), answer[1]
        limit, best = reached, answer[0]
    return None if best is None else (Minimum(value=value(best), design=best), False)


def bisected(
    found: Callable[[float], Ints | None],
    value: Callable[[Ints], float],
    start: Ints,
    *,
    tolerance: Callable[[float], float],
) -> Minimum:
    """Return the smallest limit for which a design is found, by halving.

    Args:
        found: returns a design that keeps a limit, or None where there is none.
        value: of a design.
        start: any design.
        tolerance: of the answer, for the value so far.
    """
    low, best, design = 0.0, value(start), start
    while best - low > tolerance(best):
        middle = (low + best) / 2
        better = found(middle)
        if better is None:
            low = middle
        else:
            design, best = better, min(middle, value(better))
    return Minimum(value=value(design), design=design)
