"""Other people's latency tables: one format per file, looked up by name. Layer 4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deepmad_hw import registry
from deepmad_hw.errors import ConfigError, DeepmadError, InputFileError
from deepmad_hw.latency.measurement import PRECISIONS
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.workflows.tables.tables import require_possible

_FORMATS = {
    "once-for-all": "deepmad_hw.workflows.tables.imports.once_for_all:read",
    "run": "deepmad_hw.workflows.tables.imports.run:read",
    "tinynas": "deepmad_hw.workflows.tables.imports.tinynas:read",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportRequest:
    """What a foreign file does not say of itself.

    Args:
        name: of the new table.
        device: what its device calls itself, None for what the format implies.
        batch: which batch size to take from a file that holds several, or that its times are for.
        precision: that the layers were timed in.
        plan: folder of the packed plan that was run.
    """

    name: str
    device: str | None = None
    batch: int = 1
    precision: str = "fp32"
    plan: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a batch without images, and a precision that no table has."""
        if self.batch < 1:
            raise ConfigError(f"expected a number above 0, got {self.batch}", where="--batch")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"unknown precision {self.precision!r}, expected one of {', '.join(PRECISIONS)}", where="--precision"
            )


class Reader(Protocol):
    """Reads one foreign format."""

    def __call__(self, path: Path, request: ImportRequest) -> LatencyTable:
        """Return the table that a file holds.

        Args:
            path: the file.
            request: what it does not say.

        Raises:
            InputFileError: the file cannot be used.
        """


def formats() -> tuple[str, ...]:
    """Return the names of the formats that can be read, ascending."""
    return tuple(_FORMATS)


def import_table(form: str, path: Path, request: ImportRequest) -> LatencyTable:
    """Return a foreign file as a latency table whose times are possible.

    Args:
        form: one of `formats()`.
        path: the file.
        request: what it does not say.

    Raises:
        ConfigError: no such format.
        InputFileError: the file cannot be used, or its times are impossible.
    """
    read: Reader = registry.load(form, _FORMATS, what="format", where="FORMAT")
    try:
        table = read(path, request)
    except InputFileError:
        raise
    except DeepmadError as error:  # a record refused what the file says
        raise InputFileError(error.what, where=f"{path}:1:{error.where or 1}", hint=error.hint) from error
    require_possible(table, where=str(path))
    return table
