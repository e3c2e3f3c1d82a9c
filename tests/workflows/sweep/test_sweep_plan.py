"""Plans of sweeps: order, chains, and what makes no line."""

from dataclasses import replace

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import LatencyLimit
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status
from deepmad_hw.workflows.design.design import Question
from deepmad_hw.workflows.sweep.sweep import not_below
from deepmad_hw.workflows.sweep.sweep_plan import CHAIN_POINTS, Plan, each_device, line


@pytest.fixture
def asked(problem, load, table):
    def question(budget_ms, macs=50_000_000, tables=("board",)):
        latency = tuple(LatencyLimit(table=name, budget_ms=budget_ms) for name in tables)
        return Question(
            problem=replace(problem, limits=replace(problem.limits, macs=macs, latency=latency)),
            models={name: load(table) for name in tables},
            tables=dict.fromkeys(tables, table),
        )

    return question


def test_points_are_solved_from_the_smallest_budget_in_chains_that_only_their_number_decides(asked):
    points = line([(f"{ms}ms", asked(float(ms))) for ms in range(13, 0, -1)])
    plan = Plan(name="small", lines=(points,))
    assert [point.name for point in plan.points] == [f"{ms}ms" for ms in range(1, 14)]
    assert [len(chain) for chain in plan.chains] == [4, 5, 4]
    assert max(map(len, plan.chains)) <= CHAIN_POINTS
    assert tuple(point for chain in plan.chains for point in chain) == plan.points


def test_budgets_that_pull_apart_make_no_line(asked):
    points = line([("a", asked(1.0, macs=2_000)), ("b", asked(2.0, macs=1_000))])
    with pytest.raises(ConfigError, match="one budget grows and another shrinks from a to b"):
        Plan(name="small", lines=(points,))


def test_two_points_of_one_name_are_refused(asked):
    with pytest.raises(ConfigError, match="two points of one name"):
        Plan(name="small", lines=(line([("a", asked(1.0)), ("a", asked(2.0))]),))


def test_points_that_would_share_one_log_of_the_solver_are_refused(asked, tmp_path):
    with pytest.raises(ConfigError, match="solver_log: points that are solved side by side share no log"):
        Plan(name="small", lines=(line([("a", asked(1.0))]),), settings=Settings(solver_log=tmp_path / "log"))


def test_each_devices_own_line_keeps_the_other_limits(asked):
    shared = line([("a", asked(1.0, tables=("board", "phone")))])
    own = each_device(shared)
    assert [points[0].name for points in own] == ["board-only-a", "phone-only-a"]
    assert [limit.table for limit in own[1][0].question.problem.limits.latency] == ["phone"]
    assert own[1][0].question.problem.limits.macs == 50_000_000


def test_a_neighbour_that_is_worth_more_takes_the_place_and_keeps_an_honest_status(problem, solution, load, table):
    models = {"board": load(table)}
    smaller = replace(solution.architecture, stages=(solution.architecture.stages[0],) * 2)
    worse = replace(
        solution,
        architecture=None,
        evaluation=replace(solution.evaluation, objective=solution.evaluation.objective * 0.9),
    )
    taken = not_below(worse, problem, solution.architecture, models, gap=0.005)
    assert taken.architecture == solution.architecture
    assert taken.evaluation == check.evaluate_for(problem, solution.architecture, models)
    assert taken.status is Status.CERTIFIED
    far = not_below(replace(worse, bound=worse.bound * 2), problem, solution.architecture, models, gap=0.005)
    assert far.status is Status.FEASIBLE
    disproved = not_below(replace(worse, bound=1.0), problem, solution.architecture, models, gap=0.005)
    assert (disproved.status, disproved.bound) == (Status.FEASIBLE, None)
    assert not_below(solution, problem, smaller, models, gap=0.005) is solution


def test_a_neighbour_that_breaks_a_limit_is_passed_over(problem, solution, load, table):
    tight = replace(problem, limits=replace(problem.limits, macs=1_000))
    worse = replace(solution, evaluation=replace(solution.evaluation, objective=1.0))
    assert not_below(worse, tight, solution.architecture, {"board": load(table)}, gap=0.005) is worse
