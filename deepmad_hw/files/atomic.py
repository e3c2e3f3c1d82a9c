"""Writes files whole or not at all, and opens the streams that are closed. Layer 2, standard library only."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path

from deepmad_hw.errors import StorageError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, a crash or a full disk meets the old file or the new one, never a part.

    Nothing else stays behind, but for what a kill interrupts: a ``.NAME.*.tmp`` that nothing reads and may be deleted.

    Args:
        path: where; its folder must exist.
        data: the whole content.

    Raises:
        StorageError: the file could not be written (disk full, read-only, no such folder); the old one is untouched.
    """
    # The same folder, because only a rename inside one file system is atomic.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_durably(temporary, data)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"could not be written: {error.strerror or error}",
            where=str(path),
            hint="free space or choose another place with --out",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Without this the new name itself can be lost in a power cut.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_standard_streams() -> None:
    """Open the null device in place of standard input, output and error, where whoever started this closed them.

    Otherwise the next file that is opened would take the stream's number, and be written to as if it were the stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: the stream's
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
