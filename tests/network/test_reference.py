"""The reference networks have the published sizes, and their graphs have the right form."""

import json
from pathlib import Path

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.network import costs, reference
from deepmad_hw.network.layer import Graph

LISTED = {
    network["name"]: network
    for network in json.loads((Path(__file__).parents[1] / "data" / "reference_networks.json").read_text())["networks"]
}
# Its layer norm and GELU are operations that no design of ours has.
LEFT_OUT = {"convnext_tiny"}


def _node(graph: Graph, name: str):
    return next(node for node in graph if node.name == name)


def test_every_listed_network_is_built_or_left_out_on_purpose():
    assert set(reference.names()) == set(LISTED) - LEFT_OUT


@pytest.mark.parametrize("name", reference.names())
def test_params_equal_the_listed_count_to_the_last_digit(name):
    assert costs.params(reference.get(name)) == LISTED[name]["params"]


@pytest.mark.parametrize("name", reference.names())
def test_macs_equal_the_listed_count_to_the_listed_digits(name):
    assert round(costs.macs(reference.get(name)) / 1e9, 3) == LISTED[name]["gmacs"]


def test_efficientnet_b0_macs_to_the_last_digit():
    assert costs.macs(reference.get("efficientnet_b0")) == 385_814_752


@pytest.mark.parametrize("name", reference.names())
def test_last_features_are_the_image_over_32(name):
    graph = reference.get(name, resolution=(64, 96), classes=7)
    pool = _node(graph, "pool")
    assert (pool.spec.height, pool.spec.width) == (2, 3)
    assert graph.outputs == ("classifier",)
    assert graph.nodes[-1].spec.out_channels == 7


@pytest.mark.parametrize("name", reference.names())
def test_params_do_not_depend_on_resolution_and_conv_macs_scale_with_pixels(name):
    small, large = reference.get(name, resolution=(64, 64)), reference.get(name, resolution=(128, 192))
    assert costs.params(small) == costs.params(large)

    def spatial_macs(graph):
        return sum(costs.layer_macs(node.spec) for node in graph if node.spec.op == "conv" and node.spec.height > 1)

    # Stage 4 and later still see more than one pixel at 64x64, so "height > 1" leaves out squeeze-excite only.
    assert spatial_macs(large) == 6 * spatial_macs(small)


def test_resnet50_strides_in_the_3x3_and_projects_with_stride():
    graph = reference.get("resnet50")
    assert _node(graph, "stage2.block1.conv2").spec.stride == 2
    projection = _node(graph, "stage2.block1.projection").spec
    assert (projection.kernel, projection.stride, projection.in_channels, projection.out_channels) == (1, 2, 256, 512)
    assert _node(graph, "stage2.block2.conv3").inputs == ("stage2.block2.conv2", "stage2.block1.conv3")


def test_mobilenet_v2_first_block_has_no_expansion_and_identity_only_where_shapes_agree():
    graph = reference.get("mobilenet_v2")
    names = [node.name for node in graph]
    assert "stage1.block1.conv1" not in names
    assert not _node(graph, "stage2.block1.conv3").spec.residual
    assert _node(graph, "stage2.block2.conv3").spec.residual


def test_squeeze_excite_of_efficientnet_is_biased_and_sized_by_the_blocks_input():
    reduce = _node(reference.get("efficientnet_b0"), "stage2.block1.se.reduce")
    assert reduce.bias
    assert not reduce.norm
    assert (reduce.spec.in_channels, reduce.spec.out_channels) == (96, 4)


def test_unknown_network_names_the_closest():
    with pytest.raises(ConfigError, match="did you mean 'resnet50'"):
        reference.get("resnet-50")


def test_odd_resolution_is_refused_with_neighbours():
    with pytest.raises(ConfigError, match="take 192 or 224"):
        reference.get("resnet18", resolution=(200, 224))


@pytest.mark.parametrize("classes", [0, -1, 1.5])
def test_classes_below_one_are_refused(classes):
    with pytest.raises(ConfigError, match="classes"):
        reference.get("resnet18", classes=classes)
