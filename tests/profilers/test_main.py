"""The device side alone: `python -m profilers`."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import profilers
from deepmad_hw import cli
from deepmad_hw.errors import TooNoisyError
from deepmad_hw.exporters.operation_probes import operation_probes, operations
from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.latency.measurement import Environment, LayerMeasurement, NetworkMeasurement
from deepmad_hw.network.layer import LayerSpec, OperationSpec
from profilers import command


def run(*arguments):
    words = [sys.executable, "-m", "profilers", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_run_writes_rows_that_are_records(packed, tmp_path):
    plan, out = packed(1), tmp_path / "out.jsonl"
    ended = run("run", plan.folder, "--runtime", "replay", "--threads", 2, "--minutes", 0, "--out", out)
    assert (ended.returncode, ended.stdout) == (0, "")
    where, *rows = [json.loads(line) for line in out.read_text().splitlines()]
    environment = Environment(**where["environment"])
    assert (environment.runtime, environment.threads) == ("replay", 2)
    layers = [row["layer"] for row in rows if "layer" in row]
    networks = [NetworkMeasurement(**row["network"]) for row in rows if "network" in row]
    measured = [LayerMeasurement(**{**layer, "spec": LayerSpec(**layer["spec"])}) for layer in layers]
    assert {row.spec for row in measured} == {node.spec for node in plan.probes[0].nodes}
    assert [network.name for network in networks] == ["probe0", "whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.journal", "out.jsonl", "plan"]


CLOSED = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"


@pytest.mark.parametrize("closed", ["0", "1", "2"])
def test_a_closed_stream_is_no_fault(packed, tmp_path, closed):
    words = ("run", packed(1).folder, "--runtime", "replay", "--minutes", 0, "--out", tmp_path / "out.jsonl")
    command = [sys.executable, "-c", CLOSED, closed, "-m", "profilers", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    assert ended.stderr.startswith("1/4 probe0 ok") == (closed != "2")
    assert (tmp_path / "out.jsonl").is_file()


def test_operations_outside_the_families_are_rows_too(tmp_path):
    (found,) = operation_probes(1)
    write_plan(tmp_path / "plan", [PackedProbe(name="other", operations=found, by_layer=True)])
    out = tmp_path / "out.jsonl"
    ended = run("run", tmp_path / "plan", "--runtime", "replay", "--minutes", 0, "--out", out)
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line).get("operation") for line in out.read_text().splitlines()]
    measured = {OperationSpec(**row["spec"]): row for row in rows if row is not None}
    assert set(measured) == {node.spec for node in operations(found)}
    assert all(row["status"] == "ok" and row["samples_us"] for row in measured.values())


def test_progress_is_shown_on_standard_error(packed, tmp_path):
    plan = packed(1)
    ended = run("run", plan.folder, "--runtime", "replay", "--minutes", 0, "--out", tmp_path / "out.jsonl")
    lines = ended.stderr.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["1/4", "probe0", "ok,"],
        ["2/4", "whole", "ok,"],
        ["3/4", "probe0", "ok,"],
        ["4/4", "whole", "ok,"],
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runtime", "replya"], "error: --runtime: unknown runtime 'replya'; did you mean 'replay'?"),
        (["--runtime", "tflite"], "error: --runtime: unknown runtime 'tflite'; expected one of "),
    ],
)
def test_an_unknown_runtime_is_one_line(packed, tmp_path, options, said):
    ended = run("run", packed(1).folder, "--out", tmp_path / "out", *options)
    assert ended.returncode == 2
    assert ended.stderr.startswith(said)
    assert ended.stderr.count("\n") == 1


def test_a_folder_without_a_plan_is_one_line(tmp_path):
    ended = run("run", tmp_path, "--out", tmp_path / "out")
    assert ended.returncode == 3
    assert ended.stderr.count("\n") == 1
    assert str(tmp_path / "plan.json") in ended.stderr


def test_a_journal_of_another_run_is_one_line(packed, tmp_path):
    folder, out = packed(1).folder, tmp_path / "out.jsonl"
    for threads, code in ((1, 0), (2, 7)):
        ended = run("run", folder, "--runtime", "replay", "--minutes", 0, "--threads", threads, "--out", out)
        assert ended.returncode == code
    assert "begun with threads = 1, now it is 2" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_exit_codes_are_those_of_the_host():
    assert command.EXIT_CODES.items() <= cli.EXIT_CODES.items()


def test_a_device_that_is_never_calm_is_one_line_and_its_code(monkeypatch, capsys, packed, tmp_path):
    def measure(*_, **__):
        raise TooNoisyError("everything measured so far was disturbed (waited 31%)")

    monkeypatch.setattr(command.run, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["profilers", "run", str(packed(1).folder), "--out", str(tmp_path / "out.jsonl")])
    assert command.main() == cli.EXIT_TOO_NOISY
    assert capsys.readouterr().err == "error: everything measured so far was disturbed (waited 31%)\n"


RUNTIMES = {  # what a file times with, beside numpy
    "gpu_sensors": "pynvml",
    "onnxruntime_cpu": "onnxruntime",
    "openvino_cpu": "openvino",
    "tensorrt_cuda": "cuda",
    "torch_cpu": "torch",
    "torch_cuda": "torch",
    "torch_network": "torch",
}
DEVICE_FILES = sorted(Path(profilers.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", DEVICE_FILES, ids=lambda path: path.stem)
def test_the_device_side_needs_its_runtime_and_little_else(path):
    """A board has Python, numpy, one runtime, and the few files of the host that hold errors and records."""
    tree = ast.parse(path.read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name for name in modules if name.split(".")[0] not in sys.stdlib_module_names | {"profilers"}}
    names = ("errors", "files.atomic", "files.planfile", "network.layer", "latency.measurement")
    shared = {f"deepmad_hw.{name}" for name in names}
    packages = {name.split(".")[0] for name in foreign - shared}
    assert packages <= {"numpy", RUNTIMES.get(path.stem, "numpy")}
