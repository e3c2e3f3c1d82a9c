"""Random members of a space: networks to calibrate on, and probe networks that show many layers at once. Layer 2."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from deepmad_hw.errors import ConfigError
from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.layer import IMAGE, Graph
from deepmad_hw.problem.space import Space, StageSpace

MAX_TRIES = 10_000


def random_architecture(space: Space, random: np.random.Generator, *, max_macs: float | None = None) -> Architecture:
    """Return a network drawn from a space: every choice uniform over what its predecessors leave.

    Args:
        space: the designs to draw from.
        random: source of randomness.
        max_macs: draws above this are thrown away.

    Raises:
        ConfigError: no draw kept the limit.
    """
    for _ in range(MAX_TRIES):
        widths = _random_widths(space, [1] * len(space.stages), random)
        if widths is None:
            continue
        stem, outs = widths
        stages = [
            _random_stage(
                space, choice, out[0], random, depth=int(random.integers(choice.depth[0], choice.depth[1] + 1))
            )
            for choice, out in zip(space.stages, outs, strict=True)
        ]
        drawn = _architecture(space, stem, tuple(stages))
        if max_macs is None or costs.macs(drawn) <= max_macs:
            return drawn
    raise ConfigError(
        f"none of {MAX_TRIES} random networks keeps {max_macs} MACs", where="space", hint="allow more or widen it"
    )


def probe_architecture(space: Space, random: np.random.Generator, *, steps: int, depth: int = 2) -> Architecture:
    """Return a network with several widths, bottlenecks and kernels in each stage of a space.

    Each stage of the space becomes `steps` stages at its resolution, so that one network shows
    `steps` times as many layer shapes, each beside natural neighbours.

    Args:
        space: the designs whose layers are wanted.
        random: source of randomness.
        steps: stages drawn from each stage of the space.
        depth: blocks of each.

    Raises:
        ConfigError: the space's rules leave nothing to draw.
    """
    for _ in range(MAX_TRIES):
        widths = _random_widths(space, [steps] * len(space.stages), random)
        if widths is None:
            continue
        stem, outs = widths
        stages: list[Stage] = []
        for choice, stage_outs in zip(space.stages, outs, strict=True):
            for step, out in enumerate(stage_outs):
                drawn = _random_stage(space, choice, out, random, depth=depth)
                stages.append(drawn if step == 0 else replace(drawn, stride=1))
        return _architecture(space, stem, tuple(stages))
    raise ConfigError("its rules leave no network to draw", where="space")


def corner_architectures(space: Space) -> list[Architecture]:
    """Return networks that together reach the ends of a space's widths, bottlenecks and kernels, two blocks a stage.

    Args:
        space: the designs whose layers are wanted.
    """
    found = []
    for wide, inner, kernel in ((0, 0, 0), (0, -1, -1), (-1, 0, -1), (-1, -1, 0)):
        stem = before = space.stem[wide]
        stages = []
        for choice in space.stages:
            allowed = [out for out in choice.out if space.allows_widths(before, out) and _inner(space, choice, out)]
            if not allowed:
                break
            before = allowed[wide]
            bottleneck = _inner(space, choice, before)[inner]
            stages.append(
                Stage(out=before, bottleneck=bottleneck, kernel=choice.kernel[kernel], stride=choice.stride, depth=2)
            )
        if len(stages) == len(space.stages):
            found.append(_architecture(space, stem, tuple(stages)))
    return found


def _random_widths(space: Space, steps: list[int], random: np.random.Generator) -> tuple[int, list[list[int]]] | None:
    stem = int(random.choice(space.stem))
    before, found = stem, []
    for choice, count in zip(space.stages, steps, strict=True):
        outs: list[int] = []
        for _ in range(count):
            allowed = [out for out in choice.out if space.allows_widths(before, out) and _inner(space, choice, out)]
            if not allowed:
                return None
            before = int(random.choice(allowed))
            outs.append(before)
        # Only the first width of a stage answers to the stage before; ascending order keeps the others in bounds.
        found.append(outs)
    return stem, found


def _inner(space: Space, choice: StageSpace, out: int) -> list[int]:
    return [inner for inner in choice.bottleneck if space.allows_bottleneck(out, inner)]


def _random_stage(space: Space, choice: StageSpace, out: int, random: np.random.Generator, *, depth: int) -> Stage:
    return Stage(
        out=out,
        bottleneck=int(random.choice(_inner(space, choice, out))),
        kernel=int(random.choice(choice.kernel)),
        stride=choice.stride,
        depth=depth,
    )


def _architecture(space: Space, stem: int, stages: tuple[Stage, ...]) -> Architecture:
    return Architecture(
        family=space.family,
        resolution=space.resolution,
        stem=Stem(out=stem, kernel=space.stem_kernel, stride=space.stem_stride),
        stages=stages,
        head=space.head,
        in_channels=space.in_channels,
        classes=space.classes,
        activation=space.activation,
    )


def rescaled(graph: Graph, factor: float, *, name: str) -> Graph:
    """Return a graph with every inner width multiplied, the image's channels and the classes kept.

    It shows layers of the same kinds at the same resolutions as the original without showing the original's own.

    Args:
        graph: a network.
        factor: multiplies widths; multiples of 8 and 16 stay that, rounded away from the original.
        name: the new graph's name.
    """

    def wide(channels: int) -> int:
        # Runtimes treat multiples of 16 and of 8 differently, so a width stays what it is in that respect.
        block = next(block for block in (16, 8, 1) if channels % block == 0)
        blocks = channels * factor / block
        return block * max(1, math.floor(blocks) if factor < 1 else math.ceil(blocks))

    nodes = []
    for node in graph:
        spec = node.spec
        in_channels = spec.in_channels if node.inputs[0] == IMAGE else wide(spec.in_channels)
        kept = node.name in graph.outputs and spec.op == "linear"
        out_channels = spec.out_channels if kept else wide(spec.out_channels)
        groups = in_channels // spec.group_width if spec.groups > 1 else 1
        nodes.append(
            replace(node, spec=replace(spec, in_channels=in_channels, out_channels=out_channels, groups=groups))
        )
    return replace(graph, name=name, nodes=tuple(nodes))
