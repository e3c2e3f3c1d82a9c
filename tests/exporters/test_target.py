"""Export targets are found by name and all keep one contract."""

import importlib
import pkgutil

import pytest

from deepmad_hw import exporters
from deepmad_hw.errors import ConfigError, StorageError
from deepmad_hw.exporters import target
from deepmad_hw.exporters.onnx_graph import initial_weights
from deepmad_hw.network.expand import expand


def test_every_file_with_a_target_has_its_line():
    pytest.importorskip("torch", reason="the extra torch is not installed")
    modules = (
        importlib.import_module(f"deepmad_hw.exporters.{info.name}")
        for info in pkgutil.iter_modules(exporters.__path__)
    )
    found = {module.TARGET.name for module in modules if hasattr(module, "TARGET")}
    assert found == set(target.names())


@pytest.mark.parametrize("name", target.names())
def test_a_target_answers_to_its_name(name):
    assert target.get(name).name == name


def test_an_unknown_target_names_the_closest():
    with pytest.raises(ConfigError, match="did you mean 'torch'"):
        target.get("pytorch")


@pytest.mark.parametrize("name", target.names())
def test_a_target_writes_the_same_whole_files_twice(small, tmp_path, name):
    pytest.importorskip("safetensors", reason="the extra torch is not installed")
    graph = expand(small("mbconv_se", depth=1))
    chosen, weights = target.get(name), initial_weights(graph)
    contents = []
    for _ in range(2):
        paths = chosen.write(
            graph, weights, tmp_path / f"net{chosen.suffix}", {"deepmad_hw.note": "x"}, chosen.options()
        )
        assert paths[0] == tmp_path / f"net{chosen.suffix}"
        assert sorted(paths) == sorted(tmp_path.iterdir())
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("name", target.names())
def test_a_target_reports_a_place_it_cannot_write_to(small, tmp_path, name):
    pytest.importorskip("safetensors", reason="the extra torch is not installed")
    graph = expand(small("basic", depth=1))
    chosen = target.get(name)
    with pytest.raises(StorageError):
        chosen.write(graph, initial_weights(graph), tmp_path / "none" / "net", {}, chosen.options())
