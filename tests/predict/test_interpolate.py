"""Layers between measured rows come out near the truth, layers outside are refused."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from deepmad_hw.latency.measurement import LayerMeasurement
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.predict import interpolate
from deepmad_hw.predict.interpolate import MIN_ROWS, REACH, Interpolator, kind_of


@pytest.fixture(scope="module")
def dense(paper):
    """Return 80 measured 3x3 convolutions between 16 and 512 channels."""
    return [paper.row(spec) for spec in paper.convolutions(80, seed=0)]


@pytest.fixture(scope="module")
def interpolator(dense):
    return Interpolator(dense)


def errors(interpolator, specs, paper):
    predicted = interpolator.predict_us(specs)
    return np.abs(predicted / [paper.us(spec) for spec in specs] - 1)


@pytest.mark.parametrize(
    "options", [{}, {"kernel": 1}, {"stride": 2}, {"kernel": 5, "depthwise": True}], ids=lambda o: str(o)
)
def test_unseen_layers_are_near_the_truth(paper, options):
    known = Interpolator([paper.row(spec) for spec in paper.convolutions(80, seed=0, **options)])
    unseen = [spec for spec in paper.convolutions(120, seed=1, **options) if known.covers([spec]).all()]
    found = errors(known, unseen, paper)
    assert len(unseen) > 90
    assert np.median(found) < 0.03
    assert np.max(found) < 0.2


@pytest.mark.parametrize("factor", [1e3, 1e-3, 100.0, 0.01])
def test_a_row_far_from_those_around_it_is_left_out_and_named(dense, interpolator, factor):
    odd = replace(dense[20], samples_us=tuple(factor * value for value in dense[20].samples_us))
    bent = Interpolator([*dense[:20], odd, *dense[21:]])
    (found,) = bent.odd
    assert (found.spec, found.median_us) == (odd.spec, odd.median_us)
    assert found.factor == pytest.approx(factor, rel=0.3)
    assert interpolator.odd == ()
    specs = [row.spec for row in dense if bent.covers([row.spec]).all()]
    assert bent.predict_us(specs) == pytest.approx(interpolator.predict_us(specs), rel=0.1)


def test_rows_of_a_slow_kernel_are_not_odd(dense, paper):
    """Where a runtime has no fast kernel for a kind of layers, these rows say so of each other."""
    strided = [paper.row(spec) for spec in paper.convolutions(20, seed=4, stride=2)]
    slow = [replace(row, samples_us=tuple(100 * us for us in row.samples_us)) for row in strided]
    assert Interpolator([*dense, *slow]).odd == ()


def test_few_rows_cannot_tell_which_of_them_is_odd(dense):
    few = [replace(dense[0], samples_us=(1e6,)), *dense[1:8]]
    assert Interpolator(few).odd == ()
    assert Interpolator([]).odd == ()


def test_rows_that_are_all_alike_have_neighbours(paper):
    """More twins than neighbours: activations do not change what a layer is near to."""
    base = paper.convolutions(1, seed=5)[0]
    twins = [replace(base, activation=each) for each in ("relu", "silu", "none", "sigmoid", "hardswish", "relu6")]
    rows = [paper.row(replace(spec, residual=add)) for spec in twins for add in (False, True)]
    assert Interpolator(rows).odd == ()


def test_noise_of_rows_is_smoothed_and_not_followed(paper):
    random = np.random.default_rng(0)
    specs = paper.convolutions(120, seed=2)
    noisy = [paper.row(spec, noise=0.05, random=random, count=1) for spec in specs]
    known = Interpolator(noisy)
    assert np.median(errors(known, specs, paper)) < np.median(
        [abs(row.median_us / paper.us(row.spec) - 1) for row in noisy]
    )


def test_a_predicted_time_is_positive_and_finite(interpolator, paper):
    times = interpolator.predict_us([s for s in paper.convolutions(200, seed=3) if interpolator.covers([s]).all()])
    assert np.isfinite(times).all()
    assert (times > 0).all()


@pytest.mark.parametrize("field", ["in_channels", "out_channels"])
def test_more_channels_take_no_less_time(interpolator, field):
    base = LayerSpec(op="conv", in_channels=64, out_channels=64, height=28, width=28, kernel=3, activation="relu")
    specs = [replace(base, **{field: channels}) for channels in range(32, 449, 32)]
    times = interpolator.predict_us(specs)
    assert (np.diff(times) > 0).all()


def test_more_pixels_take_more_time(interpolator):
    sides = (7, 14, 28, 56)
    specs = [
        LayerSpec(op="conv", in_channels=64, out_channels=64, height=s, width=s, kernel=3, activation="relu")
        for s in sides
    ]
    assert (np.diff(interpolator.predict_us(specs)) > 0).all()


def test_a_layer_in_range_is_covered_and_one_outside_is_not(interpolator, dense):
    inside = LayerSpec(op="conv", in_channels=100, out_channels=90, height=20, width=20, kernel=3, activation="relu")
    widest = max(row.spec.in_channels for row in dense)
    narrowest = min(row.spec.in_channels for row in dense)
    reached = replace(inside, in_channels=int(widest * REACH * 0.99))
    for spec, covered in (
        (inside, True),
        (reached, True),
        (replace(inside, in_channels=int(widest * REACH * 1.05)), False),
        (replace(inside, in_channels=int(narrowest / REACH * 0.9)), False),
        (replace(inside, out_channels=1024), False),
        (replace(inside, height=112, width=112), False),
        (replace(inside, height=4, width=4), False),
        (replace(inside, kernel=5), False),
        (replace(inside, kernel=1), False),
        (replace(inside, stride=2), False),
        (replace(inside, activation="silu"), False),
        (replace(inside, residual=True), False),
        (replace(inside, in_channels=96, out_channels=96, groups=96), False),
        (replace(inside, in_channels=96, out_channels=96, groups=12), False),  # 8 wide: between dense and depthwise
        (LayerSpec(op="avg_pool", in_channels=100, out_channels=100, height=20, width=20), False),
    ):
        assert interpolator.covers([spec]).tolist() == [covered], spec


def test_coverage_is_told_for_each_of_many(interpolator):
    inside = LayerSpec(op="conv", in_channels=64, out_channels=64, height=28, width=28, kernel=3, activation="relu")
    outside = replace(inside, stride=2)
    assert interpolator.covers([inside, outside, inside]).tolist() == [True, False, True]
    assert interpolator.covers([]).shape == (0,)
    assert interpolator.predict_us([]).shape == (0,)


def test_too_few_rows_answer_for_nothing(paper):
    specs = paper.convolutions(MIN_ROWS, seed=4)
    assert Interpolator([paper.row(spec) for spec in specs]).covers(specs).all()
    assert not Interpolator([paper.row(spec) for spec in specs[:-1]]).covers(specs).any()


def test_failed_rows_answer_for_nothing(paper, dense):
    failed = [LayerMeasurement(spec=replace(row.spec, stride=2), samples_us=(), status="oom") for row in dense]
    assert not Interpolator([*dense, *failed]).covers([row.spec for row in failed]).any()


def test_kinds_are_not_mixed():
    spec = LayerSpec(op="conv", in_channels=64, out_channels=64, height=28, width=28, kernel=3, activation="relu")
    others = [{"kernel": 1}, {"stride": 2}, {"groups": 64}, {"activation": "silu"}, {"residual": True}]
    assert len({kind_of(spec), *(kind_of(replace(spec, **other)) for other in others)}) == 6
    assert kind_of(replace(spec, kernel=5, in_channels=32, height=7)) == kind_of(spec)


def test_the_same_rows_predict_the_same_to_the_last_digit(dense, interpolator, paper):
    specs = [spec for spec in paper.convolutions(60, seed=5) if interpolator.covers([spec]).all()]
    first, second = interpolator.predict_us(specs), Interpolator(dense).predict_us(specs)
    assert first.tolist() == second.tolist()
    one_by_one = [float(interpolator.predict_us([spec])[0]) for spec in specs]
    assert one_by_one == pytest.approx(first.tolist(), rel=1e-9)


def stepped_us(spec):
    """Return a time as a card takes it whose kernels fill it round by round, each kernel with a speed of its own."""
    tiles = np.ceil(spec.out_channels / 64) * np.ceil(spec.out_height * spec.out_width / 64)
    kernel = 1.0 + 0.9 * (spec.in_channels % 64 == 0) + 0.7 * (spec.out_channels % 32 == 0)
    return float(5.0 + np.ceil(tiles / 16) * spec.group_width * spec.kernel**2 / 40 * kernel)


def stepped(specs):
    return [LayerMeasurement(spec=spec, samples_us=(stepped_us(spec),)) for spec in specs]


def test_steps_are_left_to_trees_and_smooth_times_are_not(paper, interpolator):
    specs = paper.convolutions(600, seed=0)
    known, smooth = Interpolator(stepped(specs)), Interpolator(stepped(specs))
    smooth._by_trees = False
    assert (known._by_trees, interpolator._by_trees) == (True, False)
    unseen = [spec for spec in paper.convolutions(300, seed=1) if known.covers([spec]).all()]
    truth = np.array([stepped_us(spec) for spec in unseen])
    errors_of_trees = np.abs(known.predict_us(unseen) / truth - 1)
    assert np.median(errors_of_trees) < 0.8 * np.median(np.abs(smooth.predict_us(unseen) / truth - 1))
    assert known.predict_us(unseen).tolist() == Interpolator(stepped(specs)).predict_us(unseen).tolist()


def test_more_rows_than_a_process_takes_are_left_to_trees(dense, monkeypatch):
    monkeypatch.setattr("deepmad_hw.predict.interpolate.MAX_ROWS", len(dense) - 1)
    assert Interpolator(dense)._by_trees
    monkeypatch.setattr("deepmad_hw.predict.interpolate.MAX_ROWS", len(dense))
    assert not Interpolator(dense)._by_trees
    monkeypatch.setattr("deepmad_hw.predict.interpolate.MAX_ROWS_OF_KIND", len(dense) - 1)
    assert Interpolator(dense)._by_trees


def test_left_out_errors_are_those_of_a_process_without_the_row():
    random = np.random.default_rng(0)
    points, values = random.standard_normal((30, 11)), random.standard_normal(30)
    variances = random.uniform(0.001, 0.1, 30)
    centred = points - points.mean(axis=0)
    whole = interpolate._Process(points, values, variances)
    covariance = interpolate._covariance(centred, centred) + np.diag(variances + interpolate._NOISE)
    for left_out in range(0, 30, 7):
        kept = np.delete(np.arange(30), left_out)
        weights = np.linalg.solve(covariance[np.ix_(kept, kept)], values[kept])
        error = values[left_out] - covariance[left_out, kept] @ weights
        assert whole.left_out[left_out] == pytest.approx(error, rel=1e-6)


def test_a_batch_fills_more_tiles():
    spec = LayerSpec(op="conv", in_channels=64, out_channels=64, height=7, width=7, kernel=3, activation="relu")
    one, many = (interpolate._Numbers([spec], batch) for batch in (1, 32))
    assert one.tiles(64).tolist() == [1.0]
    assert many.tiles(64).tolist() == [25.0]  # 32 x 49 pixels in strips of 64, one strip of channels


def test_a_smooth_table_needs_no_scikit_learn():
    """It takes a second to import, which a command that only looks at a table should not spend."""
    program = (
        "import sys; from deepmad_hw.network.layer import LayerSpec;"
        "from deepmad_hw.latency.measurement import LayerMeasurement as M;"
        "from deepmad_hw.predict.interpolate import Interpolator as I;"
        "s = [LayerSpec(op='conv', in_channels=8 * i, out_channels=16, height=8, width=8) for i in range(1, 30)];"
        "I([M(spec=x, samples_us=(float(x.in_channels),)) for x in s]).predict_us(s);"
        "sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
