"""Peak activation memory as rows: one sum of tensor sizes per place in the execution order. Layer 3 (optimize).

The peak is the largest row, so a limit on it is a limit on each row. Which tensors are alive where is read off
`deepmad_hw.costs.live_tensors` on small stand-ins; only the sizes depend on the choices, each on one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from deepmad_hw import costs
from deepmad_hw.architecture import Architecture, Stage, Stem
from deepmad_hw.expand import expand
from deepmad_hw.layer import IMAGE, Graph
from deepmad_hw.optimize.coefficients import BOTTLENECK, IN, OUT, Coefficients

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MemoryRow:
    """The bytes alive at one place of the execution order.

    Args:
        constant: bytes that no choice moves, such as the image.
        widths: bytes per choice of the width after a stage (0: the stem), by stage.
        inner: bytes per choice of bottleneck and kernel, by stage.
        further: stage that must have further blocks for the row to count, or 0.
        same: stage whose first block must add its input for the row to count, or 0.
    """

    constant: float
    widths: Mapping[int, Floats]
    inner: Mapping[int, Floats]
    further: int = 0
    same: int = 0


@dataclass(kw_only=True)
class _Sum:
    constant: float = 0.0
    widths: dict[int, Floats] = field(default_factory=dict)
    inner: dict[int, Floats] = field(default_factory=dict)


def memory_rows(tables: Coefficients) -> tuple[MemoryRow, ...]:
    """Return the rows whose largest value is a design's peak memory in bytes at fp32 and batch 1.

    Args:
        tables: the problem's tables.
    """
    plain = _stand_in(tables, same=0)
    rows = _rows_of(tables, expand(plain), same=0, stage=0)
    for stage, grid in enumerate(tables.stages, start=1):
        if grid.same.any():
            rows += _rows_of(tables, expand(_stand_in(tables, same=stage)), same=stage, stage=stage)
    return tuple(rows)


def _stand_in(tables: Coefficients, *, same: int) -> Architecture:
    """Return a small network with the space's structure; stage `same` returns as many channels as it is given."""
    space = tables.problem.space
    stages: list[Stage] = []
    width = 8
    for index, choice in enumerate(space.stages, start=1):
        width += 0 if index == same else 8
        depth = min(2, choice.depth[1])
        stages.append(
            Stage(out=width, bottleneck=8, kernel=choice.kernel[0], stride=choice.stride, depth=depth),
        )
    return Architecture(
        family=space.family,
        resolution=space.resolution,
        stem=Stem(out=8, kernel=space.stem_kernel, stride=space.stem_stride),
        stages=tuple(stages),
        head=space.head,
        in_channels=space.in_channels,
        classes=space.classes,
        activation=space.activation,
    )


def _rows_of(tables: Coefficients, graph: Graph, *, same: int, stage: int) -> list[MemoryRow]:
    """Return the graph's rows, of one stage's first block only if `stage` is given."""
    pixels = {node.name: node.spec.out_height * node.spec.out_width for node in graph}
    rows = []
    for node, alive in zip(graph, costs.live_tensors(graph), strict=True):
        place = _place(node.name)
        if stage and (place.stage, place.block) != (stage, 1):
            continue
        total = _Sum()
        for name in alive:
            _add_tensor(tables, total, name, pixels.get(name, 0))
        rows.append(
            MemoryRow(
                constant=total.constant,
                widths=total.widths,
                inner=total.inner,
                further=place.stage if place.block > 1 else 0,
                same=same,
            )
        )
    return rows


def _place(name: str) -> SimpleNamespace:
    """Return stage, block and role of a node, 0 outside the stages."""
    head, _, rest = name.partition(".")
    if not head.startswith("stage"):
        return SimpleNamespace(stage=0, block=0, role=name)
    block, _, role = rest.partition(".")
    return SimpleNamespace(stage=int(head[len("stage") :]), block=int(block[len("block") :]), role=role)


def _add_tensor(tables: Coefficients, total: _Sum, name: str, pixels: int) -> None:
    space = tables.problem.space
    if name == IMAGE:
        total.constant += costs.FLOAT32_BYTES * space.in_channels * space.resolution[0] * space.resolution[1]
        return
    place = _place(name)
    axis, channels = tables.channels[place.stage, place.block <= 1, place.role]
    size = costs.FLOAT32_BYTES * pixels * channels.astype(np.float64)
    if axis is None:
        total.constant += float(size[0])
    elif axis in (IN, OUT):
        stage = _width_stage(tables, place, axis)
        total.widths[stage] = total.widths.get(stage, 0.0) + size
    else:
        kernels = len(space.stages[place.stage - 1].kernel)
        inner = np.repeat(size, kernels) if axis == BOTTLENECK else np.tile(size, size.size // kernels)
        total.inner[place.stage] = total.inner.get(place.stage, 0.0) + inner


def _width_stage(tables: Coefficients, place: SimpleNamespace, axis: int) -> int:
    """Return the stage whose width a tensor has; stem and tail layers read the only width they can."""
    if place.stage:
        return int(place.stage) - (axis == IN)
    return 0 if axis == IN else len(tables.stages)


def peak_bytes(rows: Sequence[MemoryRow], tables: Coefficients, designs: NDArray[np.int64]) -> Floats:
    """Return the peak memory of many designs in bytes.

    Args:
        rows: by `memory_rows`.
        tables: the problem's tables.
        designs: [n, choices] as `Coefficients.encode` gives them.
    """
    peak = np.zeros(len(designs))
    for row in rows:
        value = np.full(len(designs), row.constant)
        for stage, size in row.widths.items():
            value += size[designs[:, width_column(stage)]]
        for stage, size in row.inner.items():
            value += size[designs[:, 3 * stage - 1]]
        if row.further:
            value *= designs[:, 3 * row.further] > 1
        if row.same:
            same = tables.stages[row.same - 1].same
            value *= same[designs[:, width_column(row.same - 1)], designs[:, width_column(row.same)]]
        np.maximum(peak, value, out=peak)
    return peak


def width_column(stage: int) -> int:
    """Return the column of an encoded design that holds the width after a stage (0: the stem).

    Args:
        stage: number of the stage from 1, or 0.
    """
    return 3 * stage - 2 if stage else 0
