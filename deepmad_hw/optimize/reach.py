"""The smallest value of each limit that a space can reach, by dynamic programming over its stages. Layer 3 (optimize).

Each limit is taken alone, so a value above its limit proves the problem infeasible, and the values say what to ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmad_hw import check
from deepmad_hw.optimize.coefficients import Coefficients, Terms, value_of
from deepmad_hw.optimize.evaluator import first_block, whole_stage
from deepmad_hw.optimize.memory import MemoryRow, memory_rows, peak_bytes
from deepmad_hw.solution import Tightest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RHO_TOLERANCE = 1e-6  # relative, of the smallest reachable rho
_UNITS = {"macs": "MACs", "params": "params", "memory": "bytes", "rho": "1"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reach:
    """The smallest value of one limit.

    Args:
        limit: as in `deepmad_hw.solution.Tightest`.
        value: the smallest value, of a latency the upper value.
        allowed: the problem's limit.
        design: choices that reach it.
    """

    limit: str
    value: float
    allowed: float
    design: Ints

    @property
    def broken(self) -> bool:
        """Return whether no design keeps the limit."""
        return self.value > self.allowed

    def tightest(self) -> Tightest:
        """Return it as a record of a solution."""
        return Tightest(limit=self.limit, value=self.value, unit=_UNITS.get(self.limit, "ms"), proved=True)


def reachable(tables: Coefficients) -> Iterator[Reach]:
    """Return for every limit of the problem the smallest value that a design of the space has.

    Args:
        tables: the problem's tables.
    """
    limits = tables.problem.limits
    asked = limits.named()
    for name in tables.limits:
        amount, design = smallest_sum(tables, tables.quantities[name])
        yield Reach(limit=name, value=value_of(tables, name, amount), allowed=asked[name], design=design)
    if limits.memory_bytes is not None:
        value, design = smallest_peak(tables)
        yield Reach(limit="memory", value=value, allowed=limits.memory_bytes, design=design)
    if limits.rho is not None:
        value, design = smallest_rho(tables)
        yield Reach(limit="rho", value=value, allowed=limits.rho, design=design)


# --- sums -----------------------------------------------------------------------------------------------------------


def smallest_sum(tables: Coefficients, terms: Terms) -> tuple[float, Ints]:
    """Return the smallest value of an additive quantity over the space, and a design that has it.

    Args:
        tables: the problem's tables.
        terms: the quantity.
    """
    so_far = terms.stem
    steps: list[tuple[Ints, Ints, Ints]] = []
    for i, grid in enumerate(tables.stages):
        further = terms.stages[i].further
        depths = np.where(further < 0, grid.depth[1], grid.depth[0])
        step = first_block(tables, terms, i) + ((depths - 1) * further)[None, :, :]
        total = np.where(whole_stage(tables, i), so_far[:, None, None] + step, np.inf)
        so_far, before, inner = _best_way(total)
        steps.append((before, inner, depths[np.arange(len(inner)), inner]))
    so_far = so_far + terms.tail
    return float(so_far.min()), _walk_back(int(np.argmin(so_far)), steps)


def _best_way(total: Floats) -> tuple[Floats, Ints, Ints]:
    """Return over [in, out, inner] the smallest value per out, with the in and inner that give it."""
    ways = np.moveaxis(total, 1, 0).reshape(total.shape[1], -1)
    chosen = np.argmin(ways, axis=1)
    before, inner = np.divmod(chosen, total.shape[2])
    return ways[np.arange(len(ways)), chosen], before, inner


def _walk_back(out: int, steps: list[tuple[Ints, Ints, Ints]]) -> Ints:
    choices: list[int] = []
    for before, inner, depth in reversed(steps):
        choices = [out, int(inner[out]), int(depth[out]), *choices]
        out = int(before[out])
    return np.array([out, *choices], dtype=np.int64)


# --- peak memory ----------------------------------------------------------------------------------------------------


def smallest_peak(tables: Coefficients) -> tuple[float, Ints]:
    """Return the smallest peak memory over the space in bytes, and a design that has it.

    Args:
        tables: the problem's tables.
    """
    rows = memory_rows(tables)
    _, design = smallest_sum(tables, tables.quantities["params"])
    low, best = 0, int(peak_bytes(rows, tables, design[None])[0])
    while best - low > 1:
        middle = (low + best) // 2
        found = _design_within(tables, rows, middle)
        if found is None:
            low = middle
        else:
            design, best = found, min(middle, int(peak_bytes(rows, tables, found[None])[0]))
    return float(peak_bytes(rows, tables, design[None])[0]), design


def _design_within(tables: Coefficients, rows: tuple[MemoryRow, ...], limit: float) -> Ints | None:
    """Return a design whose every row keeps a limit, or None where there is none.

    Depths are smallest. What a backbone keeps for its outputs adds up; less of it is always at least as good.
    """
    kept = np.where(_rows_at(tables, rows, 0, np.zeros(len(tables.stem_widths))) <= limit, 0.0, np.inf)
    steps: list[tuple[Ints, Ints, Ints]] = []
    for i, grid in enumerate(tables.stages, start=1):
        peak = _rows_at(tables, rows, i, kept)
        keeps = _kept_size(rows, i - 1)
        total = np.where(whole_stage(tables, i - 1) & (peak <= limit), (kept + keeps)[:, None, None], np.inf)
        kept, before, inner = _best_way(total)
        steps.append((before, inner, np.full(len(inner), grid.depth[0])))
    return _walk_back(int(np.argmin(kept)), steps) if np.isfinite(kept).any() else None


def _rows_at(tables: Coefficients, rows: tuple[MemoryRow, ...], stage: int, kept: Floats) -> Floats:
    """Return the largest row that ends at a stage, over its [in, out, inner]; at the stem over its widths."""
    peak = np.zeros(1)
    for row in rows:
        if max([*row.widths, *row.inner], default=0) != stage:
            continue
        if row.further and tables.stages[row.further - 1].depth[0] == 1:
            continue
        own = row.widths.get(stage, np.zeros(1))
        if not stage:
            peak = np.maximum(peak, row.constant + own)
            continue
        value = row.constant + kept[:, None, None] + row.widths.get(stage - 1, np.zeros(1))[:, None, None]
        value = value + own[None, :, None] + row.inner.get(stage, np.zeros(1))[None, None, :]
        if row.same:
            value = np.where(tables.stages[stage - 1].same[:, :, None], value, 0.0)
        peak = np.maximum(peak, value)
    return peak


def _kept_size(rows: tuple[MemoryRow, ...], stage: int) -> Floats | float:
    """Return what a stage's features take once they wait for the end, 0 if they are no output."""
    for row in rows:
        if stage in row.widths and max([*row.widths, *row.inner]) > stage + 1:
            return row.widths[stage]
    return 0.0


# --- effectiveness --------------------------------------------------------------------------------------------------


def smallest_rho(tables: Coefficients) -> tuple[float, Ints]:
    """Return the smallest largest effectiveness over the space (to `RHO_TOLERANCE`), and a design that has it.

    Args:
        tables: the problem's tables.
    """
    _, design = smallest_sum(tables, tables.quantities["macs"])
    best = check.evaluate(tables.decode(design)).max_rho
    low = 0.0
    while best - low > RHO_TOLERANCE * best:
        middle = (low + best) / 2
        found = _design_of_rho(tables, middle)
        if found is None:
            low = middle
        else:
            design, best = found, min(middle, check.evaluate(tables.decode(found)).max_rho)
    return check.evaluate(tables.decode(design)).max_rho, design


def _design_of_rho(tables: Coefficients, limit: float) -> Ints | None:
    """Return a design whose rho keeps a limit at every scale, or None where there is none.

    For one width and one number of layers so far, more log w is always at least as good: a state is that pair.
    """
    size = 1 + tables.stem_layers + sum(g.first_layers + (g.depth[1] - 1) * g.further_layers for g in tables.stages)
    log_w = np.full((len(tables.stem_widths), size), -np.inf)
    log_w[:, tables.stem_layers] = tables.log_fan_in.stem
    log_w = _kept_by_rho(tables, log_w, 0, limit)
    steps: list[tuple[Ints, Ints, Ints]] = []
    for i in range(len(tables.stages)):
        log_w, step = _deeper(tables, log_w, i)
        log_w = _kept_by_rho(tables, log_w, i + 1, limit)
        steps.append(step)
    if not np.isfinite(log_w).any():
        return None
    out, layers = np.unravel_index(int(np.argmax(log_w)), log_w.shape)
    return _walk_back_layers(tables, int(out), int(layers), steps)


def _kept_by_rho(tables: Coefficients, log_w: Floats, stage: int, limit: float) -> Floats:
    """Return the states after a stage without those that break rho at a scale taken there."""
    for scale in tables.scales:
        if scale.stage != stage:
            continue
        layers = np.arange(log_w.shape[1], dtype=float) + (tables.head_layers if scale.after_head else 0)
        reached = log_w + (tables.log_fan_in.tail[:, None] if scale.after_head else 0.0)
        broken = layers * np.log(np.maximum(layers, 1) / limit) > reached
        log_w = np.where(broken, -np.inf, log_w)
    return log_w


def _deeper(tables: Coefficients, log_w: Floats, stage: int) -> tuple[Floats, tuple[Ints, Ints, Ints]]:
    """Return the states after one more stage, with the (in, inner, depth) that lead to each."""
    grid = tables.stages[stage]
    allowed = whole_stage(tables, stage)
    first = first_block(tables, tables.log_fan_in, stage)
    further = tables.log_fan_in.stages[stage].further
    shape = (len(grid.out_widths), log_w.shape[1])
    best = np.full(shape, -np.inf)
    before, inner, depth = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    for blocks in range(grid.depth[0], grid.depth[1] + 1):
        gain = np.where(allowed, first + (blocks - 1) * further[None, :, :], -np.inf)
        best_inner, gain = gain.argmax(axis=2), gain.max(axis=2)
        shift = grid.first_layers + (blocks - 1) * grid.further_layers
        total = log_w[:, None, : log_w.shape[1] - shift] + gain[:, :, None]
        source, total = total.argmax(axis=0), total.max(axis=0)
        rows, columns = np.nonzero(total > best[:, shift:])
        came = source[rows, columns]
        best[rows, columns + shift] = total[rows, columns]
        before[rows, columns + shift] = came
        inner[rows, columns + shift] = best_inner[came, rows]
        depth[rows, columns + shift] = blocks
    return best, (before, inner, depth)


def _walk_back_layers(tables: Coefficients, out: int, layers: int, steps: list[tuple[Ints, Ints, Ints]]) -> Ints:
    choices: list[int] = []
    for grid, (before, inner, depth) in zip(reversed(tables.stages), reversed(steps), strict=True):
        blocks = int(depth[out, layers])
        choices = [out, int(inner[out, layers]), blocks, *choices]
        out, layers = int(before[out, layers]), layers - grid.first_layers - (blocks - 1) * grid.further_layers
    return np.array([out, *choices], dtype=np.int64)
