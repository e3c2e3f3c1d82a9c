"""TinyNAS's profiles of convolutions under TensorRT: ``{Type,Batch,InC,H,W,OutC,K,Stride,ElmtFused} ms``. Layer 4.

One convolution a line, batch norm and ReLU folded in, with the residual add where the last number is 1; -1 for one
that could not be timed. Source: op_profiler of alibaba/lightweight-neural-architecture-search.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.latency.measurement import Environment, LayerMeasurement
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.workflows.tables.imports import ImportRequest

LARGEST_BYTES = 32 * 2**20  # unpacked; TinyNAS's own file has 4
GZIP_START = b"\x1f\x8b"
FAILED_MS = -1.0
DEPTHWISE = {"Regular": False, "Depthwise": True}
COLUMNS = ("type", "batch", "in_channels", "height", "width", "out_channels", "kernel", "stride", "fused", "ms")
_LINE = re.compile(r"\{(\w+)" + r",(\w+)" * 8 + r"\} (\S+)")
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)


def read(path: Path, request: ImportRequest) -> LatencyTable:
    """Return the rows of one batch size as a table.

    Args:
        path: the profile, plain or compressed by gzip.
        request: the batch size and the device.

    Raises:
        InputFileError: the file cannot be read, a line is none of the format, or no row has that batch size.
    """
    rows: dict[LayerSpec, LayerMeasurement] = {}
    batches: Counter[int] = Counter()
    for where, line in _lines(path):
        batch, row = _row(line, where)
        batches[batch] += 1
        if batch != request.batch:
            continue
        if row.spec in rows:
            raise InputFileError(f"two rows of one layer: {line}", where=f"{where}:type")
        rows[row.spec] = row
    if not rows:
        found = ", ".join(str(batch) for batch in sorted(batches)) or "none"
        raise InputFileError(
            f"no row of batch {request.batch}, only {found}", where=f"{path}:1:batch", hint="--batch N"
        )
    return LatencyTable(
        name=request.name,
        environment=Environment(
            device=request.device or "unknown NVIDIA card",
            machine="unknown",
            cores=1,
            features=(),
            governor="unknown",
            runtime="tensorrt",
            runtime_version="unknown",
            precision=request.precision,
            batch=request.batch,
        ),
        rows=tuple(rows.values()),
        notes=(
            f"imported from {path.name} (TinyNAS), batch {request.batch}",
            "single convolutions, one time each: no pools, no classifier, no networks to calibrate on",
        ),
        fused_activations=("relu", "none"),
    )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every line that is not empty."""
    try:
        with path.open("rb") as plain:
            data = plain.read(LARGEST_BYTES + 1)
        if data.startswith(GZIP_START):
            with gzip.open(path) as file:
                data = file.read(LARGEST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputFileError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=str(path)) from error
    if len(data) > LARGEST_BYTES:
        raise InputFileError(f"larger than {LARGEST_BYTES} bytes", where=str(path))
    for number, line in enumerate(data.decode("ascii", errors="replace").splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _row(line: str, where: str) -> tuple[int, LayerMeasurement]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise InputFileError(
            f"expected {{Type,Batch,InC,H,W,OutC,K,Stride,ElmtFused}} ms, got {line[:80]!r}", where=f"{where}:type"
        )
    cells = dict(zip(COLUMNS, found.groups(), strict=True))
    if cells["type"] not in DEPTHWISE:
        raise InputFileError(
            f"unknown type {cells['type']!r}, expected {' or '.join(DEPTHWISE)}", where=f"{where}:type"
        )
    numbers = {name: _whole(cells[name], f"{where}:{name}") for name in COLUMNS[1:-1]}
    batch, fused = numbers.pop("batch"), numbers.pop("fused")
    if batch < 1:
        raise InputFileError(f"expected a whole number >= 1, got {batch}", where=f"{where}:batch")
    if fused not in (0, 1):
        raise InputFileError(f"expected 0 or 1, got {fused}", where=f"{where}:fused")
    time_ms = _time_ms(cells["ms"], f"{where}:ms")
    try:
        spec = LayerSpec(
            op="conv",
            **numbers,
            groups=numbers["in_channels"] if DEPTHWISE[cells["type"]] else 1,
            activation="relu",
            residual=bool(fused),
        )
    except ConfigError as error:
        raise InputFileError(error.what, where=f"{where}:{error.where}") from error
    if time_ms is None:
        return batch, LayerMeasurement(spec=spec, samples_us=(), status="error")
    return batch, LayerMeasurement(spec=spec, samples_us=(time_ms * 1e3,))


def _whole(text: str, where: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise InputFileError(f"expected a whole number, got {text[:20]!r}", where=where)
    return int(text)


def _time_ms(text: str, where: str) -> float | None:
    """Return a time, or None for a layer that could not be timed."""
    try:
        time_ms = float(text) if text.isascii() and "_" not in text else float("nan")
    except ValueError:
        time_ms = float("nan")
    if time_ms == FAILED_MS:
        return None
    if not 0 < time_ms < float("inf"):
        raise InputFileError(f"expected a time above 0 ms, or -1, got {text[:20]!r}", where=where)
    return time_ms
