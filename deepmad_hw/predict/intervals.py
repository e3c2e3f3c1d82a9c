"""How far whole networks stray from their prediction: the margin of a table. Layer 3.

Source: split conformal prediction, Vovk et al., "Algorithmic Learning in a Random World", 2005; the networks that
calibrate were not profiled layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.9
MIN_NETWORKS = 9  # fewer cannot bound 90 %: the largest of n errors covers n / (n + 1)


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
