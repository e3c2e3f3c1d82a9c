"""Small random problems and their answers by brute force, and some that are too large for it."""

import math
import time
import zlib
from dataclasses import dataclass, replace

import numpy as np

from deepmad_hw.latency.model import Curve, predict_ms
from deepmad_hw.network import families
from deepmad_hw.network.architecture import Head
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.optimize import certified
from deepmad_hw.optimize.coefficients import coefficients, sample_designs
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status
from deepmad_hw.problem.space import Space, StageSpace

MOST_DESIGNS = 20_000
LONG_S = 1e5  # no small problem takes so long, wherever and beside whatever it is solved
BEYOND = 1e6  # a limit this many times larger is none
ROUNDING = 1e-9  # relative; within it the tables leave the word on a limit to the checker
SHAPES = {  # what a small space is made of; every row is another corner
    "plain": {},
    "head": {"head": True},
    "backbone": {"classes": 0},
    "one stage": {"stages": 1, "widths": 5, "inner": 4, "depth": 8},
    "two stages": {"stages": 2, "widths": 4, "inner": 3, "depth": 4},
    "depth one": {"depth": 1},
    "stride one": {"strides": (1, 1, 2), "widths": 3, "depth": 1},
    "any order": {"non_decreasing": False, "stages": 2, "widths": 3, "depth": 4},
}
VARIANTS = {  # latency tables, and whether peak memory is limited
    "no table": ((), False),
    "one table": (("one",), False),
    "three tables": (("one", "two", "three"), False),
    "memory and a table": (("one",), True),
}


WITH_OVERHEAD = Curve(knots=((0.0, 0.05),))


@dataclass(frozen=True, kw_only=True)
class MadeUpTable:
    """Roofline-like times with a random factor per layer, and no answer for a share of the layers."""

    name: str = "made-up"
    device: str = "nothing"
    curve: Curve = WITH_OVERHEAD
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


# --- spaces and problems --------------------------------------------------------------------------------------------


def small_space(
    family,
    *,
    seed=0,
    stages=3,
    widths=3,
    inner=2,
    depth=4,
    equal_widths=True,
    head=None,
    classes=10,
    strides=(2, 1, 2, 2),
    non_decreasing=True,
):
    """Return a random space of about (widths * inner * 2 * depth)^stages designs."""
    random = np.random.default_rng(seed)
    low, high = families.get(family).bottleneck_ratio
    before, found = 0, []
    for stride in strides[:stages]:
        start = max(8 * int(random.integers(1, 4)), before)
        out = tuple(sorted({start + 8 * int(i) for i in random.choice(6, widths, replace=False)}))
        middle = (out[0] * max(low, 0.25), out[-1] * min(high, 4.0))
        bottleneck = tuple(sorted({8 * max(1, round(v / 8)) for v in random.uniform(*middle, inner)}))
        low_depth = int(random.integers(1, 3))
        found.append(
            StageSpace(
                stride=stride,
                out=out,
                bottleneck=bottleneck,
                kernel=(3, 5),
                depth=(low_depth, low_depth + int(random.integers(0, depth))),
            )
        )
        before = out[0] if equal_widths else out[-1] + 8
    return Space(
        family=family,
        resolution=(64, 96),
        stem=(8, 16) if strides[0] > 1 else found[0].out[:2],
        stages=tuple(found),
        bottleneck_ratio=(0.05, 20.0),
        head=Head(out=64) if head else None,
        classes=classes,
        non_decreasing=non_decreasing,
        max_growth=8.0,
    )


def small_problem(family, shape, seed, *, budgets=("one",), memory=True, quantile=0.4, penalty="std"):
    """Return a small problem with limits at a quantile of its own designs, and its tables."""
    space = small_space(family, seed=seed, **{"widths": 2, "inner": 2, "depth": 2, **SHAPES[shape]})
    return _limited(space, seed, budgets=budgets, memory=memory, quantile=quantile, penalty=penalty)


def medium_problem(index):
    """Return the n-th random problem of some billion designs, too many to look at each, and its tables."""
    family = families.names()[index % len(families.names())]
    space = small_space(family, seed=index, stages=4, widths=6, inner=5, depth=8)
    return _limited(space, index, budgets=("one",), memory=False, quantile=0.4, penalty="std")


def _limited(space, seed, *, budgets, memory, quantile, penalty):
    models = {name: MadeUpTable(name=name, seed=seed + i) for i, name in enumerate(budgets)}
    free = coefficients(Problem(name="free", space=space, limits=Limits()), {})
    designs = [free.decode(design) for design in sample_designs(free, 40, seed=1)]
    models = {name: _bent(model, designs, quantile) if model.seed % 2 else model for name, model in models.items()}
    truths = [check.evaluate(design, models=models) for design in designs]

    def at(values, factor=1.0):
        return float(np.quantile(values, quantile)) * factor

    latency = tuple(
        LatencyLimit(table=name, budget_ms=at([t.latency[i].upper_ms for t in truths], 1.1))
        for i, name in enumerate(budgets)
    )
    limits = Limits(
        macs=at([t.macs for t in truths], 1.1),
        params=at([t.params for t in truths], 1.1),
        memory_bytes=at([t.memory_bytes for t in truths], 1.2) if memory else None,
        rho=at([t.max_rho for t in truths], 1.3),
        latency=latency,
    )
    return Problem(name="small", space=space, limits=limits, penalty=penalty), models


def _bent(model, designs, quantile):
    """Return a table by whose curve short networks take a share of their sum, the bend where budgets will be."""
    sums_ms = np.quantile([predict_ms(design, replace(model, curve=Curve())) for design in designs], quantile)
    return replace(model, curve=Curve(knots=((0.0, 0.01), (0.95 * sums_ms, 0.6 * sums_ms), (1.1 * sums_ms,) * 2)))


def feasible_problem(index, variant):
    """Return the n-th random problem that has an answer, and its tables: every family, every shape in turn."""
    family = families.names()[index % len(families.names())]
    shape = list(SHAPES)[index // len(families.names()) % len(SHAPES)]
    budgets, memory = VARIANTS[variant]
    penalty = "variance" if index % 10 == 7 else "std"
    for quantile in (0.4, 0.6, 0.8, 1.0):
        problem, models = small_problem(
            family, shape, index, budgets=budgets, memory=memory, quantile=quantile, penalty=penalty
        )
        if best_by_brute_force(problem, models) is not None:
            return problem, models
    raise AssertionError(f"problem {index} has no answer even with loose limits")


def infeasible_problem(index):
    """Return the n-th random problem that has no answer, and its tables: some limits shrink until none is left."""
    random = np.random.default_rng(index)
    problem, models = feasible_problem(index, list(VARIANTS)[index % len(VARIANTS)])
    names = limit_names(problem)
    chosen = random.choice(names, int(random.integers(1, len(names) + 1)), replace=False)
    while best_by_brute_force(problem, models) is not None:
        for name in chosen:
            problem = with_limit(problem, name, limit_of(problem, name) * random.uniform(0.8, 1.0))
    return problem, models


def limit_names(problem):
    """Return the names of a problem's limits as `deepmad_hw.problem.solution.MinimumValue` has them."""
    return list(problem.limits.named())


def limit_of(problem, name):
    """Return a limit by its name."""
    return problem.limits.named()[name]


def with_limit(problem, name, value):
    """Return a problem with one limit at another value; of "all limits" every one is multiplied by it."""
    if name == "all limits":
        for each in limit_names(problem):
            problem = with_limit(problem, each, limit_of(problem, each) * value)
        return problem
    return replace(problem, limits=Limits.of({**problem.limits.named(), name: value}))


# --- brute force ----------------------------------------------------------------------------------------------------


def all_designs(tables):
    """Return every design of a small space, rules kept, encoded."""
    axes = [np.arange(len(tables.stem_widths))]
    for grid in tables.stages:
        axes += [np.arange(len(grid.out_widths)), np.arange(len(grid.bottleneck))]
        axes += [np.arange(grid.depth[0], grid.depth[1] + 1)]
    designs = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    return designs[Evaluator(tables).allowed(designs)]


def count_designs(space):
    """Return how many designs a space has, from its rules alone."""
    ways = dict.fromkeys(space.stem, 1)
    for stage in space.stages:
        depths = stage.depth[1] - stage.depth[0] + 1
        ways = {
            out: sum(count for before, count in ways.items() if space.allows_widths(before, out))
            * sum(space.allows_bottleneck(out, inner) for inner in stage.bottleneck)
            * len(stage.kernel)
            * depths
            for out in stage.out
        }
    return sum(ways.values())


def best_by_brute_force(problem, models):
    """Return the best objective of all designs or None; the checker has the last word."""
    tables = coefficients(problem, models)
    designs = all_designs(tables)
    values = Evaluator(tables).evaluate(designs)
    kept = np.flatnonzero(values.excess <= ROUNDING)
    for index in kept[np.argsort(-values.objective[kept])]:
        architecture = tables.decode(designs[index])
        evaluation = check.evaluate_for(problem, architecture, models)
        if not check.refusals(problem, architecture, evaluation):
            return evaluation.objective
    return None


# --- what must agree ------------------------------------------------------------------------------------------------


def exact(problem, models, *, start=None, gap=0.0):
    """Return what the exact model alone makes of a problem, without the local search's design."""
    tables = coefficients(problem, models)

    def judge(design):
        architecture = tables.decode(design)
        evaluation = check.evaluate_for(problem, architecture, models)
        return None if check.refusals(problem, architecture, evaluation) else evaluation.objective

    return certified.certify(tables, judge, start=start, gap=gap, deadline=time.monotonic() + LONG_S)


def optimum_faults(problem, models, *, gap=0.005):
    """Return where proofs and brute force disagree: the exact model alone at gap 0, and the whole solve at a gap."""
    optimum = best_by_brute_force(problem, models)
    alone, whole = exact(problem, models), solve(problem, models, Settings(gap=gap, time_limit_s=LONG_S))
    refused = check.refusals(problem, whole.architecture, whole.evaluation) if whole.architecture else ("no design",)
    claims = {
        "the exact model's optimum": math.isclose(alone.objective, optimum, rel_tol=ROUNDING),
        "its bound holds": alone.bound is not None and alone.bound >= optimum * (1 - ROUNDING),
        "its bound is reached": alone.bound is not None and alone.bound <= optimum * (1 + 1e-6),
        "the whole solve is certified": whole.status is Status.CERTIFIED and not refused,
        "its design is no better than the best": (whole.objective or math.inf) <= optimum * (1 + ROUNDING),
        "the bound holds": (whole.bound or 0.0) >= optimum * (1 - ROUNDING),
        "the gap is kept": whole.gap is not None and whole.gap <= gap,
    }
    return [f"{claim}: not so (best {optimum})" for claim, holds in claims.items() if not holds]


def table_faults(problem, models, *, count=20):
    """Return where the tables that brute force reads disagree with the checker, on random designs."""
    tables = coefficients(problem, models)
    designs = sample_designs(tables, count, seed=0)
    values = Evaluator(tables).evaluate(designs)
    faults = [] if len(all_designs(tables)) == count_designs(problem.space) else ["another number of designs"]
    for design, objective, excess in zip(designs, values.objective, values.excess, strict=True):
        architecture = tables.decode(design)
        truth = check.evaluate_for(problem, architecture, models)
        kept = not check.refusals(problem, architecture, truth)
        if not math.isclose(objective, truth.objective, rel_tol=ROUNDING) or (excess <= ROUNDING) < kept:
            faults.append(f"the tables say {objective}, {excess} of {architecture}, the checker {truth}")
        if kept < (excess <= 0):
            faults.append(f"the tables grant {architecture} what the checker refuses")
    return faults


def needs_faults(problem, models, solution):
    """Return where reported smallest values and brute force disagree: each is reachable, and 0.1 % below is not."""
    if solution.status is not Status.INFEASIBLE:
        return [f"status {solution.status}: {solution.stopped}"]

    def reachable(name, value):
        value *= 1 + ROUNDING if name == "all limits" else 1  # limit times factor is rounded
        return best_by_brute_force(with_limit(problem, name, value), models) is not None

    faults = []
    for minimum in solution.minimum_values:
        if not reachable(minimum.limit, minimum.value):
            faults.append(f"{minimum.limit}: {minimum.value!r} is out of reach")
        if not minimum.proved or reachable(minimum.limit, minimum.value * 0.999):
            faults.append(f"{minimum.limit}: less than {minimum.value!r} is enough, or nothing is proved")
    helpful = [name for name in limit_names(problem) if reachable(name, limit_of(problem, name) * BEYOND)]
    told = [minimum.limit for minimum in solution.minimum_values]
    if sorted(told) != sorted(helpful or ["all limits"]):
        faults.append(f"limits that help alone: {helpful}, reported: {told}")
    return faults
