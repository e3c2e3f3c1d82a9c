"""Graphs become PyTorch modules with the nodes' names, and Python files that stand alone."""

import sys

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError, MissingExtraError
from deepmad_hw.exporters import torch_module
from deepmad_hw.exporters.onnx_graph import initial_weights
from deepmad_hw.exporters.torch_module import build, load_weights, write
from deepmad_hw.network import families
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import IMAGE, Graph, LayerSpec, Node

torch = pytest.importorskip("torch", reason="the extra torch is not installed")


@pytest.mark.parametrize("family", families.names())
def test_state_dict_names_are_those_of_the_weights(small, family):
    graph = expand(small(family))
    state = build(graph).state_dict()
    parameters = {name for name in state if not name.endswith("num_batches_tracked")}
    assert parameters == set(initial_weights(graph))


def test_submodules_have_the_nodes_names(small):
    graph = expand(small("mbconv_se"))
    names = {name for name, _ in build(graph).named_modules()}
    assert {node.name for node in graph} <= names


def test_the_module_trains_all_its_parameters(small):
    module = build(expand(small("bottleneck", depth=1)))
    module.train()(torch.randn(2, 3, 64, 96)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_drop_path_grows_along_the_residual_branches(small):
    graph = expand(small("basic"))
    ends = [node.name for node in graph if node.spec.residual]
    module = build(graph, drop_path=0.3)
    rates = [module.get_submodule(name).drop_path.rate for name in ends]
    assert rates == pytest.approx([0.3 * index / 9 for index in range(10)])
    assert module.stem.drop_path.rate == 0


def test_a_dropped_branch_leaves_the_mean_and_some_images_out():
    from deepmad_hw.training.layers import DropPath

    torch.manual_seed(0)
    branch = torch.ones(4000, 1, 1, 1)
    dropped = DropPath(0.25)(branch)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean() == pytest.approx(1, abs=0.03)
    assert torch.equal(DropPath(0.25).eval()(branch), branch)


def test_dropout_stands_before_the_classifier_alone(small):
    module = build(expand(small("mbconv")), dropout=1 - 1e-9)
    torch.manual_seed(0)
    logits = module.train()(torch.randn(2, 3, 64, 96))
    assert torch.allclose(logits, module.classifier.bias.expand(2, -1))


@pytest.mark.parametrize("option", ["drop_path", "dropout"])
@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(small, option, rate):
    with pytest.raises(ConfigError, match=f"{option}: expected a rate"):
        build(expand(small("basic")), **{option: rate})


def test_loaded_weights_are_the_modules_weights(small, trained):
    graph = expand(small("basic"))
    module, weights = build(graph), trained(graph)
    load_weights(module, weights)
    state = module.state_dict()
    assert all(np.array_equal(state[name].numpy(), value) for name, value in weights.items())


def test_weights_that_do_not_fit_are_one_line(small):
    graph = expand(small("basic"))
    weights = initial_weights(graph)
    weights["extra"] = np.zeros(1, dtype=np.float32)
    with pytest.raises(ConfigError, match="extra") as caught:
        load_weights(build(graph), weights)
    assert "\n" not in str(caught.value)


def test_a_backbone_returns_a_tuple(small):
    module = build(expand(small("mbconv", classes=0)))
    found = module.eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(output.shape[1:]) for output in found] == [
        (16, 32, 48),
        (16, 16, 24),
        (16, 8, 12),
        (24, 4, 6),
        (64, 2, 3),
    ]


def test_weights_that_do_not_fit_leave_no_file(small, tmp_path):
    with pytest.raises(ConfigError, match=r"stem\.weight"):
        write(expand(small("basic")), {}, tmp_path / "net.py", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("op", "residual", "match"), [("linear", False, "without bias"), ("global_pool", True, "residual on global_pool")]
)
def test_what_has_no_torch_form_is_refused(op, residual, match):
    spec = LayerSpec(op=op, in_channels=1, out_channels=1, height=1, width=1, residual=residual)
    node = Node(name="x", spec=spec, inputs=(IMAGE, IMAGE) if residual else (IMAGE,))
    graph = Graph(name="g", in_channels=1, height=1, width=1, nodes=(node,), outputs=("x",))
    with pytest.raises(ConfigError, match=match):
        build(graph)


def test_importing_the_file_needs_no_torch_and_using_it_names_the_extra(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "deepmad_hw.training.layers", raising=False)
    with pytest.raises(MissingExtraError) as caught:
        torch_module.build(expand(small("basic")))
    assert str(caught.value) == 'torch is not installed; run: pip install "deepmad-hw[torch]"'


@pytest.mark.parametrize("family", families.names())
def test_the_trained_networks_of_the_tests_know_digits(digits_network, digits, family):
    graph, weights = digits_network(family)
    module = build(graph).eval()
    load_weights(module, weights)
    with torch.inference_mode():
        found = module(torch.from_numpy(digits.test_images)).argmax(1).numpy()
    assert np.mean(found == digits.test_labels) > 0.97
