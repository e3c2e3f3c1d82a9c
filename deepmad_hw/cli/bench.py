"""``deepmad-hw bench``: measure networks beside their prediction. Layer 4."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepmad_hw import units
from deepmad_hw.cli import options, output
from deepmad_hw.errors import ConfigError
from deepmad_hw.network.layer import LayerSpec

if TYPE_CHECKING:
    from deepmad_hw.exporters.onnx_inputs import InputRequest
    from deepmad_hw.workflows.bench.bench import BenchRow
    from deepmad_hw.workflows.bench.bench_runtimes import RuntimeRow

SHOWN_UNCOVERED = 3
SHOWN_NOTES = 3
NOTED_DRIFT = 0.05


def bench(
    networks: Annotated[
        list[str], typer.Argument(metavar="FILE_OR_DIR...", help="Design folders, ONNX files, reference networks.")
    ],
    table: Annotated[
        Path | None, typer.Option(metavar="TABLE.csv", help="Latency table to predict with, and whose runtime to use.")
    ] = None,
    predict_only: Annotated[bool, typer.Option("--predict-only", help="Predict and do not measure.")] = False,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads per operator without a table; with one, the table's.")
    ] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measuring time per network, about.")] = 6.0,
    layers: Annotated[bool, typer.Option("--layers", help="Predict each layer too; needs --table.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Predict nothing that rests on extrapolation, be it a small part.")
    ] = False,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="[NAME=]SHAPE",
            help="Shape of an ONNX file's input where the file leaves it free, such as 1x3x320x320.",
        ),
    ] = [],  # noqa: B006 - read only
    data: Annotated[
        Path | None, typer.Option(metavar="INPUTS.npz", help="Values of ONNX files' inputs, one array for each.")
    ] = None,
    runtime: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="Measure on this runtime, side by side with others; all: each that is here."),
    ] = [],  # noqa: B006 - read only
    json: options.Json = False,
) -> None:
    """Measure networks on this machine, interleaved in one run, beside their prediction or on several runtimes."""
    from deepmad_hw.cli.profile import show_tick
    from deepmad_hw.workflows.bench import bench as benches

    if runtime and (table is not None or predict_only or layers):
        raise ConfigError("a table belongs to one runtime", where="--runtime", hint="leave --runtime or --table away")
    request = _requested(inputs, data)
    if runtime:
        _side_by_side(networks, runtime, threads=threads, seconds=seconds, inputs=request, json=json)
        return
    with output.progress("predicting" if predict_only else "measuring") as steps:
        rows = benches.bench(
            networks,
            table=table,
            threads=threads,
            seconds_per_network=seconds,
            predict_only=predict_only,
            layers=layers,
            strict=strict,
            inputs=request,
            on_tick=lambda tick: show_tick(steps, tick),
        )
    if json:
        output.answer_json([row_to_json(row) for row in rows])
    else:
        show(rows)
    benches.require_sure(rows)  # after the answer, of which nothing is held back


def _requested(words: list[str], data: Path | None) -> InputRequest:
    from deepmad_hw.exporters import onnx_inputs

    shapes = onnx_inputs.parsed_shapes(words)
    return onnx_inputs.InputRequest(shapes=shapes, data={} if data is None else onnx_inputs.read_data(data))


def _side_by_side(
    networks: list[str], runtimes: list[str], *, threads: int, seconds: float, inputs: InputRequest, json: bool
) -> None:
    from deepmad_hw.cli.profile import show_tick
    from deepmad_hw.workflows.bench.bench import require_sure
    from deepmad_hw.workflows.bench.bench_runtimes import bench_runtimes

    with output.progress("measuring") as steps:
        rows = bench_runtimes(
            networks,
            runtimes,
            threads=threads,
            seconds_per_network=seconds,
            inputs=inputs,
            on_tick=lambda tick: show_tick(steps, tick),
        )
    if json:
        output.answer_json([_runtime_row_to_json(row) for row in rows])
    else:
        columns = ("network", "runtime", "measured ms", "p10", "p90", "p99", "samples", "")
        output.table(columns, [_runtime_cells(row) for row in rows], numbers=range(2, 7))
    require_sure(rows)


def _runtime_row_to_json(row: RuntimeRow) -> dict[str, Any]:
    data: dict[str, Any] = {"name": row.name, "runtime": row.runtime, "measured_ms": None, "reason": row.reason}
    measured = row.measurement
    if measured is not None:
        percentiles = {f"p{p}_ms": measured.percentile_us(p) / 1e3 for p in (10, 90, 99)}
        data |= {"measured_ms": measured.median_us / 1e3, **percentiles, "samples": len(measured.samples_us)}
        data |= {"status": measured.status, "relative_error": measured.relative_error}
        data |= {"conditions": dict(row.conditions)}
    return data


def _runtime_cells(row: RuntimeRow) -> tuple[str, ...]:
    measured = row.measurement
    if measured is None:
        return (row.name, row.runtime, "", "", "", "", "", row.reason)
    bound = "launch-bound without a graph" if row.conditions.get("launch_bound") == "yes" else ""
    throttled = f"throttled: {row.conditions['throttled']}" if row.conditions.get("throttled") else ""
    noisy = "disturbed" if measured.status != "ok" and not throttled else ""
    unsure = f"known to {measured.relative_error:.0%} only" if row.reason else ""
    return (
        row.name,
        row.runtime,
        *(f"{value_us / 1e3:.2f}" for value_us in (measured.median_us, *map(measured.percentile_us, (10, 90, 99)))),
        str(len(measured.samples_us)),
        ", ".join(filter(None, (noisy, unsure, throttled, bound))),
    )


def row_to_json(row: BenchRow) -> dict[str, Any]:
    """Return a row as JSON data.

    Args:
        row: of a bench.
    """
    data: dict[str, Any] = {
        "name": row.name,
        "predicted_ms": row.predicted_ms,
        "lower_ms": row.lower_ms,
        "upper_ms": row.upper_ms,
        "uncovered": list(row.uncovered),
        "covered_ms": row.covered_ms,
        "extrapolated": list(row.extrapolated),
        "extrapolated_share": row.extrapolated_share,
        "macs": row.macs,
        "params": row.params,
        "not_counted": list(row.not_counted),
        "notes": list(row.notes),
    }
    if row.layers:
        data["layers"] = [dataclasses.asdict(layer) for layer in row.layers]
    measured = row.measurement
    if measured is not None:
        percentiles = {f"p{p}_ms": measured.percentile_us(p) / 1e3 for p in (10, 90, 99)}
        data |= {"measured_ms": row.measured_ms, **percentiles, "samples": len(measured.samples_us)}
        data |= {"relative_error": measured.relative_error}
    if row.status is not None:
        data |= {"status": row.status, "reason": row.reason, "drift": row.drift}
    return data


def show(rows: list[BenchRow]) -> None:
    """Print the rows of a bench as a table.

    Args:
        rows: of a bench.
    """
    columns = (
        "network",
        "MACs",
        "params",
        "predicted ms",
        "interval",
        "measured ms",
        "p10",
        "p90",
        "p99",
        "n",
        "error",
    )
    output.table(columns, [_cells(row) for row in rows], numbers=range(1, len(columns)))
    for row in rows:
        show_layers(row)
    for note in notes(rows):
        output.answer(note)


def show_layers(row: BenchRow) -> None:
    """Print a network's layers, if they were asked for.

    Args:
        row: of a bench.
    """
    if not row.layers:
        return
    lines = [
        (
            layer.name,
            layer.spec.op if isinstance(layer.spec, LayerSpec) else layer.spec.kind,
            layer.source,
            number(layer.predicted_ms, digits=4),
            interval(layer.lower_ms, layer.upper_ms, digits=4),
        )
        for layer in row.layers
    ]
    columns = (f"layer of {row.name}", "operation", "rests on", "predicted ms", "interval")
    output.table(columns, lines, numbers=(3, 4))


def notes(rows: list[BenchRow]) -> list[str]:
    """Return what a reader of a bench should know: what is not predicted, what was disturbed, how the machine drifted.

    Args:
        rows: of a bench.
    """
    found = []
    for row in rows:
        if row.uncovered:
            more = len(row.uncovered) - SHOWN_UNCOVERED
            listed = "; ".join(row.uncovered[:SHOWN_UNCOVERED]) + (f"; {more} more" if more > 0 else "")
            part = "" if row.covered_ms is None else f" (the rest takes {row.covered_ms:.2f} ms)"
            found.append(f"note: {row.name} is not predicted{part}: {listed}")
        elif row.extrapolated:
            listed = "; ".join(row.extrapolated[:SHOWN_UNCOVERED])
            found.append(f"note: {row.extrapolated_share:.1%} of {row.name} rests on extrapolation: {listed}")
        if row.not_counted:
            listed = "; ".join(row.not_counted[:SHOWN_UNCOVERED])
            found.append(f"note: MACs and parameters of {row.name} leave out: {listed}")
        found += [f"note: {row.name}: {note}" for note in row.notes[:SHOWN_NOTES]]
        if len(row.notes) > SHOWN_NOTES:
            found.append(f"note: {row.name}: {len(row.notes) - SHOWN_NOTES} more, see --json")
        if row.reason:
            found.append(f"note: {row.name} {row.reason}")
        elif row.measurement is not None and row.measurement.status != "ok":
            found.append(f"note: {row.name} was measured while something else used the processor")
    drift = rows[0].drift if rows else None
    if drift is not None and abs(drift - 1) > NOTED_DRIFT:
        slower = "slower" if drift > 1 else "faster"
        found.append(f"note: the machine runs {abs(drift - 1):.0%} {slower} now than when the table was made")
    return found


def _cells(row: BenchRow) -> tuple[str, ...]:
    measured = row.measurement
    percentiles = ("", "", "") if measured is None else [f"{measured.percentile_us(p) / 1e3:.2f}" for p in (10, 90, 99)]
    return (
        row.name,
        "" if row.macs is None else units.format_count(row.macs),
        "" if row.params is None else units.format_count(row.params),
        number(row.predicted_ms),
        interval(row.lower_ms, row.upper_ms),
        number(row.measured_ms),
        *percentiles,
        "" if measured is None else str(len(measured.samples_us)),
        "" if row.error is None else f"{row.error:+.1%}",
    )


def number(value_ms: float | None, *, digits: int = 2) -> str:
    """Return milliseconds as people read them, nothing for None.

    Args:
        value_ms: the time.
        digits: after the point.
    """
    return "" if value_ms is None else f"{value_ms:.{digits}f}"


def interval(lower_ms: float | None, upper_ms: float | None, *, digits: int = 2) -> str:
    """Return an interval as people read it, nothing without one.

    Args:
        lower_ms: its lower end.
        upper_ms: its upper end.
        digits: after the point.
    """
    return "" if lower_ms is None or upper_ms is None else f"{lower_ms:.{digits}f}..{upper_ms:.{digits}f}"
