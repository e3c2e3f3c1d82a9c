"""A problem as tables over its grid, which the local search reads and the integer model takes as coefficients. Layer 3.

MACs, parameters, each limited latency table and log w are exact sums over pairs of neighbouring choices, see
`deepmad_hw.optimize.layer_tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import ConfigError
from deepmad_hw.latency.model import Curve, LatencyModel, upper_curve
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import Section, sections
from deepmad_hw.network.layer import out_pixels
from deepmad_hw.optimize.encoding import Designs, encoded
from deepmad_hw.optimize.grid import Bools, Ints, Masks, StageGrid, pruned, rule_masks, widths_before
from deepmad_hw.optimize.layer_tables import (
    GridLayer,
    Terms,
    counted,
    grid_layers,
    latency_terms,
    layer_terms,
    smallest_network,
)
from deepmad_hw.problem import entropy, limits
from deepmad_hw.problem.problem import Problem, latency_name
from deepmad_hw.problem.space import Space

Floats = NDArray[np.float64]

ALWAYS = ("macs", "params")  # sums that are there whether they are limited or not


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalePlace:
    """Where one scale of the entropy is taken.

    Args:
        stage: features after this stage, 0 for the stem's.
        pixels: height times width.
        after_head: whether the head stands before it.
    """

    stage: int
    pixels: int
    after_head: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Coefficients:
    """A problem as tables.

    Args:
        problem: what it was made from.
        stem_widths: [stem] channels.
        stages: grids and rules.
        quantities: sums over layers by name: ``macs``, ``params``, every other limited one, ``latency:TABLE`` in ms.
        curves: of each limited table, from that sum to the latency that its budget is about.
        log_fan_in: sum of log w over counted layers.
        scales: where entropy is taken.
        stem_layers: counted layers of the stem.
        head_layers: counted layers of the head.
        uncovered: number of distinct layers that left the grid because a table does not cover them, by table.
        channels: what each layer returns, by (stage, whether in the first block, role): the axis of the one choice
            that moves it, or None, and its values along that axis. Stage 0 holds stem, head and classifier.
    """

    problem: Problem
    stem_widths: Ints
    stages: tuple[StageGrid, ...]
    quantities: Mapping[str, Terms]
    curves: Mapping[str, Curve]
    log_fan_in: Terms
    scales: tuple[ScalePlace, ...]
    stem_layers: int
    head_layers: int
    uncovered: Mapping[str, int]
    channels: Mapping[tuple[int, bool, str], tuple[int | None, Ints]]

    def out_widths(self, stage: int) -> Ints:
        """Return the widths after a stage.

        Args:
            stage: number of the stage from 1, or 0 for the stem.
        """
        return self.stages[stage - 1].out_widths if stage else self.stem_widths

    def encode(self, architecture: Architecture) -> Ints:
        """Return a design of the space as a row of positions.

        Args:
            architecture: the design.
        """
        stages = []
        for grid, stage in zip(self.stages, architecture.stages, strict=True):
            inner = np.flatnonzero((grid.bottleneck == stage.bottleneck) & (grid.kernel == stage.kernel))
            stages.append((_position(grid.out_widths, stage.out), int(inner[0]), stage.depth))
        return encoded(_position(self.stem_widths, architecture.stem.out), stages)

    def decode(self, design: Sequence[int] | Ints) -> Architecture:
        """Return a row of positions as a design.

        Args:
            design: as `encode` gives it.
        """
        space, row = self.problem.space, Designs(np.asarray(design, dtype=np.int64))
        stages = tuple(
            Stage(
                out=int(grid.out_widths[out]),
                bottleneck=int(grid.bottleneck[inner]),
                kernel=int(grid.kernel[inner]),
                stride=choice.stride,
                depth=int(depth),
            )
            for grid, choice, (_, out, inner, depth) in zip(self.stages, space.stages, row.by_stage(), strict=True)
        )
        stem = Stem(out=int(self.stem_widths[row.width(0)]), kernel=space.stem_kernel, stride=space.stem_stride)
        return Architecture(
            family=space.family,
            resolution=space.resolution,
            stem=stem,
            stages=stages,
            head=space.head,
            in_channels=space.in_channels,
            classes=space.classes,
            activation=space.activation,
        )


def _position(values: Ints, value: int) -> int:
    return int(np.flatnonzero(values == value)[0])


def coefficients(problem: Problem, models: Mapping[str, LatencyModel]) -> Coefficients:
    """Return a problem as tables over its grid.

    Pairs that break a rule, or that hold a layer which a limited table does not cover, are masked out.

    Args:
        problem: the problem.
        models: latency models by table name; only those that the problem limits are asked.

    Raises:
        ConfigError: a limit's table is not among the models, nobody knows a limit, or a family's layer depends on
            three choices.
        NotCoveredError: a layer that every design needs is not covered by a table.
        InfeasibleError: the rules and the tables leave no design.
    """
    space = problem.space
    walk = tuple(sections(smallest_network(space)))
    layers = grid_layers(space)
    for limit in problem.limits.latency:
        if limit.table not in models:
            raise ConfigError(f"no latency table is called {limit.table!r}", where=latency_name(limit.table))
    limited = {latency_name(limit.table): models[limit.table] for limit in problem.limits.latency}
    latency, uncovered, allowed = latency_terms(space, layers, pruned(rule_masks(space)), limited)
    sums = {name: limits.quantity(name).layer for name in dict.fromkeys([*ALWAYS, *problem.limits.named()])}
    return Coefficients(
        problem=problem,
        stem_widths=np.array(space.stem, dtype=np.int64),
        stages=_grids(space, layers, allowed),
        quantities={
            **{name: layer_terms(space, layers, share) for name, share in sums.items() if share is not None},
            **latency,
        },
        curves={name: upper_curve(model) for name, model in limited.items()},
        log_fan_in=layer_terms(
            space, layers, lambda form: entropy.layer_log_fan_in(form, log=np.log) if form.counted else 0.0
        ),
        scales=_scale_places(space, walk),
        stem_layers=counted(layers, "stem", 0),
        head_layers=counted(layers, "tail", 0),
        uncovered={limit.table: uncovered[latency_name(limit.table)] for limit in problem.limits.latency},
        channels={
            (layer.stage, layer.table != "further", layer.form.role): layer.returned
            for layer in layers
            if layer.table != "identity"
        },
    )


def with_limits(tables: Coefficients, problem: Problem) -> Coefficients:
    """Return the tables of a problem that differs from another one in the values of its limits only.

    Args:
        tables: of the other problem.
        problem: the problem.

    Raises:
        ConfigError: it differs in more.
    """
    other = tables.problem
    same_limits = list(problem.limits.named()) == list(other.limits.named())
    if replace(problem, name="", limits=other.limits) != replace(other, name="") or not same_limits:
        raise ConfigError("the problems differ in more than the values of their limits", where=problem.name)
    return replace(tables, problem=problem)


def restricted(tables: Coefficients, masks: Sequence[tuple[Bools, Bools, Bools]]) -> Coefficients:
    """Return the tables with fewer pairs allowed.

    Args:
        tables: the problem's tables.
        masks: (in_inner, in_out, out_inner) of every stage; pairs that are not allowed already stay out.

    Raises:
        InfeasibleError: no design is left.
    """
    kept = [
        (grid.allows_in_inner & in_inner, grid.allows_in_out & in_out, grid.allows_out_inner & out_inner)
        for grid, (in_inner, in_out, out_inner) in zip(tables.stages, masks, strict=True)
    ]
    stem = np.ones(len(tables.stem_widths), dtype=np.bool_)
    left = pruned(Masks(stem=stem, pairs=tuple(kept)))
    stages = tuple(
        replace(grid, allows_in_inner=in_inner, allows_in_out=in_out, allows_out_inner=out_inner)
        for grid, (in_inner, in_out, out_inner) in zip(tables.stages, left.pairs, strict=True)
    )
    return replace(tables, stages=stages)


def sample_designs(tables: Coefficients, count: int, *, seed: int) -> Ints:
    """Return random designs of the space, [count, columns].

    Args:
        tables: the problem's tables.
        count: how many.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    stem = random.choice(np.flatnonzero(tables.stages[0].allows.any(axis=(1, 2))), count)
    before, stages = stem, []
    for grid in tables.stages:
        allowed = grid.allows
        out, inner = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        for width in np.unique(before):
            rows = before == width
            pairs = np.argwhere(allowed[width])
            out[rows], inner[rows] = pairs[random.integers(0, len(pairs), rows.sum())].T
        stages.append((out, inner, random.integers(grid.depth[0], grid.depth[1] + 1, count)))
        before = out
    return encoded(stem, stages)


def _grids(space: Space, layers: Sequence[GridLayer], masks: Masks) -> tuple[StageGrid, ...]:
    found = []
    adds_input = {layer.stage for layer in layers if layer.table == "identity"}
    for stage, (choice, (in_inner, in_out, out_inner)) in enumerate(zip(space.stages, masks.pairs, strict=True), 1):
        in_widths, out_widths = np.array(widths_before(space, stage)), np.array(choice.out)
        found.append(
            StageGrid(
                in_widths=in_widths,
                out_widths=out_widths,
                bottleneck=np.repeat(np.array(choice.bottleneck), len(choice.kernel)),
                kernel=np.tile(np.array(choice.kernel), len(choice.bottleneck)),
                depth=choice.depth,
                allows_in_inner=in_inner,
                allows_in_out=in_out,
                allows_out_inner=out_inner,
                same=(in_widths[:, None] == out_widths[None, :]) & (stage in adds_input),
                first_layers=sum(counted(layers, table, stage) for table in ("first_in", "first_skip", "first_out")),
                further_layers=counted(layers, "further", stage),
            )
        )
    return tuple(found)


def _scale_places(space: Space, walk: Sequence[Section]) -> tuple[ScalePlace, ...]:
    found = [
        ScalePlace(stage=section.stage - 1, pixels=section.height * section.width, after_head=False)
        for section in walk
        if section.kind == "first" and section.stride == 2
    ]
    last = [section for section in walk if section.kind != "classifier"][-1]
    rows = out_pixels(last.height, kernel=1, stride=last.stride)
    columns = out_pixels(last.width, kernel=1, stride=last.stride)
    end = ScalePlace(stage=len(space.stages), pixels=rows * columns, after_head=space.head is not None)
    return (*found, end)
