"""Designs as positions on a problem's grid: the one place that knows their columns. Layer 3 (optimize)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_PER_STAGE = 3  # columns of a stage: out, inner, depth


class StageColumns(NamedTuple):
    """One stage of some designs, each a position or an array of them.

    Args:
        before: position of the width that the stage is given.
        out: position of the width that it returns.
        inner: position of its (bottleneck, kernel).
        depth: number of its blocks.
    """

    before: Any
    out: Any
    inner: Any
    depth: Any


@dataclass(frozen=True, slots=True, eq=False)
class Designs:
    """Designs by named columns: the stem's width, then (out, inner, depth) of every stage.

    All but the depth, which is the number of blocks itself, are positions along the axes of a
    `deepmad_hw.optimize.grid.StageGrid`. Stages count from 1; stage 0 is the stem.

    Args:
        rows: [n, 1 + 3 * stages], or one design without the leading axis.

    Example:
        >>> two = Designs(np.array([[0, 4, 1, 2], [1, 5, 0, 3]]))
        >>> two.width(1), two.depths.ravel()
        (array([4, 5]), array([2, 3]))
    """

    rows: Ints

    @property
    def stages(self) -> range:
        """Return the numbers of the stages."""
        return range(1, self.rows.shape[-1] // _PER_STAGE + 1)

    @property
    def depths(self) -> Ints:
        """Return the blocks of every stage, [..., stages]."""
        return self.rows[..., _PER_STAGE::_PER_STAGE]

    def width(self, stage: int) -> Any:
        """Return the positions of the width after a stage.

        Args:
            stage: number of the stage, or 0 for the stem.
        """
        return self.rows[..., width_column(stage)]

    def inner(self, stage: int) -> Any:
        """Return the positions of a stage's (bottleneck, kernel).

        Args:
            stage: number of the stage.
        """
        return self.rows[..., _PER_STAGE * stage - 1]

    def depth(self, stage: int) -> Any:
        """Return the blocks of a stage.

        Args:
            stage: number of the stage.
        """
        return self.rows[..., _PER_STAGE * stage]

    def by_stage(self) -> Iterator[StageColumns]:
        """Yield the columns of each stage, with the width that it is given."""
        for stage in self.stages:
            yield StageColumns(self.width(stage - 1), self.width(stage), self.inner(stage), self.depth(stage))


def encoded(stem: Any, stages: Sequence[tuple[Any, Any, Any]]) -> Ints:
    """Return designs as rows of positions.

    Args:
        stem: position of the stem's width; a number, or [n] of them.
        stages: (out, inner, depth) of every stage, likewise.
    """
    columns = [stem, *(column for stage in stages for column in stage)]
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.int64)


def width_column(stage: int) -> int:
    """Return the column that holds the width after a stage.

    Args:
        stage: number of the stage, or 0 for the stem.
    """
    return _PER_STAGE * stage - 2 if stage else 0


def stage_columns(stage: int) -> slice:
    """Return the columns of one stage: out, inner, depth.

    Args:
        stage: number of the stage.
    """
    return slice(width_column(stage), width_column(stage) + _PER_STAGE)


def inner_stage(column: int) -> int | None:
    """Return the stage whose (bottleneck, kernel) a column holds, None for other columns.

    Args:
        column: of an encoded design.
    """
    return column // _PER_STAGE + 1 if column % _PER_STAGE == _PER_STAGE - 1 else None
