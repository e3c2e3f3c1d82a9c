"""What every runtime that can be timed promises; each backend of the table is held to it."""

import importlib
import importlib.util
from dataclasses import fields, replace
from pathlib import Path

import pytest

import profilers
from deepmad_hw.errors import ConfigError, DeepmadError, MissingExtraError
from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.latency.measurement import Environment
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand
from profilers import backend as backends
from profilers import gpu_sensors
from profilers.backend import Settings
from profilers.plan import read_plan

NEEDS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "replay": None,
    "tensorrt": "tensorrt",
    "torch": "torch",
    "torch_cuda": "torch",
    "torch_cuda_eager": "torch",
}  # module that must be installed, by backend
NEED_A_CARD = ("tensorrt", "torch_cuda", "torch_cuda_eager")
RUN_INT8 = ("onnxruntime", "openvino", "replay")
RUNS = 4


def _graph(family, name):
    inner = 16 if family == "basic" else 48
    architecture = Architecture(
        family=family,
        resolution=(32, 32),
        stem=Stem(out=8),
        stages=(Stage(out=16, bottleneck=inner, kernel=3, stride=2, depth=2),),
        classes=10,
    )
    return expand(architecture, name=name)


def _packed(folder, precision):
    probes = [
        PackedProbe(name="layers", graph=_graph("mbconv_se", "layers"), by_layer=True),
        PackedProbe(name="whole", graph=_graph("basic", "whole")),
    ]
    write_plan(folder, probes, batch=2, precision=precision)
    return read_plan(folder)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return _packed(tmp_path_factory.mktemp("plan"), "fp32")


@pytest.fixture(scope="module")
def int8_plan(tmp_path_factory):
    return _packed(tmp_path_factory.mktemp("int8"), "int8")


@pytest.mark.parametrize("name", backends.names())
class TestBackend:
    @pytest.fixture(autouse=True)
    def installed(self, name):
        if NEEDS[name] is not None:
            pytest.importorskip(NEEDS[name])
        if name in NEED_A_CARD and gpu_sensors.card() is None:
            pytest.skip("no NVIDIA GPU here, or nvidia-ml-py is not installed")

    def test_it_says_where_it_runs(self, name, plan):
        found = backends.get(name).environment(plan, Settings(runtime=name, threads=2))
        assert isinstance(found, Environment)
        assert (found.runtime, found.threads, found.batch, found.precision) == (name, 2, 2, "fp32")
        for field in fields(Environment):
            assert getattr(found, field.name) or field.name == "features", field.name
        assert found.features == tuple(sorted(found.features))
        assert found.cores >= 1

    def test_it_says_the_same_again(self, name, plan):
        settings = Settings(runtime=name)
        backend = backends.get(name)
        assert backend.environment(plan, settings).differences(backend.environment(plan, settings)) == ()

    @pytest.mark.parametrize("probe", [0, 1, "canary"])
    def test_a_run_takes_time(self, name, plan, probe):
        found = plan.canary if probe == "canary" else plan.probes[probe]
        session = backends.get(name).load(plan, found, Settings(runtime=name), profiled=False)
        assert all(session.run() > 0 for _ in range(RUNS))

    def test_a_session_that_was_not_to_profile_tells_nothing(self, name, plan):
        session = backends.get(name).load(plan, plan.probes[0], Settings(runtime=name), profiled=False)
        session.run()
        assert session.finish() == backends.NodeTimes()

    @pytest.mark.parametrize(("kind", "threads"), [("plan", 1), ("plan", 2), ("int8_plan", 1)])
    def test_every_layer_has_one_time_for_each_run(self, name, kind, threads, request):
        if kind == "int8_plan" and name not in RUN_INT8:
            pytest.skip(f"{name} runs no int8")
        plan = request.getfixturevalue(kind)
        settings = Settings(runtime=name, threads=threads)
        session = backends.get(name).load(plan, plan.probes[0], settings, profiled=True)
        total_us = sum(session.run() for _ in range(RUNS))
        times = session.finish()
        assert set(times.us) == {node.name for node in plan.probes[0].nodes}
        assert {len(values) for values in times.us.values()} == {RUNS}
        assert all(value >= 0 for values in times.us.values() for value in values)
        assert 0 < sum(map(sum, times.us.values())) <= total_us * (1 + 1e-9)
        assert set(times.operations) == set(times.us)
        assert all(count >= 1 for count in times.operations.values())

    def test_a_file_that_cannot_be_loaded_is_an_error(self, name, plan):
        broken = replace(plan.probes[1], file="plan.json", nodes=())
        settings = Settings(runtime=name, script="fail=whole")
        with pytest.raises(Exception, match=r"\w"):
            backends.get(name).load(plan, broken, settings, profiled=False)


def test_every_backend_is_held_to_the_contract():
    assert set(NEEDS) == set(backends.names())


@pytest.mark.parametrize(("wrong", "hint"), [("onnxruntim", "did you mean 'onnxruntime'?"), ("x", "expected one of")])
def test_an_unknown_runtime_names_the_near_miss(wrong, hint):
    with pytest.raises(ConfigError) as caught:
        backends.get(wrong)
    assert f"--runtime: unknown runtime '{wrong}'; {hint}" in str(caught.value)


@pytest.mark.parametrize(
    ("runtime", "called", "extra"),
    [("onnxruntime", "ONNX Runtime", "cpu"), ("openvino", "OpenVINO", "openvino"), ("torch", "PyTorch", "torch")],
)
def test_a_runtime_that_is_not_installed_is_one_line_with_what_to_type(plan, monkeypatch, runtime, called, extra):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == runtime else find(name, *rest))
    with pytest.raises(MissingExtraError) as caught:
        backends.get(runtime).environment(plan, Settings())
    assert str(caught.value) == f'{called} is not installed; install it with: pip install "deepmad-hw[{extra}]"'
    assert isinstance(caught.value, DeepmadError)


def test_every_backend_of_a_file_is_in_the_table():
    files = {path.stem for path in Path(profilers.__file__).parent.glob("*.py")} - {"__main__"}
    holding = {stem for stem in files if hasattr(importlib.import_module(f"profilers.{stem}"), "BACKEND")}
    registered = {backends.get(name).__class__.__module__.rpartition(".")[2] for name in backends.names()}
    assert holding == registered
    assert registered >= {"onnxruntime_cpu", "openvino_cpu", "replay", "tensorrt_cuda", "torch_cpu", "torch_cuda"}


def test_a_session_is_what_the_protocol_says(plan):
    session = backends.get("replay").load(plan, plan.probes[0], Settings(runtime="replay"), profiled=True)
    assert callable(session.run)
    assert callable(session.finish)
