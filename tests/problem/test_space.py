"""Grids, depths and rules of a space."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmad_hw.errors import ConfigError
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.problem.space import Space, StageSpace, geometric_grid, linear_grid

SPACE = Space(
    family="bottleneck",
    resolution=(32, 64),
    stem=(8, 16),
    stages=(
        StageSpace(stride=2, out=(16, 32, 64), bottleneck=(8, 16), kernel=(3, 5), depth=(1, 3)),
        StageSpace(stride=2, out=(32, 64, 128), bottleneck=(8, 16, 64), kernel=(3,), depth=(2, 4)),
    ),
    bottleneck_ratio=(0.25, 1.0),
    head=Head(out=80),
    classes=10,
)
MEMBER = Architecture(
    family="bottleneck",
    resolution=(32, 64),
    stem=Stem(out=16),
    stages=(
        Stage(out=16, bottleneck=8, kernel=5, stride=2, depth=1),
        Stage(out=64, bottleneck=16, kernel=3, stride=2, depth=4),
    ),
    head=Head(out=80),
    classes=10,
)


def with_stage(index, **changes):
    stages = list(MEMBER.stages)
    stages[index - 1] = dataclasses.replace(stages[index - 1], **changes)
    return dataclasses.replace(MEMBER, stages=tuple(stages))


def test_a_member_has_no_violations():
    assert SPACE.violations(MEMBER) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("family", "basic"),
        ("resolution", (64, 64)),
        ("in_channels", 1),
        ("classes", 0),
        ("head", None),
        ("head", Head(out=80, kernel=3)),
        ("activation", "relu"),
    ],
)
def test_each_fixed_field_must_be_the_space_s(field, value):
    (found,) = SPACE.violations(dataclasses.replace(MEMBER, **{field: value}))
    assert found == f"{field} is {value}, the space has {getattr(SPACE, field)}"


@pytest.mark.parametrize("stem", [Stem(out=12), Stem(out=16, kernel=5)])
def test_a_stem_off_the_grid_is_named(stem):
    (found,) = SPACE.violations(dataclasses.replace(MEMBER, stem=stem))
    assert found.startswith("stem Stem(")


@pytest.mark.parametrize(
    ("index", "changes"),
    [
        (1, {"out": 24}),
        (1, {"bottleneck": 12}),
        (1, {"kernel": 7}),
        (2, {"kernel": 5}),
        (1, {"depth": 4}),
        (2, {"depth": 1}),
        (2, {"depth": 5}),
    ],
)
def test_a_stage_off_the_grid_is_named(index, changes):
    (found,) = SPACE.violations(with_stage(index, **changes))
    assert found.startswith(f"stage {index} Stage(")
    assert found.endswith("is not on the grid")


def test_another_stride_is_named():
    moved = dataclasses.replace(with_stage(2, stride=1), resolution=(32, 64))
    assert [text.split(" Stage(")[0] for text in SPACE.violations(moved)] == ["stage 2"]


def test_another_number_of_stages_is_named_once():
    short = dataclasses.replace(MEMBER, stages=MEMBER.stages[:1])
    assert SPACE.violations(short) == ("1 stages, the space has 2",)


def test_shrinking_widths_are_named():
    shrinks = dataclasses.replace(
        with_stage(2, out=32),
        stages=(
            Stage(out=64, bottleneck=16, kernel=3, stride=2, depth=1),
            Stage(out=32, bottleneck=16, kernel=3, stride=2, depth=2),
        ),
    )
    assert SPACE.violations(shrinks) == ("stage 2 goes from 64 to 32 channels",)
    assert dataclasses.replace(SPACE, non_decreasing=False).violations(shrinks) == ()


def test_growth_above_the_limit_is_named():
    grows = dataclasses.replace(with_stage(2, out=128, bottleneck=64), stem=Stem(out=8))
    assert SPACE.violations(grows) == ("stage 2 goes from 16 to 128 channels",)
    assert dataclasses.replace(SPACE, max_growth=8.0).violations(grows) == ()


@pytest.mark.parametrize(("out", "bottleneck"), [(64, 8), (32, 64)])
def test_a_bottleneck_outside_its_ratio_is_named(out, bottleneck):
    assert SPACE.violations(with_stage(2, out=out, bottleneck=bottleneck)) == (
        f"stage 2 has bottleneck {bottleneck} at width {out}",
    )


def test_every_violation_is_listed():
    wrong = dataclasses.replace(with_stage(2, kernel=7, bottleneck=8), family="basic", stem=Stem(out=12))
    assert len(SPACE.violations(wrong)) == 4


@pytest.mark.parametrize(
    ("before", "out", "allowed"), [(16, 15, False), (16, 16, True), (24, 96, True), (24, 97, False)]
)
def test_widths_grow_up_to_four_times(before, out, allowed):
    assert SPACE.allows_widths(before, out) is allowed


def test_ratio_bounds_hold_at_the_bound_in_floats():
    low = dataclasses.replace(SPACE, bottleneck_ratio=(1.1, 6.0))  # 1.1 * 50 is above 55 in floats
    assert low.allows_bottleneck(50, 55)
    assert not low.allows_bottleneck(50, 54)
    high = dataclasses.replace(SPACE, bottleneck_ratio=(0.1, 0.29))  # 0.29 * 100 is below 29 in floats
    assert high.allows_bottleneck(100, 29)
    assert not high.allows_bottleneck(100, 30)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"stem": ()}, "stem"),
        ({"stem": (16, 8)}, "stem"),
        ({"stem": (8, 8)}, "stem"),
        ({"stages": ()}, "stages"),
        ({"bottleneck_ratio": (0.0, 1.0)}, "bottleneck_ratio"),
        ({"bottleneck_ratio": (2.0, 1.0)}, "bottleneck_ratio"),
        ({"bottleneck_ratio": (0.5, math.inf)}, "bottleneck_ratio"),
        ({"max_growth": math.nan}, "max_growth"),
        ({"max_growth": 0}, "max_growth"),
        ({"in_channels": 0}, "in_channels"),
        ({"classes": -1}, "classes"),
        ({"stem_kernel": 4}, "stem_kernel"),
        ({"stem_stride": 3}, "stem_stride"),
        ({"resolution": (36, 64)}, "resolution"),
    ],
)
def test_spaces_that_hold_no_network_are_refused(changes, where):
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(SPACE, **changes)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"out": ()}, "out"),
        ({"out": (16.0,)}, "out"),
        ({"bottleneck": (0, 8)}, "bottleneck"),
        ({"kernel": (3, 4)}, "kernel"),
        ({"kernel": (5, 3)}, "kernel"),
        ({"stride": 3}, "stride"),
        ({"depth": (0, 3)}, "depth"),
        ({"depth": (3, 2)}, "depth"),
        ({"depth": (1, 2.5)}, "depth"),
        ({"stride": 2.0}, "stride"),
        ({"stride": True}, "stride"),
        ({"out": (True, 16)}, "out"),
    ],
)
def test_stage_spaces_that_hold_no_stage_are_refused(changes, where):
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(SPACE.stages[0], **changes)
    assert caught.value.where == where


# Grids of the seven DeepMAD problems: each range walked from its lower end by a factor of 1.25, multiples of 8.
REFERENCE_GRIDS = [
    ((48, 256), "48 64 72 96 120 144 184 232"),
    ((128, 1024), "128 160 200 248 312 392 488 608 760 952"),
    ((384, 2048), "384 480 600 752 936 1168 1464 1832"),
    ((16, 96), "16 24 32 40 48 64 80 96"),
    ((40, 192), "40 48 64 80 96 120 152 192"),
    ((56, 320), "56 72 88 112 136 168 216 264"),
    ((18.2, 88.0), "16 24 32 48 56 72 88"),
    ((38.6, 187.0), "40 48 64 72 96 120 144 184"),
    ((27.3, 528.0), "24 32 40 56 64 80 104 128 160 200 256 320 400 496"),
    ((41.6, 805.2), "40 48 64 80 104 128 160 200 248 312 384 488 608 760"),
    ((171.8, 831.6), "168 216 272 336 416 528 656 816"),
    ((507.3, 9820.8), "504 632 792 992 1240 1552 1936 2416 3024 3776 4728 5904 7384 9224"),
]


@pytest.mark.parametrize(("ends", "expected"), REFERENCE_GRIDS)
def test_reference_grids(ends, expected):
    assert geometric_grid(*ends, ratio=1.25, multiple=8) == tuple(int(value) for value in expected.split())


def test_a_linear_grid_holds_every_multiple_inside():
    assert linear_grid(10, 40, multiple=8) == (16, 24, 32, 40)
    assert linear_grid(8.0, 8.0, multiple=8) == (8,)
    assert linear_grid(-5, 9, multiple=4) == (4, 8)


@pytest.mark.parametrize(
    ("low", "high", "ratio", "multiple"),
    [(8, 64, 1.0, 8), (0, 64, 1.25, 8), (8, 64, 1.25, 0), (64, 8, 1.25, 8)],
)
def test_empty_and_endless_walks_are_refused(low, high, ratio, multiple):
    with pytest.raises(ConfigError, match=r"^grid: "):
        geometric_grid(low, high, ratio=ratio, multiple=multiple)


def test_an_empty_linear_grid_is_refused():
    with pytest.raises(ConfigError, match=r"grid: no multiple of 8 lies between 9 and 15"):
        linear_grid(9, 15, multiple=8)


ends = (
    st.sampled_from([-math.inf, math.inf, math.nan])
    | st.floats(-1e5, 1e5, allow_subnormal=False)
    | st.integers(-(10**5), 10**5)
)


@given(
    low=ends,
    high=ends,
    ratio=st.sampled_from([-1.0, 0.0, 1.0, math.inf, math.nan]) | st.floats(1.01, 9),
    step=st.integers(-2, 99),
)
def test_any_ends_make_a_grid_or_one_refusal(low, high, ratio, step):
    for grid in (
        lambda: geometric_grid(low, high, ratio=ratio, multiple=step),
        lambda: linear_grid(low, high, multiple=step),
    ):
        try:
            found = grid()
        except ConfigError as error:
            line = str(error)
            assert line.startswith("grid: ")
            continue
        assert list(found) == sorted(set(found))
        assert all(value >= 1 and isinstance(value, int) for value in found)


@given(
    low=st.floats(1, 500), factor=st.floats(1, 40), ratio=st.floats(1.05, 3), multiple=st.sampled_from([1, 8, 16, 32])
)
def test_geometric_grids_are_ascending_multiples_near_their_range(low, factor, ratio, multiple):
    grid = geometric_grid(low, low * factor, ratio=ratio, multiple=multiple)
    assert list(grid) == sorted(set(grid))
    assert all(value % multiple == 0 for value in grid)
    assert min(grid) >= min(multiple, low - multiple / 2)
    assert max(grid) <= max(multiple, low * factor + multiple / 2 + 1e-6)
