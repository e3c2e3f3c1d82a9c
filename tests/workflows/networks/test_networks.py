"""A network is found by folder, file or name."""

import pytest

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.files.jsonfile import write_json
from deepmad_hw.formats import serde
from deepmad_hw.network import released
from deepmad_hw.network.expand import expand
from deepmad_hw.network.reference import get
from deepmad_hw.workflows.design.design import save_design
from deepmad_hw.workflows.export.export import check_exported, export
from deepmad_hw.workflows.networks.networks import from_architecture, load_network


@pytest.fixture
def folder(problem, solution, tmp_path):
    save_design(tmp_path / "small-5ms", solution, problem)
    return tmp_path / "small-5ms"


def test_a_designs_folder_is_the_design_under_the_folders_name(folder, architecture):
    found = load_network(folder)
    assert found.architecture == architecture
    assert found.graph.nodes == expand(architecture).nodes
    assert found.graph.name == "small-5ms"


def test_a_design_or_architecture_file_is_the_network(folder, architecture, tmp_path):
    assert load_network(folder / "design.json").architecture == architecture
    write_json(tmp_path / "mine.json", serde.architecture_to_json(architecture))
    assert load_network(tmp_path / "mine.json").graph.name == "mine"


def test_a_known_name_is_the_reference_network():
    assert load_network("mobilenet_v2").graph == get("mobilenet_v2")


@pytest.mark.parametrize("name", ["resnet18", "design"])
def test_an_exported_file_is_known_again(name, folder, tmp_path, architecture):
    first = load_network(folder if name == "design" else name)
    (file,) = export(first, tmp_path / "net.onnx")
    again = load_network(file)
    assert again.graph.nodes == first.graph.nodes
    assert again.facts.items() >= first.facts.items()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="called 'mobilenetv2'; did you mean 'mobilenet_v2'"):
        load_network("mobilenetv2")


def test_a_folder_without_a_design_is_a_bad_file(tmp_path):
    with pytest.raises(InputFileError, match=r"holds no design: there is no design\.json in it"):
        load_network(tmp_path)


def test_an_answer_without_a_design_is_no_network(problem, solution, tmp_path):
    (tmp_path / "none.json").write_text('{"schema": 1, "architecture": null}')
    with pytest.raises(InputFileError, match=r"none\.json: status: missing"):
        load_network(tmp_path / "none.json")


def test_equal_exports_are_equal_files(architecture, tmp_path):
    (first,) = export(from_architecture(architecture), tmp_path / "a.onnx", seed=3)
    (second,) = export(architecture, tmp_path / "b.onnx", seed=3)
    (third,) = export(architecture, tmp_path / "c.onnx", seed=4)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != third.read_bytes()


def test_an_exported_file_is_checked_against_its_own_facts(architecture, tmp_path):
    (file,) = export(architecture, tmp_path / "a.onnx")
    holds, ran = check_exported(file)
    assert holds.startswith("holds the network it names (")
    assert ran == "valid ONNX, run once in ONNX Runtime: classifier [1, 1000]"


def test_without_the_runtime_the_check_says_how_to_get_it(architecture, tmp_path, monkeypatch):
    monkeypatch.setattr("deepmad_hw.workflows.export.export.find_spec", lambda name: None)
    (file,) = export(architecture, tmp_path / "a.onnx")
    assert 'pip install "deepmad-hw[cpu]"' in check_exported(file)[-1]


def test_a_damaged_file_is_refused(architecture, tmp_path):
    (file,) = export(architecture, tmp_path / "a.onnx")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputFileError, match="is no ONNX model"):
        check_exported(file)


def test_a_released_network_goes_by_its_name():
    network = load_network("deepmad_29m_288")
    assert network.architecture == released.get("deepmad_29m_288")
    assert network.graph.name == "deepmad_29m_288"
    with pytest.raises(ConfigError, match="did you mean 'deepmad_r18'"):
        load_network("deepmad-r18")
