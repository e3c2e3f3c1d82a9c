"""The exact mixed-integer model of a problem on its grid, in Pyomo. Layer 3 (optimize).

One binary per width p_i[o] and per inner choice q_i[j], one integer per depth L_i. Costs depend on pairs of
neighbouring choices, so pair variables carry the exact tables as linear coefficients. They are transport plans between
one-hot choices: u_i between p_i-1 and q_i, w_i between p_i-1 and p_i, v_i between p_i and q_i,

    sum_j u_i[c, j] = p_i-1[c]        sum_c u_i[c, j] = q_i[j]

A number that goes with a pair, between a least and a most, is the pair taken twice, once at each end: the further
blocks of v, the sum of log w that travels with w. What each limit and each term of the objective adds stands with it,
in `deepmad_hw.optimize.quantities`; the model's optimum is a bound on every design's objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.grid import StageGrid
from deepmad_hw.optimize.layer_tables import StageTerms
from deepmad_hw.optimize.linear import (
    Milp,
    RowPlace,
    StageModel,
    Sum,
    Variables,
    by_choice,
    equal,
    exists,
    further_blocks,
)
from deepmad_hw.optimize.quantities import limited, objective_terms, sums_read

Floats = NDArray[np.float64]

ALL_LIMITS = "all limits"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Range:
    """What the sum of log w up to the stem or a stage may be, by width there.

    Args:
        least: [out].
        most: [out].
    """

    least: Floats
    most: Floats


def log_fan_in_ranges(tables: Coefficients) -> list[Range]:
    """Return for the stem and every stage what the sum of log w up to there may be, whatever it costs.

    Args:
        tables: the problem's tables.
    """
    found = [Range(least=tables.log_fan_in.stem, most=tables.log_fan_in.stem)]
    for grid, part in zip(tables.stages, tables.log_fan_in.stages, strict=True):
        first = part.first(grid)
        ends = np.stack([(depth - 1) * part.further for depth in grid.depth])
        before, allowed = found[-1], grid.allows
        least = np.where(allowed, before.least[:, None, None] + first + ends.min(axis=0), np.inf).min(axis=(0, 2))
        most = np.where(allowed, before.most[:, None, None] + first + ends.max(axis=0), -np.inf).max(axis=(0, 2))
        there = np.isfinite(most)
        found.append(Range(least=np.where(there, least, 0.0), most=np.where(there, most, 0.0)))
    return found


def build(tables: Coefficients, *, ranges: Sequence[Range], leave_out: str | None = None) -> Milp:
    """Return the model of a problem.

    Args:
        tables: the problem's tables.
        ranges: valid bounds on the sum of log w by width, for the stem and every stage.
        leave_out: name of a limit that is not imposed, or `ALL_LIMITS`.
    """
    model = pyo.ConcreteModel(name=tables.problem.name)
    model.rows = pyo.ConstraintList()
    model.by_choice = pyo.Constraint(pyo.Any)
    model.stem = pyo.Var(np.flatnonzero(tables.stages[0].allows.any(axis=(1, 2))).tolist(), domain=pyo.Binary)
    stem = _table(model.stem, (len(tables.stem_widths),))
    equal(model, Sum().add(stem, 1.0), 1.0)
    model.stage = pyo.Block(range(1, len(tables.stages) + 1))
    limits, terms = limited(tables), objective_terms(tables)
    read = [tables.quantities[name] for name in sums_read(limits, terms)]
    stages: list[StageModel] = []
    for i, grid in enumerate(tables.stages):
        given = stages[-1].width if stages else stem
        minds = any(bool(quantity.stages[i].identity.any()) for quantity in read)  # adding its input costs something
        stage = _stage_variables(model.stage[i + 1], grid, minds=minds, carries=ranges[i].least < ranges[i].most)
        _link(model, i, grid, stage, given)
        _carry_log_fan_in(model, tables, i, stage, stages[-1].log_fan_in if stages else None, ranges)
        stages.append(stage)
    milp = Milp(model=model, tables=tables, stem=stem, stages=tuple(stages), terms=terms, leave_out=leave_out)
    for term in terms:
        milp.objective.extend(term.add_to_milp(milp))
    model.objective = pyo.Objective(expr=milp.objective.expression(), sense=pyo.maximize)
    for limit in limits:
        if leave_out not in (limit.name, ALL_LIMITS):
            limit.add_to_milp(milp)
    return milp


def _table(variables: Any, shape: tuple[int, ...]) -> Variables:
    found = np.full(shape, None, dtype=object)
    for index, variable in variables.items():
        found[index] = variable
    return found


def _stage_variables(block: Any, grid: StageGrid, *, minds: bool, carries: NDArray[np.bool_]) -> StageModel:
    shape_in, shape_skip, shape_out = (
        pairs.shape for pairs in (grid.allows_in_inner, grid.allows_in_out, grid.allows_out_inner)
    )

    def places(mask: NDArray[np.bool_]) -> list[tuple[int, ...]]:
        return [tuple(place) for place in np.argwhere(mask).tolist()]

    block.p = pyo.Var(sorted({out for _, out in places(grid.allows_in_out)}), domain=pyo.Binary)
    block.q = pyo.Var(sorted({inner for _, inner in places(grid.allows_out_inner)}), domain=pyo.Binary)
    block.depth = pyo.Var(bounds=grid.depth, domain=pyo.Integers)
    block.u = pyo.Var(places(grid.allows_in_inner), bounds=(0, None))
    skips = np.stack([grid.allows_in_out, grid.allows_in_out & carries[:, None]])
    block.w = pyo.Var(places(skips), bounds=(0, None))
    blocks = np.stack([grid.allows_out_inner, grid.allows_out_inner & (grid.depth[0] < grid.depth[1])])
    block.v = pyo.Var(places(blocks), bounds=(0, None))
    meets = np.asarray((grid.same & grid.allows_in_out).any(axis=0))
    block.x = pyo.Var(places(grid.allows_out_inner & meets.reshape(-1, 1) & minds), bounds=(0, 1))
    block.z = pyo.Var(list(block.p), bounds=(0, None))
    return StageModel(
        width=_table(block.p, shape_skip[1:]),
        inner=_table(block.q, shape_in[1:]),
        depth=block.depth,
        first_in=_table(block.u, shape_in),
        skip=_table(block.w, (2, *shape_skip)),
        first_out=_table(block.v, (2, *shape_out)),
        added=_table(block.x, shape_out),
        log_fan_in=_table(block.z, shape_skip[1:]),
    )


def _link(model: Any, index: int, grid: StageGrid, stage: StageModel, given: Variables) -> None:
    """Tie pairs to choices and further blocks to the depth.

    ``sum of u, w, v over one end = the choice at the other``, ``sum of v * blocks = L - 1`` with v at both ends of the
    depth, ``sum_j x[o, j] = w[o, o]`` and ``x[o, j] <= v[o, j]``.
    """
    for kind, pairs, ends in (
        ("first_in", stage.first_in[None], {"in": given, "inner": stage.inner}),
        ("skip", stage.skip, {"in": given, "out": stage.width}),
        ("first_out", stage.first_out, {"out": stage.width, "inner": stage.inner}),
    ):
        for number, (axis, choices) in enumerate(ends.items(), start=1):
            place = RowPlace(kind, index, (axis,))
            for position, part in enumerate(np.moveaxis(pairs, number, 0)):
                if choices[position] is not None:
                    total = Sum(variables=[choices[position]], factors=[-1.0]).add(part, 1.0)
                    by_choice(model, place, (position,), total, equal=True)
    equal(model, Sum(variables=[stage.depth], factors=[-1.0]).add(stage.first_out, further_blocks(grid)), -1.0)
    for out in np.flatnonzero(exists(stage.added).any(axis=1)).tolist():
        before = int(np.argmax(grid.same[:, out]))
        total = Sum().add(stage.added[out], 1.0).add(stage.skip[:, before, out], -1.0)
        by_choice(model, RowPlace("adds", index, ("out",)), (out,), total, equal=True)
        for inner, added in enumerate(stage.added[out]):
            if added is not None:
                total = Sum(variables=[added], factors=[1.0]).add(stage.first_out[:, out, inner], -1.0)
                by_choice(model, RowPlace("added", index, ("out", "inner")), (out, inner), total)


def _carry_log_fan_in(
    model: Any,
    tables: Coefficients,
    i: int,
    stage: StageModel,
    before: Variables | None,
    ranges: Sequence[Range],
) -> None:
    """Carry S, the sum of log w, along the widths: what came with width c goes on with the pair (c, o) that is taken.

    ``z_i-1[c] = sum_o S w[c, o]``, ``z_i[o] = sum_c (S + by_skip[c, o]) w[c, o] + sum_j by_blocks[o, j] v[o, j]``,
    where w stands at the least and the most of S at c, and ``least p_i[o] <= z_i[o] <= most p_i[o]``.
    """
    carried = np.stack([ranges[i].least, ranges[i].most])
    for c, variable in enumerate(before if before is not None else ()):
        if variable is not None:
            arrives = Sum(variables=[variable], factors=[-1.0]).add(stage.skip[:, c], carried[:, c, None])
            by_choice(model, RowPlace("arrives", i, ("in",)), (c,), arrives, equal=True)
    grid, part = tables.stages[i], tables.log_fan_in.stages[i]
    by_skip, by_pair = _split_first(part)
    by_blocks = by_pair + further_blocks(grid) * part.further
    for o, total in enumerate(stage.log_fan_in):
        if total is None:
            continue
        leaves = Sum(variables=[total], factors=[-1.0]).add(stage.skip[:, :, o], carried + by_skip[:, o])
        leaves.add(stage.first_out[:, o], by_blocks[:, o])
        by_choice(model, RowPlace("leaves", i, ("out",)), (o,), leaves, equal=True)
        least, most, width = float(ranges[i + 1].least[o]), float(ranges[i + 1].most[o]), stage.width[o]
        above = Sum(variables=[total, width], factors=[1.0, -most])
        below = Sum(variables=[total, width], factors=[-1.0, least])
        by_choice(model, RowPlace("most", i, ("out",)), (o,), above)
        by_choice(model, RowPlace("least", i, ("out",)), (o,), below)


def _split_first(part: StageTerms) -> tuple[Floats, Floats]:
    """Return the first block's log w as a share of (in, out) plus a share of (out, inner).

    The logarithm of a product is a sum, so the (in, inner) share falls apart into one of each.
    """
    by_in = part.first_in[:, 0]
    by_inner = part.first_in[0] - by_in[0]
    assert np.allclose(by_in[:, None] + by_inner[None, :], part.first_in)
    return part.first_skip + by_in[:, None], part.first_out + by_inner[None, :]
