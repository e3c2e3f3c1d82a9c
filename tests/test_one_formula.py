"""One formula for every number: sections, nodes, floats and model expressions agree on random networks."""

import dataclasses
import math
from types import SimpleNamespace

import pyomo.environ as pyo
import pytest
from any_network import architectures
from hypothesis import given

from deepmad_hw.network import costs, families
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.network.expand import expand, sections
from deepmad_hw.problem import entropy

NOT_COUNTED = ("projection", "reduce", "expand")  # last part of a convolution's name


def brute_force_scales(graph):
    """Return (pixels, channels, log fan-in, depth) per scale, found by walking over nodes alone."""
    found, fan_ins, end, block = [], [], (0, 0), "stem"
    strided = {
        node.name.rpartition(".")[0] for node in graph if node.spec.stride == 2 and node.name.startswith("stage")
    }
    for node in graph:
        prefix = ".".join(node.name.split(".")[:2])
        if prefix != block and prefix in strided:
            found.append((*end, math.fsum(map(math.log, fan_ins)), len(fan_ins)))
        block = prefix
        spec = node.spec
        if spec.op == "conv" and node.name.rpartition(".")[2] not in NOT_COUNTED:
            fan_ins.append(spec.in_channels // spec.groups * spec.kernel**2)
            end = (spec.out_height * spec.out_width, spec.out_channels)
    return [*found, (*end, math.fsum(map(math.log, fan_ins)), len(fan_ins))]


@given(architectures())
def test_sections_and_nodes_count_the_same_macs_and_params(architecture):
    graph = expand(architecture)
    for count in (costs.macs, costs.params):
        assert count(architecture) == count(graph)
        assert isinstance(count(architecture), int)
        assert isinstance(count(graph), int)


@given(architectures())
def test_sections_and_nodes_hold_the_same_layers(architecture):
    walked = sum(section.repeat * len(section.layers) for section in sections(architecture))
    assert walked == len(expand(architecture).nodes)


@given(architectures())
def test_scales_equal_a_walk_over_the_counted_convolutions(architecture):
    expected = brute_force_scales(expand(architecture))
    found = entropy.scales(architecture)
    assert [(s.pixels, s.channels, s.depth) for s in found] == [(p, c, d) for p, c, _, d in expected]
    assert [s.log_fan_in for s in found] == pytest.approx([fan_in for _, _, fan_in, _ in expected])
    entropies = [math.log(pixels * channels) * fan_in / 2 for pixels, channels, fan_in, _ in expected]
    assert [s.entropy for s in found] == pytest.approx(entropies)
    assert entropy.score(found) == pytest.approx(sum(entropies) + 7 * entropies[-1])


@given(architectures())
def test_a_backbone_returns_one_tensor_per_scale(architecture):
    graph = expand(dataclasses.replace(architecture, classes=0))
    sizes = {n.name: (n.spec.out_height * n.spec.out_width, n.spec.out_channels) for n in graph}
    assert [sizes[name] for name in graph.outputs] == [
        (scale.pixels, scale.channels) for scale in entropy.scales(architecture)
    ]


@given(architectures())
def test_peak_memory_holds_the_largest_layer_and_not_the_whole_network(architecture):
    graph = expand(architecture)
    sizes = [n.spec.out_channels * n.spec.out_height * n.spec.out_width for n in graph]
    image = graph.in_channels * graph.height * graph.width
    peak = costs.peak_memory_bytes(architecture, bytes_per_value=1)
    assert max(max(sizes), image + sizes[0]) <= peak <= image + sum(sizes)


def relaxed(architecture, number):
    """Return a look-alike of a network whose widths, kernels and depths went through `number`."""

    def convolution(part):
        return part and SimpleNamespace(out=number(part.out), kernel=part.kernel, stride=part.stride)

    return SimpleNamespace(
        family=architecture.family,
        resolution=architecture.resolution,
        stem=convolution(architecture.stem),
        stages=[
            SimpleNamespace(
                out=number(stage.out),
                bottleneck=number(stage.bottleneck),
                kernel=number(stage.kernel),
                stride=stage.stride,
                depth=number(stage.depth),
            )
            for stage in architecture.stages
        ],
        head=convolution(architecture.head),
        in_channels=architecture.in_channels,
        classes=architecture.classes,
        activation=architecture.activation,
    )


# Inner widths are multiples of 32, so that squeeze-excite's grid and its plain quarter agree.
@given(architectures(bottleneck_multiple=32))
def test_floats_give_what_whole_numbers_give(architecture):
    floats = relaxed(architecture, float)
    assert costs.macs(floats) == costs.macs(architecture)
    assert costs.params(floats) == costs.params(architecture)
    assert entropy.score(entropy.scales(floats)) == entropy.score(entropy.scales(architecture))


@pytest.mark.parametrize("family", families.names())
def test_model_expressions_give_what_whole_numbers_give(family):
    architecture = Architecture(
        family=family,
        resolution=(32, 64),
        stem=Stem(out=16),
        stages=(
            Stage(out=24, bottleneck=32, kernel=3, stride=2, depth=2),
            Stage(out=40, bottleneck=64, kernel=5, stride=2, depth=3),
        ),
        head=Head(out=48),
    )
    model = pyo.ConcreteModel()
    model.number = pyo.VarList()

    def variable(value):
        made = model.number.add()
        made.fix(value)
        return made

    expressions = relaxed(architecture, variable)
    score = entropy.score(entropy.scales(expressions, log=pyo.log))
    assert pyo.value(costs.macs(expressions)) == costs.macs(architecture)
    assert pyo.value(costs.params(expressions)) == costs.params(architecture)
    assert pyo.value(score) == pytest.approx(entropy.score(entropy.scales(architecture)), rel=1e-12)
