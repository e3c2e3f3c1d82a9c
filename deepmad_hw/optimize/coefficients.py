"""Every cost of every design of a space as sums over pairs of neighbouring choices. Layer 3 (optimize).

A layer depends on at most two of a stage's three choices: the width it is given, its inner (bottleneck, kernel),
the width it returns. So MACs, parameters, each latency table and log w are exact sums of small tables, which the
fast search reads and the certified model takes as linear coefficients. The tables come from the families' own block
forms: each number of a layer is asked for once per value of each choice, and the costs are taken on whole grids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmad_hw import costs, entropy, families
from deepmad_hw.architecture import Architecture, Stage, Stem
from deepmad_hw.errors import ConfigError, InfeasibleError, NotCoveredError
from deepmad_hw.expand import Section, sections, spec_of
from deepmad_hw.families.base import BlockShape, LayerForm
from deepmad_hw.latency import Curve, LatencyModel, upper_curve
from deepmad_hw.layer import LayerSpec, out_pixels
from deepmad_hw.problem import Problem
from deepmad_hw.space import Space

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

IN, OUT, BOTTLENECK, KERNEL = range(4)  # axes of a stage's choices
PAIRS = ("first_in", "first_skip", "first_out", "identity", "further")
LEAST_SUM_MS = 1e-9  # as which sums stand that no network can have, so that limits stay above 0
_NUMBERS = ("in_channels", "out_channels", "group_width", "kernel")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StageTerms:
    """One quantity's shares in one stage; `inner` counts bottleneck and kernel as one choice.

    Args:
        first_in: [in, inner], layers of the first block that read the stage's input.
        first_skip: [in, out], its projection and pooling.
        first_out: [out, inner], the rest of the first block.
        identity: [out, inner], extra of a first block that adds its input (stride 1 and equal widths).
        further: [out, inner], one further block.
    """

    first_in: Floats
    first_skip: Floats
    first_out: Floats
    identity: Floats
    further: Floats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Terms:
    """One quantity over the whole network.

    Args:
        stem: [stem], the stem.
        stages: shares of the stages.
        tail: [out of the last stage], head, classifier and what every network pays.
    """

    stem: Floats
    stages: tuple[StageTerms, ...]
    tail: Floats

    def of(self, tables: Coefficients, design: Ints) -> float:
        """Return the quantity of one design.

        Args:
            tables: the problem's tables.
            design: choices as `Coefficients.encode` gives them.
        """
        before = design[0]
        total = self.stem[before]
        for index, (part, grid) in enumerate(zip(self.stages, tables.stages, strict=True)):
            out, inner, depth = design[1 + 3 * index : 4 + 3 * index]
            total += part.first_in[before, inner] + part.first_skip[before, out] + part.first_out[out, inner]
            total += part.identity[out, inner] * grid.same[before, out] + (depth - 1) * part.further[out, inner]
            before = out
        return float(total + self.tail[before])


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
        quantities: additive quantities by name: ``macs``, ``params`` and ``latency:TABLE`` (sums over layers, ms).
        limits: what limited quantities must not exceed; a latency budget stands as one on the sum over layers.
        curves: of each limited table, from that sum to the latency that the budget is about.
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
    limits: Mapping[str, float]
    curves: Mapping[str, Curve]
    log_fan_in: Terms
    scales: tuple[ScalePlace, ...]
    stem_layers: int
    head_layers: int
    uncovered: Mapping[str, int]
    channels: Mapping[tuple[int, bool, str], tuple[int | None, Ints]]

    def out_widths(self, stage: int) -> Ints:
        """Return the widths after a stage, 0 meaning the stem.

        Args:
            stage: number of the stage from 1, or 0.
        """
        return self.stages[stage - 1].out_widths if stage else self.stem_widths

    def encode(self, architecture: Architecture) -> Ints:
        """Return a design as choices: stem, then (out, inner, depth) of every stage.

        Args:
            architecture: a design of the space.
        """
        row = [_index(self.stem_widths, architecture.stem.out)]
        for grid, stage in zip(self.stages, architecture.stages, strict=True):
            inner = np.flatnonzero((grid.bottleneck == stage.bottleneck) & (grid.kernel == stage.kernel))
            row += [_index(grid.out_widths, stage.out), int(inner[0]), stage.depth]
        return np.array(row, dtype=np.int64)

    def decode(self, choices: Sequence[int] | Ints) -> Architecture:
        """Return choices as a design.

        Args:
            choices: as `encode` gives them.
        """
        space = self.problem.space
        stages = []
        for index, grid in enumerate(self.stages):
            out, inner, depth = (int(value) for value in choices[1 + 3 * index : 4 + 3 * index])
            stages.append(
                Stage(
                    out=int(grid.out_widths[out]),
                    bottleneck=int(grid.bottleneck[inner]),
                    kernel=int(grid.kernel[inner]),
                    stride=space.stages[index].stride,
                    depth=depth,
                )
            )
        stem = Stem(out=int(self.stem_widths[int(choices[0])]), kernel=space.stem_kernel, stride=space.stem_stride)
        return Architecture(
            family=space.family,
            resolution=space.resolution,
            stem=stem,
            stages=tuple(stages),
            head=space.head,
            in_channels=space.in_channels,
            classes=space.classes,
            activation=space.activation,
        )


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
    pruned = _prune(tables.problem.space, _Masks(stem=stem, pairs=tuple(kept)))
    stages = tuple(
        replace(grid, allows_in_inner=in_inner, allows_in_out=in_out, allows_out_inner=out_inner)
        for grid, (in_inner, in_out, out_inner) in zip(tables.stages, pruned.pairs, strict=True)
    )
    return replace(tables, stages=stages)


def _index(values: Ints, value: int) -> int:
    return int(np.flatnonzero(values == value)[0])


def coefficients(problem: Problem, models: Mapping[str, LatencyModel]) -> Coefficients:
    """Return a problem as tables over its grid.

    Pairs that break a rule, or that hold a layer which a limited table does not cover, are masked out.

    Args:
        problem: the problem.
        models: latency models by table name; only those that the problem limits are asked.

    Raises:
        ConfigError: a limit's table is not among the models, or a family's layer depends on three choices.
        NotCoveredError: a layer that every design needs is not covered by a table.
        InfeasibleError: the rules and the tables leave no design.
    """
    space = problem.space
    walk = tuple(sections(_sample(space)))
    allowed = _prune(space, _rule_masks(space))
    parts = _parts(space, walk)
    tables, uncovered, allowed = _latency_tables(problem, models, parts, space, allowed)
    curves = {f"latency:{limit.table}": upper_curve(models[limit.table]) for limit in problem.limits.latency}
    quantities = {
        "macs": _collect(space, parts, lambda part: costs.layer_macs(part.form)),
        "params": _collect(space, parts, lambda part: costs.layer_params(part.form)),
        **tables,
    }
    return Coefficients(
        problem=problem,
        stem_widths=np.array(space.stem, dtype=np.int64),
        stages=_grids(space, parts, allowed),
        quantities=quantities,
        limits=additive_limits(problem, curves),
        curves=curves,
        log_fan_in=_collect(
            space, parts, lambda part: entropy.layer_log_fan_in(part.form, log=np.log) if part.form.counted else 0.0
        ),
        scales=_scale_places(space, walk),
        stem_layers=_counted(parts, "stem", 0),
        head_layers=_counted(parts, "tail", 0),
        uncovered=uncovered,
        channels={
            (part.stage, part.table != "further", part.form.role): _returned(part.form)
            for part in parts
            if part.table != "identity"
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
    asked, made = ([limit.table for limit in each.limits.latency] for each in (problem, tables.problem))
    if problem.space != tables.problem.space or problem.penalty != tables.problem.penalty or asked != made:
        raise ConfigError("the problems differ in more than the values of their limits", where=problem.name)
    return replace(tables, problem=problem, limits=additive_limits(problem, tables.curves))


def value_of(tables: Coefficients, name: str, amount: float) -> float:
    """Return what a limit is about for an amount of its additive quantity: of a sum over layers, the latency.

    Args:
        tables: the problem's tables.
        name: of the quantity.
        amount: the amount.
    """
    return tables.curves[name].latency_ms(amount) if name in tables.curves else amount


def additive_limits(problem: Problem, curves: Mapping[str, Curve], *, factor: float = 1.0) -> dict[str, float]:
    """Return the limits on additive quantities by name; a latency budget becomes one on the sum over layers (ms).

    Args:
        problem: the problem.
        curves: as in `Coefficients`.
        factor: that everything asked for is multiplied by, above 0.
    """
    asked = {name: factor * value for name, value in problem.limits.named().items()}
    plain = {name: asked[name] for name in ("macs", "params") if name in asked}
    return plain | {name: max(LEAST_SUM_MS, curve.sum_ms(asked[name])) for name, curve in curves.items()}


# --- layers as functions of choices ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Part:
    """One layer on the whole grid: its numbers are arrays over (in, out, bottleneck, kernel), 1 where constant."""

    stage: int
    table: str  # one of PAIRS, or "stem", "tail"
    form: LayerForm
    sign: int = 1


def _sample(space: Space) -> Any:
    stages = [
        SimpleNamespace(
            out=choice.out[0], bottleneck=choice.bottleneck[0], kernel=choice.kernel[0], stride=choice.stride, depth=2
        )
        for choice in space.stages
    ]
    return SimpleNamespace(
        family=space.family,
        resolution=space.resolution,
        stem=SimpleNamespace(out=space.stem[0], kernel=space.stem_kernel, stride=space.stem_stride),
        stages=stages,
        head=space.head,
        in_channels=space.in_channels,
        classes=space.classes,
        activation=space.activation,
    )


def _parts(space: Space, walk: Sequence[Section]) -> tuple[_Part, ...]:
    found = list(_ends(space))
    first = {section.stage: section for section in walk if section.kind == "first"}
    widths = space.stem
    for index, choice in enumerate(space.stages, start=1):
        found += _stage_parts(space, index, widths, first[index])
        widths = choice.out
    return tuple(found)


def _ends(space: Space) -> Iterable[_Part]:
    def layers(network: Any, kinds: tuple[str, ...]) -> list[LayerForm]:
        return [
            replace(layer, role=layer.role or section.kind)
            for section in sections(network)
            if section.kind in kinds
            for layer in section.layers
        ]

    stems, tails = [], []
    for width in space.stem:
        network = _sample(space)
        network.stem.out = width
        stems.append(layers(network, ("stem",)))
    for width in space.stages[-1].out:
        network = _sample(space)
        network.stages[-1].out = width
        tails.append(layers(network, ("head", "classifier")))
    for table, axis, variants in (("stem", IN, stems), ("tail", OUT, tails)):
        for position in range(len(variants[0])):
            yield _Part(stage=0, table=table, form=_on_grid({axis: [forms[position] for forms in variants]}))


def _stage_parts(space: Space, index: int, in_widths: tuple[int, ...], section: Section) -> list[_Part]:
    choice = space.stages[index - 1]
    family = families.get(space.family)
    base = BlockShape(
        in_channels=in_widths[0],
        out_channels=choice.out[0],
        bottleneck=choice.bottleneck[0],
        kernel=choice.kernel[0],
        stride=choice.stride,
        height=section.height,
        width=section.width,
        activation=families.resolve_activation(family, space.activation),
        first=True,
        identity=False,
    )

    def block(shape: BlockShape, *, tied: bool) -> list[LayerForm]:
        return _block_on_grid(family.block, shape, (in_widths, choice.out, choice.bottleneck, choice.kernel), tied)

    found = [_Part(stage=index, table=_pair_of(form), form=form) for form in block(base, tied=False)]
    if choice.stride == 1:
        without = block(base, tied=True)
        added = block(replace(base, identity=True), tied=True)
        for plain, extra in zip(without, added, strict=True):
            if plain.residual != extra.residual:
                found.append(_Part(stage=index, table="identity", form=extra))
                found.append(_Part(stage=index, table="identity", form=plain, sign=-1))
    rows = out_pixels(section.height, kernel=1, stride=choice.stride)
    columns = out_pixels(section.width, kernel=1, stride=choice.stride)
    further = replace(base, stride=1, height=rows, width=columns, first=False, identity=True)
    found += [_Part(stage=index, table="further", form=form) for form in block(further, tied=True)]
    return found


def _block_on_grid(
    block: Callable[[BlockShape], tuple[LayerForm, ...]],
    base: BlockShape,
    grids: tuple[tuple[int, ...], ...],
    tied: bool,
) -> list[LayerForm]:
    """Return a block's layers with arrays for numbers; `tied` blocks are given the width that they return."""
    fields = {IN: "in_channels", OUT: "out_channels", BOTTLENECK: "bottleneck", KERNEL: "kernel"}
    if tied:
        base = replace(base, in_channels=base.out_channels)
        del fields[IN]

    def changed(axis: int, value: int) -> BlockShape:
        if tied and axis == OUT:
            return replace(base, in_channels=value, out_channels=value)
        return replace(base, **{fields[axis]: value})  # type: ignore[arg-type]

    variants = {axis: [block(changed(axis, value)) for value in grids[axis]] for axis in fields}
    count = len(block(base))
    return [_on_grid({axis: [forms[i] for forms in variants[axis]] for axis in fields}) for i in range(count)]


def _on_grid(variants: Mapping[int, Sequence[LayerForm]]) -> LayerForm:
    """Return one layer with each number as an array along the one choice that moves it."""
    form = next(iter(variants.values()))[0]
    numbers: dict[str, Ints] = {}
    for field in _NUMBERS:
        value = np.array(getattr(form, field), dtype=np.int64).reshape(1, 1, 1, 1)
        for axis, forms in variants.items():
            along = np.array([getattr(variant, field) for variant in forms], dtype=np.int64)
            if (along == along[0]).all():
                continue
            if value.size > 1:
                raise ConfigError(f"{field} of {form.role!r} depends on two choices at once", where="families")
            value = along.reshape([-1 if a == axis else 1 for a in range(4)])
        numbers[field] = value
    return replace(form, **numbers)  # type: ignore[arg-type]


def _axes(form: LayerForm) -> set[int]:
    return {axis for field in _NUMBERS for axis in range(4) if getattr(form, field).shape[axis] > 1}


def _pair_of(form: LayerForm) -> str:
    axes = _axes(form)
    inner = bool(axes & {BOTTLENECK, KERNEL})
    if IN in axes and OUT in axes and inner:
        raise ConfigError(f"layer {form.role!r} depends on more than two choices", where="families")
    if IN not in axes:
        return "first_out"
    return "first_in" if inner else "first_skip"


def _returned(form: LayerForm) -> tuple[int | None, Ints]:
    axes = [axis for axis in range(4) if form.out_channels.shape[axis] > 1]
    return (axes[0] if axes else None), form.out_channels.reshape(-1)


def _sizes(space: Space, stage: int) -> tuple[int, int, int, int]:
    choice = space.stages[stage - 1]
    before = space.stages[stage - 2].out if stage > 1 else space.stem
    return len(before), len(choice.out), len(choice.bottleneck), len(choice.kernel)


_KEPT = {
    "first_in": (IN, BOTTLENECK, KERNEL),
    "first_skip": (IN, OUT),
    "first_out": (OUT, BOTTLENECK, KERNEL),
    "identity": (OUT, BOTTLENECK, KERNEL),
    "further": (OUT, BOTTLENECK, KERNEL),
}


def _as_pair(space: Space, part: _Part, values: NDArray[Any]) -> NDArray[Any]:
    """Return values over the four axes as the part's table: [first of the pair, second of the pair]."""
    kept, sizes = _KEPT[part.table], _sizes(space, part.stage)
    full = np.broadcast_to(values, [sizes[axis] if axis in kept else 1 for axis in range(4)])
    return full.reshape(sizes[kept[0]], -1)


def _collect(space: Space, parts: Sequence[_Part], value_of: Callable[[_Part], Any]) -> Terms:
    """Return the sum of a value over all parts, table by table."""
    stem = np.zeros(len(space.stem))
    tail = np.zeros(len(space.stages[-1].out))
    stages = []
    for index in range(1, len(space.stages) + 1):
        c, o, b, k = _sizes(space, index)
        shapes = {"first_in": (c, b * k), "first_skip": (c, o)}
        stages.append(StageTerms(**{name: np.zeros(shapes.get(name, (o, b * k))) for name in PAIRS}))
    for part in parts:
        values = np.asarray(value_of(part), dtype=np.float64)
        if part.table in ("stem", "tail"):
            total = stem if part.table == "stem" else tail
            total += values.reshape(-1)
            continue
        table = getattr(stages[part.stage - 1], part.table)
        table += part.sign * _as_pair(space, part, values.reshape((1,) * (4 - values.ndim) + values.shape))
    return Terms(stem=stem, stages=tuple(stages), tail=tail)


# --- rules and grids ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Masks:
    """Which choices and pairs may be taken: stem, then (in_inner, in_out, out_inner) of every stage."""

    stem: Bools
    pairs: tuple[tuple[Bools, Bools, Bools], ...]


def _rule_masks(space: Space) -> _Masks:
    pairs = []
    before = space.stem
    for index, choice in enumerate(space.stages, start=1):
        c, _, b, k = _sizes(space, index)
        in_out = np.array([[space.allows_widths(x, y) for y in choice.out] for x in before])
        inner = [[space.allows_bottleneck(y, x) for x in choice.bottleneck for _ in choice.kernel] for y in choice.out]
        pairs.append((np.ones((c, b * k), dtype=bool), in_out, np.array(inner)))
        before = choice.out
    return _Masks(stem=np.ones(len(space.stem), dtype=bool), pairs=tuple(pairs))


def _prune(space: Space, masks: _Masks) -> _Masks:
    """Return the pairs that some whole design can have.

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
    return _Masks(stem=useful, pairs=tuple(pairs[::-1]))


def _any(mask: Bools, *axes: int) -> Bools:
    return np.asarray(mask.any(axis=axes), dtype=np.bool_)


def _grids(space: Space, parts: Sequence[_Part], masks: _Masks) -> tuple[StageGrid, ...]:
    found = []
    before = space.stem
    adds_input = {part.stage for part in parts if part.table == "identity"}
    for index, (choice, (in_inner, in_out, out_inner)) in enumerate(zip(space.stages, masks.pairs, strict=True), 1):
        in_widths, out_widths = np.array(before), np.array(choice.out)
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
                same=(in_widths[:, None] == out_widths[None, :]) & (index in adds_input),
                first_layers=sum(_counted(parts, table, index) for table in ("first_in", "first_skip", "first_out")),
                further_layers=_counted(parts, "further", index),
            )
        )
        before = choice.out
    return tuple(found)


def _counted(parts: Sequence[_Part], table: str, stage: int) -> int:
    return sum(part.form.counted for part in parts if (part.table, part.stage) == (table, stage))


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


# --- latency --------------------------------------------------------------------------------------------------------


def _latency_tables(
    problem: Problem, models: Mapping[str, LatencyModel], parts: Sequence[_Part], space: Space, masks: _Masks
) -> tuple[dict[str, Terms], dict[str, int], _Masks]:
    """Return every limited table's terms, the layers each one lacks, and the pairs that all of them cover."""
    tables = [limit.table for limit in problem.limits.latency]
    for table in tables:
        if table not in models:
            raise ConfigError(f"no latency table is called {table!r}", where=f"latency:{table}")
    if not tables:
        return {}, {}, masks
    specs, keys = _distinct_specs(space, parts, masks)
    found: dict[str, Terms] = {}
    lacking: dict[str, int] = {}
    covered = np.ones(len(specs), dtype=bool)
    for table in tables:
        known = models[table].covers(specs)
        lacking[table] = int((~known).sum())
        covered &= known
        values_ms = np.zeros(len(specs) + 1)  # the last entry answers for pairs that no design has
        if known.any():
            asked = [spec for spec, answers in zip(specs, known, strict=True) if answers]
            values_ms[np.flatnonzero(known)] = models[table].layers_ms(asked)
        found[f"latency:{table}"] = _collect(space, parts, lambda part, values=values_ms: values[keys[id(part)]])  # type: ignore[misc]
    if covered.all():
        return found, lacking, masks
    return found, lacking, _prune(space, _covered_masks(space, parts, masks, keys, np.append(covered, True), specs))


def _distinct_specs(
    space: Space, parts: Sequence[_Part], masks: _Masks
) -> tuple[list[LayerSpec], dict[int, NDArray[np.int64]]]:
    """Return each layer that some design has once, and for each part where its layers stand in that list."""
    specs: dict[LayerSpec, int] = {}
    keys: dict[int, NDArray[np.int64]] = {}
    for part in parts:
        numbers = np.broadcast_arrays(*(getattr(part.form, field) for field in _NUMBERS))
        needed = np.broadcast_to(_needed(space, part, masks), numbers[0].shape)
        key = np.full(numbers[0].shape, -1, dtype=np.int64)
        rows = np.stack([number[needed] for number in numbers], axis=1).tolist()
        key[needed] = [
            specs.setdefault(spec_of(replace(part.form, **dict(zip(_NUMBERS, row, strict=True)))), len(specs))
            for row in rows
        ]
        keys[id(part)] = key
    return list(specs), keys


def _needed(space: Space, part: _Part, masks: _Masks) -> Bools:
    """Return over the part's own axes where some design has this layer."""
    axes = _axes(part.form)
    if part.table in ("stem", "tail"):
        ends = (
            masks.stem.reshape(-1, 1, 1, 1)
            if part.table == "stem"
            else _any(masks.pairs[-1][1], 0).reshape(1, -1, 1, 1)
        )
        return ends if axes else np.ones((1, 1, 1, 1), dtype=np.bool_)
    in_inner, in_out, out_inner = masks.pairs[part.stage - 1]
    c, o, b, k = _sizes(space, part.stage)
    full = {"first_in": in_inner.reshape(c, 1, b, k), "first_skip": in_out.reshape(c, o, 1, 1)}
    mask = full.get(part.table, out_inner.reshape(1, o, b, k))
    unused = tuple(axis for axis in range(4) if axis not in axes)
    return np.asarray(mask.any(axis=unused, keepdims=True), dtype=np.bool_)


def _covered_masks(
    space: Space,
    parts: Sequence[_Part],
    masks: _Masks,
    keys: Mapping[int, NDArray[np.int64]],
    covered: Bools,
    specs: Sequence[LayerSpec],
) -> _Masks:
    """Return the masks without choices that need an uncovered layer; all tables must cover both forms of an add."""
    stem = masks.stem.copy()
    pairs = tuple((first.copy(), skip.copy(), out.copy()) for first, skip, out in masks.pairs)
    slot = {"first_in": 0, "first_skip": 1}
    for part in parts:
        known = covered[keys[id(part)]]
        if part.table == "stem":
            stem &= known.reshape(-1)
        elif part.table == "tail":
            pairs[-1][1][:] &= known.reshape(1, -1)
        elif part.table != "further" or space.stages[part.stage - 1].depth[1] > 1:
            pairs[part.stage - 1][slot.get(part.table, 2)][:] &= _as_pair(space, part, known)
        _require_some(known, part, keys, specs)
    return _Masks(stem=stem, pairs=pairs)


def _require_some(known: Bools, part: _Part, keys: Mapping[int, NDArray[np.int64]], specs: Sequence[LayerSpec]) -> None:
    needed = keys[id(part)] >= 0
    if (known & needed).any() or (part.table == "identity" or not needed.any()):
        return
    raise NotCoveredError(
        f"no table row answers for any {part.form.role or part.table} of stage {part.stage}, "
        f"such as {specs[int(keys[id(part)].max())]}",
        where="latency",
        hint="profile with this space",
    )
