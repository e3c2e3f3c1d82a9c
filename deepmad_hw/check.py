"""The judge: a design is evaluated and held against its problem with plain numbers, no model, no solver. Layer 2."""

from __future__ import annotations

from collections.abc import Mapping

from deepmad_hw import costs, entropy
from deepmad_hw import limits as quantities
from deepmad_hw.architecture import Architecture
from deepmad_hw.errors import ConfigError
from deepmad_hw.latency import LatencyModel, predict_ms, upper_ms
from deepmad_hw.problem import Amount, Limits, Problem, latency_name
from deepmad_hw.solution import Evaluation, LatencyValue, ScaleValue

Models = Mapping[str, LatencyModel]


def evaluate(
    architecture: Architecture,
    *,
    models: Models | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    penalty: str = "std",
) -> Evaluation:
    """Return everything that can be said of a design without a solver.

    Args:
        architecture: the design.
        models: latency models by table name.
        limits: budgets that are shown beside the predictions, and other quantities that are evaluated.
        penalty: form of the depth penalty.

    Raises:
        NotCoveredError: a table cannot answer for a layer of the design.
    """
    budgets_ms = {limit.table: limit.budget_ms for limit in limits.latency}
    found = entropy.scales(architecture)
    score = float(entropy.score(found))
    depths = [stage.depth for stage in architecture.stages]
    paid = entropy.depth_penalty(architecture.family, depths, penalty=penalty)
    return Evaluation(
        score=score,
        penalty=paid,
        objective=score - paid,
        scales=tuple(
            ScaleValue(
                pixels=scale.pixels, channels=int(scale.channels), entropy=float(scale.entropy), rho=entropy.rho(scale)
            )
            for scale in found
        ),
        macs=costs.macs(architecture),
        params=costs.params(architecture),
        memory_bytes=costs.peak_memory_bytes(architecture),
        latency=tuple(_latency(architecture, model, budgets_ms.get(name)) for name, model in (models or {}).items()),
        others=tuple(
            Amount(limit=other.limit, value=float(costs.total(architecture, _share(other.limit))))
            for other in limits.others
        ),
    )


def _latency(architecture: Architecture, model: LatencyModel, budget_ms: float | None) -> LatencyValue:
    predicted_ms = predict_ms(architecture, model)
    return LatencyValue(
        table=model.name,
        device=model.device,
        budget_ms=budget_ms,
        predicted_ms=predicted_ms,
        upper_ms=upper_ms(predicted_ms, model),
    )


def _share(name: str) -> quantities.Share:
    share = quantities.layer_share(name)
    if share is None:
        raise ConfigError("is no sum over layers", where=name)
    return share


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
    return evaluate(architecture, models=models, limits=problem.limits, penalty=problem.penalty)


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
    return problem.space.violations(architecture) + broken_limits(problem, evaluation)
