"""Continuous designs for many values of the limits."""

from dataclasses import replace

import pytest
from small_problems import feasible_problem

from deepmad_hw.errors import ConfigError
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.continuous import continuous_designs, solve_continuous


@pytest.fixture
def family():
    """Return three problems that differ in rho and budget, and their tables."""
    problem, models = feasible_problem(0, "one table")

    def scaled(factor):
        limits = problem.limits
        latency = tuple(replace(limit, budget_ms=limit.budget_ms * factor) for limit in limits.latency)
        return replace(problem, limits=replace(limits, rho=(limits.rho or 0.5) * factor, latency=latency))

    return [scaled(factor) for factor in (1.0, 1.3, 1.6)], models


def test_each_design_is_the_one_that_the_problem_alone_has(family):
    problems, models = family
    alone = [solve_continuous(coefficients(problem, models)) for problem in problems]
    together = list(continuous_designs(problems, models))
    assert [found.design.objective for found in together] == [found.design.objective for found in alone]
    assert len({found.design.objective for found in together}) > 1


def test_problems_that_differ_in_more_than_limits_are_refused(family):
    (first, second, _), models = family
    other = replace(second, space=replace(second.space, max_growth=1.5))
    with pytest.raises(ConfigError, match="differ in more than the values of their limits"):
        list(continuous_designs([first, other], models))
