"""Problems and made-up latency tables for the solvers' tests."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from deepmad_hw import families
from deepmad_hw.architecture import Head
from deepmad_hw.layer import LayerSpec
from deepmad_hw.problem import LatencyLimit, Limits, Problem
from deepmad_hw.space import Space, StageSpace, geometric_grid

DATA = Path(__file__).parents[1] / "data" / "problems.json"


@dataclass(frozen=True, kw_only=True)
class MadeUpTable:
    """Roofline-like times with a random factor per layer, and no answer for a share of the layers."""

    name: str = "made-up"
    device: str = "nothing"
    overhead_ms: float = 0.05
    margin: float | None = 0.05
    seed: int = 0
    missing: float = 0.0
    noise: float = 0.3

    def _random(self, spec: LayerSpec, salt: str) -> float:
        return zlib.crc32(f"{self.seed}{salt}{spec}".encode()) / 2**32

    def covers(self, specs):
        return np.array([self._random(spec, "covers") >= self.missing for spec in specs], dtype=bool)

    def layers_ms(self, specs):
        assert self.covers(specs).all()
        return np.array([self._layer_ms(spec) for spec in specs], dtype=float)

    def _layer_ms(self, spec: LayerSpec) -> float:
        pixels = spec.out_height * spec.out_width
        macs = pixels * spec.group_width * spec.kernel**2 * spec.out_channels * (spec.op in ("conv", "linear"))
        traffic = spec.in_channels * spec.height * spec.width + (1 + spec.residual) * pixels * spec.out_channels
        return (0.002 + macs / 5e7 + traffic / 1e7) * (1 + self.noise * self._random(spec, "time"))


@pytest.fixture(scope="session")
def table():
    """Return the maker of made-up tables."""
    return MadeUpTable


@pytest.fixture(scope="session")
def space_of():
    """Return the maker of small spaces, one per family and seed."""
    return small_space


def small_space(family, *, seed=0, stages=3, widths=3, inner=2, depth=4, equal_widths=True, head=None, classes=10):
    """Return a random space of about (widths * inner * 2 * depth)^stages designs with a stride-1 second stage."""
    random = np.random.default_rng(seed)
    low, high = families.get(family).bottleneck_ratio
    resolution, before = (64, 96), 0
    found = []
    for index in range(stages):
        start = max(8 * int(random.integers(1, 4)), before)
        out = tuple(sorted({start + 8 * int(i) for i in random.choice(6, widths, replace=False)}))
        middle = (out[0] * max(low, 0.25), out[-1] * min(high, 4.0))
        bottleneck = tuple(sorted({8 * max(1, round(v / 8)) for v in random.uniform(*middle, inner)}))
        low_depth = int(random.integers(1, 3))
        found.append(
            StageSpace(
                stride=1 if index == 1 else 2,
                out=out,
                bottleneck=bottleneck,
                kernel=(3, 5),
                depth=(low_depth, low_depth + int(random.integers(0, depth))),
            )
        )
        before = out[0] if equal_widths else out[-1] + 8
    return Space(
        family=family,
        resolution=resolution,
        stem=(8, 16),
        stages=tuple(found),
        bottleneck_ratio=(0.05, 20.0),
        head=Head(out=64) if head else None,
        classes=classes,
        max_growth=8.0,
    )


def random_designs(tables, count, *, seed=0):
    """Return encoded random designs of a space, rules kept."""
    from deepmad_hw.optimize.evaluator import Evaluator

    random = np.random.default_rng(seed)
    free = Evaluator(tables)
    found = []
    while len(found) < count:
        columns = [random.integers(0, len(tables.stem_widths), 4096)]
        for grid in tables.stages:
            columns.append(random.integers(0, len(grid.out_widths), 4096))
            columns.append(random.integers(0, len(grid.bottleneck), 4096))
            columns.append(random.integers(grid.depth[0], grid.depth[1] + 1, 4096))
        designs = np.stack(columns, axis=1)
        found += list(designs[free.allowed(designs)])
    return np.array(found[:count])


@pytest.fixture(scope="session")
def some_designs():
    """Return the maker of random designs."""
    return random_designs


@pytest.fixture(scope="session")
def published():
    """Return the maker of the published problems on a geometric grid."""
    return published_problem


def published_problem(name, *, ratio=1.25, latency=()):
    """Return one of the seven problems with its limits."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    entry = next(p for p in data["problems"] if p["name"] == name)
    stages = tuple(
        StageSpace(
            stride=stride,
            out=geometric_grid(*out, ratio=ratio, multiple=8),
            bottleneck=geometric_grid(*inner, ratio=ratio, multiple=8),
            kernel=(3, 5),
            depth=tuple(depth),
        )
        for stride, out, inner, depth in zip(
            entry["strides"], entry["out_range"], entry["bottleneck_range"], entry["depth"], strict=True
        )
    )
    head = Head(**entry["head"]) if entry["head"] else None
    space = Space(
        family=entry["family"],
        resolution=(entry["resolution"], entry["resolution"]),
        stem=tuple(entry["stem"]),
        stages=stages,
        bottleneck_ratio=families.get(entry["family"]).bottleneck_ratio,
        head=head,
    )
    budgets = tuple(LatencyLimit(table=table, budget_ms=budget) for table, budget in latency)
    return Problem(name=name, space=space, limits=Limits(**entry["limits"], latency=budgets))


@pytest.fixture(scope="session")
def every_design():
    """Return the maker of all designs of a small space, encoded."""
    return all_designs


def all_designs(tables):
    """Return every design of a small space, rules kept."""
    from deepmad_hw.optimize.evaluator import Evaluator

    axes = [np.arange(len(tables.stem_widths))]
    for grid in tables.stages:
        axes += [np.arange(len(grid.out_widths)), np.arange(len(grid.bottleneck))]
        axes += [np.arange(grid.depth[0], grid.depth[1] + 1)]
    designs = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    return designs[Evaluator(tables).allowed(designs)]


@pytest.fixture(scope="session")
def proved():
    """Return the maker of (incumbent, bound) of a published problem on the grid of ratio 1.25."""

    def of(name):
        data = json.loads(DATA.read_text(encoding="utf-8"))
        found = next(p for p in data["problems"] if p["name"] == name)["reference_grid_result"]
        return found["incumbent"], found["bound"]

    return of
