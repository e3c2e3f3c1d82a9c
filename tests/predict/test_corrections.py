"""What layers take beyond their rows: found from whole networks where they show it, nothing where they do not."""

import numpy as np
import pytest

from deepmad_hw.predict import corrections
from deepmad_hw.predict.corrections import Observed


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


@pytest.mark.parametrize("true_us", [0.0, 3.5, 8.0])
def test_what_networks_show_is_found(true_us):
    found = networks(20, us_per_layer=true_us)
    assert corrections.us_per_layer(found) == true_us
    assert corrections.left_out_errors(found) == pytest.approx([0.0] * 20, abs=1e-9)


def test_one_network_that_strays_does_not_decide():
    found = networks(20, us_per_layer=3.5)
    stray = Observed(measured_us=20 * found[0].measured_us, rows_us=found[0].rows_us, layers=found[0].layers)
    assert corrections.us_per_layer([stray, *found[1:]]) == 3.5


def test_noise_alone_shows_no_constant():
    assert [corrections.us_per_layer(networks(12, seed=seed, noise=0.01)) for seed in range(20)] == [0.0] * 20


def test_few_networks_show_nothing():
    assert corrections.us_per_layer(networks(corrections.MIN_NETWORKS - 1, us_per_layer=5.0)) == 0.0
    assert corrections.us_per_layer([]) == 0.0
    assert corrections.left_out_errors([]) == corrections.left_out_errors(networks(1)) == ()


def test_without_a_constant_errors_are_those_of_the_median_ratio():
    found = networks(6, noise=0.05)
    ratios = [each.measured_us / each.rows_us for each in found]
    expected = [ratio / np.median(ratios[:i] + ratios[i + 1 :]) - 1 for i, ratio in enumerate(ratios)]
    assert corrections.left_out_errors(found) == pytest.approx(expected)
