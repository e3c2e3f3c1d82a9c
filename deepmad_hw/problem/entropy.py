"""DeepMAD's objective: multi-scale entropy, effectiveness rho, depth penalty. Layer 2.

Source: Shen et al., "DeepMAD: Mathematical Architecture Design for Deep Convolutional Neural Networks", CVPR 2023
(arXiv 2303.02165). Where the released code differs from the paper, the code is followed: its 1/2 (log sqrt w)
stands in `layer_entropy`, and the penalty uses the standard deviation of the depths (`penalty="variance"` gives
the paper's).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deepmad_hw.errors import ConfigError
from deepmad_hw.network import families
from deepmad_hw.network.expand import sections
from deepmad_hw.network.families.base import LayerForm, Number
from deepmad_hw.problem.objective import PENALTIES, PENALTY_WEIGHT, Objective

LAST_SCALE_WEIGHT = 8  # alpha of the last scale; all others 1 (released code)

Log = Callable[[Number], Number]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """The features at one resolution, just before the next stride or at the very end.

    Args:
        pixels: height times width.
        channels: width of the features.
        log_fan_in: sum of log w over the counted layers so far.
        depth: number of those layers.
        entropy: H_s = log(pixels * channels) * log_fan_in / 2.
    """

    pixels: int
    channels: Number
    log_fan_in: Number
    depth: Number
    entropy: Number


def scales(network: Any, *, log: Log = math.log) -> tuple[Scale, ...]:
    """Return the scales of a network: one before each stride-2 block after the stem, one at the end.

    Args:
        network: an `Architecture`, or what `deepmad_hw.network.expand.sections` takes.
        log: natural logarithm fit for the network's numbers.
    """
    found: list[Scale] = []
    log_fan_in: Number = 0.0
    depth: Number = 0
    at_end: tuple[int, Number] = (1, 1)
    for section in sections(network):
        if section.kind == "classifier":
            break
        if section.kind == "first" and section.stride == 2:
            found.append(_scale(at_end[0], at_end[1], log_fan_in, depth, log))
        counted = [layer for layer in section.layers if layer.counted]
        log_fan_in = log_fan_in + section.repeat * sum(layer_log_fan_in(layer, log=log) for layer in counted)
        depth = depth + section.repeat * len(counted)
        at_end = ((section.height // section.stride) * (section.width // section.stride), section.out_channels)
    found.append(_scale(at_end[0], at_end[1], log_fan_in, depth, log))
    return tuple(found)


def layer_log_fan_in(layer: LayerForm, *, log: Log = math.log) -> Number:
    """Return log w, with w = c_in * k^2 / groups the inputs of one output value.

    Args:
        layer: a counted convolution.
        log: natural logarithm fit for its numbers.
    """
    return log(layer.group_width) + 2 * log(layer.kernel)


def _scale(pixels: int, channels: Number, log_fan_in: Number, depth: Number, log: Log) -> Scale:
    size = math.log(pixels) + log(channels)
    return Scale(
        pixels=pixels, channels=channels, log_fan_in=log_fan_in, depth=depth, entropy=size * (0.5 * log_fan_in)
    )


def score(found: Sequence[Scale]) -> Number:
    """Return sum_s alpha_s H_s with alpha = [1, ..., 1, 8].

    Args:
        found: all scales of a network.
    """
    return sum(scale.entropy for scale in found[:-1]) + LAST_SCALE_WEIGHT * found[-1].entropy


def scale_weights(scales: int) -> tuple[float, ...]:
    """Return alpha = [1, ..., 1, 8] of DeepMAD's score.

    Args:
        scales: how many there are.

    Example:
        >>> scale_weights(3)
        (1.0, 1.0, 8.0)
    """
    return (*[1.0] * (scales - 1), float(LAST_SCALE_WEIGHT))


def rho(scale: Scale) -> float:
    """Return the effectiveness D / (prod w)^(1/D) at one scale, DeepMAD's guard against chaos in deep networks.

    Args:
        scale: a scale of plain numbers.
    """
    return float(scale.depth * math.exp(-scale.log_fan_in / scale.depth))


def penalised_depths(family: str, depths: Sequence[Number]) -> Sequence[Number]:
    """Return the depths that enter the depth penalty.

    Args:
        family: name of the block family.
        depths: of all stages in order.
    """
    return depths[families.get(family).penalty_from_stage - 1 :]


def penalised_stages(objective: Objective, family: str, stages: int) -> tuple[int, ...]:
    """Return the stages, from 1, whose depths enter the depth penalty of an objective.

    Args:
        objective: says which, or leaves it to the block family.
        family: name of the block family.
        stages: how many the network has.
    """
    if objective.penalty_stages is not None:
        return objective.penalty_stages
    return tuple(penalised_depths(family, range(1, stages + 1)))


def depth_penalty(family: str, depths: Sequence[int], *, penalty: str = "std") -> float:
    """Return Q = beta * exp(std of the depths), the price of unequal stages.

    Args:
        family: name of the block family (decides which stages count).
        depths: of all stages in order.
        penalty: ``std`` as in the released code, or ``variance`` as in the paper.

    Raises:
        ConfigError: unknown penalty.
    """
    if penalty not in PENALTIES:
        raise ConfigError(
            f"unknown penalty {penalty!r}", where="penalty", hint=f"expected one of {', '.join(PENALTIES)}"
        )
    counted = penalised_depths(family, depths)
    return PENALTY_WEIGHT * spread_of_depths(counted, penalty=penalty)


def spread_of_depths(depths: Sequence[int], *, penalty: str = "std") -> float:
    """Return exp(std of the depths), or of their variance: Q without its weight; 1 for fewer than two stages.

    Args:
        depths: of the stages that count.
        penalty: ``std`` or ``variance``.
    """
    if len(depths) < 2:
        return 1.0
    mean = sum(depths) / len(depths)
    variance = sum((depth - mean) ** 2 for depth in depths) / len(depths)
    return math.exp(variance if penalty == "variance" else math.sqrt(variance))


def objective(network: Any, *, penalty: str = "std") -> float:
    """Return score - Q, what a design maximises.

    Args:
        network: an `Architecture`.
        penalty: see `depth_penalty`.
    """
    depths = [stage.depth for stage in network.stages]
    return float(score(scales(network))) - depth_penalty(network.family, depths, penalty=penalty)
