"""Tables for other programs: one flat file, a row a layer, with where it was measured in every row. Layer 4."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepmad_hw.errors import ConfigError, MissingExtraError
from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.registry import require_known

Flat = list[dict[str, Any]]

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def export_table(table: LatencyTable, out: Path, *, form: str | None = None) -> str:
    """Write a table as one file that needs no sidecar.

    Args:
        table: what.
        out: where.
        form: one of `FORMS`; None takes the file's ending.

    Returns:
        The form it was written in.

    Raises:
        ConfigError: no such form, or `out` has none for an ending.
        MissingExtraError: the form needs a package that is not installed.
        StorageError: the file could not be written.
    """
    chosen = form or out.suffix.removeprefix(".")
    if not chosen:
        raise ConfigError("does not say in which form", where=f"--out {out}", hint=f"say --form {' or '.join(FORMS)}")
    require_known(chosen, tuple(FORMS), what="form", where="--form" if form else f"--out {out}")
    write_atomically(out, FORMS[chosen](flat(table)))
    return chosen


def flat(table: LatencyTable) -> Flat:
    """Return a table as rows of plain values; `samples_us` is a list.

    Args:
        table: what.
    """
    place = {**asdict(table.environment), "features": " ".join(table.environment.features)}
    return [
        {
            "table": table.name,
            **asdict(row.spec),
            "status": row.status,
            "median_us": row.median_us if row.samples_us else None,
            "relative_error": row.relative_error if row.samples_us else None,
            "samples": len(row.samples_us),
            "samples_us": list(row.samples_us),
            **place,
            "measured_on": table.measured_on,
        }
        for row in sorted(table.rows, key=lambda row: row.spec)
    ]


def _csv(rows: Flat) -> bytes:
    text = io.StringIO()
    columns = [name for name in (rows[0] if rows else {}) if name != "samples_us"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Return a value as a cell: truth values as 0 or 1, and no name that a spreadsheet would run as a formula."""
    if isinstance(value, bool):
        return int(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _parquet(rows: Flat) -> bytes:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("Parquet needs pyarrow", hint="install it with: pip install 'deepmad-hw[parquet]'")
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue().to_pybytes())


FORMS: dict[str, Callable[[Flat], bytes]] = {"csv": _csv, "parquet": _parquet}
