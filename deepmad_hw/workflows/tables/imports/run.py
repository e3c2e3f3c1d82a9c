"""JSON lines that a packed plan brings back from another device (`python -m profilers run`). Layer 4.

The file holds one object a line: the environment, the day, the canary, then layers, other operations and whole networks
with their raw samples. Which network is which architecture stands in the plan, so that the table can be calibrated.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepmad_hw.errors import InputFileError
from deepmad_hw.files.jsonfile import (
    Json,
    Place,
    decoded,
    parse_json,
    read_json,
    record,
    require_keys,
    typed,
    versioned,
)
from deepmad_hw.files.planfile import NETWORKS_FILE
from deepmad_hw.formats.serde import architecture_from_json
from deepmad_hw.formats.serde_table import LARGEST_TABLE_BYTES
from deepmad_hw.latency.measurement import Environment, LayerMeasurement, NetworkMeasurement, OperationMeasurement
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.layer import LayerSpec, OperationSpec
from deepmad_hw.workflows.tables.imports import ImportRequest

RESULTS_FILE = "results.jsonl"
_ONCE = {"environment": Environment, "canary_us": float, "measured_on": str}
_REPEATED = {"layer": LayerMeasurement, "operation": OperationMeasurement, "network": NetworkMeasurement}


def read(path: Path, request: ImportRequest) -> LatencyTable:
    """Return what a device measured as a table.

    Args:
        path: the JSON lines, or a folder with `RESULTS_FILE` in it.
        request: the folder of the plan that was run; None looks beside the lines.

    Raises:
        InputFileError: the lines or the plan cannot be used.
    """
    file = path / RESULTS_FILE if path.is_dir() else path
    once: dict[str, Any] = {}
    layers: dict[LayerSpec, LayerMeasurement] = {}
    operations: dict[OperationSpec, OperationMeasurement] = {}
    networks: list[NetworkMeasurement] = []
    for at, key, value in _entries(file):
        if key in _ONCE and key in once:
            raise at.error("stands in the file twice")
        if key in _ONCE:
            once[key] = typed(_ONCE[key], value, at)
        elif key == "network":
            networks.append(record(NetworkMeasurement, value, at))
        elif key == "operation":
            operation = record(OperationMeasurement, value, at)
            if operations.setdefault(operation.spec, operation) is not operation:
                raise at.error(f"two rows of one operation: {operation.spec}")
        else:
            row = record(LayerMeasurement, value, at)
            if layers.setdefault(row.spec, row) is not row:
                raise at.error(f"two rows of one layer: {row.spec}")
    if "environment" not in once:
        raise InputFileError("says nothing of the environment", where=f"{file}:1:1", hint="copy the whole file again")
    architectures = _architectures(request.plan or file.parent, needed=request.plan is not None)
    calibration = tuple(
        CalibrationNetwork(architecture=architectures[each.name], measurement=each)
        for each in networks
        if each.name in architectures and each.samples_us
    )
    notes = [f"imported from {file.name} of a packed plan"]
    if not calibration:
        notes.append("without its plan's networks nothing calibrates it; give --plan DIR")
    return LatencyTable(
        name=request.name,
        environment=once["environment"],
        rows=tuple(layers.values()),
        operations=tuple(operations.values()),
        calibration=calibration,
        measured_on=once.get("measured_on"),
        canary_us=once.get("canary_us"),
        notes=tuple(notes),
    )


def _entries(file: Path) -> Iterator[tuple[Place, str, Any]]:
    """Yield each line's one key and value, with the place of the value."""
    try:
        if file.stat().st_size > LARGEST_TABLE_BYTES:
            raise InputFileError(f"larger than {LARGEST_TABLE_BYTES} bytes", where=str(file))
        data = file.read_bytes()
    except OSError as error:
        raise InputFileError(f"cannot be read: {error.strerror or error}", where=str(file)) from error
    for number, line in enumerate(decoded(data, where=str(file)).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry: Json = parse_json(line, where="line")
        except InputFileError as error:
            column = (error.where or "").rpartition(":")[2]
            raise InputFileError(error.what, where=f"{file}:{number}:{column}", hint=error.hint) from error
        at = Place(f"{file}:{number}:1")
        if len(entry) != 1:
            raise at.error(f"expected one key, got {len(entry)}")
        require_keys(entry, (*_ONCE, *_REPEATED), at, optional=(*_ONCE, *_REPEATED))
        (key, value), *_ = entry.items()
        yield at.key(key), key, value


def _architectures(folder: Path, *, needed: bool) -> dict[str, Architecture]:
    """Return the architectures of a plan by the names of its networks."""
    path = folder / NETWORKS_FILE
    if not needed and not path.is_file():
        return {}
    at = Place(str(path))
    fields = versioned(read_json(path), at, schema=1)
    require_keys(fields, ("networks",), at)
    networks = typed(dict[str, Any], fields["networks"], at.key("networks"))
    return {name: architecture_from_json(item, where=f"{path}: {name}") for name, item in networks.items()}
