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
