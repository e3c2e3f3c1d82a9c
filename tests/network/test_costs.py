"""MACs, parameters and peak activation memory, worked out by hand."""

import pytest

from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand
from deepmad_hw.network.families.base import BLOCK_INPUT, conv
from deepmad_hw.network.layer import IMAGE, Graph, LayerSpec, Node


def spec(op="conv", **changes):
    fields = {"op": op, "in_channels": 6, "out_channels": 6, "height": 4, "width": 8}
    return LayerSpec(**(fields | changes))


@pytest.mark.parametrize(
    ("layer", "macs", "weights"),
    [
        (spec(out_channels=10), 4 * 8 * 6 * 10, 60),
        (spec(kernel=3), 4 * 8 * 6 * 9 * 6, 324),
        (spec(kernel=5, stride=2), 2 * 4 * 6 * 25 * 6, 900),
        (spec(kernel=3, groups=6), 4 * 8 * 9 * 6, 54),
        (spec(kernel=3, groups=2, out_channels=4), 4 * 8 * 3 * 9 * 4, 108),
        (spec("linear", height=1, width=1, out_channels=10), 60, 60),
        (spec("global_pool"), 0, 0),
        (spec("avg_pool", kernel=2, stride=2), 0, 0),
        (spec("scale"), 0, 0),
        (spec("add"), 0, 0),
    ],
)
def test_macs_and_weights_of_one_layer(layer, macs, weights):
    assert costs.layer_macs(layer) == macs
    assert costs.layer_weights(layer) == weights


def test_params_count_two_per_normed_channel_and_one_per_biased():
    layer = conv("a", BLOCK_INPUT, channels=(6, 10), pixels=(4, 8))
    assert costs.layer_params(layer) == 6 * 10 + 2 * 10


def test_odd_sides_round_up_at_a_stride():
    assert costs.layer_macs(spec(height=7, width=5, kernel=3, stride=2)) == 4 * 3 * 54 * 6


# Peak memory: tensors alive at each layer, in values. fp32 takes 4 bytes each.


def bottleneck_block(*, out, bottleneck):
    """Return a grey 4x4 image (16 values), 2 channels after the stem (32 values), one block, ten classes."""
    return Architecture(
        family="bottleneck",
        resolution=(4, 4),
        stem=Stem(out=2, stride=1),
        stages=(Stage(out=out, bottleneck=bottleneck, kernel=3, stride=1, depth=1),),
        in_channels=1,
        classes=10,
    )


def test_the_skip_branch_runs_first_and_stays_alive():
    # conv2 holds projection 8*16 + conv1 16*16 + conv2 16*16; with the branch last it would be 32 + 256 + 256
    assert costs.peak_memory_bytes(bottleneck_block(out=8, bottleneck=16)) == 4 * (128 + 256 + 256)


def test_the_add_is_in_place():
    # conv3 holds conv2 1*16 + projection 8*16 + its own 8*16; a sum of its own would make three of the last
    assert costs.peak_memory_bytes(bottleneck_block(out=8, bottleneck=1)) == 4 * (16 + 128 + 128)


def test_the_image_counts():
    # 3*8*8 image + 4*4*4 stem; everything after is smaller
    small = Architecture(
        family="basic",
        resolution=(8, 8),
        stem=Stem(out=4),
        stages=(Stage(out=4, bottleneck=4, kernel=3, stride=2, depth=1),),
        classes=10,
    )
    assert costs.peak_memory_bytes(small) == 4 * (192 + 64)


def test_an_identity_is_kept_alive_until_its_add():
    # mbconv at 4x4: conv2 holds the block's input 8*16 + conv1 32*16 + conv2 32*16
    identity = Architecture(
        family="mbconv",
        resolution=(4, 4),
        stem=Stem(out=8, stride=1),
        stages=(Stage(out=8, bottleneck=32, kernel=3, stride=1, depth=1),),
        in_channels=1,
        classes=0,
    )
    assert costs.peak_memory_bytes(identity) == 4 * (128 + 512 + 512)


def test_without_identity_the_input_is_freed():
    widening = Architecture(
        family="mbconv",
        resolution=(4, 4),
        stem=Stem(out=8, stride=1),
        stages=(Stage(out=12, bottleneck=32, kernel=3, stride=1, depth=1),),
        in_channels=1,
        classes=0,
    )
    assert costs.peak_memory_bytes(widening) == 4 * (512 + 512)


def test_squeeze_excite_keeps_the_map_it_reweights():
    # se.scale holds the input 8*16 + conv2 32*16 + its own 32*16 + 32 factors; conv1 is gone by then
    excited = Architecture(
        family="mbconv_se",
        resolution=(4, 4),
        stem=Stem(out=8, stride=1),
        stages=(Stage(out=8, bottleneck=32, kernel=3, stride=1, depth=1),),
        in_channels=1,
        classes=0,
    )
    assert costs.peak_memory_bytes(excited) == 4 * (128 + 512 + 512 + 32)


def test_features_of_a_backbone_stay_alive_to_the_end():
    def network(classes):
        return Architecture(
            family="mbconv",
            resolution=(4, 4),
            stem=Stem(out=8, stride=1),
            stages=(Stage(out=8, bottleneck=64, kernel=3, stride=2, depth=1),),
            in_channels=1,
            classes=classes,
        )

    # conv2 holds conv1 64*16 + conv2 64*4, and the stem's 8*16 only where that is returned
    assert costs.peak_memory_bytes(network(10)) == 4 * (1024 + 256)
    assert costs.peak_memory_bytes(network(0)) == 4 * (128 + 1024 + 256)


def test_memory_scales_with_batch_and_precision():
    network = bottleneck_block(out=8, bottleneck=16)
    fp32 = costs.peak_memory_bytes(network)
    assert costs.peak_memory_bytes(network, bytes_per_value=1) * 4 == fp32
    assert costs.peak_memory_bytes(network, bytes_per_value=2, batch=8) == 4 * fp32


def test_a_graph_and_its_architecture_need_the_same_memory():
    network = bottleneck_block(out=8, bottleneck=16)
    assert costs.peak_memory_bytes(expand(network)) == costs.peak_memory_bytes(network)


def test_a_tensor_nobody_reads_lives_for_its_own_layer_only():
    wide = spec(in_channels=1, out_channels=100, height=2, width=2)
    narrow = spec(in_channels=1, out_channels=2, height=2, width=2)
    graph = Graph(
        name="fork",
        in_channels=1,
        height=2,
        width=2,
        nodes=(
            Node(name="unread", spec=wide, inputs=(IMAGE,)),
            Node(name="read", spec=narrow, inputs=(IMAGE,)),
        ),
        outputs=("read",),
    )
    assert costs.peak_memory_bytes(graph) == 4 * (4 + 400)


def test_live_tensors_are_what_is_read_later_and_what_is_made_now():
    graph = expand(bottleneck_block(out=8, bottleneck=16))
    block = "stage1.block1"
    assert dict(zip([node.name for node in graph], map(set, costs.live_tensors(graph)), strict=True)) == {
        "stem": {IMAGE, "stem"},
        f"{block}.projection": {"stem", f"{block}.projection"},
        f"{block}.conv1": {"stem", f"{block}.projection", f"{block}.conv1"},
        f"{block}.conv2": {f"{block}.projection", f"{block}.conv1", f"{block}.conv2"},
        f"{block}.conv3": {f"{block}.projection", f"{block}.conv2", f"{block}.conv3"},
        "pool": {f"{block}.conv3", "pool"},
        "classifier": {"pool", "classifier"},
    }
