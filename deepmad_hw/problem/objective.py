"""What a design is worth, as data: weights of terms that the integer model takes exactly. Layer 1.

    f = sum_s a_s H_s - beta Q(L) + g_P log P + g_M log M + sum_i d_i L_i + constant

with H_s the entropy of scale s, Q the depth penalty over the depths L, P the parameters and M the MACs. H_s and L_i may
have any sign, because the model carries them by equations; Q, log P and log M only the sign with which -Q, log P and
log M are concave, so that tangents bound them from above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from deepmad_hw.errors import ConfigError

PENALTIES = ("std", "variance")
PENALTY_WEIGHT = 10.0  # beta (DeepMAD's released code)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureRange:
    """In which range a feature was seen among the networks that an objective was fitted to.

    Args:
        feature: ``entropy:S`` (H of scale S from 1), ``depth:I`` (blocks of stage I from 1), ``params`` or ``macs``.
        least: smallest value.
        most: largest value.
    """

    feature: str
    least: float
    most: float

    def __post_init__(self) -> None:
        """Refuse a range that is none."""
        if not (math.isfinite(self.least) and math.isfinite(self.most) and self.least <= self.most):
            raise ConfigError(f"expected least <= most, got {self.least} to {self.most}", where=self.feature)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What an objective was fitted to, and where it holds.

    Args:
        unit: of the objective, such as ``accuracy points``.
        family: block family of the networks.
        networks: how many there were.
        ranges: of the features; designs stay inside.
        features: names of the fitted features, in the order of `center` and `precision`: ``score``, ``depth:I``,
            ``penalty``, ``log_params``, ``log_macs``.
        center: mean of each feature.
        precision: inverse of the features' (regularised) scatter matrix, for the leverage
            ``1 / networks + (x - center)' precision (x - center)``.
        largest_leverage: among the networks that it was fitted to; a design above it is an extrapolation.
        source: where the accuracies came from, in a few words.
    """

    unit: str
    family: str
    networks: int
    ranges: tuple[FeatureRange, ...]
    features: tuple[str, ...]
    center: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    largest_leverage: float
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse a calibration whose parts do not fit together."""
        if not self.unit:
            raise ConfigError("expected the unit of the objective, such as accuracy points", where="unit")
        size = len(self.features)
        rows = [self.center, *self.precision]
        if len(self.precision) != size or any(len(row) != size for row in rows):
            raise ConfigError(f"expected {size} features everywhere", where="precision")
        if not all(math.isfinite(value) for row in rows for value in row):
            raise ConfigError("expected finite numbers", where="precision")
        if self.networks < 1 or not self.largest_leverage > 0:
            raise ConfigError("expected at least one network, and its leverage", where="networks")

    def leverage(self, values: tuple[float, ...]) -> float:
        """Return how far a design lies from the networks that were fitted: at most 1 for each of these.

        Args:
            values: of the features.
        """
        off = [value - middle for value, middle in zip(values, self.center, strict=True)]
        square = sum(
            one * weight * other
            for one, row in zip(off, self.precision, strict=True)
            for weight, other in zip(row, off, strict=True)
        )
        return 1 / self.networks + square


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """Weights of the terms that a design's worth is made of; the default is DeepMAD's.

    Args:
        scale_weights: a_s of every scale, of any sign; None stands for 1, ..., 1, 8.
        penalty: form of the depth penalty Q: ``std`` (released code) or ``variance`` (paper).
        penalty_weight: beta >= 0; Q is ``exp`` of the spread of depths.
        penalty_stages: stages from 1 whose depths Q is about; None stands for those of the block family.
        log_params: g_P >= 0.
        log_macs: g_M >= 0.
        depth_weights: d_i of every stage, of any sign; empty for none.
        constant: added to every design's worth.
        calibration: where the weights come from, None for a formula.
    """

    scale_weights: tuple[float, ...] | None = None
    penalty: str = "std"
    penalty_weight: float = PENALTY_WEIGHT
    penalty_stages: tuple[int, ...] | None = None
    log_params: float = 0.0
    log_macs: float = 0.0
    depth_weights: tuple[float, ...] = ()
    constant: float = 0.0
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        """Refuse weights that the integer model cannot take exactly."""
        if self.penalty not in PENALTIES:
            expected = ", ".join(PENALTIES)
            raise ConfigError(f"unknown penalty {self.penalty!r}", where="penalty", hint=f"expected one of {expected}")
        for name in ("penalty_weight", "log_params", "log_macs"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(
                    f"expected a weight of at least 0, got {value}",
                    where=name,
                    hint="with another sign the term is not concave, and no bound could be proved",
                )
        weights = [*(self.scale_weights or ()), *self.depth_weights, self.constant]
        if not all(math.isfinite(weight) for weight in weights):
            raise ConfigError("expected finite weights", where="objective")
        stages = self.penalty_stages
        if stages is not None and (sorted(set(stages)) != list(stages) or any(stage < 1 for stage in stages)):
            raise ConfigError(f"expected ascending stages from 1, got {list(stages)}", where="penalty_stages")

    @property
    def unit(self) -> str:
        """Return the unit of a calibrated objective; a formula has none."""
        return "" if self.calibration is None else self.calibration.unit


DEFAULT_GAP = 0.005  # of a formula, as a share of its terms' magnitude
DEFAULT_GAP_POINTS = 0.05  # of a calibrated objective, in its own unit


def usual_gap(objective: Objective) -> float:
    """Return the gap at which a proof may stop where nobody says: a share, or points of a calibrated objective.

    Args:
        objective: what is maximised.
    """
    return DEFAULT_GAP if objective.calibration is None else DEFAULT_GAP_POINTS


def search_unit(objective: Objective, *, magnitude: float, gap: float | None = None) -> float:
    """Return what the tolerances of a search are shares of: a formula's magnitude, or so many points.

    Of these points, the gap is the share that `DEFAULT_GAP` is of a magnitude. The magnitude of a calibrated objective
    says little, because terms of 100 points cancel and a few tenths of a point matter.

    Args:
        objective: what is maximised.
        magnitude: of its terms.
        gap: that is asked for; None takes the usual one.
    """
    if objective.calibration is None:
        return magnitude
    return (usual_gap(objective) if gap is None else gap) / DEFAULT_GAP


def require_fit(objective: Objective, *, family: str, stages: int, scales: int) -> None:
    """Refuse an objective that speaks of other networks.

    Args:
        objective: the objective.
        family: block family of the space.
        stages: number of the space's stages.
        scales: number of its scales.

    Raises:
        ConfigError: another number of scales or stages, or weights that were fitted to another family.
    """
    weights, depths, penalised = objective.scale_weights, objective.depth_weights, objective.penalty_stages or ()
    if weights is not None and len(weights) != scales:
        raise ConfigError(f"has {len(weights)} weights for {scales} scales", where="scale_weights")
    if depths and len(depths) != stages:
        raise ConfigError(f"has {len(depths)} weights for {stages} stages", where="depth_weights")
    if any(stage > stages for stage in penalised):
        raise ConfigError(f"names stage {max(penalised)} of {stages}", where="penalty_stages")
    calibration = objective.calibration
    if calibration is None:
        return
    if calibration.family != family:
        raise ConfigError(f"was fitted to {calibration.family} networks, not to {family}", where="objective")
    known = {
        "params",
        "macs",
        *(f"entropy:{scale}" for scale in range(1, scales + 1)),
        *(f"depth:{stage}" for stage in range(1, stages + 1)),
    }
    for each in calibration.ranges:
        if each.feature not in known:
            raise ConfigError(f"no network of this space has a feature {each.feature!r}", where="ranges")
    fitted = {"score", "penalty", "log_params", "log_macs", *(f"depth:{stage}" for stage in range(1, stages + 1))}
    for feature in calibration.features:
        if feature not in fitted:
            raise ConfigError(f"no network of this space has a feature {feature!r}", where="features")
