"""Well-known networks in the project's own layers, where entropy is defined. Layer 2."""

from __future__ import annotations

from collections.abc import Sequence

from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.network.reference import BOTTLENECK_EXPANSION, EFFICIENTNET_B0, MOBILENET_V2, RESNET_WIDTHS


def in_own_layers(name: str) -> Architecture | None:
    """Return a reference network's widths and depths as an architecture, or None where no family resembles it.

    DeepMAD's objective is defined for architectures. Their projections, squeeze-excite widths and first blocks differ
    a little from the originals': max pooling becomes the stride of the first stage, and a stage has one inner width.

    Args:
        name: one of `names()`.
    """
    if name in _RESNET_DEPTHS:
        return _own_resnet(*_RESNET_DEPTHS[name])
    if name == "mobilenet_v2":
        return _own_mobile("mbconv", MOBILENET_V2, activation="relu6")
    if name == "efficientnet_b0":
        return _own_mobile("mbconv_se", EFFICIENTNET_B0, activation="silu")
    return None


_RESNET_DEPTHS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}


def _own_resnet(family: str, depths: Sequence[int]) -> Architecture:
    expansion = BOTTLENECK_EXPANSION if family == "bottleneck" else 1
    stages = tuple(
        Stage(out=width * expansion, bottleneck=width, kernel=3, stride=2, depth=depth)
        for width, depth in zip(RESNET_WIDTHS, depths, strict=True)
    )
    return Architecture(family=family, resolution=(224, 224), stem=Stem(out=64, kernel=7), stages=stages)


def _own_mobile(family: str, rows: Sequence[tuple[int, int, int, int, int]], *, activation: str) -> Architecture:
    stages, channels = [], 32
    for ratio, kernel, out, depth, stride in rows:
        inner = ratio * (out if depth > 1 else channels)
        stages.append(Stage(out=out, bottleneck=inner, kernel=kernel, stride=stride, depth=depth))
        channels = out
    return Architecture(
        family=family,
        resolution=(224, 224),
        stem=Stem(out=32),
        stages=tuple(stages),
        head=Head(out=1280),
        activation=activation,
    )
