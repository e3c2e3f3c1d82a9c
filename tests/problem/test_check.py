"""The judge: designs are recomputed and held against their problem."""

import dataclasses
import math

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError, NotCoveredError
from deepmad_hw.latency.model import Curve
from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.problem import entropy
from deepmad_hw.problem.check import broken_limits, evaluate, evaluate_for, refusals
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.problem.space import Space, StageSpace

DESIGN = Architecture(
    family="mbconv",
    resolution=(32, 32),
    stem=Stem(out=8),
    stages=(
        Stage(out=8, bottleneck=16, kernel=3, stride=2, depth=1),
        Stage(out=16, bottleneck=32, kernel=3, stride=2, depth=3),
    ),
    classes=10,
)
SPACE = Space(
    family="mbconv",
    resolution=(32, 32),
    stem=(8,),
    stages=(
        StageSpace(stride=2, out=(8,), bottleneck=(16, 24), kernel=(3,), depth=(1, 2)),
        StageSpace(stride=2, out=(16, 24), bottleneck=(32,), kernel=(3,), depth=(1, 4)),
    ),
    bottleneck_ratio=(1.0, 6.0),
    classes=10,
)


WITH_OVERHEAD = Curve(knots=((0.0, 0.25),))


@dataclasses.dataclass(frozen=True)
class Flat:
    """A latency model that prices every layer alike."""

    name: str
    layer_ms: float
    margin: float | None = None
    covered: bool = True
    device: str = "a device"
    curve: Curve = WITH_OVERHEAD

    def covers(self, specs):
        return np.full(len(specs), self.covered)

    def layers_ms(self, specs):
        return np.full(len(specs), self.layer_ms)


LAYERS = 15  # stem, 4 blocks of 3, pool, classifier


def problem(*, penalty="std", **limits):
    return Problem(name="p", space=SPACE, limits=Limits(**limits), penalty=penalty)


def judged(asked, models=None):
    return refusals(asked, DESIGN, evaluate_for(asked, DESIGN, models or {}))


def test_evaluation_repeats_the_formulas():
    said = evaluate(DESIGN)
    found = entropy.scales(DESIGN)
    assert said.score == entropy.score(found)
    assert said.penalty == pytest.approx(10 * math.exp(1))
    assert said.objective == said.score - said.penalty == entropy.objective(DESIGN)
    assert [scale.rho for scale in said.scales] == [entropy.rho(scale) for scale in found]
    assert [(scale.pixels, scale.channels) for scale in said.scales] == [(256, 8), (64, 8), (16, 16)]
    assert (said.macs, said.params) == (costs.macs(DESIGN), costs.params(DESIGN))
    assert said.memory_bytes == costs.peak_memory_bytes(DESIGN)
    assert said.latency == ()


def test_evaluation_uses_the_problem_s_penalty():
    said = evaluate_for(problem(penalty="variance"), DESIGN, {})
    assert said.penalty == pytest.approx(10 * math.exp(1**2))
    deeper = dataclasses.replace(DESIGN.stages[1], depth=4)
    other = dataclasses.replace(DESIGN, stages=(DESIGN.stages[0], deeper))
    assert evaluate_for(problem(penalty="variance"), other, {}).penalty == pytest.approx(10 * math.exp(1.5**2))
    assert evaluate_for(problem(), other, {}).penalty == pytest.approx(10 * math.exp(1.5))


def test_latency_is_said_for_every_model():
    models = {"a": Flat("a", 1.0), "b": Flat("b", 2.0, margin=0.1)}
    said = evaluate(DESIGN, models=models, limits=Limits(latency=(LatencyLimit(table="b", budget_ms=40.0),)))
    assert [(value.table, value.budget_ms) for value in said.latency] == [("a", None), ("b", 40.0)]
    assert [value.predicted_ms for value in said.latency] == [0.25 + LAYERS, 0.25 + 2 * LAYERS]
    assert [value.upper_ms for value in said.latency] == [None, pytest.approx((0.25 + 2 * LAYERS) * 1.1)]


def test_a_table_that_does_not_cover_the_design_is_refused():
    with pytest.raises(NotCoveredError, match=f"a: {LAYERS} of {LAYERS} layers"):
        evaluate(DESIGN, models={"a": Flat("a", 1.0, covered=False)})


def test_a_limit_without_its_table_is_refused():
    asked = problem(latency=(LatencyLimit(table="board", budget_ms=5.0),))
    with pytest.raises(ConfigError, match="latency:board: no latency table is called 'board'"):
        evaluate_for(asked, DESIGN, {"other": Flat("other", 1.0)})


def test_a_design_within_every_limit_is_an_answer():
    said = evaluate(DESIGN)
    asked = problem(
        macs=said.macs,
        params=said.params,
        memory_bytes=said.memory_bytes,
        rho=said.max_rho,
        latency=(LatencyLimit(table="a", budget_ms=0.25 + LAYERS),),
    )
    assert judged(asked, {"a": Flat("a", 1.0)}) == ()


@pytest.mark.parametrize(
    ("field", "name"), [("macs", "macs"), ("params", "params"), ("memory_bytes", "memory"), ("max_rho", "rho")]
)
def test_limits_hold_exactly(field, name):
    reached = getattr(evaluate(DESIGN), field)
    below = math.nextafter(reached, 0)
    (said,) = judged(problem(**{name if name == "rho" else field: below}))
    assert said.startswith(f"{name}: ")


def test_a_broken_limit_says_both_numbers():
    asked = problem(params=1000)
    assert judged(asked) == (f"params: {costs.params(DESIGN)} > 1000",)


def test_a_latency_limit_is_on_the_upper_value_where_there_is_one():
    budget_ms = 0.25 + LAYERS
    asked = problem(latency=(LatencyLimit(table="a", budget_ms=budget_ms),))
    assert judged(asked, {"a": Flat("a", 1.0)}) == ()
    assert judged(asked, {"a": Flat("a", 1.0, margin=0.0)}) == ()
    assert judged(asked, {"a": Flat("a", 1.0, margin=0.02)}) == ("latency:a: 15.555 > 15.25",)


def test_a_table_without_limit_refuses_nothing():
    assert judged(problem(), {"a": Flat("a", 1e9)}) == ()


def test_a_design_outside_the_space_is_refused():
    outside = dataclasses.replace(DESIGN, stem=Stem(out=12), stages=DESIGN.stages)
    asked = problem()
    said = refusals(asked, outside, evaluate_for(asked, outside, {}))
    assert [text.split(" ")[0] for text in said] == ["stem", "stage"]  # off the grid, and stage 1 shrinks


def test_every_broken_limit_is_listed():
    asked = problem(macs=1, params=1, memory_bytes=1, rho=1e-6, latency=(LatencyLimit(table="a", budget_ms=1.0),))
    said = broken_limits(asked, evaluate_for(asked, DESIGN, {"a": Flat("a", 1.0)}))
    assert [text.partition(": ")[0] for text in said] == ["macs", "params", "memory", "rho", "latency:a"]
