"""How far whole networks stray from their prediction: the margin of a table. Layer 3.

Source: split conformal prediction, Vovk et al., "Algorithmic Learning in a Random World", 2005; the networks that
calibrate were not profiled layer by layer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

from deepmad_hw.latency.model import CONFIDENCE

Group = TypeVar("Group", bound=Hashable)

__all__ = ["CONFIDENCE", "MIN_NETWORKS", "conformal_margin", "grouped_margins", "networks_needed"]

MIN_NETWORKS = 9  # fewer cannot bound 90 %: the largest of n errors covers n / (n + 1)
ROUNDING = 1e-9
MIN_OF_A_GROUP = 30  # errors that make a margin of their own; a smaller group takes that of all together


def conformal_margin(relative_errors: Sequence[float], *, confidence: float = CONFIDENCE) -> float | None:
    """Return m such that a new network's latency is within ``predicted * (1 +- m)`` at the confidence.

    Args:
        relative_errors: measured over predicted, minus one, of networks like those to be predicted.
        confidence: share of new networks that the margin shall cover.

    Returns:
        The margin, or None where there are too few networks to say.
    """
    ordered = sorted(abs(error) for error in relative_errors)
    rank = math.ceil((len(ordered) + 1) * confidence)
    return ordered[rank - 1] if 0 < rank <= len(ordered) else None


def grouped_margins(
    relative_errors: Sequence[tuple[Group, float]], *, confidence: float = CONFIDENCE
) -> dict[Group | None, float | None]:
    """Return the margin of each group of errors, and of all together under None.

    Args:
        relative_errors: (group, measured over predicted minus one); groups too small to speak for themselves are left
            out of the answer.
        confidence: share of each group that its margin shall cover.
    """
    found: dict[Group, list[float]] = defaultdict(list)
    for group, error in relative_errors:
        found[group].append(error)
    margins: dict[Group | None, float | None] = {
        group: conformal_margin(errors, confidence=confidence)
        for group, errors in found.items()
        if len(errors) >= MIN_OF_A_GROUP
    }
    margins[None] = conformal_margin([error for _, error in relative_errors], confidence=confidence)
    return margins


def networks_needed(confidence: float) -> int:
    """Return how many networks it takes to bound a share of new ones: the largest of n errors covers n / (n + 1).

    Args:
        confidence: that share, above 0 and below 1.
    """
    return math.ceil(confidence / (1 - confidence) - ROUNDING)
