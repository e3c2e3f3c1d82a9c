"""The depth penalty in the integer model is never above the true one, and hardly below it."""

import itertools
import math

import numpy as np
import pyomo.environ as pyo
import pytest
from small_problems import small_space

from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.encoding import encoded
from deepmad_hw.optimize.linear import Sum
from deepmad_hw.optimize.milp import build, log_fan_in_ranges
from deepmad_hw.optimize.quantities.depth_penalty import DepthPenalty, _norm
from deepmad_hw.optimize.solvers import HighsModel
from deepmad_hw.optimize.walked import Walk
from deepmad_hw.problem import entropy
from deepmad_hw.problem.problem import Limits, Problem

SAFETY = 1e-6  # of the solver


@pytest.fixture
def tables():
    """Return the tables of a space whose stages have one to five blocks."""

    def make(penalty):
        space = small_space("bottleneck", seed=3, stages=4, widths=2, inner=2, depth=5)
        return coefficients(Problem(name="p", space=space, limits=Limits(), penalty=penalty), {})

    return make


def _of_depths(tables, depths):
    return encoded(0, [(0, 0, depth) for depth in depths])


@pytest.mark.parametrize("penalty", entropy.PENALTIES)
def test_values_are_those_of_the_formula(tables, penalty):
    made = tables(penalty)
    depths = [(1, 2, 3, 4), (2, 2, 2, 2), (1, 5, 1, 5)]
    designs = np.stack([_of_depths(made, each) for each in depths])
    values = DepthPenalty(made).values(Walk(made, [])(designs))
    family = made.problem.space.family
    assert values == pytest.approx([-entropy.depth_penalty(family, each, penalty=penalty) for each in depths])


@pytest.mark.parametrize("penalty", entropy.PENALTIES)
def test_the_model_s_penalty_is_at_most_a_sixth_of_a_percent_below_the_true_one(tables, penalty):
    """0.13 % from the tangents of exp and 0.03 % from the cone, relative to the exponent's slope."""
    made = tables(penalty)
    milp = build(made, ranges=log_fan_in_ranges(made))
    solver = HighsModel(milp.model)
    low, high = zip(*(grid.depth for grid in made.stages), strict=True)
    for depths in itertools.islice(itertools.product(*map(range, low, np.add(high, 1))), 0, None, 7):
        total = Sum(variables=[milp.model.penalty], factors=[-1.0])
        for stage, depth in zip(milp.stages, depths, strict=True):
            stage.depth.fix(depth)
            solver.add_row([stage.depth], [1.0], low=0, high=math.inf)
        fixed = HighsModel(milp.model)
        fixed.maximise(total.variables, total.factors)
        found = fixed.run(relaxed=True).bound
        true = entropy.depth_penalty(made.problem.space.family, depths, penalty=penalty)
        exponent = math.log(true / entropy.PENALTY_WEIGHT)
        assert -found <= true * (1 + SAFETY)
        assert -found >= true * (1 - 0.0013 - 0.0007 * max(exponent, 1.0) - SAFETY)


def test_the_cone_is_at_most_three_hundredths_of_a_percent_short():
    random = np.random.default_rng(0)
    for one, other in random.normal(size=(20, 2)):
        model = pyo.ConcreteModel()
        model.rows = pyo.ConstraintList()
        model.cone = pyo.VarList(bounds=(0, 10))
        model.x = pyo.Var(bounds=(one, one))
        model.y = pyo.Var(bounds=(other, other))
        norm = _norm(model, [model.x + 0.0, model.y + 0.0])
        model.least = pyo.Objective(expr=-norm, sense=pyo.maximize)
        found = -HighsModel(model).run(relaxed=True).bound
        true = math.hypot(one, other)
        assert true * (1 - 0.0003) - SAFETY <= found <= true + SAFETY


@pytest.mark.parametrize("penalty", entropy.PENALTIES)
def test_a_cut_is_exact_at_its_design_and_below_the_penalty_elsewhere(tables, penalty):
    made = tables(penalty)
    milp = build(made, ranges=log_fan_in_ranges(made))
    term, family = DepthPenalty(made), made.problem.space.family
    cut = term.cut(milp, _of_depths(made, (1, 2, 4, 3)))
    slope, stages = -np.array(cut.sum.factors[1:]), term.stages

    def bound(depths):
        return cut.low + slope @ np.array(depths, dtype=float)[list(stages)]

    assert bound((1, 2, 4, 3)) == pytest.approx(entropy.depth_penalty(family, (1, 2, 4, 3), penalty=penalty))
    for depths in itertools.product(range(1, 6), repeat=4):
        assert bound(depths) <= entropy.depth_penalty(family, depths, penalty=penalty) * (1 + 1e-9)


def test_equal_depths_need_no_cut(tables):
    made = tables("std")
    milp = build(made, ranges=log_fan_in_ranges(made))
    assert DepthPenalty(made).cut(milp, _of_depths(made, (2, 2, 2, 2))) is None
