"""A table without rows of some operations is refused, or counts them as nothing and says so."""

from dataclasses import replace

import numpy as np
import pytest

from deepmad_hw.errors import NotCoveredError
from deepmad_hw.formats.serde_table import write_table
from deepmad_hw.latency.measurement import Environment, LayerMeasurement
from deepmad_hw.latency.model import predict_ms
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.network.expand import expand
from deepmad_hw.predict.network import TableModel
from deepmad_hw.problem import sampling
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status
from deepmad_hw.problem.space import Space, StageSpace
from deepmad_hw.workflows.design.design import best_design, save_design, with_tables
from deepmad_hw.workflows.design.verify import verify
from deepmad_hw.workflows.runfile.config import LatencyRequest, Run
from deepmad_hw.workflows.tables.uncovered import LenientModel, notes, operation_of, require_operations
from profilers.replay import layer_us

CARD = Environment(
    device="card",
    machine="none",
    cores=1,
    features=(),
    governor="unknown",
    runtime="replay",
    runtime_version="1",
)
STAGE = StageSpace(stride=2, out=(32, 48, 64), bottleneck=(16, 32), kernel=(3,), depth=(1, 2))
SPACE = Space(family="basic", resolution=(64, 64), stem=(16, 24), stages=(STAGE, STAGE), bottleneck_ratio=(0.1, 1.0))


def convolutions_only(*, without=lambda spec: False):
    random = np.random.default_rng(0)
    specs = {n.spec for _ in range(200) for n in expand(sampling.random_architecture(SPACE, random))}
    kept = [spec for spec in sorted(specs) if spec.op == "conv" and not without(spec)]
    rows = tuple(LayerMeasurement(spec=spec, samples_us=(layer_us(spec, gmacs=20.0),)) for spec in kept)
    return LatencyTable(name="card", environment=CARD, rows=rows)


@pytest.fixture(scope="module")
def model():
    return TableModel(convolutions_only())


@pytest.fixture(scope="module")
def network():
    return sampling.random_architecture(SPACE, np.random.default_rng(1))


def test_a_table_of_convolutions_is_refused_with_what_it_lacks(model):
    with pytest.raises(
        NotCoveredError, match=r"card: the table has no rows of .*global_pool, linear.*--allow-uncovered"
    ):
        require_operations(SPACE, model)
    require_operations(SPACE, LenientModel(model))


def test_operations_without_rows_count_as_nothing_and_others_as_before(model, network):
    lenient = LenientModel(model)
    specs = [node.spec for node in expand(network)]
    assert lenient.covers(specs).all()
    known = [spec for spec in specs if spec.op == "conv"]
    assert predict_ms(network, lenient) == pytest.approx(model.layers_ms(known).sum())
    assert lenient.left_out(specs)["linear"] == 1
    strange = replace(known[0], out_channels=4096)
    assert not lenient.covers([strange]).any()


def test_what_counts_as_nothing_is_listed(model, network):
    said = notes(network, {"card": LenientModel(model)})
    assert any("count as 0 ms" in note and "1 global_pool, 1 linear" in note for note in said)
    assert any("no calibration networks" in note for note in said)
    assert not any("count as 0 ms" in note for note in notes(network, {"card": model}))


def test_depthwise_and_one_pixel_convolutions_are_operations_of_their_own(model):
    conv = model.table.rows[0].spec
    kinds = [conv, replace(conv, groups=conv.in_channels, out_channels=conv.in_channels), replace(conv, op="scale")]
    point = replace(conv, height=1, width=1, kernel=1, stride=1)
    assert [operation_of(spec) for spec in (*kinds, point)] == [
        "conv",
        "depthwise conv",
        "scale",
        "conv on one pixel",
    ]


def test_a_design_from_such_a_table_is_found_stored_and_verified(tmp_path):
    write_table(tmp_path / "card.csv", convolutions_only(without=lambda spec: spec.out_channels == 64))
    problem = Problem(name="small", space=SPACE, limits=Limits())
    run = Run(problem=problem, latency=(LatencyRequest(path=tmp_path / "card.csv", budget_ms=0.5),))
    with pytest.raises(NotCoveredError, match="--allow-uncovered"):
        with_tables(run)
    question = with_tables(run, allow_uncovered=True)
    assert question.problem.limits.latency == (LatencyLimit(table="card", budget_ms=0.5),)
    _, solution = best_design([question], Settings(method="fast", gap=0.01, time_limit_s=20.0))
    assert solution.status is Status.FEASIBLE
    assert all(stage.out < 64 for stage in solution.architecture.stages)  # what the table lacks left the grid
    assert any("left the grid" in note for note in solution.notes)
    assert any("count as 0 ms" in note for note in solution.notes)
    (latency,) = solution.evaluation.latency
    assert latency.upper_ms is None
    save_design(tmp_path / "out", solution, question.problem, tables=question.tables, allow_uncovered=True)
    assert "latency.card.predicted_ms" in verify(tmp_path / "out").checked
