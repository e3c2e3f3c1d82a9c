"""The verbs that measure, on a runtime that runs nothing or on networks so small that they take no time."""

import json

import pytest

from deepmad_hw.cli import EXIT_DEVICE_LOST, EXIT_FOREIGN_TABLE, EXIT_INPUT_FILE, EXIT_USAGE
from deepmad_hw.cli import profile as profile_verb
from deepmad_hw.workflows import bench as benches
from profilers import samples

pytest.importorskip("onnxruntime", reason="measuring needs ONNX Runtime")


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """Call this machine calm, whatever runs beside the tests."""
    monkeypatch.setattr(benches, "ROUNDS", 3)
    for limit in ("MAX_STOLEN", "MAX_WAITED", "MAX_CANARY_SWING", "MAX_CANARY_LEVEL", "MAX_GAP"):
        monkeypatch.setattr(samples, limit, 1e9)


@pytest.fixture
def table(run, config, tmp_path):
    """Profile the small space with the replay runtime."""
    path = tmp_path / "replay.csv"
    ran = run("profile", "--runtime", "replay", "--space", config, "--minutes", "0.01", "--out", path)
    assert ran.code == 0, ran.err
    return path


def test_profile_writes_a_table_that_show_describes(run, table):
    ran = run("table", "show", table, "--json")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert data["environment"]["runtime"] == "replay"
    assert data["rows"] > 20
    assert data["statuses"] == {"ok": data["rows"]}
    assert data["other_operations"] == {}  # there was no time for any
    assert "replay" in run("table", "show", table).out


def test_a_dry_run_measures_nothing(run, config, tmp_path):
    ran = run("profile", "--space", config, "--minutes", "1", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["layers"] > 0
    assert [path.name for path in tmp_path.iterdir()] == [config.name]


def test_a_packed_plan_is_a_folder_for_another_device(run, config, tmp_path):
    ran = run("profile", "--space", config, "--minutes", "0.1", "--pack", tmp_path / "plan")
    assert ran.code == 0, ran.err
    assert "python -m profilers run plan" in ran.err
    assert (tmp_path / "plan" / "plan.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no table to write"),
        (("--out", "table.txt"), "is no CSV file"),
        (("--out", "t.csv", "--runtime", "onnxruntim"), "did you mean 'onnxruntime'?"),
        (("--out", "t.csv", "--precision", "int3"), "--precision"),
        (("--out", "t.csv", "--space", "deepmad-r19"), "deepmad-r18"),
        (("--out", "t.csv", "--minutes", "0"), "--minutes"),
    ],
)
def test_a_profile_that_makes_no_sense_is_one_line(run, words, said):
    ran = run("profile", *words)
    assert ran.code == EXIT_USAGE
    assert said in ran.error


def test_a_damaged_journal_is_one_line_that_names_it(run, config, tmp_path):
    (tmp_path / "t.journal").write_bytes(b"no database at all, but long enough to be read as one")
    ran = run("profile", "--runtime", "replay", "--space", config, "--minutes", "0.01", "--out", tmp_path / "t.csv")
    assert ran.code == EXIT_INPUT_FILE
    assert "t.journal" in ran.error
    assert "delete it to measure anew" in ran.error


def test_a_table_of_another_machine_is_refused_where_it_meets_this_one(run, table, tmp_path):
    side = table.with_suffix(".json")
    data = json.loads(side.read_text())
    data["environment"] |= {"runtime": "onnxruntime", "device": "another processor"}
    side.write_text(json.dumps(data))
    for words in (("table", "check", table), ("bench", "--table", table, "mobilenet_v2")):
        ran = run(*words)
        assert ran.code == EXIT_FOREIGN_TABLE, ran.err
        assert "device: another processor != " in ran.error


def test_bench_predicts_without_measuring(run, table, config, tmp_path):
    designed = run("design", config, "--method", "fast", "--out", tmp_path / "out")
    assert designed.code == 0, designed.err
    ran = run("bench", "--predict-only", "--table", table, tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    (row,) = json.loads(ran.out)
    assert {"name", "predicted_ms", "lower_ms", "upper_ms", "uncovered", "covered_ms", "notes"} == set(row)
    assert row["predicted_ms"] == row["covered_ms"] > 0
    assert (row["uncovered"], row["notes"]) == ([], [])


def test_bench_predicts_layer_by_layer(run, table, config, tmp_path):
    assert run("design", config, "--method", "fast", "--out", tmp_path / "out").code == 0
    words = ("bench", "--predict-only", "--layers", "--table", table, tmp_path / "out")
    ran = run(*words, "--json")
    assert ran.code == 0, ran.err
    (row,) = json.loads(ran.out)
    assert sum(layer["predicted_ms"] for layer in row["layers"]) == pytest.approx(row["predicted_ms"])
    assert row["layers"][0]["name"] == "stem"
    assert row["layers"][0]["spec"]["kernel"] == 3
    assert "stem" in run(*words).out


def test_bench_measures_a_design_and_its_file(run, config, tmp_path):
    assert run("design", config, "--method", "fast", "--out", tmp_path / "out").code == 0
    assert run("export", tmp_path / "out", "--target", "onnx", "--out", tmp_path / "file.onnx").code == 0
    ran = run("bench", tmp_path / "out", tmp_path / "file.onnx", "--seconds", "0.2", "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)
    assert [row["name"] for row in rows] == ["out", "file"]
    for row in rows:
        assert row["predicted_ms"] is None
        assert 0 < row["p10_ms"] <= row["measured_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["samples"] >= 3


def test_bench_of_nothing_known_is_one_line(run):
    ran = run("bench", "resnet19")
    assert ran.code == EXIT_USAGE
    assert "resnet18" in ran.error


def test_a_device_in_use_is_one_line(run, config, tmp_path):
    from profilers.journal import device_lock

    with device_lock("cpu"):
        ran = run("profile", "--runtime", "replay", "--space", config, "--minutes", "0.01", "--out", tmp_path / "t.csv")
    assert ran.code == EXIT_DEVICE_LOST
    assert "another process is measuring" in ran.error


def test_a_tick_names_trouble():
    from profilers.run import Tick

    class Bar:
        def advance(self, *, done, total, text):
            self.seen = (done, total, text)

    bar = Bar()
    profile_verb.show_tick(bar, Tick(probe="probe001", status="oom", done=3, planned=9, left_s=12.4))
    assert bar.seen == (3, 9, "probe001 (oom), 12 s left")
