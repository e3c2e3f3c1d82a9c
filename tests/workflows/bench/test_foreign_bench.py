"""Whatever the runtime runs is measured, and predicted from rows and laws: networks of others, of every kind."""

from dataclasses import replace

import numpy as np
import pytest
from foreign_graphs import GRAPHS, weights_beside

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters.onnx_inputs import InputRequest, parsed_shapes
from deepmad_hw.latency.measurement import Environment, LayerMeasurement, OperationMeasurement
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.network.layer import OperationSpec
from deepmad_hw.predict.network import TableModel
from deepmad_hw.workflows.bench import bench as workflow
from deepmad_hw.workflows.bench.bench import bench, predict, subject
from profilers import replay, samples

pytest.importorskip("onnxruntime", reason="the extra cpu is not installed")

KINDS = [
    *("several_inputs", "words_and_an_image", "a_switch_as_input", "halves", "bytes_in_the_camera_s_order"),
    *("batch_of_minus_one", "free_batch", "as_many_answers_as_are_found"),
    *("slices_to_the_end_of_old", "int8_weights_alone", "group_normalization", "a_loop", "a_choice"),
]


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """Bench in few rounds, and call this machine calm, whatever runs beside the tests."""
    monkeypatch.setattr(workflow, "ROUNDS", 2)
    for limit in ("MAX_STOLEN", "MAX_WAITED", "MAX_CANARY_SWING", "MAX_CANARY_LEVEL", "MAX_OWN_LEVEL", "MAX_MODE_GAP"):
        monkeypatch.setattr(samples, limit, 1e9)


def written(folder, name):
    path = folder / f"{name}.onnx"
    path.write_bytes(GRAPHS[name].make().SerializeToString())
    return path


def test_every_kind_of_network_is_measured_and_counted(tmp_path):
    rows = bench([written(tmp_path, name) for name in KINDS], seconds_per_network=0.02)
    assert [(row.name, row.status) for row in rows] == [(name, "ok") for name in KINDS]
    assert all(row.measured_ms > 0 and row.macs > 0 and row.params > 0 for row in rows)


def test_sizes_that_are_known_at_run_time_only_are_measured(tmp_path):
    asked = InputRequest(shapes=parsed_shapes(["1x3x96x96"]), data={})
    (row,) = bench([written(tmp_path, "anchors_made_while_it_runs")], inputs=asked, seconds_per_network=0.02)
    assert (row.status, row.macs > 0) == ("ok", True)


def test_weights_beside_the_file_are_measured_with_it(tmp_path):
    (row,) = bench([weights_beside(tmp_path)], seconds_per_network=0.02)
    assert row.measured_ms > 0


def test_free_sides_are_asked_for_and_taken(tmp_path):
    path = written(tmp_path, "free_sides")
    with pytest.raises(
        ConfigError, match=rf"{path.name}: the size of input '(\w+)' is not fixed.*--input \1=1x3x224x224"
    ):
        subject(path)
    asked = InputRequest(shapes=parsed_shapes(["1x3x64x96"]), data={})
    found = subject(path, inputs=asked)
    assert [values.shape for values in found.values.values()] == [(1, 3, 64, 96)]
    smaller = subject(path, inputs=InputRequest(shapes=parsed_shapes(["1x3x64x48"]), data={}))
    assert found.counts.macs > 1.5 * smaller.counts.macs


def test_values_of_the_user_reach_the_runtime(tmp_path):
    path = written(tmp_path, "a_switch_as_input")
    data = {name: np.zeros_like(values) for name, values in subject(path).values.items()}
    (row,) = bench([path], inputs=InputRequest(shapes={}, data=data), seconds_per_network=0.02)
    assert row.measured_ms > 0


def test_an_input_that_no_network_has_is_refused(tmp_path):
    path = written(tmp_path, "free_batch")
    with pytest.raises(ConfigError, match="--input: no input is called 'nothing'; there are: "):
        bench([path], inputs=InputRequest(shapes={"nothing": (1,)}, data={}))
    with pytest.raises(ConfigError, match="--input: none of the networks is an ONNX file"):
        bench(["resnet18"], inputs=InputRequest(shapes={"": (1, 3, 64, 64)}, data={}))


# --- predictions ------------------------------------------------------------------------------------------------------

ENVIRONMENT = Environment(
    device="paper", machine="none", cores=1, features=(), governor="unknown", runtime="replay", runtime_version="1"
)


def layer_us(spec):
    return replay.layer_us(spec, gmacs=10.0)


def table(found, *, kinds):
    """Return a table of exactly a network's layers, and of laws of some kinds, each 1 ns a value."""
    rows = [
        LayerMeasurement(spec=spec, samples_us=(layer_us(spec),) * 3) for spec in {node.spec for node in found.nodes}
    ]
    operations = [
        OperationMeasurement(spec=spec, samples_us=(spec.moved_values / 1e3,) * 3)
        for kind in kinds
        for count in (10_000, 30_000, 100_000, 300_000, 1_000_000)
        for spec in [OperationSpec(kind=kind, read_values=count, written_values=count)]
    ]
    return LatencyTable(name="paper", environment=ENVIRONMENT, rows=tuple(rows), operations=tuple(operations))


def test_a_network_is_the_sum_of_its_layers_and_operations(tmp_path):
    found = subject(written(tmp_path, "concat"))
    kinds = {each.spec.kind for each in found.operations}
    assert "concat" in kinds
    model = TableModel(table(found, kinds=sorted(kinds)))
    (row,) = predict([found], model, layers=True)
    layers_us = sum(layer_us(node.spec) for node in found.nodes)
    others_us = sum(each.spec.moved_values / 1e3 for each in found.operations)
    assert row.predicted_ms == pytest.approx((layers_us + others_us) / 1e3, rel=0.02)
    assert {layer.source for layer in row.layers} <= {"measured", "law", "extrapolated"}
    assert sum(layer.predicted_ms for layer in row.layers) == pytest.approx(row.predicted_ms)


def test_what_nothing_answers_for_is_listed_and_no_number_given(tmp_path):
    found = subject(written(tmp_path, "concat"))
    (row,) = predict([found], TableModel(table(found, kinds=[])))
    assert row.predicted_ms is None
    assert any("no rows of the table surround concat of" in line for line in row.uncovered)
    assert row.covered_ms > 0


def test_a_number_rests_on_a_tenth_of_extrapolation_at_most(tmp_path):
    found = subject(written(tmp_path, "concat"))
    kinds = sorted({each.spec.kind for each in found.operations})
    whole = table(found, kinds=kinds)
    cheapest = min(whole.rows, key=lambda row: row.median_us)
    dearest = max(whole.rows, key=lambda row: row.median_us)

    def without(row):
        return TableModel(replace(whole, rows=tuple(each for each in whole.rows if each is not row)))

    (few,) = predict([found], without(cheapest))
    (much,) = predict([found], without(dearest))
    (strict,) = predict([found], without(cheapest), strict=True)
    if few.extrapolated_share:
        assert few.extrapolated
        assert strict.predicted_ms is None
    assert much.predicted_ms is None
    assert "rests on extrapolation" in much.uncovered[-1] or "no rows" in much.uncovered[-1]


def test_a_file_of_another_batch_than_the_tables_is_not_predicted(tmp_path):
    found = subject(written(tmp_path, "concat"))
    model = TableModel(table(found, kinds=sorted({each.spec.kind for each in found.operations})))
    twice = replace(found, values={name: np.concatenate([values] * 2) for name, values in found.values.items()})
    (row,) = predict([twice], model)
    assert row.uncovered[0] == "the whole file: takes 2 images at once, the table speaks of 1"
