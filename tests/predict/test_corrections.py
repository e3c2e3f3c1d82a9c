"""What layers take beyond their rows: found from whole networks where they show it, nothing where they do not."""

import numpy as np
import pytest

from deepmad_hw.latency.model import Curve
from deepmad_hw.predict import corrections
from deepmad_hw.predict.corrections import Bend, Corrections, Observed


def networks(count, *, us_per_layer=0.0, gain=1.1, noise=0.0, seed=0):
    """Return networks of few and many layers, short and long, which took what their rows and a constant say."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        layers = int(random.integers(20, 200))
        rows_us = layers * 10 ** random.uniform(1, 2.5)
        measured_us = gain * (rows_us + us_per_layer * layers) * (1 + noise * random.standard_normal())
        found.append(Observed(measured_us=measured_us, rows_us=rows_us, layers=layers))
    return found


@pytest.mark.parametrize("true_us", [0.0, 3.0, 8.0])
def test_what_networks_show_is_found(true_us):
    found = networks(20, us_per_layer=true_us)
    assert corrections.corrections(found).us_per_layer == true_us
    assert corrections.left_out_errors(found) == pytest.approx([0.0] * 20, abs=1e-9)


def test_one_network_that_strays_does_not_decide():
    found = networks(20, us_per_layer=3.0)
    stray = Observed(measured_us=20 * found[0].measured_us, rows_us=found[0].rows_us, layers=found[0].layers)
    assert corrections.corrections([stray, *found[1:]]).us_per_layer == 3.0


def test_noise_alone_shows_no_constant():
    for seed in range(20):
        found = corrections.corrections(networks(12, seed=seed, noise=0.01))
        assert (found.us_per_layer, found.bend, found.curve) == (0.0, None, Curve())


def test_few_networks_show_nothing():
    few = corrections.corrections(networks(corrections.MIN_NETWORKS - 1, us_per_layer=5.0))
    assert (few.us_per_layer, few.bend) == (0.0, None)
    assert corrections.corrections([]) == Corrections()
    assert corrections.left_out_errors([]) == corrections.left_out_errors(networks(1)) == ()


def small_networks(count, *, share=0.6, us_per_layer=0.0, noise=0.0, seed=0):
    """Return networks of 0.3 to 30 ms; those up to 1.5 ms of sum take a share of it, those from 2.5 ms on all."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        layers = int(random.integers(20, 200))
        rows_us = float(10 ** random.uniform(2.5, 4.5))
        total_us = rows_us + us_per_layer * layers
        sum_us = np.interp(total_us, (0, 1500, 2500, 1e6), (0, 1500 * share, 2500, 1e6))
        measured_us = float(1.1 * sum_us * (1 + noise * random.standard_normal()))
        found.append(Observed(measured_us=measured_us, rows_us=rows_us, layers=layers))
    return found


@pytest.mark.parametrize("share", [0.5, 0.7])
@pytest.mark.parametrize("us_per_layer", [0.0, 3.0])
def test_a_share_of_short_networks_is_found(share, us_per_layer):
    networks_ms = small_networks(60, share=share, us_per_layer=us_per_layer)
    found = corrections.corrections(networks_ms)
    assert found.us_per_layer == pytest.approx(us_per_layer, abs=1.0)
    assert found.gain == pytest.approx(1.1, rel=0.02)
    assert found.bend.share == pytest.approx(share)
    errors = [found.latency_us(network) / network.measured_us - 1 for network in networks_ms]
    assert np.mean(np.abs(errors)) < 0.03
    assert found.curve.latency_ms(22.0) == pytest.approx(22.0)


def test_networks_left_out_are_predicted_by_the_others():
    found = small_networks(60)
    assert np.mean(np.abs(corrections.left_out_errors(found))) < 0.04
    straight = [each.measured_us / (1.1 * each.rows_us) - 1 for each in found]
    assert np.mean(np.abs(straight)) > 0.1


def test_noise_does_not_hide_short_networks():
    for seed in range(10):
        found = corrections.corrections(small_networks(60, noise=0.05, seed=seed))
        assert found.bend.share == pytest.approx(0.6, abs=0.11)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
def test_noise_alone_shows_no_bend(noise):
    bends = [corrections.corrections(networks(40, noise=noise, seed=seed)).bend for seed in range(20)]
    assert bends.count(None) >= 19


def test_a_few_short_networks_show_no_bend():
    long = [network for network in small_networks(60) if network.rows_us > 2500]
    short = [network for network in small_networks(60, seed=1) if network.rows_us < 1500]
    assert corrections.corrections([*long, *short[: corrections.MIN_SHORT - 1]]).bend is None
    assert corrections.corrections([*long[:30], *short[:10]]).bend is not None


def test_the_curve_increases():
    bend = Bend(short_us=2000.0, long_us=2500.0, share=0.6)
    assert np.array(Corrections(gain=1.1, bend=bend).curve.knots) == pytest.approx(
        np.array([[0.0, 0.0], [2.2, 1.32], [2.75, 2.75]])
    )


def test_without_a_constant_errors_are_those_of_the_median_ratio():
    found = networks(6, noise=0.05)
    ratios = [each.measured_us / each.rows_us for each in found]
    expected = [ratio / np.median(ratios[:i] + ratios[i + 1 :]) - 1 for i, ratio in enumerate(ratios)]
    assert corrections.left_out_errors(found) == pytest.approx(expected)
