import functools
import math
from dataclasses import replace
from types import SimpleNamespace

import pyomo.environ as pyo
import pytest
from small_problems import small_problem

from deepmad_hw.network import costs, families
from deepmad_hw.optimize import continuous, solvers
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.solve import solve
from deepmad_hw.optimize.surrogate import fit_surrogate
from deepmad_hw.problem import check, entropy
from deepmad_hw.problem.problem import Limits, Problem
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status


def _solved(problem, models):
    return continuous.solve_continuous(coefficients(problem, models))


def test_casadi_returns_the_known_optimum_and_multiplier():
    model = pyo.ConcreteModel()
    model.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    model.x = pyo.Var(bounds=(-10, 10), initialize=0.0)
    model.cap = pyo.Constraint(expr=model.x <= 1)
    model.cost = pyo.Objective(expr=(model.x - 2) ** 2)
    outcome = solvers.CasadiIpopt(model).solve()
    assert outcome.converged
    assert model.x.value == pytest.approx(1.0, abs=1e-6)
    assert model.dual[model.cap] == pytest.approx(-2.0, abs=1e-5)  # a looser cap lowers the cost by 2 per unit


def test_infeasible_model_is_no_convergence():
    model = pyo.ConcreteModel()
    model.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    model.x = pyo.Var(bounds=(0, 1), initialize=0.5)
    model.out_of_reach = pyo.Constraint(expr=pyo.exp(model.x) >= 5)
    model.cost = pyo.Objective(expr=model.x**2)
    assert not solvers.CasadiIpopt(model).solve().converged


@pytest.mark.parametrize("family", families.names())
def test_model_equals_the_judge_at_whole_numbers(family, space_of, some_designs):
    space = space_of(family, seed=3, head=True)
    limits = Limits(macs=1e8, params=1e6, rho=0.3)
    tables = coefficients(Problem(name="small", space=space, limits=limits), {})
    built = continuous.build(tables)
    for design in some_designs(tables, 5):
        architecture = tables.decode(design)
        truth = check.evaluate(architecture)
        _put(built.model, architecture)
        objective = -pyo.value(built.model.objective)
        assert objective == pytest.approx(truth.objective, rel=1e-12, abs=10 * truth.penalty * 0.011)
        squeezed = 0.3 if family == "mbconv_se" else 1e-12  # a plain quarter in place of its grid
        for name, limit in (("macs", limits.macs), ("params", limits.params)):
            row = built.rows[name][1][0].row
            assert pyo.value(row.body) * limit == pytest.approx(getattr(truth, name), rel=squeezed)
        worst = max(pyo.value(rows[0].row.body) for name, (_, rows) in built.rows.items() if name.startswith("rho"))
        assert (worst > 0) == (truth.max_rho > limits.rho)


def _put(model, architecture):
    model.log_width[0].set_value(float(pyo.log(architecture.stem.out)))
    for i, stage in enumerate(architecture.stages, start=1):
        model.log_width[i].set_value(float(pyo.log(stage.out)))
        model.log_bottleneck[i].set_value(float(pyo.log(stage.bottleneck)))
        model.log_kernel[i].set_value(float(pyo.log(stage.kernel)))
        model.depth[i].set_value(stage.depth)


@pytest.mark.parametrize("name", ["deepmad-r18", "deepmad-29m-224"])
def test_continuous_optimum_tops_the_grids_incumbent(name, published):
    result = _solved(published(name), {})
    assert result.design.objective > {"deepmad-r18": 34918.9, "deepmad-29m-224": 22685.0}[name]
    assert result.design.objective < {"deepmad-r18": 37000, "deepmad-29m-224": 24000}[name]


def test_unreachable_limit_gives_no_point(published):
    problem = published("deepmad-r18")
    assert _solved(replace(problem, limits=Limits(macs=1e6)), {}) is None


def test_same_problem_gives_the_same_point(published, table):
    problem = published("deepmad-r18", latency=(("made-up", 25.0),))
    one, other = (_solved(problem, {"made-up": table()}) for _ in range(2))
    assert one.prices == other.prices
    assert replace(one.design, solve_ms=0) == replace(other.design, solve_ms=0)


def test_surrogate_of_a_noisy_table_is_within_its_noise_and_reports_it(published, table):
    problem = published("deepmad-29m-224", latency=(("made-up", 25.0),))
    tables = coefficients(problem, {"made-up": table(noise=0.3)})
    fit = fit_surrogate(tables, tables.quantities["latency:made-up"])
    assert 0.001 < fit.median_error < 0.03
    assert fit.median_error < fit.worst_error < 0.15


def test_surrogate_of_a_posynomial_table_is_exact(published, table):
    problem = published("deepmad-r18", latency=(("made-up", 25.0),))
    tables = coefficients(problem, {"made-up": table(noise=0.0)})
    fit = fit_surrogate(tables, tables.quantities["latency:made-up"])
    assert fit.worst_error < 1e-6


def test_surrogate_of_plain_macs_is_exact(published):
    tables = coefficients(published("deepmad-r18"), {})
    assert fit_surrogate(tables, tables.quantities["macs"]).worst_error < 1e-9


# --- a solver cut short ---------------------------------------------------------------------------------------------

MOST_ITERATIONS = 20  # these problems take 11 to 19
SAME = 1e-6  # relative: two ways to one local optimum, by a solver that stops at 1e-8


@functools.cache
def local_optima(index):
    """Return the n-th small problem, its models, and the objective that each start ends at when given its time."""
    problem, models = small_problem(families.names()[index % len(families.names())], "plain", index)
    tables, found = coefficients(problem, models), []
    for start in continuous.STARTS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(continuous, "STARTS", (start,))
            result = continuous.solve_continuous(tables)
        found += [result.design.objective] if result is not None else []
    return problem, models, found


@pytest.mark.promise("T10", 200)
def test_a_solver_cut_short_is_local_only_at_a_local_optimum_and_never_a_bound(tries, monkeypatch):
    found = set()
    for number in tries:
        problem, models, optima = local_optima(number // MOST_ITERATIONS)
        monkeypatch.setattr(solvers, "MAX_ITERATIONS", 1 + number % MOST_ITERATIONS)
        solution = solve(problem, models, Settings(method="continuous"))
        found.add(solution.status)
        assert (solution.bound, solution.gap, solution.architecture, solution.evaluation) == (None,) * 4
        if solution.status is Status.LOCAL:
            assert solution.stopped == "Solve_Succeeded"
            assert any(math.isclose(solution.objective, optimum, rel_tol=SAME) for optimum in optima)
            _assert_kept(problem, solution.continuous)
        else:
            assert (solution.status, solution.continuous, solution.prices) == (Status.FAILED, None, ())
        assert solution.continuous is None or solution.continuous.iterations <= 1 + number % MOST_ITERATIONS
    assert found == {Status.LOCAL, Status.FAILED}


def _assert_kept(problem, design):
    """Hold a point of real widths and depths against the plain formulas."""
    stages = [SimpleNamespace(**{name: getattr(stage, name) for name in stage.__slots__}) for stage in design.stages]
    space, limits = problem.space, problem.limits
    stem = SimpleNamespace(out=design.stem, kernel=space.stem_kernel, stride=space.stem_stride)
    fields = ("family", "resolution", "head", "in_channels", "classes", "activation")
    network = SimpleNamespace(stem=stem, stages=stages, **{name: getattr(space, name) for name in fields})
    assert costs.macs(network) <= limits.macs * (1 + SAME)
    assert costs.params(network) <= limits.params * (1 + SAME)
    assert max(entropy.rho(scale) for scale in entropy.scales(network)) <= limits.rho * (1 + SAME)
    penalty = entropy.depth_penalty(space.family, [stage.depth for stage in stages])
    assert design.objective == pytest.approx(entropy.objective(network), abs=0.011 * penalty)
