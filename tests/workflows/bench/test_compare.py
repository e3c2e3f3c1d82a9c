"""Designs beside well-known networks, on a bench that follows a formula."""

import json
from dataclasses import replace
from pathlib import Path

import near_resnet18
import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.files.jsonfile import Place
from deepmad_hw.latency.measurement import NetworkMeasurement
from deepmad_hw.problem import check
from deepmad_hw.problem.objective import Objective
from deepmad_hw.problem.solution import Solution, Status
from deepmad_hw.workflows.bench.bench import BenchRow
from deepmad_hw.workflows.bench.compare import NETWORKS, compared
from deepmad_hw.workflows.results.results import (
    Point,
    Results,
    Row,
    comparable,
    reference_from_json,
    results_from_json,
    results_to_json,
    told_objective,
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


def test_networks_beside_a_calibrated_design_have_its_objective_or_none(measure):
    results = Results(name="near", points=(Point(name="5ms", solution=near_resnet18.solution()),))
    found = compared(results, TABLE, objective=near_resnet18.OBJECTIVE, measure=measure)
    named = {each.row.name: each for each in found.references}
    worths = {
        name: check.evaluate(network, objective=near_resnet18.OBJECTIVE).objective
        for name, network in (("resnet18", near_resnet18.RESNET18), ("resnet34", near_resnet18.RESNET34))
    }
    assert worths["resnet18"] == found.points[0].solution.objective < worths["resnet34"] < 100
    assert {name: each.objective for name, each in named.items() if each.objective is not None} == worths
    assert {each.worth.unit for each in named.values() if each.worth} == {"accuracy points"}
    assert named["resnet50"].score > 1000  # entropies are told under their own names
    assert (told_objective(named["resnet18"]), told_objective(named["resnet50"])) == (None, None)
    assert told_objective(named["resnet34"]).startswith("farther out than every network")
    told = {each["name"]: each for each in results_to_json(found)["comparison"]}
    assert told["resnet50"]["objective"] is None
    assert "worth" not in told["resnet50"]
    assert told["resnet34"]["worth"]["unit"] == "accuracy points"
    assert results_from_json(json.loads(json.dumps(results_to_json(found)))) == found


def test_weights_of_ones_own_are_no_calibration_but_an_objective_of_its_own(measure):
    objective = Objective(scale_weights=(0.0, 0.0, 0.0, 0.0, 1.0))
    results = Results(name="near", points=(Point(name="5ms", solution=near_resnet18.solution(objective)),))
    found = compared(results, TABLE, objective=objective, networks=["resnet18", "resnet101"], measure=measure)
    assert found.references[0].objective == found.points[0].solution.objective
    assert told_objective(found.references[1]) is None  # its penalty is no part of this objective's score


def test_deepmads_objective_is_not_shown_beside_designs_of_another():
    points = (Point(name="5ms", solution=near_resnet18.solution()),)
    known = described(Row(name="resnet18"))
    assert known.objective > 1000
    (shown,) = comparable(Results(name="near", points=points, references=(known,))).references
    assert (shown.objective, shown.macs) == (None, known.macs)
    plain = (Point(name="5ms", solution=near_resnet18.solution(None)),)
    mixed = Results(name="near", points=(*points, replace(plain[0], name="6ms")), references=(known,))
    assert comparable(mixed).references[0].objective is None
    alone = Results(name="near", points=plain, references=(known,))
    assert comparable(alone) == alone


def test_nothing_to_compare_is_said(measure):
    none = Solution(problem="small", method="certified", status=Status.INFEASIBLE, stopped="proved")
    results = Results(name="small", points=(Point(name="1ms", solution=none),))
    with pytest.raises(ConfigError, match="no design to compare"):
        compared(results, TABLE, measure=measure)
