"""Peak activation memory: one sum of tensor sizes per place in the execution order. Layer 3 (optimize).

    peak = max over rows r of  constant_r + sum_i widths_r,i[p_i] + sum_i inner_r,i[q_i]

The peak is the largest row, so a limit on it is a limit on each row. Rows that count only where a stage has further
blocks, or where a first block adds its input, are 0 elsewhere. Which tensors are alive where is read off
`deepmad_hw.network.costs.live_tensors` on small stand-ins; only the sizes depend on the choices, each on one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray
from pyomo.core.expr import LinearExpression

from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import blocks, expand
from deepmad_hw.network.layer import IMAGE
from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.encoding import Designs
from deepmad_hw.optimize.layer_tables import BOTTLENECK, IN, OUT
from deepmad_hw.optimize.linear import ROW_SCALE, Milp, Sum
from deepmad_hw.optimize.quantities.additive import best_way, smallest_sum, walked_back
from deepmad_hw.optimize.quantities.base import Limited, Minimum, bisected
from deepmad_hw.optimize.smooth import Nlp, PricedRow
from deepmad_hw.optimize.walked import Walked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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

    @property
    def last_stage(self) -> int:
        """Return the last stage whose choices the row reads, 0 for the stem or none."""
        return max([*self.widths, *self.inner], default=0)

    @property
    def largest(self) -> float:
        """Return the most bytes that may be alive there."""
        parts = [*self.widths.values(), *self.inner.values()]
        return self.constant + float(sum(part.max() for part in parts))


class PeakMemory(Limited):
    """A limit on the peak activation memory in bytes.

    Args:
        tables: the problem's tables.
        name: of the limit.
        limit: bytes.
    """

    def __init__(self, tables: Coefficients, name: str, limit: float) -> None:
        super().__init__(tables, name, limit)
        self.rows = memory_rows(tables)

    def excess(self, walked: Walked) -> Floats:
        """Return ``max(peak / limit - 1, 0)``, [n]."""
        return np.asarray(np.maximum(peak_bytes(self.rows, self.tables, walked.designs) / self.limit - 1, 0.0))

    def add_to_milp(self, milp: Milp) -> None:
        """Add ``bytes alive <= limit`` for every row."""
        self._add_rows(milp, Sum(constant=-float(self.limit)))

    def add_share_to_milp(self, milp: Milp, share: Sum, factor: float) -> None:
        """Add ``bytes alive - factor * limit * share <= 0`` for every row."""
        self._add_rows(milp, Sum().extend(share, -factor * self.limit))

    def amount(self, milp: Milp) -> Sum:
        """Return a variable that is at least every row."""
        milp.model.peak = pyo.Var(bounds=(0, None))
        self._add_rows(milp, Sum(variables=[milp.model.peak], factors=[-1.0]))
        return Sum(variables=[milp.model.peak], factors=[1.0])

    def _add_rows(self, milp: Milp, minus_limit: Sum) -> None:
        """Add ``bytes alive - limit <= 0``; rows that count only sometimes hold by themselves elsewhere."""
        unit = ROW_SCALE / max(row.largest for row in self.rows)
        for row in self.rows:
            total = Sum(constant=row.constant).extend(minus_limit)
            for stage, sizes in row.widths.items():
                total.add(milp.stages[stage - 1].width if stage else milp.stem, sizes)
            for stage, sizes in row.inner.items():
                total.add(milp.stages[stage - 1].inner, sizes)
            if row.further and milp.tables.stages[row.further - 1].depth[0] == 1:
                _lift(total, _has_further(milp, row.further), row.largest)
            if row.same:
                grid, stage_model = milp.tables.stages[row.same - 1], milp.stages[row.same - 1]
                _lift(total, Sum().add(stage_model.skip, grid.same.astype(float)), row.largest)
            scaled = Sum().extend(total, unit)
            if not scaled.variables:  # what is alive there is the same in every design; one stem is chosen
                scaled = Sum().add(milp.stem, scaled.constant)
            if scaled.variables:
                milp.model.rows.add((None, scaled.expression(), 0))

    def add_to_nlp(self, nlp: Nlp) -> None:
        """Add ``bytes alive / limit <= 1`` for every row that always counts and that a choice moves."""
        step, amount = self.quantity.price
        rows = [
            PricedRow(
                row=nlp.model.rows.add(_smooth_bytes(nlp, row) / self.limit <= 1),
                per_step=lambda: amount / self.limit,
            )
            for row in self.rows
            if not row.same and (row.widths or row.inner)
        ]
        nlp.rows[self.name] = (step, rows)

    def of(self, design: Ints) -> float:
        """Return the peak memory of one design in bytes."""
        return float(peak_bytes(self.rows, self.tables, Designs(design[None]))[0])

    def smallest(self) -> Minimum:
        """Return the smallest peak memory that a design of the space has, to a byte."""
        _, start = smallest_sum(self.tables, self.tables.quantities["params"])
        return bisected(self._design_within, self.of, start, tolerance=lambda _: 1.0)

    def _design_within(self, limit: float) -> Ints | None:
        """Return a design whose every row keeps a limit, or None where there is none.

        Depths are smallest. What a backbone keeps for its outputs adds up; less of it is always at least as good.
        """
        tables = self.tables
        kept = np.where(self._rows_at(0, np.zeros(len(tables.stem_widths))) <= limit, 0.0, np.inf)
        steps: list[tuple[Ints, Ints, Ints]] = []
        for i, grid in enumerate(tables.stages, start=1):
            peak = self._rows_at(i, kept)
            total = np.where(grid.allows & (peak <= limit), (kept + self._kept_size(i - 1))[:, None, None], np.inf)
            kept, before, inner = best_way(total)
            steps.append((before, inner, np.full(len(inner), grid.depth[0])))
        return walked_back(int(np.argmin(kept)), steps) if np.isfinite(kept).any() else None

    def _rows_at(self, stage: int, kept: Floats) -> Floats:
        """Return the largest row that ends at a stage, over its [in, out, inner]; at the stem over its widths."""
        peak = np.zeros(1)
        for row in self.rows:
            if row.last_stage != stage or (row.further and self.tables.stages[row.further - 1].depth[0] == 1):
                continue
            own = row.widths.get(stage, np.zeros(1))
            if not stage:
                peak = np.maximum(peak, row.constant + own)
                continue
            value = row.constant + kept[:, None, None] + row.widths.get(stage - 1, np.zeros(1))[:, None, None]
            value = value + own[None, :, None] + row.inner.get(stage, np.zeros(1))[None, None, :]
            if row.same:
                value = np.where(self.tables.stages[stage - 1].same[:, :, None], value, 0.0)
            peak = np.maximum(peak, value)
        return peak

    def _kept_size(self, stage: int) -> Floats | float:
        """Return what a stage's features take once they wait for the end, 0 if they are no output."""
        for row in self.rows:
            if stage in row.widths and row.last_stage > stage + 1:
                return row.widths[stage]
        return 0.0


def _lift(total: Sum, indicator: Sum, largest: float) -> None:
    """Make ``total <= 0`` hold by itself where the indicator is 0."""
    total.extend(indicator, largest)
    total.constant -= largest


def _has_further(milp: Milp, stage: int) -> Sum:
    """Return a binary that must be 1 where a stage has further blocks."""
    block, most = milp.model.stage[stage], milp.tables.stages[stage - 1].depth[1] - 1
    if not hasattr(block, "has_further"):
        block.has_further = pyo.Var(domain=pyo.Binary)
        row = LinearExpression(linear_coefs=[1, -most], linear_vars=[block.depth, block.has_further])
        milp.model.rows.add((None, row, 1))
    return Sum(variables=[block.has_further], factors=[1.0])


def _smooth_bytes(nlp: Nlp, row: MemoryRow) -> Any:
    tables, model = nlp.tables, nlp.model
    total = row.constant
    for stage, sizes in row.widths.items():
        total = total + float((sizes / tables.out_widths(stage)).max()) * pyo.exp(model.log_width[stage])
    for stage, sizes in row.inner.items():
        per_channel = float((sizes / tables.stages[stage - 1].bottleneck).max())
        total = total + per_channel * pyo.exp(model.log_bottleneck[stage])
    return total


# --- rows -------------------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a tensor is made: stage and block (0 outside the stages), and the role of its layer."""

    stage: int
    block: int
    role: str


@dataclass(kw_only=True)
class _Bytes:
    constant: float = 0.0
    widths: dict[int, Floats] = field(default_factory=dict)
    inner: dict[int, Floats] = field(default_factory=dict)


def memory_rows(tables: Coefficients) -> tuple[MemoryRow, ...]:
    """Return the rows whose largest value is a design's peak memory in bytes at fp32 and batch 1.

    Args:
        tables: the problem's tables.
    """
    rows = _rows_of(tables, _stand_in(tables, same=0), same=0)
    for stage, grid in enumerate(tables.stages, start=1):
        if grid.same.any():
            rows += _rows_of(tables, _stand_in(tables, same=stage), same=stage)
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


def _rows_of(tables: Coefficients, network: Architecture, *, same: int) -> list[MemoryRow]:
    """Return a network's rows, those of one stage's first block only if `same` names it."""
    graph = expand(network)
    pixels = {node.name: node.spec.out_height * node.spec.out_width for node in graph}
    places = {
        node.name: _Place(block.section.stage, block.number, form.role or block.section.kind)
        for block in blocks(network)
        for node, form in zip(block.nodes, block.section.layers, strict=True)
    }
    rows = []
    for node, alive in zip(graph, costs.live_tensors(graph), strict=True):
        place = places[node.name]
        if same and (place.stage, place.block) != (same, 1):
            continue
        total = _Bytes()
        for name in alive:
            if name == IMAGE:
                total.constant += costs.FLOAT32_BYTES * graph.in_channels * graph.height * graph.width
            else:
                _add_tensor(tables, total, places[name], pixels[name])
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


def _add_tensor(tables: Coefficients, total: _Bytes, place: _Place, pixels: int) -> None:
    axis, channels = tables.channels[place.stage, place.block <= 1, place.role]
    size = costs.FLOAT32_BYTES * pixels * channels.astype(np.float64)
    if axis is None:
        total.constant += float(size[0])
    elif axis in (IN, OUT):
        stage = _width_stage(tables, place, axis)
        total.widths[stage] = total.widths.get(stage, 0.0) + size
    else:
        kernels = len(tables.problem.space.stages[place.stage - 1].kernel)
        inner = np.repeat(size, kernels) if axis == BOTTLENECK else np.tile(size, size.size // kernels)
        total.inner[place.stage] = total.inner.get(place.stage, 0.0) + inner


def _width_stage(tables: Coefficients, place: _Place, axis: int) -> int:
    """Return the stage whose width a tensor has; stem and tail layers read the only width they can."""
    if place.stage:
        return place.stage - (axis == IN)
    return 0 if axis == IN else len(tables.stages)


def peak_bytes(rows: Sequence[MemoryRow], tables: Coefficients, designs: Designs) -> Floats:
    """Return the peak memory of many designs in bytes, [n].

    Args:
        rows: by `memory_rows`.
        tables: the problem's tables.
        designs: n of them.
    """
    peak = np.zeros(len(designs.rows))
    for row in rows:
        value = np.full(len(designs.rows), row.constant)
        for stage, size in row.widths.items():
            value += size[designs.width(stage)]
        for stage, size in row.inner.items():
            value += size[designs.inner(stage)]
        if row.further:
            value *= designs.depth(row.further) > 1
        if row.same:
            same = tables.stages[row.same - 1].same
            value *= same[designs.width(row.same - 1), designs.width(row.same)]
        np.maximum(peak, value, out=peak)
    return peak
