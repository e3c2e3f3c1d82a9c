"""The limit on the largest share of blocks in one stage, against all designs of small spaces."""

from dataclasses import replace

import pytest
from small_problems import LONG_S, all_designs, small_problem, with_limit

from deepmad_hw.network import costs
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.quantities.stage_share import StageShare
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import Limits
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status


def problem_with(share, *, seed=2, quantile=0.7):
    """Return a problem of depths from 1 or 2 to several, and its tables."""
    problem, models = small_problem("bottleneck", "any order", seed, memory=False, quantile=quantile)
    return replace(problem, limits=Limits.of({**problem.limits.named(), "stage_share": share})), models


def kept(problem, models):
    """Return the evaluation of every design that keeps all limits."""
    tables = coefficients(problem, models)
    for design in all_designs(tables):
        architecture = tables.decode(design)
        evaluation = check.evaluate_for(problem, architecture, models)
        if not check.refusals(problem, architecture, evaluation):
            yield evaluation


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("share", [0.5, 0.6, 0.7])
def test_the_proved_optimum_is_the_best_of_all_designs(share, seed):
    problem, models = problem_with(share, seed=seed)
    solution = solve(problem, models, Settings(time_limit_s=LONG_S))
    best = max((evaluation.objective for evaluation in kept(problem, models)), default=None)
    assert (solution.status is Status.CERTIFIED) == (best is not None)
    if best is not None:
        assert solution.evaluation.other("stage_share") <= share
        assert solution.objective <= best * (1 + 1e-9)
        assert best <= solution.bound * (1 + 1e-9)


def test_the_smallest_share_of_the_space_is_that_of_the_most_even_depths():
    problem, models = problem_with(0.5)
    tables = coefficients(problem, models)
    smallest = StageShare(tables, "stage_share", 0.5).smallest()
    shares = [costs.stage_share(tables.decode(design)) for design in all_designs(tables)]
    assert smallest.value == min(shares)
    assert costs.stage_share(tables.decode(smallest.design)) == smallest.value


def test_what_it_would_need_given_the_others_is_found():
    problem, models = problem_with(0.05)
    solution = solve(problem, models, Settings(time_limit_s=LONG_S))
    assert solution.status is Status.INFEASIBLE
    (needed,) = [each for each in solution.minimum_values if each.limit == "stage_share"]
    assert needed.proved
    assert (
        solve(with_limit(problem, "stage_share", needed.value), models, Settings(time_limit_s=LONG_S)).architecture
        is not None
    )
    lower = with_limit(problem, "stage_share", needed.value * 0.99)
    assert solve(lower, models, Settings(time_limit_s=LONG_S)).status is Status.INFEASIBLE
