"""Keeps every measured unit at once, so that a kill at any moment loses nothing that was shown. Layer 3, device side.

One SQLite file in WAL mode with synchronous=FULL: a unit is durable when `Journal.add` returns.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from deepmad_hw.errors import DeviceLostError, ForeignTableError, InputFileError, StorageError

SCHEMA = 1
BUSY_S, BUSY_STEP_S = 60.0, 0.01  # how long to wait for others that write to the same file, and between two looks


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One probe timed in one round.

    Args:
        probe: name of the probe.
        round: from 0; the same probe comes again in later rounds.
        status: ``ok``, or what went wrong (`deepmad_hw.latency.measurement.STATUSES`).
        canary_us: times of the canary's runs around and between the probe's.
        total_us: times of the probe's unprofiled runs.
        nodes_us: per node, the microseconds of each profiled run.
        whole_runs: how many of the unprofiled runs each block has; empty where all count as one block.
        profiled_runs: how many of the profiled runs each block has.
        block: which of its unit's blocks this is, where it is one of several, see `profilers.samples.blocks`.
        operations: per node, how many operations the runtime made of it.
        seconds: how long the unit took in all.
        stolen: share of processor time that a hypervisor gave to others meanwhile, None where the system does not tell.
        waited: time that threads waited for a processor, over the time the unit took; None where it does not tell.
        message: what a failed child said.
        conditions: what a card's sensors told meanwhile, see `profilers.backend.Watched`.
    """

    probe: str
    round: int
    status: str = "ok"
    canary_us: tuple[float, ...] = ()
    total_us: tuple[float, ...] = ()
    nodes_us: dict[str, tuple[float, ...]] = field(default_factory=dict)
    whole_runs: tuple[int, ...] = ()
    profiled_runs: tuple[int, ...] = ()
    block: int = 0
    operations: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    stolen: float | None = 0.0
    waited: float | None = 0.0
    message: str = ""
    conditions: dict[str, float | str] = field(default_factory=dict)


class Journal:
    """The units measured so far. Use as a context manager.

    Args:
        path: the SQLite file, made if it does not exist.
        identity: what must be equal for the file to be continued (plan, environment), as flat text.

    Raises:
        InputFileError: the file is no journal, or a damaged one.
        ForeignTableError: it was begun with another identity.
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        self.path = path
        with _explained(path):
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
        try:
            with _explained(path):
                self._prepare({"schema": str(SCHEMA), **identity})
        except BaseException:
            self.close()
            raise

    def _prepare(self, identity: dict[str, str]) -> None:
        self._write_ahead()
        self._connection.execute("PRAGMA synchronous=FULL")
        self._require_intact()
        # One transaction, so that no kill leaves a journal with half an identity.
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS units (probe TEXT NOT NULL, round INTEGER NOT NULL, unit TEXT NOT NULL, "
            "checksum INTEGER NOT NULL, PRIMARY KEY (probe, round))"
        )
        self._require_identity(identity)
        self._connection.execute("COMMIT")

    def _write_ahead(self) -> None:
        """Switch the file to WAL mode; where several make one at once, SQLite refuses some without waiting."""
        deadline_s = time.monotonic() + BUSY_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                busy = getattr(error, "sqlite_errorname", "SQLITE_BUSY").startswith("SQLITE_BUSY")
                if not busy or time.monotonic() > deadline_s:
                    raise
                time.sleep(BUSY_STEP_S)

    def _require_intact(self) -> None:
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _damaged(self.path, verdict)

    def _require_identity(self, identity: dict[str, str]) -> None:
        stored = dict(self._connection.execute("SELECT key, value FROM meta"))
        if not stored:
            self._connection.executemany("INSERT INTO meta VALUES (?, ?)", sorted(identity.items()))
            return
        for key, value in identity.items():
            if stored.get(key) != value:
                raise ForeignTableError(
                    f"the journal was begun with {key} = {stored.get(key)}, now it is {value}",
                    where=str(self.path),
                    hint="continue it as it was begun, or delete it to measure anew",
                )

    def add(self, unit: Unit) -> None:
        """Store a unit; it is durable when this returns.

        Args:
            unit: not stored before.

        Raises:
            StorageError: the disk does not take it.
        """
        text = json.dumps({key: value for key, value in asdict(unit).items() if key not in ("probe", "round", "block")})
        row = (unit.probe, unit.round, text, _checksum(unit.probe, unit.round, text))
        with _explained(self.path):
            self._connection.execute("INSERT INTO units VALUES (?, ?, ?, ?)", row)

    def units(self) -> Iterator[Unit]:
        """Return every stored unit, by round and probe.

        Raises:
            InputFileError: a row is damaged.
        """
        with _explained(self.path):
            order = "SELECT probe, round, unit, checksum FROM units ORDER BY round, probe"
            rows = self._connection.execute(order).fetchall()
        for probe, number, text, checksum in rows:
            if checksum != _checksum(probe, number, text):
                raise _damaged(self.path, f"round {number} of {probe!r} is not as it was written")
            yield _unit(probe, number, json.loads(text))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Journal:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def _unit(probe: str, number: int, data: dict[str, Any]) -> Unit:
    """Return a unit from its stored fields."""
    return Unit(
        probe=probe,
        round=number,
        status=data["status"],
        canary_us=tuple(data["canary_us"]),
        total_us=tuple(data["total_us"]),
        nodes_us={name: tuple(values) for name, values in data["nodes_us"].items()},
        whole_runs=tuple(data.get("whole_runs", ())),  # older journals do not part blocks
        profiled_runs=tuple(data.get("profiled_runs", ())),
        operations=data["operations"],
        seconds=data["seconds"],
        stolen=data["stolen"],
        waited=data.get("waited"),  # older journals do not tell
        message=data["message"],
        conditions=data.get("conditions", {}),  # older journals have none
    )


def _checksum(probe: object, number: object, text: object) -> int:
    """Return what a row must still say of itself; SQLite guards its pages' structure, not the text in them."""
    return zlib.crc32(f"{probe}\0{number}\0{text}".encode(errors="replace"))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says into our errors."""
    try:
        yield
    except sqlite3.OperationalError as error:
        # SQLITE_ERROR, or no name: these are no tables or texts of ours. Other names tell of the disk and the system.
        if getattr(error, "sqlite_errorname", "SQLITE_ERROR") == "SQLITE_ERROR":
            raise _damaged(path, str(error)) from error
        raise StorageError(f"cannot write the journal ({error})", where=str(path)) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite quotes the damage, which may be no text
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, detail: str) -> InputFileError:
    return InputFileError(f"the journal is damaged ({detail})", where=str(path), hint="delete it to measure anew")


@contextmanager
def device_lock(device: str) -> Iterator[None]:
    """Hold the one lock of a physical device, so that no two things are measured on it at once.

    Args:
        device: short name of the device, such as ``cpu``.

    Raises:
        DeviceLostError: another process is measuring on it.
        StorageError: the lock's file cannot be made.
    """
    path = Path(tempfile.gettempdir()) / f"deepmad-hw-{device}-{os.getuid()}.lock"
    try:
        handle = path.open("a", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"the lock of the {device} could not be made: {error.strerror or error}", where=str(path)
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DeviceLostError(
                f"another process is measuring on the {device}", where=str(path), hint="wait until it has ended"
            ) from error
        yield
