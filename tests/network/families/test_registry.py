"""Block families by name."""

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.network import families
from deepmad_hw.network.families.base import BLOCK_INPUT, BlockShape


def test_the_four_families():
    assert families.names() == ("bottleneck", "basic", "mbconv", "mbconv_se")


@pytest.mark.parametrize("name", families.names())
def test_a_family_is_found_under_its_own_name(name):
    assert families.get(name).name == name


def test_a_near_miss_is_told_the_name_that_was_meant():
    with pytest.raises(ConfigError) as caught:
        families.get("botleneck")
    assert str(caught.value) == "family: unknown block family 'botleneck'; did you mean 'bottleneck'?"


def test_a_strange_name_is_told_all_names():
    with pytest.raises(ConfigError, match="expected one of bottleneck, basic, mbconv, mbconv_se"):
        families.get("xyz")


@pytest.mark.parametrize("name", families.names())
def test_the_first_activation_is_the_default(name):
    family = families.get(name)
    assert families.resolve_activation(family, None) == family.activations[0]
    assert families.resolve_activation(family, family.activations[-1]) == family.activations[-1]


def test_an_activation_the_family_lacks_is_refused():
    with pytest.raises(ConfigError) as caught:
        families.resolve_activation(families.get("basic"), "silu")
    assert str(caught.value) == "activation: family 'basic' has no activation 'silu'; expected one of relu"


@pytest.mark.parametrize("name", families.names())
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_a_block_reads_only_what_stands_before_it_and_ends_in_its_output(name, stride, first):
    shape = BlockShape(
        in_channels=16,
        out_channels=16,
        bottleneck=24,
        kernel=3,
        stride=stride,
        height=8,
        width=8,
        activation="relu",
        first=first,
        identity=stride == 1,
    )
    known = {BLOCK_INPUT}
    layers = families.get(name).block(shape)
    for layer in layers:
        assert set(layer.inputs) <= known
        assert layer.role not in known
        known.add(layer.role)
    assert layers[-1].out_channels == 16
