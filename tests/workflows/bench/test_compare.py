"""Designs beside well-known networks, on a bench that follows a formula."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.files.jsonfile import Place
from deepmad_hw.latency.measurement import NetworkMeasurement
from deepmad_hw.problem.solution import Solution, Status
from deepmad_hw.workflows.bench.bench import BenchRow
from deepmad_hw.workflows.bench.compare import NETWORKS, compared
from deepmad_hw.workflows.results.results import (
    Point,
    Results,
    Row,
    reference_from_json,
    results_from_json,
    results_to_json,
    told_penalty,
)
from deepmad_hw.workflows.results.results_folder import described

TABLE = Path(__file__).parents[3] / "latency_tables" / "amd-epyc-25-17-1-2cores" / "onnxruntime-fp32-b1-t1.csv"


@pytest.fixture
def asked():
    return []


@pytest.fixture
def measure(asked):
    def bench(subjects, *, table, seconds_per_network, on_tick):
        asked.extend(subjects)
        return [
            BenchRow(
                name=each.name,
                predicted_ms=2.0,
                measurement=NetworkMeasurement(name=each.name, samples_us=(1000.0 * i,) * 20),
            )
            for i, each in enumerate(subjects, start=1)
        ]

    return bench


def test_designs_and_networks_are_measured_in_one_run(solution, measure, asked):
    results = Results(name="small", points=(Point(name="5ms", solution=solution),))
    found = compared(results, TABLE, measure=measure)
    assert [each.name for each in asked] == ["5ms", *NETWORKS]
    assert found.points[0].rows[0].measured_ms == 1.0
    assert [reference.row.name for reference in found.references] == list(NETWORKS)
    resnet18 = found.references[0]
    assert resnet18.row.measured_ms == 2.0
    assert resnet18.macs > 1.8e9
    assert resnet18.objective > 0
    assert resnet18.score - resnet18.penalty == resnet18.objective
    assert resnet18.top1_source.startswith("torchvision")
    released = found.references[-1]
    assert (released.row.name, released.top1_percent) == ("deepmad_89m", 84.0)
    assert released.top1_source.startswith("Shen")
    assert round(released.objective, 1) == 28_171.3
    assert compared(found, TABLE, measure=measure) == found


def test_what_is_unsure_is_kept_with_the_reason(solution, measure):
    def unsure(*given, **options):
        return [replace(row, status="noisy", reason="was disturbed") for row in measure(*given, **options)]

    results = Results(name="small", points=(Point(name="5ms", solution=solution),))
    found = compared(results, TABLE, networks=["resnet18"], measure=unsure)
    rows = [found.points[0].rows[0], found.references[0].row]
    assert [(row.status, row.reason, row.measured_ms) for row in rows] == [
        ("noisy", "was disturbed", 1.0),
        ("noisy", "was disturbed", 2.0),
    ]
    assert results_from_json(json.loads(json.dumps(results_to_json(found)))).references == found.references


def test_a_network_that_nobody_trained_has_no_accuracy(solution, measure):
    results = Results(name="small", points=(Point(name="5ms", solution=solution),))
    found = compared(results, TABLE, networks=["regnet_y_400mf"], measure=measure)
    assert found.references[0].top1_percent is None


@pytest.mark.parametrize(
    ("name", "told"),
    [("resnet18", None), ("deepmad_89m", None), ("resnet101", "score 34,909, depth penalty 220,265")],
)
def test_a_depth_penalty_that_dwarfs_the_score_is_told_apart(name, told):
    found = described(Row(name=name))
    assert told_penalty(found.score, found.penalty) == told
    assert reference_from_json({"name": name, "score": found.score, "penalty": found.penalty}, Place("x")).score


def test_a_penalty_is_told_from_half_the_score_on():
    assert told_penalty(100.0, 50.0) is None
    assert told_penalty(100.0, 50.1) == "score 100, depth penalty 50"
    assert told_penalty(None, 1.0) is None


def test_nothing_to_compare_is_said(measure):
    none = Solution(problem="small", method="certified", status=Status.INFEASIBLE, stopped="proved")
    results = Results(name="small", points=(Point(name="1ms", solution=none),))
    with pytest.raises(ConfigError, match="no design to compare"):
        compared(results, TABLE, measure=measure)
