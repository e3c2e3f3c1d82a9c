"""Random networks are members of their space, and probes show what the space is made of."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmad_hw.errors import ConfigError
from deepmad_hw.network import costs, reference
from deepmad_hw.network.architecture import Head
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import IMAGE
from deepmad_hw.problem import sampling
from deepmad_hw.problem.space import Space, StageSpace

SPACE = Space(
    family="bottleneck",
    resolution=(64, 96),
    stem=(8, 16),
    stages=(
        StageSpace(stride=2, out=(8, 16, 24, 64), bottleneck=(4, 8, 16), kernel=(3, 5), depth=(1, 3)),
        StageSpace(stride=1, out=(16, 32, 48), bottleneck=(4, 16, 40), kernel=(3,), depth=(2, 2)),
        StageSpace(stride=2, out=(32, 64, 96), bottleneck=(8, 24), kernel=(1, 3, 7), depth=(1, 5)),
    ),
    bottleneck_ratio=(0.2, 1.0),
    head=Head(out=64),
    classes=7,
    activation="relu",
)
# Its second stage cannot follow its widest first one, so most draws lead nowhere.
TIGHT = replace(
    SPACE, stages=(replace(SPACE.stages[0], out=(8, 64)), replace(SPACE.stages[1], out=(16,)), SPACE.stages[2])
)
IMPOSSIBLE = replace(SPACE, stages=(replace(SPACE.stages[0], out=(640,)), *SPACE.stages[1:]))


@given(seed=st.integers(0, 2**32 - 1), space=st.sampled_from([SPACE, TIGHT]))
def test_every_random_network_is_of_the_space(seed, space):
    assert space.violations(sampling.random_architecture(space, np.random.default_rng(seed))) == ()


def test_every_choice_of_a_stage_is_drawn():
    random = np.random.default_rng(0)
    drawn = [sampling.random_architecture(SPACE, random) for _ in range(300)]
    last = [architecture.stages[2] for architecture in drawn]
    assert {stage.out for stage in last} == {32, 64, 96}
    assert {stage.kernel for stage in last} == {1, 3, 7}
    assert {stage.depth for stage in last} == {1, 2, 3, 4, 5}
    assert {architecture.stem.out for architecture in drawn} == {8, 16}


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.1, 1.0))
def test_a_limit_on_macs_is_kept(seed, share):
    random = np.random.default_rng(seed)
    limit = 2e7 * share
    assert costs.macs(sampling.random_architecture(SPACE, random, max_macs=limit)) <= limit


def test_a_limit_that_nothing_keeps_is_said(monkeypatch):
    monkeypatch.setattr(sampling, "MAX_TRIES", 20)
    with pytest.raises(ConfigError, match="none of 20 random networks keeps"):
        sampling.random_architecture(SPACE, np.random.default_rng(0), max_macs=10.0)


@pytest.mark.parametrize(
    "draw", [sampling.random_architecture, lambda s, r: sampling.probe_architecture(s, r, steps=2)]
)
def test_a_space_that_leaves_nothing_is_said(draw, monkeypatch):
    monkeypatch.setattr(sampling, "MAX_TRIES", 20)
    with pytest.raises(ConfigError, match="space: "):
        draw(IMPOSSIBLE, np.random.default_rng(0))


def test_the_same_seed_draws_the_same():
    for draw in (sampling.random_architecture, lambda s, r: sampling.probe_architecture(s, r, steps=3)):
        first, second = (draw(SPACE, np.random.default_rng(5)) for _ in range(2))
        assert first == second
        assert draw(SPACE, np.random.default_rng(6)) != first


@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 4))
def test_a_probe_shows_each_stage_several_times_at_its_resolution(seed, steps):
    probe = sampling.probe_architecture(SPACE, np.random.default_rng(seed), steps=steps)
    assert len(probe.stages) == 3 * steps
    before = probe.stem.out
    for index, stage in enumerate(probe.stages):
        choice = SPACE.stages[index // steps]
        assert stage.stride == (choice.stride if index % steps == 0 else 1)
        assert stage.out in choice.out
        assert stage.bottleneck in choice.bottleneck
        assert stage.kernel in choice.kernel
        assert stage.depth == 2
        assert SPACE.allows_widths(before, stage.out)
        assert SPACE.allows_bottleneck(stage.out, stage.bottleneck)
        before = stage.out
    assert (probe.head, probe.classes, probe.activation) == (SPACE.head, 7, "relu")


def test_corners_reach_the_ends_of_every_choice():
    space = replace(SPACE, stages=(replace(SPACE.stages[0], out=(8, 16, 24, 48)), *SPACE.stages[1:]))
    corners = sampling.corner_architectures(space)
    assert len(corners) == 4
    for index, choice in enumerate(space.stages):
        stages = [corner.stages[index] for corner in corners]
        assert {stage.kernel for stage in stages} == {choice.kernel[0], choice.kernel[-1]}
        assert {stage.out for stage in stages} == {choice.out[0], choice.out[-1]}
        for stage in stages:
            assert space.allows_bottleneck(stage.out, stage.bottleneck)


def test_a_corner_that_leads_nowhere_is_left_out():
    assert sampling.corner_architectures(IMPOSSIBLE) == []


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0"])
@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_a_rescaled_network_has_the_same_kinds_of_layers_in_other_widths(name, factor):
    original = reference.get(name)
    scaled = sampling.rescaled(original, factor, name="scaled")
    assert scaled.name == "scaled"
    assert [node.name for node in scaled] == [node.name for node in original]
    for old, new in zip(original, scaled, strict=True):
        for field in ("op", "height", "width", "kernel", "stride", "activation", "residual"):
            assert getattr(new.spec, field) == getattr(old.spec, field)
        assert new.spec.depthwise == old.spec.depthwise
        if IMAGE not in old.inputs:
            assert (new.spec.in_channels > old.spec.in_channels) == (factor > 1)
    assert scaled.nodes[0].spec.in_channels == 3
    assert scaled.nodes[-1].spec.out_channels == 1000
    own = {node.spec for node in original}
    assert len(own & {node.spec for node in scaled}) < 0.1 * len(own)  # nearly all of the original stays unseen


@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_a_width_stays_as_round_as_it_was(factor):
    original = reference.get("efficientnet_b0")
    for old, new in zip(original, sampling.rescaled(original, factor, name="scaled"), strict=True):
        block = next(block for block in (16, 8, 1) if old.spec.in_channels % block == 0)
        assert new.spec.in_channels % block == 0
        if IMAGE not in old.inputs:
            assert abs(new.spec.in_channels - factor * old.spec.in_channels) < block


def test_an_expanded_probe_holds_layers_of_the_spaces_own_networks():
    """What a probe shows must be what networks are made of, or it would not help to predict them."""
    random = np.random.default_rng(1)
    shown = {
        node.spec
        for _ in range(60)
        for node in expand(sampling.probe_architecture(SPACE, random, steps=3))
        if node.spec.op == "conv"
    }
    network = [n.spec for n in expand(sampling.random_architecture(SPACE, random)) if n.spec.op == "conv"]
    assert len(shown & set(network)) > 0.8 * len(set(network))
