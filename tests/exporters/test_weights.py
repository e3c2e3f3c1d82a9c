"""Parameters by name: shapes, first values, folding, files."""

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError, InputFileError, MissingExtraError, StorageError
from deepmad_hw.exporters import extras
from deepmad_hw.exporters.weights import (
    ACTIVATION_POWER,
    NORM_EPSILON,
    fold_norms,
    initial_weights,
    parameter_shapes,
    read_weights,
    save_weights,
)
from deepmad_hw.network import costs, families, reference
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import ACTIVATIONS, IMAGE, Graph, LayerSpec, Node

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
def test_power_of_every_activation_is_its_integral(activation):
    x = np.linspace(-10, 10, 200_001)
    density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    integral = np.sum(FORMULAS[activation](x) ** 2 * density) * (x[1] - x[0])
    assert ACTIVATION_POWER[activation] == pytest.approx(integral, abs=1e-4)


@pytest.mark.parametrize("family", families.names())
def test_names_and_shapes_are_those_of_the_training_form(small, family):
    graph = expand(small(family))
    weights = initial_weights(graph)
    expected = {name: shape for node in graph for name, shape in parameter_shapes(node).items()}
    assert {name: value.shape for name, value in weights.items()} == expected
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    trained = sum(value.size for name, value in weights.items() if ".running_" not in name)
    assert trained == costs.params(graph)


def test_a_known_name_of_each_kind(small):
    weights = initial_weights(expand(small("mbconv_se")))
    assert weights["stage1.block1.conv2.weight"].shape == (48, 1, 3, 3)
    assert weights["stage1.block1.conv2.norm.running_var"].shape == (48,)
    assert weights["classifier.bias"].shape == (10,)
    assert "stage1.block1.conv2.bias" not in weights


def test_same_seed_same_weights_other_seed_others(small):
    graph = expand(small("basic"))
    first, again, other = (initial_weights(graph, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["stem.weight"], other["stem.weight"])


def test_a_nodes_weights_do_not_depend_on_what_comes_after(small):
    shallow, deep = (initial_weights(expand(small("mbconv", depth=depth))) for depth in (1, 3))
    assert np.array_equal(shallow["stage1.block1.conv1.weight"], deep["stage1.block1.conv1.weight"])


def test_the_last_convs_of_n_branches_are_scaled_by_one_over_root_n(small):
    graph = expand(small("bottleneck", depth=3))
    weights = initial_weights(graph)
    branches = sum(node.spec.residual for node in graph)
    assert branches == 15
    assert weights["stage1.block1.conv3.norm.weight"] == pytest.approx(branches**-0.5)
    assert weights["stage1.block1.conv1.norm.weight"] == pytest.approx(1)


def test_folding_gives_the_numbers_worked_out_by_hand():
    spec = LayerSpec(op="conv", in_channels=1, out_channels=2, height=1, width=1)
    graph = Graph(
        name="one",
        in_channels=1,
        height=1,
        width=1,
        nodes=(Node(name="c", spec=spec, inputs=(IMAGE,), norm=True, bias=True),),
        outputs=("c",),
    )
    column = np.array([3.0, -2.0], dtype=np.float32)
    weights = {
        "c.weight": column.reshape(2, 1, 1, 1),
        "c.bias": np.array([1.0, 0.0], dtype=np.float32),
        "c.norm.weight": np.array([2.0, 1.0], dtype=np.float32),
        "c.norm.bias": np.array([0.5, 0.0], dtype=np.float32),
        "c.norm.running_mean": np.array([4.0, 0.0], dtype=np.float32),
        "c.norm.running_var": np.array([4.0, 1.0], dtype=np.float32),
    }
    folded = fold_norms(graph, weights)
    gain = 2 / np.sqrt(4 + NORM_EPSILON)
    assert set(folded) == {"c.weight", "c.bias"}
    assert folded["c.weight"].ravel() == pytest.approx([3 * gain, -2 / np.sqrt(1 + NORM_EPSILON)])
    assert folded["c.bias"] == pytest.approx([0.5 + (1 - 4) * gain, 0])


def test_weights_that_do_not_fit_name_the_parameter(small):
    graph = expand(small("basic"))
    weights = initial_weights(graph)
    with pytest.raises(ConfigError, match=r"stem\.weight: expected a parameter of shape \(16, 3, 3, 3\)"):
        fold_norms(graph, weights | {"stem.weight": np.zeros((1, 3, 3, 3), dtype=np.float32)})
    del weights["stem.norm.bias"]
    with pytest.raises(ConfigError, match=r"stem\.norm\.bias: no such parameter"):
        fold_norms(graph, weights)


def test_weights_of_a_deeper_network_are_not_taken_for_those_of_a_shallower_one(small):
    graph, deeper = (expand(small("basic", depth=depth)) for depth in (1, 2))
    with pytest.raises(ConfigError, match=r"stage1\.block2\.conv1\.weight: the network has no such parameter"):
        fold_norms(graph, initial_weights(deeper))


def test_weights_of_another_number_of_classes_say_what_to_do(small):
    with pytest.raises(ConfigError, match=r"classifier\.weight: expected .* \(10, 64\), got \(7, 64\); .*--classes 7"):
        fold_norms(expand(small("basic")), initial_weights(expand(small("basic", classes=7))))


def test_weights_saved_through_a_wrapper_say_what_to_do(small):
    graph = expand(small("basic"))
    wrapped = {f"module.{name}": value for name, value in initial_weights(graph).items()}
    with pytest.raises(ConfigError, match=r"it is called 'module\.stem\.weight' there: save the state dict"):
        fold_norms(graph, wrapped)


def test_files_give_back_the_same_weights(small, tmp_path):
    weights = initial_weights(expand(small("mbconv_se")))
    save_weights(tmp_path / "w.safetensors", weights)
    again = read_weights(tmp_path / "w.safetensors")
    assert again.keys() == weights.keys()
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def test_reading_leaves_out_counters_and_widens_halves(tmp_path):
    mixed = {"a": np.array([1, 2], dtype=np.float16), "norm.num_batches_tracked": np.array(7, dtype=np.int64)}
    save_weights(tmp_path / "w.safetensors", mixed)
    weights = read_weights(tmp_path / "w.safetensors")
    assert list(weights) == ["a"]
    assert weights["a"].dtype == np.float32


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle?", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00{}x"])
def test_what_is_no_safetensors_file_is_one_line(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="is no safetensors file") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputFileError, match="cannot be read: No such file"):
        read_weights(tmp_path / "none.safetensors")


def test_a_value_that_is_not_finite_is_refused(tmp_path):
    save_weights(tmp_path / "w.safetensors", {"a": np.array([1, np.nan], dtype=np.float32)})
    with pytest.raises(InputFileError, match="'a' holds a value that is not finite"):
        read_weights(tmp_path / "w.safetensors")


def test_writing_where_there_is_no_folder_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError):
        save_weights(tmp_path / "none" / "w.safetensors", {"a": np.zeros(1, dtype=np.float32)})


def test_a_missing_package_names_the_extra():
    with pytest.raises(MissingExtraError) as caught:
        extras.load("no_such_package_here.part", extra="cpu,torch")
    assert str(caught.value) == 'no_such_package_here is not installed; run: pip install "deepmad-hw[cpu,torch]"'


def test_reference_networks_get_weights_for_biased_convolutions():
    graph = reference.get("regnet_y_400mf", resolution=(32, 32))
    assert not initial_weights(graph)["stage1.block1.se.reduce.bias"].any()
