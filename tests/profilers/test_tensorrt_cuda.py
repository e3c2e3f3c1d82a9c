"""Engine layers joined to ours, from what the profiler and the inspector of TensorRT 10 and 11 tell."""

import functools
import hashlib
import importlib.util
import inspect
import json
import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepmad_hw.errors import InputFileError, MissingExtraError
from deepmad_hw.network.layer import LayerSpec, Node
from profilers import gpu_sensors, tensorrt, tensorrt_cuda
from profilers.backend import Settings
from profilers.engine_manifest import Manifest, TensorInfo, key_path, manifest_path, read_engine, sealed
from profilers.gpu_sensors import Card
from profilers.plan import NETWORK, Plan, Probe
from profilers.tensorrt_cuda import BACKEND, engine_of, in_batches, infer, node_times

CARD = Card(name="Card 1000", compute_capability="9.0", driver="600.1")


def _conv(name, source, **options):
    shape = {"in_channels": 8, "out_channels": 8, "height": 4, "width": 4} | options
    return Node(name=name, spec=LayerSpec(op="conv", **shape), inputs=(source,))


NODES = (
    _conv("stem", "image", kernel=3),
    _conv("stage1.block1.conv1", "stem"),
    _conv("stage1.block1.conv2", "stage1.block1.conv1", kernel=3),
    Node(
        name="pool",
        spec=LayerSpec(op="global_pool", in_channels=8, out_channels=8, height=4, width=4),
        inputs=("stage1.block1.conv2",),
    ),
)
NAMES = {
    "stem + stem.act": ["stem", "stem.act"],
    "__myl_Fused_0": ["stage1.block1.conv1", "stage1.block1.conv1.sigmoid", "stage1.block1.conv1.act"],
    "stage1.block1.conv2": ["stage1.block1.conv2", "stage1.block1.conv2.add"],
    "pool": ["pool"],
}


def _layer(name, operations):
    return {"Name": name, "LayerType": "conv", "Metadata": "\x1e".join(f"[ONNX Layer: {each}]" for each in operations)}


def _description(major, *, detailed=True):
    layers = [_layer(name, operations) for name, operations in NAMES.items()] if detailed else list(NAMES)
    ends = {
        "10": {"Bindings": ["image", "pool"]},
        "11": {"I/O Tensors": [{"Name": "image", "IOMode": "Input", "DataType": "FLOAT", "Dimensions": [1, 8, 4, 4]}]},
    }
    return json.dumps({"Layers": layers, **ends[major]})


RUN = (("stem + stem.act", 10.0), ("__myl_Fused_0", 20.0), ("stage1.block1.conv2", 30.0), ("pool", 4.0))


@pytest.mark.parametrize("major", ["10", "11"])
def test_engine_layers_are_joined_by_the_operations_they_hold(major):
    times = node_times([RUN, RUN], _description(major), NODES)
    assert times.us == {
        "stem": (10.0, 10.0),
        "stage1.block1.conv1": (20.0, 20.0),
        "stage1.block1.conv2": (30.0, 30.0),
        "pool": (4.0, 4.0),
    }
    assert times.operations == dict.fromkeys(times.us, 1)


def test_without_details_names_are_read():
    run = (("stem + stem.act", 10.0), ("stage1.block1.conv1 || stage1.block1.conv1.act", 20.0))
    times = node_times([run], _description("11", detailed=False), NODES)
    assert times.us == {"stem": (10.0,), "stage1.block1.conv1": (20.0,)}


def test_a_change_of_layout_is_the_price_of_the_layer_it_is_for():
    run = (*RUN, ("Reformatting CopyNode for Input Tensor 0 to stage1.block1.conv2", 6.0))
    times = node_times([run], _description("10"), NODES)
    assert times.us["stage1.block1.conv2"] == (36.0,)
    assert times.operations["stage1.block1.conv2"] == 2


def test_a_layer_that_holds_several_of_ours_is_shared_by_the_values_they_move():
    name = "{ForeignNode[stage1.block1.conv2...pool]}"
    description = json.dumps({"Layers": [_layer(name, ["stage1.block1.conv2", "pool"])]})
    times = node_times([((name, 100.0),)], description, NODES)
    conv, pool = 8 * 16 + 8 * 16 + 8 * 8 * 9, 8 * 16 + 8
    assert times.us["stage1.block1.conv2"] == pytest.approx((100.0 * conv / (conv + pool),))
    assert times.us["pool"] == pytest.approx((100.0 * pool / (conv + pool),))


def test_a_layer_of_nobody_is_left_to_the_scaling_by_the_unprofiled_total():
    assert node_times([(("shuffle 7", 3.0),)], _description("11"), NODES).us == {}


def test_a_layer_that_is_reported_twice_in_a_run_took_both_times():
    assert node_times([(*RUN, ("pool", 1.0))], _description("11"), NODES).us["pool"] == (5.0,)


@pytest.fixture
def builds(monkeypatch, tmp_path):
    """Return the list that every real build adds its file to."""
    pytest.importorskip("tensorrt_rtx", reason='TensorRT-RTX is not installed: pip install "deepmad-hw[rtx]"')
    tensorrt.library.cache_clear()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(gpu_sensors, "card", lambda: CARD)
    done, build = [], tensorrt.build

    def counted(file, **options):
        done.append(file.name)
        return build(file, **options)

    monkeypatch.setattr(tensorrt, "build", counted)
    return done


def _engine(plan, *, card=CARD):
    return engine_of(plan, plan.probes[0], flavour="tensorrt_rtx", card=card)


def test_a_probe_s_engine_is_built_once_for_a_card(builds, packed, monkeypatch):
    plan = packed(1)
    first = _engine(plan)
    assert _engine(plan) == first
    assert builds == ["probe0.onnx"]
    other = Card(name="Card 2000", compute_capability="9.0", driver="600.1")
    monkeypatch.setattr(gpu_sensors, "card", lambda: other)
    _engine(plan, card=other)
    assert len(builds) == 2


def test_an_engine_that_was_touched_is_built_again(builds, packed):
    plan = packed(1)
    first = _engine(plan)
    kept = plan.folder / "engines" / "probe0.plan"
    kept.write_bytes(first[:-1])
    _engine(plan)
    assert len(builds) == 2
    assert read_engine(kept)[0].gpu == CARD.name
    assert ("profiling_verbosity", "detailed") in read_engine(kept)[0].settings


def test_any_number_of_images_goes_through_batches_of_one_size():
    images, sizes = np.arange(14.0).reshape(7, 2, 1, 1), []

    def run(batch):
        sizes.append(len(batch))
        return [batch * 2, batch[:, 0]]

    doubled, first = in_batches(run, images, size=3)
    assert sizes == [3, 3, 3]
    assert np.array_equal(doubled, images * 2)
    assert np.array_equal(first, images[:, 0])


def test_an_engine_from_elsewhere_is_not_run(tmp_path):
    (tmp_path / "net.plan").write_bytes(b"native code")
    with pytest.raises(InputFileError, match="no manifest of this machine"):
        infer(tmp_path / "net.plan", np.zeros((1, 3, 8, 8)))


BYTES = bytes(range(256)) * 16
MANIFEST = Manifest(
    flavour="tensorrt",
    version="11.4.0",
    gpu=CARD.name,
    compute_capability=CARD.compute_capability,
    driver=CARD.driver,
    flags=(),
    settings=(),
    types=("float32",),
    profiles=(),
    tensors=(TensorInfo(name="image", kind="input", dtype="float32", shape=(1, 3, 8, 8)),),
    onnx_sha256="0" * 64,
    plan_sha256=hashlib.sha256(BYTES).hexdigest(),
)


class _Deserialiser(types.ModuleType):
    """Stands in TensorRT's place and writes down what it is given to deserialise; it takes nothing."""

    def __init__(self):
        super().__init__("tensorrt")
        self.__spec__ = importlib.util.spec_from_loader("tensorrt", loader=None)
        self.__version__, self.ILogger, self.given = MANIFEST.version, type("ILogger", (), {}), []

    def Runtime(self, log):
        return types.SimpleNamespace(deserialize_cuda_engine=self.given.append)


@pytest.fixture
def deserialiser(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(gpu_sensors, "installed", lambda: True)
    monkeypatch.setattr(gpu_sensors, "card", lambda: CARD)
    monkeypatch.setattr(tensorrt_cuda, "CudaGpu", types.SimpleNamespace)
    cuda = types.ModuleType("cuda")
    cuda.__spec__ = importlib.util.spec_from_loader("cuda", loader=None)
    monkeypatch.setitem(sys.modules, "cuda", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in := _Deserialiser())
    tensorrt.library.cache_clear()
    yield stand_in
    tensorrt.library.cache_clear()


@pytest.fixture
def engine(deserialiser, tmp_path):
    """Return the file of an engine that was built here, with its manifest beside it."""
    return _written(tmp_path / "net.plan", BYTES, MANIFEST)


def _written(path, data, manifest):
    path.write_bytes(data)
    manifest_path(path).write_bytes(sealed(manifest))
    return path


def _loaded_in_every_way(engine):
    """Go through both doors to the deserialiser, and return what was raised."""
    probe = Probe(name="net", file=engine.name, kind=NETWORK, input_shape=(1, 3, 8, 8), weight_bytes=0)
    plan = Plan(folder=engine.parent, probes=(probe,), canary=probe, batch=1, precision="fp32", sha256="")
    raised = []
    for load in (
        lambda: infer(engine, np.zeros((1, 3, 8, 8))),
        lambda: BACKEND.load(plan, probe, Settings(runtime="tensorrt"), profiled=False),
    ):
        with pytest.raises((InputFileError, MissingExtraError)) as caught:
            load()
        raised.append(str(caught.value))
    return raised


def test_an_engine_of_this_card_and_version_reaches_the_deserialiser(deserialiser, engine):
    raised = _loaded_in_every_way(engine)
    assert deserialiser.given == [BYTES, BYTES]
    assert all("the engine cannot be loaded" in line for line in raised)


def _flip(path, place):
    data = bytearray(path.read_bytes())
    data[round(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def _cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def _seal_again(engine, **changes):
    manifest_path(engine).write_bytes(sealed(replace(MANIFEST, **changes)))


def _seal_with_another_key(engine):
    key = key_path()
    own = key.read_bytes()
    key.unlink()
    _seal_again(engine)
    key.write_bytes(own)


def _take_the_manifest_of_another_engine(engine):
    other = replace(MANIFEST, plan_sha256=hashlib.sha256(BYTES[1:]).hexdigest())
    manifest_path(_written(engine.with_name("other.plan"), BYTES[1:], other)).replace(manifest_path(engine))


def _change_the_manifest_and_keep_its_seal(engine):
    data = json.loads(manifest_path(engine).read_text())
    manifest_path(engine).write_text(json.dumps(data | {"plan_sha256": hashlib.sha256(BYTES[1:]).hexdigest()}))
    engine.write_bytes(BYTES[1:])


TAMPERINGS = {
    **{f"a bit at {place:.0%} of the engine": lambda e, p=place: _flip(e, p) for place in (0, 0.2, 0.4, 0.6, 0.8, 1)},
    **{f"a bit at {place:.0%} of the manifest": lambda e, p=place: _flip(manifest_path(e), p) for place in (0.1, 0.9)},
    **{f"cut to {length} bytes": lambda e, n=length: _cut(e, n) for length in (0, 1, len(BYTES) // 2, len(BYTES) - 1)},
    "a byte more": lambda e: e.write_bytes(BYTES + b"\0"),
    "no manifest": lambda e: manifest_path(e).unlink(),
    "half a manifest": lambda e: _cut(manifest_path(e), 300),
    "another engine's manifest": _take_the_manifest_of_another_engine,
    "a manifest for other bytes with the old seal": _change_the_manifest_and_keep_its_seal,
    "another owner's key": _seal_with_another_key,
    "a key that others may read": lambda e: key_path().chmod(0o644),
    "no key": lambda e: key_path().unlink(),
    "another version of the library": lambda e: _seal_again(e, version="10.3.0"),
    "another library": lambda e: _seal_again(e, flavour="tensorrt_rtx"),
    "another card": lambda e: _seal_again(e, gpu="Card 2000"),
    "another generation of cards": lambda e: _seal_again(e, compute_capability="8.6"),
}


@pytest.mark.promise("T15")
@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_an_engine_that_was_tampered_with_is_refused_before_anything_is_deserialised(deserialiser, engine, tampering):
    before = engine.read_bytes(), manifest_path(engine).read_bytes(), key_path().stat().st_mode
    TAMPERINGS[tampering](engine)
    after = [path.read_bytes() if path.exists() else None for path in (engine, manifest_path(engine))]
    assert (*after, key_path().exists() and key_path().stat().st_mode) != before
    assert not any("cannot be loaded" in line or "\n" in line for line in _loaded_in_every_way(engine))
    assert deserialiser.given == []


def test_an_engine_that_was_built_without_a_card_is_for_any(deserialiser, engine):
    _seal_again(engine, gpu="none", compute_capability="none", driver="none")
    _loaded_in_every_way(engine)
    assert deserialiser.given == [BYTES, BYTES]


def test_without_a_card_one_line_says_so(packed):
    pytest.importorskip("tensorrt_rtx", reason='TensorRT-RTX is not installed: pip install "deepmad-hw[rtx]"')
    if gpu_sensors.card() is not None:
        pytest.skip("there is a card here")
    with pytest.raises(MissingExtraError, match=r"TensorRT.* finds no NVIDIA GPU|not installed; install them"):
        BACKEND.environment(packed(1), Settings(runtime="tensorrt"))


def test_every_name_of_cuda_that_is_used_exists():
    pytest.importorskip("cuda.bindings", reason='cuda-bindings is not installed: pip install "deepmad-hw[gpu]"')
    from cuda.bindings import runtime

    source = Path(inspect.getfile(tensorrt_cuda)).read_text()
    chains = set(re.findall(r"(?:_cuda|runtime)\.(cuda[\w.]+)", source))
    assert len(chains) > 10
    for chain in chains:
        functools.reduce(getattr, chain.split("."), runtime)


def test_every_name_of_the_library_that_is_used_exists():
    trt = pytest.importorskip("tensorrt_rtx", reason='TensorRT-RTX is not installed: pip install "deepmad-hw[rtx]"')
    parts = {
        trt.Runtime: ("deserialize_cuda_engine",),
        trt.ICudaEngine: (
            "create_engine_inspector",
            "create_execution_context",
            "get_tensor_dtype",
            "get_tensor_mode",
            "get_tensor_name",
            "num_io_tensors",
        ),
        trt.IExecutionContext: (
            "enqueue_emits_profile",
            "execute_async_v3",
            "get_tensor_shape",
            "profiler",
            "report_to_profiler",
            "set_input_shape",
            "set_tensor_address",
        ),
        trt.EngineInspector: ("get_engine_information",),
        trt.LayerInformationFormat: ("JSON",),
        trt.TensorIOMode: ("INPUT",),
        trt: ("nptype", "IProfiler"),
    }
    source = Path(inspect.getfile(tensorrt_cuda)).read_text()
    for part, names in parts.items():
        for name in names:
            assert hasattr(part, name), (part, name)
            assert name in source
