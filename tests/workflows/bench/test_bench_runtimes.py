"""Several runtimes side by side, their rounds taking turns."""

import json

import pytest

from deepmad_hw import cli
from deepmad_hw.cli import bench as verb
from deepmad_hw.errors import ConfigError, DeviceLostError, MissingExtraError
from deepmad_hw.exporters.float16 import to_float16
from deepmad_hw.exporters.onnx_graph import architecture_metadata, export_model, initial_weights, save
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand
from deepmad_hw.workflows.bench import bench_runtimes as workflow
from deepmad_hw.workflows.bench.bench import of_graph
from deepmad_hw.workflows.bench.bench_runtimes import RuntimeRow, bench_runtimes
from profilers import backend as backends
from profilers import samples
from profilers.journal import Unit

REPLAY = "profilers.replay:BACKEND"
QUICK = {"seconds_per_network": 0.02}
DESIGN = Architecture(
    family="basic",
    resolution=(32, 32),
    stem=Stem(out=8),
    stages=(Stage(out=16, bottleneck=16, kernel=3, stride=2, depth=2),),
    classes=10,
)


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    monkeypatch.setattr(workflow, "ROUNDS", 1)  # every round starts processes that load their runtime
    for limit in ("MAX_STOLEN", "MAX_WAITED", "MAX_CANARY_SWING", "MAX_CANARY_LEVEL", "MAX_OWN_LEVEL", "MAX_MODE_GAP"):
        monkeypatch.setattr(samples, limit, 1e9)


@pytest.fixture
def network():
    return of_graph(expand(DESIGN, name="small"))


def test_every_network_is_measured_on_every_runtime(network):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    ticks = []
    rows = bench_runtimes([network], ["onnxruntime", "torch", "replay"], on_tick=ticks.append, **QUICK)
    assert [(row.name, row.runtime) for row in rows] == [("small", name) for name in ("onnxruntime", "torch", "replay")]
    assert all(row.measurement.median_us > 0 for row in rows)
    assert [(tick.done, tick.planned) for tick in ticks] == [(number, 3) for number in range(1, 4)]
    assert ticks[-1].left_s == 0


def test_rounds_of_runtimes_take_turns(network, monkeypatch):
    asked = []
    measure = workflow.run.measure

    def spied(plan, settings, **options):
        asked.append((settings.runtime, options["effort"].max_rounds))
        return measure(plan, settings, **options)

    monkeypatch.setattr(workflow.run, "measure", spied)
    monkeypatch.setattr(workflow, "ROUNDS", 2)
    monkeypatch.setattr(backends, "_BACKENDS", {"replay": REPLAY, "again": REPLAY})
    rows = bench_runtimes([network], ["replay", "again", "replay"], **QUICK)
    assert asked == [("replay", 1), ("again", 1), ("replay", 2), ("again", 2)]
    assert [row.runtime for row in rows] == ["replay", "again"]


def test_a_file_that_a_runtime_cannot_run_says_why_and_the_others_go_on(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    graph = expand(DESIGN, name="small")
    model = export_model(graph, initial_weights(graph), metadata=architecture_metadata(DESIGN))
    save(model, tmp_path / "plain.onnx")
    save(to_float16(model), tmp_path / "half.onnx")
    rows = bench_runtimes([tmp_path / "plain.onnx", tmp_path / "half.onnx"], ["onnxruntime", "torch"], **QUICK)
    found = {(row.name, row.runtime): row for row in rows}
    assert found["plain", "torch"].measurement.median_us > 0
    assert found["half", "onnxruntime"].measurement.median_us > 0
    assert found["half", "torch"].measurement is None
    assert "layers are known" in found["half", "torch"].reason


def test_a_runtime_that_is_lost_costs_no_other_its_times(network, monkeypatch):
    measure = workflow.run.measure

    def lost(plan, settings, **options):
        if settings.runtime != "replay":
            raise DeviceLostError("5 probes failed one after another")
        return measure(plan, settings, **options)

    monkeypatch.setattr(workflow.run, "measure", lost)
    monkeypatch.setattr(workflow, "ROUNDS", 2)
    monkeypatch.setattr(backends, "_BACKENDS", {"replay": REPLAY, "again": REPLAY})
    one, other = bench_runtimes([network], ["replay", "again"], **QUICK)
    assert one.measurement.median_us > 0
    assert (other.measurement, other.reason) == (None, "was not measured")
    with pytest.raises(DeviceLostError):
        bench_runtimes([network], ["again", "replay"], **QUICK)


def test_all_are_the_runtimes_that_are_here_but_no_stand_ins(network, monkeypatch):
    class Missing:
        def environment(self, plan, settings):
            raise MissingExtraError("not installed")

    monkeypatch.setattr(backends, "names", lambda: ("gone", "onnxruntime", "replay"))
    monkeypatch.setattr(backends, "get", lambda name, get=backends.get: Missing() if name == "gone" else get(name))
    pytest.importorskip("onnxruntime")
    assert [row.runtime for row in bench_runtimes([network], ["all"], **QUICK)] == ["onnxruntime"]


def test_a_runtime_that_is_named_must_be_here(network, monkeypatch):
    from profilers import gpu_sensors

    if gpu_sensors.card() is not None:
        pytest.skip("there is a card here")
    with pytest.raises(MissingExtraError):
        bench_runtimes([network], ["replay", "torch_cuda"], **QUICK)


def test_no_network_and_unknown_runtimes_are_refused(network):
    with pytest.raises(ConfigError, match="no network to bench"):
        bench_runtimes([], ["replay"])
    with pytest.raises(ConfigError, match="did you mean 'replay'"):
        bench_runtimes([network], ["repaly"])


def test_what_the_device_told_of_itself_is_kept():
    told = {"launch_bound": "yes", "sm_clock_min_mhz": 1980, "throttled": ""}
    units = [
        Unit(probe="small", round=number, canary_us=(1.0,) * 4, total_us=(2.0, 2.0), conditions=told)
        for number in range(2)
    ]
    row = workflow._row("small", "torch_cuda", units)
    assert row.conditions == told
    assert verb._runtime_cells(row)[-1] == "launch-bound without a graph"
    hot = RuntimeRow(name="x", runtime="y", measurement=row.measurement, conditions={"throttled": "hw_thermal"})
    assert verb._runtime_cells(hot)[-1] == "throttled: hw_thermal"


def test_the_command_line_shows_rows_and_reasons(tmp_path, capsys):
    pytest.importorskip("torch")
    graph = expand(DESIGN, name="small")
    save(to_float16(export_model(graph, initial_weights(graph))), tmp_path / "half.onnx")
    words = ["bench", str(tmp_path / "half.onnx"), "--runtime", "torch", "--runtime", "replay", "--seconds", "0.1"]
    assert cli.main([*words, "--json"]) == 0
    one, other = json.loads(capsys.readouterr().out)
    assert (one["runtime"], one["measured_ms"]) == ("torch", None)
    assert one["reason"]
    assert other["measured_ms"] > 0
    assert set(other) >= {"p10_ms", "p90_ms", "p99_ms", "samples", "status", "conditions"}


def test_a_table_belongs_to_one_runtime(capsys):
    assert cli.main(["bench", "resnet18", "--runtime", "torch", "--table", "some.csv"]) == cli.EXIT_USAGE
    assert "a table belongs to one runtime" in capsys.readouterr().err
