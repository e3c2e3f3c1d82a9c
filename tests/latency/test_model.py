"""A network's latency from a model that answers for layers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmad_hw.errors import ConfigError, NotCoveredError
from deepmad_hw.latency.model import Curve, predict_ms, uncovered, upper_curve, upper_ms
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand

NETWORK = Architecture(
    family="mbconv_se",
    resolution=(8, 8),
    stem=Stem(out=8),
    stages=(Stage(out=8, bottleneck=16, kernel=3, stride=1, depth=2),),
    classes=10,
)


class ByOperation:
    """A latency model with one price per operation."""

    name = "table"
    device = "a device"

    def __init__(self, prices_ms, *, curve=Curve(), margin=None):  # noqa: B008
        self.prices_ms = prices_ms
        self.curve = curve
        self.margin = margin

    def covers(self, specs):
        return np.array([spec.op in self.prices_ms for spec in specs])

    def layers_ms(self, specs):
        return np.array([self.prices_ms[spec.op] for spec in specs], dtype=float)


# 1 stem + 2 blocks of 5 convolutions, a pool and a scale each + the last pool and the classifier
ALL = {"conv": 1.0, "global_pool": 0.1, "scale": 0.01, "linear": 0.001}


SUM_MS = 11 + 0.3 + 0.02 + 0.001
BENT = Curve(knots=((0.0, 0.0), (2.0, 1.2), (2.5, 2.5)))


def test_a_prediction_is_the_sum_of_layers():
    assert predict_ms(NETWORK, ByOperation(ALL)) == pytest.approx(SUM_MS)


def test_a_prediction_is_the_curve_at_the_sum_of_layers():
    assert predict_ms(NETWORK, ByOperation(ALL, curve=Curve(knots=((0.0, 0.5),)))) == pytest.approx(0.5 + SUM_MS)
    shorter = Curve(knots=((0.0, 0.0), (20.0, 12.0), (25.0, 25.0)))
    assert predict_ms(NETWORK, ByOperation(ALL, curve=shorter)) == pytest.approx(0.6 * SUM_MS)


@pytest.mark.parametrize(
    ("sum_ms", "latency_ms"), [(0.0, 0.0), (1.0, 0.6), (2.0, 1.2), (2.25, 1.85), (2.5, 2.5), (7.0, 7.0)]
)
def test_a_curve_is_straight_between_its_knots_and_goes_on_beyond_them(sum_ms, latency_ms):
    assert BENT.latency_ms(sum_ms) == pytest.approx(latency_ms)
    assert BENT.sum_ms(latency_ms) == pytest.approx(sum_ms)


@pytest.mark.parametrize(("latency_ms", "slope"), [(0.5, 0.6), (2.0, 2.6), (3.0, 1.0)])
def test_a_curve_tells_its_slope_at_a_latency(latency_ms, slope):
    assert BENT.slope_at(latency_ms) == pytest.approx(slope)
    assert BENT.times(2.0).slope_at(2 * latency_ms) == pytest.approx(2 * slope)


def test_no_network_is_as_fast_as_a_latency_below_the_least():
    assert Curve(knots=((0.0, 0.5),)).sum_ms(0.3) == pytest.approx(-0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"knots": ()},
        {"knots": ((0.1, 0.0),)},
        {"knots": ((0.0, 0.0), (1.0, 0.0))},
        {"knots": ((0.0, 0.0), (0.0, 1.0))},
        {"knots": ((0.0, 0.0), (float("nan"), 1.0))},
        {"slope": 0.0},
    ],
)
def test_a_curve_that_does_not_increase_is_refused(wrong):
    with pytest.raises(ConfigError, match="increasing"):
        Curve(**wrong)


def _increasing(steps):
    return tuple((0.0 + sum(a for a, _ in steps[:n]), sum(b for _, b in steps[:n])) for n in range(len(steps) + 1))


@given(
    steps=st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), max_size=5),
    slope=st.floats(0.1, 10),
    at_ms=st.floats(0, 100, allow_subnormal=False),
)
def test_the_sum_of_a_latency_has_that_latency(steps, slope, at_ms):
    curve = Curve(knots=_increasing(steps), slope=slope)
    assert curve.latency_ms(curve.sum_ms(at_ms)) == pytest.approx(at_ms, abs=1e-9)


def test_a_graph_and_its_architecture_are_predicted_alike():
    model = ByOperation(ALL)
    assert predict_ms(expand(NETWORK), model) == predict_ms(NETWORK, model)


def test_layers_that_are_not_covered_are_refused_never_free():
    model = ByOperation({"conv": 1.0, "linear": 1.0})
    with pytest.raises(NotCoveredError) as caught:
        predict_ms(NETWORK, model)
    assert str(caught.value) == (
        "table: 5 of 17 layers are not covered, first stage1.block1.se.pool; profile with a space that holds them"
    )


def test_uncovered_layers_are_listed_by_name():
    model = ByOperation({"conv": 1.0, "linear": 1.0, "global_pool": 1.0})
    assert uncovered(expand(NETWORK), model) == ("stage1.block1.se.scale", "stage1.block2.se.scale")
    assert uncovered(expand(NETWORK), ByOperation(ALL)) == ()


def test_the_upper_value_adds_the_margin():
    assert upper_ms(20.0, ByOperation(ALL, margin=0.05)) == pytest.approx(21.0)


def test_without_calibration_there_is_no_upper_value():
    assert upper_ms(20.0, ByOperation(ALL)) is None
    assert upper_curve(ByOperation(ALL)).sum_ms(20.0) == 20.0


@pytest.mark.parametrize("margin", [0.0, 0.03, 0.5])
def test_a_prediction_at_its_budget_has_the_budget_as_upper_value(margin):
    for budget_ms in (1.0, 25.0):
        model = ByOperation(ALL, curve=BENT, margin=margin)
        predicted_ms = model.curve.latency_ms(upper_curve(model).sum_ms(budget_ms))
        assert upper_ms(predicted_ms, model) == pytest.approx(budget_ms)
