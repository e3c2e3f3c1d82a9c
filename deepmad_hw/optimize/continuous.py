"""The continuous design: widths, kernels and depths as real numbers, solved by IPOPT in a blink. Layer 3 (optimize).

With x = log out, y = log bottleneck, z = log kernel, MACs, parameters and the latency stand-in are sums of
``depth * exp(linear)`` and log w is linear. The score is a sum of products, so the point is a local optimum: it
starts the search and prices the limits, and it bounds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyomo.environ as pyo

from deepmad_hw.latency.model import LatencyModel
from deepmad_hw.optimize.coefficients import Coefficients, coefficients, with_limits
from deepmad_hw.optimize.quantities import limited, objective_terms
from deepmad_hw.optimize.smooth import Logarithm, Nlp, PricedRow
from deepmad_hw.optimize.solvers import CasadiIpopt, NlpOutcome
from deepmad_hw.problem import entropy
from deepmad_hw.problem.problem import Problem, table_of
from deepmad_hw.problem.solution import ContinuousDesign, ContinuousStage, Price

STARTS = (0.35, 0.65)  # where in every range the solver starts
BINDING = 1e-4  # share of the objective's magnitude per relative limit from which a limit counts as binding


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuousResult:
    """The best local optimum and what its limits cost.

    Args:
        design: the point.
        prices: one per limit.
        stopped: why the solver stopped.
    """

    design: ContinuousDesign
    prices: tuple[Price, ...]
    stopped: str


def solve_continuous(tables: Coefficients) -> ContinuousResult | None:
    """Return the best of a few local optima, or None where the solver finds no feasible point.

    Args:
        tables: the problem's tables; the latency limits are taken through a stand-in fitted to them.
    """
    nlp = build(tables)
    solver = CasadiIpopt(nlp.model)
    best: ContinuousResult | None = None
    for fraction in STARTS:
        _start(nlp.model, fraction)
        outcome = solver.solve()
        if outcome.converged and (best is None or _objective(nlp.model) > best.design.objective):
            best = _result(nlp, outcome)
    return best


def continuous_designs(
    problems: Iterable[Problem], models: Mapping[str, LatencyModel]
) -> Iterator[ContinuousResult | None]:
    """Yield the continuous design of each problem, or None where none was found; the tables are made once.

    Args:
        problems: which differ in the values of their limits only.
        models: latency models by table name.

    Raises:
        ConfigError: they differ in more.
        InfeasibleError: the rules and the tables leave no design.
    """
    tables = None
    for problem in problems:
        tables = coefficients(problem, models) if tables is None else with_limits(tables, problem)
        yield solve_continuous(tables)


def build(tables: Coefficients) -> Nlp:
    """Return the Pyomo model of a problem over real widths, kernels and depths.

    Args:
        tables: the problem's tables.
    """
    model = pyo.ConcreteModel(name=tables.problem.name)
    model.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    _add_variables(tables, model)
    log = Logarithm()
    nlp = Nlp(model=model, tables=tables, network=_network(tables, model, log))
    nlp.scales = entropy.scales(nlp.network, log=log)
    nlp.terms = tuple(term.of_nlp(nlp) for term in objective_terms(tables))
    model.objective = pyo.Objective(expr=-sum(nlp.terms), sense=pyo.minimize)
    model.rows = pyo.ConstraintList()
    _add_rules(nlp)
    for limit in limited(tables):
        limit.add_to_nlp(nlp)
    return nlp


def _add_variables(tables: Coefficients, model: Any) -> None:
    stages = range(1, len(tables.stages) + 1)

    def ends(values: Any) -> tuple[float, float]:
        return math.log(min(values)), math.log(max(values))

    model.log_width = pyo.Var([0, *stages], bounds=lambda _, i: ends(tables.out_widths(i)))
    model.log_bottleneck = pyo.Var(stages, bounds=lambda _, i: ends(tables.stages[i - 1].bottleneck))
    model.log_kernel = pyo.Var(stages, bounds=lambda _, i: ends(tables.stages[i - 1].kernel))
    model.depth = pyo.Var(stages, bounds=lambda _, i: tables.stages[i - 1].depth)


def _network(tables: Coefficients, model: Any, log: Logarithm) -> Any:
    """Return the network with model expressions for numbers."""
    space = tables.problem.space
    stages = [
        SimpleNamespace(
            out=log.exp(model.log_width[i]),
            bottleneck=log.exp(model.log_bottleneck[i]),
            kernel=log.exp(model.log_kernel[i]),
            stride=choice.stride,
            depth=model.depth[i],
        )
        for i, choice in enumerate(space.stages, start=1)
    ]
    stem = SimpleNamespace(out=log.exp(model.log_width[0]), kernel=space.stem_kernel, stride=space.stem_stride)
    return SimpleNamespace(
        family=space.family,
        resolution=space.resolution,
        stem=stem,
        stages=stages,
        head=space.head,
        in_channels=space.in_channels,
        classes=space.classes,
        activation=space.activation,
    )


def _add_rules(nlp: Nlp) -> None:
    space, model = nlp.tables.problem.space, nlp.model
    low, high = (math.log(ratio) for ratio in space.bottleneck_ratio)
    for i in model.depth:
        width, before, bottleneck = model.log_width[i], model.log_width[i - 1], model.log_bottleneck[i]
        if space.non_decreasing:
            row = model.rows.add(before - width <= 0)
            nlp.rows[f"width_order:stage{i}"] = ("%", [PricedRow(row=row, per_step=lambda: 0.01)])
        model.rows.add(width - before <= math.log(space.max_growth))
        model.rows.add((low, bottleneck - width, high))


def _start(model: Any, fraction: float) -> None:
    for variable in model.component_data_objects(pyo.Var):
        low, high = variable.bounds
        variable.set_value(low + fraction * (high - low))
    for i in model.log_width:  # a start that keeps the order of the widths as far as the ranges let it
        if i and model.log_width[i].value < model.log_width[i - 1].value:
            model.log_width[i].set_value(min(model.log_width[i - 1].value, model.log_width[i].ub))


def _objective(model: Any) -> float:
    return -float(pyo.value(model.objective))


def _result(nlp: Nlp, outcome: NlpOutcome) -> ContinuousResult:
    model = nlp.model
    stages = tuple(
        ContinuousStage(
            out=math.exp(model.log_width[i].value),
            bottleneck=math.exp(model.log_bottleneck[i].value),
            kernel=math.exp(model.log_kernel[i].value),
            stride=choice.stride,
            depth=float(model.depth[i].value),
        )
        for i, choice in enumerate(nlp.tables.problem.space.stages, start=1)
    )
    design = ContinuousDesign(
        objective=_objective(model),
        stem=math.exp(model.log_width[0].value),
        stages=stages,
        iterations=outcome.iterations,
        solve_ms=outcome.solve_ms,
        surrogate_error=tuple((table_of(name) or name, *errors) for name, errors in nlp.surrogate_error.items()),
    )
    return ContinuousResult(design=design, prices=tuple(_prices(nlp, _magnitude(nlp))), stopped=outcome.stopped)


def _magnitude(nlp: Nlp) -> float:
    """Return what a share of 1 is: |objective| of DeepMAD's, else the sum of the terms' magnitudes."""
    if nlp.tables.problem.objective is None:
        return abs(_objective(nlp.model))
    return math.fsum(abs(float(pyo.value(term))) for term in nlp.terms)


def _prices(nlp: Nlp, magnitude: float) -> Iterator[Price]:
    for limit, (step, rows) in nlp.rows.items():
        gains = [(-nlp.model.dual[priced.row], priced.per_step()) for priced in rows]
        yield Price(
            limit=limit,
            binding=any(gain > BINDING * magnitude for gain, _ in gains),
            objective_per_unit=sum(max(gain, 0.0) * per_step for gain, per_step in gains),
            unit=step,
        )
