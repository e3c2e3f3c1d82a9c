"""Inverted bottlenecks small enough to write down, with and without squeeze-excite."""

import pytest

from deepmad_hw.network import costs, families
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand, sections
from deepmad_hw.network.families.mbconv import squeeze_width


def network(family="mbconv", *, out=8, stride=1, depth=1, bottleneck=16, activation=None):
    """Return a network whose one stage is given 8 channels at 4x4."""
    return Architecture(
        family=family,
        resolution=(8, 8),
        stem=Stem(out=8),
        stages=(Stage(out=out, bottleneck=bottleneck, kernel=3, stride=stride, depth=depth),),
        classes=0,
        activation=activation,
    )


def block_rows(made):
    return [
        (
            node.name.removeprefix("stage1.block1."),
            node.spec.op,
            (node.spec.in_channels, node.spec.out_channels, node.spec.groups),
            (node.spec.height, node.spec.kernel, node.spec.stride),
            node.spec.activation,
            tuple(name.removeprefix("stage1.block1.") for name in node.inputs),
        )
        for node in expand(made)
        if node.name.startswith("stage1.block1.")
    ]


def test_layers_of_a_block_with_identity():
    assert block_rows(network()) == [
        ("conv1", "conv", (8, 16, 1), (4, 1, 1), "silu", ("stem",)),
        ("conv2", "conv", (16, 16, 16), (4, 3, 1), "silu", ("conv1",)),
        ("conv3", "conv", (16, 8, 1), (4, 1, 1), "none", ("conv2", "stem")),
    ]


def test_layers_of_a_strided_block():
    assert block_rows(network(stride=2)) == [
        ("conv1", "conv", (8, 16, 1), (4, 1, 1), "silu", ("stem",)),
        ("conv2", "conv", (16, 16, 16), (4, 3, 2), "silu", ("conv1",)),
        ("conv3", "conv", (16, 8, 1), (2, 1, 1), "none", ("conv2",)),
    ]


def test_layers_of_a_strided_block_with_squeeze_excite():
    assert block_rows(network("mbconv_se", stride=2, bottleneck=64)) == [
        ("conv1", "conv", (8, 64, 1), (4, 1, 1), "silu", ("stem",)),
        ("conv2", "conv", (64, 64, 64), (4, 3, 2), "silu", ("conv1",)),
        ("se.pool", "global_pool", (64, 64, 1), (2, 1, 1), "none", ("conv2",)),
        ("se.reduce", "conv", (64, 16, 1), (1, 1, 1), "silu", ("se.pool",)),
        ("se.expand", "conv", (16, 64, 1), (1, 1, 1), "sigmoid", ("se.reduce",)),
        ("se.scale", "scale", (64, 64, 1), (2, 1, 1), "none", ("conv2", "se.expand")),
        ("conv3", "conv", (64, 8, 1), (2, 1, 1), "none", ("se.scale",)),
    ]


def test_the_identity_of_a_block_with_squeeze_excite_is_the_block_input():
    assert block_rows(network("mbconv_se"))[-1][-1] == ("se.scale", "stem")


@pytest.mark.parametrize(
    ("out", "stride", "adds"), [(8, 1, [True, True]), (16, 1, [False, True]), (8, 2, [False, True])]
)
@pytest.mark.parametrize("family", ["mbconv", "mbconv_se"])
def test_a_block_adds_its_input_only_where_the_shapes_are_equal(family, out, stride, adds):
    graph = expand(network(family, out=out, stride=stride, depth=2))
    assert [node.spec.residual for node in graph if node.name.endswith("conv3")] == adds


def test_params_and_macs_by_hand():
    stem = 3 * 9 * 8 + 16
    block = (8 * 16 + 32) + (16 * 9 + 32) + (16 * 8 + 16)
    assert costs.params(network()) == stem + block == 712
    assert costs.macs(network()) == 16 * (3 * 9 * 8) + 16 * (8 * 16 + 16 * 9 + 16 * 8) == 9856


def test_squeeze_excite_adds_two_normed_convolutions_on_one_pixel():
    plain, excited = network(bottleneck=64), network("mbconv_se", bottleneck=64)
    assert costs.params(excited) - costs.params(plain) == (64 * 16 + 2 * 16) + (16 * 64 + 2 * 64)
    assert costs.macs(excited) - costs.macs(plain) == 64 * 16 + 16 * 64


def test_squeeze_excite_does_not_count_in_entropy():
    counted = [layer.role for section in sections(network("mbconv_se")) for layer in section.layers if layer.counted]
    assert counted == ["", "conv1", "conv2", "conv3", "conv1", "conv2", "conv3"]  # stem, first, further blocks


@pytest.mark.parametrize(
    ("bottleneck", "squeezed"),
    [
        (1, 8),
        (8, 8),
        (32, 8),
        (61, 8),
        (62, 16),  # 15.5 rounds to 16
        (64, 16),
        (90, 16),  # 22.5 rounds to 22
        (93, 16),
        (94, 24),  # 23.5 rounds to 24
        (96, 24),
        (100, 24),
        (126, 32),
        (2040, 504),
    ],
)
def test_squeeze_width(bottleneck, squeezed):
    assert squeeze_width(bottleneck) == squeezed
    assert isinstance(squeeze_width(bottleneck), int)


def test_squeeze_width_of_a_relaxation_is_the_plain_quarter():
    assert squeeze_width(62.0) == 15.5


@pytest.mark.parametrize("activation", ["silu", "relu", "relu6", "hardswish"])
def test_a_selected_activation_is_used_in_stem_and_block_but_not_in_squeeze_excite(activation):
    used = {node.name: node.spec.activation for node in expand(network("mbconv_se", activation=activation))}
    assert used["stem"] == used["stage1.block1.conv1"] == used["stage1.block1.conv2"] == activation
    assert used["stage1.block1.se.reduce"] == "silu"
    assert used["stage1.block1.se.expand"] == "sigmoid"
    assert used["stage1.block1.conv3"] == "none"


@pytest.mark.parametrize("name", ["mbconv", "mbconv_se"])
def test_rules_of_the_families(name):
    family = families.get(name)
    assert family.name == name
    assert family.penalty_from_stage == 1
    assert family.bottleneck_ratio == (1.5, 6.1)
    assert family.max_first_depth is None
