"""A problem of small images with a budget on MACs, and one with a budget on a made-up latency."""

import numpy as np
import pytest
from tiny_images import TINY_SPACE

from deepmad_hw.latency.model import Curve
from deepmad_hw.network.costs import layer_macs
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.workflows.design.design import Question


class Board:
    """A device on which a layer takes a microsecond and its MACs at a given speed."""

    name = device = "board"
    curve = Curve()
    margin = 0.2

    def covers(self, specs):
        return np.ones(len(specs), dtype=bool)

    def layers_ms(self, specs):
        return np.array([1e-3 + 1e-7 * layer_macs(spec) for spec in specs])


@pytest.fixture
def by_macs():
    """Return a question with a budget on MACs."""
    return Question(problem=Problem(name="tiny", space=TINY_SPACE, limits=Limits(macs=400e3)))


@pytest.fixture
def by_latency():
    """Return a question with a budget on a board's latency."""
    limits = Limits(latency=(LatencyLimit(table="board", budget_ms=0.08),))
    problem = Problem(name="tiny", space=TINY_SPACE, limits=limits)
    return Question(problem=problem, models={"board": Board()})
