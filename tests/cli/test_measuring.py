"""The verbs that measure, on a runtime that runs nothing or on networks so small that they take no time."""

import json
from dataclasses import replace

import pytest

from deepmad_hw.cli import EXIT_DEVICE_LOST, EXIT_FOREIGN_TABLE, EXIT_INPUT_FILE, EXIT_TOO_NOISY, EXIT_USAGE
from deepmad_hw.cli import profile as profile_verb
from deepmad_hw.errors import TooNoisyError
from deepmad_hw.latency.measurement import NetworkMeasurement
from deepmad_hw.problem.solution import Solution, Status
from deepmad_hw.workflows import quickstart as quickstarts
from deepmad_hw.workflows.bench import bench as benches
from deepmad_hw.workflows.profiling import outlook
from deepmad_hw.workflows.profiling import profile as profiles
from deepmad_hw.workflows.results.results_folder import load_results
from profilers import samples

pytest.importorskip("onnxruntime", reason="measuring needs ONNX Runtime")


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """Call this machine calm, whatever runs beside the tests."""
    monkeypatch.setattr(benches, "ROUNDS", 3)
    for limit in ("MAX_STOLEN", "MAX_WAITED", "MAX_CANARY_SWING", "MAX_CANARY_LEVEL", "MAX_OWN_LEVEL", "MAX_MODE_GAP"):
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
    times = {"predicted_ms", "lower_ms", "upper_ms", "covered_ms"}
    counts = {"macs", "params", "not_counted", "extrapolated", "extrapolated_share"}
    assert {"name", "uncovered", "notes", *times, *counts} == set(row)
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


# --- what is unsure is shown ----------------------------------------------------------------------------------------


@pytest.fixture
def noisy(monkeypatch):
    """Call this machine disturbed whatever it does, and no median sure."""
    monkeypatch.setattr(samples, "MAX_STOLEN", -1.0)
    monkeypatch.setattr(benches, "MAX_RELATIVE_ERROR", -1.0)


def test_bench_shows_what_it_measured_however_unsure_and_then_ends_with_its_code(run, config, tmp_path, noisy):
    assert run("design", config, "--method", "fast", "--out", tmp_path / "out").code == 0
    words = ("bench", tmp_path / "out", "--seconds", "0.1")
    ran = run(*words, "--json")
    assert ran.code == EXIT_TOO_NOISY
    (row,) = json.loads(ran.out)
    assert (row["status"], row["measured_ms"] > 0, row["relative_error"] >= 0) == ("noisy", True, True)
    assert row["reason"].startswith("was disturbed every time it was measured, its median is known to ")
    assert ran.error.startswith("out: was disturbed every time it was measured")
    assert "stop other work" in ran.error
    ran = run(*words)
    assert ran.code == EXIT_TOO_NOISY
    assert "note: out was disturbed every time it was measured, its median is known to " in ran.out


def test_bench_on_runtimes_shows_what_it_measured_however_unsure_too(run, config, tmp_path, noisy):
    assert run("design", config, "--method", "fast", "--out", tmp_path / "out").code == 0
    words = ("bench", tmp_path / "out", "--seconds", "0.1", "--runtime", "replay")
    ran = run(*words, "--json")
    assert ran.code == EXIT_TOO_NOISY
    (row,) = json.loads(ran.out)
    assert (row["status"], row["measured_ms"] > 0, row["relative_error"] >= 0) == ("noisy", True, True)
    assert row["reason"].startswith("was disturbed every time")
    assert ran.error.startswith("out: was disturbed every time")
    assert " only" in run(*words).out


def test_every_measured_row_says_how_sure_it_is(run, config, tmp_path):
    assert run("design", config, "--method", "fast", "--out", tmp_path / "out").code == 0
    ran = run("bench", tmp_path / "out", "--seconds", "0.1", "--json")
    assert ran.code == 0, ran.err
    (row,) = json.loads(ran.out)
    assert (row["status"], row["reason"], row["relative_error"] >= 0) == ("ok", "", True)


def test_a_measured_loop_on_a_noisy_machine_keeps_its_design(run, config, table, tmp_path, monkeypatch):
    def measure(*_):
        raise TooNoisyError("was disturbed", where="out")

    monkeypatch.setattr("deepmad_hw.workflows.design.loop.measure_here", measure)
    words = ("design", config, "--method", "fast", "--latency", f"{table}=5ms", "--measure", "--out", tmp_path / "out")
    ran = run(*words)
    assert ran.code == EXIT_TOO_NOISY, ran.err
    assert ran.error == "out: was disturbed"
    assert "objective" in ran.out
    assert run("verify", tmp_path / "out").code == 0


def test_what_disturbs_a_profile_is_said_before_it_begins(run, config, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise TooNoisyError("stopped by the test")

    seen = outlook.Seen(cores=2, busy_cores=0.8, load=1.0, stolen_share=0.0, governor="performance")
    monkeypatch.setattr(outlook, "look", lambda: seen)
    monkeypatch.setattr(profiles, "profile", stop)
    ran = run("profile", "--space", config, "--minutes", "0.01", "--out", tmp_path / "t.csv")
    assert "not quiet here: other programs use about 0.8 of 2 cores: disturbed times are measured again" in ran.err
    assert (ran.code, ran.out, ran.error) == (EXIT_TOO_NOISY, "", "stopped by the test")
    monkeypatch.setattr(outlook, "look", lambda: replace(seen, busy_cores=0.05, load=0.1))
    ran = run("profile", "--space", config, "--minutes", "0.01", "--out", tmp_path / "t.csv")
    assert "quiet" not in ran.err


def test_a_first_run_whose_times_are_unsure_is_shown_and_ends_with_its_code(run, tmp_path, monkeypatch):
    row = benches.BenchRow(
        name="design",
        measurement=NetworkMeasurement(name="design", samples_us=(1000.0,) * 20 + (2000.0,) * 20, status="noisy"),
        status="noisy",
        reason="was disturbed every time it was measured, its median is known to 33% only",
    )
    line = quickstarts.Line(bench=row, objective=1.0, rho=0.5, macs=1, params=1, score=2.0, penalty=1.0)
    solution = Solution(problem="small", method="fast", status=Status.FAILED, stopped="not asked here")
    made = quickstarts.Quickstart(folder=tmp_path, budget_ms=5.0, solution=solution, lines=(line,))
    monkeypatch.setattr(quickstarts, "quickstart", lambda *_, **__: made)
    seen = outlook.Seen(cores=2, busy_cores=0.0, load=0.0, stolen_share=0.2, governor="performance")
    monkeypatch.setattr(outlook, "look", lambda: seen)
    ran = run("quickstart", "--out", tmp_path, "--json")
    assert ran.code == EXIT_TOO_NOISY
    (shown,) = json.loads(ran.out)["networks"]
    assert (shown["measured_ms"], shown["relative_error"]) == (1.5, pytest.approx(1 / 3))
    assert ran.error.startswith("design: was disturbed every time")
    assert ran.err.startswith("not quiet here: the host takes away 20% of processor time: most times will be disturbed")
    assert "note: design was disturbed every time" in run("quickstart", "--out", tmp_path).out


def test_a_comparison_is_shown_and_stored_however_unsure(run, config, table, tmp_path, noisy):
    assert run("design", config, "--method", "fast", "--out", tmp_path / "other").code == 0
    words = ("--latency", f"{table}=50ms", "--method", "fast", "--jobs", 1, "--beside", tmp_path / "other")
    ran = run("sweep", config, *words, "--out", tmp_path / "out")
    assert ran.code == EXIT_TOO_NOISY, ran.err
    assert ran.error.startswith("design: was disturbed every time it was measured")
    assert "unsure too: other" in ran.error
    assert "note: other was disturbed every time" in ran.out
    stored = load_results(tmp_path / "out")
    rows = [stored.points[0].rows[0], stored.references[0].row]
    assert [(row.status, row.measured_ms > 0, row.relative_error >= 0) for row in rows] == [("noisy", True, True)] * 2
