"""A network's latency from a model that answers for layers."""

import numpy as np
import pytest

from deepmad_hw.architecture import Architecture, Stage, Stem
from deepmad_hw.errors import NotCoveredError
from deepmad_hw.expand import expand
from deepmad_hw.latency import budget_for_prediction_ms, predict_ms, uncovered, upper_ms

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

    def __init__(self, prices_ms, *, overhead_ms=0.0, margin=None):
        self.prices_ms = prices_ms
        self.overhead_ms = overhead_ms
        self.margin = margin

    def covers(self, specs):
        return np.array([spec.op in self.prices_ms for spec in specs])

    def layers_ms(self, specs):
        return np.array([self.prices_ms[spec.op] for spec in specs], dtype=float)


# 1 stem + 2 blocks of 5 convolutions, a pool and a scale each + the last pool and the classifier
ALL = {"conv": 1.0, "global_pool": 0.1, "scale": 0.01, "linear": 0.001}


def test_a_prediction_is_overhead_plus_the_sum_of_layers():
    assert predict_ms(NETWORK, ByOperation(ALL, overhead_ms=0.5)) == pytest.approx(0.5 + 11 + 0.3 + 0.02 + 0.001)


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
    assert budget_for_prediction_ms(20.0, ByOperation(ALL)) == 20.0


@pytest.mark.parametrize("margin", [0.0, 0.03, 0.5])
def test_a_prediction_at_its_budget_has_the_budget_as_upper_value(margin):
    model = ByOperation(ALL, margin=margin)
    assert upper_ms(budget_for_prediction_ms(25.0, model), model) == pytest.approx(25.0)
