"""The `basic` family: two kxk convolutions and a residual add. Layer 2.

Source: ResKXKX of TinyNAS (alibaba/lightweight-neural-architecture-search).
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
    inside = (
        out_pixels(shape.height, kernel=1, stride=shape.stride),
        out_pixels(shape.width, kernel=1, stride=shape.stride),
    )
    return (
        *skip,
        conv(
            "conv1",
            BLOCK_INPUT,
            channels=(shape.in_channels, shape.bottleneck),
            pixels=(shape.height, shape.width),
            kernel=shape.kernel,
            stride=shape.stride,
            activation=shape.activation,
        ),
        conv(
            "conv2",
            "conv1",
            channels=(shape.bottleneck, shape.out_channels),
            pixels=inside,
            kernel=shape.kernel,
            activation=shape.activation,
            residual=added,
        ),
    )


FAMILY = Family(
    name="basic",
    block=block,
    activations=("relu",),
    penalty_from_stage=2,
    bottleneck_ratio=(0.1, 1.0),
)
