"""What a block family must say of itself, with numbers that may be ints, floats or model expressions. Layer 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# A count that is an int in a network, a float in a relaxation, or a model expression while one is built.
# The three share only + - * /, which no type of the standard library expresses.
Number = Any

BLOCK_INPUT = "input"  # name by which a block's layers read what the block is given


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerForm:
    """One layer of a block as a formula of the block's numbers.

    Args:
        role: name inside the block, such as ``conv1``.
        op: operation, as in `deepmad_hw.network.layer.LayerSpec`.
        inputs: roles it reads, `BLOCK_INPUT` for the block's own input; the residual comes last.
        in_channels: channels read.
        out_channels: channels returned.
        group_width: input channels that one output channel sees; 1 makes a depthwise convolution.
        height: input rows in pixels.
        width: input columns in pixels.
        kernel: side of the window.
        stride: step of the window.
        activation: applied last.
        residual: whether the last input is added.
        norm: whether a batch norm follows.
        bias: whether the layer has a bias of its own.
        counted: whether it counts in entropy and effectiveness.
    """

    role: str
    op: str
    inputs: tuple[str, ...]
    in_channels: Number
    out_channels: Number
    group_width: Number
    height: int
    width: int
    kernel: Number = 1
    stride: int = 1
    activation: str = "none"
    residual: bool = False
    norm: bool = False
    bias: bool = False
    counted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockShape:
    """What one block is told by the walk over the network.

    Args:
        in_channels: channels it is given.
        out_channels: channels it returns.
        bottleneck: its inner channels.
        kernel: side of its spatial convolution.
        stride: 1 or 2.
        height: rows it is given.
        width: columns it is given.
        activation: the network's activation.
        first: whether it is the first block of its stage.
        identity: whether input and output have the same shape.
    """

    in_channels: Number
    out_channels: Number
    bottleneck: Number
    kernel: Number
    stride: int
    height: int
    width: int
    activation: str
    first: bool
    identity: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A block family: its layers and the rules its spaces follow by default.

    Args:
        name: as configurations call it.
        block: gives the layers of one block in execution order; the last one is the block's output.
        activations: what `Architecture.activation` may be; the first is the default.
        penalty_from_stage: first stage (counted from 1) whose depth enters the depth penalty.
        bottleneck_ratio: smallest and largest bottleneck over out channels in a default space.
        max_first_depth: largest depth of stage 1 in a default space, or None.
    """

    name: str
    block: Callable[[BlockShape], tuple[LayerForm, ...]]
    activations: tuple[str, ...]
    penalty_from_stage: int
    bottleneck_ratio: tuple[float, float]
    max_first_depth: int | None = None


def conv(
    role: str,
    source: str,
    *,
    channels: tuple[Number, Number],
    pixels: tuple[int, int],
    kernel: Number = 1,
    stride: int = 1,
    depthwise: bool = False,
    activation: str = "none",
    residual: str | None = None,
    counted: bool = True,
) -> LayerForm:
    """Return a convolution with batch norm, the layer that all families are made of.

    Args:
        role: name inside the block.
        source: role whose output it reads.
        channels: channels in and out.
        pixels: (height, width) of its input.
        kernel: side of the window.
        stride: step of the window.
        depthwise: whether each channel is convolved alone.
        activation: applied last.
        residual: role whose output is added before the activation, or None.
        counted: whether it counts in entropy and effectiveness.
    """
    return LayerForm(
        role=role,
        op="conv",
        inputs=(source,) if residual is None else (source, residual),
        in_channels=channels[0],
        out_channels=channels[1],
        group_width=1 if depthwise else channels[0],
        height=pixels[0],
        width=pixels[1],
        kernel=kernel,
        stride=stride,
        activation=activation,
        residual=residual is not None,
        norm=True,
        counted=counted,
    )
