"""``deepmad-hw sweep`` as a user calls it."""

import functools
import itertools
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import near_resnet18
import pytest

from deepmad_hw.cli import sweep
from deepmad_hw.formats import serde
from deepmad_hw.problem import check
from deepmad_hw.workflows import executors
from deepmad_hw.workflows.bench import compare
from deepmad_hw.workflows.results.results import Point, Results, Row, results_to_json
from deepmad_hw.workflows.results.results_folder import described, load_results

TABLE = Path(__file__).parents[2] / "latency_tables" / "amd-epyc-25-17-1-2cores" / "onnxruntime-fp32-b1-t1.csv"


def untimed(path):
    """Return every design of a sweep's folder without its timings, by its place."""
    found = {}
    for file in sorted(path.rglob("*.json")):
        data = json.loads(file.read_text())
        for design in [data, *data.get("points", [])]:
            design.pop("timings", None)
        data.pop("commands", None)
        found[file.relative_to(path).as_posix()] = json.dumps(data)
    return found


def objectives(results):
    return [point.solution.objective for point in results.points]


def test_a_sweep_certifies_every_point_and_never_falls(run, config, tmp_path):
    ran = run("sweep", config, "--macs", "4M:40M:4", "--out", tmp_path / "out", "--jobs", 1, "--json")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert data["schema"] == 1
    assert [point["status"] for point in data["points"]] == ["certified"] * 4
    results = load_results(tmp_path / "out")
    assert [point.name for point in results.points] == ["4M", "16M", "28M", "40M"]
    assert objectives(results) == sorted(objectives(results))
    assert [point.warm_start for point in results.points] == [None, "4M", "16M", "28M"]
    for point in results.points:
        assert run("verify", tmp_path / "out" / point.folder).code == 0


def test_the_same_command_solves_nothing_again(run, config, tmp_path):
    words = ("sweep", config, "--macs", "4M,8M", "--out", tmp_path / "out", "--jobs", 1, "--method", "fast")
    assert run(*words).code == 0
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "points").rglob("*.json")}
    assert run(*words).code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "points").rglob("*.json")} == stored


def test_a_sweep_stores_the_command_that_makes_it_again(run, config, tmp_path):
    chosen = (
        "--macs",
        "4M,8M",
        "--set",
        "limits.rho=0.4",
        "--set",
        "limits.params=9M",
        "--method",
        "fast",
        "--seed",
        3,
    )
    ran = run("sweep", config, *chosen, "--seed", 3, "--allow-uncovered", "--out", tmp_path / "out", "--jobs", 1)
    assert ran.code == 0, ran.err
    (command,) = load_results(tmp_path / "out").commands
    program, *words = shlex.split(command)
    assert (program, words[-2:]) == ("deepmad-hw", ["--out", str(tmp_path / "out")])
    given = dict(itertools.pairwise(words))
    assert [given[name] for name in ("--macs", "--method", "--seed", "--gap")] == ["4M,8M", "fast", "3", "0.5%"]
    assert words.count("--set") == 2
    assert "--allow-uncovered" in words
    assert not {"--jobs", "--json", "--measure", "--no-measure"} & set(words)
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "points").rglob("*.json")}
    assert run(*words).code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "points").rglob("*.json")} == stored


def test_other_settings_are_other_points(run, config, tmp_path):
    words = ("sweep", config, "--macs", "4M,8M", "--out", tmp_path / "out", "--jobs", 1, "--method", "fast")
    assert run(*words).code == 0
    assert run(*words, "--seed", 1).code == 0
    assert len(list((tmp_path / "out" / "points").iterdir())) == 4


def test_rho_alone_is_walked_through_and_shown_beside_shape_and_training(run, config, tmp_path):
    ran = run("sweep", config, "--rho", "0.1,0.2", "--out", tmp_path / "out", "--jobs", 1, "--method", "fast")
    assert ran.code == 0, ran.err
    assert "rho0.1" in ran.out
    assert "training" in ran.out
    assert "objectives compare at equal rho only" in ran.out


def test_a_range_of_the_run_file_is_walked_through_and_a_flag_replaces_it(run, config, tmp_path):
    config.write_text(config.read_text() + "sweep:\n  macs: 4M:12M:3\n")
    assert run("sweep", config, "--out", tmp_path / "file", "--jobs", 1, "--method", "fast").code == 0
    assert len(load_results(tmp_path / "file").points) == 3
    assert run("sweep", config, "--macs", "4M,5M", "--out", tmp_path / "flag", "--method", "fast").code == 0
    assert [point.name for point in load_results(tmp_path / "flag").points] == ["4M", "5M"]


def test_resolutions_make_lines_of_their_own(run, config, tmp_path):
    words = ("--macs", "6M,12M", "--resolution", "64,96", "--method", "fast", "--jobs", 1)
    assert run("sweep", config, *words, "--out", tmp_path / "out").code == 0
    points = load_results(tmp_path / "out").points
    assert [(point.group, point.name) for point in points] == [
        ("64", "64-6M"), ("64", "64-12M"), ("96", "96-6M"), ("96", "96-12M"),
    ]  # fmt: skip


def test_points_that_nothing_can_keep_are_an_answer_of_the_sweep(run, config, tmp_path):
    ran = run("sweep", config, "--macs", "1k,20M", "--out", tmp_path / "out", "--jobs", 1)
    assert ran.code == 0, ran.err
    assert [point.solution.status.value for point in load_results(tmp_path / "out").points] == [
        "infeasible",
        "certified",
    ]
    assert run("sweep", config, "--macs", "1k,2k", "--out", tmp_path / "none", "--jobs", 1).code == 4


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--macs", "4M:8M"), 2, "is no range"),
        (("--macs", "4M,8M", "--params", "1M,2M,3M"), 2, "budgets walk together"),
        (("--macs", "4M,8M", "--params", "2M,1M"), 2, "one budget grows and another shrinks"),
        (("--latency", "none.csv=5ms"), 3, "no such latency table"),
        (("--macs", "4M", "--measure"), 2, "nothing says which runtime to measure on"),
        (("--each-device", "--macs", "4M"), 2, "there is one device only"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(run, config, tmp_path, words, code, said):
    ran = run("sweep", config, *words, "--out", tmp_path / "out")
    assert ran.code == code
    assert said in ran.error


def test_an_address_where_nobody_answers_is_said(run, config, tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "CONNECT_S", 0.2)
    ran = run("sweep", config, "--macs", "4M", "--dask", "tcp://127.0.0.1:9", "--out", tmp_path / "out")
    assert ran.code == 9
    assert ran.error.startswith("--dask tcp://127.0.0.1:9: no Dask scheduler answers")


def test_two_devices_share_one_design_and_the_cost_of_it_is_said(run, tmp_path):
    copy = tmp_path / "second.csv"
    copy.write_bytes(TABLE.read_bytes())
    sidecar = json.loads(TABLE.with_suffix(".json").read_text())
    copy.with_suffix(".json").write_text(json.dumps({**sidecar, "name": "second"}))
    ran = run(
        "sweep", "quickstart", "--grid", "reference", "--latency", f"{TABLE}=25ms", "--latency", f"{copy}=20ms",
        "--each-device", "--method", "fast", "--jobs", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    points = load_results(tmp_path / "out").points
    shared, *own = points
    assert len(shared.solution.evaluation.latency) == 2
    assert [len(point.solution.evaluation.latency) for point in own] == [1, 1]
    assert own[0].solution.objective >= shared.solution.objective
    assert f"one design for all devices costs {TABLE.stem}" in ran.out
    assert "one design for all devices costs second" in ran.out


CALL = "import sys; from deepmad_hw.cli import main; sys.exit(main())"
WORDS = ("--macs", "4M:40M:8", "--method", "fast")


def start(config, folder, *words):
    command = [sys.executable, "-c", CALL, "sweep", str(config), *WORDS, "--out", str(folder), *words]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def stored_points(folder):
    return list(folder.glob("points/*/design.json"))


def until(happens, process):
    while not happens():
        assert process.poll() is None, "the sweep ended before it could be disturbed"
        time.sleep(0.02)


def test_a_design_without_a_budget_cannot_be_measured(run, config, tmp_path):
    ran = run("design", config, "--measure", "--out", tmp_path / "out")
    assert (ran.code, "--measure: nothing to measure against" in ran.error) == (2, True)


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_processes(run, config, tmp_path):
    assert run("sweep", config, *WORDS, "--out", tmp_path / "one", "--jobs", 1).code == 0
    assert run("sweep", config, *WORDS, "--out", tmp_path / "two", "--jobs", 2).code == 0
    assert len(untimed(tmp_path / "one")) == 8 * 2 + 1
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")


def test_a_killed_sweep_goes_on_and_ends_the_same(run, config, tmp_path):
    assert run("sweep", config, *WORDS, "--out", tmp_path / "whole", "--jobs", 1).code == 0
    killed = start(config, tmp_path / "killed", "--jobs", "1")
    until(lambda: len(stored_points(tmp_path / "killed")) >= 2, killed)
    killed.kill()
    killed.wait()
    kept = {path: path.stat().st_mtime_ns for path in stored_points(tmp_path / "killed")}
    assert 2 <= len(kept) < 8
    assert run("sweep", config, *WORDS, "--out", tmp_path / "killed", "--jobs", 1).code == 0
    assert untimed(tmp_path / "killed") == untimed(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.fixture
def cluster(tmp_path):
    """Run a scheduler and two worker processes on loopback."""
    file, started = tmp_path / "scheduler.json", []

    def process(module, *words):
        command = [sys.executable, "-m", module, "--no-dashboard", "--scheduler-file", str(file), *words]
        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=tmp_path))

    process("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
    until(file.is_file, started[0])
    for name in ("a", "b"):
        folder = str(tmp_path / name)
        process("distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1", "--local-directory", folder)
    yield json.loads(file.read_text())["address"], started[1:]
    for each in reversed(started):
        each.kill()
        each.wait()


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_loses_no_point(run, config, tmp_path, cluster):
    address, (worker, _) = cluster
    sweep = start(config, tmp_path / "cluster", "--dask", address)
    until(lambda: len(stored_points(tmp_path / "cluster")) >= 2, sweep)
    worker.kill()
    assert len(stored_points(tmp_path / "cluster")) < 8
    assert sweep.wait() == 0
    assert run("sweep", config, *WORDS, "--out", tmp_path / "one", "--jobs", 1).code == 0
    assert untimed(tmp_path / "cluster") == untimed(tmp_path / "one")


def test_a_reference_whose_depth_penalty_dwarfs_its_score_shows_both(capsys):
    references = tuple(described(Row(name=name, measured_ms=9.0)) for name in ("resnet18", "resnet101"))
    results = Results(name="small", points=(), references=references)
    sweep.show(results)
    lines = capsys.readouterr().out.splitlines()
    assert "note: resnet101: score 34,909, depth penalty 220,265, for its uneven depths" in lines
    assert not [line for line in lines if line.startswith("note: resnet18")]
    small, large = results_to_json(results)["comparison"]
    assert small["score"] - small["penalty"] == pytest.approx(small["objective"])
    assert (round(large["score"]), round(large["penalty"])) == (34_909, 220_265)


def test_networks_beside_calibrated_designs_have_the_same_points_or_none(run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "compared", functools.partial(compare.compared, measure=near_resnet18.measure))
    (tmp_path / "run.yaml").write_text(near_resnet18.RUN_FILE)
    serde.write_objective(tmp_path / "objective.json", near_resnet18.OBJECTIVE)
    words = ("--latency", f"{TABLE}=60ms", "--objective", tmp_path / "objective.json", "--method", "fast", "--jobs", 1)
    others = itertools.chain.from_iterable(("--beside", name) for name in ("resnet18", "resnet34", "resnet50"))
    ran = run("sweep", tmp_path / "run.yaml", *words, *others, "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    own = check.evaluate(near_resnet18.RESNET18, objective=near_resnet18.OBJECTIVE).objective
    first, second, third = data["comparison"]
    assert (first["objective"], first["worth"]["unit"]) == (own, data["points"][0]["worth"]["unit"])
    assert own < second["objective"] < 100
    assert (third["objective"], "worth" in third) == (None, False)
    assert third["rho"] > 0
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["comparison"] == data["comparison"]
    sweep.show(load_results(tmp_path / "out"))
    header, last, lines = beside(capsys.readouterr().out)
    assert header == "objective in accuracy points"
    assert last == {"resnet18": f"{own:.5g}", "resnet34": f"{second['objective']:.5g}", "resnet50": "-"}
    assert "note: resnet34: farther out than every network that the objective was fitted to" in lines
    assert not [line for line in lines if "depth penalty" in line or "equal rho" in line]


def test_networks_beside_deepmads_designs_have_deepmads_objective(capsys):
    references = tuple(described(Row(name=name, measured_ms=9.0)) for name in ("resnet18", "regnet_y_400mf"))
    points = (Point(name="5ms", solution=near_resnet18.solution(None)),)
    sweep.show(Results(name="near", points=points, references=references))
    header, last, lines = beside(capsys.readouterr().out)
    assert header == "objective"
    assert last == {"resnet18": f"{references[0].objective:,.1f}", "regnet_y_400mf": "9.00"}  # the time: it has none
    assert "note: objectives are no accuracies, and compare at equal rho only" in lines


def beside(out):
    """Return the header of the objective beside measured networks, the last word of each network, and all lines."""
    lines = out.splitlines()
    header = next(line for line in lines if line.startswith("network"))
    last = {line.split()[0]: line.split()[-1] for line in lines if line.startswith(("resnet", "regnet"))}
    return header.split("  ")[-1].strip(), last, lines
