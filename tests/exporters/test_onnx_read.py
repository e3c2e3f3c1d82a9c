"""ONNX files are read without trust and known again."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepmad_hw.errors import InputFileError
from deepmad_hw.exporters import onnx_counts, onnx_read
from deepmad_hw.exporters.onnx_graph import (
    architecture_metadata,
    export_model,
    initial_weights,
    reference_metadata,
    save,
)
from deepmad_hw.network import costs, reference
from deepmad_hw.network.expand import expand


def _model(nodes, *, initialisers=(), shape=(1, 3, 8, 8), out=None):
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        list(initialisers),
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def _zeros(name, *shape):
    return numpy_helper.from_array(np.zeros(shape, dtype=np.float32), name)


def _saved(path, model):
    path.write_bytes(model.SerializeToString())
    return path


def test_a_design_is_known_again(small, tmp_path):
    architecture = small("mbconv_se", resolution=(64, 64), activation="hardswish")
    graph = expand(architecture, name="design")
    path = tmp_path / "design.onnx"
    save(export_model(graph, initial_weights(graph), metadata=architecture_metadata(architecture)), path)
    assert set(onnx_read.read_identity(path)) == {"deepmad_hw.architecture"}
    assert onnx_read.graph_of(path) == graph


def test_a_reference_network_is_known_again(tmp_path):
    graph = reference.get("mobilenet_v2", resolution=(64, 96), classes=7)
    path = tmp_path / "mobilenet_v2.onnx"
    metadata = reference_metadata("mobilenet_v2", resolution=(64, 96), classes=7)
    save(export_model(graph, initial_weights(graph), metadata=metadata), path)
    found = onnx_read.graph_of(path)
    assert found == graph
    assert costs.macs(found) == onnx_counts.counts(onnx_read.load(path)).macs


def test_a_foreign_model_has_no_graph_of_ours(tmp_path):
    path = _saved(tmp_path / "a.onnx", _model([helper.make_node("Relu", ["x"], ["y"])]))
    assert onnx_read.read_identity(path) == {}
    assert onnx_read.graph_of(path) is None


def test_facts_that_do_not_match_the_network_are_refused(small, tmp_path):
    shallow, deep = small("basic"), small("basic", depth=3)
    graph = expand(shallow)
    for architecture in (deep, small("basic", resolution=(64, 64))):
        save(export_model(graph, initial_weights(graph), metadata=architecture_metadata(architecture)), tmp_path / "a")
        with pytest.raises(InputFileError, match="holds another network than its own facts say"):
            onnx_read.graph_of(tmp_path / "a")


@pytest.mark.parametrize(
    "metadata",
    [
        {"deepmad_hw.architecture": "{"},
        {"deepmad_hw.architecture": "{}"},
        {"deepmad_hw.reference": "resnet18"},
        {"deepmad_hw.reference": "resnet19", "deepmad_hw.resolution": "64x64", "deepmad_hw.classes": "10"},
        {"deepmad_hw.reference": "resnet18", "deepmad_hw.resolution": "64", "deepmad_hw.classes": "10"},
        {"deepmad_hw.reference": "resnet18", "deepmad_hw.resolution": "60x60", "deepmad_hw.classes": "10"},
    ],
)
def test_facts_that_make_no_network_are_one_line_with_the_file(tmp_path, metadata):
    model = _model([helper.make_node("Relu", ["x"], ["y"])])
    helper.set_model_props(model, metadata)
    path = _saved(tmp_path / "a.onnx", model)
    with pytest.raises(InputFileError, match=r"a\.onnx") as caught:
        onnx_read.graph_of(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"\x80\x04\x95", b"{}", b"\x08\x0a"])
def test_what_is_no_model_is_one_line(tmp_path, content):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="is no ONNX model"):
        onnx_read.load(path)


def test_a_cut_file_is_no_model(small, tmp_path):
    graph = expand(small("basic"))
    content = export_model(graph, initial_weights(graph)).SerializeToString()
    path = tmp_path / "a.onnx"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputFileError, match="is no ONNX model"):
        onnx_read.load(path)


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(InputFileError, match="cannot be read"):
            onnx_read.load(path)


def test_a_file_over_the_cap_is_refused_unread(tmp_path):
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(3 * 10**9)  # sparse: takes no room
    with pytest.raises(InputFileError, match=r"3\.0 GB is more than"):
        onnx_read.load(path)


def _external(tensor, location):
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("initialiser", "keeps weights outside its folder"),
        ("constant", "keeps weights outside its folder"),
        ("subgraph", "keeps weights outside its folder"),
        ("sparse", "as sparse tensors"),
        ("function", "functions of its own"),
    ],
)
def test_weights_outside_the_folder_are_refused_wherever_they_hide(tmp_path, place, said):
    outside = _external(_zeros("w", 1), "../secret")
    constant = helper.make_node("Constant", [], ["c"], value=outside)
    model = _model([helper.make_node("Relu", ["x"], ["y"])])
    if place == "initialiser":
        model.graph.initializer.append(outside)
    elif place == "constant":
        model.graph.node.append(constant)
    elif place == "subgraph":
        inner = helper.make_graph([constant], "inner", [], [])
        model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))
    elif place == "sparse":
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(outside, _zeros("i", 1), [1]))
    else:
        model.functions.append(helper.make_function("own", "f", [], ["c"], [constant], [helper.make_opsetid("", 20)]))
    with pytest.raises(InputFileError, match=said):
        onnx_read.load(_saved(tmp_path / "a.onnx", model))
