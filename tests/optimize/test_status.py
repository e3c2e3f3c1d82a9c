"""Whatever the solver says, only the checker makes a design certified."""

import math

import highspy
import numpy as np
import pytest
from lying_highs import POINTS, STATUSES, lying_highs
from small_problems import LONG_S, all_designs, best_by_brute_force, with_limit

from deepmad_hw import check
from deepmad_hw.optimize import certified
from deepmad_hw.optimize import solve as solving
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.optimize.fast import Found
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem import Limits, Problem
from deepmad_hw.solution import Status
from deepmad_hw.space import Space, StageSpace

GAP = 0.005
CLAIMS = {"none": math.inf, "no number": math.nan, "below": 0.5, "tight": 1.0, "close": 1.001, "far": 2.0}
STOPPED = highspy.HighsModelStatus
BELIEVED = {  # after errors a bound means nothing
    STOPPED.kOptimal,
    STOPPED.kTimeLimit,
    STOPPED.kIterationLimit,
    STOPPED.kSolutionLimit,
    STOPPED.kMemoryLimit,
    STOPPED.kInterrupt,
    STOPPED.kObjectiveBound,
    STOPPED.kObjectiveTarget,
}


@pytest.fixture(scope="module")
def asked():
    """Return a tiny problem, its designs by falling objective, and the best objective within the limits."""
    stage = StageSpace(stride=2, out=(16, 24), bottleneck=(8, 16), kernel=(3,), depth=(1, 4))
    space = Space(
        family="basic", resolution=(32, 32), stem=(8,), stages=(stage,), bottleneck_ratio=(0.1, 4.0), classes=0
    )
    problem = Problem(name="tiny", space=space, limits=Limits(macs=900_000, rho=0.09))
    tables = coefficients(problem, {})
    designs = all_designs(tables)
    values = Evaluator(tables).evaluate(designs)
    kept = designs[values.excess <= 0]
    assert 5 < len(kept) < len(designs)
    assert not Evaluator(tables).evaluate(_deepest(tables, kept)).excess.min() <= 0
    order = np.argsort(-values.objective[values.excess <= 0])
    return problem, kept[order], best_by_brute_force(problem, {})


def _deepest(tables, designs):
    deepest = designs.copy()
    deepest[:, 3::3] = [grid.depth[1] for grid in tables.stages]
    return deepest


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.name)
def test_nothing_is_certified_without_a_checked_design_and_a_close_bound_above_it(status, point, asked, monkeypatch):
    problem, kept, best = asked
    monkeypatch.setattr(solving, "solve_continuous", lambda _: None)
    monkeypatch.setattr(certified, "MAX_SOLVES", 3)
    good = point in ("good", "wrong objective")
    cases = [(claim, None) for claim in (CLAIMS if point == "good" else ["tight"])] + [("tight", kept[1])]
    for claim, start in cases:
        monkeypatch.setattr(solving.Search, "run", lambda *_, start=start, **__: _found(start))
        monkeypatch.setattr(highspy, "Highs", lying_highs(status, point, CLAIMS[claim] * best))
        solution = solve(problem, {}, gap=GAP, time_limit_s=LONG_S)
        _assert_honest(solution, problem, status)
        if good and start is None and status is not STOPPED.kInfeasible:
            proved = status in BELIEVED and claim in ("tight", "close")
            assert solution.status is (Status.CERTIFIED if proved else Status.FEASIBLE), claim
            assert solution.objective == pytest.approx(best, rel=1e-9)
        if not good and start is None:
            assert solution.status in (Status.FAILED, Status.INFEASIBLE)


def _found(start):
    return None if start is None else Found(design=start, objective=0.0)


def _assert_honest(solution, problem, status):
    """Hold an answer against plain numbers."""
    if solution.architecture is not None:
        truth = check.evaluate_for(problem, solution.architecture, {})
        assert solution.evaluation == truth
        assert check.refusals(problem, solution.architecture, truth) == ()
        assert solution.bound is None or truth.objective <= solution.bound < math.inf
    assert (solution.architecture is None) == (solution.status in (Status.FAILED, Status.INFEASIBLE))
    if solution.status is Status.CERTIFIED:
        assert solution.bound <= solution.objective * (1 + GAP)
    if solution.status is Status.INFEASIBLE:
        assert status is STOPPED.kInfeasible
    for tight in solution.tightest:
        value = tight.value * (1 + 1e-9)  # a factor on all limits is rounded
        assert best_by_brute_force(with_limit(problem, tight.limit, value), {}) is not None
