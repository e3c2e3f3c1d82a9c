"""What cannot matter changes no answer, and what can only help makes none worse: optima of small spaces, at gap 0."""

from dataclasses import dataclass, replace

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_problems import (
    ROUNDING,
    VARIANTS,
    MadeUpTable,
    exact,
    feasible_problem,
    limit_names,
    limit_of,
    with_limit,
)

from deepmad_hw.errors import ConfigError
from deepmad_hw.latency.model import Curve, LatencyModel
from deepmad_hw.optimize import solve as solving
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem.problem import LatencyLimit, Limits
from deepmad_hw.workflows.design.design import with_tables
from deepmad_hw.workflows.runfile.config import load_run

few = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def short_search(monkeypatch):
    """Leave the work to the exact model."""
    monkeypatch.setattr(solving, "PERTURBATIONS_BEFORE_PROOF", 2)


@st.composite
def problems(draw, variants=tuple(VARIANTS)):
    """Return a problem that has an answer, and its tables."""
    return feasible_problem(draw(st.integers(0, 199)), draw(st.sampled_from(variants)))


def optimum(problem, models):
    """Return the best design and its objective."""
    found = exact(problem, models)
    return coefficients(problem, models).decode(found.design), found.objective


def without_limit(problem, name):
    """Return a problem with one limit less."""
    kept = {limit: value for limit, value in problem.limits.named().items() if limit != name}
    return replace(problem, limits=Limits.of(kept))


@few
@given(asked=problems(), choice=st.data(), factor=st.floats(1.0, 2.0))
def test_a_larger_budget_is_never_worse(asked, choice, factor):
    problem, models = asked
    name = choice.draw(st.sampled_from(limit_names(problem)))
    larger = with_limit(problem, name, limit_of(problem, name) * factor)
    assert optimum(larger, models)[1] >= optimum(problem, models)[1] * (1 - ROUNDING)


@few
@given(asked=problems(), choice=st.data())
def test_one_more_limit_is_never_better(asked, choice):
    problem, models = asked
    name = choice.draw(st.sampled_from(limit_names(problem)))
    assert optimum(problem, models)[1] <= optimum(without_limit(problem, name), models)[1] * (1 + ROUNDING)


@dataclass(frozen=True, kw_only=True)
class OtherClock:
    """A table whose every time is a multiple of another's."""

    table: LatencyModel
    factor: float

    @property
    def name(self):
        return self.table.name

    @property
    def device(self):
        return self.table.device

    @property
    def margin(self):
        return self.table.margin

    @property
    def curve(self):
        knots = tuple((a * self.factor, b * self.factor) for a, b in self.table.curve.knots)
        return Curve(knots=knots, slope=self.table.curve.slope)

    def covers(self, specs):
        return self.table.covers(specs)

    def layers_ms(self, specs):
        return self.table.layers_ms(specs) * self.factor


@few
@given(asked=problems(variants=("one table", "three tables")), power=st.integers(-10, 10))
def test_a_table_in_another_unit_with_its_budget_changes_nothing(asked, power):
    """Powers of two, because they are exact in floats."""
    problem, models = asked
    factor = 2.0**power
    name = problem.limits.latency[0].table
    scaled = with_limit(problem, f"latency:{name}", problem.limits.latency[0].budget_ms * factor)
    others = {**models, name: OtherClock(table=models[name], factor=factor)}
    assert optimum(scaled, others) == optimum(problem, models)
    one, other = solve(problem, models), solve(scaled, others)
    assert (other.status, other.architecture, other.objective) == (one.status, one.architecture, one.objective)


@few
@given(asked=problems(variants=("three tables",)), labels=st.permutations(["a", "one", "z"]))
def test_other_names_of_the_tables_change_nothing(asked, labels):
    problem, models = asked
    label = dict(zip(models, labels, strict=True))
    limits = tuple(
        LatencyLimit(table=label[limit.table], budget_ms=limit.budget_ms) for limit in problem.limits.latency
    )
    renamed = replace(problem, name="another", limits=replace(problem.limits, latency=limits))
    others = {label[name]: replace(model, name=label[name]) for name, model in models.items()}
    assert optimum(renamed, others) == optimum(problem, models)


# --- the order in which a run file says things ----------------------------------------------------------------------

RUN_FILE = {
    "name": "small",
    "penalty": "std",
    "grid": {"ratio": 1.5, "step": 8},
    "space": {
        "family": "basic",
        "resolution": [64, 96],
        "classes": 10,
        "stem": {"out": [8, 16], "kernel": 3, "stride": 2},
        "stages": [
            {"stride": 1, "out": [16, 24], "bottleneck": [8, 16], "kernel": [3, 5], "depth": [1, 3]},
            {"stride": 2, "out": [24, 32], "bottleneck": {"min": 16, "max": 32}, "kernel": [3, 5], "depth": [1, 3]},
        ],
        "head": {"out": 64, "kernel": 1},
        "rules": {"non_decreasing": True, "max_growth": 3.0, "bottleneck_ratio": [0.25, 2.0]},
    },
    "limits": {
        "macs": "24M",
        "params": "60k",
        "rho": 0.2,
        "memory": "1MiB",
        "latency": {"one.csv": "0.9ms", "two.csv": "1ms", "three.csv": "1.1ms"},
    },
}


def shuffled(data, random):
    """Return the same data with the keys of every mapping in another order."""
    if isinstance(data, list):
        return [shuffled(item, random) for item in data]
    if not isinstance(data, dict):
        return data
    keys = list(data)
    random.shuffle(keys)
    return {key: shuffled(data[key], random) for key in keys}


def asked_by(path, data):
    """Return the problem of a run file and its tables."""
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    question = with_tables(load_run(path), load=lambda table: MadeUpTable(name=table.stem, seed=len(table.stem)))
    return question.problem, question.models


@few
@given(random=st.randoms(use_true_random=False))
def test_the_order_of_keys_in_a_run_file_changes_nothing(tmp_path, random):
    """All that has no order may be written in any: sections, the keys of a stage, the limits, the tables.

    Stages are a list, because their order is the network's; widths, bottlenecks and kernels are lists that must ascend.
    """
    for name in RUN_FILE["limits"]["latency"]:
        (tmp_path / name).touch()
    problem, models = asked_by(tmp_path / "run.yaml", RUN_FILE)
    other, others = asked_by(tmp_path / "run.yaml", shuffled(RUN_FILE, random))
    assert other.space == problem.space
    assert set(other.limits.latency) == set(problem.limits.latency)
    assert replace(other.limits, latency=()) == replace(problem.limits, latency=())
    assert optimum(other, others) == optimum(problem, models)


@pytest.mark.parametrize("key", ["out", "bottleneck", "kernel"])
def test_choices_can_be_listed_in_one_order_only(tmp_path, key):
    data = yaml.safe_load(yaml.safe_dump(RUN_FILE))
    data["space"]["stages"][0][key].reverse()
    with pytest.raises(ConfigError, match="expected ascending whole numbers"):
        asked_by(tmp_path / "run.yaml", data)
