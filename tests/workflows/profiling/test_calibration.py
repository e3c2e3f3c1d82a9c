"""A calibration design is of its space, costs no more than the network it stands for, and is worth more."""

import numpy as np
import pytest

import deepmad_hw as dm
from deepmad_hw.network import costs
from deepmad_hw.problem import sampling
from deepmad_hw.problem.space import Space, StageSpace
from deepmad_hw.workflows.profiling import calibration

SPACE = Space(
    family="bottleneck",
    resolution=(64, 64),
    stem=(8, 16),
    stages=(
        StageSpace(stride=2, out=(16, 24, 32), bottleneck=(8, 16), kernel=(3, 5), depth=(1, 4)),
        StageSpace(stride=2, out=(32, 48, 64), bottleneck=(8, 16, 24), kernel=(3, 5), depth=(1, 4)),
    ),
    bottleneck_ratio=(0.1, 1.0),
    classes=10,
)


def objective(architecture):
    return dm.evaluate(architecture).objective


@pytest.mark.parametrize("seed", [0, 1])
def test_it_makes_more_of_the_same_multiply_adds(seed):
    drawn = sampling.random_architecture(SPACE, np.random.default_rng(seed))
    made = calibration.optimised(drawn, SPACE, rho=0.9)
    assert SPACE.violations(made) == ()
    assert costs.macs(made) <= costs.macs(drawn)
    assert objective(made) > objective(drawn)


def test_where_no_design_keeps_the_limits_the_network_itself_is_kept():
    drawn = sampling.random_architecture(SPACE, np.random.default_rng(0))
    assert calibration.optimised(drawn, SPACE, rho=1e-6) == drawn


def test_the_same_question_has_the_same_answer():
    drawn = sampling.random_architecture(SPACE, np.random.default_rng(3))
    assert calibration.optimised(drawn, SPACE, rho=0.5) == calibration.optimised(drawn, SPACE, rho=0.5)
