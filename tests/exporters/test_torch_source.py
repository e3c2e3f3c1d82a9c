"""The written Python file is the same network, stands alone, reads well and cannot be broken by names."""

import ast
import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters.onnx_graph import export_model
from deepmad_hw.exporters.torch_module import build, load_weights, write
from deepmad_hw.exporters.torch_source import source_code
from deepmad_hw.exporters.verify import random_images
from deepmad_hw.exporters.weights import initial_weights
from deepmad_hw.network import families, reference
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import IMAGE, Graph, LayerSpec, Node

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

IN_A_FRESH_PROCESS = """
import importlib, sys
import numpy as np
import torch
from safetensors.torch import load_file
for name in sys.argv[1:]:
    network = importlib.import_module(name).Network()
    network.load_state_dict(load_file(f"{name}.safetensors"))
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(np.load(f"{name}.npy")))
    np.save(f"{name}.out.npy", logits.numpy())
assert not [name for name in sys.modules if name.startswith("deepmad")]
"""


def _imported(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _graph(node):
    return Graph(name="g", in_channels=1, height=8, width=8, nodes=(node,), outputs=(node.name,))


def test_a_fresh_process_without_this_project_gets_the_outputs_of_the_module(small, trained, tmp_path):
    expected = {}
    for family in families.names():
        graph = expand(small(family), name=family)
        weights, images = trained(graph), random_images(graph, seed=0, images=2)
        write(graph, weights, tmp_path / f"{family}.py", {})
        np.save(tmp_path / f"{family}.npy", images)
        module = build(graph).eval()
        load_weights(module, weights)
        with torch.inference_mode():
            expected[family] = module(torch.from_numpy(images)).numpy()
    subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS, *expected], cwd=tmp_path, check=True)
    for family, logits in expected.items():
        assert np.array_equal(np.load(tmp_path / f"{family}.out.npy"), logits)


@pytest.mark.parametrize("name", reference.names())
def test_reference_networks_are_written_as_they_are(trained, tmp_path, name):
    graph = reference.get(name, resolution=(32, 32), classes=5)
    path = tmp_path / "net.py"
    path.write_text(source_code(graph, weights_file="net.safetensors"))
    own, written = build(graph), _imported(path).Network()
    load_weights(own, trained(graph))
    written.load_state_dict(own.state_dict())
    image = torch.from_numpy(random_images(graph, seed=0, images=1))
    with torch.inference_mode():
        assert torch.equal(own.eval()(image), written.eval()(image))


@pytest.mark.parametrize("family", families.names())
def test_names_of_modules_are_those_of_the_onnx_file(small, tmp_path, family):
    graph = expand(small(family))
    path = tmp_path / "net.py"
    path.write_text(source_code(graph, weights_file="w"))
    modules = dict(_imported(path).Network().named_modules())
    nodes = {node.name for node in export_model(graph, initial_weights(graph)).graph.node}
    with_weights = {name for name in modules if hasattr(modules[name], "weight") and not name.endswith(".norm")}
    assert with_weights <= nodes
    assert with_weights == {node.name for node in graph if node.spec.op in ("conv", "linear")}


def test_the_written_file_trains_as_the_module_does(small, tmp_path):
    graph = expand(small("bottleneck"))
    path = tmp_path / "net.py"
    path.write_text(source_code(graph, weights_file="w"))
    own, written = build(graph, drop_path=0.4, dropout=0.2), _imported(path).Network(drop_path=0.4, dropout=0.2)
    written.load_state_dict(own.state_dict())
    images, found = torch.from_numpy(random_images(graph, seed=0, images=4)), []
    for module in (own, written):
        torch.manual_seed(3)
        found.append(module.train()(images))
    assert torch.equal(*found)


def test_a_backbone_returns_all_its_scales(small, tmp_path):
    path = tmp_path / "net.py"
    path.write_text(source_code(expand(small("mbconv", classes=0)), weights_file="w"))
    found = _imported(path).Network().eval()(torch.zeros(1, 3, 64, 96))
    assert [output.shape[1] for output in found] == [16, 16, 16, 24, 64]
    assert "dropout" not in path.read_text()


def test_a_block_is_written_as_a_person_would(small):
    text = source_code(expand(small("mbconv_se", depth=3)), weights_file="w.safetensors")
    assert set(re.findall(r"^(?:from|import) (\w+)", text, re.M)) == {"__future__", "collections", "torch"}
    classes = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert classes == ["ConvNorm", "DropPath", "SqueezeExcite", "PlainBlock", "IdentityBlock", "Network"]
    assert "IdentityBlock(16, inner_channels=48, se_reduce_channels=8, kernel=3, drop_path=rates[0])," in text
    assert "self.conv2 = ConvNorm(inner_channels, inner_channels, kernel=kernel, groups=inner_channels)" in text
    assert "return self.drop_path(self.conv3(se)) + x" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", ['a"""b', "a\nb", "a\\", "{x}", 'end"', '"""\nimport os\n"""'])
def test_no_graph_name_becomes_code(small, name):
    text = source_code(expand(small("basic", depth=1), name=name), weights_file=name)
    first, *others = ast.parse(text).body
    assert isinstance(first.value.value, str)
    assert others[0].module == "__future__"
    assert not [node for node in others if isinstance(node, ast.Import)]


@pytest.mark.parametrize("name", ["a b", "class", "x", "__init__", "1a", "a);b(", "forward", ""])
def test_a_layer_name_that_is_no_attribute_is_refused(name):
    spec = LayerSpec(op="conv", in_channels=1, out_channels=1, height=8, width=8)
    with pytest.raises(ConfigError, match="cannot name a PyTorch module"):
        source_code(_graph(Node(name=name, spec=spec, inputs=(IMAGE,))), weights_file="w")


def test_a_block_of_two_inputs_is_refused():
    spec = LayerSpec(op="conv", in_channels=1, out_channels=1, height=8, width=8)
    nodes = [Node(name=name, spec=spec, inputs=(IMAGE,)) for name in ("a", "b", "c.d")]
    add = LayerSpec(op="add", in_channels=1, out_channels=1, height=8, width=8)
    nodes.append(Node(name="c.e", spec=add, inputs=("a", "b")))
    graph = Graph(name="g", in_channels=1, height=8, width=8, nodes=tuple(nodes), outputs=("c.e",))
    with pytest.raises(ConfigError, match="several inputs"):
        source_code(graph, weights_file="w")
