"""Continuous designs for many values of the limits; what all of them share is worked out once. Layer 3 (optimize)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from deepmad_hw.latency import LatencyModel
from deepmad_hw.optimize.coefficients import coefficients, with_limits
from deepmad_hw.optimize.continuous import ContinuousResult, solve_continuous
from deepmad_hw.problem import Problem


def continuous_designs(
    problems: Iterable[Problem], models: Mapping[str, LatencyModel]
) -> Iterator[ContinuousResult | None]:
    """Yield the continuous design of each problem, or None where none was found.

    Args:
        problems: which differ in the values of their limits only.
        models: latency models by table name.

    Raises:
        ConfigError: they differ in more.
        InfeasibleError: the rules and the tables leave no design.
    """
    tables = None
    for problem in problems:
        tables = coefficients(problem, models) if tables is None else with_limits(tables, problem)
        yield solve_continuous(tables)
