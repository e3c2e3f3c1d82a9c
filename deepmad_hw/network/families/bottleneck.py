"""The `bottleneck` family: 1x1 reduce, kxk, 1x1 expand, residual add. Layer 2.

Source: ResK1KXK1 of TinyNAS (alibaba/lightweight-neural-architecture-search), used by DeepMAD-R18/R34/R50.
"""

from __future__ import annotations

from deepmad_hw.network.families.base import BLOCK_INPUT, BlockShape, Family, LayerForm, conv
from deepmad_hw.network.families.residual import skip_branch
from deepmad_hw.network.layer import out_pixels


def block(shape: BlockShape) -> tuple[LayerForm, ...]:
    """Return the layers of one block in execution order.

    Args:
        shape: the block's numbers.
    """
    skip, added = skip_branch(shape)
    inner = shape.bottleneck
    outside = (shape.height, shape.width)
    inside = (
        out_pixels(shape.height, kernel=1, stride=shape.stride),
        out_pixels(shape.width, kernel=1, stride=shape.stride),
    )
    act = shape.activation
    return (
        *skip,
        conv("conv1", BLOCK_INPUT, channels=(shape.in_channels, inner), pixels=outside, activation=act),
        conv(
            "conv2",
            "conv1",
            channels=(inner, inner),
            pixels=outside,
            kernel=shape.kernel,
            stride=shape.stride,
            activation=act,
        ),
        conv("conv3", "conv2", channels=(inner, shape.out_channels), pixels=inside, activation=act, residual=added),
    )


FAMILY = Family(
    name="bottleneck",
    block=block,
    activations=("relu",),
    penalty_from_stage=3,
    bottleneck_ratio=(0.1, 1.0),
    max_first_depth=3,
)
