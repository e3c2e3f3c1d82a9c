"""From trained networks to an objective: reads a population, fits its weights, says what that is worth. Layer 4."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepmad_hw.errors import ConfigError, InputFileError, known_names
from deepmad_hw.files.jsonfile import LARGEST_FILE_BYTES, Json, decoded, plain
from deepmad_hw.formats.serde import architecture_from_json
from deepmad_hw.network import families
from deepmad_hw.problem.objective import Objective
from deepmad_hw.workflows.results.folders import DESIGN_FILE, require_architecture

if TYPE_CHECKING:
    from deepmad_hw.predict.accuracy import Comparison, Population

ACCURACIES_FILE = "accuracies.csv"  # of a folder of designs
MOST_NETWORKS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibrated:
    """A fitted objective and what it is worth.

    Args:
        objective: weights of the features, with the ranges in which they were seen.
        comparison: how well it ranks networks that it has not seen, beside fixed rules.
    """

    objective: Objective
    comparison: Comparison


def calibrate(path: str | Path, *, source: str = "", seed: int = 0) -> Calibrated:
    """Fit an objective to trained networks, so that `design` can maximise predicted accuracy.

    Args:
        path: of the population, see `read_population`.
        source: where the accuracies come from, in a few words; without any, the file's name.
        seed: of the folds and the bootstrap that the comparison draws.

    Raises:
        InputFileError: the population cannot be read.
        ConfigError: too few networks, or all equally accurate.
    """
    from deepmad_hw.predict import accuracy

    place = Path(path)
    networks = read_population(place)
    return Calibrated(
        objective=accuracy.fit(networks, source=source or place.resolve().name),
        comparison=accuracy.compare(networks, seed=seed),
    )


def comparison_to_json(comparison: Comparison) -> Json:
    """Return a comparison of rules as JSON data.

    Args:
        comparison: what.
    """
    data: Json = plain(comparison)
    return {**data, "best_fixed": comparison.best_fixed.rule, "use": comparison.rule, "sentence": comparison.sentence}


def read_population(path: Path) -> Population:
    """Return trained networks from a folder or a CSV.

    A folder holds ``accuracies.csv`` with the columns ``design`` (a path in the folder: a design's folder or its JSON)
    and ``accuracy`` in percent. A CSV alone holds the features themselves, one network a row: ``name``, ``family``,
    ``accuracy`` in percent, ``params``, ``macs``, ``rho``, ``entropy:1`` and on for every scale, ``depth:1`` and on for
    every stage.

    Args:
        path: of the folder, or of the CSV.

    Raises:
        InputFileError: neither, or a row that cannot be used.
    """
    if path.is_dir():
        return _from_folder(path)
    if path.suffix != ".csv" or not path.is_file():
        raise InputFileError(
            "is no population", where=str(path), hint=f"give a folder with {ACCURACIES_FILE}, or a CSV of features"
        )
    return _from_features(path)


def _from_folder(folder: Path) -> Population:
    from deepmad_hw.predict import accuracy

    file = folder / ACCURACIES_FILE
    if not file.is_file():
        raise InputFileError(f"holds no {ACCURACIES_FILE}", where=str(folder))
    networks = []
    for line, row in _rows(file, known=lambda column: column in ("design", "accuracy"), needed=("design", "accuracy")):
        try:
            design = (folder / row["design"]).resolve()
            design = design / DESIGN_FILE if design.is_dir() else design
        except (OSError, ValueError) as error:
            raise InputFileError(f"{row['design'][:60]!r} is not a path", where=f"{file}:{line}") from error
        if not design.is_relative_to(folder.resolve()):
            raise InputFileError(f"{row['design']!r} lies outside the folder", where=f"{file}:{line}")
        network = architecture_from_json(require_architecture(design), where=str(design))
        networks.append((row["design"], network, _number(row["accuracy"], "accuracy", f"{file}:{line}")))
    try:
        return accuracy.population(networks)
    except ConfigError as error:
        raise InputFileError(error.what, where=f"{file}: {error.where}", hint=error.hint) from error


def _from_features(file: Path) -> Population:
    from deepmad_hw.predict import accuracy

    single = ("name", "family", "accuracy", "params", "macs", "rho")

    def known(column: str) -> bool:
        kind, _, number = column.partition(":")
        return column in single or (kind in ("entropy", "depth") and number.isdecimal())

    rows = _rows(file, known=known, needed=(*single, "entropy:1", "depth:1"))
    columns = list(rows[0][1])
    listed = {kind: _numbered(columns, kind, file) for kind in ("entropy", "depth")}
    kinds = {row["family"] for _, row in rows}
    if len(kinds) > 1:
        raise InputFileError(f"holds networks of several families: {', '.join(sorted(kinds))}", where=str(file))
    (family,) = kinds
    if family not in families.names():
        raise InputFileError(
            f"unknown family {family!r}", where=f"{file}:2", hint=known_names(family, families.names())
        )

    def column(name: str) -> list[float]:
        return [_number(row[name], name, f"{file}:{line}") for line, row in rows]

    def table(names: Sequence[str]) -> list[list[float]]:
        return [list(values) for values in zip(*(column(name) for name in names), strict=True)]

    try:
        return accuracy.from_columns(
            names=[row["name"] for _, row in rows],
            family=family,
            accuracies=column("accuracy"),
            entropies=table(listed["entropy"]),
            depths=table(listed["depth"]),
            params=column("params"),
            macs=column("macs"),
            rho=column("rho"),
        )
    except ConfigError as error:
        raise InputFileError(error.what, where=f"{file}: {error.where}", hint=error.hint) from error


def _numbered(columns: Sequence[str], kind: str, file: Path) -> list[str]:
    """Return the columns ``kind:1`` to the last, none of which may be missing."""
    found = [column for column in columns if column.startswith(f"{kind}:")]
    wanted = [f"{kind}:{number}" for number in range(1, len(found) + 1)]
    for column in wanted:
        if column not in found:
            raise InputFileError(f"has no column {column!r}", where=f"{file}:1")
    return wanted


def _rows(file: Path, *, known: Callable[[str], bool], needed: Sequence[str]) -> list[tuple[int, Mapping[str, str]]]:
    """Return the rows of a CSV with their numbers; every column must be known, and the needed ones there."""
    if file.stat().st_size > LARGEST_FILE_BYTES:
        raise InputFileError(f"larger than {LARGEST_FILE_BYTES} bytes", where=str(file))
    reader = csv.DictReader(io.StringIO(decoded(file.read_bytes(), where=str(file)), newline=""), strict=True)
    try:
        columns = list(reader.fieldnames or [])
        _require_columns(columns, file, known=known, needed=needed)
        found: list[tuple[int, Mapping[str, str]]] = [
            (reader.line_num, row) for row, _ in zip(reader, range(MOST_NETWORKS + 1), strict=False)
        ]
    except csv.Error as error:
        raise InputFileError(f"is no CSV: {error}", where=f"{file}:{reader.line_num}") from error
    for line, row in found:
        if None in row or None in row.values():
            raise InputFileError(f"expected {len(columns)} values", where=f"{file}:{line}")
    if not 0 < len(found) <= MOST_NETWORKS:
        raise InputFileError(f"expected 1 to {MOST_NETWORKS} networks", where=str(file))
    return found


def _require_columns(
    columns: Sequence[str], file: Path, *, known: Callable[[str], bool], needed: Sequence[str]
) -> None:
    for column in columns:
        if not known(column) or columns.count(column) > 1:
            fault = "stands twice" if known(column) else "is no column of a population"
            raise InputFileError(f"{column!r} {fault}", where=f"{file}:1")
    for column in needed:
        if column not in columns:
            raise InputFileError(f"has no column {column!r}", where=f"{file}:1")


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputFileError(f"{column}: {text[:40]!r} is no number", where=where)
    return value
