import pytest

from deepmad_hw.errors import ConfigError, InfeasibleError, NotCoveredError
from deepmad_hw.latency.model import Curve
from deepmad_hw.network import families
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.optimize.quantities import limited
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem


def _problem(space, *, tables=("made-up",), **limits):
    budgets = tuple(LatencyLimit(table=name, budget_ms=1e9) for name in tables)
    return Problem(name="small", space=space, limits=Limits(latency=budgets, **limits))


def _sum(tables, terms, design):
    total = terms.stem[design[0]]
    before = design[0]
    for stage, grid, (out, inner, depth) in zip(terms.stages, tables.stages, design[1:].reshape(-1, 3), strict=True):
        total += stage.first_in[before, inner] + stage.first_skip[before, out] + stage.first_out[out, inner]
        total += stage.identity[out, inner] if grid.same[before, out] else 0
        total += (depth - 1) * stage.further[out, inner]
        before = out
    return total + terms.tail[before]


def test_a_budget_that_no_sum_of_layers_keeps_stays_a_limit_above_zero(space_of, table):
    model = table(curve=Curve(knots=((0.0, 0.5),)), margin=None)
    limits = Limits(latency=(LatencyLimit(table="made-up", budget_ms=0.3),))
    problem = Problem(name="small", space=space_of("basic", seed=1), limits=limits)
    (budget,) = limited(coefficients(problem, {"made-up": model}))
    assert 0 < budget.bound() < 1e-6


@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize("seed", range(3))
def test_sums_over_pairs_equal_the_judge_on_random_designs(family, seed, space_of, some_designs, table):
    space = space_of(family, seed=seed, head=seed == 1, classes=0 if seed == 2 else 10)
    model = table()
    tables = coefficients(_problem(space), {"made-up": model})
    for design in some_designs(tables, 20, seed=seed):
        architecture = tables.decode(design)
        truth = check.evaluate(architecture, models={"made-up": model})
        assert (tables.encode(architecture) == design).all()
        assert _sum(tables, tables.quantities["macs"], design) == truth.macs
        assert _sum(tables, tables.quantities["params"], design) == truth.params
        sum_ms = _sum(tables, tables.quantities["latency:made-up"], design)
        assert model.curve.latency_ms(sum_ms) == pytest.approx(truth.latency[0].predicted_ms, rel=1e-9)
        (budget,) = limited(tables)
        assert budget.curve.latency_ms(sum_ms) == pytest.approx(truth.latency[0].upper_ms, rel=1e-9)
        assert budget.of(design) == pytest.approx(truth.latency[0].upper_ms, rel=1e-9)
        assert [(scale.pixels) for scale in tables.scales] == [scale.pixels for scale in truth.scales]


@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize("penalty", ["std", "variance"])
def test_quick_objective_equals_the_judges(family, penalty, space_of, some_designs):
    space = space_of(family, seed=4, stages=4, head=True)
    problem = Problem(name="small", space=space, limits=Limits(macs=1e12), penalty=penalty)
    tables = coefficients(problem, {})
    designs = some_designs(tables, 30)
    values = Evaluator(tables).evaluate(designs)
    for design, objective in zip(designs, values.objective, strict=True):
        assert objective == pytest.approx(check.evaluate(tables.decode(design), penalty=penalty).objective, rel=1e-12)


@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize("classes", [0, 10])
def test_a_design_at_its_own_costs_breaks_no_limit_and_just_below_breaks_each(
    family, classes, space_of, some_designs, table
):
    space = space_of(family, seed=5, classes=classes)
    model = table()
    free = coefficients(_problem(space), {"made-up": model})
    for design in some_designs(free, 8, seed=1):
        truth = check.evaluate(free.decode(design), models={"made-up": model})
        own = {
            "macs": truth.macs,
            "params": truth.params,
            "memory_bytes": truth.memory_bytes,
            "rho": truth.max_rho * (1 + 1e-12),
        }
        for name, factor in [(None, 1.0), *((name, 0.99) for name in own)]:
            limits = {key: value * (factor if key == name else 1.0) for key, value in own.items()}
            tables = coefficients(_problem(space, **limits), {"made-up": model})
            excess = Evaluator(tables).evaluate(design[None])
            expected = 0.0 if name is None else 1 / 0.99 - 1
            if name == "rho":
                assert excess.excess[0] >= expected * 0.999
            else:
                assert excess.excess[0] == pytest.approx(expected, abs=1e-9)


def test_uncovered_layers_leave_the_grid(space_of, some_designs, table):
    space = space_of("mbconv_se", seed=2, widths=4)
    holes = table(missing=0.04)
    tables = coefficients(_problem(space), {"made-up": holes})
    assert tables.uncovered["made-up"] > 0
    for design in some_designs(tables, 200):
        check.evaluate(tables.decode(design), models={"made-up": holes})  # would raise NotCoveredError


def test_only_designs_with_uncovered_layers_leave_the_grid(space_of, some_designs, table):
    space = space_of("bottleneck", seed=2, widths=4)
    holes = table(missing=0.02)
    tables = coefficients(_problem(space), {"made-up": holes})
    whole = coefficients(_problem(space, tables=()), {})
    designs = some_designs(whole, 300)
    kept = Evaluator(tables).allowed(designs)
    assert 0 < kept.sum() < len(designs)
    for design in designs[~kept]:
        assert _lacks_a_layer_at_some_depth(whole.decode(design), space, holes)


def _lacks_a_layer_at_some_depth(architecture, space, model):
    from dataclasses import replace

    from deepmad_hw.latency.model import uncovered
    from deepmad_hw.network.expand import expand

    deeper = [
        replace(stage, depth=max(choice.depth[1], 1))
        for stage, choice in zip(architecture.stages, space.stages, strict=True)
    ]
    return uncovered(expand(replace(architecture, stages=tuple(deeper))), model)


def test_a_layer_that_every_design_needs_must_be_covered(space_of, table):
    class NoClassifier(table):
        def covers(self, specs):
            return super().covers(specs) & [spec.op != "linear" for spec in specs]

    with pytest.raises(NotCoveredError, match="classifier"):
        coefficients(_problem(space_of("basic")), {"made-up": NoClassifier()})


def test_unknown_table_raises(space_of):
    with pytest.raises(ConfigError, match="elsewhere"):
        coefficients(_problem(space_of("basic"), tables=("elsewhere",)), {})


def test_rules_that_leave_no_design_raise(space_of):
    from dataclasses import replace

    space = replace(space_of("basic"), max_growth=0.01)
    with pytest.raises(InfeasibleError):
        coefficients(_problem(space, tables=()), {})
