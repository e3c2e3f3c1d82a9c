"""``deepmad-hw design``: solve one problem, show and store the answer. Layer 4."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepmad_hw import cli, units
from deepmad_hw.cli import options, output

if TYPE_CHECKING:
    from deepmad_hw.problem import Problem
    from deepmad_hw.solution import Evaluation, Price, Solution, Tightest


class Method(StrEnum):
    """How a problem is solved."""

    CERTIFIED = "certified"
    FAST = "fast"
    CONTINUOUS = "continuous"


def design(
    config: Annotated[str, typer.Argument(help="Run file, or name of a problem such as deepmad-r18.")],
    latency: options.Latency = [],  # noqa: B006
    macs: options.Macs = None,
    params: options.Params = None,
    memory: options.Memory = None,
    rho: options.Rho = None,
    grid: options.Grid = None,
    resolution: options.Resolution = None,
    settings: options.Set = [],  # noqa: B006
    method: Annotated[Method, typer.Option(help="How sure the answer is.")] = Method.CERTIFIED,
    gap: options.Gap = "0.5%",
    time_limit: options.TimeLimit = "60s",
    threads: options.Threads = 1,
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder that keeps the design.")] = None,
    json: options.Json = False,
) -> None:
    """Solve one problem: the best network of a space within its limits."""
    # What was typed is read before anything heavy is loaded.
    requests = options.latency_requests(latency)
    over = options.overrides(
        macs=macs, params=params, memory=memory, rho=rho, grid=grid, resolution=resolution, settings=settings
    )
    gap_share, time_limit_s = (
        units.parse_percent(gap, where="--gap"),
        units.parse_seconds(time_limit, where="--time-limit"),
    )

    from deepmad_hw.workflows import config as configs
    from deepmad_hw.workflows import design as designs

    run = configs.load_run(config, overrides=over).with_latency(requests)
    question = designs.with_tables(run)
    with output.progress(f"solving {question.problem.name} ({method.value})"):
        solution = designs.design(
            question.problem,
            question.models,
            method=method.value,
            gap=gap_share,
            time_limit_s=time_limit_s,
            threads=threads,
            seed=seed,
        )
    if out is not None:
        designs.save_design(out, solution, question.problem, tables=question.tables)
    if json:
        from deepmad_hw import serde

        output.answer_json(serde.solution_to_json(solution, space=question.problem.space))
    else:
        show(solution, question.problem)
    output.message(f"stored in {out}" if out is not None else "nothing was stored; --out DIR keeps the design")
    _stop(solution)


def show(solution: Solution, problem: Problem) -> None:
    """Print a solution as tables and sentences.

    Args:
        solution: the answer.
        problem: the question.
    """
    output.answer(_headline(solution))
    if solution.architecture is not None:
        output.answer("")
        _show_stages(solution)
    if solution.evaluation is not None:
        output.answer("")
        output.table(("", "design", "limit"), _costs(solution.evaluation, problem), numbers=(1, 2))
    if solution.prices:
        output.answer("")
    for price in solution.prices:
        output.answer(_price(price))
    for tightest in solution.tightest:
        output.answer(_tightest(tightest))
    for note in solution.notes:
        output.answer(f"note: {note}")


def _headline(solution: Solution) -> str:
    parts = [f"{solution.problem}: {solution.status.value}"]
    if solution.objective is not None:
        parts.append(f"objective {solution.objective:,.1f}")
    if solution.bound is not None:
        parts.append(f"proved bound {solution.bound:,.1f}")
    if solution.gap is not None:
        parts.append(f"gap {units.format_percent(solution.gap)}")
    if solution.continuous is not None and solution.architecture is not None:
        parts.append(f"continuous optimum {solution.continuous.objective:,.1f} (local, no bound)")
    return ", ".join(parts)


def _show_stages(solution: Solution) -> None:
    network = solution.architecture
    if network is None:
        return
    stem, head = network.stem, network.head
    rows = [("stem", str(stem.out), "", str(stem.kernel), str(stem.stride), "1")]
    rows += [
        (f"stage {i}", str(s.out), str(s.bottleneck), str(s.kernel), str(s.stride), str(s.depth))
        for i, s in enumerate(network.stages, start=1)
    ]
    if head is not None:
        rows.append(("head", str(head.out), "", str(head.kernel), str(head.stride), "1"))
    output.table((network.family, "out", "bottleneck", "kernel", "stride", "depth"), rows, numbers=(1, 2, 3, 4, 5))


def _costs(values: Evaluation, problem: Problem) -> list[tuple[str, str, str]]:
    limits = problem.limits
    rows = [
        ("entropy score", f"{values.score:,.1f}", ""),
        ("depth penalty", f"{values.penalty:,.1f}", ""),
        ("largest rho", f"{values.max_rho:.4f}", "" if limits.rho is None else f"{limits.rho:g}"),
        ("MACs", units.format_count(values.macs), _shown(limits.macs)),
        ("parameters", units.format_count(values.params), _shown(limits.params)),
        (
            "activation memory",
            units.format_bytes(values.memory_bytes),
            "" if limits.memory_bytes is None else units.format_bytes(limits.memory_bytes),
        ),
    ]
    for value in values.latency:
        upper = "uncalibrated" if value.upper_ms is None else f"at most {units.format_time_ms(value.upper_ms)}"
        budget = "" if value.budget_ms is None else units.format_time_ms(value.budget_ms)
        rows.append((f"latency {value.table}", f"{units.format_time_ms(value.predicted_ms)} ({upper})", budget))
    return rows


def _shown(count: float | None) -> str:
    return "" if count is None else units.format_count(count)


def _price(price: Price) -> str:
    if not price.binding:
        return f"{price.limit}: does not bind"
    per = f"per {price.unit}" if price.unit else "per unit"
    return f"{price.limit}: binds, {price.objective_per_unit:+,.4g} objective {per} more"


def _tightest(tightest: Tightest) -> str:
    unit = f" {tightest.unit}" if tightest.unit else ""
    kind = "proved" if tightest.proved else "found"
    return f"{tightest.limit}: can be no smaller than {tightest.value:,.6g}{unit} with the others kept ({kind})"


def _stop(solution: Solution) -> None:
    """End with the code that says what the answer is worth."""
    status, asked = solution.status.value, solution.method
    if status == "infeasible":
        output.message(f"error: no design keeps every limit: {_needs(solution)}")
        raise typer.Exit(cli.EXIT_INFEASIBLE)
    wanted = {"certified": "certified", "fast": "feasible", "continuous": "local"}.get(asked, asked)
    if status not in (wanted, "certified"):
        output.message(f"error: the answer is {status}, not {wanted}: {solution.stopped}; raise --time-limit or --gap")
        raise typer.Exit(cli.EXIT_NOT_CERTIFIED)


def _needs(solution: Solution) -> str:
    found = [f"{each.limit} needs at least {each.value:,.6g} {each.unit}".rstrip() for each in solution.tightest]
    return "; ".join(found) or solution.stopped
