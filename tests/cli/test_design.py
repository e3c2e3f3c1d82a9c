"""`design`, `verify` and `export` as a user runs them: answers, files, and one line for every bad input."""

import json
import sys
from dataclasses import replace

import highspy
import numpy as np
import pytest
from lying_highs import STATUSES, lying_highs

from deepmad_hw.cli import answers
from deepmad_hw.latency.model import Curve
from deepmad_hw.optimize import certified
from deepmad_hw.optimize import solve as solving
from deepmad_hw.problem.problem import LatencyLimit, Limits
from deepmad_hw.problem.solution import LatencyValue, MinimumValue, Price, Status
from deepmad_hw.workflows.design import design as designs
from deepmad_hw.workflows.results.folders import needs
from deepmad_hw.workflows.runfile.config import load_problem


class FixedModel:
    """A device on which every layer takes a tenth of a millisecond."""

    device = "board"
    curve = Curve(knots=((0.0, 0.5),))
    margin = 0.1

    def __init__(self, name):
        self.name = name

    def covers(self, specs):
        return np.ones(len(specs), dtype=bool)

    def layers_ms(self, specs):
        return np.full(len(specs), 0.1)


@pytest.fixture
def designed(run, config, tmp_path):
    """Design once, for the verbs that read the folder."""
    folder = tmp_path / "out"
    ran = run("design", config, "--method", "fast", "--out", folder, "--json")
    assert ran.code == 0, ran.err
    return folder, ran


def test_design_prints_the_contract_and_stores_the_same(designed):
    folder, ran = designed
    data = json.loads(ran.out)
    assert data["status"] == "feasible"
    assert data["method"] == "fast"
    assert data["macs"] <= 50_000_000
    assert json.loads((folder / "design.json").read_text()) == data
    assert sorted(path.name for path in folder.iterdir()) == ["design.json", "problem.json"]
    assert data["grid"]["stem"] == [16, 24]


def test_design_shows_tables_to_people(run, config):
    ran = run("design", config, "--method", "fast", "--params", "200k")
    assert ran.code == 0
    assert ran.out.startswith("small: feasible, objective ")
    assert "\nstage 2 " in ran.out
    assert "200k" in ran.out
    assert "\x1b" not in ran.out + ran.err  # no colour, no animation off a terminal
    assert "nothing was stored; --out DIR keeps the design" in ran.err


def test_verify_passes_what_design_wrote_and_names_what_was_changed(run, designed):
    folder, _ = designed
    passed = run("verify", folder)
    assert passed.code == 0
    assert "feasible" in passed.out
    assert json.loads(run("verify", folder, "--json").out)["status"] == "feasible"
    path = folder / "design.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "params": data["params"] + 1}))
    refused = run("verify", folder)
    assert refused.code == 3
    assert refused.error.startswith(f"{path}: params: stored ")


def test_a_design_is_exported_and_runs(run, designed, tmp_path):
    folder, _ = designed
    ran = run("export", folder, "--target", "onnx", "--out", tmp_path / "small.onnx")
    assert ran.code == 0, ran.err
    assert ran.out == f"{tmp_path / 'small.onnx'}\n"
    assert "[1, 10]" in ran.err


def test_an_exported_file_is_verified(run, tmp_path):
    file = tmp_path / "net.onnx"
    run("export", "mobilenet_v2", "--out", file, "--json")
    ran = run("verify", file)
    assert ran.code == 0
    assert f"{file}: holds the network it names (300774272 MACs)" in ran.out
    assert len(json.loads(run("verify", file, "--json").out)["checked"]) == 2
    file.write_bytes(b"nonsense")
    assert run("verify", file).code == 3


def test_a_budget_on_a_table_becomes_a_limit_of_the_design(run, config, tmp_path, monkeypatch):
    (tmp_path / "board.csv").touch()
    monkeypatch.setattr("deepmad_hw.workflows.tables.tables.load_model", lambda path, **_: FixedModel(path.stem))
    words = ["--latency", f"{tmp_path / 'board.csv'}=3ms", "--method", "fast", "--out", tmp_path / "out"]
    data = json.loads(run("design", config, *words, "--json").out)
    (latency,) = data["latency"]
    assert latency["table"] == "board"
    assert latency["budget_ms"] == 3.0
    assert latency["upper_ms"] <= 3.0
    assert run("verify", tmp_path / "out").code == 0


def test_a_stored_problem_is_designed_again_to_the_same_design(run, designed):
    folder, first = designed
    again = json.loads(run("design", folder / "problem.json", "--method", "fast", "--json").out)
    assert again["architecture"] == json.loads(first.out)["architecture"]


def test_infeasible_limits_end_with_4_and_the_smallest_reachable(run, config, tmp_path):
    ran = run("design", config, "--method", "fast", "--macs", "1k", "--json", "--out", tmp_path / "out")
    assert ran.code == 4
    data = json.loads(ran.out)
    assert data["status"] == "infeasible"
    macs = {each["limit"]: each["value"] for each in data["tightest"]}["macs"]
    assert macs > 1000
    assert ran.error.startswith("no design keeps every limit: macs needs at least ")
    assert (tmp_path / "out" / "design.json").is_file()


def test_a_design_that_is_not_certified_ends_with_5(run, config, monkeypatch):
    stub(monkeypatch, status=Status.FEASIBLE, method="certified", stopped="time limit")
    ran = run("design", config, "--json")
    assert ran.code == 5
    assert json.loads(ran.out)["status"] == "feasible"
    assert ran.error.startswith("the answer is feasible, not certified: time limit")


@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.name)
def test_whatever_the_solver_says_exit_0_is_a_design_that_verify_takes(run, config, tmp_path, monkeypatch, status):
    monkeypatch.setattr(solving.LocalSearch, "run", lambda *_, **__: None)
    monkeypatch.setattr(certified, "MAX_SOLVES", 2)
    for point, claim in (("none", None), ("breaks a limit", None), ("no numbers", None), ("good", None), ("good", 1e9)):
        monkeypatch.setattr(highspy, "Highs", lying_highs(status, point, claim))
        ran = run("design", config, "--json", "--time-limit", "9999s", "--out", tmp_path / "out")
        data = json.loads(ran.out)
        assert ran.code == {"certified": 0, "infeasible": 4}.get(data["status"], 5), (point, data["stopped"])
        if ran.code == 0:
            assert data["objective"] <= data["bound"] <= data["objective"] * 1.005
            assert run("verify", tmp_path / "out").code == 0
        if ran.code == 4:
            assert status.name == "kInfeasible"
        if status.name == "kOptimal" and point == "good":
            assert (ran.code == 0) == (claim is None)


@pytest.mark.parametrize(
    ("method", "status"), [("certified", "certified"), ("fast", "feasible"), ("continuous", "local")]
)
def test_what_was_asked_for_ends_with_0(run, config, monkeypatch, method, status):
    stub(monkeypatch, status=Status(status), method=method)
    assert run("design", config, "--method", method).code == 0


@pytest.mark.parametrize("method", ["fast", "continuous", "certified"])
def test_nothing_found_ends_with_5(run, config, monkeypatch, method):
    stub(monkeypatch, status=Status.FAILED, method=method)
    assert run("design", config, "--method", method).code == 5


def stub(monkeypatch, **changes):
    def solved(problem, models, settings):
        keys = ("gap", "time_limit_s", "threads", "seed")
        asked.append({"problem": problem, **{key: getattr(settings, key) for key in keys}})
        from deepmad_hw.problem.solution import Solution

        base = Solution(problem=problem.name, method=settings.method, status=Status.FAILED, stopped="stopped")
        return replace(base, **changes)

    asked = []
    monkeypatch.setattr(designs, "solved", solved)
    return asked


def test_flags_reach_the_solver_in_its_units(run, config, monkeypatch):
    asked = stub(monkeypatch, status=Status.CERTIFIED)
    words = ["--gap", "1%", "--time-limit", "2min", "--threads", "2", "--seed", "7", "--macs", "1.8G", "--rho", "0.4"]
    words += ["--memory", "8MiB", "--params", "11.7M", "--grid", "fine", "--resolution", "64x96"]
    words += ["--set", "space.stages.0.depth=[2, 3]"]
    assert run("design", config, *words).code == 0
    problem = asked[0].pop("problem")
    assert asked[0] == {"gap": 0.01, "time_limit_s": 120.0, "threads": 2, "seed": 7}
    assert problem.limits == Limits(macs=1_800_000_000, params=11_700_000, memory_bytes=8 * 2**20, rho=0.4)
    assert problem.space.resolution == (64, 96)
    assert problem.space.stages[0].depth == (2, 3)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--macs", "1.8ms"], 2, "--macs: unknown unit 'ms' in '1.8ms'; say 600M"),
        (["--latency", "t.csv=25"], 2, "--latency: '25' has no unit; say 5ms"),
        (["--latency", "t.csv"], 2, "--latency: expected a table and its budget; say TABLE.csv=25ms"),
        (["--latency", "none.csv=25ms"], 3, "none.csv: no such latency table; make it with: deepmad-hw profile --out"),
        (["--gap", "0.005"], 2, "--gap: '0.005' has no unit; say 0.5%"),
        (["--gap", "0%"], 2, "gap: expected a gap between 0 and 100 %"),
        (["--time-limit", "60"], 2, "--time-limit: '60' has no unit; say 60s"),
        (["--memory", "8"], 2, "--memory: '8' has no unit; say 8MiB"),
        (
            ["--resolution", "65"],
            2,
            "space.resolution: 65 pixels is no multiple of the network's total stride 8; take 64",
        ),
        (["--resolution", "big"], 2, "--resolution: 'big' is no resolution; say 224 or 192x256"),
        (["--set", "limits.roh=1"], 2, "limits.roh: unknown key; did you mean 'rho'?"),
        (["--set", "nothing"], 2, "--set: 'nothing' is no key and value"),
        (["--set", "grid=[1"], 2, "--set grid: '[1' is no YAML value"),
        (["--grid", "fin"], 2, "grid: unknown grid 'fin'"),
        (["--out", __file__], 2, f"--out {__file__}: is a file, not a folder"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(run, config, words, code, said):
    ran = run("design", config, *words)
    assert ran.code == code
    assert ran.error.startswith(said)


def test_an_unknown_key_in_a_run_file_is_shown_to_the_column(run, config):
    config.write_text(config.read_text().replace("classes", "clases"))
    ran = run("design", config)
    assert ran.code == 2
    assert ran.error == f"{config}:4:3: space.clases: unknown key; did you mean 'classes'?"


def test_an_unknown_problem_is_answered_with_the_nearest(run):
    ran = run("design", "deepmad-r81")
    assert ran.code == 2
    assert "did you mean 'deepmad-r18'?" in ran.error


def test_a_missing_extra_names_its_install_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    ran = run("export", "resnet18", "--target", "torch", "--out", tmp_path / "net.py")
    assert ran.code == 8
    assert 'pip install "deepmad-hw[torch]"' in ran.error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resnet81", "--out", "a.onnx"], "no design and no network is called 'resnet81'; did you mean 'resnet18'?"),
        (["resnet18", "--out", "a.txt"], "--out a.txt: expected a name that ends in .onnx"),
        (["resnet18", "--out", "none/a.onnx"], "--out none/a.onnx: no such folder; make it with: mkdir -p none"),
        (
            ["resnet18", "--out", "a.onnx", "--target", "onx"],
            "target: unknown export target 'onx'; did you mean 'onnx'?",
        ),
    ],
)
def test_export_refuses_in_one_line(run, words, said):
    ran = run("export", *words)
    assert ran.code == 2
    assert ran.error == said


def test_verify_refuses_a_folder_that_is_not_there(run, tmp_path):
    ran = run("verify", tmp_path / "none")
    assert ran.code == 2
    assert "no such folder" in ran.error


def test_an_answer_in_words_holds_limits_prices_and_notes(designed, capsys):
    folder, _ = designed
    from deepmad_hw.formats import serde

    found = serde.read_solution(folder / "design.json")
    latency = LatencyValue(table="board", device="b", budget_ms=5.0, predicted_ms=4.0, upper_ms=4.4)
    raw = LatencyValue(table="raw", device="r", budget_ms=None, predicted_ms=0.5, upper_ms=None)
    prices = (
        Price(limit="latency:board", binding=True, objective_per_unit=1800.0, unit="ms"),
        Price(limit="rho:scale3", binding=True, objective_per_unit=25.0, unit="0.01"),
        Price(limit="macs", binding=False, objective_per_unit=0.0, unit="M"),
    )
    solution = replace(
        found,
        evaluation=replace(found.evaluation, latency=(latency, raw)),
        bound=found.objective * 1.004,
        prices=prices,
        notes=("12 layers left the grid",),
    )
    problem = load_problem("deepmad-r18")
    limits = replace(problem.limits, latency=(LatencyLimit(table="board", budget_ms=5.0),))
    answers.show(solution, replace(problem, limits=limits))
    text = capsys.readouterr().out
    assert "gap 0.4%" in text.splitlines()[0]
    assert "latency:board binds: 1 ms more would buy about 1,800 objective" in text
    assert "rho:scale3 binds: 0.01 more would buy about 25 objective" in text
    assert "not binding: macs" in text
    assert "note: 12 layers left the grid" in text
    assert [line.split()[-3:] for line in text.splitlines() if line.startswith("latency board, at most")] == [
        ["ms", "5", "ms"]
    ]
    assert "uncalibrated" in text


def test_only_limits_that_fall_short_are_named_as_needs(designed):
    from deepmad_hw.formats import serde

    found = serde.read_solution(designed[0] / "design.json")
    minimum_values = (
        MinimumValue(limit="latency:board", value=6.0, unit="ms"),
        MinimumValue(limit="macs", value=1e6, unit="MACs"),
        MinimumValue(limit="memory", value=2.0**21, unit="bytes"),
    )
    limits = Limits(macs=1e9, memory_bytes=2**20, latency=(LatencyLimit(table="board", budget_ms=5.0),))
    line = needs(replace(found, minimum_values=minimum_values), limits)
    assert line == "latency:board needs at least 6 ms; memory needs at least 2 MiB"


def test_of_several_resolutions_the_best_is_kept_and_the_others_are_told(run, config):
    words = ("design", config, "--method", "fast", "--json")
    alone = [json.loads(run(*words, "--resolution", side).out) for side in ("64", "96")]
    best = json.loads(run(*words, "--resolution", "64,96").out)
    assert best["objective"] == max(each["objective"] for each in alone)
    assert best["notes"][0].startswith("best of 2 resolutions: 64x64 feasible ")


def test_a_resolution_at_which_nothing_is_feasible_does_not_win(run, config):
    ran = run("design", config, "--method", "fast", "--json", "--macs", "2M", "--resolution", "64,640")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["architecture"]["resolution"] == 64
