"""The measured loop for every point of a sweep, on a device that follows a formula."""

from dataclasses import replace

import pytest

from deepmad_hw.formats import serde
from deepmad_hw.latency.model import predict_ms
from deepmad_hw.problem.problem import LatencyLimit
from deepmad_hw.problem.settings import Settings
from deepmad_hw.workflows.design.design import Question, design
from deepmad_hw.workflows.results.results import Point, Results, Row, read_results
from deepmad_hw.workflows.sweep import sweep as sweeps
from deepmad_hw.workflows.sweep.sweep_measured import measured_sweep
from deepmad_hw.workflows.sweep.sweep_plan import Plan, line

FAST = Settings(method="fast")


@pytest.fixture
def plan(problem, load, table):
    def question(budget_ms):
        limits = replace(
            problem.limits, macs=None, rho=0.8, latency=(LatencyLimit(table="board", budget_ms=budget_ms),)
        )
        return Question(problem=replace(problem, limits=limits), models={"board": load(table)}, tables={"board": table})

    return Plan(name="small", lines=(line([("3ms", question(3.0)), ("4ms", question(4.0))]),), settings=FAST)


@pytest.fixture
def results(plan, tmp_path):
    (tmp_path / "out").mkdir()
    points = [
        Point(
            name=asked.name,
            solution=design(asked.question.problem, asked.question.models, method="fast"),
            folder=f"{sweeps.POINTS_FOLDER}/{asked.name}",
        )
        for asked in plan.points
    ]
    return Results(name="small", points=tuple(points))


def test_every_point_is_measured_stored_and_not_measured_again(plan, results, tmp_path):
    measured = []

    def measure(architecture, name, path):
        measured.append(name)
        took_ms = predict_ms(architecture, plan.points[0].question.models["board"]) * 1.05
        return Row(name=name, measured_ms=took_ms)

    found = measured_sweep(plan, results, tmp_path / "out", measure=measure)
    assert set(measured) == {"3ms", "4ms"}
    assert {round_.point for round_ in found.rounds} == {"3ms", "4ms"}
    for point, budget_ms in zip(found.points, (3.0, 4.0), strict=True):
        assert point.rows[0].measured_ms <= budget_ms
        assert point.rows[0].table == "board"
        assert serde.read_solution(tmp_path / "out" / point.folder / "design.json") == point.solution
    assert read_results(tmp_path / "out" / "sweep.json") == found
    count = len(measured)
    assert measured_sweep(plan, results, tmp_path / "out", measure=measure) == found
    assert len(measured) == count
