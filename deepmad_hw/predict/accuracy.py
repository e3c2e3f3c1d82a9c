"""Fits an objective to trained networks, and says whether it ranks them better than a fixed rule does. Layer 3.

The features are those that the integer model takes exactly, with the signs that it can take
(`deepmad_hw.problem.objective`). Their weights come from ridge regression; what the fit is worth is judged on networks
that it has not seen.

Source: Hoerl and Kennard, "Ridge Regression", Technometrics 12 (1970); Stark and Parker, "Bounded-Variable
Least-Squares", Computational Statistics 10 (1995); Efron, "Bootstrap Methods", Annals of Statistics 7 (1979).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import lsq_linear
from scipy.stats import rankdata

from deepmad_hw.errors import ConfigError
from deepmad_hw.latency.model import CONFIDENCE
from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.problem import entropy
from deepmad_hw.problem.objective import Calibration, FeatureRange, Objective

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MIN_NETWORKS = 8  # of which a fold leaves six to fit to
MOST_BLOCKS = 100  # of a stage; more would make numbers of the depth penalty that no fit takes
LARGEST_ENTROPY = 1e9
MIN_OF_A_GROUP = 3  # networks whose order says something
FOLDS = 4
REPEATS = 10
RESAMPLES = 1000
STRENGTHS: tuple[float, ...] = tuple(10.0 ** (step / 2) for step in range(-7, 3))  # of the ridge, per network
NEGLIGIBLE = 1e-9  # points per standard deviation of a feature: what rounding makes of a feature that never changes
CALIBRATED = "calibrated"
RULES = {
    "deepmad": "DeepMAD's objective",
    "score": "the score without penalty",
    "log_params": "the number of parameters",
    "log_macs": "the number of MACs",
    "rho": "rho",
    "blocks": "the number of blocks",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Population:
    """Trained networks of one space: what the formulas say of them, and how accurate they are.

    Args:
        names: of the n networks.
        family: their block family.
        accuracies: in percent, shape [n].
        entropies: H_s of every scale, shape [n, scales].
        depths: blocks of every stage, shape [n, stages].
        params: shape [n].
        macs: at batch 1, shape [n].
        rho: largest effectiveness of any scale, shape [n].
    """

    names: tuple[str, ...]
    family: str
    accuracies: Floats
    entropies: Floats
    depths: Floats
    params: Floats
    macs: Floats
    rho: Floats

    def __post_init__(self) -> None:
        """Refuse numbers that no trained networks have."""
        for name in ("accuracies", "entropies", "depths", "params", "macs", "rho"):
            values = getattr(self, name)
            if values.ndim != (2 if name in ("entropies", "depths") else 1) or len(values) != len(self.names):
                raise ConfigError(f"expected one row for each of {len(self.names)} networks", where=name)
            bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            if bad.any():
                raise ConfigError(f"no finite number for network {self.names[int(bad.argmax())]!r}", where=name)
        whole = np.all((self.depths >= 1) & (self.depths <= MOST_BLOCKS) & (self.depths == np.round(self.depths)))
        if not whole or np.any(self.entropies > LARGEST_ENTROPY):
            raise ConfigError("expected whole depths from 1, and entropies of networks", where="depths")
        if not (np.all(self.params > 0) and np.all(self.macs > 0)):
            raise ConfigError("expected networks with parameters and MACs", where="params")
        if not np.all((self.accuracies >= 0) & (self.accuracies <= 100)):
            raise ConfigError("expected accuracies in percent, from 0 to 100", where="accuracies")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def score(self) -> Floats:
        """Return sum_s a_s H_s with a = [1, ..., 1, 8], shape [n]."""
        return np.asarray(self.entropies @ np.array(entropy.scale_weights(self.entropies.shape[1])))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the fitted features, in the order of the columns of `features`."""
        stages = self.depths.shape[1]
        return ("score", *(f"depth:{stage}" for stage in range(1, stages + 1)), "penalty", "log_params", "log_macs")

    @property
    def features(self) -> Floats:
        """Return the fitted features, shape [n, features]; the penalty is exp(std of all depths), without a weight."""
        spread = _penalty(self.depths, form="std")
        return np.column_stack([self.score, self.depths, spread, np.log(self.params), np.log(self.macs)])

    def take(self, rows: Integers) -> Population:
        """Return some of the networks.

        Args:
            rows: their positions.
        """
        return Population(
            names=tuple(self.names[row] for row in rows),
            family=self.family,
            accuracies=self.accuracies[rows],
            entropies=self.entropies[rows],
            depths=self.depths[rows],
            params=self.params[rows],
            macs=self.macs[rows],
            rho=self.rho[rows],
        )


def population(networks: Iterable[tuple[str, Architecture, float]]) -> Population:
    """Return trained networks with what the product's own formulas say of them.

    Args:
        networks: (name, network, accuracy in percent), all of one family and one number of stages and scales.

    Raises:
        ConfigError: no networks, or networks that have not the same features.
    """
    found = list(networks)
    shapes = {(net.family, len(net.stages), len(entropy.scales(net))) for _, net, _ in found}
    if len(shapes) != 1:
        raise ConfigError("expected networks of one family with equal numbers of stages and scales", where="networks")
    scales = [entropy.scales(net) for _, net, _ in found]
    return from_columns(
        names=[name for name, _, _ in found],
        family=found[0][1].family,
        accuracies=[accuracy for _, _, accuracy in found],
        entropies=[[scale.entropy for scale in one] for one in scales],
        depths=[[stage.depth for stage in net.stages] for _, net, _ in found],
        params=[costs.params(net) for _, net, _ in found],
        macs=[costs.macs(net) for _, net, _ in found],
        rho=[max(entropy.rho(scale) for scale in one) for one in scales],
    )


def from_columns(
    *,
    names: Sequence[str],
    family: str,
    accuracies: ArrayLike,
    entropies: ArrayLike,
    depths: ArrayLike,
    params: ArrayLike,
    macs: ArrayLike,
    rho: ArrayLike,
) -> Population:
    """Return trained networks whose numbers were computed elsewhere, because no block family has their blocks.

    Args:
        names: of the n networks.
        family: the block family that is closest; its rule says which stages DeepMAD's penalty is about.
        accuracies: in percent, shape [n].
        entropies: H_s, shape [n, scales].
        depths: shape [n, stages].
        params: shape [n].
        macs: shape [n].
        rho: shape [n].

    Raises:
        ConfigError: columns that do not fit together, or hold no finite numbers.
    """
    return Population(
        names=tuple(names),
        family=family,
        accuracies=np.asarray(accuracies, dtype=np.float64),
        entropies=np.asarray(entropies, dtype=np.float64),
        depths=np.asarray(depths, dtype=np.float64),
        params=np.asarray(params, dtype=np.float64),
        macs=np.asarray(macs, dtype=np.float64),
        rho=np.asarray(rho, dtype=np.float64),
    )


def _penalty(depths: Floats, *, form: str) -> Floats:
    if depths.shape[1] < 2:
        return np.ones(len(depths))
    spread = depths.var(axis=1) if form == "variance" else depths.std(axis=1)
    return np.asarray(np.exp(spread))


def predict(objective: Objective, population: Population) -> Floats:
    """Return what networks are worth by an objective: of a calibrated one, their predicted accuracy in points.

        f = sum_s a_s H_s - beta Q(L) + g_P log P + g_M log M + sum_i d_i L_i + constant

    Args:
        objective: its weights.
        population: the networks; their accuracies are not looked at.

    Returns:
        One number per network, shape [n].

    Raises:
        ConfigError: the objective is about another number of scales or stages.
    """
    scales, stages = population.entropies.shape[1], population.depths.shape[1]
    weights = objective.scale_weights or entropy.scale_weights(scales)
    if len(weights) != scales:
        raise ConfigError(f"expected weights of {scales} scales, got {len(weights)}", where="scale_weights")
    of_depths = objective.depth_weights or (0.0,) * stages
    if len(of_depths) != stages:
        raise ConfigError(f"expected weights of {stages} stages, got {len(of_depths)}", where="depth_weights")
    penalised = entropy.penalised_stages(objective, population.family, stages)
    if any(stage > stages for stage in penalised):
        raise ConfigError(f"the networks have {stages} stages only", where="penalty_stages")
    spread = _penalty(population.depths[:, [stage - 1 for stage in penalised]], form=objective.penalty)
    worth = (
        population.entropies @ np.array(weights)
        - objective.penalty_weight * spread
        + objective.log_params * np.log(population.params)
        + objective.log_macs * np.log(population.macs)
        + population.depths @ np.array(of_depths)
        + objective.constant
    )
    return np.asarray(worth)


# --- the fit ----------------------------------------------------------------------------------------------------------


def fit(population: Population, *, source: str = "") -> Objective:
    """Return the objective that predicts the accuracy of networks like these best, so that it can be maximised.

        minimise  |Z w - (y - mean y)|^2 + lambda n |w|^2,   w_penalty <= 0, w_log_params >= 0, w_log_macs >= 0

    with Z the standardised features, y the accuracies in points, and lambda the strength of `STRENGTHS` whose squared
    error is least where each network in turn is left out. Nothing is drawn: the same networks give the same objective.

    Args:
        population: trained networks of one space.
        source: where the accuracies come from, in a few words.

    Raises:
        ConfigError: fewer than `MIN_NETWORKS` networks, or all equally accurate.

    Source: Hoerl and Kennard, "Ridge Regression", 1970; signs by Stark and Parker, 1995; strength by Allen, "The
    Relationship Between Variable Selection and Data Augmentation and a Method for Prediction", 1974.
    """
    _refuse_unfit(population)
    features, accuracies = population.features, population.accuracies
    strength = _strength(features, accuracies)
    weights, constant = _ridge(features, accuracies, strength)
    stages = population.depths.shape[1]
    of_score, of_depths, of_penalty = weights[0], weights[1 : 1 + stages], max(0.0, -weights[-3])
    return Objective(
        scale_weights=tuple(float(of_score * one) for one in entropy.scale_weights(population.entropies.shape[1])),
        penalty="std",
        penalty_weight=float(of_penalty),
        penalty_stages=tuple(range(1, stages + 1)),
        log_params=max(0.0, float(weights[-2])),
        log_macs=max(0.0, float(weights[-1])),
        depth_weights=tuple(float(one) for one in of_depths),
        constant=float(constant),
        calibration=_calibration(population, strength, source),
    )


def _refuse_unfit(population: Population) -> None:
    if len(population) < MIN_NETWORKS:
        raise ConfigError(f"expected at least {MIN_NETWORKS} trained networks, got {len(population)}", where="networks")
    if np.ptp(population.accuracies) == 0:
        raise ConfigError("all networks are equally accurate, so there is nothing to fit", where="accuracies")


def _strength(features: Floats, accuracies: Floats) -> float:
    squares = [_left_out_squares(features, accuracies, strength) for strength in STRENGTHS]
    return STRENGTHS[int(np.argmin(squares))]


def _left_out_squares(features: Floats, accuracies: Floats, strength: float) -> float:
    """Return the sum of squared errors of each network's prediction by a fit to all others.

        y_i - f_(without i)(x_i) = (y_i - f(x_i)) / (1 - h_i),   h the diagonal of the hat matrix

    It is exact where leaving one out moves no weight to or from its limit; the features' units are those of all.
    """
    weights, constant = _ridge(features, accuracies, strength)
    center, scale = _standard(features)
    free = ((features - center) / scale)[:, weights != 0]
    scatter = free.T @ free + strength * len(features) * np.eye(free.shape[1])
    hat = 1 / len(features) + np.sum((free @ np.linalg.inv(scatter)) * free, axis=1)
    return float(np.sum(((features @ weights + constant - accuracies) / (1 - hat)) ** 2))


def _folds(networks: int, random: np.random.Generator) -> Integers:
    return random.permutation(np.arange(networks) % FOLDS)


def _ridge(features: Floats, accuracies: Floats, strength: float) -> tuple[Floats, float]:
    """Return the weights of the features in their own units, and the constant."""
    center, scale = _standard(features)
    networks, size = features.shape
    system = np.vstack([(features - center) / scale, np.sqrt(strength * networks) * np.eye(size)])
    target = np.concatenate([accuracies - accuracies.mean(), np.zeros(size)])
    lowest, highest = np.full(size, -np.inf), np.full(size, np.inf)
    highest[-3], lowest[-2:] = 0, 0
    found = lsq_linear(system, target, bounds=(lowest, highest), method="bvls").x
    weights: Floats = np.where(np.abs(found) > NEGLIGIBLE, found, 0) / scale
    return weights, float(accuracies.mean() - center @ weights)


def _standard(features: Floats) -> tuple[Floats, Floats]:
    center, scale = features.mean(axis=0), features.std(axis=0)
    constant = scale <= 1e-9 * np.maximum(1, np.abs(center))  # rounding leaves a little
    return center, np.where(constant, 1, scale)


def _calibration(population: Population, strength: float, source: str) -> Calibration:
    features, networks = population.features, len(population)
    center, scale = _standard(features)
    standard = (features - center) / scale
    scatter = standard.T @ standard + strength * networks * np.eye(len(center))
    precision = np.linalg.inv(scatter) / np.outer(scale, scale)
    off = features - center
    leverages = 1 / networks + np.sum((off @ precision) * off, axis=1)
    return Calibration(
        unit="accuracy points",
        family=population.family,
        networks=networks,
        ranges=_ranges(population),
        features=population.feature_names,
        center=tuple(center.tolist()),
        precision=tuple(tuple(row) for row in precision.tolist()),
        largest_leverage=float(leverages.max()),
        source=source,
    )


def _ranges(population: Population) -> tuple[FeatureRange, ...]:
    columns = [(f"entropy:{index + 1}", column) for index, column in enumerate(population.entropies.T)]
    columns += [("params", population.params), ("macs", population.macs)]
    columns += [(f"depth:{index + 1}", column) for index, column in enumerate(population.depths.T)]
    return tuple(
        FeatureRange(feature=name, least=float(values.min()), most=float(values.max())) for name, values in columns
    )


# --- what it is worth -------------------------------------------------------------------------------------------------


def fixed_rules(population: Population) -> dict[str, Floats]:
    """Return by what networks can be ranked without any training: more is better by each of them.

    Args:
        population: the networks.

    Returns:
        Values of shape [n] by the names of `RULES`.
    """
    return {
        "deepmad": predict(Objective(), population),
        "score": population.score,
        "log_params": np.log(population.params),
        "log_macs": np.log(population.macs),
        "rho": population.rho,
        "blocks": population.depths.sum(axis=1),
    }


def rank_correlation(one: Floats, other: Floats) -> Floats:
    """Return Spearman's coefficient along the last axis; 0 where one side is constant and so ranks nothing.

    Args:
        one: values, shape [..., n].
        other: values, shape [..., n].

    Example:
        >>> round(float(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0, 5.0]))), 6)
        0.5
    """
    return np.asarray((_unit_ranks(one) * _unit_ranks(other)).sum(axis=-1))


def _unit_ranks(values: Floats) -> Floats:
    ranks = rankdata(values, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=-1, keepdims=True))
    return np.asarray(ranks / np.where(length > 0, length, 1))


def resampled_correlations(
    rules: Floats, accuracies: Floats, *, seed: int, groups: ArrayLike | None = None, resamples: int = RESAMPLES
) -> Floats:
    """Return rank correlations of rules with accuracy, and how they spread: the mean over groups of networks.

    Args:
        rules: values of each rule, shape [rules, n].
        accuracies: shape [n].
        seed: of the bootstrap.
        groups: label of each network's group, shape [n]; None makes one group of all.
        resamples: bootstrap samples, drawn with replacement inside each group; the rules share them.

    Returns:
        Coefficients of shape [1 + resamples, rules]; the first row is of the networks as they are.

    Raises:
        ConfigError: a group of fewer than `MIN_OF_A_GROUP` networks.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
    """
    random = np.random.default_rng(seed)
    labels = np.zeros(len(accuracies)) if groups is None else np.asarray(groups)
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < MIN_OF_A_GROUP:
            raise ConfigError(f"expected at least {MIN_OF_A_GROUP} networks in each group", where="groups")
        drawn = random.choice(members, size=(resamples, len(members)))
        rows = np.vstack([members, drawn])
        truth = _unit_ranks(accuracies[rows])
        found.append([(_unit_ranks(rule[rows]) * truth).sum(axis=-1) for rule in rules])
    return np.asarray(np.mean(found, axis=0).T)


def held_out(population: Population, *, seed: int, repeats: int = REPEATS) -> Floats:
    """Return what the calibrated objective says of networks that it was not fitted to: repeated fourfold fits.

    Each fit's values count from the worth of the population's mean features. A fold's own constant says nothing on
    ranks, and as it is high where the fold left out has low accuracies, it would pull the coefficient below zero.

    Args:
        population: trained networks.
        seed: of the folds.
        repeats: how often the networks are dealt into folds anew.

    Returns:
        Shape [repeats, n].

    """
    random, features = np.random.default_rng(seed), population.features
    worth = np.empty((repeats, len(population)))
    for repeat in range(repeats):
        fold_of = _folds(len(population), random)
        for fold in range(FOLDS):
            seen = population.take(np.flatnonzero(fold_of != fold))
            strength = _strength(seen.features, seen.accuracies)
            weights, _ = _ridge(seen.features, seen.accuracies, strength)
            left = fold_of == fold
            worth[repeat, left] = (features[left] - features.mean(axis=0)) @ weights
    return worth


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A number and where it lies with 90 % confidence.

    Args:
        value: of the networks as they are.
        low: 5th percentile over the bootstrap samples.
        high: 95th percentile.
    """

    value: float
    low: float
    high: float


def interval(samples: Floats) -> Interval:
    """Return the value and the bootstrap interval of one coefficient, or of a difference of two.

    Args:
        samples: the value itself, then those of the bootstrap samples.
    """
    outside = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(samples[1:], [outside, 100 - outside])
    return Interval(value=float(samples[0]), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleComparison:
    """A fixed rule beside the calibrated objective.

    Args:
        rule: a name of `RULES`.
        correlation: its rank correlation with accuracy.
        difference: the calibrated objective's coefficient less its own, networks resampled together.
    """

    rule: str
    correlation: Interval
    difference: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Which rule to use, and why.

    Args:
        networks: how many were ranked.
        calibrated: rank correlation of the calibrated objective with the accuracy of networks it was not fitted to.
        fixed: the same of each fixed rule.
    """

    networks: int
    calibrated: Interval
    fixed: tuple[RuleComparison, ...]

    @property
    def best_fixed(self) -> RuleComparison:
        """Return the fixed rule with the largest coefficient."""
        return max(self.fixed, key=lambda one: one.correlation.value)

    @property
    def rule(self) -> str:
        """Return ``calibrated`` if it is shown to be better than the best fixed rule, else the name of that one."""
        return CALIBRATED if self.best_fixed.difference.low > 0 else self.best_fixed.rule

    @property
    def sentence(self) -> str:
        """Return in one sentence which rule to use, and how sure that is."""
        best, name = self.best_fixed, RULES[self.best_fixed.rule]
        gain = best.difference
        shown = f"{gain.value:+.2f}, {100 * CONFIDENCE:.0f} % interval {gain.low:+.2f} to {gain.high:+.2f}"
        figures = f"{self.calibrated.value:.2f} against {best.correlation.value:.2f}"
        if self.rule == CALIBRATED:
            return (
                f"Use the calibrated objective: it ranks these {self.networks} networks better than {name} does, the "
                f"best fixed rule (rank correlation {figures}; difference {shown})."
            )
        chance = "" if best.correlation.low > 0 else ", and no rule is shown to be better than chance"
        return (
            f"Use the fixed rule, {name}: on these {self.networks} networks the calibrated objective is not shown to "
            f"rank better (rank correlation {figures}; difference {shown}){chance}."
        )


def compare(
    population: Population,
    *,
    seed: int,
    groups: ArrayLike | None = None,
    repeats: int = REPEATS,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Return how well the calibrated objective ranks networks that it has not seen, beside every fixed rule.

    The coefficient of the calibrated objective is the mean over the repeats. The bootstrap resamples networks, not
    fits, so its intervals are a little too narrow for other populations.

    Args:
        population: trained networks.
        seed: of folds and bootstrap.
        groups: label of each network's group, such as its tenth of latency; ranks are compared inside groups.
        repeats: of the fourfold fits.
        resamples: of the bootstrap.

    Raises:
        ConfigError: too few networks, also in a group, or all equally accurate.
    """
    _refuse_unfit(population)
    unseen, rules = held_out(population, seed=seed, repeats=repeats), fixed_rules(population)
    values = np.vstack([unseen, *rules.values()])
    found = resampled_correlations(values, population.accuracies, seed=seed, groups=groups, resamples=resamples)
    calibrated, fixed = found[:, :repeats].mean(axis=1), found[:, repeats:]
    return Comparison(
        networks=len(population),
        calibrated=interval(calibrated),
        fixed=tuple(
            RuleComparison(rule=name, correlation=interval(column), difference=interval(calibrated - column))
            for name, column in zip(rules, fixed.T, strict=True)
        ),
    )
