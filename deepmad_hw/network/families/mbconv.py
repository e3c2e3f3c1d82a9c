"""The `mbconv` and `mbconv_se` families: expand, depthwise, (squeeze-excite,) project. Layer 2.

Source: ResK1DWK1 and ResK1DWSEK1 of TinyNAS (alibaba/lightweight-neural-architecture-search), DeepMAD-29M/50M/89M.
"""

from __future__ import annotations

import math
from functools import partial

from deepmad_hw.network.families.base import BLOCK_INPUT, BlockShape, Family, LayerForm, Number, conv
from deepmad_hw.network.layer import out_pixels

SQUEEZE_MULTIPLE = 8


def squeeze_width(bottleneck: Number) -> Number:
    """Return the inner width of squeeze-excite: a quarter of the bottleneck on a grid of 8, at least 8.

    Anything but a whole number (a relaxation, a model expression) gets the plain quarter.

    Args:
        bottleneck: inner channels of the block.
    """
    if not isinstance(bottleneck, int):
        return bottleneck / 4
    steps = math.floor(max(1, round(bottleneck / 4)) / SQUEEZE_MULTIPLE)
    return max(SQUEEZE_MULTIPLE, SQUEEZE_MULTIPLE * steps)


def squeeze_excite(
    source: str, *, channels: Number, squeezed: Number, pixels: tuple[int, int]
) -> tuple[LayerForm, ...]:
    """Return global pooling, two 1x1 convolutions and the multiplication they steer.

    Args:
        source: role whose output is reweighted.
        channels: channels of that output.
        squeezed: channels between the two convolutions.
        pixels: its (height, width).
    """
    pool = LayerForm(
        role="se.pool",
        op="global_pool",
        inputs=(source,),
        in_channels=channels,
        out_channels=channels,
        group_width=1,
        height=pixels[0],
        width=pixels[1],
    )
    point = (1, 1)
    reduce = conv("se.reduce", "se.pool", channels=(channels, squeezed), pixels=point, activation="silu", counted=False)
    expand = conv(
        "se.expand", "se.reduce", channels=(squeezed, channels), pixels=point, activation="sigmoid", counted=False
    )
    scale = LayerForm(
        role="se.scale",
        op="scale",
        inputs=(source, "se.expand"),
        in_channels=channels,
        out_channels=channels,
        group_width=1,
        height=pixels[0],
        width=pixels[1],
    )
    return pool, reduce, expand, scale


def block(shape: BlockShape, *, se: bool) -> tuple[LayerForm, ...]:
    """Return the layers of one block in execution order.

    Args:
        shape: the block's numbers.
        se: whether squeeze-excite follows the depthwise convolution.
    """
    inner = shape.bottleneck
    outside = (shape.height, shape.width)
    inside = (
        out_pixels(shape.height, kernel=1, stride=shape.stride),
        out_pixels(shape.width, kernel=1, stride=shape.stride),
    )
    excite = squeeze_excite("conv2", channels=inner, squeezed=squeeze_width(inner), pixels=inside) if se else ()
    return (
        conv("conv1", BLOCK_INPUT, channels=(shape.in_channels, inner), pixels=outside, activation=shape.activation),
        conv(
            "conv2",
            "conv1",
            channels=(inner, inner),
            pixels=outside,
            kernel=shape.kernel,
            stride=shape.stride,
            depthwise=True,
            activation=shape.activation,
        ),
        *excite,
        conv(
            "conv3",
            excite[-1].role if excite else "conv2",
            channels=(inner, shape.out_channels),
            pixels=inside,
            residual=BLOCK_INPUT if shape.identity else None,
        ),
    )


ACTIVATIONS = ("silu", "relu", "relu6", "hardswish")

PLAIN = Family(
    name="mbconv",
    block=partial(block, se=False),
    activations=ACTIVATIONS,
    penalty_from_stage=1,
    bottleneck_ratio=(1.5, 6.1),
)
SQUEEZE_EXCITE = Family(
    name="mbconv_se",
    block=partial(block, se=True),
    activations=ACTIVATIONS,
    penalty_from_stage=1,
    bottleneck_ratio=(1.5, 6.1),
)
