"""The integer model's pieces: sums of variables, the choices of every stage, rows. Layer 3 (optimize).

`deepmad_hw.optimize.milp` puts a model together; quantities add their rows to it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray
from pyomo.core.expr import LinearExpression

from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.encoding import Designs, encoded
from deepmad_hw.optimize.grid import StageGrid
from deepmad_hw.optimize.layer_tables import Terms

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Variables = NDArray[Any]  # Pyomo variables in the shape of a table; None where a pair cannot be

ROW_SCALE = 1000.0  # a limit's row ends at this, so that a solver's absolute tolerance is a billionth of the limit


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cut:
    """A row that a term of the objective asks for once a design is known: ``low <= sum``.

    Args:
        key: two cuts of one key are the same.
        sum: left side.
        low: the least value.
    """

    key: Hashable
    sum: Sum
    low: float


def exists(variables: Variables) -> NDArray[np.bool_]:
    """Return where a table has a variable (Pyomo takes ``!= None`` for a constraint).

    Args:
        variables: any shape.
    """
    flat = [variable is not None for variable in variables.ravel()]
    return np.array(flat, dtype=np.bool_).reshape(variables.shape)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StageModel:
    """The variables of one stage; the letters are those of docs/mathematics.md.

    Args:
        width: [out] binaries p.
        inner: [inner] binaries q.
        depth: integer L.
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


class LinearTerm(Protocol):
    """One term of the objective as the integer model sees it."""

    def add_to_milp(self, milp: Milp) -> Sum:
        """Add what the term needs, and return a sum that no design's term exceeds."""

    def cut(self, milp: Milp, design: Ints) -> Cut | None:
        """Return a row that makes the term of one design exact, None where it is."""


@dataclass(kw_only=True, slots=True, eq=False)
class Milp:
    """The model of one problem.

    Args:
        model: Pyomo's.
        tables: what it was made from.
        stem: [stem] binaries.
        stages: variables of the stages.
        terms: of the objective.
        leave_out: name of a limit that the model does not impose.
        objective: at least what every design is worth.
    """

    model: Any
    tables: Coefficients
    stem: Variables
    stages: tuple[StageModel, ...]
    terms: tuple[LinearTerm, ...]
    leave_out: str | None = None
    objective: Sum = field(default_factory=Sum)

    def design(self) -> Ints:
        """Return the model's point as a row of positions."""
        stages = [(_chosen(stage.width), _chosen(stage.inner), round(stage.depth.value)) for stage in self.stages]
        return encoded(_chosen(self.stem), stages)

    def exclude(self, design: Ints) -> None:
        """Cut off one design: some choice differs, or some depth lies below or above.

        Args:
            design: a row of positions.
        """
        model, row = self.model, Designs(design)
        if not hasattr(model, "differs"):
            model.differs = pyo.VarList(domain=pyo.Binary)
        taken = [self.stem[row.width(0)]]
        for stage, (_, out, inner, _) in zip(self.stages, row.by_stage(), strict=True):
            taken += [stage.width[out], stage.inner[inner]]
        total = Sum(variables=taken, factors=[-1.0] * len(taken), constant=float(len(taken)))
        for stage, grid, depth in zip(self.stages, self.tables.stages, row.depths.tolist(), strict=True):
            least, most = grid.depth
            below, above = model.differs.add(), model.differs.add()
            model.rows.add(stage.depth + (most - depth + 1) * below <= most)
            model.rows.add(stage.depth - (depth + 1 - least) * above >= least)
            total.extend(Sum(variables=[below, above], factors=[1.0, 1.0]))
        model.rows.add((1, total.expression(), None))

    def sum_of(self, terms: Terms) -> Sum:
        """Return a sum over layers, by the formula at the head of `deepmad_hw.optimize.layer_tables`.

        ``stem.p_0 + sum_i (first_in.u_i + first_skip.w_i + (first_out + (L_i - 1) further).v_i + identity.x_i)``
        ``+ tail.p_S``, where the factor of ``further`` stands at both ends of L_i.

        Args:
            terms: the quantity.
        """
        total = Sum().add(self.stem, terms.stem)
        for grid, stage, part in zip(self.tables.stages, self.stages, terms.stages, strict=True):
            blocks = part.first_out + further_blocks(grid) * part.further
            total.add(stage.first_in, part.first_in).add(stage.skip, part.first_skip).add(stage.first_out, blocks)
            total.add(stage.added, part.identity)
        return total.add(self.stages[-1].width, terms.tail)

    def log_fan_in(self, stage: int, *, after_head: bool = False) -> Sum:
        """Return the sum of log w up to a stage.

        Args:
            stage: number of the stage, or 0 for the stem.
            after_head: whether the head counts too.
        """
        terms = self.tables.log_fan_in
        total = Sum().add(self.stages[stage - 1].log_fan_in, 1.0) if stage else Sum().add(self.stem, terms.stem)
        return total.add(self.stages[-1].width, terms.tail) if after_head else total


def _chosen(choice: Variables) -> int:
    return int(np.argmax([-1.0 if variable is None else variable.value for variable in choice]))


def further_blocks(grid: StageGrid) -> Floats:
    """Return the fewest and the most further blocks, [2, 1, 1] for the pairs that carry them.

    Args:
        grid: of the stage.
    """
    return np.array(grid.depth, dtype=float).reshape(2, 1, 1) - 1


def equal(model: Any, total: Sum, value: float) -> None:
    """Add ``total = value``.

    Args:
        model: Pyomo's.
        total: left side.
        value: right side.
    """
    model.rows.add((value, total.expression(), value))


def at_most(model: Any, total: Sum, value: float) -> None:
    """Add ``total <= value``.

    Args:
        model: Pyomo's.
        total: left side.
        value: right side.
    """
    model.rows.add((None, total.expression(), value))


def by_choice(model: Any, place: RowPlace, choices: tuple[int, ...], total: Sum, *, equal: bool = False) -> None:
    """Add ``total <= 0``, or ``= 0``, for one choice of a stage; other grids have the same row for theirs.

    Args:
        model: Pyomo's.
        place: what kind of row it is.
        choices: positions along the place's axes.
        total: left side.
        equal: whether it is an equation.
    """
    model.by_choice[place, choices] = (0.0 if equal else None, total.expression(), 0.0)
