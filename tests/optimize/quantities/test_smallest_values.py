"""The smallest value of each limited quantity, whatever else it costs, against all designs of small spaces."""

import numpy as np
import pytest

from deepmad_hw.network import families
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.encoding import Designs
from deepmad_hw.optimize.quantities import limited
from deepmad_hw.optimize.quantities.memory import memory_rows, peak_bytes
from deepmad_hw.problem import check, limits
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem


@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize(("seed", "classes"), [(0, 10), (1, 0), (2, 10)])
def test_smallest_values_equal_brute_force(family, seed, classes, space_of, every_design, table):
    space = space_of(family, seed=seed, classes=classes, head=seed == 2, widths=2, inner=2, depth=2)
    budget = LatencyLimit(table="made-up", budget_ms=1e-6)
    asked = Limits(macs=1, params=1, memory_bytes=1, rho=1e-9, latency=(budget,))
    models = {"made-up": table(seed=seed)}
    tables = coefficients(Problem(name="small", space=space, limits=asked), models)
    truths = [check.evaluate(tables.decode(design), models=models) for design in _thinned(every_design(tables))]
    found = {limit.name: (limit, limit.smallest()) for limit in limited(tables)}
    assert set(found) == {"macs", "params", "memory", "rho", "latency:made-up"}
    for name, (limit, smallest) in found.items():
        values = [limits.quantity(name).value(truth) for truth in truths]
        assert smallest.value <= min(values) * (1 + 1e-6)
        own = check.evaluate(tables.decode(smallest.design), models=models)
        assert not space.violations(tables.decode(smallest.design))
        assert limits.quantity(name).value(own) == pytest.approx(smallest.value, rel=1e-9)
        assert limit.of(smallest.design) == pytest.approx(smallest.value, rel=1e-9)


def _thinned(designs):
    assert len(designs) > 100
    return designs[:: max(1, len(designs) // 400)]


@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize("classes", [0, 10])
def test_smallest_values_equal_the_smallest_of_all_designs(family, classes, space_of, every_design):
    space = space_of(family, seed=6, classes=classes, widths=3, depth=2)
    tables = coefficients(Problem(name="s", space=space, limits=Limits(memory_bytes=1, rho=1e-9)), {})
    designs = every_design(tables)
    found = {limit.name: limit.smallest().value for limit in limited(tables)}
    peaks = peak_bytes(memory_rows(tables), tables, Designs(designs))
    assert found["memory"] == peaks.min()
    assert found["rho"] == pytest.approx(_rho(tables, designs).min(), rel=2e-6)


def _rho(tables, designs):
    from deepmad_hw.optimize.evaluator import Evaluator

    # One scale's excess over a limit of 1e-9 is its rho / 1e-9 - 1, so the sum over scales bounds the largest.
    excess = Evaluator(tables).evaluate(designs).excess
    shortlist = np.argsort(excess)[: len(designs) // 3]
    return np.array([check.evaluate(tables.decode(design)).max_rho for design in designs[shortlist][:400]])
