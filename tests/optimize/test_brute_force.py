"""Proofs and smallest reachable values against all designs of small spaces."""

from dataclasses import replace

import pytest
from small_problems import (
    LONG_S,
    MOST_DESIGNS,
    SHAPES,
    VARIANTS,
    all_designs,
    count_designs,
    feasible_problem,
    infeasible_problem,
    needs_faults,
    optimum_faults,
    small_problem,
    table_faults,
)

from deepmad_hw.network import families
from deepmad_hw.optimize import solve as solving
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem import check
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status

# The n-th problem has family n % 4 and shape n // 4 % 8: in steps of 37 any twenty meet every family and every shape.
PROBLEMS, STEP = 200, 37
FAMILIES = len(families.names())


@pytest.fixture(autouse=True)
def short_search(monkeypatch):
    """Leave the work to the exact model: a poor start is the harder test of it."""
    monkeypatch.setattr(solving, "PERTURBATIONS_BEFORE_PROOF", 2)


@pytest.mark.promise("T11", PROBLEMS)
def test_proved_optimum_is_the_best_of_all_designs(tries, request):
    """Each space with one kind of limits in turn; under `--stress` with every kind."""
    every, faults = request.config.getoption("--stress"), {}
    indices = [STEP * number % PROBLEMS for number in tries]
    for index in indices:
        for variant in VARIANTS if every else [list(VARIANTS)[(index + index // FAMILIES) % len(VARIANTS)]]:
            problem, models = feasible_problem(index, variant)
            assert count_designs(problem.space) <= MOST_DESIGNS
            faults[index, variant] = optimum_faults(problem, models) + table_faults(problem, models)
    assert {case: found for case, found in faults.items() if found} == {}
    assert {index // FAMILIES % len(SHAPES) for index in indices} == set(range(len(SHAPES)))
    assert {variant for _, variant in faults} == set(VARIANTS)


@pytest.mark.promise("T12", 200)
def test_infeasible_limits_come_with_the_smallest_values_that_work(tries):
    faults = {}
    for index in tries:
        problem, models = infeasible_problem(index)
        faults[index] = needs_faults(problem, models, solve(problem, models, Settings(time_limit_s=LONG_S)))
    assert {index: found for index, found in faults.items() if found} == {}


def test_memory_that_is_the_same_in_every_design_counts_too():
    """In problem 55 a row of the peak has no choice in it, and lies above the limit."""
    problem, models = infeasible_problem(55)
    assert needs_faults(problem, models, solve(problem, models, Settings(method="certified"))) == []


@pytest.mark.parametrize("index", [55, 3])
def test_a_search_that_finds_nothing_proves_that_there_is_nothing(index):
    problem, models = infeasible_problem(index)
    solution = solve(problem, models, Settings(method="fast"))
    assert solution.status is Status.INFEASIBLE
    assert needs_faults(problem, models, solution) == [] or "proved" not in solution.stopped


def test_a_search_that_finds_nothing_asks_the_exact_model_for_any_design(monkeypatch):
    problem, models = small_problem("bottleneck", "plain", 3)
    monkeypatch.setattr(solving.LocalSearch, "run", lambda *_, **__: None)
    solution = solve(problem, models, Settings(method="fast"))
    assert (solution.status, solution.bound) == (Status.FEASIBLE, None)
    assert check.refusals(problem, solution.architecture, solution.evaluation) == ()


def test_limits_that_no_single_one_can_mend_get_a_common_factor():
    problem, models = small_problem("basic", "depth one", 45)
    limits = problem.limits
    problem = replace(problem, limits=replace(limits, macs=limits.macs / 3, params=limits.params / 4, rho=0.02))
    solution = solve(problem, models)
    assert [(minimum.limit, minimum.unit) for minimum in solution.minimum_values] == [("all limits", "times")]
    assert needs_faults(problem, models, solution) == []


def test_stride_one_stages_have_first_blocks_that_may_add_their_input():
    problem, models = feasible_problem(26, "one table")
    tables = coefficients(problem, models)
    designs = all_designs(tables)
    same = tables.stages[0].same[designs[:, 0], designs[:, 1]]
    assert problem.space.stages[0].stride == 1
    assert 0 < same.sum() < len(designs) == count_designs(problem.space)
    assert tables.quantities["latency:one"].stages[0].identity.any()
