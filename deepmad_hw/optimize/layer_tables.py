"""Any quantity of a layer, summed over the layers of every design of a space. Layer 3 (optimize).

A layer depends on at most two of a stage's three choices: the width it is given (in), its inner (bottleneck, kernel),
the width it returns (out). So a sum over a network's layers is a sum over pairs of neighbouring choices:

    value = stem[p_0] + tail[p_S]
          + sum_i first_in[p_i-1, q_i] + first_skip[p_i-1, p_i] + first_out[p_i, q_i]
          + sum_i [p_i = p_i-1 and stride 1] identity[p_i, q_i] + (L_i - 1) further[p_i, q_i]

with p_i the width after stage i, q_i its inner choice and L_i its depth. The layers come from the families' own block
forms: each number of a layer is asked for once per value of each choice, and costs are taken on whole grids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import ConfigError, NotCoveredError
from deepmad_hw.latency.model import LatencyModel
from deepmad_hw.network import families
from deepmad_hw.network.expand import Section, block_section, sections, spec_of
from deepmad_hw.network.families.base import LayerForm
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.optimize.encoding import Designs
from deepmad_hw.optimize.grid import Masks, StageGrid, axis_sizes, pruned, widths_before
from deepmad_hw.problem.space import Space

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IN, OUT, BOTTLENECK, KERNEL = range(4)  # axes of a stage's choices
PAIRS = ("first_in", "first_skip", "first_out", "identity", "further")
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

    def first(self, grid: StageGrid) -> Floats:
        """Return the share of the first block over [in, out, inner].

        Args:
            grid: of the stage.
        """
        total = self.first_in[:, None, :] + self.first_skip[:, :, None] + self.first_out[None, :, :]
        if grid.same.any():
            total = total + grid.same[:, :, None] * self.identity[None, :, :]
        return np.asarray(total)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Terms:
    """One quantity over the whole network, by the formula at the head of this file.

    Args:
        stem: [stem], the stem.
        stages: shares of the stages.
        tail: [out of the last stage], head, classifier and what every network pays.
    """

    stem: Floats
    stages: tuple[StageTerms, ...]
    tail: Floats

    @property
    def negated(self) -> Terms:
        """Return the quantity with the other sign."""
        stages = tuple(
            StageTerms(**{name: -np.asarray(getattr(stage, name)) for name in PAIRS}) for stage in self.stages
        )
        return Terms(stem=-self.stem, stages=stages, tail=-self.tail)

    def of(self, grids: Sequence[StageGrid], designs: Ints) -> Floats:
        """Return the quantity of some designs, [n], or of one.

        Args:
            grids: of the stages.
            designs: rows of positions.
        """
        rows = Designs(designs)
        total = self.stem[rows.width(0)]
        for part, grid, (before, out, inner, depth) in zip(self.stages, grids, rows.by_stage(), strict=True):
            total = total + part.first_in[before, inner] + part.first_skip[before, out] + part.first_out[out, inner]
            total = total + part.identity[out, inner] * grid.same[before, out] + (depth - 1) * part.further[out, inner]
        return np.asarray(total + self.tail[rows.width(len(self.stages))], dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GridLayer:
    """One layer on the whole grid: its numbers are arrays over (in, out, bottleneck, kernel), 1 where constant.

    Args:
        stage: number of the stage, or 0.
        table: the table of `StageTerms` that it belongs to, or ``stem`` or ``tail``.
        form: the layer.
        sign: -1 where what it costs is taken off again.
    """

    stage: int
    table: str
    form: LayerForm
    sign: int = 1

    @property
    def axes(self) -> set[int]:
        """Return the axes along which one of its numbers changes."""
        return _axes(self.form)

    @property
    def returned(self) -> tuple[int | None, Ints]:
        """Return the axis of the choice that moves the channels it returns, or None, and these along it."""
        axes = [axis for axis in range(4) if self.form.out_channels.shape[axis] > 1]
        return (axes[0] if axes else None), self.form.out_channels.reshape(-1)


def smallest_network(space: Space) -> Any:
    """Return the space's smallest network, two blocks a stage, as something whose numbers can be changed.

    Args:
        space: the space.
    """
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


def grid_layers(space: Space) -> tuple[GridLayer, ...]:
    """Return every layer of a space's networks, each on the whole grid.

    Args:
        space: the space.

    Raises:
        ConfigError: a family's layer depends on three choices, or one of its numbers on two.
    """
    first = {section.stage: section for section in sections(smallest_network(space)) if section.kind == "first"}
    found = list(_ends(space))
    for stage in first:
        found += _stage_layers(space, first[stage])
    return tuple(found)


def _ends(space: Space) -> Iterable[GridLayer]:
    def layers(network: Any, kinds: tuple[str, ...]) -> list[LayerForm]:
        return [
            replace(layer, role=layer.role or section.kind)
            for section in sections(network)
            if section.kind in kinds
            for layer in section.layers
        ]

    stems, tails = [], []
    for width in space.stem:
        network = smallest_network(space)
        network.stem.out = width
        stems.append(layers(network, ("stem",)))
    for width in space.stages[-1].out:
        network = smallest_network(space)
        network.stages[-1].out = width
        tails.append(layers(network, ("head", "classifier")))
    for table, axis, variants in (("stem", IN, stems), ("tail", OUT, tails)):
        for position in range(len(variants[0])):
            yield GridLayer(stage=0, table=table, form=_on_grid({axis: [forms[position] for forms in variants]}))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Blocks:
    """The blocks of one stage, for any of its choices.

    Args:
        space: the space.
        section: the stage's first block in the smallest network.
    """

    space: Space
    section: Section

    def on_grid(self, *, first: bool = True, tied: bool = False, adds: bool = False) -> list[LayerForm]:
        """Return a block's layers with arrays for numbers.

        Args:
            first: whether it is the stage's first block.
            tied: whether it is given the width that it returns, so that no choice of another width moves it.
            adds: whether a first block adds its input.
        """
        stage = self.section.stage
        choice = self.space.stages[stage - 1]
        values = {OUT: choice.out, BOTTLENECK: choice.bottleneck, KERNEL: choice.kernel}
        if not tied:
            values = {IN: widths_before(self.space, stage), **values}
        variants = {
            axis: [self._layers({axis: value}, first=first, tied=tied, adds=adds) for value in along]
            for axis, along in values.items()
        }
        count = len(variants[OUT][0])
        return [
            _on_grid({axis: [forms[i] for forms in along] for axis, along in variants.items()}) for i in range(count)
        ]

    def _layers(self, changed: Mapping[int, int], *, first: bool, tied: bool, adds: bool) -> tuple[LayerForm, ...]:
        """Return a block's layers where one choice is changed and all others are the smallest."""
        stage, family = self.section.stage, families.get(self.space.family)
        choice = self.space.stages[stage - 1]
        numbers = SimpleNamespace(
            out=changed.get(OUT, choice.out[0]),
            bottleneck=changed.get(BOTTLENECK, choice.bottleneck[0]),
            kernel=changed.get(KERNEL, choice.kernel[0]),
            stride=choice.stride,
            depth=2,
        )
        given = numbers.out if tied else changed.get(IN, widths_before(self.space, stage)[0])
        return block_section(
            family,
            numbers,
            stage,
            channels=given if first else None,
            pixels=(self.section.height, self.section.width),
            activation=families.resolve_activation(family, self.space.activation),
            adds=adds or not first,
        ).layers


def _stage_layers(space: Space, section: Section) -> list[GridLayer]:
    stage, blocks = section.stage, _Blocks(space=space, section=section)
    found = [GridLayer(stage=stage, table=_pair_of(form), form=form) for form in blocks.on_grid()]
    if space.stages[stage - 1].stride == 1:
        for plain, extra in zip(blocks.on_grid(tied=True), blocks.on_grid(tied=True, adds=True), strict=True):
            if plain.residual != extra.residual:
                found.append(GridLayer(stage=stage, table="identity", form=extra))
                found.append(GridLayer(stage=stage, table="identity", form=plain, sign=-1))
    found += [GridLayer(stage=stage, table="further", form=form) for form in blocks.on_grid(first=False, tied=True)]
    return found


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


# --- sums -----------------------------------------------------------------------------------------------------------

_KEPT = {
    "first_in": (IN, BOTTLENECK, KERNEL),
    "first_skip": (IN, OUT),
    "first_out": (OUT, BOTTLENECK, KERNEL),
    "identity": (OUT, BOTTLENECK, KERNEL),
    "further": (OUT, BOTTLENECK, KERNEL),
}


def _as_pair(space: Space, layer: GridLayer, values: NDArray[Any]) -> NDArray[Any]:
    """Return values over the four axes as the layer's table: [first of the pair, second of the pair]."""
    kept, sizes = _KEPT[layer.table], axis_sizes(space, layer.stage)
    full = np.broadcast_to(values, [sizes[axis] if axis in kept else 1 for axis in range(4)])
    return full.reshape(sizes[kept[0]], -1)


def collected(space: Space, layers: Sequence[GridLayer], values: Iterable[Any]) -> Terms:
    """Return the sum of a value over all layers, table by table.

    Args:
        space: the space.
        layers: its layers.
        values: of each layer in turn: a number, or an array over its axes.
    """
    stem = np.zeros(len(space.stem))
    tail = np.zeros(len(space.stages[-1].out))
    stages = []
    for stage in range(1, len(space.stages) + 1):
        c, o, b, k = axis_sizes(space, stage)
        shapes = {"first_in": (c, b * k), "first_skip": (c, o)}
        stages.append(StageTerms(**{name: np.zeros(shapes.get(name, (o, b * k))) for name in PAIRS}))
    for layer, value in zip(layers, values, strict=True):
        array = np.asarray(value, dtype=np.float64)
        if layer.table in ("stem", "tail"):
            total = stem if layer.table == "stem" else tail
            total += array.reshape(-1)
            continue
        table = getattr(stages[layer.stage - 1], layer.table)
        table += layer.sign * _as_pair(space, layer, array.reshape((1,) * (4 - array.ndim) + array.shape))
    return Terms(stem=stem, stages=tuple(stages), tail=tail)


def layer_terms(space: Space, layers: Sequence[GridLayer], value: Callable[[LayerForm], Any]) -> Terms:
    """Return the sum of a function of a layer over all layers.

    Args:
        space: the space.
        layers: its layers.
        value: of one layer, whose numbers are arrays.
    """
    return collected(space, layers, (value(layer.form) for layer in layers))


def counted(layers: Sequence[GridLayer], table: str, stage: int) -> int:
    """Return how many layers of a table count in entropy.

    Args:
        layers: of the space.
        table: as in `GridLayer`.
        stage: number of the stage, or 0.
    """
    return sum(layer.form.counted for layer in layers if (layer.table, layer.stage) == (table, stage))


# --- latency --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Distinct:
    """Each layer that some design has once, and where the layers on the grid stand among them.

    Args:
        specs: the layers.
        places: of each `GridLayer`, positions in `specs` over its own axes; -1 where no design has it.
    """

    specs: list[LayerSpec]
    places: list[Ints]


def latency_terms(
    space: Space, layers: Sequence[GridLayer], masks: Masks, models: Mapping[str, LatencyModel]
) -> tuple[dict[str, Terms], dict[str, int], Masks]:
    """Return every table's terms (ms), the layers that each one lacks, and the pairs that all of them cover.

    Args:
        space: the space.
        layers: its layers.
        masks: pairs that keep the rules.
        models: tables by the name of their limit.

    Raises:
        NotCoveredError: a layer that every design needs is not covered by a table.
        InfeasibleError: the rules and the tables leave no design.
    """
    if not models:
        return {}, {}, masks
    distinct = _distinct(space, layers, masks)
    terms: dict[str, Terms] = {}
    lacking: dict[str, int] = {}
    covered = np.ones(len(distinct.specs), dtype=bool)
    for name, model in models.items():
        known = model.covers(distinct.specs)
        lacking[name] = int((~known).sum())
        covered &= known
        values_ms = np.zeros(len(distinct.specs) + 1)  # the last entry answers for pairs that no design has
        if known.any():
            asked = [spec for spec, answers in zip(distinct.specs, known, strict=True) if answers]
            values_ms[np.flatnonzero(known)] = model.layers_ms(asked)
        terms[name] = collected(space, layers, (values_ms[places] for places in distinct.places))
    if covered.all():
        return terms, lacking, masks
    return terms, lacking, pruned(_covered_masks(space, layers, masks, distinct, np.append(covered, True)))


def _distinct(space: Space, layers: Sequence[GridLayer], masks: Masks) -> _Distinct:
    specs: dict[LayerSpec, int] = {}
    found = []
    for layer in layers:
        numbers = np.broadcast_arrays(*(getattr(layer.form, field) for field in _NUMBERS))
        needed = np.broadcast_to(_needed(space, layer, masks), numbers[0].shape)
        places = np.full(numbers[0].shape, -1, dtype=np.int64)
        rows = np.stack([number[needed] for number in numbers], axis=1).tolist()
        places[needed] = [
            specs.setdefault(spec_of(replace(layer.form, **dict(zip(_NUMBERS, row, strict=True)))), len(specs))
            for row in rows
        ]
        found.append(places)
    return _Distinct(specs=list(specs), places=found)


def _needed(space: Space, layer: GridLayer, masks: Masks) -> Bools:
    """Return over the layer's own axes where some design has it."""
    axes = layer.axes
    if layer.table in ("stem", "tail"):
        last = np.asarray(masks.pairs[-1][1].any(axis=0), dtype=np.bool_)
        ends = masks.stem.reshape(-1, 1, 1, 1) if layer.table == "stem" else last.reshape(1, -1, 1, 1)
        return ends if axes else np.ones((1, 1, 1, 1), dtype=np.bool_)
    in_inner, in_out, out_inner = masks.pairs[layer.stage - 1]
    c, o, b, k = axis_sizes(space, layer.stage)
    full = {"first_in": in_inner.reshape(c, 1, b, k), "first_skip": in_out.reshape(c, o, 1, 1)}
    mask = full.get(layer.table, out_inner.reshape(1, o, b, k))
    unused = tuple(axis for axis in range(4) if axis not in axes)
    return np.asarray(mask.any(axis=unused, keepdims=True), dtype=np.bool_)


def _covered_masks(
    space: Space, layers: Sequence[GridLayer], masks: Masks, distinct: _Distinct, covered: Bools
) -> Masks:
    """Return the masks without choices that need an uncovered layer; all tables must cover both forms of an add."""
    stem = masks.stem.copy()
    pairs = tuple((first.copy(), skip.copy(), out.copy()) for first, skip, out in masks.pairs)
    slot = {"first_in": 0, "first_skip": 1}
    for layer, places in zip(layers, distinct.places, strict=True):
        known = covered[places]
        if layer.table == "stem":
            stem &= known.reshape(-1)
        elif layer.table == "tail":
            pairs[-1][1][:] &= known.reshape(1, -1)
        elif layer.table != "further" or space.stages[layer.stage - 1].depth[1] > 1:
            pairs[layer.stage - 1][slot.get(layer.table, 2)][:] &= _as_pair(space, layer, known)
        _require_some(known, layer, places, distinct.specs)
    return Masks(stem=stem, pairs=pairs)


def _require_some(known: Bools, layer: GridLayer, places: Ints, specs: Sequence[LayerSpec]) -> None:
    needed = places >= 0
    if (known & needed).any() or (layer.table == "identity" or not needed.any()):
        return
    raise NotCoveredError(
        f"no table row answers for any {layer.form.role or layer.table} of stage {layer.stage}, "
        f"such as {specs[int(places.max())]}",
        where="latency",
        hint="profile with this space",
    )
