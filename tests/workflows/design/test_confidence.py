"""The confidence that was asked for decides the upper value, is stored with the design, and is verified with it."""

from dataclasses import replace
from itertools import product

import pytest

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.formats import serde
from deepmad_hw.formats.serde_table import write_table
from deepmad_hw.latency.measurement import Environment, LayerMeasurement, NetworkMeasurement
from deepmad_hw.latency.model import upper_ms
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.problem.problem import LatencyLimit
from deepmad_hw.workflows.design.design import design, save_design, with_tables
from deepmad_hw.workflows.design.verify import verify
from deepmad_hw.workflows.runfile.config import LatencyRequest, Run
from deepmad_hw.workflows.tables.tables import load_model
from profilers.replay import layer_us

BUDGET_MS = 0.7  # somewhat less than the largest design takes
NETWORKS = 39  # of which the k-th strays by k percent from the middle one
ENVIRONMENT = Environment(
    device="board", machine="none", cores=1, features=(), governor="unknown", runtime="replay", runtime_version="1"
)


def every_spec(space):
    """Return every layer of a small space's networks."""
    found = {}
    stages = [
        [
            Stage(out=out, bottleneck=inner, kernel=kernel, stride=choice.stride, depth=2)
            for out, inner, kernel in product(choice.out, choice.bottleneck, choice.kernel)
        ]
        for choice in space.stages
    ]
    for stem, *chosen in product(space.stem, *stages):
        network = Architecture(
            family=space.family, resolution=space.resolution, stem=Stem(out=stem), stages=tuple(chosen)
        )
        found |= dict.fromkeys(node.spec for node in expand(network))
    return found


@pytest.fixture
def csv(tmp_path, problem, architecture):
    """Write a table of the whole space whose calibration networks stray evenly around their prediction."""
    specs: dict[LayerSpec, None] = every_spec(problem.space)
    rows = tuple(LayerMeasurement(spec=spec, samples_us=(layer_us(spec, gmacs=30.0),)) for spec in specs)
    total_us = sum(layer_us(node.spec, gmacs=30.0) for node in expand(architecture))
    strays = [(index - NETWORKS // 2) / 100 for index in range(NETWORKS)]
    calibration = tuple(
        CalibrationNetwork(
            architecture=architecture,
            measurement=NetworkMeasurement(name=f"n{index}", samples_us=(total_us * (1 + stray),)),
        )
        for index, stray in enumerate(strays)
    )
    path = tmp_path / "board.csv"
    write_table(path, LatencyTable(name="board", environment=ENVIRONMENT, rows=rows, calibration=calibration))
    return path


def asked(problem, csv, **options):
    free = replace(problem, limits=replace(problem.limits, latency=()))
    run = Run(problem=free, latency=(LatencyRequest(path=csv, budget_ms=BUDGET_MS),))
    return with_tables(run, **options)


@pytest.mark.parametrize(("confidence", "margin"), [(None, 0.18), (0.5, 0.10), (0.95, 0.19)])
def test_the_margin_is_that_of_the_confidence(problem, csv, confidence, margin):
    question = asked(problem, csv, confidence=confidence)
    assert question.models["board"].margin == pytest.approx(margin, abs=0.011)
    assert question.confidence == (confidence or 0.9)


def test_a_confidence_that_the_table_cannot_speak_of_is_refused(problem, csv):
    with pytest.raises(ConfigError, match=r"--confidence: .*board\.csv has too few calibration networks") as caught:
        asked(problem, csv, confidence=0.99)
    assert "it takes 99: profile for longer" in str(caught.value)


def test_a_surer_design_is_a_quicker_one_and_is_verified_as_such(problem, csv, tmp_path):
    predicted_ms = {}
    for confidence in (0.5, 0.95):
        question = asked(problem, csv, confidence=confidence)
        assert question.problem.limits.latency == (LatencyLimit(table="board", budget_ms=BUDGET_MS),)
        solution = design(question.problem, question.models, method="fast")
        (value,) = solution.evaluation.latency
        assert value.upper_ms <= BUDGET_MS
        assert value.upper_ms == pytest.approx(upper_ms(value.predicted_ms, question.models["board"]))
        predicted_ms[confidence] = value.predicted_ms
        folder = tmp_path / f"sure{confidence}"
        save_design(folder, solution, question.problem, tables=question.tables, confidence=question.confidence)
        (reference,) = serde.read_problem(folder / "problem.json").tables
        assert reference.confidence == confidence
        assert "latency.board.upper_ms" in verify(folder).checked
    assert predicted_ms[0.95] < predicted_ms[0.5]


def test_a_design_whose_confidence_was_changed_is_refused(problem, csv, tmp_path):
    question = asked(problem, csv, confidence=0.5)
    solution = design(question.problem, question.models, method="fast")
    save_design(tmp_path / "out", solution, question.problem, tables=question.tables, confidence=0.95)
    with pytest.raises(InputFileError, match="upper_ms"):
        verify(tmp_path / "out")


def test_intervals_of_a_model_follow_the_confidence(csv):
    margins = [load_model(csv, confidence=confidence).margin for confidence in (0.5, 0.9, 0.95)]
    assert margins[0] < margins[1] <= margins[2]
