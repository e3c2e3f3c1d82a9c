"""A network is added up from rows, from nearly the same layers and laws, and from extrapolation, each said."""

import math
from dataclasses import replace

import pytest

from deepmad_hw.latency.measurement import OperationMeasurement
from deepmad_hw.latency.model import Curve
from deepmad_hw.network import costs
from deepmad_hw.network.layer import LayerSpec, OperationSpec
from deepmad_hw.predict import composition
from deepmad_hw.predict.composition import EXTRAPOLATED, LAW, MEASURED, MISSING, composed
from deepmad_hw.predict.network import TableModel

CALL_US, PER_VALUE_US = 2.0, 1e-3


def law_us(spec):
    return CALL_US + PER_VALUE_US * spec.moved_values


def operation(kind, values, **more):
    return OperationSpec(kind=kind, read_values=values, written_values=values, **more)


def measured(kind, counts=(1000, 3000, 10_000, 30_000, 100_000, 300_000)):
    specs = [operation(kind, count) for count in counts]
    return [OperationMeasurement(spec=spec, samples_us=(law_us(spec),) * 5) for spec in specs]


@pytest.fixture(scope="module")
def model(paper):
    table = paper.table([paper.row(spec) for spec in paper.convolutions(60, seed=1)])
    kinds = ("concat", "silu", "add", "sigmoid")
    return TableModel(replace(table, operations=tuple(row for kind in kinds for row in measured(kind))))


@pytest.fixture(scope="module")
def known(paper):
    return paper.convolutions(60, seed=1)[0]


def only(found):
    (part,) = found.parts
    return part


def test_a_measured_layer_is_its_row(model, known, paper):
    part = only(composed([("a", known)], [], model))
    assert (part.name, part.source) == ("a", MEASURED)
    assert part.time_ms == pytest.approx(paper.us(known) / 1e3)


def test_an_operation_is_what_its_law_says(model):
    spec = operation("concat", 50_000)
    part = only(composed([], [("cat", spec)], model))
    assert part.source == LAW
    assert part.time_ms == pytest.approx(law_us(spec) / 1e3)


def test_an_activation_that_was_not_measured_is_that_of_the_same_convolution_and_its_own_law(model, known):
    values = known.out_channels * known.out_height * known.out_width
    part = only(composed([("a", replace(known, activation="silu"))], [], model))
    row = only(composed([("a", known)], [], model))
    assert part.source == LAW
    assert part.time_ms == pytest.approx(row.time_ms + law_us(operation("silu", values)) / 1e3)


@pytest.mark.parametrize(
    ("activation", "parts"),
    [
        ("silu", [("sigmoid", "int8", 1), ("mul", "int8", 2)]),
        ("sigmoid", [("sigmoid", "int8", 1)]),
        ("hardswish", [("dequantize", "int8", 1), ("hardswish", "fp32", 1), ("quantize", "fp32", 1)]),
    ],
)
def test_on_bytes_an_activation_is_what_the_runtime_makes_of_it(paper, known, activation, parts):
    values = known.out_channels * known.out_height * known.out_width
    table = paper.table([paper.row(spec) for spec in paper.convolutions(60, seed=1)])
    counts = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
    specs = [
        OperationSpec(kind=kind, value_type=value_type, read_values=inputs * count, written_values=count)
        for kind, value_type, inputs in parts
        for count in counts
    ]
    rows = tuple(OperationMeasurement(spec=spec, samples_us=(law_us(spec),) * 5) for spec in specs)
    model = TableModel(replace(table, operations=rows, environment=replace(table.environment, precision="int8")))
    part = only(composed([("a", replace(known, activation=activation))], [], model))
    row = only(composed([("a", known)], [], model))
    extra_us = sum(CALL_US + PER_VALUE_US * (inputs + 1) * values for _, _, inputs in parts)
    assert part.source == LAW
    assert part.time_ms == pytest.approx(row.time_ms + extra_us / 1e3)


def test_limits_that_convolutions_apply_on_the_way_cost_the_same(model, known):
    row = only(composed([("a", known)], [], model))
    for activation in ("none", "relu6"):
        part = only(composed([("a", replace(known, activation=activation))], [], model))
        assert (part.source, part.time_ms) == (LAW, row.time_ms)


def test_a_sum_that_was_not_measured_is_that_of_the_same_convolution_and_the_law_of_sums(model, known):
    values = known.out_channels * known.out_height * known.out_width
    part = only(composed([("a", replace(known, residual=True))], [], model))
    row = only(composed([("a", known)], [], model))
    add = OperationSpec(kind="add", read_values=2 * values, written_values=values)
    law = only(composed([], [("sum", add)], model))
    assert part.time_ms == pytest.approx(row.time_ms + law.time_ms)


def test_a_layer_outside_what_was_measured_is_extrapolated(model, known, paper):
    far = replace(known, height=448, width=448)
    part = only(composed([("a", far)], [], model))
    assert part.source == EXTRAPOLATED
    assert part.time_ms == pytest.approx(paper.us(far) / 1e3, rel=0.35)


def test_what_nothing_is_known_of_is_missing_and_never_zero(model):
    found = composed([], [("x", operation("cast", 1000, value_type="other")), ("lstm", _recurrent())], model)
    assert found.parts[1].source == MISSING
    assert math.isnan(found.parts[1].time_ms)


def _recurrent():
    return OperationSpec(kind="recurrent", read_values=10, written_values=10, macs=1000, weight_values=100)


def test_the_share_that_rests_on_extrapolation_is_said(model, known):
    far = replace(known, height=448, width=448)
    found = composed([("near", known), ("far", far)], [], model)
    near, beyond = (part.time_ms for part in found.layers)
    assert found.known_ms == pytest.approx(near + beyond)
    assert found.extrapolated_share == pytest.approx(beyond / (near + beyond))


class ShortNetworks:
    """A table by which networks up to 10 s take half of their sum."""

    curve = Curve(knots=((0.0, 0.0), (1e4, 5e3), (1.1e4, 1.1e4)))

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)


def test_every_part_of_a_short_network_takes_the_networks_share(model, known):
    parts = [("a", known)], [("b", operation("concat", 5000)), ("lstm", _recurrent())]
    plain, short = composed(*parts, model), composed(*parts, ShortNetworks(model))
    assert [part.time_ms for part in short.parts[:2]] == pytest.approx([part.time_ms / 2 for part in plain.parts[:2]])
    assert short.parts[2].source == MISSING
    assert short.known_ms == pytest.approx(plain.known_ms / 2)
    assert replace(short, margin=0.1).half_width_ms == pytest.approx(replace(plain, margin=0.1).half_width_ms / 2)


def test_parts_of_one_kind_err_together_and_kinds_independently():
    part = composition.Part(name="a", time_ms=3.0, source=LAW, kind="concat", margin=0.1)
    other = replace(part, name="b", kind="split", margin=0.2)
    guess = replace(part, name="c", source=EXTRAPOLATED, time_ms=1.0, margin=0.5)
    row = replace(part, name="d", source=MEASURED, time_ms=100.0, kind="conv", margin=0.0)
    between = replace(row, name="e", margin=0.03)
    found = composition.Composition(layers=(row, between, between), operations=(part, part, other, guess), margin=0.02)
    assert found.half_width_ms == pytest.approx(math.sqrt(6.0**2 + 6.0**2 + 0.6**2 + 0.6**2 + 0.5**2))
    assert replace(found, margin=None).half_width_ms is None


@pytest.mark.parametrize(
    ("changes", "kind", "macs"),
    [
        ({}, "conv", 8 * 9 * 16 * 9 * 8),
        ({"groups": 8, "out_channels": 8}, "depthwise_conv", 8 * 9 * 8 * 9),
        ({"op": "max_pool", "out_channels": 8}, "max_pool_blocked", 8 * 9 * 8 * 9),
        ({"op": "max_pool", "in_channels": 6, "out_channels": 6}, "max_pool", 6 * 9 * 8 * 9),
        ({"op": "add", "out_channels": 8, "kernel": 1}, "add", 0),
        ({"op": "linear", "height": 1, "width": 1, "kernel": 1}, "matmul", 8 * 16),
    ],
)
def test_a_layer_is_known_by_its_work_alone(changes, kind, macs):
    fields = {"op": "conv", "in_channels": 8, "out_channels": 16, "height": 8, "width": 9, "kernel": 3}
    found = costs.layer_operation(LayerSpec(**(fields | changes)))
    assert (found.kind, found.macs) == (kind, macs)
