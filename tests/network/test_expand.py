"""The one walk over a network: names, order, outputs."""

import dataclasses

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.network.expand import block_nodes, expand, sections
from deepmad_hw.network.families.base import BLOCK_INPUT, conv
from deepmad_hw.network.layer import IMAGE


def stage(out, *, stride, depth=2):
    return Stage(out=out, bottleneck=8, kernel=3, stride=stride, depth=depth)


def network(**changes):
    fields = {
        "family": "bottleneck",
        "resolution": (32, 64),
        "stem": Stem(out=8),
        "stages": (stage(16, stride=2), stage(16, stride=1, depth=3), stage(24, stride=2)),
        "head": Head(out=40),
    }
    return Architecture(**(fields | changes))


def shape(graph, name):
    found = next(node.spec for node in graph if node.name == name)
    return found.out_channels, found.out_height, found.out_width


def test_sections_come_in_execution_order_with_their_repeats():
    rows = [(s.kind, s.stage, s.repeat, s.in_channels, s.out_channels, s.stride) for s in sections(network())]
    assert rows == [
        ("stem", 0, 1, 3, 8, 2),
        ("first", 1, 1, 8, 16, 2),
        ("further", 1, 1, 16, 16, 1),
        ("first", 2, 1, 16, 16, 1),
        ("further", 2, 2, 16, 16, 1),
        ("first", 3, 1, 16, 24, 2),
        ("further", 3, 1, 24, 24, 1),
        ("head", 0, 1, 24, 40, 1),
        ("classifier", 0, 1, 40, 1000, 1),
    ]


def test_sections_know_the_pixels_they_are_given():
    assert [(s.height, s.width) for s in sections(network())] == [
        (32, 64),
        (16, 32),
        (8, 16),
        (8, 16),
        (8, 16),
        (8, 16),
        (4, 8),
        (4, 8),
        (4, 8),
    ]


def test_blocks_are_named_and_counted_from_one():
    names = [node.name for node in expand(network())]
    blocks = {name.rpartition(".")[0] for name in names if name.startswith("stage")}
    assert blocks == {
        "stage1.block1",
        "stage1.block2",
        "stage2.block1",
        "stage2.block2",
        "stage2.block3",
        "stage3.block1",
        "stage3.block2",
    }
    assert names[0] == "stem"
    assert names[-3:] == ["head", "pool", "classifier"]


def test_a_stage_of_one_block_has_no_further_blocks():
    graph = expand(network(stages=(stage(16, stride=2, depth=1),)))
    assert not [node.name for node in graph if "block2" in node.name]


def test_a_classifier_is_the_one_output():
    graph = expand(network(classes=7), name="mine")
    assert graph.outputs == ("classifier",)
    assert shape(graph, "classifier") == (7, 1, 1)
    assert graph.name == "mine"


def test_a_backbone_returns_the_features_before_each_stride_and_the_end():
    graph = expand(network(classes=0))
    assert graph.outputs == ("stem", "stage2.block3.conv3", "head")
    assert [shape(graph, name) for name in graph.outputs] == [(8, 16, 32), (16, 8, 16), (40, 4, 8)]
    assert "classifier" not in {node.name for node in graph}


def test_a_backbone_without_head_ends_in_its_last_block():
    assert expand(network(classes=0, head=None)).outputs[-1] == "stage3.block2.conv3"


def test_a_first_stage_without_stride_moves_the_first_features():
    graph = expand(network(classes=0, stages=(stage(16, stride=1), stage(24, stride=2)), head=None))
    assert graph.outputs == ("stage1.block2.conv3", "stage2.block2.conv3")


def test_non_square_resolutions_stay_non_square():
    graph = expand(network(resolution=(16, 128), classes=0))
    assert (graph.height, graph.width) == (16, 128)
    assert shape(graph, "stem") == (8, 8, 64)
    assert shape(graph, "head") == (40, 2, 16)


@pytest.mark.parametrize("in_channels", [1, 4, 12])
def test_other_images_change_the_stem_only(in_channels):
    usual, other = expand(network()), expand(network(in_channels=in_channels))
    assert other.in_channels == in_channels
    assert other.nodes[0].spec == dataclasses.replace(usual.nodes[0].spec, in_channels=in_channels)
    assert other.nodes[1:] == usual.nodes[1:]


def test_the_first_node_reads_the_image():
    assert expand(network()).nodes[0].inputs == (IMAGE,)


def test_the_head_is_a_convolution_with_the_activation_of_the_family():
    head = next(node for node in expand(network()) if node.name == "head")
    assert (head.spec.op, head.spec.kernel, head.spec.activation, head.norm) == ("conv", 1, "relu", True)


def test_equal_architectures_give_equal_graphs():
    assert expand(network()) == expand(network())


@pytest.mark.parametrize("walk", [expand, lambda made: list(sections(made))])
@pytest.mark.parametrize("change", [{"family": "resnext"}, {"activation": "gelu"}])
def test_unknown_families_and_activations_are_refused(walk, change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        walk(network(**change))


def test_block_nodes_join_prefix_and_role():
    layers = (
        conv("a", BLOCK_INPUT, channels=(8, 8), pixels=(4, 4)),
        conv("b", "a", channels=(8, 8), pixels=(4, 4), depthwise=True, residual=BLOCK_INPUT),
    )
    first, second = block_nodes(layers, prefix="probe7", source="before")
    assert (first.name, first.inputs) == ("probe7.a", ("before",))
    assert (second.name, second.inputs) == ("probe7.b", ("probe7.a", "before"))
    assert (first.spec.groups, second.spec.groups) == (1, 8)
