"""A price is what one unit more of a limit buys: it agrees with finite differences of re-solves, for every kind."""

from dataclasses import replace

import pytest
from small_problems import MadeUpTable, limit_of, small_space, with_limit

from deepmad_hw.latency.model import Curve
from deepmad_hw.optimize import continuous
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.problem.problem import Limits, Problem

UNITS = {"macs": 1e6, "params": 1e6, "memory": 2**20, "rho": 0.01, "latency": 1.0, "width_order": 0.01}
STEP = 1e-3  # of a limit


def _solved(problem, models):
    return continuous.solve_continuous(coefficients(problem, models))


def _published(published, name, budgets, **limits):
    problem = published(name, latency=tuple(budgets.items()))
    models = {table: MadeUpTable(name=table, seed=seed, margin=0.1) for seed, table in enumerate(budgets)}
    return replace(problem, limits=replace(problem.limits, **limits)), models


def _small(family, seed, **limits):
    space = small_space(family, seed=seed, widths=4, equal_widths=True)
    return Problem(name="small", space=space, limits=Limits(**limits)), {}


def _bent(of, name, budget_ms):
    """Return a problem whose budget lies where short networks take a share of their sum."""
    problem, models = _published(of, name, {"phone": budget_ms})
    curve = Curve(knots=((0.0, 0.0), (2 * budget_ms, 1.2 * budget_ms), (3 * budget_ms, 3 * budget_ms)))
    return problem, {"phone": replace(models["phone"], curve=curve)}


CASES = {  # kinds of limits that bind there
    "costs": ({"macs", "params", "rho"}, lambda of: _published(of, "deepmad-r34", {})),
    "one table": ({"latency", "rho"}, lambda of: _published(of, "deepmad-r18", {"phone": 25.0})),
    "short networks": ({"latency", "rho"}, lambda of: _bent(of, "deepmad-r18", 15.0)),
    "two tables": ({"latency", "rho"}, lambda of: _published(of, "deepmad-29m-224", {"phone": 30.0, "board": 28.0})),
    "memory": ({"memory", "rho"}, lambda of: _published(of, "deepmad-r50", {}, memory_bytes=6 * 2**20)),
    "small": ({"memory"}, lambda of: _small("mbconv", 1, memory_bytes=700_000)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_price_agrees_with_re_solves(case, published, monkeypatch):
    kinds, make = CASES[case]
    problem, models = make(published)
    prices = _solved(problem, models).prices
    bound = set()
    for name in {_asked(price.limit) for price in prices}:
        parts = [price for price in prices if _asked(price.limit) == name]
        kind = name.partition(":")[0]
        slope = _slope(problem, models, name, monkeypatch) * UNITS[kind]
        assert sum(price.objective_per_unit for price in parts) == pytest.approx(slope, rel=0.03, abs=2.0), name
        if any(price.binding for price in parts):
            bound.add(kind)
    assert kinds <= bound


def _asked(limit):
    """Return which limit a price speaks of: rho is one limit with a price at every scale."""
    return "rho" if limit.startswith("rho:") else limit


def _slope(problem, models, name, monkeypatch):
    """Return the objective's derivative by a limit."""
    if name.startswith("width_order:"):
        step = STEP
        ends = [_with_order(problem, models, name, sign * step, monkeypatch) for sign in (-1, 1)]
    else:
        value = limit_of(problem, name)
        step = STEP * value
        ends = [_solved(with_limit(problem, name, value + sign * step), models) for sign in (-1, 1)]
    return (ends[1].design.objective - ends[0].design.objective) / (2 * step)


def _with_order(problem, models, name, amount, monkeypatch):
    """Solve with a stage that may be narrower than the one before by a share, which no problem can ask for."""
    build = continuous.build

    def looser(tables):
        built = build(tables)
        (priced,) = built.rows[name][1]
        priced.row.set_value((None, priced.row.body, amount))
        return built

    with monkeypatch.context() as patch:
        patch.setattr(continuous, "build", looser)
        return _solved(problem, models)
