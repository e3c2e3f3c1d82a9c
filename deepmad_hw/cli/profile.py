"""``deepmad-hw profile``: make or resume a latency table of this device. Layer 4."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepmad_hw.cli import options, output
from deepmad_hw.errors import ConfigError

if TYPE_CHECKING:
    from deepmad_hw.workflows.profiling.choice import ProfileRequest
    from profilers.run import Tick


def profile(
    out: Annotated[Path | None, typer.Option(metavar="TABLE.csv", help="Table to write.")] = None,
    space: Annotated[
        list[str], typer.Option(metavar="CONFIG", help="Designs it shall cover; all families if left out. Repeatable.")
    ] = [],  # noqa: B006
    runtime: Annotated[str, typer.Option(help="Runtime to time with.")] = "onnxruntime",
    threads: options.Threads = 1,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    precision: Annotated[str, typer.Option(help="Precision of the probes: fp32 or int8.")] = "fp32",
    minutes: Annotated[float, typer.Option(min=0.01, help="Measuring time, about.")] = 10.0,
    seed: options.Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured, and stop.")] = False,
    pack: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the plan for another device instead.")] = None,
    json: options.Json = False,
) -> None:
    """Time layers inside networks on this machine; the same command resumes what was stopped."""
    if out is None and not dry_run and pack is None:
        raise ConfigError("no table to write", where="--out", hint="say --out my-machine.csv")
    if out is not None and pack is not None:
        raise ConfigError("a packed plan makes no table here", where="--pack", hint="leave --out away")
    if out is not None and out.suffix != ".csv":
        raise ConfigError(f"{out.name!r} is no CSV file", where="--out", hint=f"say --out {out.with_suffix('.csv')}")

    from deepmad_hw.workflows.profiling import choice
    from deepmad_hw.workflows.profiling import profile as profiles
    from profilers import backend

    backend.get(runtime)
    request = choice.ProfileRequest(
        spaces=choice.spaces(space),
        runtime=runtime,
        threads=threads,
        batch=batch,
        precision=precision,
        minutes=minutes,
        seed=seed,
    )
    if dry_run:
        _show_preview(request, json=json)
        return
    if pack is not None:
        with output.progress("writing networks to time") as steps:
            profiles.pack(request, pack, on_probe=lambda done, total: show_probe(steps, done, total))
        settings = f"--runtime {runtime} --threads {threads} --minutes {minutes:g}"
        output.message(
            f"packed in {pack}; on the device: python -m profilers run {pack.name} {settings} --out results.jsonl"
        )
        return
    if out is None:
        raise ConfigError("no table to write", where="--out")
    show_outlook(runtime, threads=threads)
    with output.progress(f"profiling with {runtime}") as steps:
        table = profiles.profile(
            request,
            out=out,
            on_tick=lambda tick: show_tick(steps, tick),
            on_probe=lambda done, total: show_probe(steps, done, total),
        )
    noisy = sum(row.status == "noisy" for row in table.rows)
    if json:
        output.answer_json({"schema": 1, "table": str(out), "rows": len(table.rows), "noisy": noisy})
    else:
        output.answer(f"{out}: {len(table.rows)} layers, {noisy} noisy, {len(table.calibration)} calibration networks")


def show_outlook(runtime: str = "onnxruntime", *, threads: int = 1) -> None:
    """Say before measuring what on this machine will disturb it, if anything does.

    Args:
        runtime: to measure with; the times of a script feel nothing.
        threads: to measure with.
    """
    from deepmad_hw.workflows.profiling import outlook
    from profilers import backend

    if getattr(backend.get(runtime), "SCRIPTED", False):
        return
    for line in outlook.outlook(outlook.look(), threads=threads):
        output.message(line)


def show_probe(steps: output.Steps, done: int, total: int) -> None:
    """Show on a progress bar how many networks are written.

    Args:
        steps: the bar.
        done: networks written.
        total: networks in all.
    """
    steps.advance(done=done, total=total, text=f"writing networks to time, {done}/{total}")


def show_tick(steps: output.Steps, tick: Tick) -> None:
    """Show a stored unit on a progress bar.

    Args:
        steps: the bar.
        tick: the unit.
    """
    trouble = "" if tick.status == "ok" else f" ({tick.status})"
    steps.advance(done=tick.done, total=tick.planned, text=f"{tick.probe}{trouble}, {tick.left_s:.0f} s left")


def _show_preview(request: ProfileRequest, *, json: bool) -> None:
    from dataclasses import asdict

    from deepmad_hw.workflows.profiling.choice import preview

    plan = preview(request)
    if json:
        output.answer_json({"schema": 1, **asdict(plan)})
        return
    output.answer(
        f"{plan.layers} layer shapes in {plan.probes} probe networks, "
        f"{plan.operations} other operations in {plan.operation_probes}, {plan.networks} networks to calibrate, "
        f"about {plan.minutes:g} min and {plan.megabytes:.0f} MB"
    )
