"""A space around ResNet-18, and a calibrated objective that speaks of ResNet-18 and 34 but of no other reference."""

import math

from deepmad_hw.latency.measurement import NetworkMeasurement
from deepmad_hw.network import costs, reference_designs
from deepmad_hw.problem import check
from deepmad_hw.problem.objective import Calibration, Objective
from deepmad_hw.problem.problem import Limits, Problem
from deepmad_hw.problem.solution import Solution, Status
from deepmad_hw.problem.space import Space, StageSpace
from deepmad_hw.workflows.bench.bench import BenchRow

WIDTHS = (64, 128, 256, 512)
RESNET18, RESNET34 = (reference_designs.in_own_layers(name) for name in ("resnet18", "resnet34"))

OBJECTIVE = Objective(
    scale_weights=(0.0, 0.0, 0.0, 0.001, 0.002),
    penalty_weight=0.0,
    log_params=2.0,
    depth_weights=(0.1, 0.2, 0.3, 0.4),
    constant=10.0,
    calibration=Calibration(
        unit="accuracy points",
        family="basic",
        networks=10,
        ranges=(),
        features=("log_params",),
        center=(math.log(costs.params(RESNET18)),),
        precision=((1.0,),),
        largest_leverage=0.4,  # of ResNet-18 it is 0.1, of ResNet-34 0.49
    ),
)


def problem(objective=OBJECTIVE):
    """Return the problem of depths between 1 and 3 at ResNet-18's widths."""
    stages = tuple(StageSpace(stride=2, out=(out,), bottleneck=(out,), kernel=(3,), depth=(1, 3)) for out in WIDTHS)
    space = Space(
        family="basic", resolution=(224, 224), stem=(64,), stem_kernel=7, stages=stages, bottleneck_ratio=(0.1, 1.0)
    )
    return Problem(name="near-resnet18", space=space, limits=Limits(macs=4e9), objective=objective)


def solution(objective=OBJECTIVE):
    """Return ResNet-18 in this project's layers as the answer."""
    evaluation = check.evaluate_for(problem(objective), RESNET18, {})
    return Solution(
        problem="near-resnet18",
        method="fast",
        status=Status.FEASIBLE,
        stopped="made up",
        architecture=RESNET18,
        evaluation=evaluation,
    )


def measure(subjects, *, table, seconds_per_network, on_tick):
    """Return made-up times of networks, in place of a bench."""
    return [
        BenchRow(
            name=each.name,
            predicted_ms=2.0,
            measurement=NetworkMeasurement(name=each.name, samples_us=(1000.0 * i,) * 20),
        )
        for i, each in enumerate(subjects, start=1)
    ]


RUN_FILE = """\
name: near-resnet18
space:
  family: basic
  resolution: 224
  classes: 1000
  stem: {out: [64], kernel: 7, stride: 2}
  stages:
    - {stride: 2, out: [64], bottleneck: [64], depth: [1, 3]}
    - {stride: 2, out: [128], bottleneck: [128], depth: [1, 3]}
    - {stride: 2, out: [256], bottleneck: [256], depth: [1, 3]}
    - {stride: 2, out: [512], bottleneck: [512], depth: [1, 3]}
"""
