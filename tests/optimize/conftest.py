"""Problems and made-up latency tables for the solvers' tests."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_problems import MadeUpTable, all_designs, small_space

from deepmad_hw.network import families
from deepmad_hw.network.architecture import Head
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.problem.space import Space, StageSpace, geometric_grid

DATA = Path(__file__).parents[1] / "data" / "problems.json"


@pytest.fixture(scope="session")
def table():
    """Return the maker of made-up tables."""
    return MadeUpTable


@pytest.fixture(scope="session")
def space_of():
    """Return the maker of small spaces, one per family and seed."""
    return small_space


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


@pytest.fixture(scope="session")
def proved():
    """Return the maker of (incumbent, bound) of a published problem on the grid of ratio 1.25."""

    def of(name):
        data = json.loads(DATA.read_text(encoding="utf-8"))
        found = next(p for p in data["problems"] if p["name"] == name)["reference_grid_result"]
        return found["incumbent"], found["bound"]

    return of
