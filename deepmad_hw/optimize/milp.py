"""The exact mixed-integer model of a problem on its grid, in Pyomo. Layer 3 (optimize).

One binary per width (`p`) and per inner choice (`q`), one integer per depth. Costs depend on pairs of neighbouring
choices, so pair variables (`u`, `w`, `v`, transport plans between one-hot choices) carry the exact tables as linear
coefficients. A number that goes with a pair, between a least and a most, is the pair taken twice, once at each end: the
further blocks of `v`, the sum of log w that travels with `w`. The score multiplies the logarithm of a scale's width
with that sum (`z[o]` is the sum if the width is o, else 0), so the product is linear and needs no big constant but
valid bounds on the sum. rho's ``D log D`` is exact by chords between attainable D; the penalty Q is convex and bounded
from below by tangents, so the model's optimum is a bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray
from pyomo.core.expr import LinearExpression

from deepmad_hw import entropy
from deepmad_hw.optimize.coefficients import Coefficients, ScalePlace, StageGrid, StageTerms
from deepmad_hw.optimize.evaluator import first_block, whole_stage
from deepmad_hw.optimize.memory import MemoryRow, memory_rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Variables = NDArray[Any]  # Pyomo variables in the shape of a table; None where a pair cannot be

ALL_LIMITS = "all limits"
ROW_SCALE = 1000.0  # a limit's row ends at this, so that a solver's absolute tolerance is a billionth of the limit
TURNS = 6  # of a polyhedral cone: the norm of two numbers comes out at most 0.03 % too small
SPREAD_STEP = 0.1  # between tangents of exp: Q comes out at most 0.13 % too small
STEEPEST = 8.0  # standard deviation of depths beyond which no more tangents are laid (Q is 30,000 there)


class RowPlace(NamedTuple):
    """Which rows there are one of for each choice: of what kind, in which stage, along which axes."""

    kind: str
    stage: int
    axes: tuple[str, ...]


@dataclass(kw_only=True)
class Sum:
    """A linear expression while it is collected."""

    variables: list[Any] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    constant: float = 0.0

    def add(self, variables: Variables, factors: Floats | float) -> Sum:
        """Add ``factors * variables`` where there is a variable.

        Args:
            variables: any shape.
            factors: of the same shape, or one number.
        """
        there = exists(variables)
        values: Floats = np.broadcast_to(np.asarray(factors, dtype=float), variables.shape)[there]
        nonzero = values != 0
        self.variables += list(variables[there][nonzero])
        self.factors += values[nonzero].tolist()
        return self

    def extend(self, other: Sum, factor: float = 1.0) -> Sum:
        """Add a multiple of another sum.

        Args:
            other: the sum.
            factor: its multiple.
        """
        self.variables += other.variables
        self.factors += [factor * value for value in other.factors]
        self.constant += factor * other.constant
        return self

    def expression(self) -> Any:
        """Return it as a Pyomo expression."""
        return LinearExpression(constant=self.constant, linear_coefs=self.factors, linear_vars=self.variables)


def exists(variables: Variables) -> NDArray[np.bool_]:
    """Return where a table has a variable (Pyomo takes ``!= None`` for a constraint).

    Args:
        variables: any shape.
    """
    flat = [variable is not None for variable in variables.ravel()]
    return np.array(flat, dtype=np.bool_).reshape(variables.shape)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StageModel:
    """The variables of one stage.

    Args:
        width: [out] binaries p.
        inner: [inner] binaries q.
        depth: integer.
        first_in: [in, inner] u.
        skip: [2, in, out] w, with the least and the largest sum of log w that comes with a width.
        first_out: [2, out, inner] v, with the fewest and the most further blocks.
        added: [out, inner] x, first blocks that add their input; None anywhere if no table minds.
        log_fan_in: [out] z, sum of log w up to here if the width is this one, else 0.
    """

    width: Variables
    inner: Variables
    depth: Any
    first_in: Variables
    skip: Variables
    first_out: Variables
    added: Variables
    log_fan_in: Variables


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Milp:
    """The model of one problem.

    Args:
        model: Pyomo's.
        tables: what it was made from.
        stem: [stem] binaries.
        stages: variables of the stages.
        penalty: Q.
        objective: score minus penalty.
    """

    model: Any
    tables: Coefficients
    stem: Variables
    stages: tuple[StageModel, ...]
    penalty: Any
    objective: Sum

    @property
    def penalised(self) -> tuple[Any, ...]:
        """Return the depths that enter the penalty."""
        family = self.tables.problem.space.family
        return tuple(entropy.penalised_depths(family, [stage.depth for stage in self.stages]))

    def design(self) -> Ints:
        """Return the model's point as choices, as `Coefficients.encode` gives them."""
        choices = [_chosen(self.stem)]
        for stage in self.stages:
            choices += [_chosen(stage.width), _chosen(stage.inner), round(stage.depth.value)]
        return np.array(choices, dtype=np.int64)

    def exclude(self, design: Ints) -> None:
        """Cut off one design: some choice differs, or some depth lies below or above.

        Args:
            design: choices.
        """
        model = self.model
        if not hasattr(model, "differs"):
            model.differs = pyo.VarList(domain=pyo.Binary)
        taken = [self.stem[design[0]]]
        for index, stage in enumerate(self.stages):
            taken += [stage.width[design[1 + 3 * index]], stage.inner[design[2 + 3 * index]]]
        total = Sum(variables=taken, factors=[-1.0] * len(taken), constant=float(len(taken)))
        for index, stage in enumerate(self.stages):
            depth, (least, most) = int(design[3 + 3 * index]), self.tables.stages[index].depth
            below, above = model.differs.add(), model.differs.add()
            model.rows.add(stage.depth + (most - depth + 1) * below <= most)
            model.rows.add(stage.depth - (depth + 1 - least) * above >= least)
            total.extend(Sum(variables=[below, above], factors=[1.0, 1.0]))
        model.rows.add((1, total.expression(), None))


def _chosen(choice: Variables) -> int:
    return int(np.argmax([-1.0 if variable is None else variable.value for variable in choice]))


# --- building -------------------------------------------------------------------------------------------------------


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
    for i, grid in enumerate(tables.stages):
        first, further = first_block(tables, tables.log_fan_in, i), tables.log_fan_in.stages[i].further
        ends = np.stack([(depth - 1) * further for depth in grid.depth])
        before, allowed = found[-1], whole_stage(tables, i)
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
    model.stem = pyo.Var(np.flatnonzero(whole_stage(tables, 0).any(axis=(1, 2))).tolist(), domain=pyo.Binary)
    stem = _table(model.stem, (len(tables.stem_widths),))
    _equal(model, Sum().add(stem, 1.0), 1.0)
    model.stage = pyo.Block(range(1, len(tables.stages) + 1))
    stages: list[StageModel] = []
    for i, grid in enumerate(tables.stages):
        given = stages[-1].width if stages else stem
        minds = _minds_adding(tables, i)
        stage = _stage_variables(model.stage[i + 1], grid, minds=minds, carries=ranges[i].least < ranges[i].most)
        _link(model, i, grid, stage, given)
        _carry_log_fan_in(model, tables, i, stage, stages[-1].log_fan_in if stages else None, ranges)
        stages.append(stage)
    model.penalty = pyo.Var(bounds=(entropy.PENALTY_WEIGHT, None))
    milp = Milp(
        model=model,
        tables=tables,
        stem=stem,
        stages=tuple(stages),
        penalty=model.penalty,
        objective=Sum(variables=[model.penalty], factors=[-1.0]).extend(_score(tables, stem, stages)),
    )
    model.objective = pyo.Objective(expr=milp.objective.expression(), sense=pyo.maximize)
    _add_penalty(milp)
    _add_limits(milp, leave_out)
    return milp


def _table(variables: Any, shape: tuple[int, ...]) -> Variables:
    found = np.full(shape, None, dtype=object)
    for index, variable in variables.items():
        found[index] = variable
    return found


def _equal(model: Any, total: Sum, value: float) -> None:
    model.rows.add((value, total.expression(), value))


def _at_most(model: Any, total: Sum, value: float) -> None:
    model.rows.add((None, total.expression(), value))


def _by_choice(model: Any, place: RowPlace, choices: tuple[int, ...], total: Sum, *, equal: bool = False) -> None:
    """Add ``total <= 0``, or ``= 0``, for one choice of a stage; other grids have the same row for theirs."""
    model.by_choice[place, choices] = (0.0 if equal else None, total.expression(), 0.0)


def _minds_adding(tables: Coefficients, stage: int) -> bool:
    return any(bool(tables.quantities[name].stages[stage].identity.any()) for name in tables.limits)


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
    """Tie pairs to choices: row sums are one choice, column sums the other; and further blocks to the depth."""
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
                    _by_choice(model, place, (position,), total, equal=True)
    _equal(model, Sum(variables=[stage.depth], factors=[-1.0]).add(stage.first_out, _further_blocks(grid)), -1.0)
    for out in np.flatnonzero(exists(stage.added).any(axis=1)).tolist():
        before = int(np.argmax(grid.same[:, out]))
        total = Sum().add(stage.added[out], 1.0).add(stage.skip[:, before, out], -1.0)
        _by_choice(model, RowPlace("adds", index, ("out",)), (out,), total, equal=True)
        for inner, added in enumerate(stage.added[out]):
            if added is not None:
                total = Sum(variables=[added], factors=[1.0]).add(stage.first_out[:, out, inner], -1.0)
                _by_choice(model, RowPlace("added", index, ("out", "inner")), (out, inner), total)


def _further_blocks(grid: StageGrid) -> Floats:
    """Return the fewest and the most further blocks, [2, 1, 1] for the pairs that carry them."""
    return np.array(grid.depth, dtype=float).reshape(2, 1, 1) - 1


def _carry_log_fan_in(
    model: Any,
    tables: Coefficients,
    i: int,
    stage: StageModel,
    before: Variables | None,
    ranges: Sequence[Range],
) -> None:
    """Carry the sum of log w along the widths: what came with width c goes on with the pair (c, o) that is taken."""
    carried = np.stack([ranges[i].least, ranges[i].most])
    for c, variable in enumerate(before if before is not None else ()):
        if variable is not None:
            arrives = Sum(variables=[variable], factors=[-1.0]).add(stage.skip[:, c], carried[:, c, None])
            _by_choice(model, RowPlace("arrives", i, ("in",)), (c,), arrives, equal=True)
    grid, part = tables.stages[i], tables.log_fan_in.stages[i]
    by_skip, by_pair = _split_first(part)
    by_blocks = by_pair + _further_blocks(grid) * part.further
    for o, total in enumerate(stage.log_fan_in):
        if total is None:
            continue
        leaves = Sum(variables=[total], factors=[-1.0]).add(stage.skip[:, :, o], carried + by_skip[:, o])
        leaves.add(stage.first_out[:, o], by_blocks[:, o])
        _by_choice(model, RowPlace("leaves", i, ("out",)), (o,), leaves, equal=True)
        least, most, width = float(ranges[i + 1].least[o]), float(ranges[i + 1].most[o]), stage.width[o]
        above = Sum(variables=[total, width], factors=[1.0, -most])
        below = Sum(variables=[total, width], factors=[-1.0, least])
        _by_choice(model, RowPlace("most", i, ("out",)), (o,), above)
        _by_choice(model, RowPlace("least", i, ("out",)), (o,), below)


def _split_first(part: StageTerms) -> tuple[Floats, Floats]:
    """Return the first block's log w as a share of (in, out) plus a share of (out, inner).

    The logarithm of a product is a sum, so the (in, inner) share falls apart into one of each.
    """
    by_in = part.first_in[:, 0]
    by_inner = part.first_in[0] - by_in[0]
    assert np.allclose(by_in[:, None] + by_inner[None, :], part.first_in)
    return part.first_skip + by_in[:, None], part.first_out + by_inner[None, :]


# --- objective ------------------------------------------------------------------------------------------------------


def _score(tables: Coefficients, stem: Variables, stages: Sequence[StageModel]) -> Sum:
    total = Sum()
    for scale in tables.scales:
        weight = entropy.LAST_SCALE_WEIGHT if scale is tables.scales[-1] else 1
        _add_entropy(total, tables, scale, stem, stages, 0.5 * weight)
    return total


def _add_entropy(
    total: Sum, tables: Coefficients, scale: ScalePlace, stem: Variables, stages: Sequence[StageModel], weight: float
) -> None:
    head = tables.problem.space.head
    if scale.after_head and head is not None:
        size = weight * (math.log(scale.pixels) + math.log(head.out))
        total.add(stages[-1].log_fan_in, size).add(stages[-1].width, size * tables.log_fan_in.tail)
        return
    sizes = weight * (math.log(scale.pixels) + np.log(tables.out_widths(scale.stage)))
    if scale.stage:
        total.add(stages[scale.stage - 1].log_fan_in, sizes)
    else:
        total.add(stem, sizes * tables.log_fan_in.stem)


def _add_penalty(milp: Milp) -> None:
    """Bound Q from below as a function of the depths' standard deviation: Q is convex and does not fall with it."""
    depths, model = milp.penalised, milp.model
    if len(depths) < 2:
        model.penalty.setub(entropy.PENALTY_WEIGHT)
        return
    mean = sum(depths) / len(depths)
    most = max(depth.ub for depth in depths) - min(depth.lb for depth in depths)
    model.cone = pyo.VarList(bounds=(0, most * len(depths)))  # finite, so that any prices of the rows give a bound
    norm = _norm(model, [depth - mean for depth in depths])
    model.spread = pyo.Var(bounds=(0, most))
    model.rows.add(model.spread == norm / math.sqrt(len(depths)))
    squared = milp.tables.problem.penalty == "variance"
    steepest = math.sqrt(STEEPEST) if squared else STEEPEST
    for at in np.arange(0.0, min(most / 2, steepest) + SPREAD_STEP, SPREAD_STEP / (2 if squared else 1)):
        value = entropy.PENALTY_WEIGHT * math.exp(at**2 if squared else at)
        slope = value * (2 * at if squared else 1.0)
        model.rows.add(model.penalty >= value + slope * (model.spread - at))
        model.penalty.setub(max(entropy.PENALTY_WEIGHT, value + slope * (most - at)))


def _norm(model: Any, parts: Sequence[Any]) -> Any:
    """Return a variable that a least-cost solution makes the Euclidean norm of linear expressions, never above it.

    Pairs are joined in a tree; each pair's cone is cut out by a few rotations (Ben-Tal and Nemirovski, "On polyhedral
    approximations of the second-order cone", Mathematics of Operations Research 26, 2001).
    """
    while len(parts) > 1:
        joined = [_norm_of_two(model, *pair) for pair in zip(parts[0::2], parts[1::2], strict=False)]
        parts = joined + list(parts[len(parts) - len(parts) % 2 :])
    return parts[0]


def _norm_of_two(model: Any, one: Any, other: Any) -> Any:
    along, across = model.cone.add(), model.cone.add()
    for variable, part in ((along, one), (across, other)):
        model.rows.add(variable >= part)
        model.rows.add(variable >= -part)
    for turn in range(1, TURNS + 1):
        angle = math.pi / 2 ** (turn + 1)
        turned = math.cos(angle) * along + math.sin(angle) * across
        rest = -math.sin(angle) * along + math.cos(angle) * across
        along, across = model.cone.add(), model.cone.add()
        model.rows.add(along == turned)
        model.rows.add(across >= rest)
        model.rows.add(across >= -rest)
    model.rows.add(across <= math.tan(math.pi / 2 ** (TURNS + 1)) * along)
    return along


# --- limits ---------------------------------------------------------------------------------------------------------


def _add_limits(milp: Milp, leave_out: str | None) -> None:
    tables, limits = milp.tables, milp.tables.problem.limits
    for name, bound in tables.limits.items():
        if leave_out not in (name, ALL_LIMITS):
            _at_most(milp.model, Sum().extend(quantity(milp, name), ROW_SCALE / bound), ROW_SCALE)
    if limits.memory_bytes is not None and leave_out not in ("memory", ALL_LIMITS):
        add_memory(milp, Sum(constant=-float(limits.memory_bytes)))
    if limits.rho is not None and leave_out not in ("rho", ALL_LIMITS):
        for scale in tables.scales:
            add_rho(milp, scale, limits.rho)


def quantity(milp: Milp, name: str) -> Sum:
    """Return an additive quantity of the design.

    Args:
        milp: the model.
        name: as in `Coefficients.quantities`.
    """
    terms = milp.tables.quantities[name]
    total = Sum().add(milp.stem, terms.stem)
    for grid, stage, part in zip(milp.tables.stages, milp.stages, terms.stages, strict=True):
        blocks = part.first_out + _further_blocks(grid) * part.further
        total.add(stage.first_in, part.first_in).add(stage.skip, part.first_skip).add(stage.first_out, blocks)
        total.add(stage.added, part.identity)
    return total.add(milp.stages[-1].width, terms.tail)


def add_rho(milp: Milp, scale: ScalePlace, limit: float, *, slack: Any = None) -> None:
    """Add ``D log(D / rho_0) <= sum of log w`` at one scale, by its chords between attainable D.

    Args:
        milp: the model.
        scale: the scale.
        limit: rho_0.
        slack: variable added to the left side, or None.
    """
    tables = milp.tables
    grids = tables.stages[: scale.stage]
    log_fan_in = Sum()
    if scale.stage:
        log_fan_in.add(milp.stages[scale.stage - 1].log_fan_in, 1.0)
    else:
        log_fan_in.add(milp.stem, tables.log_fan_in.stem)
    if scale.after_head:
        log_fan_in.add(milp.stages[-1].width, tables.log_fan_in.tail)
    if slack is not None:
        log_fan_in.extend(Sum(variables=[slack], factors=[-1.0]))
    head = tables.head_layers if scale.after_head else 0
    fixed = tables.stem_layers + head + sum(grid.first_layers - grid.further_layers for grid in grids)
    step = grids[0].further_layers if grids else 0

    def needed(blocks: int) -> float:
        layers = fixed + step * blocks
        return layers * math.log(layers / limit)

    depths = [stage.depth for stage in milp.stages[: scale.stage]]
    fewest, most = sum(grid.depth[0] for grid in grids), sum(grid.depth[1] for grid in grids)
    for blocks in range(fewest, max(most, fewest + 1)):
        slope = needed(blocks + 1) - needed(blocks) if grids else 0.0
        chord = Sum(variables=list(depths), factors=[slope] * len(depths), constant=needed(blocks) - slope * blocks)
        chord.extend(log_fan_in, -1.0)
        milp.model.rows.add((None, chord.expression(), 0))


def add_memory(milp: Milp, minus_limit: Sum) -> None:
    """Add the peak memory's rows, ``bytes alive - limit <= 0``; those that count only sometimes are lifted else.

    Args:
        milp: the model.
        minus_limit: minus the limit in bytes.
    """
    rows = memory_rows(milp.tables)
    unit = ROW_SCALE / max(_largest(row) for row in rows)
    for row in rows:
        total = Sum(constant=row.constant).extend(minus_limit)
        for stage, sizes in row.widths.items():
            total.add(milp.stages[stage - 1].width if stage else milp.stem, sizes)
        for stage, sizes in row.inner.items():
            total.add(milp.stages[stage - 1].inner, sizes)
        if row.further and milp.tables.stages[row.further - 1].depth[0] == 1:
            _lift(total, _has_further(milp, row.further), _largest(row))
        if row.same:
            grid, stage_model = milp.tables.stages[row.same - 1], milp.stages[row.same - 1]
            _lift(total, Sum().add(stage_model.skip, grid.same.astype(float)), _largest(row))
        scaled = Sum().extend(total, unit)
        if not scaled.variables:  # what is alive there is the same in every design; one stem is chosen
            scaled = Sum().add(milp.stem, scaled.constant)
        if scaled.variables:
            milp.model.rows.add((None, scaled.expression(), 0))


def _largest(row: MemoryRow) -> float:
    parts = [*row.widths.values(), *row.inner.values()]
    return row.constant + float(sum(part.max() for part in parts))


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
