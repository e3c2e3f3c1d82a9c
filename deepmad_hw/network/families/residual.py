"""The skip branch that `bottleneck` and `basic` blocks share. Layer 2.

Source: ResK1KXK1 and ResKXKX of TinyNAS (alibaba/lightweight-neural-architecture-search), design of DeepMAD, CVPR 2023.
"""

from __future__ import annotations

from deepmad_hw.network.families.base import BLOCK_INPUT, BlockShape, LayerForm, conv
from deepmad_hw.network.layer import out_pixels

PROJECTION = "projection"


def skip_branch(block: BlockShape) -> tuple[tuple[LayerForm, ...], str]:
    """Return the layers of the skip branch and the role that the block adds.

    The first block of every stage projects (also when the widths are equal), after 2x2 average pooling if it strides.

    Args:
        block: the block's numbers.
    """
    if not block.first:
        return (), BLOCK_INPUT
    layers: tuple[LayerForm, ...] = ()
    source, pixels = BLOCK_INPUT, (block.height, block.width)
    if block.stride == 2:
        pool = LayerForm(
            role="pool",
            op="avg_pool",
            inputs=(BLOCK_INPUT,),
            in_channels=block.in_channels,
            out_channels=block.in_channels,
            group_width=1,
            height=block.height,
            width=block.width,
            kernel=2,
            stride=2,
        )
        layers, source = (pool,), pool.role
        pixels = (out_pixels(block.height, kernel=2, stride=2), out_pixels(block.width, kernel=2, stride=2))
    projection = conv(
        PROJECTION, source, channels=(block.in_channels, block.out_channels), pixels=pixels, counted=False
    )
    return (*layers, projection), PROJECTION
