"""Designs of the optimiser that calibrate a table beside random networks. Layer 4.

A margin found on random networks alone would speak of random networks. What is predicted in the end are optimised
designs, and these are no random members of their space: as deep and as narrow as the limits let them be.
"""

from __future__ import annotations

from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.problem.problem import Limits, Problem
from deepmad_hw.problem.space import Space

# The search ends long before; a limit that could be met would make the choice depend on the machine's speed.
TIME_LIMIT_S = 86_400.0


def optimised(like: Architecture, space: Space, *, rho: float) -> Architecture:
    """Return the design that the optimiser makes of a network's multiply-adds; the network where it finds none.

    Args:
        like: whose multiply-adds are the limit.
        space: the designs to choose from.
        rho: the limit on effectiveness, which decides how deep designs are.
    """
    from deepmad_hw.workflows.design.design import design

    limits = Limits(macs=costs.macs(like), rho=rho)
    problem = Problem(name="calibration", space=space, limits=limits)
    return design(problem, method="fast", time_limit_s=TIME_LIMIT_S).architecture or like
