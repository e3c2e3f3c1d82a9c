"""Objectives fitted to networks whose accuracies are made by a known rule, or by none."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from deepmad_hw.errors import ConfigError
from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.predict import accuracy
from deepmad_hw.predict.accuracy import (
    MIN_NETWORKS,
    RULES,
    compare,
    fit,
    fixed_rules,
    from_columns,
    held_out,
    population,
    predict,
    rank_correlation,
    resampled_correlations,
)
from deepmad_hw.problem import entropy
from deepmad_hw.problem.objective import Objective

STAGES = 4


def columns(count, seed=0, **changed):
    """Return networks whose numbers are drawn one by one, so that no feature stands for another."""
    random = np.random.default_rng(seed)
    found = {
        "names": [f"net{index}" for index in range(count)],
        "family": "mbconv",
        "accuracies": random.uniform(40, 60, count),
        "entropies": random.uniform(100, 900, (count, 3)),
        "depths": random.integers(1, 7, (count, STAGES)),
        "params": np.exp(random.uniform(14, 17, count)),
        "macs": np.exp(random.uniform(18, 21, count)),
        "rho": random.uniform(0.2, 0.8, count),
    }
    return found | changed


def ruled(count, objective, *, noise=0.0, seed=0):
    """Return networks as accurate as an objective says, but for noise in points."""
    made = from_columns(**columns(count, seed))
    accuracies = predict(objective, made) + np.random.default_rng(seed).normal(0, noise, count)
    return from_columns(**columns(count, seed, accuracies=accuracies))


KNOWN = Objective(
    scale_weights=(0.002, 0.002, 0.016),
    penalty_weight=0.5,
    penalty_stages=(1, 2, 3, 4),
    log_params=1.5,
    log_macs=0.75,
    depth_weights=(0.4, -0.3, 0.2, 0.0),
    constant=10.0,
)


def network(family="mbconv", *, depths=(1, 3, 2), out=32, head=64):
    stages = tuple(
        Stage(out=out + 8 * index, bottleneck=2 * out, kernel=3, stride=2, depth=depth)
        for index, depth in enumerate(depths)
    )
    return Architecture(family=family, resolution=(64, 64), stem=Stem(out=16), stages=stages, head=Head(out=head))


# --- populations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bottleneck", "basic", "mbconv", "mbconv_se"])
def test_networks_have_the_numbers_of_the_formulas(family):
    networks = [network(family), network(family, depths=(2, 1, 4), out=24)]
    made = population([("one", networks[0], 70.0), ("other", networks[1], 71.5)])
    assert len(made) == 2
    assert made.accuracies.tolist() == [70.0, 71.5]
    for index, net in enumerate(networks):
        scales = entropy.scales(net)
        assert made.score[index] == pytest.approx(entropy.score(scales))
        assert made.params[index] == costs.params(net)
        assert made.macs[index] == costs.macs(net)
        assert made.rho[index] == max(entropy.rho(scale) for scale in scales)
    deepmad = [entropy.objective(net) for net in networks]
    assert predict(Objective(), made) == pytest.approx(deepmad)
    assert fixed_rules(made)["deepmad"] == pytest.approx(deepmad)
    variance = [entropy.objective(net, penalty="variance") for net in networks]
    assert predict(Objective(penalty="variance"), made) == pytest.approx(variance)


def test_features_are_those_of_the_objective():
    made = population([("one", network(depths=(1, 3, 2)), 70.0)])
    assert made.feature_names == ("score", "depth:1", "depth:2", "depth:3", "penalty", "log_params", "log_macs")
    (row,) = made.features
    assert row[1:4].tolist() == [1, 3, 2]
    assert row[4] == pytest.approx(np.exp(np.std([1, 3, 2])))
    assert row[5:] == pytest.approx([np.log(made.params[0]), np.log(made.macs[0])])


@pytest.mark.parametrize("other", [network("basic"), network(depths=(1, 2)), network(depths=(1, 2, 3, 1))])
def test_networks_of_several_shapes_are_refused(other):
    with pytest.raises(ConfigError, match="equal numbers of stages"):
        population([("one", network(), 70.0), ("other", other, 70.0)])


def test_no_networks_are_refused():
    with pytest.raises(ConfigError, match="networks"):
        population([])


@pytest.mark.parametrize("column", ["accuracies", "entropies", "depths", "params", "macs", "rho"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused_by_name(column, value):
    changed = np.array(columns(10)[column], dtype=float)
    changed[3] = value
    with pytest.raises(ConfigError, match="'net3'") as caught:
        from_columns(**columns(10, **{column: changed}))
    assert caught.value.where == column
    assert "\n" not in str(caught.value)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ConfigError, match="one row for each of 10 networks"):
        from_columns(**columns(10, params=np.ones(9)))


@pytest.mark.parametrize(
    ("changed", "what"),
    [({"accuracies": np.full(10, 101.0)}, "percent"), ({"macs": np.zeros(10)}, "MACs")],
)
def test_impossible_numbers_are_refused(changed, what):
    with pytest.raises(ConfigError, match=what):
        from_columns(**columns(10, **changed))


# --- the fit ----------------------------------------------------------------------------------------------------------


def test_known_weights_are_found_again():
    found = fit(ruled(400, KNOWN))
    assert found.scale_weights == pytest.approx(KNOWN.scale_weights, rel=0.01)
    assert found.penalty_weight == pytest.approx(KNOWN.penalty_weight, rel=0.01)
    assert found.penalty_stages == KNOWN.penalty_stages
    assert found.log_params == pytest.approx(KNOWN.log_params, rel=0.01)
    assert found.log_macs == pytest.approx(KNOWN.log_macs, rel=0.01)
    assert found.depth_weights == pytest.approx(KNOWN.depth_weights, abs=0.01)


def test_an_objective_predicts_accuracies_in_points():
    made, unseen = ruled(400, KNOWN, noise=0.1), ruled(100, KNOWN, seed=1)
    found = fit(made)
    assert predict(found, unseen) == pytest.approx(unseen.accuracies, abs=0.2)
    assert predict(found, made).mean() == pytest.approx(made.accuracies.mean())


def test_weights_that_no_bound_could_be_proved_for_become_zero():
    made = from_columns(**columns(200))
    spread = np.exp(made.depths.std(axis=1))
    falling = 60 + spread - np.log(made.params) - 0.5 * np.log(made.macs) + 0.001 * made.score
    found = fit(from_columns(**columns(200, accuracies=falling)))
    assert (found.penalty_weight, found.log_params, found.log_macs) == (0, 0, 0)
    assert found.scale_weights[0] == pytest.approx(0.001, rel=0.1)


def test_score_and_depths_may_lower_the_accuracy():
    falling = Objective(scale_weights=(-0.001, -0.001, -0.008), penalty_weight=0, depth_weights=(-1.0, 0, 0, 0.5))
    made = from_columns(**columns(300))
    found = fit(from_columns(**columns(300, accuracies=predict(falling, made) + 50)))
    assert found.scale_weights == pytest.approx((-0.001, -0.001, -0.008), rel=0.02)
    assert found.depth_weights == pytest.approx((-1, 0, 0, 0.5), abs=0.02)


def test_a_feature_that_never_changes_gets_no_weight():
    depths = np.tile([2, 3, 2, 1], (30, 1))
    found = fit(from_columns(**columns(30, depths=depths, macs=np.full(30, 1e9))))
    assert found.depth_weights == (0, 0, 0, 0)
    assert (found.log_macs, found.penalty_weight) == (0, 0)


def test_the_error_of_a_network_left_out_needs_no_fit_of_its_own():
    made = ruled(30, KNOWN, noise=2.0)
    features, strength = made.features, 0.1
    center, scale = accuracy._standard(features)
    standard = (features - center) / scale
    weights, _ = accuracy._ridge(features, made.accuracies, strength)
    free = standard[:, weights != 0]
    ones = np.column_stack([np.ones(30), free])
    ridge = strength * 30 * np.diag([0.0] + [1.0] * free.shape[1])
    squares = 0.0
    for left in range(30):
        seen = np.arange(30) != left
        solved = np.linalg.solve(ones[seen].T @ ones[seen] + ridge, ones[seen].T @ made.accuracies[seen])
        squares += (made.accuracies[left] - ones[left] @ solved) ** 2
    assert accuracy._left_out_squares(features, made.accuracies, strength) == pytest.approx(squares)


def test_noise_asks_for_a_stronger_ridge():
    clear, blurred = ruled(60, KNOWN), from_columns(**columns(60))
    assert accuracy._strength(clear.features, clear.accuracies) == min(accuracy.STRENGTHS)
    assert accuracy._strength(blurred.features, blurred.accuracies) > 0.1


@pytest.mark.parametrize("use", [fit, lambda few: compare(few, seed=0)])
def test_too_few_networks_are_refused_in_one_line(use):
    with pytest.raises(ConfigError, match=f"at least {MIN_NETWORKS} trained networks, got {MIN_NETWORKS - 1}"):
        use(from_columns(**columns(MIN_NETWORKS - 1)))


@pytest.mark.parametrize("use", [fit, lambda equal: compare(equal, seed=0)])
def test_equal_accuracies_are_refused(use):
    with pytest.raises(ConfigError, match="equally accurate"):
        use(from_columns(**columns(20, accuracies=np.full(20, 70.0))))


def test_few_networks_are_enough_to_fit():
    found = fit(ruled(MIN_NETWORKS, KNOWN))
    assert found.calibration.networks == MIN_NETWORKS


# --- where it holds ---------------------------------------------------------------------------------------------------


def test_ranges_are_those_of_the_networks():
    made = from_columns(**columns(30))
    ranges = {one.feature: (one.least, one.most) for one in fit(made).calibration.ranges}
    expected = [*(f"entropy:{scale}" for scale in (1, 2, 3)), "params", "macs"]
    assert list(ranges) == [*expected, *(f"depth:{stage}" for stage in (1, 2, 3, 4))]
    assert ranges["entropy:2"] == (made.entropies[:, 1].min(), made.entropies[:, 1].max())
    assert ranges["params"] == (made.params.min(), made.params.max())
    assert ranges["macs"] == (made.macs.min(), made.macs.max())
    assert ranges["depth:4"] == (made.depths[:, 3].min(), made.depths[:, 3].max())


def test_leverage_tells_a_design_from_the_networks_that_were_fitted():
    made = from_columns(**columns(30))
    calibration = fit(made, source="made up").calibration
    assert (calibration.unit, calibration.family, calibration.source) == ("accuracy points", "mbconv", "made up")
    assert calibration.features == made.feature_names
    leverages = [calibration.leverage(tuple(row)) for row in made.features]
    assert max(leverages) == pytest.approx(calibration.largest_leverage)
    assert calibration.largest_leverage <= 1
    assert calibration.leverage(calibration.center) == pytest.approx(1 / 30)
    corner = tuple(made.features.max(axis=0) + 2 * made.features.std(axis=0))
    assert calibration.leverage(corner) > calibration.largest_leverage


def test_leverage_with_a_weak_ridge_is_the_diagonal_of_the_hat_matrix():
    made = ruled(60, KNOWN)
    calibration = fit(made).calibration
    ones = np.column_stack([np.ones(60), (made.features - made.features.mean(axis=0)) / made.features.std(axis=0)])
    hat = ones @ np.linalg.inv(ones.T @ ones) @ ones.T
    assert [calibration.leverage(tuple(row)) for row in made.features] == pytest.approx(np.diag(hat), rel=0.01)


def test_a_combination_that_no_network_had_is_far_away_although_each_feature_is_in_its_range():
    random = np.random.default_rng(0)
    macs = np.exp(random.uniform(18, 21, 40))
    made = from_columns(**columns(40, macs=macs, params=macs / 50 * np.exp(random.normal(0, 0.05, 40))))
    calibration = fit(ruled_by(made)).calibration
    odd = list(calibration.center)
    odd[-2], odd[-1] = made.features[:, -2].max(), made.features[:, -1].min()
    assert calibration.leverage(tuple(odd)) > 2 * calibration.largest_leverage


def ruled_by(made):
    """Return the same networks, as accurate as `KNOWN` says."""
    return from_columns(
        **{name: getattr(made, name) for name in columns(1) if name != "accuracies"}, accuracies=predict(KNOWN, made)
    )


# --- what it is worth -------------------------------------------------------------------------------------------------


def test_predictions_need_weights_of_all_scales_and_stages():
    made = from_columns(**columns(10))
    with pytest.raises(ConfigError, match="weights of 3 scales, got 2"):
        predict(Objective(scale_weights=(1.0, 8.0)), made)
    with pytest.raises(ConfigError, match="weights of 4 stages, got 1"):
        predict(Objective(depth_weights=(1.0,)), made)
    with pytest.raises(ConfigError, match="4 stages only"):
        predict(Objective(penalty_stages=(1, 5)), made)


def test_a_penalty_on_one_stage_is_a_constant():
    made = from_columns(**columns(10))
    assert predict(Objective(penalty_stages=(2,)), made) == pytest.approx(made.score - 10)


def test_rank_correlations_are_spearmans():
    random = np.random.default_rng(0)
    one, other = random.integers(0, 6, 40).astype(float), random.normal(size=40)
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert rank_correlation(np.stack([one, -one]), np.stack([one, one])) == pytest.approx([1, -1])
    assert rank_correlation(np.ones(5), np.arange(5.0)) == 0


def test_correlations_inside_groups_do_not_see_what_differs_between_them():
    accuracies = np.array([1.0, 2.0, 3.0, 11.0, 12.0, 13.0])
    between = np.array([3.0, 2.0, 1.0, 13.0, 12.0, 11.0])
    values = np.stack([accuracies, between])
    found = resampled_correlations(values, accuracies, groups=[0, 0, 0, 1, 1, 1], resamples=5, seed=0)
    assert found.shape == (6, 2)
    assert found[0] == pytest.approx([1, -1])
    assert resampled_correlations(values, accuracies, resamples=5, seed=0)[0, 1] > 0


def test_a_group_of_two_is_refused():
    with pytest.raises(ConfigError, match="at least 3 networks in each group"):
        compare(from_columns(**columns(20)), groups=[0] * 18 + [1] * 2, seed=0)


def test_fixed_rules_are_all_named():
    assert list(fixed_rules(from_columns(**columns(10)))) == list(RULES)


def test_noise_gives_the_fixed_rule():
    found = compare(from_columns(**columns(24)), seed=0)
    assert found.rule == found.best_fixed.rule != "calibrated"
    assert found.sentence.startswith("Use the fixed rule, ")
    assert "not shown to rank better" in found.sentence
    assert found.sentence.count("\n") == 0


def test_the_right_objective_gives_the_calibrated_one():
    found = compare(ruled(60, KNOWN, noise=0.3), seed=0)
    assert found.rule == "calibrated"
    assert found.sentence.startswith("Use the calibrated objective: ")
    assert found.calibrated.value > 0.9
    assert found.best_fixed.difference.low > 0


def test_a_rule_that_ranks_as_well_is_preferred():
    made = from_columns(**columns(40))
    steps = 50 + 5 * np.log(made.params / made.params.min())
    found = compare(from_columns(**columns(40, accuracies=steps)), seed=0)
    assert found.rule == "log_params"
    assert found.best_fixed.correlation.value == pytest.approx(1)


def test_intervals_hold_the_value_and_differences_are_differences():
    found = compare(ruled(40, KNOWN, noise=2.0), seed=0)
    for one in found.fixed:
        assert one.correlation.low <= one.correlation.value <= one.correlation.high
        assert one.difference.value == pytest.approx(found.calibrated.value - one.correlation.value)


def test_unseen_networks_are_ranked_without_a_bias_on_noise():
    found = []
    for seed in range(60):
        made = from_columns(**columns(24, seed))
        found.append(np.mean(rank_correlation(held_out(made, seed=seed, repeats=2), made.accuracies)))
    assert abs(np.mean(found)) < 0.08  # three standard errors


def test_the_same_seed_gives_the_same_answer():
    made = ruled(24, KNOWN, noise=2.0)
    assert compare(made, seed=3, repeats=2) == compare(made, seed=3, repeats=2)
    assert compare(made, seed=3, repeats=2) != compare(made, seed=4, repeats=2)
    assert fit(made) == fit(made)
