import time
from dataclasses import replace

import numpy as np
import pytest

from deepmad_hw import check, families
from deepmad_hw.optimize import certified, solvers
from deepmad_hw.optimize import solve as solving
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.evaluator import Evaluator, sample_designs
from deepmad_hw.optimize.milp import build, largest_log_fan_in
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem import LatencyLimit, Limits, Problem
from deepmad_hw.solution import Status

SHAPES = {  # what a small problem is made of; every row is another corner
    "plain": {},
    "head": {"head": True},
    "backbone": {"classes": 0},
    "one stage": {"stages": 1, "widths": 5, "inner": 4, "depth": 8},
    "two stages": {"stages": 2, "widths": 4, "inner": 3, "depth": 4},
    "depth one": {"depth": 1},
}


def _small(space_of, table, family, shape, seed, *, budgets=("one",), memory=True, quantile=0.4, penalty="std"):
    """Return a small problem with limits at a quantile of its own designs."""
    space = space_of(family, seed=seed, **{"widths": 2, "inner": 2, "depth": 2, **SHAPES[shape]})
    models = {name: table(name=name, seed=seed + i) for i, name in enumerate(budgets)}
    free = coefficients(Problem(name="free", space=space, limits=Limits()), {})
    truths = [check.evaluate(free.decode(design), models=models) for design in sample_designs(free, 40, seed=1)]

    def at(values, factor=1.0):
        return float(np.quantile(values, quantile)) * factor

    latency = tuple(
        LatencyLimit(table=name, budget_ms=at([t.latency[i].upper_ms for t in truths], 1.1))
        for i, name in enumerate(budgets)
    )
    limits = Limits(
        macs=at([t.macs for t in truths], 1.1),
        params=at([t.params for t in truths], 1.1),
        memory_bytes=at([t.memory_bytes for t in truths], 1.2) if memory else None,
        rho=at([t.max_rho for t in truths], 1.3),
        latency=latency,
    )
    return Problem(name="small", space=space, limits=limits, penalty=penalty), models


def _brute_force(problem, models, every_design):
    tables = coefficients(problem, models)
    values = Evaluator(tables).evaluate(every_design(tables))
    kept = values.objective[values.excess <= 0]
    return kept.max() if len(kept) else None


@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_model_finds_the_optimum_of_brute_force(family, shape, space_of, table, every_design):
    seed = list(SHAPES).index(shape)
    budgets = ((), ("one",), ("one", "two"))[seed % 3]
    problem, models = _small(space_of, table, family, shape, seed, budgets=budgets, memory=seed % 2 == 0)
    optimum = _brute_force(problem, models, every_design)
    outcome = _certify(problem, models)
    assert outcome.objective == pytest.approx(optimum, rel=1e-9)
    assert optimum <= outcome.bound <= optimum * (1 + 1e-6)


def _certify(problem, models, *, start=None, gap=0.0):
    tables = coefficients(problem, models)

    def judge(design):
        architecture = tables.decode(design)
        evaluation = check.evaluate_for(problem, architecture, models)
        return None if check.refusals(problem, architecture, evaluation) else evaluation.objective

    deadline = time.monotonic() + 60
    return certified.certify(tables, judge, start=start, gap=gap, deadline=deadline)


def test_paper_penalty_is_certified_too(space_of, table, every_design):
    problem, models = _small(space_of, table, "mbconv", "plain", 3, penalty="variance")
    assert _certify(problem, models).objective == pytest.approx(_brute_force(problem, models, every_design), rel=1e-9)


def test_point_that_the_checker_refuses_is_cut_off_and_the_next_best_is_found(space_of, table, every_design):
    problem, models = _small(space_of, table, "basic", "two stages", 2)
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


def test_start_is_kept_where_the_target_leaves_nothing_better(space_of, table, every_design):
    problem, models = _small(space_of, table, "mbconv", "plain", 1)
    tables = coefficients(problem, models)
    designs = every_design(tables)
    values = Evaluator(tables).evaluate(designs)
    best = designs[np.argmax(np.where(values.excess <= 0, values.objective, -np.inf))]
    outcome = _certify(problem, models, start=best, gap=0.3)
    assert tuple(outcome.design) == tuple(best)
    assert outcome.objective <= outcome.bound <= outcome.objective * 1.3 + 1e-9


@pytest.mark.parametrize("family", families.names())
def test_bound_from_a_poor_start_holds_for_every_design(family, space_of, table, every_design):
    problem, models = _small(space_of, table, family, "plain", 5)
    tables = coefficients(problem, models)
    designs = every_design(tables)
    values = Evaluator(tables).evaluate(designs)
    kept = np.flatnonzero(values.excess <= 0)
    optimum = values.objective[kept].max()
    poor = designs[kept[np.argsort(values.objective[kept])[len(kept) // 2]]]
    for gap in (0.02, 0.2):
        outcome = _certify(problem, models, start=poor, gap=gap)
        assert outcome.objective <= optimum * (1 + 1e-9)
        assert optimum <= outcome.bound <= outcome.objective * (1 + gap) + 1e-6


@pytest.mark.parametrize("family", families.names())
def test_infeasible_limits_come_with_the_smallest_value_given_the_others(family, space_of, table, every_design):
    seed = families.names().index(family)
    problem, models = _small(space_of, table, family, "plain", seed, budgets=("one",), quantile=0.02)
    problem = _made_infeasible(problem, models, every_design)
    solution = solve(problem, models, method="certified", gap=0.0)
    assert solution.status is Status.INFEASIBLE
    assert solution.tightest
    for tight in solution.tightest:
        assert tight.proved
        at_value = _with_limit(problem, tight.limit, tight.value * (1 + 1e-9))
        below = _with_limit(problem, tight.limit, tight.value * 0.999)
        assert _brute_force(at_value, models, every_design) is not None
        assert _brute_force(below, models, every_design) is None


def test_limits_that_no_single_one_can_mend_get_a_common_factor(space_of, table, every_design):
    problem, models = _small(space_of, table, "basic", "depth one", 45)
    limits = problem.limits
    problem = replace(problem, limits=replace(limits, macs=limits.macs / 3, params=limits.params / 4, rho=0.02))
    solution = solve(problem, models, method="certified", gap=0.0)
    (tight,) = solution.tightest
    assert (tight.limit, tight.unit, tight.proved) == ("all limits", "times", True)
    at_value, below = (_with_limit(problem, tight.limit, tight.value * f) for f in (1 + 1e-9, 0.999))
    assert _brute_force(at_value, models, every_design) is not None
    assert _brute_force(below, models, every_design) is None


def _made_infeasible(problem, models, every_design):
    for factor in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        limits = problem.limits
        tight = replace(limits, macs=limits.macs * factor, rho=limits.rho * factor)
        found = replace(problem, limits=tight)
        if _brute_force(found, models, every_design) is None:
            return found
    raise AssertionError("no factor makes it infeasible")


def _with_limit(problem, name, value):
    limits = problem.limits
    if name == "all limits":
        latency = tuple(replace(limit, budget_ms=limit.budget_ms * value) for limit in limits.latency)
        memory = limits.memory_bytes and limits.memory_bytes * value
        changed = replace(
            limits,
            macs=limits.macs * value,
            params=limits.params * value,
            rho=limits.rho * value,
            memory_bytes=memory,
            latency=latency,
        )
    elif name.startswith("latency:"):
        changed = replace(limits, latency=(replace(limits.latency[0], budget_ms=value),))
    else:
        changed = replace(limits, **{"memory_bytes" if name == "memory" else name: value})
    return replace(problem, limits=changed)


def test_published_problem_is_certified_between_the_reference_values(published, proved):
    problem = published("deepmad-29m-288")
    solution = solve(problem, {}, method="certified", gap=0.012)
    incumbent, bound = proved("deepmad-29m-288")
    assert solution.status is Status.CERTIFIED
    assert check.refusals(problem, solution.architecture, solution.evaluation) == ()
    assert solution.objective <= bound
    assert incumbent <= solution.bound
    assert solution.gap <= 0.012


def test_same_problem_gives_the_same_design_and_bound(space_of, table):
    problem, models = _small(space_of, table, "mbconv_se", "head", 4)
    one, other = (solve(problem, models, method="certified") for _ in range(2))
    assert one.status is Status.CERTIFIED
    assert (one.architecture, one.bound, one.evaluation) == (other.architecture, other.bound, other.evaluation)


def _outcome(stopped, *, point, bound):
    return solvers.MilpOutcome(
        stopped=stopped, infeasible=stopped == "Infeasible", optimal=stopped == "Optimal", has_point=point, bound=bound
    )


@pytest.mark.parametrize("stopped", ["Optimal", "Infeasible", "Time limit reached", "Unknown", "Solve error"])
@pytest.mark.parametrize("point", ["none", "breaks a limit", "good"])
@pytest.mark.parametrize("claim", [None, 0.5, 1.0, 1.001, 2.0])
def test_nothing_is_certified_without_a_checked_design_and_a_close_bound_above_it(
    stopped, point, claim, space_of, table, monkeypatch
):
    problem, models = _small(space_of, table, "basic", "one stage", 1)
    tables = coefficients(problem, models)
    designs = sample_designs(tables, 500, seed=0)
    values = Evaluator(tables).evaluate(designs)
    good = designs[np.argmax(np.where(values.excess <= 0, values.objective, -np.inf))]
    bad = designs[np.argmax(values.excess)]
    worth = check.evaluate_for(problem, tables.decode(good), models).objective
    monkeypatch.setattr(solving.Search, "run", lambda *_: None)
    monkeypatch.setattr(certified, "_reduced", lambda tables, *_, **__: (tables, largest_log_fan_in(tables)))
    monkeypatch.setattr(certified.Milp, "design", lambda self: bad if point == "breaks a limit" else good)
    monkeypatch.setattr(
        certified.HighsModel,
        "run",
        lambda self, **_: _outcome(stopped, point=point != "none", bound=claim and claim * worth),
    )
    solution = solve(problem, models, method="certified", gap=0.005, time_limit_s=5)
    allowed = point == "good" and stopped != "Infeasible" and claim in (1.0, 1.001)
    assert (solution.status is Status.CERTIFIED) == allowed
    if solution.architecture is not None:
        assert check.refusals(problem, solution.architecture, solution.evaluation) == ()
    if claim == 0.5 and solution.architecture is not None:
        assert solution.bound is None
        assert "below a checked design" in solution.stopped


def test_bounds_on_the_sum_of_log_w_hold_for_every_design(space_of, every_design):
    problem = Problem(name="small", space=space_of("mbconv", seed=2, widths=2), limits=Limits())
    tables = coefficients(problem, {})
    largest = largest_log_fan_in(tables)
    for design in every_design(tables)[::37]:
        log_w = check.entropy.scales(tables.decode(design))[-1].log_fan_in
        assert log_w <= largest[-1][design[-3]] + 1e-9
    assert build(tables, largest=largest).model.name == "small"
