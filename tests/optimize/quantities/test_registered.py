"""A limit and a term of the objective that this package has never heard of: one registration each, and both solve."""

from dataclasses import replace

import numpy as np
import pytest
from small_problems import LONG_S, all_designs, small_problem

from deepmad_hw import units
from deepmad_hw.errors import ConfigError
from deepmad_hw.network import costs
from deepmad_hw.network.expand import expand
from deepmad_hw.optimize import quantities
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.linear import Sum
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem import check, limits
from deepmad_hw.problem.limits import Quantity
from deepmad_hw.problem.problem import Limits
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status

CHANNELS = Quantity(
    name="channels",
    label="channels",
    title="channels",
    unit="channels",
    price=("k", 1e3),
    parse=units.parse_count,
    format=units.format_count,
    exact=units.format_count,
    layer=lambda form: form.out_channels + 0 * form.kernel,
    help="Most channels that layers return together",
    example="2k",
    examples="1k:4k:4",
)


class Thrift:
    """Takes a share of the MACs off the objective: a sum over layers, so exact whatever its sign."""

    sums = ("macs",)
    weight = 3e-5

    def __init__(self, tables):
        self._tables = tables

    def values(self, walked):
        return -self.weight * walked.sums["macs"]

    def add_to_milp(self, milp):
        return Sum().extend(milp.sum_of(self._tables.quantities["macs"]), -self.weight)

    def cut(self, milp, design):
        return None

    def of_nlp(self, nlp):
        return -self.weight * costs.macs(nlp.network)


@pytest.fixture
def channels(monkeypatch):
    """Make the limit known for one test."""
    monkeypatch.setattr(limits, "QUANTITIES", dict(limits.QUANTITIES))
    return limits.register(CHANNELS)


@pytest.mark.parametrize("family", ["basic", "bottleneck", "mbconv", "mbconv_se"])
def test_a_limit_from_outside_is_kept_with_proof_and_priced(channels, family):
    problem, models = small_problem(family, "plain", 3, budgets=(), memory=False, quantile=1.0)
    free = coefficients(_with(problem, 1e9), models)
    designs = all_designs(free)
    values = free.quantities["channels"].of(free.stages, designs)
    assert values[0] == sum(node.spec.out_channels for node in expand(free.decode(designs[0])))
    limited = _with(problem, float(np.quantile(values, 0.3)))
    solution = solve(limited, models, Settings(time_limit_s=LONG_S))
    assert solution.status is Status.CERTIFIED
    assert solution.evaluation.other("channels") <= limited.limits.named()["channels"]
    best = max(
        (evaluation.objective for evaluation in _kept(limited, models, coefficients(limited, models))), default=None
    )
    assert solution.objective <= best * (1 + 1e-9)
    assert best <= solution.bound * (1 + 1e-9)
    assert "channels" in {price.limit for price in solution.prices}


def test_what_a_limit_from_outside_would_need_is_found(channels):
    problem, models = small_problem("basic", "plain", 3, budgets=(), memory=False, quantile=1.0)
    solution = solve(_with(problem, 1.0), models, Settings(time_limit_s=LONG_S))
    assert solution.status is Status.INFEASIBLE
    (needed,) = [each for each in solution.minimum_values if each.limit == "channels"]
    assert (needed.unit, needed.proved) == ("channels", True)
    assert solve(_with(problem, needed.value), models, Settings(time_limit_s=LONG_S)).status is Status.CERTIFIED
    assert solve(_with(problem, needed.value - 1), models, Settings(time_limit_s=LONG_S)).status is Status.INFEASIBLE


def test_a_term_of_the_objective_from_outside_is_maximised_with_proof(monkeypatch):
    problem, models = small_problem("mbconv", "plain", 2, budgets=(), memory=False, quantile=1.0)
    monkeypatch.setattr(quantities, "TERMS", [*quantities.TERMS, Thrift])
    tables = coefficients(problem, models)
    worth = {
        tuple(design): check.evaluate(tables.decode(design)).objective
        - Thrift.weight * check.evaluate(tables.decode(design)).macs
        for design in all_designs(tables)
    }
    monkeypatch.setattr(check, "evaluate", _thrifty(check.evaluate))
    solution = solve(problem, models, Settings(time_limit_s=LONG_S))
    kept = [worth[tuple(design)] for design in all_designs(tables) if not _refused(problem, models, tables, design)]
    assert solution.status is Status.CERTIFIED
    assert solution.objective <= max(kept) * (1 + 1e-9)
    assert max(kept) <= solution.bound * (1 + 1e-9)


def test_a_name_is_taken_once(channels):
    with pytest.raises(ConfigError, match="channels: a quantity of this name is known"):
        limits.register(CHANNELS)


def _with(problem, value):
    return replace(problem, limits=Limits.of({**problem.limits.named(), "channels": value}))


def _kept(problem, models, tables):
    for design in all_designs(tables):
        architecture = tables.decode(design)
        evaluation = check.evaluate_for(problem, architecture, models)
        if not check.refusals(problem, architecture, evaluation):
            yield evaluation


def _refused(problem, models, tables, design):
    architecture = tables.decode(design)
    return check.refusals(problem, architecture, check.evaluate_for(problem, architecture, models))


def _thrifty(evaluate):
    def changed(architecture, **options):
        found = evaluate(architecture, **options)
        return replace(found, objective=found.objective - Thrift.weight * found.macs)

    return changed
