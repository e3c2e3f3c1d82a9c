from dataclasses import replace

import numpy as np
import pytest
from small_problems import small_problem

from deepmad_hw.errors import ConfigError
from deepmad_hw.network import families
from deepmad_hw.optimize import solve as solving
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status

PUBLISHED = (
    "deepmad-r18",
    "deepmad-r34",
    "deepmad-r50",
    "deepmad-29m-224",
    "deepmad-29m-288",
    "deepmad-50m",
    "deepmad-89m",
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_fast_design_is_near_the_proved_bound(name, published, proved):
    problem = published(name)
    solution = solve(problem, {}, Settings(method="fast"))
    incumbent, bound = proved(name)
    assert solution.status is Status.FEASIBLE
    assert check.refusals(problem, solution.architecture, solution.evaluation) == ()
    assert incumbent * 0.98 <= solution.objective <= bound


@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize("seed", range(3))
def test_fast_design_is_within_two_percent_of_brute_force(family, seed, space_of, every_design, table):
    problem, models = _limited(space_of(family, seed=seed, widths=2, depth=3), table(seed=seed), quantile=0.4)
    tables = coefficients(problem, models)
    values = Evaluator(tables).evaluate(every_design(tables))
    optimum = values.objective[values.excess <= 0].max()
    solution = solve(problem, models, Settings(method="fast", seed=seed))
    assert solution.status is Status.FEASIBLE
    assert optimum * 0.98 <= solution.objective <= optimum * (1 + 1e-9)


def _limited(space, model, *, quantile):
    """Return a problem whose limits are quantiles of the space's own designs."""
    from deepmad_hw.optimize.coefficients import sample_designs

    free = coefficients(Problem(name="free", space=space, limits=Limits()), {})
    truths = [
        check.evaluate(free.decode(design), models={"made-up": model}) for design in sample_designs(free, 60, seed=1)
    ]

    def at(values):
        return float(np.quantile(values, quantile))

    budget = LatencyLimit(table="made-up", budget_ms=at([t.latency[0].upper_ms for t in truths]))
    limits = Limits(
        macs=at([t.macs for t in truths]),
        params=at([t.params for t in truths]),
        memory_bytes=at([t.memory_bytes for t in truths]) * 1.2,
        rho=at([t.max_rho for t in truths]) * 1.5,
        latency=(budget,),
    )
    return Problem(name="small", space=space, limits=limits), {"made-up": model}


def test_two_budgets_both_hold(published, table):
    models = {"phone": table(name="phone", seed=1), "board": table(name="board", seed=2, margin=None)}
    problem = published("deepmad-29m-224", latency=(("phone", 30.0), ("board", 25.0)))
    solution = solve(problem, models, Settings(method="fast"))
    upper_ms, board = solution.evaluation.latency[0].upper_ms, solution.evaluation.latency[1]
    assert solution.status is Status.FEASIBLE
    assert 28.0 < upper_ms <= 30.0 or 23.5 < board.predicted_ms <= 25.0
    assert upper_ms <= 30.0
    assert (board.upper_ms, board.predicted_ms <= 25.0) == (None, True)


def test_continuous_method_is_local_and_has_no_design(published):
    solution = solve(published("deepmad-r18"), {}, Settings(method="continuous"))
    assert (solution.status, solution.architecture, solution.bound) == (Status.LOCAL, None, None)
    assert solution.objective == solution.continuous.objective
    assert {price.limit for price in solution.prices if price.binding} >= {"macs", "params"}


def test_unreachable_limit_is_infeasible_with_the_smallest_value(published):
    problem = published("deepmad-r18")
    problem = replace(problem, limits=replace(problem.limits, params=1000.0))
    for method in ("continuous", "fast"):
        solution = solve(problem, {}, Settings(method=method))
        smallest = {minimum.limit: minimum for minimum in solution.minimum_values}["params"]
        assert solution.status is Status.INFEASIBLE
        assert solution.architecture is None
        assert "params" in solution.stopped
        assert (smallest.value > 1000, smallest.proved) == (True, True)
        reachable = replace(problem, limits=replace(problem.limits, params=smallest.value, rho=None, macs=None))
        assert solve(reachable, {}, Settings(method="fast")).status is Status.FEASIBLE


def test_limits_that_only_clash_are_not_called_infeasible_unproved(published):
    problem = published("deepmad-r18")
    limits = replace(problem.limits, rho=0.0135)  # wide layers for so small a rho cost more than these MACs
    tight = replace(problem, limits=replace(limits, macs=1.0e8))
    solution = solve(tight, {}, Settings(method="fast"))
    assert solution.status in (Status.FAILED, Status.INFEASIBLE)
    assert solution.architecture is None


def test_rules_without_a_design_are_infeasible(space_of):
    space = replace(space_of("basic"), max_growth=0.01)
    solution = solve(Problem(name="none", space=space, limits=Limits()), {}, Settings(method="fast"))
    assert solution.status is Status.INFEASIBLE


def test_design_that_the_checker_refuses_is_never_returned(published, monkeypatch):
    problem = published("deepmad-r18")
    first = solve(problem, {}, Settings(method="fast")).architecture

    def refuse_first(problem, architecture, evaluation):
        return ("it is refused",) if architecture == first else ()

    monkeypatch.setattr(solving.check, "refusals", refuse_first)
    second = solve(problem, {}, Settings(method="fast"))
    assert second.status is Status.FEASIBLE
    assert second.architecture != first
    assert any("refused" in note for note in second.notes)


def test_checker_that_refuses_all_gives_no_design(space_of, monkeypatch):
    problem = Problem(name="small", space=space_of("basic", stages=1, widths=2, depth=1), limits=Limits())
    monkeypatch.setattr(solving.check, "refusals", lambda *_: ("never",))
    solution = solve(problem, {}, Settings(method="fast"))
    assert (solution.status, solution.architecture) == (Status.FAILED, None)


def test_same_seed_gives_the_same_design(published, table):
    problem = published("deepmad-29m-224", latency=(("made-up", 25.0),))
    one, other = (solve(problem, {"made-up": table()}, Settings(method="fast", seed=3)) for _ in range(2))
    assert one.architecture == other.architecture
    assert one.evaluation == other.evaluation


def test_uncovered_layers_are_counted_in_the_notes(published, table):
    models = {"made-up": table(missing=0.01)}
    solution = solve(published("deepmad-r18", latency=(("made-up", 25.0),)), models, Settings(method="fast"))
    assert solution.status is Status.FEASIBLE
    assert any("layers not in made-up left the grid" in note for note in solution.notes)


def test_unknown_method_raises(published):
    with pytest.raises(ConfigError, match="evolution"):
        solve(published("deepmad-r18"), {}, Settings(method="evolution"))


def test_known_designs_are_started_from_and_strangers_passed_over():
    problem, models = small_problem("bottleneck", "plain", 3)
    alone = solve(problem, models, Settings(method="certified"))
    stage = replace(alone.architecture.stages[0], out=alone.architecture.stages[0].out + 8)
    stranger = replace(alone.architecture, stages=(stage, *alone.architecture.stages[1:]))
    known = solve(problem, models, Settings(method="certified"), known=(alone.architecture, stranger))
    assert known.status is Status.CERTIFIED
    assert known.objective >= alone.objective * (1 - 1e-9)
