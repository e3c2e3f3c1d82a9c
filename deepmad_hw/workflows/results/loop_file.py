"""The file of a measured loop: its rounds and measurements, kept beside the design. Layer 4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepmad_hw.files.jsonfile import Json, Place, plain, read_json, require_keys, typed, versioned, write_json
from deepmad_hw.workflows.results.results import Round, Row, row_from_json

LOOP_FILE = "loop.json"

SCHEMA = 1


def read_loop(folder: Path) -> tuple[tuple[Round, ...], tuple[Row, ...]]:
    """Return the rounds and measurements that are kept beside a design; none where no loop was run.

    Args:
        folder: of the design.

    Raises:
        InputFileError: the file holds something else.
    """
    path = folder / LOOP_FILE
    if not path.is_file():
        return (), ()
    at = Place(str(path))
    data = versioned(read_json(path), at, schema=SCHEMA)
    require_keys(data, ("ended", "rounds", "rows"), at)
    rounds: tuple[Round, ...] = typed(tuple[Round, ...], data["rounds"], at.key("rounds"))
    rows: tuple[Json, ...] = typed(tuple[Json, ...], data["rows"], at.key("rows"))
    return rounds, tuple(row_from_json(row, at.key("rows").index(i)) for i, row in enumerate(rows))


def write_loop(folder: Path, *, ended: str, rounds: Sequence[Round], rows: Sequence[Row]) -> None:
    """Keep a loop's rounds beside its design.

    Args:
        folder: of the design.
        ended: why there was no further round.
        rounds: every round.
        rows: measurements of the design.

    Raises:
        StorageError: the file could not be written.
    """
    data = {"schema": SCHEMA, "ended": ended, "rounds": plain(tuple(rounds)), "rows": plain(tuple(rows))}
    write_json(folder / LOOP_FILE, data)
