import time

import numpy as np
import pytest
from small_problems import best_by_brute_force, exact, small_problem

from deepmad_hw.network import families
from deepmad_hw.optimize import certified
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.optimize.milp import build, log_fan_in_ranges
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import Limits, Problem
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status


def test_paper_penalty_is_certified_too():
    problem, models = small_problem("mbconv", "plain", 3, penalty="variance")
    assert exact(problem, models).objective == pytest.approx(best_by_brute_force(problem, models), rel=1e-9)


def test_point_that_the_checker_refuses_is_cut_off_and_the_next_best_is_found(every_design):
    problem, models = small_problem("basic", "two stages", 2)
    tables = coefficients(problem, models)
    designs = every_design(tables)
    values = Evaluator(tables).evaluate(designs)
    ranked = [designs[i] for i in np.argsort(-values.objective) if values.excess[i] <= 0]
    refused = {tuple(design) for design in ranked[:3]}

    def judge(design):
        evaluation = check.evaluate_for(problem, tables.decode(design), models)
        return None if tuple(design) in refused else evaluation.objective

    outcome = certified.certify(tables, judge, start=None, gap=0.0, deadline=time.monotonic() + 60)
    assert tuple(outcome.design) == tuple(ranked[3])
    assert outcome.refused == 3


def test_start_is_kept_where_the_target_leaves_nothing_better(every_design):
    problem, models = small_problem("mbconv", "plain", 1)
    tables = coefficients(problem, models)
    designs = every_design(tables)
    values = Evaluator(tables).evaluate(designs)
    best = designs[np.argmax(np.where(values.excess <= 0, values.objective, -np.inf))]
    outcome = exact(problem, models, start=best, gap=0.3)
    assert tuple(outcome.design) == tuple(best)
    assert outcome.objective <= outcome.bound <= outcome.objective * 1.3 + 1e-9


@pytest.mark.parametrize("family", families.names())
def test_bound_from_a_poor_start_holds_for_every_design(family, every_design):
    problem, models = small_problem(family, "plain", 5)
    tables = coefficients(problem, models)
    designs = every_design(tables)
    values = Evaluator(tables).evaluate(designs)
    kept = np.flatnonzero(values.excess <= 0)
    optimum = values.objective[kept].max()
    poor = designs[kept[np.argsort(values.objective[kept])[len(kept) // 2]]]
    for gap in (0.02, 0.2):
        outcome = exact(problem, models, start=poor, gap=gap)
        assert outcome.objective <= optimum * (1 + 1e-9)
        assert optimum <= outcome.bound <= outcome.objective * (1 + gap) + 1e-6


def test_published_problem_is_certified_between_the_reference_values(published, proved):
    problem = published("deepmad-29m-288")
    solution = solve(problem, {}, Settings(method="certified", gap=0.012))
    incumbent, bound = proved("deepmad-29m-288")
    assert solution.status is Status.CERTIFIED
    assert check.refusals(problem, solution.architecture, solution.evaluation) == ()
    assert solution.objective <= bound
    assert incumbent <= solution.bound
    assert solution.gap <= 0.012


def test_same_problem_gives_the_same_design_and_bound():
    problem, models = small_problem("mbconv_se", "head", 4)
    one, other = (solve(problem, models, Settings(method="certified")) for _ in range(2))
    assert one.status is Status.CERTIFIED
    assert (one.architecture, one.bound, one.evaluation) == (other.architecture, other.bound, other.evaluation)


def test_bounds_on_the_sum_of_log_w_hold_for_every_design(space_of, every_design):
    problem = Problem(name="small", space=space_of("mbconv", seed=2, widths=2), limits=Limits())
    tables = coefficients(problem, {})
    ranges = log_fan_in_ranges(tables)
    for design in every_design(tables)[::37]:
        log_w = check.entropy.scales(tables.decode(design))[-1].log_fan_in
        assert ranges[-1].least[design[-3]] - 1e-9 <= log_w <= ranges[-1].most[design[-3]] + 1e-9
    assert build(tables, ranges=ranges).model.name == "small"
