"""A smooth stand-in for a latency table: posynomials in widths, bottlenecks and kernels. Layer 3 (optimize).

Each share of the table (one per stage and place in the block, see `coefficients`) is fitted by nonnegative least
squares on the products that physics suggests: fixed costs, channels moved, channels times channels computed. With
coefficients >= 0 the stand-in stays positive, smooth and convex in the logarithms between the grid's points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from deepmad_hw.optimize.coefficients import Coefficients, sample_designs
from deepmad_hw.optimize.encoding import Designs
from deepmad_hw.optimize.grid import StageGrid
from deepmad_hw.optimize.layer_tables import StageTerms, Terms

Floats = NDArray[np.float64]

_WIDTH_POWERS = (0.0, 0.5, 1.0)
_INNER_POWERS = (0.0, 0.5, 1.0, 2.0)  # squared: kxk convolutions between equal widths, squeeze-excite
_KERNEL_POWERS = (0.0, 1.0, 2.0)
_MAX_ROWS = 300  # of one fit; a grid's rows are far more alike than that
_ERROR_DESIGNS = 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Posynomial:
    """A sum of ``coefficient * exp(powers . logs)`` with coefficients >= 0.

    Args:
        coefficients: [m] in the fitted unit.
        powers: [m, v] of the variables.
    """

    coefficients: Floats
    powers: Floats

    def __call__(self, logs: Sequence[Any], *, exp: Any) -> Any:
        """Return its value.

        Args:
            logs: [v] logarithms of the variables: floats, arrays or model variables.
            exp: exponential fit for them.
        """
        total: Any = 0.0
        for coefficient, powers in zip(self.coefficients, self.powers, strict=True):
            inside = sum(float(power) * log for power, log in zip(powers, logs, strict=True) if power)
            total = total + float(coefficient) * (exp(inside) if not isinstance(inside, int) else 1.0)
        return total


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Surrogate:
    """One quantity of `Coefficients` as posynomials.

    Args:
        stem: in (stem width).
        stages: by name of the pair, in (in, bottleneck, kernel), (in, out) or (out, bottleneck, kernel).
        tail: in (last width).
        median_error: median relative error over random designs of the space.
        worst_error: largest relative error over them.
    """

    stem: Posynomial
    stages: tuple[Mapping[str, Posynomial], ...]
    tail: Posynomial
    median_error: float
    worst_error: float


def fit_surrogate(tables: Coefficients, terms: Terms) -> Surrogate:
    """Return posynomials close to one quantity's tables in relative error.

    Args:
        tables: the problem's tables.
        terms: the quantity.
    """
    stem = _fit(terms.stem, [tables.stem_widths], (_WIDTH_POWERS,))
    tail = _fit(terms.tail, [tables.stages[-1].out_widths], (_WIDTH_POWERS,))
    stages = tuple(_fit_stage(grid, part) for grid, part in zip(tables.stages, terms.stages, strict=True))
    median, worst = _errors(tables, terms, stem, stages, tail)
    return Surrogate(stem=stem, stages=stages, tail=tail, median_error=median, worst_error=worst)


def _fit_stage(grid: StageGrid, part: StageTerms) -> dict[str, Posynomial]:
    inner_powers = (_WIDTH_POWERS, _INNER_POWERS, _KERNEL_POWERS)
    shares = {
        "first_in": (part.first_in, grid.allows_in_inner, grid.in_widths, inner_powers),
        "first_skip": (part.first_skip, grid.allows_in_out, grid.in_widths, (_WIDTH_POWERS, _WIDTH_POWERS)),
        "first_out": (part.first_out, grid.allows_out_inner, grid.out_widths, inner_powers),
        "further": (part.further, grid.allows_out_inner, grid.out_widths, inner_powers),
    }
    found = {}
    for name, (values, allowed, widths, powers) in shares.items():
        rows, columns = np.nonzero(allowed)
        variables = [widths[rows]]
        variables += [grid.out_widths[columns]] if name == "first_skip" else [grid.bottleneck[columns]]
        variables += [] if name == "first_skip" else [grid.kernel[columns]]
        found[name] = _fit(values[rows, columns], variables, powers)
    return found


def _fit(values: Floats, variables: Sequence[Any], powers: Sequence[Sequence[float]]) -> Posynomial:
    """Return the posynomial of least relative error at some points."""
    exponents = np.array(list(product(*powers)))
    picked = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MAX_ROWS)).round().astype(int))
    wanted = values[picked]
    if not wanted.any():
        return Posynomial(coefficients=np.zeros(0), powers=np.zeros((0, len(powers))))
    logs = np.stack([np.log(np.asarray(variable, dtype=float))[picked] for variable in variables], axis=1)
    columns = np.exp(logs @ exponents.T)
    weights = 1 / np.maximum(wanted, 1e-3 * wanted.max())
    weighted = columns * weights[:, None]
    sizes = np.linalg.norm(weighted, axis=0)
    solution, _ = nnls(weighted / sizes, wanted * weights, maxiter=50 * len(exponents))
    kept = solution > 0
    return Posynomial(coefficients=(solution / sizes)[kept], powers=exponents[kept])


def _errors(
    tables: Coefficients, terms: Terms, stem: Posynomial, stages: Sequence[Mapping[str, Posynomial]], tail: Posynomial
) -> tuple[float, float]:
    designs = sample_designs(tables, _ERROR_DESIGNS, seed=0)
    rows = Designs(designs)
    log_width = np.log(tables.stem_widths)[rows.width(0)]
    fitted = stem([log_width], exp=np.exp)
    for grid, fit, (_, out, inner, depth) in zip(tables.stages, stages, rows.by_stage(), strict=True):
        logs = [log_width, np.log(grid.bottleneck)[inner], np.log(grid.kernel)[inner]]
        log_width = np.log(grid.out_widths)[out]
        fitted = fitted + stage_value(fit, logs[0], log_width, logs[1], logs[2], depth, exp=np.exp)
    fitted = fitted + tail([log_width], exp=np.exp)
    error = np.abs(fitted / terms.of(tables.stages, designs) - 1)
    return float(np.median(error)), float(error.max())


def stage_value(
    fit: Mapping[str, Posynomial], given: Any, out: Any, bottleneck: Any, kernel: Any, depth: Any, *, exp: Any
) -> Any:
    """Return one stage's share.

    Args:
        fit: the stage's posynomials.
        given: log of the width given.
        out: log of the width returned.
        bottleneck: log of the bottleneck.
        kernel: log of the kernel.
        depth: number of blocks.
        exp: exponential fit for these.
    """
    first = fit["first_in"]([given, bottleneck, kernel], exp=exp) + fit["first_skip"]([given, out], exp=exp)
    first = first + fit["first_out"]([out, bottleneck, kernel], exp=exp)
    return first + (depth - 1) * fit["further"]([out, bottleneck, kernel], exp=exp)
