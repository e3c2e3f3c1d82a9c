"""Bounds from prices between knots, against every design of small spaces."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from deepmad_hw.optimize import bound_tightening, knots
from deepmad_hw.optimize.bound_tightening import tighten
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.optimize.milp import build, log_fan_in_ranges
from deepmad_hw.optimize.solvers import HighsModel
from deepmad_hw.problem.problem import Limits, Problem

FAMILIES = ["basic", "bottleneck", "mbconv", "mbconv_se"]
TOLERANCE = 1e-6


@pytest.fixture
def few_knots(monkeypatch):
    """Two knots an axis: all widths between them have prices that are guessed."""
    monkeypatch.setattr(knots, "WIDTH_KNOTS", 2)
    monkeypatch.setattr(knots, "BOTTLENECK_KNOTS", 2)


@pytest.fixture
def small(space_of, every_design):
    """Return a problem's tables, its designs that keep all limits, their objectives and sums of log w, best first."""

    def make(family, *, seed):
        space = space_of(family, seed=seed)
        free = coefficients(Problem(name="small", space=space, limits=Limits()), {})
        designs = every_design(free)
        macs = free.quantities["macs"].of(free.stages, designs)
        problem = Problem(name="small", space=space, limits=Limits(macs=int(np.quantile(macs, 0.4)), rho=3.0))
        tables = coefficients(problem, {})
        values = Evaluator(tables).evaluate(designs)
        kept = values.excess <= 0
        order = np.argsort(-values.objective[kept], kind="stable")
        return tables, designs[kept][order], values.objective[kept][order]

    return make


def _tightened(tables, design, target):
    return tighten(tables, log_fan_in_ranges(tables), design, target, threads=1, deadline=time.monotonic() + 60)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_bound_holds_and_every_design_above_the_target_stays(small, few_knots, family, seed):
    tables, designs, objectives = small(family, seed=seed)
    middle = len(designs) // 2
    found = _tightened(tables, designs[middle], objectives[middle])

    assert found is not None
    assert found.bound >= objectives[0]
    better = designs[objectives > objectives[middle]]
    assert Evaluator(found.tables).allowed(better).all()
    for stage, known in enumerate(found.ranges[1:]):
        widths = better[:, 1 + 3 * stage]
        sums = np.array([_log_fan_in(tables, design, stage) for design in better])
        assert (known.least[widths] <= sums + TOLERANCE).all()
        assert (sums <= known.most[widths] + TOLERANCE).all()


def _log_fan_in(tables, design, stage):
    """Return the sum of log w of a design up to a stage."""
    terms, before = tables.log_fan_in, design[0]
    total = terms.stem[before]
    for i in range(stage + 1):
        out, inner, depth = design[1 + 3 * i : 4 + 3 * i]
        part = terms.stages[i]
        total += part.first_in[before, inner] + part.first_skip[before, out] + part.first_out[out, inner]
        total += (depth - 1) * part.further[out, inner]
        before = out
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_knot_at_every_choice_the_bound_is_that_of_the_relaxation(small, family):
    tables, designs, objectives = small(family, seed=0)
    milp = build(tables, ranges=log_fan_in_ranges(tables))
    relaxed = HighsModel(milp.model).run(relaxed=True).bound

    found = _tightened(tables, designs[-1], objectives[-1])

    assert found is not None
    assert found.bound == pytest.approx(relaxed, rel=2 * bound_tightening.CLOSE)
    assert found.bound >= relaxed - TOLERANCE


def test_without_time_there_is_no_answer(small):
    tables, designs, objectives = small("basic", seed=0)
    assert tighten(tables, log_fan_in_ranges(tables), designs[0], objectives[0], threads=1, deadline=0.0) is None


def test_a_target_above_every_bound_ends_the_search(small):
    tables, designs, objectives = small("bottleneck", seed=0)
    found = _tightened(tables, designs[0], 10 * objectives[0])
    assert found is not None
    assert objectives[0] <= found.bound <= 10 * objectives[0]
    assert math.isfinite(found.bound)
