"""Graphs become PyTorch modules with the nodes' names, and Python files that stand alone."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest

from deepmad_hw import families, reference
from deepmad_hw.errors import ConfigError, MissingExtraError
from deepmad_hw.expand import expand
from deepmad_hw.exporters import torch_module
from deepmad_hw.exporters.onnx_graph import initial_weights
from deepmad_hw.exporters.torch_module import build, load_weights, read_weights, source_code, write
from deepmad_hw.exporters.verify import random_images
from deepmad_hw.layer import IMAGE, Graph, LayerSpec, Node

torch = pytest.importorskip("torch", reason="the extra torch is not installed")


def _imported(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.mark.parametrize("name", [*families.names(), "mobilenet_v3_large", "regnet_y_400mf", "resnet18"])
def test_the_written_file_builds_the_same_network_from_torch_alone(small, trained, tmp_path, name):
    known = name in reference.names()
    graph = reference.get(name, resolution=(64, 64), classes=5) if known else expand(small(name), name=name)
    weights = trained(graph)
    code, weights_path = write(graph, weights, tmp_path / "net.py", {})
    assert (code.name, weights_path.name) == ("net.py", "net.safetensors")
    assert set(re.findall(r"^(?:from|import) (\w+)", code.read_text(), re.M)) == {"__future__", "collections", "torch"}

    own, written = build(graph), _imported(code).build()
    load_weights(own, weights)
    load_weights(written, read_weights(weights_path))
    image = torch.from_numpy(random_images(graph, seed=0, images=1))
    with torch.inference_mode():
        assert torch.equal(own.eval()(image), written.eval()(image))


def test_the_instructions_in_the_written_file_work(small, tmp_path):
    graph = expand(small("basic", depth=1))
    code, _ = write(graph, initial_weights(graph), tmp_path / "net.py", {"a": "b"})
    lines = [line[4:] for line in code.read_text().split('"""')[1].splitlines() if line.startswith("    ")]
    assert len(lines) == 3
    script = "\n".join(["from net import build", *lines, "print(len(network.state_dict()))"])
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(build(graph).state_dict())


def test_the_written_file_names_every_layer_once_per_line(small):
    graph = expand(small("mbconv"))
    text = source_code(graph, weights_file="w.safetensors")
    assert all(text.count(f"({node.name!r}, ") == 1 for node in graph)
    assert "('stage1.block1.conv2', Conv(48, 48, kernel=3, stride=2, groups=48, norm=True, act='silu')," in text


@pytest.mark.parametrize("name", ['a"""b', "a\nb", "a\\", "{x}", 'end"'])
def test_no_graph_name_breaks_the_written_file(small, name):
    compile(source_code(expand(small("basic", depth=1), name=name), weights_file="w"), "net.py", "exec")


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
    monkeypatch.delitem(sys.modules, "deepmad_hw.exporters.torch_layers", raising=False)
    with pytest.raises(MissingExtraError) as caught:
        torch_module.build(expand(small("basic")))
    assert str(caught.value) == 'torch is not installed; run: pip install "deepmad-hw[torch]"'
