"""What networks of a trial cost: their graphs, predicted and measured times, shares of the budget. Layer 4."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from deepmad_hw.errors import ConfigError
from deepmad_hw.latency.model import LatencyModel, predict_ms, upper_ms
from deepmad_hw.network import costs, reference
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import Graph
from deepmad_hw.problem.problem import LatencyLimit, Problem
from deepmad_hw.workflows.bench.bench import bench, of_graph
from deepmad_hw.workflows.design.design import Question
from deepmad_hw.workflows.trial.records import Member

LEAST_SHARE = 0.85  # of the budget, that every network uses
AIMED_SHARE = 0.93  # of the budget, where networks are measured
SECONDS_PER_NETWORK = 1.5  # of measuring

Measure = Callable[[Mapping[str, Graph]], Mapping[str, float]]
OnStep = Callable[[str], None]


def member_of(name: str, why: str, architecture: Architecture, question: Question) -> Member:
    """Return a design as a network of a trial.

    Args:
        name: of the network.
        why: it was chosen.
        architecture: the design.
        question: whose table predicts it.
    """
    return Member(
        name=name,
        why=why,
        macs=costs.macs(architecture),
        params=costs.params(architecture),
        predicted_ms=predicted_ms(expand(architecture), question),
        architecture=architecture,
    )


def architecture_of(member: Member) -> Architecture:
    """Return the design that a network of the trial's space is.

    Args:
        member: no reference.
    """
    assert member.architecture is not None
    return member.architecture


def graph_of(member: Member, problem: Problem) -> Graph:
    """Return a member's layers.

    Args:
        member: a network of a trial.
        problem: whose images and classes it is built for.
    """
    if member.architecture is not None:
        return expand(member.architecture)
    chosen, space = member.reference, problem.space
    assert chosen is not None
    total_stride = space.stem_stride * int(np.prod([stage.stride for stage in space.stages]))
    return reference.scaled(
        chosen.name,
        width=chosen.width,
        depth=chosen.depth,
        resolution=space.resolution,
        in_channels=space.in_channels,
        classes=space.classes,
        total_stride=min(total_stride, reference.TOTAL_STRIDE),
    )


def cost_share(member: Member, question: Question) -> float:
    """Return which share of the budget a network uses by prediction, held against upper values as designs are.

    Args:
        member: a network.
        question: whose budget it is.
    """
    limits = question.problem.limits
    if limits.latency:
        shares = []
        for limit in limits.latency:
            model = question.models[limit.table]
            usual_ms = predict_ms(graph_of(member, question.problem), model)
            shares.append((upper_ms(usual_ms, model) or usual_ms) / limit.budget_ms)
        return max(shares)
    if limits.macs is not None:
        return member.macs / limits.macs
    return member.params / (limits.params or np.inf)


def predicted_ms(graph: Graph, question: Question) -> float | None:
    """Return the latency by the table of the first budget, None where no latency is limited.

    Args:
        graph: of a network.
        question: whose tables are taken.

    Raises:
        NotCoveredError: the table has no row of a layer.
    """
    model = _first_model(question)
    return None if model is None else predict_ms(graph, model)


def _first_model(question: Question) -> LatencyModel | None:
    limits = question.problem.limits.latency
    return question.models[limits[0].table] if limits else None


def measured_ms_of(member: Member) -> float:
    """Return the measured latency of a network that was measured.

    Args:
        member: the network.
    """
    assert member.measured_ms is not None
    return member.measured_ms


def measured_share(member: Member, question: Question) -> float:
    """Return which share of the budget a network uses as measured.

    Args:
        member: a network that was measured.
        question: whose first latency budget it is.
    """
    return measured_ms_of(member) / question.problem.limits.latency[0].budget_ms


def median_over_upper(question: Question) -> float:
    """Return by what a budget on medians is multiplied to be one on upper values, aimed a little below it.

    Args:
        question: whose first latency budget it is.
    """
    model, budget_ms = _first_model(question), question.problem.limits.latency[0].budget_ms
    assert model is not None
    return (upper_ms(AIMED_SHARE * budget_ms, model) or AIMED_SHARE * budget_ms) / budget_ms


def correction(members: Iterable[Member], question: Question) -> float:
    """Return by what a table's budget is multiplied so that it allows what was measured within it, 1 without times.

        median over the networks of  upper value / measured time

    Args:
        members: networks of a trial.
        question: whose first latency budget it is.
    """
    model = _first_model(question)
    if model is None:
        return 1.0
    ratios = [
        (upper_ms(each.predicted_ms, model) or each.predicted_ms) / each.measured_ms
        for each in members
        if each.predicted_ms is not None and each.measured_ms is not None
    ]
    return statistics.median(ratios) if ratios else 1.0


def scaled(question: Question, factor: float) -> Question:
    """Return a question whose latency budgets are multiplied by a factor.

    Args:
        question: the question.
        factor: above 0.
    """
    if factor == 1.0:
        return question
    limits = question.problem.limits
    latency = tuple(LatencyLimit(table=each.table, budget_ms=factor * each.budget_ms) for each in limits.latency)
    return replace(question, problem=replace(question.problem, limits=replace(limits, latency=latency)))


def measurer(question: Question) -> Measure:
    """Return a function that times networks on this device, at the speed that it had when the table was made.

    Args:
        question: with a latency budget, on a table of this device.

    Raises:
        ConfigError: no latency is limited.
    """
    limits = question.problem.limits.latency
    if not limits:
        raise ConfigError("nothing to measure against", where="--measure", hint="give a budget: --latency TABLE=25ms")
    table = question.tables[limits[0].table]

    def measure(networks: Mapping[str, Graph]) -> dict[str, float]:
        subjects = [of_graph(replace(graph, name=name)) for name, graph in networks.items()]
        rows = bench(subjects, table=table, seconds_per_network=SECONDS_PER_NETWORK)
        return {
            row.name: row.measurement.median_us / 1e3 / (row.drift or 1.0)
            for row in rows
            if row.measurement is not None and not row.reason
        }

    return measure
