"""A bottleneck network small enough to write down."""

from deepmad_hw.network import costs, families
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand, sections

# 8x16 image -> 4x8 after the stem -> 2x4 after the stage
NETWORK = Architecture(
    family="bottleneck",
    resolution=(8, 16),
    stem=Stem(out=8),
    stages=(Stage(out=12, bottleneck=4, kernel=5, stride=2, depth=2),),
    classes=10,
)


def test_layers_and_shapes_of_two_blocks():
    rows = [
        (
            node.name,
            node.spec.op,
            (node.spec.in_channels, node.spec.out_channels),
            (node.spec.height, node.spec.width),
            (node.spec.kernel, node.spec.stride),
            node.spec.activation,
            node.inputs,
        )
        for node in expand(NETWORK)
    ]
    first, second = "stage1.block1", "stage1.block2"
    assert rows == [
        ("stem", "conv", (3, 8), (8, 16), (3, 2), "relu", ("image",)),
        (f"{first}.pool", "avg_pool", (8, 8), (4, 8), (2, 2), "none", ("stem",)),
        (f"{first}.projection", "conv", (8, 12), (2, 4), (1, 1), "none", (f"{first}.pool",)),
        (f"{first}.conv1", "conv", (8, 4), (4, 8), (1, 1), "relu", ("stem",)),
        (f"{first}.conv2", "conv", (4, 4), (4, 8), (5, 2), "relu", (f"{first}.conv1",)),
        (f"{first}.conv3", "conv", (4, 12), (2, 4), (1, 1), "relu", (f"{first}.conv2", f"{first}.projection")),
        (f"{second}.conv1", "conv", (12, 4), (2, 4), (1, 1), "relu", (f"{first}.conv3",)),
        (f"{second}.conv2", "conv", (4, 4), (2, 4), (5, 1), "relu", (f"{second}.conv1",)),
        (f"{second}.conv3", "conv", (4, 12), (2, 4), (1, 1), "relu", (f"{second}.conv2", f"{first}.conv3")),
        ("pool", "global_pool", (12, 12), (2, 4), (1, 1), "none", (f"{second}.conv3",)),
        ("classifier", "linear", (12, 10), (1, 1), (1, 1), "none", ("pool",)),
    ]


def test_convolutions_have_batch_norm_and_the_classifier_a_bias():
    for node in expand(NETWORK):
        assert node.norm == (node.spec.op == "conv"), node.name
        assert node.bias == (node.spec.op == "linear"), node.name
        assert node.spec.groups == 1, node.name


def test_params_by_hand():
    # weights + 2 per batch-norm channel
    stem = 3 * 9 * 8 + 16
    first = (8 * 12 + 24) + (8 * 4 + 8) + (4 * 25 * 4 + 8) + (4 * 12 + 24)
    second = (12 * 4 + 8) + (4 * 25 * 4 + 8) + (4 * 12 + 24)
    classifier = 12 * 10 + 10
    assert stem + first + second + classifier == 1538
    assert costs.params(NETWORK) == 1538


def test_macs_by_hand():
    # pixels of the output * inputs of one value * channels out
    stem = 32 * 27 * 8
    first = 8 * 8 * 12 + 32 * 8 * 4 + 8 * 100 * 4 + 8 * 4 * 12
    second = 8 * 12 * 4 + 8 * 100 * 4 + 8 * 4 * 12
    classifier = 12 * 10
    assert stem + first + second + classifier == 16_376
    assert costs.macs(NETWORK) == 16_376


def test_three_layers_of_a_block_count_and_the_projection_does_not():
    counted = {section.kind: [layer.role for layer in section.layers if layer.counted] for section in sections(NETWORK)}
    assert counted["first"] == counted["further"] == ["conv1", "conv2", "conv3"]
    assert counted["classifier"] == []


def test_equal_widths_at_stride_one_still_project():
    flat = Architecture(
        family="bottleneck",
        resolution=(8, 8),
        stem=Stem(out=8),
        stages=(Stage(out=8, bottleneck=4, kernel=3, stride=1, depth=2),),
        classes=0,
    )
    names = [node.name for node in expand(flat)]
    assert "stage1.block1.projection" in names
    assert "stage1.block1.pool" not in names
    assert "stage1.block2.projection" not in names


def test_rules_of_the_family():
    family = families.get("bottleneck")
    assert (family.penalty_from_stage, family.max_first_depth) == (3, 3)
    assert family.bottleneck_ratio == (0.1, 1.0)
    assert family.activations == ("relu",)
