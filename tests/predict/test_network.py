"""A table as a model: exact where measured, calibrated on whole networks, refused outside."""

from dataclasses import replace

import numpy as np
import pytest

from deepmad_hw.errors import NotCoveredError
from deepmad_hw.latency.measurement import LayerMeasurement
from deepmad_hw.latency.model import Curve, predict_ms, uncovered, upper_ms
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.predict import network
from deepmad_hw.predict.network import EXACT_RELATIVE_ERROR, TableModel
from deepmad_hw.problem import sampling
from deepmad_hw.problem.space import Space, StageSpace

SPACE = Space(
    family="bottleneck",
    resolution=(64, 64),
    stem=(16, 32),
    stages=(
        StageSpace(stride=2, out=(32, 48, 64), bottleneck=(16, 32), kernel=(3, 5), depth=(1, 3)),
        StageSpace(stride=2, out=(64, 96, 128), bottleneck=(16, 32, 64), kernel=(3, 5), depth=(1, 3)),
    ),
    bottleneck_ratio=(0.1, 1.0),
    classes=10,
)


# The same with so many widths that new networks have layers that were not measured.
FINE = replace(
    SPACE,
    stages=(
        replace(SPACE.stages[0], out=tuple(range(32, 65, 4)), bottleneck=tuple(range(16, 65, 4))),
        replace(SPACE.stages[1], out=tuple(range(64, 129, 8)), bottleneck=tuple(range(16, 129, 8))),
    ),
)


def networks(count, seed=0, space=SPACE):
    random = np.random.default_rng(seed)
    return [sampling.random_architecture(space, random) for _ in range(count)]


def specs_of(*architectures):
    return list(dict.fromkeys(node.spec for each in architectures for node in expand(each)))


def sum_us(architecture, paper):
    return sum(paper.us(node.spec) for node in expand(architecture))


@pytest.fixture(scope="module")
def some():
    return networks(12)


def test_a_measured_row_is_taken_as_it_is(paper, some):
    model = TableModel(paper.table([paper.row(spec) for spec in specs_of(*some)]))
    specs = specs_of(*some)
    assert model.layers_ms(specs).tolist() == pytest.approx([paper.us(spec) / 1e3 for spec in specs], rel=1e-12)
    assert predict_ms(some[0], model) == pytest.approx(sum_us(some[0], paper) / 1e3, rel=1e-12)


@pytest.mark.parametrize(("status", "factors"), [("noisy", (2.0, 2.0, 2.0)), ("ok", (1.5, 2.0, 2.5))])
def test_an_unsure_row_is_drawn_to_the_rows_around_it(paper, status, factors):
    specs = paper.convolutions(80, seed=0)
    true_us = paper.us(specs[0])
    wrong = LayerMeasurement(spec=specs[0], samples_us=tuple(f * true_us for f in factors), status=status)
    assert status == "noisy" or wrong.relative_error > EXACT_RELATIVE_ERROR
    model = TableModel(paper.table([wrong, *(paper.row(spec) for spec in specs[1:])]))
    assert true_us < model.layers_ms([specs[0]])[0] * 1e3 < 1.95 * true_us


def test_an_odd_row_is_not_taken_as_it_is_and_does_not_widen_the_margins(paper):
    specs = paper.convolutions(80, seed=0)
    rows = [paper.row(spec) for spec in specs]
    odd = replace(rows[0], samples_us=tuple(1e3 * us for us in rows[0].samples_us))
    model, true = (TableModel(paper.table([first, *rows[1:]])) for first in (odd, rows[0]))
    assert [row.spec for row in model.odd_rows] == [specs[0]]
    assert model.layers_ms([specs[0]])[0] * 1e3 == pytest.approx(paper.us(specs[0]), rel=0.2)
    assert true.odd_rows == ()
    (margin,) = model.layer_margins([specs[0]])
    assert margin < 0.3


@pytest.mark.parametrize("gain", [0.9, 1.0, 1.25])
def test_whole_networks_tell_the_gain(paper, some, gain):
    rows = [paper.row(spec) for spec in specs_of(*some)]
    model = TableModel(paper.table(rows, [(each, gain * sum_us(each, paper)) for each in some]))
    assert [predict_ms(each, model) for each in some] == pytest.approx(
        [gain * sum_us(each, paper) / 1e3 for each in some]
    )
    assert model.margin == pytest.approx(0, abs=1e-9)


def test_the_parts_make_up_the_whole(paper, some):
    rows = [paper.row(spec) for spec in specs_of(*some)]
    random = np.random.default_rng(0)
    measured = [(each, sum_us(each, paper) * 1.1 * (1 + 0.02 * random.standard_normal())) for each in some]
    model = TableModel(paper.table(rows, measured))
    layers = model.layers_ms([node.spec for node in expand(some[0])])
    assert predict_ms(some[0], model) == pytest.approx(layers.sum())


def test_errors_are_told_of_networks_that_did_not_calibrate(paper, some):
    """Each network is left out in turn, so one that is off by 30 % has an error of about 30 %."""
    rows = [paper.row(spec) for spec in specs_of(*some)]
    factors = [1.3, *[1.0] * (len(some) - 1)]
    model = TableModel(
        paper.table(rows, [(each, f * sum_us(each, paper)) for each, f in zip(some, factors, strict=True)])
    )
    assert model.calibration_errors[0] == pytest.approx(0.3, abs=0.02)
    assert model.calibration_errors[1:] == pytest.approx([0.0] * 11, abs=0.02)
    assert model.margin == pytest.approx(0.3, abs=0.02)  # of twelve errors the largest


def test_of_two_networks_each_is_predicted_by_the_other(paper, some):
    rows = [paper.row(spec) for spec in specs_of(*some)]
    measured = [(some[0], sum_us(some[0], paper)), (some[1], 1.2 * sum_us(some[1], paper))]
    model = TableModel(paper.table(rows, measured))
    assert model.calibration_errors == pytest.approx((1 / 1.2 - 1, 0.2))


@pytest.mark.parametrize(("count", "known"), [(0, False), (8, False), (9, True), (12, True)])
def test_a_margin_needs_nine_networks(paper, some, count, known):
    rows = [paper.row(spec) for spec in specs_of(*some)]
    model = TableModel(paper.table(rows, [(each, sum_us(each, paper)) for each in some[:count]]))
    assert (model.margin is not None) is known
    assert (upper_ms(10.0, model) is not None) is known


def test_a_network_that_the_rows_do_not_cover_calibrates_nothing(paper, some):
    other = replace(some[0], resolution=(256, 256))
    rows = [paper.row(spec) for spec in specs_of(*some)]
    model = TableModel(paper.table(rows, [(other, 1e9), *((each, sum_us(each, paper)) for each in some)]))
    assert len(model.calibration_errors) == len(some)
    assert model.margin == pytest.approx(0, abs=1e-9)


def test_without_calibration_layers_are_added(paper, some):
    model = TableModel(paper.table([paper.row(spec) for spec in specs_of(*some)]))
    assert model.margin is None
    assert model.calibration_errors == ()
    assert model.curve == Curve()


def test_what_is_not_covered_is_refused_with_its_name(paper, some):
    model = TableModel(paper.table([paper.row(spec) for spec in specs_of(*some)]))
    strange = LayerSpec(op="conv", in_channels=64, out_channels=64, height=8, width=8, kernel=7)
    assert model.covers([strange, expand(some[0]).nodes[0].spec]).tolist() == [False, True]
    with pytest.raises(NotCoveredError, match=r"paper: no rows surround LayerSpec\(op='conv', in_channels=64"):
        model.layers_ms([strange])
    large = replace(some[0], resolution=(256, 256))
    assert len(uncovered(expand(large), model)) > 0
    with pytest.raises(NotCoveredError, match="layers are not covered, first stem"):
        predict_ms(large, model)


def test_a_failed_row_is_not_covered_by_itself(paper):
    lonely = LayerSpec(op="linear", in_channels=64, out_channels=10, height=1, width=1)
    rows = [*(paper.row(spec) for spec in paper.convolutions(10, seed=0))]
    failed = LayerMeasurement(spec=lonely, samples_us=(), status="oom")
    assert not TableModel(paper.table([*rows, failed])).covers([lonely]).any()
    assert TableModel(paper.table([*rows, paper.row(lonely)])).covers([lonely]).all()


def test_unseen_networks_are_near_the_truth(paper):
    seen, unseen = networks(60, seed=1, space=FINE), networks(40, seed=2, space=FINE)
    random = np.random.default_rng(3)
    rows = [paper.row(spec, noise=0.03, random=random) for spec in specs_of(*seen)]
    calibration = [(each, 1.05 * sum_us(each, paper) * (1 + 0.01 * random.standard_normal())) for each in seen[:20]]
    model = TableModel(paper.table(rows, calibration))
    found = [each for each in unseen if not uncovered(expand(each), model)]
    assert len(found) > 30
    assert len(set(specs_of(*found)) - set(specs_of(*seen))) > 50
    errors = [abs(predict_ms(each, model) * 1e3 / (1.05 * sum_us(each, paper)) - 1) for each in found]
    assert np.median(errors) < 0.02
    assert max(errors) < 0.06


def test_the_same_table_predicts_the_same_to_the_last_digit(paper):
    seen, unseen = networks(30, seed=1, space=FINE), networks(20, seed=2, space=FINE)
    rows = [paper.row(spec) for spec in specs_of(*seen)]
    table = paper.table(rows, [(each, sum_us(each, paper)) for each in seen])
    one, other = TableModel(table), TableModel(table)
    specs = [spec for spec in specs_of(*unseen) if one.covers([spec]).all()]
    assert len(specs) > 20
    assert one.layers_ms(specs).tolist() == other.layers_ms(specs).tolist()
    assert (one.margin, one.curve) == (other.margin, other.curve)


def test_it_says_whose_it_is(paper):
    model = TableModel(paper.table([paper.row(spec) for spec in paper.convolutions(5, seed=0)]))
    assert (model.name, model.device) == ("paper", "paper")


def test_layers_between_rows_lie_within_their_margins_as_often_as_said(paper):
    """Rows half of which are noise: what is left out lies inside as often as the confidence says."""
    random = np.random.default_rng(0)
    specs = paper.convolutions(400, seed=1)
    rows = [paper.row(spec, noise=0.15, random=random, count=5) for spec in specs]
    known, new = rows[:300], rows[300:]
    for confidence, low, high in ((0.5, 0.38, 0.66), (0.9, 0.8, 0.98)):
        model = TableModel(paper.table(known), confidence=confidence)
        asked = [row for row in new if model.covers([row.spec])[0]]
        predicted_ms = model.layers_ms([row.spec for row in asked])
        margins = model.layer_margins([row.spec for row in asked])
        inside = [
            abs(row.median_us / 1e3 / value_ms - 1) <= margin
            for row, value_ms, margin in zip(asked, predicted_ms, margins, strict=True)
        ]
        assert len(inside) > 60
        assert low < np.mean(inside) < high


def test_a_layer_of_a_sure_row_is_as_sure_as_its_median(paper):
    random = np.random.default_rng(0)
    rows = [paper.row(spec, noise=0.01, random=random) for spec in paper.convolutions(40, seed=1)]
    model = TableModel(paper.table(rows))
    assert model.layer_margins([rows[3].spec]) == [rows[3].relative_error]


def test_rows_are_left_out_only_where_a_layer_lies_between_them(paper, monkeypatch):
    monkeypatch.setattr(network, "grouped_margins", _refused)
    rows = [paper.row(spec) for spec in paper.convolutions(40, seed=1)]
    unsure = replace(rows[0], samples_us=tuple(factor * rows[0].median_us for factor in (0.5, 1.0, 1.5)))
    model = TableModel(paper.table([unsure, *rows[1:]]))
    sure = [row.spec for row in rows[1:]]
    assert model.layer_margins(sure) == [row.relative_error for row in rows[1:]]
    assert model.margins_between_rows(sure) == [0.0] * len(sure)
    with pytest.raises(AssertionError, match="left out"):
        model.margins_between_rows([unsure.spec])


def _refused(*_, **__):
    raise AssertionError("rows were left out")


def test_a_higher_confidence_has_a_wider_margin(paper):
    known = networks(40, seed=1, space=FINE)
    random = np.random.default_rng(3)
    rows = [paper.row(spec) for spec in specs_of(*known)]
    table = paper.table(rows, [(each, sum_us(each, paper) * (1 + 0.05 * random.standard_normal())) for each in known])
    margins = [TableModel(table, confidence=confidence).margin for confidence in (0.5, 0.9, 0.95)]
    assert margins == sorted(margins)
    assert margins[0] < margins[1]
    assert TableModel(table, confidence=0.99).margin is None
