"""Three independent counts agree as integers: ours, torch's on the built module, ONNX's by shape inference."""

import pytest
from onnx import TensorProto

from deepmad_hw.exporters import onnx_counts
from deepmad_hw.exporters.onnx_graph import to_onnx
from deepmad_hw.exporters.torch_module import build
from deepmad_hw.network import costs, families, reference
from deepmad_hw.network.expand import expand

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

PUBLISHED = tuple(f"DeepMAD-{name}" for name in ("R18", "R34", "R50", "29M-224", "29M-288", "50M", "89M"))
ALL = (*families.names(), *PUBLISHED, *reference.names())


def _shape_only(name, shape):
    return TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)


def _torch_counts(graph):
    macs = 0

    def count(layer, _, output):
        nonlocal macs
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            macs += output[0].numel() * layer.weight[0].numel()

    with torch.device("meta"):
        module = build(graph)
        for layer in module.modules():
            layer.register_forward_hook(count)
        module.eval()(torch.empty(1, graph.in_channels, graph.height, graph.width))
    return macs, sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ALL)
def test_torch_counts_what_we_count(any_graph, name):
    graph = any_graph(name)
    assert _torch_counts(graph) == (costs.macs(graph), costs.params(graph))


@pytest.mark.parametrize("name", ALL)
def test_onnx_counts_what_we_count_before_folding(any_graph, name):
    graph = any_graph(name)
    counted = onnx_counts.counts(to_onnx(graph, _shape_only, fold_norm=False))
    assert (counted.macs, counted.params) == (costs.macs(graph), costs.params(graph))


@pytest.mark.parametrize("name", families.names())
def test_folding_keeps_macs_and_leaves_one_bias_per_norm(any_graph, name):
    graph = any_graph(name)
    counted = onnx_counts.counts(to_onnx(graph, _shape_only, batch="batch"))
    norm_channels = sum(node.spec.out_channels for node in graph if node.norm)
    assert counted.macs == costs.macs(graph)
    assert counted.params == costs.params(graph) - norm_channels


@pytest.mark.promise("T22", 50)
def test_all_three_counts_agree_for_any_design(tries, drawn):
    for number in tries:
        architecture = drawn(number)
        graph = expand(architecture)
        counted = onnx_counts.counts(to_onnx(graph, _shape_only, fold_norm=False))
        ours = (costs.macs(architecture), costs.params(architecture))
        assert all(type(count) is int for count in (*ours, counted.macs, counted.params))
        assert ours == (counted.macs, counted.params) == _torch_counts(graph), number
