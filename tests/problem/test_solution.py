"""What came out, and how sure that is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmad_hw.problem.solution import ContinuousDesign, Evaluation, ScaleValue, Solution, Status

EVALUATION = Evaluation(
    score=1010.0,
    penalty=10.0,
    objective=1000.0,
    scales=(
        ScaleValue(pixels=64, channels=8, entropy=10.0, rho=0.25),
        ScaleValue(pixels=16, channels=8, entropy=125.0, rho=0.5),
        ScaleValue(pixels=4, channels=8, entropy=125.0, rho=0.125),
    ),
    macs=1,
    params=2,
    memory_bytes=3,
)
CONTINUOUS = ContinuousDesign(objective=1100.0, stem=9.5, stages=(), iterations=12, solve_ms=50.0)


def solution(**changes):
    fields = {"problem": "p", "method": "certified", "status": Status.FEASIBLE, "stopped": "time limit"}
    return Solution(**(fields | changes))


def test_statuses_are_their_words():
    assert [str(status) for status in Status] == ["certified", "feasible", "local", "infeasible", "failed"]


def test_max_rho_is_over_all_scales():
    assert EVALUATION.max_rho == 0.5


def test_gap_is_relative_to_the_checked_objective():
    assert solution(evaluation=EVALUATION, bound=1005.0).gap == pytest.approx(0.005)


@pytest.mark.parametrize(("objective", "expected"), [(-100.0, 0.5), (0.0, None)])
def test_gap_beside_a_worthless_design_is_still_a_distance(objective, expected):
    assert solution(evaluation=replace(EVALUATION, objective=objective), bound=-50.0).gap == expected


@given(*(st.floats(-1e9, 1e9, allow_subnormal=False) for _ in range(2)))
def test_gap_is_negative_only_where_the_bound_lies_below_the_design(objective, bound):
    gap = solution(evaluation=replace(EVALUATION, objective=objective), bound=bound).gap
    assert (gap is None) == (objective == 0)
    assert gap is None or (gap < 0) == (bound < objective)


@pytest.mark.parametrize("known", [{}, {"bound": 1005.0}, {"evaluation": EVALUATION}, {"continuous": CONTINUOUS}])
def test_no_gap_without_both_bound_and_design(known):
    assert solution(**known).gap is None


def test_the_objective_is_the_checked_one_before_the_continuous_one():
    assert solution().objective is None
    assert solution(continuous=CONTINUOUS).objective == 1100.0
    assert solution(continuous=CONTINUOUS, evaluation=EVALUATION).objective == 1000.0


def test_timings_are_not_compared():
    assert solution(timings_ms=(("solve", 5.0),)) == solution(timings_ms=(("solve", 9.0),))
    assert solution(seed=1) != solution(seed=2)
