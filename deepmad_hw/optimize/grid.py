"""The choices of every stage, and which pairs of them some design of the space has. Layer 3 (optimize)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import InfeasibleError
from deepmad_hw.problem.space import Space

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StageGrid:
    """The choices of one stage and which pairs of them may meet.

    Args:
        in_widths: [in] channels given.
        out_widths: [out] channels returned.
        bottleneck: [inner] inner channels.
        kernel: [inner] kernel.
        depth: smallest and largest number of blocks.
        allows_in_inner: [in, inner] pairs that some design of the space has.
        allows_in_out: [in, out] likewise.
        allows_out_inner: [out, inner] likewise.
        same: [in, out] pairs whose first block adds its input.
        first_layers: layers of the first block that count in entropy.
        further_layers: likewise of a further block.
    """

    in_widths: Ints
    out_widths: Ints
    bottleneck: Ints
    kernel: Ints
    depth: tuple[int, int]
    allows_in_inner: Bools
    allows_in_out: Bools
    allows_out_inner: Bools
    same: Bools
    first_layers: int
    further_layers: int

    @property
    def allows(self) -> Bools:
        """Return which (in, out, inner) some design may have."""
        return self.allows_in_inner[:, None, :] & self.allows_in_out[:, :, None] & self.allows_out_inner[None, :, :]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Masks:
    """Which choices and pairs may be taken.

    Args:
        stem: [stem].
        pairs: (in_inner, in_out, out_inner) of every stage.
    """

    stem: Bools
    pairs: tuple[tuple[Bools, Bools, Bools], ...]


def axis_sizes(space: Space, stage: int) -> tuple[int, int, int, int]:
    """Return how many (in widths, out widths, bottlenecks, kernels) a stage has to choose from.

    Args:
        space: the space.
        stage: number of the stage from 1.
    """
    choice = space.stages[stage - 1]
    return len(widths_before(space, stage)), len(choice.out), len(choice.bottleneck), len(choice.kernel)


def widths_before(space: Space, stage: int) -> tuple[int, ...]:
    """Return the widths that a stage may be given.

    Args:
        space: the space.
        stage: number of the stage from 1.
    """
    return space.stages[stage - 2].out if stage > 1 else space.stem


def rule_masks(space: Space) -> Masks:
    """Return the pairs that keep the space's rules.

    Args:
        space: the space.
    """
    pairs = []
    for stage, choice in enumerate(space.stages, start=1):
        c, _, b, k = axis_sizes(space, stage)
        in_out = np.array([[space.allows_widths(x, y) for y in choice.out] for x in widths_before(space, stage)])
        inner = [[space.allows_bottleneck(y, x) for x in choice.bottleneck for _ in choice.kernel] for y in choice.out]
        pairs.append((np.ones((c, b * k), dtype=bool), in_out, np.array(inner)))
    return Masks(stem=np.ones(len(space.stem), dtype=bool), pairs=tuple(pairs))


def pruned(masks: Masks) -> Masks:
    """Return the pairs that some whole design can have.

    Args:
        masks: pairs that may be taken, each by itself.

    Raises:
        InfeasibleError: none is left.
    """
    reached = [masks.stem]
    for in_inner, in_out, out_inner in masks.pairs:
        step = _any(in_inner[:, None, :] & in_out[:, :, None] & out_inner[None, :, :], 2)
        reached.append(_any(reached[-1][:, None] & step, 0))
    useful = reached[-1]
    pairs: list[tuple[Bools, Bools, Bools]] = []
    for start, (in_inner, in_out, out_inner) in zip(reached[-2::-1], masks.pairs[::-1], strict=True):
        whole = in_inner[:, None, :] & in_out[:, :, None] & out_inner[None, :, :]
        whole &= start[:, None, None] & useful[None, :, None]
        pairs.append((_any(whole, 1), _any(whole, 2), _any(whole, 0)))
        useful = _any(whole, 1, 2)
    if not useful.any():
        raise InfeasibleError("the space's rules and tables leave no design", where="space")
    return Masks(stem=useful, pairs=tuple(pairs[::-1]))


def _any(mask: Bools, *axes: int) -> Bools:
    return np.asarray(mask.any(axis=axes), dtype=np.bool_)
