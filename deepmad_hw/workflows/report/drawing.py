"""Where the blocks of a network go in its picture. Layer 4.

One slab per block, as high as its image, as thick as its width. Geometry only; the page's template draws it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from deepmad_hw.network.architecture import Architecture

WIDTH, HEIGHT, BASE = 1060.0, 206.0, 128.0  # of the picture; the slabs are centred at half the base
TALLEST, SHORTEST = 118.0, 12.0
SLAB_GAP, STAGE_GAP, EDGE = 1.6, 18.0, 8.0
LEAST_STAGE = 74.0  # room for the words under it
CLASSES_WIDTH = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Slab:
    """One block.

    Args:
        x: left edge.
        y: upper edge.
        width: thickness.
        height: height.
        first: whether it changes the resolution or width.
    """

    x: float
    y: float
    width: float
    height: float
    first: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A stem, stage, head or classifier.

    Args:
        name: as the tables call it.
        x: left edge.
        width: of all its slabs.
        slabs: the blocks.
        lines: words under it.
        kind: ``stem``, ``stage``, ``head`` or ``classes``.
    """

    name: str
    x: float
    width: float
    slabs: tuple[Slab, ...]
    lines: tuple[str, ...]
    kind: str

    @property
    def middle(self) -> float:
        """Return the middle of its slabs."""
        return self.x + self.width / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A drawn network.

    Args:
        width: of the picture.
        height: of the picture.
        parts: from input to output.
    """

    width: float
    height: float
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """A part before its place is known: name, kind, (height, width), channels, blocks, words."""

    name: str
    kind: str
    side: tuple[int, int]
    out: int
    depth: int
    lines: tuple[str, ...]


def picture(network: Architecture) -> Picture:
    """Return the picture of a network: always as wide, so a deeper network has thinner blocks.

    Args:
        network: as numbers.
    """
    plans = _plans(network)
    full = max(plans[0].side)
    scale = _scale(plans)
    parts, x = [], EDGE
    for plan in plans:
        thickness = _thickness(plan) * scale
        step = thickness + SLAB_GAP * min(1.0, scale)
        total = plan.depth * step - (step - thickness)
        left = x + max(0.0, LEAST_STAGE - total) / 2
        tall = max(SHORTEST, TALLEST * math.sqrt(max(plan.side) / full))
        slabs = tuple(
            Slab(x=left + i * step, y=(BASE - tall) / 2, width=thickness, height=tall, first=i == 0)
            for i in range(plan.depth)
        )
        parts.append(Part(name=plan.name, x=left, width=total, slabs=slabs, lines=plan.lines, kind=plan.kind))
        x += max(total, LEAST_STAGE) + STAGE_GAP
    return Picture(width=max(WIDTH, x - STAGE_GAP + EDGE), height=HEIGHT, parts=tuple(parts))


def _plans(network: Architecture) -> list[_Plan]:
    stem, head = network.stem, network.head
    side = (network.resolution[0] // stem.stride, network.resolution[1] // stem.stride)
    lines: tuple[str, ...] = (_pixels(side), f"{stem.out} channels", _kernel(stem.kernel, stem.stride))
    plans = [_Plan(name="stem", kind="stem", side=side, out=stem.out, depth=1, lines=lines)]
    for i, stage in enumerate(network.stages, start=1):
        side = (side[0] // stage.stride, side[1] // stage.stride)
        channels = (f"{stage.out} channels", f"inner {stage.bottleneck}")
        lines = (f"\u00d7{stage.depth}", _pixels(side), *channels, _kernel(stage.kernel, stage.stride))
        plans.append(_Plan(name=f"stage {i}", kind="stage", side=side, out=stage.out, depth=stage.depth, lines=lines))
    if head is not None:
        lines = (_pixels(side), f"{head.out} channels", _kernel(head.kernel, 1))
        plans.append(_Plan(name="head", kind="head", side=side, out=head.out, depth=1, lines=lines))
    if network.classes:
        lines = (f"{network.classes} classes",)
        plans.append(_Plan(name="classifier", kind="classes", side=(1, 1), out=0, depth=1, lines=lines))
    return plans


def _thickness(plan: _Plan) -> float:
    """Return a block's thickness at scale 1: it grows with the logarithm of its channels."""
    return 2.0 + 1.1 * math.log2(plan.out) if plan.out > 1 else CLASSES_WIDTH


def _scale(plans: list[_Plan]) -> float:
    """Return the factor on thickness at which the parts fill the picture's width."""

    def wide(scale: float) -> float:
        totals = [plan.depth * (_thickness(plan) * scale + SLAB_GAP * min(1.0, scale)) for plan in plans]
        return sum(max(total, LEAST_STAGE) for total in totals) + (len(plans) - 1) * STAGE_GAP + 2 * EDGE

    low, high = 0.05, 1.2
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if wide(middle) <= WIDTH else (low, middle)
    return low


def _pixels(side: tuple[int, int]) -> str:
    return f"{side[0]}\u00d7{side[1]}"


def _kernel(kernel: int, stride: int) -> str:
    return f"{kernel}\u00d7{kernel}" + (f", stride {stride}" if stride > 1 else "")
