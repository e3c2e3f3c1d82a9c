"""What adds up over the layers of thousands of designs at once. Layer 3 (optimize)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.optimize.coefficients import Coefficients, ScalePlace
from deepmad_hw.optimize.encoding import Designs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Walked:
    """n designs and what adds up over their layers.

    Args:
        designs: the designs.
        sums: [n] of each quantity, by name.
        log_fan_in: [n] sums of log w up to the stem and every stage, then with the head.
        layers: [n] counted layers, likewise.
    """

    designs: Designs
    sums: Mapping[str, Floats]
    log_fan_in: tuple[Floats, ...]
    layers: tuple[Floats, ...]

    def at(self, scale: ScalePlace) -> tuple[Floats, Floats]:
        """Return the sums of log w and the counted layers up to a scale.

        Args:
            scale: where.
        """
        place = -1 if scale.after_head else scale.stage
        return self.log_fan_in[place], self.layers[place]


class Walk:
    """Adds up quantities over the layers of designs, all of them in one pass.

    Args:
        tables: the problem's tables.
        names: of the quantities, as in `Coefficients.quantities`.
    """

    def __init__(self, tables: Coefficients, names: Sequence[str]) -> None:
        self._tables = tables
        self._names = tuple(names)
        terms = [tables.quantities[name] for name in names] + [tables.log_fan_in]
        self._stem = np.stack([term.stem for term in terms], axis=-1)
        self._tail = np.stack([term.tail for term in terms], axis=-1)
        self._first, self._further = [], []
        for i, grid in enumerate(tables.stages):
            parts = [term.stages[i] for term in terms]
            self._first.append(np.stack([part.first(grid) for part in parts], axis=-1))
            self._further.append(np.stack([part.further for part in parts], axis=-1))

    def __call__(self, designs: Ints) -> Walked:
        """Return what adds up over the layers of designs that the space allows.

        Args:
            designs: [n, columns].
        """
        tables, rows = self._tables, Designs(designs)
        total = self._stem[rows.width(0)]
        layers = np.full(len(designs), float(tables.stem_layers))
        log_fan_in, counted = [total[:, -1]], [layers]
        for i, (before, out, inner, depth) in enumerate(rows.by_stage()):
            grid, further = tables.stages[i], depth - 1
            total = total + self._first[i][before, out, inner] + further[:, None] * self._further[i][out, inner]
            layers = layers + grid.first_layers + further * grid.further_layers
            log_fan_in.append(total[:, -1])
            counted.append(layers)
        total = total + self._tail[rows.width(len(tables.stages))]
        return Walked(
            designs=rows,
            sums={name: total[:, column] for column, name in enumerate(self._names)},
            log_fan_in=(*log_fan_in, total[:, -1]),
            layers=(*counted, layers + tables.head_layers),
        )
