"""A small problem, its answer and a latency model, for tests of the front."""

import numpy as np
import pytest

from deepmad_hw.latency.model import Curve
from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.problem.solution import Solution, Status
from deepmad_hw.problem.space import Space, StageSpace


class PerMac:
    """A device on which every layer takes a nanosecond per MAC, and a network a millisecond more."""

    device = "board"
    curve = Curve(knots=((0.0, 1.0),))
    batch = 4

    def __init__(self, name="board", margin=0.1):
        self.name = name
        self.margin = margin

    def covers(self, specs):
        return np.ones(len(specs), dtype=bool)

    def layers_ms(self, specs):
        return np.array([costs.layer_macs(spec) * 1e-6 for spec in specs], dtype=np.float64)


@pytest.fixture
def load():
    """Read a table's file as a model that is named after it."""
    return lambda path: PerMac(name=path.stem)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "board.csv"
    path.write_text("not read by these tests\n")
    return path


@pytest.fixture
def architecture():
    return Architecture(
        family="bottleneck",
        resolution=(64, 64),
        stem=Stem(out=16),
        stages=(
            Stage(out=32, bottleneck=8, kernel=3, stride=2, depth=1),
            Stage(out=64, bottleneck=16, kernel=5, stride=2, depth=2),
        ),
    )


@pytest.fixture
def problem():
    stage = StageSpace(stride=2, out=(32, 64), bottleneck=(8, 16), kernel=(3, 5), depth=(1, 3))
    space = Space(
        family="bottleneck", resolution=(64, 64), stem=(16, 24), stages=(stage, stage), bottleneck_ratio=(0.1, 1.0)
    )
    limits = Limits(macs=50_000_000, rho=0.5, latency=(LatencyLimit(table="board", budget_ms=50.0),))
    return Problem(name="small", space=space, limits=limits)


@pytest.fixture
def solution(architecture, problem):
    evaluation = check.evaluate_for(problem, architecture, {"board": PerMac()})
    return Solution(
        problem="small",
        method="certified",
        status=Status.CERTIFIED,
        stopped="optimal",
        architecture=architecture,
        evaluation=evaluation,
        bound=evaluation.objective * 1.004,
        gap_tolerance=0.005,
        timings_ms=(("solve", 12.0),),
    )
