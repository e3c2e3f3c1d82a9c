"""A basic network small enough to write down."""

from deepmad_hw.network import costs, families
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand

# a grey 6x6 image that keeps its resolution through stem and stage
FLAT = Architecture(
    family="basic",
    resolution=(6, 6),
    stem=Stem(out=4, stride=1),
    stages=(Stage(out=4, bottleneck=6, kernel=3, stride=1, depth=1),),
    in_channels=1,
    classes=0,
)
# 8x8 -> 8x8 after the stem -> 4x4 after the stage
STRIDED = Architecture(
    family="basic",
    resolution=(8, 8),
    stem=Stem(out=4, stride=1),
    stages=(Stage(out=8, bottleneck=6, kernel=5, stride=2, depth=2),),
    classes=0,
)


def rows(network):
    return [
        (
            node.name.removeprefix("stage1."),
            (node.spec.in_channels, node.spec.out_channels),
            (node.spec.height, node.spec.width),
            (node.spec.kernel, node.spec.stride),
            node.spec.activation,
            tuple(name.removeprefix("stage1.") for name in node.inputs),
        )
        for node in expand(network)
    ]


def test_layers_and_shapes_at_stride_one():
    assert rows(FLAT) == [
        ("stem", (1, 4), (6, 6), (3, 1), "relu", ("image",)),
        ("block1.projection", (4, 4), (6, 6), (1, 1), "none", ("stem",)),
        ("block1.conv1", (4, 6), (6, 6), (3, 1), "relu", ("stem",)),
        ("block1.conv2", (6, 4), (6, 6), (3, 1), "relu", ("block1.conv1", "block1.projection")),
    ]


def test_the_stride_is_on_the_first_convolution_of_the_first_block():
    assert rows(STRIDED)[1:] == [
        ("block1.pool", (4, 4), (8, 8), (2, 2), "none", ("stem",)),
        ("block1.projection", (4, 8), (4, 4), (1, 1), "none", ("block1.pool",)),
        ("block1.conv1", (4, 6), (8, 8), (5, 2), "relu", ("stem",)),
        ("block1.conv2", (6, 8), (4, 4), (5, 1), "relu", ("block1.conv1", "block1.projection")),
        ("block2.conv1", (8, 6), (4, 4), (5, 1), "relu", ("block1.conv2",)),
        ("block2.conv2", (6, 8), (4, 4), (5, 1), "relu", ("block2.conv1", "block1.conv2")),
    ]


def test_params_by_hand():
    assert (1 * 9 * 4 + 8) + (4 * 4 + 8) + (4 * 9 * 6 + 12) + (6 * 9 * 4 + 8) == 520
    assert costs.params(FLAT) == 520


def test_macs_by_hand():
    assert 36 * (1 * 9 * 4 + 4 * 4 + 4 * 9 * 6 + 6 * 9 * 4) == 17_424
    assert costs.macs(FLAT) == 17_424


def test_rules_of_the_family():
    family = families.get("basic")
    assert family.penalty_from_stage == 2
    assert family.activations == ("relu",)
