"""Times of whole blocks divided among the layers they are made of. Layer 3.

Nobody measured the parts, so a law of each sort of operation is fitted to the sums, and every block's time is shared
out as the law says. What the layers of a block then add up to is what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.network import costs
from deepmad_hw.network.layer import LayerSpec

Floats = NDArray[np.float64]


def divided_us(blocks: Sequence[tuple[Sequence[LayerSpec], float]]) -> list[list[float]]:
    """Return for each block what each of its layers takes in microseconds.

    Args:
        blocks: the layers of each block, and what they take together in microseconds.
    """
    from scipy.optimize import nnls

    if not blocks:
        return []
    sorts = sorted({(spec.op, spec.depthwise) for specs, _ in blocks for spec in specs})
    column = {sort: position for position, sort in enumerate(sorts)}
    quantities = [[_quantities(spec) for spec in specs] for specs, _ in blocks]
    sums = np.zeros((len(blocks), len(sorts), _quantities(blocks[0][0][0]).size))
    for row, (specs, _) in enumerate(blocks):
        for spec, values in zip(specs, quantities[row], strict=True):
            sums[row, column[spec.op, spec.depthwise]] += values
    times_us = np.array([time_us for _, time_us in blocks])
    law = nnls(sums.reshape(len(blocks), -1) / times_us[:, None], np.ones(len(blocks)))[0].reshape(sums.shape[1:])
    divided = []
    for (specs, time_us), each in zip(blocks, quantities, strict=True):
        shares = np.array(
            [float(values @ law[column[s.op, s.depthwise]]) for s, values in zip(specs, each, strict=True)]
        )
        # A layer that the law gives nothing still takes some time.
        shares = np.maximum(shares, 0.01 * max(float(shares.sum()), 1e-9))
        divided.append((time_us * shares / shares.sum()).tolist())
    return divided


def _quantities(spec: LayerSpec) -> Floats:
    values = spec.in_channels * spec.height * spec.width + spec.out_channels * spec.out_height * spec.out_width
    return np.array([1.0, costs.layer_macs(spec) * 1e-4, values * 1e-3])
