"""Entropy, effectiveness and depth penalty against numbers worked out by hand."""

import math

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.problem import entropy
from deepmad_hw.problem.objective import Objective

log = math.log


def network(family="bottleneck", *, depths=(2, 1), head=None):
    """Return 8x16 pixels after the stem, 4x8 after stage 1, 2x4 after stage 2."""
    outs, inner = (12, 20), (4, 6)
    return Architecture(
        family=family,
        resolution=(16, 32),
        stem=Stem(out=8),
        stages=tuple(
            Stage(out=out, bottleneck=b, kernel=5, stride=2, depth=d)
            for out, b, d in zip(outs, inner, depths, strict=True)
        ),
        head=head,
    )


def test_scales_of_a_bottleneck_network_by_hand():
    stem = log(3 * 9)
    stage1 = log(8) + log(4 * 25) + log(4) + log(12) + log(4 * 25) + log(4)
    stage2 = log(12) + log(6 * 25) + log(6)
    sums = (stem, stem + stage1, stem + stage1 + stage2)
    found = entropy.scales(network())
    assert [(scale.pixels, scale.channels, scale.depth) for scale in found] == [(128, 8, 1), (32, 12, 7), (8, 20, 10)]
    assert [scale.log_fan_in for scale in found] == pytest.approx(list(sums))
    expected = [log(128 * 8) * sums[0] / 2, log(32 * 12) * sums[1] / 2, log(8 * 20) * sums[2] / 2]
    assert [scale.entropy for scale in found] == pytest.approx(expected)
    assert entropy.score(found) == pytest.approx(expected[0] + expected[1] + 8 * expected[2])


def test_a_basic_block_counts_its_two_convolutions():
    found = entropy.scales(network("basic", depths=(1, 1)))
    expected = log(27) + log(8 * 25) + log(4 * 25) + log(12 * 25) + log(6 * 25)
    assert (found[-1].depth, found[-1].log_fan_in) == (5, pytest.approx(expected))


@pytest.mark.parametrize("family", ["mbconv", "mbconv_se"])
def test_a_depthwise_convolution_sees_its_window_only(family):
    found = entropy.scales(network(family, depths=(1, 1)))
    expected = log(27) + log(8) + log(25) + log(4) + log(12) + log(25) + log(6)
    assert (found[-1].depth, found[-1].log_fan_in) == (7, pytest.approx(expected))


def test_a_head_counts_at_the_last_scale_only():
    plain, headed = entropy.scales(network()), entropy.scales(network(head=Head(out=40)))
    assert headed[:-1] == plain[:-1]
    assert (headed[-1].channels, headed[-1].depth) == (40, plain[-1].depth + 1)
    assert headed[-1].log_fan_in == pytest.approx(plain[-1].log_fan_in + log(20))


def test_a_stage_without_stride_makes_no_scale():
    flat = Architecture(
        family="bottleneck",
        resolution=(16, 16),
        stem=Stem(out=8),
        stages=(Stage(out=12, bottleneck=4, kernel=3, stride=1, depth=1),),
    )
    assert [(scale.pixels, scale.channels) for scale in entropy.scales(flat)] == [(64, 12)]


def test_the_classifier_changes_nothing():
    backbone = Architecture(
        family="bottleneck", resolution=(16, 32), stem=Stem(out=8), stages=network().stages, classes=0
    )
    assert entropy.scales(backbone) == entropy.scales(network())


def test_rho_is_depth_over_the_geometric_mean_of_fan_ins():
    scale = entropy.scales(network(depths=(1, 1)))[1]
    assert entropy.rho(scale) == pytest.approx(4 / (27 * 8 * 100 * 4) ** (1 / 4))


def test_rho_of_the_stem_alone():
    assert entropy.rho(entropy.scales(network())[0]) == pytest.approx(1 / 27)


@pytest.mark.parametrize(("family", "first"), [("bottleneck", 3), ("basic", 2), ("mbconv", 1), ("mbconv_se", 1)])
def test_depths_that_enter_the_penalty(family, first):
    assert entropy.penalised_depths(family, [1, 2, 3, 4, 5]) == [1, 2, 3, 4, 5][first - 1 :]
    assert entropy.penalised_stages(Objective(), family, 5) == (1, 2, 3, 4, 5)[first - 1 :]
    assert entropy.penalised_stages(Objective(penalty_stages=(1, 4)), family, 5) == (1, 4)


def test_penalty_is_ten_times_exp_of_the_population_deviation():
    assert entropy.depth_penalty("bottleneck", [1, 6, 9, 10, 12]) == pytest.approx(10 * math.exp(math.sqrt(14 / 9)))
    assert entropy.depth_penalty("mbconv", [2, 4]) == pytest.approx(10 * math.e)


def test_penalty_of_the_paper_is_exp_of_the_variance():
    assert entropy.depth_penalty("mbconv", [1, 5], penalty="variance") == pytest.approx(10 * math.exp(4))


@pytest.mark.parametrize("depths", [[7], [1, 9], [1, 9, 4]])
def test_fewer_than_two_stages_that_count_pay_ten(depths):
    assert entropy.depth_penalty("bottleneck", depths) == 10.0


def test_equal_depths_pay_ten():
    assert entropy.depth_penalty("mbconv", [3, 3, 3]) == 10.0


def test_an_unknown_penalty_is_refused():
    with pytest.raises(ConfigError) as caught:
        entropy.depth_penalty("mbconv", [1, 2], penalty="var")
    assert str(caught.value) == "penalty: unknown penalty 'var'; expected one of std, variance"


def test_objective_is_score_minus_penalty():
    made = network("mbconv", depths=(1, 5))
    score = entropy.score(entropy.scales(made))
    assert entropy.objective(made) == pytest.approx(score - 10 * math.exp(2))
    assert entropy.objective(made, penalty="variance") == pytest.approx(score - 10 * math.exp(4))
