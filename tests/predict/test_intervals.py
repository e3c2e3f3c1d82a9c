"""Margins by hand."""

import numpy as np
import pytest

from deepmad_hw.predict.intervals import (
    MIN_NETWORKS,
    MIN_OF_A_GROUP,
    conformal_margin,
    grouped_margins,
    networks_needed,
)


@pytest.mark.parametrize(
    ("errors", "confidence", "margin"),
    [
        ([0.01, -0.02, 0.03, 0.0, -0.05, 0.01, 0.02, 0.0, 0.04], 0.9, 0.05),  # nine: the largest
        ([0.01] * 17 + [-0.2, 0.3], 0.9, 0.2),  # nineteen: the second largest
        ([0.1, -0.2, 0.3], 0.5, 0.2),
        ([0.1, -0.2, 0.3], 0.75, 0.3),
        ([0.4], 0.5, 0.4),
    ],
)
def test_the_margin_is_the_ranked_error(errors, confidence, margin):
    assert conformal_margin(errors, confidence=confidence) == margin
    assert conformal_margin(errors[::-1], confidence=confidence) == margin


@pytest.mark.parametrize("count", range(MIN_NETWORKS))
def test_too_few_networks_have_no_margin(count):
    assert conformal_margin([0.01] * count) is None


def test_enough_networks_have_one():
    assert conformal_margin([0.01] * MIN_NETWORKS) == 0.01


def test_a_margin_covers_what_it_says():
    random = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        *known, new = random.standard_t(4, 20) * 0.03
        covered.append(abs(new) <= conformal_margin(known))
    assert 0.88 < np.mean(covered) < 0.93  # 18 of 20 ranks: 0.9


@pytest.mark.parametrize(("confidence", "count"), [(0.5, 1), (0.75, 3), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_the_networks_that_a_confidence_needs_are_just_enough(confidence, count):
    assert networks_needed(confidence) == count
    assert conformal_margin([0.01] * count, confidence=confidence) == 0.01
    assert conformal_margin([0.01] * (count - 1), confidence=confidence) is None


def test_a_group_speaks_for_itself_if_it_is_large_enough():
    large = [("large", 0.1)] * MIN_OF_A_GROUP
    small = [("small", -0.5)] * 2
    margins = grouped_margins(large + small)
    assert margins == {"large": 0.1, None: 0.1}
    assert grouped_margins(small, confidence=0.5) == {None: 0.5}
    assert grouped_margins([]) == {None: None}
