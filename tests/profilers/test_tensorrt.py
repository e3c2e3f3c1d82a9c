"""Building engines: what TensorRT 10 and 11 are told (a stand-in tells what it was told), and TensorRT-RTX itself."""

import enum
import importlib.util
import sys
import types

import pytest
from onnx import TensorProto, helper

from deepmad_hw.errors import ConfigError, InputFileError, MissingExtraError
from deepmad_hw.exporters.onnx_graph import export_model, save
from deepmad_hw.exporters.weights import initial_weights
from profilers import gpu_sensors, tensorrt
from profilers.engine_manifest import ShapeProfile
from profilers.gpu_sensors import Card
from profilers.tensorrt import EngineSettings, build

CARD = Card(name="Card 1000", compute_capability="9.0", driver="600.1")
FLAGS = {
    "10": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "11": {"STRONGLY_TYPED": 1},
    "none": {},
}


class _Tensor:
    def __init__(self, name, shape, dtype="FLOAT"):
        self.name, self.shape, self.dtype = name, shape, types.SimpleNamespace(name=dtype)


class _Network:
    def __init__(self, library):
        self._layer = types.SimpleNamespace(num_outputs=1, get_output=lambda index: _Tensor("classifier", (1, 10)))
        self._input = _Tensor("image", library.input_shape)
        self.num_inputs = self.num_outputs = self.num_layers = 1

    def get_input(self, index):
        return self._input

    def get_output(self, index):
        return _Tensor("classifier", (self._input.shape[0], 10))

    def get_layer(self, index):
        return self._layer


class _Cache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return self.data + b"+tactics"


class _Config:
    def __init__(self, library):
        self._library = library
        self.flags, self.profiles, self.cache = {"TF32"}, [], None  # TF32 is on by default, as in the library
        self.limits = {}

    def set_flag(self, flag):
        self.flags.add(flag.name)

    def clear_flag(self, flag):
        self.flags.discard(flag.name)

    def get_flag(self, flag):
        return flag.name in self.flags

    def set_memory_pool_limit(self, pool, size):
        self.limits[pool] = size

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data):
        self._library.caches.append(data)
        return _Cache(data)

    def set_timing_cache(self, cache, *, ignore_mismatch):
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


class _Library(types.ModuleType):
    """Answers as the bindings of a major version do, without building anything."""

    def __init__(self, name, creation_flags):
        super().__init__(name)
        self.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        self.__version__ = "11.4.0"
        self.ILogger = type("ILogger", (), {})
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(**creation_flags)
        self.BuilderFlag = enum.IntEnum("BuilderFlag", {"TF32": 0, "REFIT": 1})
        self.ProfilingVerbosity = types.SimpleNamespace(DETAILED="detailed", LAYER_NAMES_ONLY="names")
        self.MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")
        self.input_shape, self.starts, self.plan = (1, 3, 32, 32), True, b"plan"
        self.parser_errors, self.said, self.caches = [], [], []
        self.network_flags = self.config = None

    def Builder(self, log):
        self._log = log
        if not self.starts:
            log.log(types.SimpleNamespace(name="ERROR"), "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return self

    def create_network(self, flags):
        self.network_flags = flags
        return _Network(self)

    def OnnxParser(self, network, log):
        errors = [
            types.SimpleNamespace(node_name=lambda n=node: n, node_operator=lambda: "Foo", desc=lambda: "no\nimporter")
            for node in self.parser_errors
        ]
        return types.SimpleNamespace(
            parse_from_file=lambda path: not errors, num_errors=len(errors), get_error=errors.__getitem__
        )

    def create_builder_config(self):
        self.config = _Config(self)
        return self.config

    def create_optimization_profile(self):
        shapes = {}
        return types.SimpleNamespace(shapes=shapes, set_shape=lambda name, *sizes: shapes.update({name: sizes}))

    def build_serialized_network(self, network, config):
        for severity, text in self.said:
            self._log.log(types.SimpleNamespace(name=severity), text)
        return self.plan


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Return a function: name and major version -> a stand-in that is found in place of the library."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tensorrt.library.cache_clear()

    def install(name="tensorrt", major="11"):
        library = _Library(name, FLAGS[major])
        monkeypatch.setitem(sys.modules, name, library)
        return library

    yield install
    tensorrt.library.cache_clear()


@pytest.fixture
def onnx_file(tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(b"the stand-in does not read it")
    return path


@pytest.mark.parametrize(("major", "expected"), [("10", 2), ("11", 2), ("none", 0)])
def test_networks_are_strongly_typed_where_that_is_a_flag_and_nothing_else_is_asked_of_them(
    stand_in, onnx_file, major, expected
):
    library = stand_in(major=major)
    assert build(onnx_file).plan == b"plan"
    assert library.network_flags == expected


@pytest.mark.parametrize(("wanted", "flags"), [(False, ()), (True, ("TF32",))])
def test_tf32_is_said_either_way_and_recorded(stand_in, onnx_file, wanted, flags):
    library = stand_in()
    engine = build(onnx_file, settings=EngineSettings(tf32=wanted))
    assert library.config.get_flag(library.BuilderFlag.TF32) is wanted
    assert engine.manifest.flags == flags


def test_what_the_parser_refuses_is_said_with_its_nodes(stand_in, onnx_file):
    stand_in().parser_errors = ["stage1.block1.conv1", "b", "c", "d", "e"]
    with pytest.raises(InputFileError) as caught:
        build(onnx_file)
    assert "parser refuses it: Foo stage1.block1.conv1: no importer; Foo b: no importer; Foo c" in str(caught.value)
    assert str(caught.value).endswith(" and 2 more")


def test_a_build_that_gives_nothing_is_an_error_with_the_library_s_last_words(stand_in, onnx_file):
    library = stand_in()
    library.plan, library.said = None, [("WARNING", "slow"), ("ERROR", "no tactic\nfor conv1"), ("INFO", "chatter")]
    with pytest.raises(InputFileError, match=r"TensorRT cannot build it: no tactic for conv1$"):
        build(onnx_file)


def test_words_of_an_earlier_build_are_not_repeated(stand_in, onnx_file):
    library = stand_in()
    library.plan, library.said = None, [("ERROR", "first")]
    with pytest.raises(InputFileError, match="first"):
        build(onnx_file)
    library.said = []
    with pytest.raises(InputFileError, match="no reason was given"):
        build(onnx_file)


def test_tensorrt_without_a_gpu_is_a_missing_device(stand_in, onnx_file):
    stand_in().starts = False
    with pytest.raises(MissingExtraError, match="error: 35; it needs an NVIDIA GPU"):
        build(onnx_file)


def test_a_free_batch_without_sizes_is_refused_before_building(stand_in, onnx_file):
    library = stand_in()
    library.input_shape, library.plan = (-1, 3, 32, 32), None
    with pytest.raises(ConfigError, match="batch of input image is free; say least, usual and most images"):
        build(onnx_file)


def test_a_free_batch_has_a_profile(stand_in, onnx_file):
    library = stand_in()
    library.input_shape = (-1, 3, 32, 32)
    engine = build(onnx_file, settings=EngineSettings(batches=(1, 8, 64)))
    assert library.config.profiles[0].shapes == {"image": ((1, 3, 32, 32), (8, 3, 32, 32), (64, 3, 32, 32))}
    profile = ShapeProfile(tensor="image", smallest=(1, 3, 32, 32), usual=(8, 3, 32, 32), largest=(64, 3, 32, 32))
    assert engine.manifest.profiles == (profile,)


def test_sizes_for_a_fixed_batch_are_refused(stand_in, onnx_file):
    stand_in()
    with pytest.raises(ConfigError, match="batch is fixed"):
        build(onnx_file, settings=EngineSettings(batches=(1, 8, 64)))


def test_free_pixels_are_refused(stand_in, onnx_file):
    stand_in().input_shape = (1, 3, -1, -1)
    with pytest.raises(InputFileError, match="free in more than its batch"):
        build(onnx_file, settings=EngineSettings(batches=(1, 8, 64)))


@pytest.mark.parametrize("wrong", [{"batches": (2, 1, 3)}, {"batches": (0, 1, 2)}, {"optimization_level": 6}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        EngineSettings(**wrong)


def test_settings_reach_the_library(stand_in, onnx_file):
    library = stand_in()
    settings = EngineSettings(optimization_level=5, workspace_bytes=2**20, detailed=True)
    engine = build(onnx_file, settings=settings)
    assert (library.config.builder_optimization_level, library.config.limits) == (5, {"workspace": 2**20})
    assert library.config.profiling_verbosity == "detailed"
    assert dict(engine.manifest.settings)["optimization_level"] == "5"


def test_timings_are_kept_by_version_card_and_driver(stand_in, onnx_file, monkeypatch):
    library = stand_in()
    for driver in ("600.1", "600.1", "601.0"):
        card = Card(name=CARD.name, compute_capability=CARD.compute_capability, driver=driver)
        monkeypatch.setattr(gpu_sensors, "card", lambda card=card: card)
        assert build(onnx_file).manifest.driver == driver
    assert library.caches == [b"", b"+tactics", b""]


def test_rtx_and_machines_without_a_card_keep_no_timings(stand_in, onnx_file, monkeypatch):
    without_card = stand_in()
    monkeypatch.setattr(gpu_sensors, "card", lambda: None)
    build(onnx_file, flavour="tensorrt")
    rtx = stand_in("tensorrt_rtx")
    monkeypatch.setattr(gpu_sensors, "card", lambda: CARD)
    build(onnx_file, flavour="tensorrt_rtx")
    assert without_card.caches == rtx.caches == []


def test_the_first_library_of_the_list_is_taken(stand_in, onnx_file):
    stand_in("tensorrt_rtx")
    stand_in("tensorrt")
    assert build(onnx_file).manifest.flavour == "tensorrt"


@pytest.mark.parametrize(
    ("flavour", "expected"),
    [
        ("tensorrt", 'TensorRT is not installed; install it with: pip install "deepmad-hw[tensorrt]"'),
        ("tensorrt_rtx", 'TensorRT-RTX is not installed; install it with: pip install "deepmad-hw[rtx]"'),
        (None, "TensorRT or TensorRT-RTX is not installed"),
    ],
)
def test_a_library_that_is_missing_is_named_with_what_to_type(monkeypatch, onnx_file, flavour, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(MissingExtraError) as caught:
        build(onnx_file, flavour=flavour)
    assert str(caught.value).startswith(expected)


def test_a_file_that_is_not_there_is_one_line(stand_in, tmp_path):
    stand_in()
    with pytest.raises(InputFileError, match="cannot read the network"):
        build(tmp_path / "missing.onnx")


class TestRtx:
    """The real parser and builder, which need no GPU."""

    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("tensorrt_rtx", reason='TensorRT-RTX is not installed: pip install "deepmad-hw[rtx]"')
        tensorrt.library.cache_clear()

    @pytest.fixture
    def exported(self, graph, tmp_path):
        def export(family, batch):
            network = graph(family, family)
            path = tmp_path / f"{family}.onnx"
            save(export_model(network, initial_weights(network, seed=0), batch=batch), path)
            return path

        return export

    def test_an_engine_says_what_it_takes_and_returns(self, exported):
        engine = build(exported("basic", 2), flavour="tensorrt_rtx")
        assert len(engine.plan) > 10_000
        assert [(t.name, t.kind, t.dtype, t.shape) for t in engine.manifest.tensors] == [
            ("image", "input", "float32", (2, 3, 32, 32)),
            ("classifier", "output", "float32", (2, 10)),
        ]
        assert engine.manifest.types == ("float32",)
        assert engine.manifest.flags == ()

    def test_a_free_batch_is_built_with_its_profile(self, exported):
        settings = EngineSettings(batches=(1, 4, 8), tf32=True)
        engine = build(exported("mbconv_se", "batch"), flavour="tensorrt_rtx", settings=settings)
        assert engine.manifest.tensors[0].shape == (-1, 3, 32, 32)
        assert engine.manifest.flags == ("TF32",)

    def test_a_free_batch_without_a_profile_is_refused(self, exported):
        with pytest.raises(ConfigError, match="free"):
            build(exported("basic", "batch"), flavour="tensorrt_rtx")

    def test_an_operation_it_does_not_know_is_named(self, tmp_path):
        shape = (1, 3, 8, 8)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "out")]
        nodes = [
            helper.make_node("Relu", ["image"], ["between"], name="stem"),
            helper.make_node("Strange", ["between"], ["out"], name="stage1.odd", domain="elsewhere"),
        ]
        domains = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
        body = helper.make_graph(nodes, "odd", ends[:1], ends[1:])
        save(helper.make_model(body, ir_version=10, opset_imports=domains), tmp_path / "odd.onnx")
        with pytest.raises(InputFileError, match=r"Strange stage1\.odd: "):
            build(tmp_path / "odd.onnx", flavour="tensorrt_rtx")
