"""A solution in tables and plain words. Layer 4."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from deepmad_hw import units
from deepmad_hw.cli import output
from deepmad_hw.problem import limits
from deepmad_hw.problem.problem import latency_name

if TYPE_CHECKING:
    from deepmad_hw.problem.problem import Problem
    from deepmad_hw.problem.solution import ContinuousDesign, Evaluation, Price, Solution
    from deepmad_hw.workflows.results.results import Round

Row = tuple[str, ...]
STAGE_COLUMNS = ("out", "bottleneck", "kernel", "stride", "depth")


def show(solution: Solution, problem: Problem) -> None:
    """Print a solution.

    Args:
        solution: the answer.
        problem: the question.
    """
    output.answer(_headline(solution))
    if solution.architecture is not None:
        output.answer("")
        output.table((solution.architecture.family, *STAGE_COLUMNS), _stages(solution), numbers=range(1, 6))
    elif solution.continuous is not None:
        output.answer("")
        columns = (problem.space.family, *STAGE_COLUMNS)
        output.table(columns, _continuous_stages(solution.continuous), numbers=range(1, 6))
    if solution.evaluation is not None:
        output.answer("")
        output.table(("", "design", "limit"), _costs(solution.evaluation, problem), numbers=(1, 2))
    sentences = [
        *_prices(solution.prices),
        *_stand_ins(solution.continuous),
        *_minimum_values(solution, problem),
        *(f"note: {n}" for n in solution.notes),
    ]
    if sentences:
        output.answer("")
    for sentence in sentences:
        output.answer(sentence)


def show_round(found: Round) -> None:
    """Tell of one round of the measured loop.

    Args:
        found: the round.
    """
    output.message(
        f"{found.point}, round {found.number}: asked {units.format_time_ms(found.asked_ms)} of {found.table}, "
        f"predicted {units.format_time_ms(found.predicted_ms)}, measured {units.format_time_ms(found.measured_ms)}, "
        f"objective {found.objective:,.1f}"
    )


def penalties(networks: Iterable[tuple[str, float | None, float | None]]) -> list[str]:
    """Return a note for each network whose objective is mostly its depth penalty.

    Args:
        networks: name, entropy score and depth penalty of each.
    """
    from deepmad_hw.workflows.results.results import told_penalty

    told = {name: told_penalty(score, penalty) for name, score, penalty in networks}
    return [f"note: {name}: {text}, for its uneven depths" for name, text in told.items() if text is not None]


def gap(solution: Solution) -> str:
    """Return the gap of a design in words, nothing without a bound.

    Args:
        solution: the answer.
    """
    evaluation = solution.evaluation
    if solution.gap is None or evaluation is None:
        return ""
    return units.format_gap(solution.gap, evaluation.unit)


def _headline(solution: Solution) -> str:
    parts = [f"{solution.problem}: {solution.status.value}"]
    if solution.objective is not None:
        parts.append(f"objective {units.format_objective(solution.objective)}")
    if solution.bound is not None:
        parts.append(f"proved bound {units.format_objective(solution.bound)}")
    if solution.gap is not None:
        parts.append(f"gap {gap(solution)}")
    if solution.continuous is not None and solution.architecture is not None:
        parts.append(f"continuous optimum {units.format_objective(solution.continuous.objective)} (local, no bound)")
    return ", ".join(parts)


def _stages(solution: Solution) -> list[Row]:
    network = solution.architecture
    if network is None:
        return []
    stem, head = network.stem, network.head
    rows: list[Row] = [("stem", str(stem.out), "", str(stem.kernel), str(stem.stride), "1")]
    for i, stage in enumerate(network.stages, start=1):
        numbers = (stage.out, stage.bottleneck, stage.kernel, stage.stride, stage.depth)
        rows.append((f"stage {i}", *(str(number) for number in numbers)))
    if head is not None:
        rows.append(("head", str(head.out), "", str(head.kernel), str(head.stride), "1"))
    return rows


def _continuous_stages(design: ContinuousDesign) -> list[Row]:
    rows: list[Row] = [("stem", f"{design.stem:.1f}", "", "", "", "1")]
    for i, stage in enumerate(design.stages, start=1):
        numbers = (f"{value:.1f}" for value in (stage.out, stage.bottleneck, stage.kernel))
        rows.append((f"stage {i}", *numbers, str(stage.stride), f"{stage.depth:.1f}"))
    return rows


def _costs(values: Evaluation, problem: Problem) -> list[Row]:
    asked = problem.limits.named()

    def row(label: str, limit: str, value: float) -> Row:
        return label, limits.formatted(limit, value), limits.formatted(limit, asked[limit]) if limit in asked else ""

    rows: list[Row] = [
        ("entropy score", f"{values.score:,.1f}", ""),
        ("depth penalty", f"{values.penalty:,.1f}", ""),
    ]
    if values.worth is not None:
        rows += [(f"{term.term}, in the objective", f"{term.value:,.5g}", "") for term in values.worth.terms]
        if values.worth.leverage is not None:
            rows.append(("leverage", f"{values.worth.leverage:.3g}", f"{values.worth.largest_leverage:.3g}"))
    for name, quantity in limits.of_design(values).items():
        rows.append(row(quantity.label, name, quantity.value(values)))
    for value in values.latency:
        limit = latency_name(value.table)
        rows.append(row(f"latency {value.table}, predicted", limit, value.predicted_ms))
        if value.upper_ms is None:
            rows.append((f"latency {value.table}, at most", "uncalibrated", ""))
        else:
            rows.append(row(f"latency {value.table}, at most", limit, value.upper_ms))
    return rows


def _prices(prices: tuple[Price, ...]) -> list[str]:
    sentences = [
        f"{price.limit} binds: {price.unit} more would buy about {price.objective_per_unit:,.4g} objective"
        if price.unit[:1].isdigit()
        else f"{price.limit} binds: 1 {price.unit} more would buy about {price.objective_per_unit:,.4g} objective"
        for price in prices
        if price.binding
    ]
    free = [price.limit for price in prices if not price.binding]
    return [*sentences, f"not binding: {', '.join(free)}"] if free else sentences


def _stand_ins(design: ContinuousDesign | None) -> list[str]:
    errors = design.surrogate_error if design is not None else ()
    return [
        f"the continuous design sees {table} through a smooth stand-in: median error {median:.1%}, worst {worst:.1%}"
        for table, median, worst in errors
    ]


def _minimum_values(solution: Solution, problem: Problem) -> list[str]:
    asked = problem.limits.named()
    sentences = []
    for minimum in solution.minimum_values:
        name = minimum.limit
        given = f"asked {limits.formatted(name, asked[name])}, " if name in asked else ""
        kind = "proved" if minimum.proved else "found by search"
        sentences.append(f"{name}: {given}smallest reachable {limits.formatted(name, minimum.value)} ({kind})")
    return sentences
