"""The continuous design: widths, kernels and depths as real numbers, solved by IPOPT in a blink. Layer 3 (optimize).

With x = log out, y = log bottleneck, z = log kernel, MACs, parameters and the latency stand-in are sums of
``depth * exp(linear)`` and log w is linear. The score is a sum of products, so the point is a local optimum: it
starts the search and prices the limits, and it bounds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pyomo.environ as pyo

from deepmad_hw import costs, entropy
from deepmad_hw.optimize.coefficients import Coefficients
from deepmad_hw.optimize.memory import MemoryRow, memory_rows
from deepmad_hw.optimize.solvers import CasadiIpopt, NlpOutcome
from deepmad_hw.optimize.surrogate import Surrogate, fit_surrogate, stage_value
from deepmad_hw.solution import ContinuousDesign, ContinuousStage, Price

VARIANCE_FLOOR = 1e-4  # keeps the standard deviation smooth where all depths are equal; worth < 0.1 of the objective
STARTS = (0.35, 0.65)  # where in every range the solver starts
BINDING = 1e-4  # relative objective per relative limit from which a limit counts as binding
MEBIBYTE = 1024.0**2


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


@dataclass(kw_only=True)
class _Built:
    """The Pyomo model and what its rows stand for."""

    model: Any
    surrogates: dict[str, Surrogate] = field(default_factory=dict)
    # limit -> (unit, rows as (constraint, objective per unit of the limit for one unit of the row's bound))
    rows: dict[str, tuple[str, list[tuple[Any, Callable[[], float]]]]] = field(default_factory=dict)


def solve_continuous(tables: Coefficients) -> ContinuousResult | None:
    """Return the best of a few local optima, or None where the solver finds no feasible point.

    Args:
        tables: the problem's tables; the latency limits are taken through a stand-in fitted to them.
    """
    built = build(tables)
    solver = CasadiIpopt(built.model)
    best: ContinuousResult | None = None
    for fraction in STARTS:
        _start(built.model, fraction)
        outcome = solver.solve()
        if outcome.converged and (best is None or _objective(built.model) > best.design.objective):
            best = _result(tables, built, outcome)
    return best


def build(tables: Coefficients) -> _Built:
    """Return the Pyomo model of a problem over real widths, kernels and depths.

    Args:
        tables: the problem's tables.
    """
    model = pyo.ConcreteModel(name=tables.problem.name)
    model.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    built = _Built(model=model)
    _add_variables(tables, model)
    network, logs = _network(tables, model)
    scales = entropy.scales(network, log=_logarithm(logs))
    model.objective = pyo.Objective(expr=_penalty(tables, model) - entropy.score(scales), sense=pyo.minimize)
    model.rows = pyo.ConstraintList()
    _add_rules(tables, built)
    _add_costs(tables, built, network)
    _add_latency(tables, built)
    _add_memory(tables, built)
    _add_effectiveness(tables, built, scales)
    return built


def _add_variables(tables: Coefficients, model: Any) -> None:
    stages = range(1, len(tables.stages) + 1)

    def ends(values: Any) -> tuple[float, float]:
        return math.log(min(values)), math.log(max(values))

    model.log_width = pyo.Var([0, *stages], bounds=lambda _, i: ends(tables.out_widths(i)))
    model.log_bottleneck = pyo.Var(stages, bounds=lambda _, i: ends(tables.stages[i - 1].bottleneck))
    model.log_kernel = pyo.Var(stages, bounds=lambda _, i: ends(tables.stages[i - 1].kernel))
    model.depth = pyo.Var(stages, bounds=lambda _, i: tables.stages[i - 1].depth)


def _network(tables: Coefficients, model: Any) -> tuple[Any, dict[int, Any]]:
    """Return the network with model expressions for numbers, and the logarithm of each expression by identity."""
    space = tables.problem.space
    logs: dict[int, Any] = {}

    def exp(variable: Any) -> Any:
        expression = pyo.exp(variable)
        logs[id(expression)] = variable
        return expression

    stages = [
        SimpleNamespace(
            out=exp(model.log_width[i]),
            bottleneck=exp(model.log_bottleneck[i]),
            kernel=exp(model.log_kernel[i]),
            stride=choice.stride,
            depth=model.depth[i],
        )
        for i, choice in enumerate(space.stages, start=1)
    ]
    stem = SimpleNamespace(out=exp(model.log_width[0]), kernel=space.stem_kernel, stride=space.stem_stride)
    network = SimpleNamespace(
        family=space.family,
        resolution=space.resolution,
        stem=stem,
        stages=stages,
        head=space.head,
        in_channels=space.in_channels,
        classes=space.classes,
        activation=space.activation,
    )
    return network, logs


def _logarithm(logs: Mapping[int, Any]) -> Callable[[Any], Any]:
    def log(number: Any) -> Any:
        if isinstance(number, int | float):
            return math.log(number)
        return logs[id(number)] if id(number) in logs else pyo.log(number)

    return log


def _penalty(tables: Coefficients, model: Any) -> Any:
    problem = tables.problem
    depths = entropy.penalised_depths(problem.space.family, [model.depth[i] for i in model.depth])
    if len(depths) < 2:
        return entropy.PENALTY_WEIGHT
    mean = sum(depths) / len(depths)
    variance = sum((depth - mean) ** 2 for depth in depths) / len(depths)
    spread = variance if problem.penalty == "variance" else pyo.sqrt(variance + VARIANCE_FLOOR)
    return entropy.PENALTY_WEIGHT * pyo.exp(spread)


def _add_rules(tables: Coefficients, built: _Built) -> None:
    space, model = tables.problem.space, built.model
    low, high = (math.log(ratio) for ratio in space.bottleneck_ratio)
    for i in model.depth:
        width, before, bottleneck = model.log_width[i], model.log_width[i - 1], model.log_bottleneck[i]
        if space.non_decreasing:
            row = model.rows.add(before - width <= 0)
            built.rows[f"width_order:stage{i}"] = ("%", [(row, lambda: 0.01)])
        model.rows.add(width - before <= math.log(space.max_growth))
        model.rows.add((low, bottleneck - width, high))


def _add_costs(tables: Coefficients, built: _Built, network: Any) -> None:
    limits = tables.problem.limits
    for name, limit, cost in (("macs", limits.macs, costs.macs), ("params", limits.params, costs.params)):
        if limit is None:
            continue
        row = built.model.rows.add(cost(network) / limit <= 1)
        built.rows[name] = ("M", [(row, lambda limit=limit: 1e6 / limit)])  # type: ignore[misc]


def _add_latency(tables: Coefficients, built: _Built) -> None:
    model = built.model
    for name, limit_ms in tables.limits.items():
        if not name.startswith("latency:"):
            continue
        surrogate = fit_surrogate(tables, tables.quantities[name])
        built.surrogates[name] = surrogate
        total = surrogate.stem([model.log_width[0]], exp=pyo.exp)
        total = total + surrogate.tail([model.log_width[len(tables.stages)]], exp=pyo.exp)
        for i, fit in enumerate(surrogate.stages, start=1):
            widths = model.log_width[i - 1], model.log_width[i]
            inner = model.log_bottleneck[i], model.log_kernel[i]
            total = total + stage_value(fit, *widths, *inner, model.depth[i], exp=pyo.exp)
        row = model.rows.add(total / limit_ms <= 1)
        budget_ms = tables.problem.limits.named()[name]
        # What a millisecond of budget adds to the limit on the sum, as a share of that limit.
        share = 1 / (tables.curves[name].slope_at(budget_ms) * limit_ms)
        built.rows[name] = ("ms", [(row, lambda share=share: share)])  # type: ignore[misc]


def _add_memory(tables: Coefficients, built: _Built) -> None:
    limit = tables.problem.limits.memory_bytes
    if limit is None:
        return
    rows = [
        (built.model.rows.add(_row_bytes(tables, built.model, row) / limit <= 1), lambda: MEBIBYTE / limit)
        for row in memory_rows(tables)
        if not row.same and (row.widths or row.inner)
    ]
    built.rows["memory"] = ("MiB", rows)


def _row_bytes(tables: Coefficients, model: Any, row: MemoryRow) -> Any:
    total = row.constant
    for stage, sizes in row.widths.items():
        total = total + float((sizes / tables.out_widths(stage)).max()) * pyo.exp(model.log_width[stage])
    for stage, sizes in row.inner.items():
        per_channel = float((sizes / tables.stages[stage - 1].bottleneck).max())
        total = total + per_channel * pyo.exp(model.log_bottleneck[stage])
    return total


def _add_effectiveness(tables: Coefficients, built: _Built, scales: tuple[entropy.Scale, ...]) -> None:
    """Add rho <= rho_0 at every scale as ``D log D - sum log w - D log rho_0 <= 0``: no division, no root."""
    limit = tables.problem.limits.rho
    if limit is None:
        return
    for index, scale in enumerate(scales, start=1):
        if not isinstance(scale.depth, int | float):
            body = scale.depth * pyo.log(scale.depth) - scale.log_fan_in - scale.depth * math.log(limit)
            row = built.model.rows.add(body <= 0)
            built.rows[f"rho:scale{index}"] = (
                "0.01",
                [(row, lambda depth=scale.depth: 0.01 * pyo.value(depth) / limit)],  # type: ignore[misc]
            )


def _start(model: Any, fraction: float) -> None:
    for variable in model.component_data_objects(pyo.Var):
        low, high = variable.bounds
        variable.set_value(low + fraction * (high - low))
    for i in model.log_width:  # a start that keeps the order of the widths as far as the ranges let it
        if i and model.log_width[i].value < model.log_width[i - 1].value:
            model.log_width[i].set_value(min(model.log_width[i - 1].value, model.log_width[i].ub))


def _objective(model: Any) -> float:
    return -float(pyo.value(model.objective))


def _result(tables: Coefficients, built: _Built, outcome: NlpOutcome) -> ContinuousResult:
    model = built.model
    stages = tuple(
        ContinuousStage(
            out=math.exp(model.log_width[i].value),
            bottleneck=math.exp(model.log_bottleneck[i].value),
            kernel=math.exp(model.log_kernel[i].value),
            stride=choice.stride,
            depth=float(model.depth[i].value),
        )
        for i, choice in enumerate(tables.problem.space.stages, start=1)
    )
    design = ContinuousDesign(
        objective=_objective(model),
        stem=math.exp(model.log_width[0].value),
        stages=stages,
        iterations=outcome.iterations,
        solve_ms=outcome.solve_ms,
        surrogate_error=tuple(
            (name.removeprefix("latency:"), fit.median_error, fit.worst_error) for name, fit in built.surrogates.items()
        ),
    )
    return ContinuousResult(design=design, prices=tuple(_prices(built, design.objective)), stopped=outcome.stopped)


def _prices(built: _Built, objective: float) -> Iterator[Price]:
    for limit, (unit, rows) in built.rows.items():
        gains = [(-built.model.dual[row], per_unit()) for row, per_unit in rows]
        yield Price(
            limit=limit,
            binding=any(gain > BINDING * abs(objective) for gain, _ in gains),
            objective_per_unit=sum(max(gain, 0.0) * per_unit for gain, per_unit in gains),
            unit=unit,
        )
