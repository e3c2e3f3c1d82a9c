"""A network as numbers: what is refused, and in which words."""

import dataclasses

import pytest

from deepmad_hw.errors import ConfigError, DeepmadError
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem

STEM = Stem(out=8)
STAGE = Stage(out=16, bottleneck=4, kernel=3, stride=2, depth=2)


def network(**changes):
    fields = {"family": "bottleneck", "resolution": (32, 64), "stem": STEM, "stages": (STAGE, STAGE)}
    return Architecture(**(fields | changes))


def test_total_stride_is_the_product_of_all_strides():
    flat = dataclasses.replace(STAGE, stride=1)
    assert network(stages=(STAGE, flat, STAGE)).total_stride == 8
    assert network(stem=Stem(out=8, stride=1), stages=(flat,)).total_stride == 1


def test_a_network_without_end_is_refused():
    with pytest.raises(ConfigError, match="stages: expected at most 10000 blocks, got 1000000002"):
        network(stages=(STAGE, dataclasses.replace(STAGE, depth=10**9)))


def test_defaults_are_an_rgb_image_and_a_thousand_classes():
    made = network()
    assert (made.in_channels, made.classes, made.head, made.activation) == (3, 1000, None, None)


def test_equal_numbers_make_equal_networks():
    assert network() == network()
    assert hash(network()) == hash(network())
    assert network() != network(classes=10)


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        network().classes = 10


def test_records_take_keywords_only():
    with pytest.raises(TypeError):
        Stem(8)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("out", 0),
        ("out", -8),
        ("out", 16.0),
        ("out", True),
        ("bottleneck", 0),
        ("kernel", 4),
        ("kernel", 0),
        ("kernel", 2.5),
        ("stride", 3),
        ("stride", 0),
        ("stride", 1.0),
        ("stride", True),
        ("depth", 0),
        ("depth", 1.5),
    ],
)
def test_a_stage_of_impossible_numbers_is_refused_by_field(field, value):
    with pytest.raises(ConfigError, match=rf"^stage\.{field}: expected"):
        dataclasses.replace(STAGE, **{field: value})


@pytest.mark.parametrize("part", [Stem, Head])
@pytest.mark.parametrize("numbers", [{"out": 0}, {"out": 8, "kernel": 2}])
def test_a_stem_or_head_of_impossible_numbers_is_refused(part, numbers):
    with pytest.raises(ConfigError, match=f"^{part.__name__.lower()}\\."):
        part(**numbers)


def test_an_even_kernel_is_refused_in_one_line():
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(STAGE, kernel=4)
    assert str(caught.value) == "stage.kernel: expected an odd kernel, got 4"


def test_a_head_has_no_stride():
    with pytest.raises(ConfigError, match=r"head\.stride: expected stride 1, got 2"):
        Head(out=8, stride=2)


def test_a_stem_may_keep_the_resolution_but_not_quarter_it():
    assert Stem(out=8, stride=1).stride == 1
    with pytest.raises(ConfigError, match=r"stem\.stride"):
        Stem(out=8, stride=4)


def test_a_network_without_stages_is_refused():
    with pytest.raises(ConfigError, match="stages: a network needs at least one stage"):
        network(stages=())


@pytest.mark.parametrize(("field", "value"), [("in_channels", 0), ("classes", -1), ("classes", 2.0)])
def test_impossible_channel_counts_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"^{field}: expected a whole number"):
        network(**{field: value})


def test_a_backbone_has_no_classes():
    assert network(classes=0).classes == 0


def test_an_odd_resolution_names_the_two_nearest_that_fit():
    with pytest.raises(ConfigError) as caught:
        network(resolution=(32, 65))
    assert str(caught.value) == ("resolution: 65 pixels is no multiple of the network's total stride 8; take 64 or 72")


def test_a_resolution_below_the_total_stride_is_told_the_smallest():
    with pytest.raises(ConfigError, match="take 8 or 16"):
        network(resolution=(4, 32))


@pytest.mark.parametrize("resolution", [(32,), (32, 32, 3), (0, 32), (32, -8), (32.0, 32)])
def test_a_resolution_is_two_whole_positive_sides(resolution):
    with pytest.raises(ConfigError, match=r"^resolution: expected"):
        network(resolution=resolution)


def test_a_non_square_resolution_is_kept():
    assert network(resolution=(8, 4096)).resolution == (8, 4096)


def test_errors_are_also_value_errors():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, DeepmadError)
