"""Reads and writes latency tables: rows as CSV, what they belong to as JSON beside it. Layer 2.

Schema history (`SCHEMA`):
    1: first version.
    2: the sidecar may hold operations outside the block families; a file of schema 1 is one without them.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from deepmad_hw.errors import DeepmadError, InputFileError
from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.files.jsonfile import (
    Json,
    Place,
    decoded,
    parse_json,
    plain,
    read_text,
    record,
    require_keys,
    typed,
    versioned,
    write_json,
)
from deepmad_hw.formats.serde import architecture_from_json, architecture_to_json
from deepmad_hw.latency.measurement import (
    STATUSES,
    Environment,
    LayerMeasurement,
    NetworkMeasurement,
    OperationMeasurement,
)
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network import families
from deepmad_hw.network.layer import LayerSpec

SCHEMA, OLDEST_SCHEMA = 2, 1
MEDIAN_TOLERANCE = 0.01
LARGEST_TABLE_BYTES = 64 * 2**20  # a profile of ten minutes writes one

_SPEC_COLUMNS = tuple(field.name for field in fields(LayerSpec))
_TEXT_COLUMNS = ("op", "activation")
COLUMNS = (*_SPEC_COLUMNS, "status", "median_us", "relative_error", "samples_us")
_SIDECAR_KEYS = (
    "name",
    "csv_sha256",
    "environment",
    "measured_on",
    "canary_us",
    "notes",
    "calibration",
    "fused_activations",
    "operations",
)
_LEFT_OUT_WHERE_NONE = ("fused_activations", "operations")


def sidecar_path(path: Path) -> Path:
    """Return where the JSON of a table lies.

    Args:
        path: the table's CSV.
    """
    return path.with_suffix(".json")


def write_table(path: Path, table: LatencyTable) -> None:
    """Write a table as CSV and its sidecar.

    Args:
        path: of the CSV; the sidecar takes the ending ``.json``.
        table: what.

    Raises:
        StorageError: a file could not be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted(table.rows, key=lambda row: row.spec):
        writer.writerow(_csv_row(row))
    data = text.getvalue().encode()
    sidecar = {
        "schema": SCHEMA,
        "name": table.name,
        "csv_sha256": hashlib.sha256(data).hexdigest(),
        "environment": plain(table.environment),
        "measured_on": table.measured_on,
        "canary_us": table.canary_us,
        "notes": list(table.notes),
        "calibration": [
            {
                "name": network.measurement.name,
                "architecture": architecture_to_json(network.architecture),
                "status": network.measurement.status,
                "samples_us": [float(_digits(value)) for value in network.measurement.samples_us],
            }
            for network in table.calibration
        ],
    }
    if table.fused_activations:
        sidecar["fused_activations"] = list(table.fused_activations)
    if table.operations:
        sidecar["operations"] = [_operation_to_json(row) for row in sorted(table.operations, key=lambda row: row.spec)]
    write_atomically(path, data)
    write_json(sidecar_path(path), sidecar)


def _operation_to_json(row: OperationMeasurement) -> Json:
    """Return an operation's measurement, amounts that are 0 left out; samples are one text, as in the CSV."""
    spec = {name: value for name, value in plain(row.spec).items() if value != 0}
    return {"spec": spec, "status": row.status, "samples_us": " ".join(map(_digits, row.samples_us))}


def _csv_row(row: LayerMeasurement) -> list[str]:
    numbers = [str(int(value) if isinstance(value, bool) else value) for value in _spec_values(row.spec)]
    samples = [_digits(value) for value in row.samples_us]
    if not samples:
        return [*numbers, row.status, "", "", ""]
    # The statistics of what is written, so that a table read and written again has the same bytes.
    kept = replace(row, samples_us=tuple(map(float, samples)))
    return [*numbers, row.status, f"{kept.median_us:.6g}", f"{kept.relative_error:.4f}", " ".join(samples)]


def _digits(time_us: float) -> str:
    """Return a time to five digits, far finer than any clock repeats it."""
    return f"{time_us:.5g}"


def _spec_values(spec: LayerSpec) -> list[Any]:
    return [getattr(spec, name) for name in _SPEC_COLUMNS]


def read_table(path: Path) -> LatencyTable:
    """Return the table of a CSV and its sidecar.

    Args:
        path: of the CSV.

    Raises:
        InputFileError: a file is missing, damaged, of another schema, or the two do not belong together.
    """
    data = _read(path)
    side = sidecar_path(path)
    if not side.exists():
        raise InputFileError("the table's sidecar is missing", where=str(side), hint="copy it along with the CSV")
    text = read_text(side)
    at = Place(str(side), text=text)
    data_of_side = parse_json(text, where=str(side))
    sidecar = versioned(data_of_side, at, schema=SCHEMA, oldest=OLDEST_SCHEMA)
    known = [key for key in _SIDECAR_KEYS if key != "operations" or data_of_side["schema"] > 1]
    require_keys(sidecar, known, at, optional=_LEFT_OUT_WHERE_NONE)
    if sidecar["csv_sha256"] != hashlib.sha256(data).hexdigest():
        raise InputFileError(
            f"the rows of {path.name} are not those this sidecar was written for",
            where=at.key("csv_sha256").where,
            hint="copy both files again",
        )
    rows = _rows(path, data)
    calibration = typed(tuple[Any, ...], sidecar["calibration"], at.key("calibration"))
    try:
        return LatencyTable(
            name=typed(str, sidecar["name"], at.key("name")),
            environment=record(Environment, sidecar["environment"], at.key("environment")),
            rows=rows,
            calibration=tuple(_calibration(item, at.key("calibration").index(i)) for i, item in enumerate(calibration)),
            measured_on=typed(str | None, sidecar["measured_on"], at.key("measured_on")),
            canary_us=typed(float | None, sidecar["canary_us"], at.key("canary_us")),
            notes=typed(tuple[str, ...], sidecar["notes"], at.key("notes")),
            fused_activations=typed(tuple[str, ...], sidecar.get("fused_activations", []), at.key("fused_activations")),
            operations=_operations(sidecar.get("operations", []), at.key("operations")),
        )
    except InputFileError:
        raise
    except DeepmadError as error:
        raise InputFileError(error.what, where=at.where, hint=error.hint) from error


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_TABLE_BYTES:
            raise InputFileError(f"larger than {LARGEST_TABLE_BYTES} bytes", where=str(path))
        return path.read_bytes()
    except OSError as error:
        raise InputFileError(
            f"cannot be read: {error.strerror or error}", where=str(path), hint="make one with 'deepmad-hw profile'"
        ) from error


def _rows(path: Path, data: bytes) -> tuple[LayerMeasurement, ...]:
    decoded(data, where=str(path))
    # Not an `io.StringIO`, which takes four bytes a character.
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="\n"), strict=True)
    field_limit = csv.field_size_limit(LARGEST_TABLE_BYTES)  # a layer seen in many networks has many samples
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise InputFileError(f"expected the columns {','.join(COLUMNS)}", where=f"{path}:1:1")
        rows: dict[LayerSpec, LayerMeasurement] = {}
        for cells in reader:
            row = _row(cells, f"{path}:{reader.line_num}")
            if row.spec in rows:
                raise InputFileError(f"two rows of one layer: {row.spec}", where=f"{path}:{reader.line_num}:op")
            rows[row.spec] = row
        return tuple(rows.values())
    except csv.Error as error:
        raise InputFileError(f"is no CSV ({error})", where=f"{path}:{max(reader.line_num, 1)}:1") from error
    finally:
        csv.field_size_limit(field_limit)


def _row(cells: list[str], where: str) -> LayerMeasurement:
    if len(cells) != len(COLUMNS):
        column = COLUMNS[len(cells)] if len(cells) < len(COLUMNS) else len(COLUMNS) + 1
        raise InputFileError(f"expected {len(COLUMNS)} cells, got {len(cells)}", where=f"{where}:{column}")
    values = dict(zip(COLUMNS, cells, strict=True))
    spec_values: dict[str, Any] = {
        name: values[name] if name in _TEXT_COLUMNS else _whole(values[name], f"{where}:{name}")
        for name in _SPEC_COLUMNS
    }
    if spec_values["residual"] not in (0, 1):
        raise InputFileError(f"expected 0 or 1, got {spec_values['residual']}", where=f"{where}:residual")
    spec_values["residual"] = bool(spec_values["residual"])
    samples = tuple(_number(word, f"{where}:samples_us") for word in values["samples_us"].split())
    try:
        row = LayerMeasurement(spec=LayerSpec(**spec_values), samples_us=samples, status=values["status"])
    except DeepmadError as error:
        times = "samples_us" if values["status"] in STATUSES else "status"
        column = error.where if error.where in COLUMNS else times
        raise InputFileError(error.what, where=f"{where}:{column}", hint=error.hint) from error
    if samples:
        _require_median(row, values["median_us"], f"{where}:median_us")
    return row


def _require_median(row: LayerMeasurement, text: str, where: str) -> None:
    # People read and edit this column, predictions rest on the samples: the two must not say different things.
    if not abs(_number(text, where) / row.median_us - 1) <= MEDIAN_TOLERANCE:
        raise InputFileError(f"{text[:40]} is not the median of the samples, {row.median_us:.6g}", where=where)


def _whole(text: str, where: str) -> int:
    # int() also takes underscores, signs and other scripts' digits, which no table of ours holds.
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InputFileError(f"expected a whole number, got {text[:40]!r}", where=where)
    return int(text)


def _number(text: str, where: str) -> float:
    try:
        if text.isascii() and "_" not in text:  # as in `_whole`
            return float(text)
    except ValueError:
        pass
    raise InputFileError(f"expected a number, got {text[:40]!r}", where=where)


def _operations(items: object, at: Place) -> tuple[OperationMeasurement, ...]:
    return tuple(
        _operation(item, at.index(position)) for position, item in enumerate(typed(tuple[Any, ...], items, at))
    )


def _operation(item: object, at: Place) -> OperationMeasurement:
    if not isinstance(item, dict):
        raise at.error("expected an object")
    require_keys(item, ("spec", "status", "samples_us"), at)
    inner = at.key("samples_us")
    words = typed(str, item["samples_us"], inner).split()
    try:
        samples_us = [_number(word, "") for word in words]
    except InputFileError as error:
        raise inner.error(error.what) from error
    return record(OperationMeasurement, {**item, "samples_us": samples_us}, at)


def _calibration(item: Json, at: Place) -> CalibrationNetwork:
    if not isinstance(item, dict):
        raise at.error("expected an object")
    require_keys(item, ("name", "architecture", "status", "samples_us"), at)
    inner = at.key("architecture")
    architecture = architecture_from_json(item["architecture"], where=f"{inner.where}: {inner.path}")
    try:  # so that a network which cannot be built is refused here, with its place
        families.resolve_activation(families.get(architecture.family), architecture.activation)
    except DeepmadError as error:
        raise inner.error(error.what, hint=error.hint) from error
    return CalibrationNetwork(
        architecture=architecture,
        measurement=record(
            NetworkMeasurement, {key: value for key, value in item.items() if key != "architecture"}, at
        ),
    )


def table_sha256(path: Path) -> str:
    """Return the sha256 of a table: of its rows and, behind them, of its sidecar, which sets the margin of its times.

    Args:
        path: the table's CSV.

    Raises:
        InputFileError: it cannot be read.
    """
    side = sidecar_path(path)
    try:
        return hashlib.sha256(path.read_bytes() + (side.read_bytes() if side.is_file() else b"")).hexdigest()
    except OSError as error:
        raise InputFileError(f"cannot be read: {error.strerror}", where=str(path)) from error
