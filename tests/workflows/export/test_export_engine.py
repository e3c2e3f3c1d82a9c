"""Engines of every family in every precision, built by TensorRT-RTX, which needs no GPU."""

import importlib.util
import json

import onnx
import pytest

from deepmad_hw import cli
from deepmad_hw.errors import ConfigError, InputFileError, MissingExtraError
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.workflows.export.export import export
from profilers.engine_manifest import read_engine

FAMILIES = ("bottleneck", "basic", "mbconv", "mbconv_se")
TYPES = {"fp32": ("float32",), "fp16": ("float16", "float32"), "int8": ("float32", "int8")}


def _design(family):
    inner = 1 if family in ("bottleneck", "basic") else 3
    return Architecture(
        family=family,
        resolution=(32, 32),
        stem=Stem(out=16),
        stages=tuple(
            Stage(out=width, bottleneck=width * inner, kernel=kernel, stride=stride, depth=2)
            for width, kernel, stride in ((16, 3, 2), (24, 5, 1))
        ),
        head=Head(out=32),
        classes=10,
    )


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason='TensorRT-RTX is not installed: pip install "deepmad-hw[rtx]"')


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_engine_is_built(tmp_path, family, precision):
    plan = tmp_path / "net.plan"
    files = export(_design(family), plan, target="rtx", choices={"precision": precision})
    assert [file.name for file in files] == ["net.plan", "net.plan.json", "net.plan.onnx"]
    manifest, data = read_engine(plan)
    assert len(data) > 20_000
    assert manifest.types == TYPES[precision]
    assert [(t.name, t.dtype, t.shape) for t in manifest.tensors] == [
        ("image", "float32", (1, 3, 32, 32)),
        ("classifier", "float32", (1, 10)),
    ]


@pytest.mark.usefixtures("rtx")
def test_a_free_batch_has_its_sizes(tmp_path):
    choices = {"batch": 0, "batches": "1,4,16"}
    plan, *_ = export(_design("basic"), tmp_path / "net.plan", target="rtx", choices=choices)
    (profile,) = read_engine(plan)[0].profiles
    assert (profile.smallest[0], profile.usual[0], profile.largest[0]) == (1, 4, 16)


@pytest.mark.parametrize(
    "choices",
    [{"batch": 0}, {"batches": "1,2,4"}, {"batch": 0, "batches": "1,2"}, {"batch": 0, "batches": "1,x,4"}],
)
def test_sizes_that_make_no_sense_are_refused(tmp_path, choices):
    with pytest.raises(ConfigError, match="--batches"):
        export(_design("basic"), tmp_path / "net.plan", target="rtx", choices=choices)


@pytest.mark.usefixtures("rtx")
def test_what_the_parser_refuses_leaves_no_files(tmp_path, monkeypatch):
    """The form of int8 for processors is one that the parser refuses."""
    from dataclasses import replace

    from deepmad_hw.exporters import onnx_int8

    write = onnx_int8.write
    monkeypatch.setattr(
        onnx_int8, "write", lambda *given: write(*given[:-1], replace(given[-1], form="cpu", reduce_range="no"))
    )
    with pytest.raises(InputFileError, match=r"net\.plan: the parser refuses it: DequantizeLinear [\w.]+: "):
        export(_design("basic"), tmp_path / "net.plan", target="rtx", choices={"precision": "int8"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("target", "extra"), [("tensorrt", "tensorrt"), ("rtx", "rtx")])
def test_a_library_that_is_missing_is_exit_8_with_the_install_line(tmp_path, monkeypatch, capsys, target, extra):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith("tensorrt") else find(name, *rest)
    )
    code = cli.main(["export", "resnet18", "--target", target, "--out", str(tmp_path / "net.plan")])
    assert code == cli.EXIT_MISSING_EXTRA
    assert f'is not installed; install it with: pip install "deepmad-hw[{extra}]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_is_not_replaced_by_rtx(tmp_path):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    with pytest.raises(MissingExtraError, match=r"^TensorRT is not installed"):
        export(_design("basic"), tmp_path / "net.plan", target="tensorrt")


def test_an_engine_has_its_own_ending(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.plan"):
        export(_design("basic"), tmp_path / "net.onnx", target="rtx")


@pytest.mark.usefixtures("rtx")
def test_the_command_line_builds_one(tmp_path, capsys):
    out = tmp_path / "net.plan"
    words = ["export", "resnet18", "--target", "rtx", "--precision", "fp16", "--optimization-level", "0"]
    assert cli.main([*words, "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["files"][0] == str(out)
    assert read_engine(out)[0].settings[0] == ("optimization_level", "0")
    assert {node.name for node in onnx.load(f"{out}.onnx").graph.node} >= {"pool", "classifier"}
