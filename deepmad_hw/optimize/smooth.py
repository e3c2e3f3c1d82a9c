"""The continuous model while it is put together: widths, kernels and depths as real numbers. Layer 3 (optimize)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyomo.environ as pyo
from pyomo.common.collections import ComponentMap

from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.problem import entropy


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PricedRow:
    """A row ``body <= 0`` or ``body <= 1``, and how far one step of its limit moves that right side.

    Args:
        row: the constraint.
        per_step: read once the model is solved.
    """

    row: Any
    per_step: Callable[[], float]


@dataclass(kw_only=True, slots=True, eq=False)
class Nlp:
    """The continuous model of one problem.

    Args:
        model: Pyomo's; ``log_width[0..S]``, ``log_bottleneck[1..S]``, ``log_kernel[1..S]`` and ``depth[1..S]`` are
            its variables, ``rows`` its constraints.
        tables: what it was made from.
        network: the network with expressions for numbers, as `deepmad_hw.network.expand.sections` takes it.
        scales: its scales.
        terms: of the objective, as expressions.
        rows: the rows of each limit by name of its price, with the text of the price's step.
        surrogate_error: (median, worst) relative error of each latency stand-in, by name of the limit.
    """

    model: Any
    tables: Coefficients
    network: Any
    scales: tuple[entropy.Scale, ...] = ()
    terms: tuple[Any, ...] = ()
    rows: dict[str, tuple[str, list[PricedRow]]] = field(default_factory=dict)
    surrogate_error: dict[str, tuple[float, float]] = field(default_factory=dict)


class Logarithm:
    """Takes logarithms of numbers and expressions; that of ``exp(x)``, where x is a variable, is x itself."""

    def __init__(self) -> None:
        self._known: Any = ComponentMap()

    def exp(self, variable: Any) -> Any:
        """Return the exponential of a variable, whose logarithm is known from now on.

        Args:
            variable: of the model.
        """
        expression = pyo.exp(variable)
        self._known[expression] = variable
        return expression

    def __call__(self, number: Any) -> Any:
        """Return the natural logarithm.

        Args:
            number: a number or an expression.
        """
        if isinstance(number, int | float):
            return math.log(number)
        return self._known[number] if number in self._known else pyo.log(number)
