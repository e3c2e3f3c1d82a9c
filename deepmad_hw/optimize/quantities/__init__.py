"""Quantities as the solvers see them: what limits and the objective are made of. Layer 3 (optimize).

One file each, with its equations: values of designs, rows of the integer model, terms of the continuous one, smallest
value of a space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.quantities.additive import Additive
from deepmad_hw.optimize.quantities.base import Limited, ObjectiveTerm
from deepmad_hw.optimize.quantities.depth_penalty import depth_penalty
from deepmad_hw.optimize.quantities.depths import stage_depths
from deepmad_hw.optimize.quantities.effectiveness import Effectiveness
from deepmad_hw.optimize.quantities.entropy import EntropyScore
from deepmad_hw.optimize.quantities.log_sum import log_macs, log_params
from deepmad_hw.optimize.quantities.memory import PeakMemory
from deepmad_hw.optimize.quantities.ranges import InRange
from deepmad_hw.optimize.quantities.stage_share import StageShare

OTHERS: dict[str, type[Limited]] = {"memory": PeakMemory, "rho": Effectiveness, "stage_share": StageShare}
"""Limits that are no sums over layers, by name."""

TERMS: list[Callable[[Coefficients], ObjectiveTerm | None]] = [
    depth_penalty,
    EntropyScore,
    log_params,
    log_macs,
    stage_depths,
]
"""What the objective may be made of; each gives its term for a problem, or None where the problem has none."""


def limited(tables: Coefficients) -> tuple[Limited, ...]:
    """Return the quantities that a problem limits, sums over layers first, ranges of a calibrated objective last.

    Args:
        tables: the problem's tables.
    """
    named = tables.problem.limits.named()
    sums = [Additive(tables, name, limit) for name, limit in named.items() if name in tables.quantities]
    others = [kind(tables, name, named[name]) for name, kind in OTHERS.items() if name in named]
    calibration = tables.problem.worth.calibration
    ranges = [InRange(tables, seen) for seen in (() if calibration is None else calibration.ranges)]
    return (*sums, *others, *ranges)


def objective_terms(tables: Coefficients) -> tuple[ObjectiveTerm, ...]:
    """Return the terms whose sum a problem maximises.

    Args:
        tables: the problem's tables.
    """
    return tuple(term for make in TERMS if (term := make(tables)) is not None)


def sums_read(limits: Iterable[Limited], terms: Iterable[ObjectiveTerm]) -> tuple[str, ...]:
    """Return the names of the sums over layers that a problem's limits and objective read.

    Args:
        limits: the problem's, by `limited`.
        terms: its objective's, by `objective_terms`.
    """
    read = [*(limit.sums for limit in limits), *(term.sums for term in terms)]
    return tuple(dict.fromkeys(name for sums in read for name in sums))
