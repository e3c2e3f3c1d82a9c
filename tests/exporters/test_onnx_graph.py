"""Graphs become ONNX models with readable names, the right operations and outputs that stay alive."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from deepmad_hw.errors import ConfigError, StorageError
from deepmad_hw.exporters import onnx_graph
from deepmad_hw.exporters.onnx_graph import export_model, initial_weights, save, tensor_owner, to_onnx
from deepmad_hw.exporters.verify import random_images, run_onnx
from deepmad_hw.network import families
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import ACTIVATIONS, IMAGE, Graph, LayerSpec, Node


def _run(model, image):
    return run_onnx(model.SerializeToString(), image)


def _one_node(spec, *, inputs=(IMAGE,), before=(), norm=False, bias=False):
    node = Node(name="x", spec=spec, inputs=inputs, norm=norm, bias=bias)
    first = before[0].spec if before else spec
    return Graph(
        name="g",
        in_channels=first.in_channels,
        height=first.height,
        width=first.width,
        nodes=(*before, node),
        outputs=("x",),
    )


def _shape_only(name, shape):
    return TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)


@pytest.mark.parametrize("family", families.names())
def test_the_model_passes_the_checker_and_names_opset_ir_and_producer(small, family):
    graph = expand(small(family))
    model = export_model(graph, initial_weights(graph))
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", onnx_graph.OPSET)]
    assert model.opset_import[0].version <= 24
    assert model.ir_version == onnx_graph.IR_VERSION
    assert model.producer_name == "deepmad-hw"


@pytest.mark.parametrize("fold_norm", [True, False])
@pytest.mark.parametrize("family", families.names())
def test_nodes_and_tensors_carry_the_layers_names(small, family, fold_norm):
    graph = expand(small(family))
    model = to_onnx(graph, _shape_only, fold_norm=fold_norm)
    names = [node.name for node in model.graph.node]
    owner = tensor_owner(graph)
    assert len(names) == len(set(names))
    assert {node.name for node in graph} <= set(names)
    for node in model.graph.node:
        assert node.name.startswith(owner[node.output[0]])
    last = {owner[node.output[0]]: node.output[0] for node in model.graph.node}
    assert all(tensor == name for name, tensor in last.items())


def test_tensors_of_one_layer_before_and_after_folding(small):
    graph = expand(small("bottleneck"))
    owned = {tensor for tensor, name in tensor_owner(graph).items() if name == "stage2.block2.conv3"}
    stem = "stage2.block2.conv3"
    assert owned == {f"{stem}.conv", f"{stem}.norm", f"{stem}.add", stem}


def test_two_layers_that_would_share_a_tensor_are_refused():
    spec = LayerSpec(op="conv", in_channels=1, out_channels=1, height=4, width=4, activation="relu")
    clash = LayerSpec(op="avg_pool", in_channels=1, out_channels=1, height=4, width=4)
    graph = Graph(
        name="g",
        in_channels=1,
        height=4,
        width=4,
        nodes=(Node(name="a", spec=spec, inputs=(IMAGE,)), Node(name="a.conv", spec=clash, inputs=("a",))),
        outputs=("a.conv",),
    )
    with pytest.raises(ConfigError, match=r"tensor 'a\.conv' would also belong to 'a'"):
        to_onnx(graph, _shape_only)


@pytest.mark.parametrize("fold_norm", [True, False])
def test_exactly_one_conv_per_convolution_and_no_norm_after_folding(small, fold_norm):
    graph = expand(small("mbconv_se"))
    kinds = [node.op_type for node in to_onnx(graph, _shape_only, fold_norm=fold_norm).graph.node]
    assert kinds.count("Conv") == sum(node.spec.op == "conv" for node in graph)
    assert kinds.count("BatchNormalization") == (0 if fold_norm else sum(node.norm for node in graph))


@pytest.mark.parametrize("family", families.names())
def test_folding_does_not_change_the_logits(small, trained, family):
    graph = expand(small(family))
    weights, image = trained(graph), random_images(graph, seed=1, images=1)
    (folded,) = _run(export_model(graph, weights), image)
    (unfolded,) = _run(export_model(graph, weights, fold_norm=False), image)
    assert folded == pytest.approx(unfolded, abs=1e-5 * float(np.abs(unfolded).max()))


FORMULAS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_computes_its_formula(activation):
    graph = _one_node(LayerSpec(op="conv", in_channels=1, out_channels=1, height=1, width=32, activation=activation))
    image = np.linspace(-9, 9, 32, dtype=np.float32).reshape(1, 1, 1, 32)
    (found,) = _run(export_model(graph, {"x.weight": np.ones((1, 1, 1, 1), dtype=np.float32)}), image)
    assert found == pytest.approx(FORMULAS[activation](image), abs=1e-5)


def test_the_residual_is_added_before_the_activation():
    before = Node(
        name="b", spec=LayerSpec(op="conv", in_channels=1, out_channels=1, height=1, width=2), inputs=(IMAGE,)
    )
    spec = LayerSpec(op="conv", in_channels=1, out_channels=1, height=1, width=2, activation="relu", residual=True)
    graph = _one_node(spec, inputs=("b", IMAGE), before=(before,))
    one = np.ones((1, 1, 1, 1), dtype=np.float32)
    image = np.array([1.0, 2.0], dtype=np.float32).reshape(1, 1, 1, 2)
    (found,) = _run(export_model(graph, {"b.weight": one, "x.weight": -3 * one}), image)
    assert found.ravel().tolist() == [0, 0]
    (found,) = _run(export_model(graph, {"b.weight": one, "x.weight": one}), image)
    assert found.ravel().tolist() == [2, 4]


@pytest.mark.parametrize(
    ("op", "kernel", "stride", "expected"),
    [
        ("avg_pool", 2, 2, [[2.5, 4.5], [10.5, 12.5]]),
        ("max_pool", 3, 2, [[5, 7], [13, 15]]),
        ("max_pool", 2, 2, [[5, 7], [13, 15]]),
        ("avg_pool", 3, 2, [[10 / 9, 24 / 9], [51 / 9, 90 / 9]]),
        ("global_pool", 1, 1, [[7.5]]),
    ],
)
def test_pools_compute_what_their_window_says(op, kernel, stride, expected):
    spec = LayerSpec(op=op, in_channels=1, out_channels=1, height=4, width=4, kernel=kernel, stride=stride)
    image = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    (found,) = _run(export_model(_one_node(spec), {}), image)
    assert found[0, 0] == pytest.approx(np.array(expected))


def test_linear_and_scale_and_add_by_hand():
    pixel = {"in_channels": 2, "out_channels": 2, "height": 1, "width": 1}
    nodes = (
        Node(name="s", spec=LayerSpec(op="scale", **pixel), inputs=(IMAGE, IMAGE)),
        Node(name="a", spec=LayerSpec(op="add", **pixel), inputs=("s", IMAGE)),
        Node(
            name="l1",
            spec=LayerSpec(op="linear", in_channels=2, out_channels=1, height=1, width=1, activation="relu"),
            inputs=("a",),
            bias=True,
        ),
        Node(
            name="l2",
            spec=LayerSpec(op="linear", in_channels=1, out_channels=2, height=1, width=1),
            inputs=("l1",),
            bias=True,
        ),
    )
    graph = Graph(name="g", in_channels=2, height=1, width=1, nodes=nodes, outputs=("l2",))
    weights = {
        "l1.weight": np.array([[1, -1]], dtype=np.float32),
        "l1.bias": np.array([10], dtype=np.float32),
        "l2.weight": np.array([[2], [0]], dtype=np.float32),
        "l2.bias": np.array([0, 7], dtype=np.float32),
    }
    (found,) = _run(export_model(graph, weights), np.array([2, 3], dtype=np.float32).reshape(1, 2, 1, 1))
    assert found.tolist() == [[2 * ((4 + 2) - (9 + 3) + 10), 7]]


@pytest.mark.parametrize("family", families.names())
def test_a_network_of_60_blocks_has_finite_logits_that_depend_on_the_image(small, family):
    graph = expand(small(family, depth=12, resolution=(64, 64)))
    model = export_model(graph, initial_weights(graph), batch=2)
    (logits,) = _run(model, random_images(graph, seed=0, images=2))
    assert np.isfinite(logits).all()
    assert 1e-2 < logits.std() < 1e2
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_a_backbone_returns_every_scale(small):
    graph = expand(small("basic", classes=0))
    model = export_model(graph, initial_weights(graph))
    found = _run(model, random_images(graph, seed=0, images=1))
    assert [output.name for output in model.graph.output] == list(graph.outputs)
    assert [output.shape for output in found] == [
        (1, 16, 32, 48),
        (1, 16, 16, 24),
        (1, 16, 8, 12),
        (1, 24, 4, 6),
        (1, 64, 2, 3),
    ]


def test_a_named_batch_takes_any_number_of_images(small):
    graph = expand(small("mbconv_se"))
    model = export_model(graph, initial_weights(graph), batch="batch")
    for images in (1, 3):
        (logits,) = _run(model, random_images(graph, seed=0, images=images))
        assert logits.shape == (images, 10)


def test_the_source_of_tensors_is_asked_once_for_each_and_held_to_its_shape(small):
    graph = expand(small("basic"))
    asked = []

    def source(name, shape):
        asked.append(name)
        return numpy_helper.from_array(np.zeros(shape, dtype=np.float32), name)

    to_onnx(graph, source)
    assert len(asked) == len(set(asked))
    assert set(asked) == {
        f"{node.name}.{part}" for node in graph if node.spec.op in ("conv", "linear") for part in ("weight", "bias")
    }
    with pytest.raises(ConfigError, match="expected an initialiser of shape"):
        to_onnx(graph, lambda name, shape: numpy_helper.from_array(np.zeros(1, dtype=np.float32), name))


def test_weights_of_2_gb_are_refused_before_they_are_touched():
    graph = _one_node(LayerSpec(op="linear", in_channels=30_000, out_channels=30_000, height=1, width=1), bias=True)
    with pytest.raises(ConfigError, match=r"the weights take 3\.6 GB"):
        export_model(graph, {})


def test_missing_weights_name_the_parameter(small):
    with pytest.raises(ConfigError, match=r"stem\.weight: no such parameter"):
        export_model(expand(small("basic")), {})


def test_the_same_graph_gives_the_same_bytes_without_paths_or_dates(small, tmp_path):
    architecture = small("mbconv")
    graph = expand(architecture)
    for name in ("a.onnx", "b.onnx"):
        metadata = onnx_graph.architecture_metadata(architecture)
        save(export_model(graph, initial_weights(graph), metadata=metadata), tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx"))
    assert first == second
    assert str(tmp_path).encode() not in first


def test_saving_where_there_is_no_folder_is_a_storage_error(small, tmp_path):
    graph = expand(small("basic"))
    with pytest.raises(StorageError):
        save(to_onnx(graph, _shape_only), tmp_path / "none" / "a.onnx")
