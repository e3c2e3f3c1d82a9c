"""The one walk over a network: an architecture becomes sections of layers, and a graph of named nodes. Layer 2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deepmad_hw.network import families
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.families.base import BLOCK_INPUT, BlockShape, Family, LayerForm, Number, conv
from deepmad_hw.network.layer import IMAGE, Graph, LayerSpec, Node, out_pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A run of equal blocks: the unit in which costs and entropy are summed.

    Args:
        kind: ``stem``, ``first`` (a stage's first block), ``further`` (its other blocks), ``head`` or ``classifier``.
        stage: stage number from 1, or 0 outside the stages.
        layers: the layers of one block.
        repeat: how many blocks.
        in_channels: channels the section is given.
        out_channels: channels it returns.
        height: rows it is given.
        width: columns it is given.
        stride: of its first block.
    """

    kind: str
    stage: int
    layers: tuple[LayerForm, ...]
    repeat: Number
    in_channels: Number
    out_channels: Number
    height: int
    width: int
    stride: int


def sections(network: Any) -> Iterator[Section]:
    """Walk over a network from the image to the classifier.

    Args:
        network: an `Architecture`, or anything with its fields whose widths, kernels and depths may be
            floats or model expressions.

    Returns:
        The sections in execution order. A stage gives two: its first block, and `depth - 1` further ones.

    Raises:
        ConfigError: unknown family or activation.
    """
    family = families.get(network.family)
    activation = families.resolve_activation(family, network.activation)
    channels, (height, width) = network.in_channels, network.resolution
    for kind, part in (("stem", network.stem), *(("stage", s) for s in network.stages), ("head", network.head)):
        if part is None:
            continue
        if kind != "stage":
            layer = conv(
                "",
                BLOCK_INPUT,
                channels=(channels, part.out),
                pixels=(height, width),
                kernel=part.kernel,
                stride=part.stride,
                activation=activation,
            )
            yield Section(
                kind=kind,
                stage=0,
                layers=(layer,),
                repeat=1,
                in_channels=channels,
                out_channels=part.out,
                height=height,
                width=width,
                stride=part.stride,
            )
            stage = 0
        else:
            stage += 1
            yield from _stage_sections(family, part, stage, channels, (height, width), activation)
        channels = part.out
        height = out_pixels(height, kernel=1, stride=part.stride)
        width = out_pixels(width, kernel=1, stride=part.stride)
    if network.classes:
        yield _classifier(channels, height, width, network.classes)


def _stage_sections(
    family: Family, stage: Any, number: int, channels: Number, pixels: tuple[int, int], activation: str
) -> Iterator[Section]:
    adds = stage.stride == 1 and _equal_ints(channels, stage.out)
    yield block_section(family, stage, number, channels=channels, pixels=pixels, activation=activation, adds=adds)
    yield block_section(family, stage, number, channels=None, pixels=pixels, activation=activation, adds=True)


def block_section(
    family: Family,
    stage: Any,
    number: int,
    *,
    channels: Number | None,
    pixels: tuple[int, int],
    activation: str,
    adds: bool,
) -> Section:
    """Return a stage's first block, or its further ones.

    Args:
        family: the block family.
        stage: widths, kernel, stride and depth, as in `deepmad_hw.network.architecture.Stage`.
        number: of the stage from 1.
        channels: what the first block is given; None asks for the further blocks, which are given the stage's width.
        pixels: (height, width) that the stage is given.
        activation: the network's.
        adds: whether input and output have one shape, so that a residual can be added.
    """
    first = channels is not None
    stride = stage.stride if first else 1
    height, width = pixels
    if not first:
        height, width = (out_pixels(side, kernel=1, stride=stage.stride) for side in pixels)
    in_channels = channels if first else stage.out
    shape = BlockShape(
        in_channels=in_channels,
        out_channels=stage.out,
        bottleneck=stage.bottleneck,
        kernel=stage.kernel,
        stride=stride,
        height=height,
        width=width,
        activation=activation,
        first=first,
        identity=adds,
    )
    return Section(
        kind="first" if first else "further",
        stage=number,
        layers=family.block(shape),
        repeat=1 if first else stage.depth - 1,
        in_channels=in_channels,
        out_channels=stage.out,
        height=height,
        width=width,
        stride=stride,
    )


def _equal_ints(one: Number, other: Number) -> bool:
    # Model expressions answer == with an expression, so only whole numbers are compared.
    return isinstance(one, int) and isinstance(other, int) and one == other


def _classifier(channels: Number, height: int, width: int, classes: int) -> Section:
    pool = LayerForm(
        role="pool",
        op="global_pool",
        inputs=(BLOCK_INPUT,),
        in_channels=channels,
        out_channels=channels,
        group_width=1,
        height=height,
        width=width,
    )
    linear = LayerForm(
        role="classifier",
        op="linear",
        inputs=("pool",),
        in_channels=channels,
        out_channels=classes,
        group_width=channels,
        height=1,
        width=1,
        bias=True,
    )
    return Section(
        kind="classifier",
        stage=0,
        layers=(pool, linear),
        repeat=1,
        in_channels=channels,
        out_channels=classes,
        height=height,
        width=width,
        stride=1,
    )


def spec_of(layer: LayerForm) -> LayerSpec:
    """Return a layer whose numbers are whole as a table key.

    Args:
        layer: a layer of a section of an `Architecture`.
    """
    depthwise_or_pool = layer.group_width != layer.in_channels
    return LayerSpec(
        op=layer.op,
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        height=layer.height,
        width=layer.width,
        kernel=layer.kernel,
        stride=layer.stride,
        groups=layer.in_channels // layer.group_width if depthwise_or_pool and layer.op == "conv" else 1,
        activation=layer.activation,
        residual=layer.residual,
    )


def expand(architecture: Architecture, *, name: str = "network") -> Graph:
    """Return the network as named nodes in execution order.

    Args:
        architecture: the network as numbers.
        name: the graph's name.

    Returns:
        The graph. With a classifier its one output is the logits; without, every scale's features
        (just before each stride-2 block after the stem, and at the end).

    Raises:
        ConfigError: unknown family or activation.
    """
    nodes: list[Node] = []
    features: list[str] = []
    last = IMAGE
    for block in blocks(architecture):
        if block.section.kind == "first" and block.section.stride == 2:
            features.append(last)
        nodes += block.nodes
        last = nodes[-1].name
    return Graph(
        name=name,
        in_channels=architecture.in_channels,
        height=architecture.resolution[0],
        width=architecture.resolution[1],
        nodes=tuple(nodes),
        outputs=(last,) if architecture.classes else (*features, last),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One block of a network as nodes.

    Args:
        section: that it belongs to.
        number: in its stage from 1; 0 outside the stages.
        nodes: one for each of the section's layers.
    """

    section: Section
    number: int
    nodes: tuple[Node, ...]


def blocks(architecture: Architecture) -> Iterator[Block]:
    """Yield the blocks of a network in execution order.

    Args:
        architecture: the network as numbers.
    """
    last = IMAGE
    for section in sections(architecture):
        first = {"first": 1, "further": 2}.get(section.kind, 0)
        for number in range(first, first + section.repeat):
            nodes = tuple(block_nodes(section.layers, prefix=_prefix(section, number), source=last))
            yield Block(section=section, number=number, nodes=nodes)
            last = nodes[-1].name


def _prefix(section: Section, number: int) -> str:
    if number:
        return f"stage{section.stage}.block{number}"
    return section.kind if section.kind != "classifier" else ""


def block_nodes(layers: tuple[LayerForm, ...], *, prefix: str, source: str) -> list[Node]:
    """Return a block's layers as nodes.

    Args:
        layers: the block, in execution order.
        prefix: put before every role, with a dot.
        source: name of the node the block reads.
    """

    def full(role: str) -> str:
        return source if role == BLOCK_INPUT else ".".join(part for part in (prefix, role) if part)

    return [
        Node(
            name=full(layer.role),
            spec=spec_of(layer),
            inputs=tuple(full(role) for role in layer.inputs),
            norm=layer.norm,
            bias=layer.bias,
        )
        for layer in layers
    ]
