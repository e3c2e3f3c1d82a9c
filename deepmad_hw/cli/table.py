"""``deepmad-hw table``: look at latency tables, check, import, export, merge and compare them. Layer 4."""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepmad_hw.cli import options, output
from deepmad_hw.errors import ConfigError

if TYPE_CHECKING:
    from deepmad_hw.latency.model import Curve
    from deepmad_hw.latency.table import LatencyTable
    from deepmad_hw.network.layer import LayerSpec
    from deepmad_hw.predict.corrections import Bend
    from deepmad_hw.predict.odd import OddRow
    from deepmad_hw.workflows.tables.merge import RowDifference, TableDifference

SHOWN_DIFFERENCES = 10
SHOWN_ODD = 10

TablePath = Annotated[Path, typer.Argument(metavar="TABLE.csv", help="Latency table.")]

table = typer.Typer(
    no_args_is_help=True,
    help="Look at latency tables, check, import, export, merge and compare them.",
    rich_markup_mode=None,
)


@table.command()
def show(path: TablePath, json: options.Json = False) -> None:
    """Say what a table holds and where it was taken."""
    from deepmad_hw.workflows.tables.tables import load_model

    model = load_model(path)
    found = model.table
    kinds = Counter(row.spec.op for row in found.rows)
    others = Counter(row.spec.kind for row in found.operations if row.samples_us)
    statuses = Counter(row.status for row in found.rows)
    data = {
        "schema": 1,
        "name": found.name,
        "environment": asdict(found.environment),
        "measured_on": found.measured_on,
        "rows": len(found.rows),
        "operations": dict(kinds),
        "statuses": dict(statuses),
        "odd_rows": [
            {**asdict(row.spec), "median_us": row.median_us, "expected_us": row.expected_us} for row in model.odd_rows
        ],
        "other_operations": dict(others),
        "calibration_networks": len(found.calibration),
        "margin": model.margin,
        "us_per_layer": model.corrections.us_per_layer,
        "curve_ms": [list(knot) for knot in model.curve.knots],
        "notes": list(found.notes),
        "fused_activations": list(found.fused_activations),
    }
    if json:
        output.answer_json(data)
        return
    rows = [(key.replace("_", " "), _text(value)) for key, value in asdict(found.environment).items()]
    rows += [("measured on", found.measured_on or "unknown")]
    rows += [("rows", f"{len(found.rows)}: {_text(kinds)}"), ("statuses", _text(statuses))]
    rows += [("odd rows", _odd(model.odd_rows))]
    rows += [("other operations", f"{others.total()} of {len(others)} kinds" if others else "none")]
    rows += [("calibration networks", str(len(found.calibration)))]
    rows += [("margin at 90 %", "none" if model.margin is None else f"{model.margin:.1%}")]
    more = model.corrections
    rows += [("every layer besides", f"{more.us_per_layer:g} us")] if more.us_per_layer else []
    rows += [("short networks", _short(more.bend, model.curve))] if more.bend else []
    rows += [("note", note) for note in found.notes]
    output.table((found.name, ""), rows)
    if model.odd_rows:
        output.answer("")
        cells = [
            (layer(row.spec), f"{row.median_us:.4g}", f"{row.expected_us:.4g}") for row in model.odd_rows[:SHOWN_ODD]
        ]
        output.table(("odd row", "its us", "us by the rows around it"), cells, numbers=(1, 2))


def _short(bend: Bend, curve: Curve) -> str:
    (short_ms, _), (long_ms, _) = curve.knots[1:]
    return f"{bend.share:.0%} of the sum of their layers up to {short_ms:.3g} ms of it, all of it from {long_ms:.3g} ms"


def _odd(rows: Sequence[OddRow]) -> str:
    return f"{len(rows)}, which no prediction uses" if rows else "none"


def _text(value: object) -> str:
    if isinstance(value, Counter):
        return ", ".join(f"{count} {name}" for name, count in value.most_common())
    return " ".join(value) if isinstance(value, tuple) else str(value)


@table.command()
def check(path: TablePath, json: options.Json = False) -> None:
    """Hold a table against this machine: possible times, same environment, same speed."""
    from deepmad_hw.workflows.tables.tables import check_table

    with tempfile.TemporaryDirectory(prefix="deepmad-hw-check-") as folder:
        found = check_table(path, folder=Path(folder))
    if json:
        output.answer_json({"schema": 1, "table": str(path), **asdict(found)})
        return
    drift = "unknown" if found.drift is None else f"{found.drift - 1:+.1%}"
    margin = "none" if found.margin is None else f"{found.margin:.1%}"
    output.answer(
        f"{path}: fits this machine; {found.rows} rows, {found.noisy_rows} noisy, {found.failed_rows} failed, "
        f"{found.odd_rows} odd; "
        f"margin {margin}; canary {found.canary_us:.0f} us, {drift} since the table was made"
    )


Out = Annotated[Path, typer.Option(metavar="TABLE.csv", help="Table to write, with its sidecar beside it.")]


@table.command("import")
def import_(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="tinynas, once-for-all, or run (of a packed plan).")],
    path: Annotated[Path, typer.Argument(metavar="FILE", help="File to read; for run also the folder it lies in.")],
    out: Out,
    batch: Annotated[int, typer.Option(min=1, help="Images at once: which to take from a file of several.")] = 1,
    device: Annotated[str | None, typer.Option(help="What the device is called, where the file does not say.")] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 or int8: what the layers were timed in, where the file does not say.")
    ] = "fp32",
    plan: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Packed plan that was run; its networks calibrate the table.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Make a table of somebody else's file, or of what a packed plan brought back."""
    _require_csv(out)
    from deepmad_hw.formats.serde_table import write_table
    from deepmad_hw.workflows.profiling.profile import table_name
    from deepmad_hw.workflows.tables.imports import ImportRequest, import_table
    from deepmad_hw.workflows.tables.tables import model_of

    request = ImportRequest(name=table_name(out), device=device, batch=batch, precision=precision, plan=plan)
    made = import_table(form, path, request)
    model = model_of(made, where=str(path))
    write_table(out, made)
    _tell(out, made, odd=model.odd_rows, json=json)


@table.command()
def merge(
    paths: Annotated[list[Path], typer.Argument(metavar="TABLE.csv...", help="Tables of one environment.")],
    out: Out,
    json: options.Json = False,
) -> None:
    """Make one table of several that were taken in the same environment."""
    _require_csv(out)
    from deepmad_hw.formats.serde_table import write_table
    from deepmad_hw.workflows.profiling.profile import table_name
    from deepmad_hw.workflows.tables.merge import merge as merged
    from deepmad_hw.workflows.tables.tables import load_table, model_of

    made = merged([(path, load_table(path)) for path in paths], name=table_name(out))
    model = model_of(made, where=str(out))
    write_table(out, made)
    _tell(out, made, odd=model.odd_rows, json=json)


@table.command()
def export(
    path: TablePath,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")],
    form: Annotated[str | None, typer.Option(help="csv or parquet; the file's ending if left out.")] = None,
    json: options.Json = False,
) -> None:
    """Write a table as one flat file for other programs, with its environment in every row."""
    from deepmad_hw.workflows.tables.table_export import export_table
    from deepmad_hw.workflows.tables.tables import load_table

    found = load_table(path)
    written = export_table(found, out, form=form)
    if json:
        output.answer_json({"schema": 1, "file": str(out), "form": written, "rows": len(found.rows)})
        return
    output.answer(f"{out}: {len(found.rows)} rows as {written}")


@table.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="OLD.csv", help="Table that is compared with.")],
    second: Annotated[Path, typer.Argument(metavar="NEW.csv", help="The other table.")],
    rows: Annotated[bool, typer.Option("--rows", help="Show every layer, not the ones that differ most.")] = False,
    json: options.Json = False,
) -> None:
    """Say how the times of two tables differ: overall, and layer by layer."""
    from deepmad_hw.workflows.tables.merge import difference
    from deepmad_hw.workflows.tables.tables import load_table

    found = difference(load_table(first), load_table(second))
    if json:
        output.answer_json(
            {
                "schema": 1,
                "environment": list(found.environment),
                "common_rows": len(found.rows),
                "only_first": found.only_first,
                "only_second": found.only_second,
                "drift": found.drift,
                "total_drift": found.total_drift,
                "canary_drift": found.canary_drift,
                "operations": [asdict(each) for each in found.operations],
                "rows": [
                    {**asdict(row.spec), "first_us": row.first_us, "second_us": row.second_us, "ratio": row.ratio}
                    for row in found.rows
                ],
            }
        )
        return
    _show_difference(found, found.rows if rows else found.rows[:SHOWN_DIFFERENCES])


def _show_difference(found: TableDifference, rows: tuple[RowDifference, ...]) -> None:
    for line in found.environment:
        output.answer(f"environment: {line}")
    drifts = (("median layer", found.drift), ("sum of layers", found.total_drift), ("canary", found.canary_drift))
    told = ", ".join(f"{name} {'unknown' if value is None else f'{value - 1:+.1%}'}" for name, value in drifts)
    output.answer(f"{len(found.rows)} common layers, {found.only_first} only first, {found.only_second} only second")
    output.answer(told)
    if found.operations:
        common = sum(each.common for each in found.operations)
        ratio = statistics.median(each.ratio for each in found.operations)
        output.answer(f"{common} other operations of {len(found.operations)} kinds: median kind {ratio - 1:+.1%}")
    if rows:
        output.answer("")
        cells = [
            (layer(row.spec), f"{row.first_us:.4g}", f"{row.second_us:.4g}", f"{row.ratio - 1:+.1%}") for row in rows
        ]
        output.table(("layer", "first us", "second us", "change"), cells, numbers=(1, 2, 3))


def layer(spec: LayerSpec) -> str:
    """Return a layer in a few words, such as ``conv3x3 64->64 56x56 relu``.

    Args:
        spec: the layer.
    """
    parts = [
        spec.op if spec.op != "conv" else f"conv{spec.kernel}x{spec.kernel}",
        f"{spec.in_channels}->{spec.out_channels}",
        f"{spec.height}x{spec.width}",
        f"stride {spec.stride}" if spec.stride > 1 else "",
        f"groups {spec.groups}" if spec.groups > 1 else "",
        spec.activation if spec.activation != "none" else "",
        "add" if spec.residual else "",
    ]
    return " ".join(part for part in parts if part)


def _require_csv(out: Path) -> None:
    if out.suffix != ".csv":
        raise ConfigError(f"{out.name!r} is no CSV file", where="--out", hint=f"say --out {out.with_suffix('.csv')}")


def _tell(out: Path, made: LatencyTable, *, odd: Sequence[OddRow], json: bool) -> None:
    measured = sum(bool(row.samples_us) for row in made.rows)
    failed, networks = len(made.rows) - measured, len(made.calibration)
    if json:
        data = {"schema": 1, "table": str(out), "rows": measured, "failed": failed, "odd": len(odd)}
        output.answer_json({**data, "calibration_networks": networks, "notes": list(made.notes)})
        return
    output.answer(f"{out}: {measured} layers, {failed} failed, {len(odd)} odd, {networks} calibration networks")
    for note in made.notes:
        output.answer(f"note: {note}")
    if odd:
        output.answer(f"note: no prediction uses the odd rows; `deepmad-hw table show {out}` lists them")
