"""Networks measured beside their prediction, on tiny networks and on the real runtime."""

import tempfile
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepmad_hw.errors import (
    ConfigError,
    DeviceLostError,
    ForeignTableError,
    InputFileError,
    NotCoveredError,
    TooNoisyError,
)
from deepmad_hw.exporters.onnx_graph import architecture_metadata, export_model, initial_weights, save
from deepmad_hw.exporters.probes import write_plan
from deepmad_hw.files.jsonfile import write_json
from deepmad_hw.formats import serde
from deepmad_hw.formats.serde_table import write_table
from deepmad_hw.latency.measurement import LayerMeasurement, NetworkMeasurement
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network import reference
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand
from deepmad_hw.workflows.bench import bench as workflow
from deepmad_hw.workflows.bench.bench import ROUNDS, BenchRow, bench, of_graph, require_sure, subject
from profilers import backend as backends
from profilers import run, samples
from profilers.backend import Settings
from profilers.journal import device_lock
from profilers.plan import read_plan
from profilers.replay import layer_us

QUICK = {"seconds_per_network": 0.02}


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """Bench in few rounds, and call this machine calm, whatever runs beside the tests."""
    monkeypatch.setattr(workflow, "ROUNDS", 3)
    for limit in ("MAX_STOLEN", "MAX_WAITED", "MAX_CANARY_SWING", "MAX_CANARY_LEVEL", "MAX_OWN_LEVEL", "MAX_MODE_GAP"):
        monkeypatch.setattr(samples, limit, 1e9)


@pytest.fixture(scope="module", autouse=True)
def runtime():
    pytest.importorskip("onnxruntime")


def architecture(family="basic", out=16):
    inner = out if family == "basic" else 3 * out
    return Architecture(
        family=family,
        resolution=(32, 32),
        stem=Stem(out=8),
        stages=(Stage(out=out, bottleneck=inner, kernel=3, stride=2, depth=2),),
        classes=10,
    )


def export(path, found):
    graph = expand(found)
    save(export_model(graph, initial_weights(graph), metadata=architecture_metadata(found)), path)
    return path


def foreign(path, *, channels=3):
    weight = numpy_helper.from_array(np.ones((4, channels, 3, 3), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 16, 16))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return this machine's fingerprint."""
    folder = tmp_path_factory.mktemp("plan")
    write_plan(folder, [])
    return backends.get("onnxruntime").environment(read_plan(folder), Settings())


@pytest.fixture
def table(tmp_path, environment):
    """Return a function that writes a made-up table of the layers of architectures, calibrated on twelve networks."""

    def write(*architectures, calibrated=True, **fields):
        specs = dict.fromkeys(node.spec for found in architectures for node in expand(found))
        rows = tuple(LayerMeasurement(spec=spec, samples_us=(layer_us(spec, gmacs=30.0),)) for spec in specs)
        total_us = sum(layer_us(node.spec, gmacs=30.0) for node in expand(architectures[0]))
        networks = [
            NetworkMeasurement(name=f"n{index}", samples_us=(total_us * (1 + index / 100),)) for index in range(12)
        ]
        calibration = [CalibrationNetwork(architecture=architectures[0], measurement=each) for each in networks]
        path = tmp_path / "made-up.csv"
        made = LatencyTable(
            name="made-up",
            environment=environment,
            rows=rows,
            calibration=tuple(calibration if calibrated else ()),
        )
        write_table(path, replace(made, **fields))
        return path

    return write


def test_networks_are_measured_beside_their_prediction(tmp_path, table):
    ours, unknown = architecture(), architecture("mbconv_se")
    files = [export(tmp_path / "ours.onnx", ours), foreign(tmp_path / "foreign.onnx"), of_graph(expand(unknown))]
    ticks = []
    rows = bench(files, table=table(ours), on_tick=ticks.append, **QUICK)
    assert [row.name for row in rows] == ["ours", "foreign", "network"]
    for row in rows:
        assert row.measured_ms > 0
        assert row.measurement.status == "ok"
        assert len(row.measurement.samples_us) >= 3 * 2 * 2  # rounds, blocks, runs
        assert row.measured_ms == row.measurement.median_us / 1e3
    first, second, third = rows
    assert first.uncovered == ()
    assert first.lower_ms < first.predicted_ms < first.upper_ms
    assert first.error == first.predicted_ms / first.measured_ms - 1
    assert second.uncovered == ("the whole network: 100% of it rests on extrapolation",)
    assert (second.predicted_ms, second.error) == (None, None)
    assert any(line.startswith("stage1.block1.se.reduce: ") for line in third.extrapolated)
    assert third.predicted_ms is None
    assert [tick.probe for tick in ticks[:6]] == ["ours", "foreign", "network"] * 2  # interleaved


def test_without_a_table_networks_are_only_measured(tmp_path):
    (row,) = bench([foreign(tmp_path / "foreign.onnx")], **QUICK)
    assert row.measured_ms > 0
    assert (row.predicted_ms, row.uncovered, row.drift) == (None, (), None)


def test_the_drift_since_the_table_was_made_is_told(tmp_path, table):
    found = export(tmp_path / "ours.onnx", architecture())
    rows = tuple(
        LayerMeasurement(spec=node.spec, samples_us=(layer_us(node.spec, gmacs=30.0),))
        for node in dict.fromkeys(expand(architecture()))
        if node.name == "stem"
    )
    (row,) = bench([found], table=table(architecture(), rows=rows, calibration=(), canary_us=8000.0), **QUICK)
    assert 0 < row.drift < 100
    assert row.predicted_ms is None


def test_prediction_only_measures_nothing(tmp_path, table, monkeypatch):
    monkeypatch.setattr("deepmad_hw.workflows.bench.bench.run.measure", lambda *a, **o: pytest.fail("measured"))
    found = architecture()
    path = table(found)
    rows = bench(
        [export(tmp_path / "ours.onnx", found), foreign(tmp_path / "foreign.onnx")], table=path, predict_only=True
    )
    assert rows[0].measurement is None
    total_ms = sum(layer_us(node.spec, gmacs=30.0) for node in expand(found)) / 1e3
    assert rows[0].predicted_ms == pytest.approx(total_ms * 1.055, rel=1e-3)  # the median of what the calibration says
    assert rows[0].upper_ms / rows[0].predicted_ms - 1 == pytest.approx(0.06, abs=0.02)
    assert rows[1].predicted_ms is None


def anonymous(path, found, *, also=None, fold_norm=True):
    """Write a design without the facts by which it is known again, with an operation more if one is given."""
    graph = expand(found)
    model = export_model(graph, initial_weights(graph), fold_norm=fold_norm)
    if also:
        model.graph.node.append(helper.make_node(also, [graph.outputs[0]], ["more"], name="extra"))
        model.graph.output[0].name = "more"
    save(model, path)
    return path


def test_a_foreign_file_is_predicted_by_its_layers(tmp_path, table):
    found = architecture("mbconv_se")
    files = [anonymous(tmp_path / "foreign.onnx", found), anonymous(tmp_path / "n.onnx", found, fold_norm=False)]
    rows = bench([*files, of_graph(expand(found))], table=table(found), predict_only=True)
    assert all(row.uncovered == () for row in rows)
    assert rows[0].predicted_ms == rows[1].predicted_ms == rows[2].predicted_ms > 0
    assert (rows[0].lower_ms, rows[0].upper_ms) == (rows[2].lower_ms, rows[2].upper_ms)


def test_what_is_next_to_nothing_and_in_no_table_is_noted(tmp_path, table):
    found = architecture()
    file = anonymous(tmp_path / "foreign.onnx", found, also="Softmax")
    row, whole = bench([file, of_graph(expand(found))], table=table(found), predict_only=True)
    assert row.predicted_ms == whole.predicted_ms
    assert "extra: softmax of 20 values is left out as negligible" in row.notes


def test_a_file_of_another_precision_is_not_predicted(tmp_path, table, environment):
    found = architecture()
    for file in (anonymous(tmp_path / "foreign.onnx", found), export(tmp_path / "ours.onnx", found)):
        path = table(found, environment=replace(environment, precision="int8"))
        with pytest.raises(NotCoveredError, match="the whole file: is fp32, the table speaks of int8"):
            bench([file], table=path, predict_only=True)


def test_layers_are_predicted_with_intervals_of_their_own(table):
    found = architecture()
    (row,) = bench([of_graph(expand(found))], table=table(found), predict_only=True, layers=True)
    assert [layer.name for layer in row.layers] == [node.name for node in expand(found)]
    assert sum(layer.predicted_ms for layer in row.layers) == pytest.approx(row.predicted_ms)
    assert all(layer.lower_ms <= layer.predicted_ms <= layer.upper_ms for layer in row.layers)
    (row,) = bench([of_graph(expand(found))], table=table(found), predict_only=True)
    assert row.layers == ()


def test_a_layer_that_is_not_covered_is_extrapolated(table):
    known, asked = architecture(), architecture("mbconv_se")
    rows = bench(
        [of_graph(replace(expand(found), name=f"n{index}")) for index, found in enumerate((known, asked))],
        table=table(known),
        predict_only=True,
        layers=True,
    )
    layers = {layer.name: layer for layer in rows[1].layers}
    assert layers["stage1.block1.se.reduce"].source == "extrapolated"
    assert (layers["classifier"].source, layers["classifier"].predicted_ms > 0) == ("measured", True)
    assert any(line.startswith("stage1.block1.se.reduce: ") for line in rows[1].extrapolated)
    assert rows[1].predicted_ms is None


def test_a_table_without_margin_has_no_interval(tmp_path, table):
    found = architecture()
    (row,) = bench([of_graph(expand(found))], table=table(found, calibrated=False), predict_only=True)
    assert row.predicted_ms > 0
    assert (row.lower_ms, row.upper_ms) == (None, None)


def test_prediction_only_of_nothing_covered_is_an_error(tmp_path, table):
    path = table(architecture())
    with pytest.raises(
        NotCoveredError, match=r"no network is covered; first uncovered: the whole network: 100% of it rests on"
    ):
        bench([foreign(tmp_path / "foreign.onnx")], table=path, predict_only=True)


def test_prediction_works_with_another_machines_table(table, environment):
    found = architecture()
    path = table(found, environment=replace(environment, device="Another CPU"))
    (row,) = bench([of_graph(expand(found))], table=path, predict_only=True)
    assert row.predicted_ms > 0


@pytest.mark.parametrize(("field", "value"), [("device", "Another CPU"), ("runtime_version", "1.0.0"), ("cores", 999)])
def test_measuring_beside_another_machines_table_is_refused(table, environment, field, value):
    found = architecture()
    path = table(found, environment=replace(environment, **{field: value}))
    with pytest.raises(ForeignTableError, match=rf"made-up\.csv: the table was not taken here: {field}: {value} != "):
        bench([of_graph(expand(found))], table=path, **QUICK)


def test_the_table_decides_threads_and_batch(table, environment, monkeypatch):
    asked = []

    def refuse(plan, settings, **options):
        asked.append((settings.runtime, settings.threads, plan.batch))
        raise DeviceLostError("not measured here")

    monkeypatch.setattr(workflow.run, "measure", refuse)
    found = architecture()
    path = table(found, environment=replace(environment, threads=2, batch=3))
    for options in ({"table": path, "threads": 1}, {"threads": 4}):
        with pytest.raises(DeviceLostError):
            bench([of_graph(expand(found))], **options, **QUICK)
    assert asked == [("onnxruntime", 2, 3), ("onnxruntime", 4, 1)]


def test_networks_of_one_name_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    files = [foreign(tmp_path / "net.onnx"), foreign(tmp_path / "other" / "net.onnx")]
    with pytest.raises(ConfigError, match="net: two networks of one name; rename one"):
        bench(files, **QUICK)


def test_a_file_called_like_the_canary_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="canary: two networks of one name; rename one"):
        bench([foreign(tmp_path / "canary.onnx")], **QUICK)


def test_nothing_to_bench_is_said(table):
    with pytest.raises(ConfigError, match="no network to bench"):
        bench([])
    with pytest.raises(ConfigError, match="no network to bench"):
        bench([], table=table(architecture()), predict_only=True)


def test_nothing_to_predict_with_is_said(tmp_path):
    with pytest.raises(ConfigError, match="--table: nothing to predict with"):
        bench([foreign(tmp_path / "foreign.onnx")], predict_only=True)


@pytest.mark.parametrize("name", ["none.onnx", "resnet81"])
def test_what_does_not_exist_is_said(tmp_path, name):
    with pytest.raises((ConfigError, InputFileError)) as caught:
        bench([tmp_path / name if name.endswith("onnx") else name], **QUICK)
    assert name.removesuffix(".onnx") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_model_are_refused(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(InputFileError, match=r"net\.onnx: is no ONNX model"):
        bench([tmp_path / "net.onnx"], **QUICK)


def test_a_model_that_the_runtime_refuses_is_an_input_error(tmp_path, monkeypatch):
    """It is run once before anything is measured; that is the file's fault, not a lost device."""
    monkeypatch.setattr(workflow, "ROUNDS", ROUNDS)
    broken = foreign(tmp_path / "broken.onnx", channels=5)
    with pytest.raises(InputFileError, match=r"broken\.onnx: cannot be run: ") as caught:
        bench([broken], **QUICK)
    assert "\n" not in str(caught.value)


def test_a_model_that_fails_while_it_is_measured_costs_no_other_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(workflow.onnx_loader, "run_once", lambda data, values, where: {})
    rows = bench([foreign(tmp_path / "fine.onnx"), foreign(tmp_path / "broken.onnx", channels=5)], **QUICK)
    assert [(row.name, row.status) for row in rows] == [("fine", "ok"), ("broken", "error")]
    assert (rows[0].measured_ms > 0, rows[0].reason) == (True, "")
    assert rows[1].measured_ms is None
    require_sure(rows[:1])
    with pytest.raises(InputFileError, match="broken: cannot be run: "):
        require_sure(rows)


def test_a_network_that_was_never_calm_is_kept_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_STOLEN", -1.0)
    monkeypatch.setattr(workflow, "MAX_RELATIVE_ERROR", -1.0)
    (row,) = bench([foreign(tmp_path / "foreign.onnx")], **QUICK)
    assert row.measured_ms > 0
    assert (row.status, row.reason) == ("noisy", workflow.doubt(row.measurement))
    with pytest.raises(TooNoisyError, match="foreign: was disturbed every time it was measured, its median"):
        require_sure([row])


def test_how_sure_a_disturbed_median_is_is_said():
    times = (1000.0,) * 20 + (1240.0,) * 20
    noisy = NetworkMeasurement(name="x", samples_us=times, status="noisy")
    assert noisy.relative_error == pytest.approx(0.12 / 1.12)
    assert workflow.doubt(noisy) == "was disturbed every time it was measured, its median is known to 11% only"
    assert workflow.doubt(replace(noisy, status="ok")) == ""
    assert workflow.doubt(replace(noisy, samples_us=(1000.0,) * 20)) == ""


def test_all_that_is_unsure_is_named_in_one_line():
    rows = [BenchRow(name=name, status="noisy", reason="was disturbed") for name in ("a", "b", "c")]
    with pytest.raises(TooNoisyError) as caught:
        require_sure([*rows, BenchRow(name="d", status="ok"), BenchRow(name="e")])
    assert str(caught.value).startswith("a: was disturbed (unsure too: b, c); stop other work")


def test_a_bench_that_ends_early_keeps_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_STOLEN", -1.0)
    monkeypatch.setattr(run, "EARLY_LOOK_S", 0.0)
    monkeypatch.setattr(run, "EARLY_LOOK_UNITS", 1)
    rows = bench([foreign(tmp_path / f"{name}.onnx") for name in "ab"], **QUICK)
    assert [row.status for row in rows] == ["noisy", "noisy"]
    assert rows[0].measured_ms > 0
    assert rows[1].measured_ms is None
    (reason,) = {row.reason for row in rows}
    assert reason.startswith("everything measured so far was disturbed (stolen ")
    with pytest.raises(TooNoisyError, match="a: everything measured so far was disturbed"):
        require_sure(rows)


def test_a_disturbed_network_with_a_sure_median_is_kept_and_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_STOLEN", -1.0)
    monkeypatch.setattr(workflow, "MAX_RELATIVE_ERROR", 1e9)
    (row,) = bench([foreign(tmp_path / "foreign.onnx")], **QUICK)
    assert row.measurement.status == "noisy"


def test_a_bench_beside_another_measurement_is_refused(tmp_path):
    with device_lock("cpu"), pytest.raises(DeviceLostError, match="another process is measuring"):
        bench([foreign(tmp_path / "foreign.onnx")], **QUICK)


def test_a_subject_is_known_by_file_folder_or_name(tmp_path):
    found = architecture()
    file = subject(export(tmp_path / "ours.onnx", found))
    assert (file.name, file.data, file.batch) == ("ours", (tmp_path / "ours.onnx").read_bytes(), 1)
    assert [values.shape for values in file.values.values()] == [(1, 3, 32, 32)]
    assert [node.spec for node in file.graph] == [node.spec for node in expand(found)]

    write_json(tmp_path / "shape.json", serde.architecture_to_json(found))
    numbers = subject(tmp_path / "shape.json")
    assert (numbers.name, numbers.data, numbers.batch) == ("shape", None, None)

    named = subject("resnet18")
    assert (named.name, named.data, named.graph) == ("resnet18", None, reference.get("resnet18"))
    assert subject(foreign(tmp_path / "foreign.onnx")).graph is None


def test_a_row_without_measurement_has_no_error():
    assert BenchRow(name="x", predicted_ms=3.0).error is None
    assert BenchRow(name="x", predicted_ms=3.0).measured_ms is None
    measured = NetworkMeasurement(name="x", samples_us=(2000.0, 2500.0, 4000.0))
    assert BenchRow(name="x", predicted_ms=3.0, measurement=measured).error == pytest.approx(0.2)
    assert BenchRow(name="x", measurement=measured).error is None


def test_files_of_a_bench_are_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    bench([foreign(tmp_path / "foreign.onnx")], **QUICK)
    assert [path.suffix for path in (tmp_path / "temporary").iterdir()] == [".lock"]
