"""The judge: a design is evaluated and held against its problem with plain numbers, no model, no solver. Layer 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deepmad_hw.errors import ConfigError
from deepmad_hw.latency.model import LatencyModel, predict_ms, upper_ms
from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.problem import entropy
from deepmad_hw.problem import limits as quantities
from deepmad_hw.problem.objective import Calibration, FeatureRange, Objective
from deepmad_hw.problem.problem import Amount, Limits, Problem, latency_name
from deepmad_hw.problem.solution import Evaluation, LatencyValue, ScaleValue, TermValue, Worth

Models = Mapping[str, LatencyModel]
RANGE_ROUNDING = 1e-9  # relative, of a range's ends


def evaluate(
    architecture: Architecture,
    *,
    models: Models | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    penalty: str = "std",
    objective: Objective | None = None,
) -> Evaluation:
    """Return everything that can be said of a design without a solver.

    Args:
        architecture: the design.
        models: latency models by table name.
        limits: budgets that are shown beside the predictions, and other quantities that are evaluated.
        penalty: form of DeepMAD's depth penalty.
        objective: what is maximised; None stands for DeepMAD's.

    Raises:
        NotCoveredError: a table cannot answer for a layer of the design.
    """
    budgets_ms = {limit.table: limit.budget_ms for limit in limits.latency}
    found = entropy.scales(architecture)
    score = float(entropy.score(found))
    depths = [stage.depth for stage in architecture.stages]
    paid = entropy.depth_penalty(architecture.family, depths, penalty=penalty)
    macs, params = costs.macs(architecture), costs.params(architecture)
    worth = None if objective is None else _worth(objective, architecture, found, macs=macs, params=params)
    return Evaluation(
        score=score,
        penalty=paid,
        objective=score - paid if worth is None else math.fsum(term.value for term in worth.terms),
        scales=tuple(
            ScaleValue(
                pixels=scale.pixels, channels=int(scale.channels), entropy=float(scale.entropy), rho=entropy.rho(scale)
            )
            for scale in found
        ),
        macs=macs,
        params=params,
        memory_bytes=costs.peak_memory_bytes(architecture),
        latency=tuple(_latency(architecture, model, budgets_ms.get(name)) for name, model in (models or {}).items()),
        others=tuple(
            Amount(limit=other.limit, value=quantities.quantity(other.limit).of_network(architecture))
            for other in limits.others
        ),
        worth=worth,
    )


def _worth(
    objective: Objective, architecture: Architecture, scales: Sequence[entropy.Scale], *, macs: int, params: int
) -> Worth:
    """Return the terms of an objective, by the formula at the head of `deepmad_hw.problem.objective`."""
    depths = [stage.depth for stage in architecture.stages]
    weights = objective.scale_weights or entropy.scale_weights(len(scales))
    counted = [depths[i - 1] for i in entropy.penalised_stages(objective, architecture.family, len(depths))]
    spread = entropy.spread_of_depths(counted, penalty=objective.penalty)
    values = {
        "entropy": math.fsum(weight * scale.entropy for weight, scale in zip(weights, scales, strict=True)),
        "depth penalty": -objective.penalty_weight * spread,
        "log params": objective.log_params * math.log(params),
        "log MACs": objective.log_macs * math.log(macs),
        "depths": math.fsum(w * depth for w, depth in zip(objective.depth_weights, depths, strict=False)),
        "constant": objective.constant,
    }
    calibration = objective.calibration
    return Worth(
        terms=tuple(TermValue(term=term, value=value) for term, value in values.items() if value),
        unit=objective.unit,
        leverage=None if calibration is None else calibration.leverage(_features(calibration, architecture, scales)),
        largest_leverage=None if calibration is None else calibration.largest_leverage,
    )


def _features(
    calibration: Calibration, architecture: Architecture, scales: Sequence[entropy.Scale]
) -> tuple[float, ...]:
    """Return the features of a design in a calibration's order; the penalty is over all stages, without a weight."""
    depths = [stage.depth for stage in architecture.stages]
    values = {
        "score": float(entropy.score(scales)),
        "penalty": entropy.spread_of_depths(depths),
        "log_params": math.log(costs.params(architecture)),
        "log_macs": math.log(costs.macs(architecture)),
        **{f"depth:{stage}": float(depth) for stage, depth in enumerate(depths, start=1)},
    }
    return tuple(values[feature] for feature in calibration.features)


def _latency(architecture: Architecture, model: LatencyModel, budget_ms: float | None) -> LatencyValue:
    predicted_ms = predict_ms(architecture, model)
    return LatencyValue(
        table=model.name,
        device=model.device,
        budget_ms=budget_ms,
        predicted_ms=predicted_ms,
        upper_ms=upper_ms(predicted_ms, model),
    )


def evaluate_for(problem: Problem, architecture: Architecture, models: Models) -> Evaluation:
    """Return a design's evaluation with the problem's tables, budgets and penalty.

    Args:
        problem: whose limits name the tables.
        architecture: the design.
        models: latency models by table name; those that the problem does not limit are evaluated too.

    Raises:
        ConfigError: a limit's table is not among the models.
        NotCoveredError: a table cannot answer for a layer of the design.
    """
    for limit in problem.limits.latency:
        if limit.table not in models:
            raise ConfigError(f"no latency table is called {limit.table!r}", where=latency_name(limit.table))
    return evaluate(
        architecture, models=models, limits=problem.limits, penalty=problem.penalty, objective=problem.objective
    )


def broken_limits(problem: Problem, evaluation: Evaluation) -> tuple[str, ...]:
    """Return every limit that a design breaks, as ``limit: value > allowed``.

    Limits hold exactly: no tolerance is granted to integers, and none to sums of table entries.

    Args:
        problem: whose limits must hold.
        evaluation: of the design, by `evaluate_for`.
    """
    values = [
        (name, quantities.quantity(name).value(evaluation), allowed) for name, allowed in problem.limits.named().items()
    ]
    return tuple(f"{name}: {value:.10g} > {allowed:.10g}" for name, value, allowed in values if value > allowed)


def refusals(problem: Problem, architecture: Architecture, evaluation: Evaluation) -> tuple[str, ...]:
    """Return every reason why a design is no answer to a problem; empty means it is one.

    Args:
        problem: the problem.
        architecture: the design.
        evaluation: its evaluation by `evaluate_for`.
    """
    return (
        problem.space.violations(architecture)
        + broken_limits(problem, evaluation)
        + broken_ranges(problem, architecture, evaluation)
    )


def broken_ranges(problem: Problem, architecture: Architecture, evaluation: Evaluation) -> tuple[str, ...]:
    """Return every feature in which a design leaves the range that its objective was fitted to.

    Args:
        problem: whose objective may be a calibrated one.
        architecture: the design.
        evaluation: of the design, by `evaluate_for`.
    """
    calibration = problem.worth.calibration
    ranges = () if calibration is None else calibration.ranges
    values = features(architecture, evaluation)
    return tuple(
        f"range:{each.feature}: {values[each.feature]:.10g} is not within {each.least:.10g} to {each.most:.10g}"
        for each in ranges
        if not within(values[each.feature], each)
    )


def features(architecture: Architecture, evaluation: Evaluation) -> dict[str, float]:
    """Return what a calibrated objective may have a range of, by name.

    Args:
        architecture: the design.
        evaluation: of the design.
    """
    return {
        "params": float(evaluation.params),
        "macs": float(evaluation.macs),
        **{f"entropy:{scale}": each.entropy for scale, each in enumerate(evaluation.scales, start=1)},
        **{f"depth:{stage}": float(each.depth) for stage, each in enumerate(architecture.stages, start=1)},
    }


def within(value: float, seen: FeatureRange) -> bool:
    """Return whether a value lies in a range, up to the rounding of a logarithm.

    Args:
        value: of a feature.
        seen: the range.
    """
    room = RANGE_ROUNDING * max(abs(seen.least), abs(seen.most))
    return seen.least - room <= value <= seen.most + room
