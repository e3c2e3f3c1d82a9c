"""What trainings have said so far: one SQLite file that survives a kill at any moment. Layer 4.

In WAL mode with synchronous=FULL, an epoch is stored for good when `Journal.add` returns. A line that comes twice is
stored once.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from deepmad_hw.errors import InputFileError, StorageError
from deepmad_hw.files.jsonfile import Place, parse_json, plain, read_text, record
from deepmad_hw.training.jobs import Job

JOURNAL_FILE = "journal.sqlite"
BUSY_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochResult:
    """One epoch of a job.

    Args:
        job: name of the job.
        epoch: from 1.
        loss: mean over the training images.
        right: validation images that were named right.
        images: validation images.
        seconds: that the epoch took, validation included.
        test_right: test images that were named right, None but after the last epoch of a check.
        test_images: test images.
    """

    job: str
    epoch: int
    loss: float
    right: int
    images: int
    seconds: float
    test_right: int | None = None
    test_images: int | None = None

    @property
    def accuracy(self) -> float:
        """Return the share of validation images that were named right, in percent."""
        return 100 * self.right / self.images

    @property
    def test_accuracy(self) -> float | None:
        """Return the share of test images that were named right, in percent, None where they were not looked at."""
        return None if self.test_right is None or not self.test_images else 100 * self.test_right / self.test_images


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedJob:
    """A job that cannot go on.

    Args:
        job: its name.
        failed: why.
        epoch: in which, None where that is not known.
        loss: of that epoch, None where there is none.
    """

    job: str
    failed: str
    epoch: int | None = None
    loss: float | None = None


class Journal:
    """Results of jobs. Use as a context manager.

    Args:
        path: the SQLite file, made if it does not exist.

    Raises:
        InputFileError: the file is not a journal of a trial, or a damaged one.
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(path):
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS epochs "
                    "(job TEXT NOT NULL, epoch INTEGER NOT NULL, line TEXT NOT NULL, PRIMARY KEY (job, epoch))"
                )
                self._connection.execute("CREATE TABLE IF NOT EXISTS failed (job TEXT PRIMARY KEY, line TEXT NOT NULL)")
            except BaseException:
                self._connection.close()
                raise

    def add(self, line: object, *, where: str = "training") -> EpochResult | FailedJob:
        """Store what a training said; a line that is stored already changes nothing.

        Args:
            line: decoded JSON of `deepmad_hw.training.trainer`.
            where: it comes from, for messages.

        Raises:
            InputFileError: it is no such line.
            StorageError: the disk does not take it.
        """
        result = read_line(line, Place(where))
        text = json.dumps(plain(result))
        with _explained(self.path):
            if isinstance(result, FailedJob):
                self._connection.execute("INSERT OR REPLACE INTO failed VALUES (?, ?)", (result.job, text))
            else:
                row = (result.job, result.epoch, text)
                self._connection.execute("INSERT OR IGNORE INTO epochs VALUES (?, ?, ?)", row)
                self._connection.execute("DELETE FROM failed WHERE job = ?", (result.job,))
        return result

    def epochs(self, job: str) -> list[EpochResult]:
        """Return the stored epochs of a job in order.

        Args:
            job: its name.
        """
        return [each for each in self.results() if each.job == job]

    def results(self) -> list[EpochResult]:
        """Return all stored epochs, by job and epoch.

        Raises:
            InputFileError: a row is damaged.
        """
        found = self._read("SELECT line FROM epochs ORDER BY job, epoch")
        return [each for each in found if isinstance(each, EpochResult)]

    def failures(self) -> dict[str, str]:
        """Return why jobs failed, by job.

        Raises:
            InputFileError: a row is damaged.
        """
        found = self._read("SELECT line FROM failed ORDER BY job")
        return {each.job: each.failed for each in found if isinstance(each, FailedJob)}

    def forget_failures(self) -> None:
        """Let jobs that failed be tried again."""
        with _explained(self.path):
            self._connection.execute("DELETE FROM failed")

    def _read(self, question: str) -> Iterable[EpochResult | FailedJob]:
        with _explained(self.path):
            rows = self._connection.execute(question).fetchall()
        try:
            return [read_line(json.loads(text), Place(str(self.path))) for (text,) in rows]
        except ValueError as error:
            raise _damaged(self.path, str(error)) from error

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


def read_line(line: object, at: Place) -> EpochResult | FailedJob:
    """Return what a line of a training says.

    Args:
        line: decoded JSON.
        at: where it stands.

    Raises:
        InputFileError: it is no such line.
    """
    if isinstance(line, dict) and "failed" in line:
        kept: dict[str, Any] = {key: line[key] for key in ("job", "failed", "epoch") if key in line}
        return record(FailedJob, kept, at)
    result = record(EpochResult, line, at)
    if not result.images >= 1 or not 0 <= result.right <= result.images or result.epoch < 1:
        raise at.error(f"expected 0 to {result.images} images named right, got {result.right}")
    if result.test_right is not None and not 0 <= result.test_right <= (result.test_images or 0):
        raise at.error(f"expected 0 to {result.test_images} test images named right, got {result.test_right}")
    return result


def belongs(path: Path, work: Sequence[Job]) -> bool:
    """Return whether the first line of a packed training's results is of some jobs, by network, seed and epochs.

    Args:
        path: ``results.jsonl`` that ``python train.py`` wrote.
        work: the jobs.

    Raises:
        InputFileError: it cannot be read.
    """
    first = next((line for line in read_text(path).splitlines() if line.strip()), "")
    return bool(first) and parse_json(first, where=f"{path}:1").get("job") in {job.name for job in work}


def import_lines(path: Path, journal: Journal, work: Sequence[Job]) -> int:
    """Put the lines of a packed training into a journal; nothing is stored where one of them is wrong.

    Args:
        path: ``results.jsonl`` that ``python train.py`` wrote.
        journal: of the jobs.
        work: the jobs.

    Returns:
        How many epochs were read.

    Raises:
        InputFileError: a line that is none, or of a job that is not among them.
        StorageError: the disk does not take them.
    """
    known = {job.name: job for job in work}
    parsed = [
        (f"{path}:{number}", parse_json(text, where=f"{path}:{number}"))
        for number, text in enumerate(read_text(path).splitlines(), start=1)
        if text.strip()
    ]
    for where, line in parsed:
        result = read_line(line, Place(where))
        if result.job not in known:
            raise InputFileError(f"there is no job {result.job[:60]!r}", where=where)
        if result.epoch is not None and result.epoch > known[result.job].epochs:
            raise InputFileError(f"epoch {result.epoch} of {known[result.job].epochs}", where=where)
    return sum(isinstance(journal.add(line, where=where), EpochResult) for where, line in parsed)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says into this project's errors."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "SQLITE_ERROR") == "SQLITE_ERROR":
            raise _damaged(path, str(error)) from error
        raise StorageError(f"cannot write the journal ({error})", where=str(path)) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, detail: str) -> InputFileError:
    return InputFileError(f"the journal is damaged ({detail})", where=str(path), hint="delete it to train anew")
