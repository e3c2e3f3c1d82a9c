"""The one way in for ONNX files: `onnx_guard`, in a process of its own, sees them before anything else. Layer 3.

Weights in other files are read here, if they lie beneath the model's folder and no link is on the way; the guard, and
everything behind it, sees a model that is complete in itself.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from deepmad_hw.errors import InputFileError
from deepmad_hw.exporters.onnx_guard import JUDGE, RUN
from deepmad_hw.exporters.onnx_inputs import packed_values
from deepmad_hw.exporters.onnx_plain import tensors_of

LARGEST_FILE_BYTES = 2**31 - 1  # one protobuf message holds no more
LONGEST_WAIT_S = 600.0
RUN_SECONDS = 60  # of processor time, for the one run of a model
MODULE = "deepmad_hw.exporters.onnx_guard"  # what the child runs


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorKind:
    """Size and type of a tensor.

    Args:
        value_type: as in `onnx.TensorProto`.
        shape: all of its sizes.
    """

    value_type: int
    shape: tuple[int, ...]


def read_model(path: Path) -> Any:
    """Return the model of a file that may be loaded, complete in itself.

    Args:
        path: an ONNX file; of other files only those beneath its folder that hold its weights are opened.

    Returns:
        An `onnx.ModelProto` whose weights are all inside.

    Raises:
        InputFileError: it cannot be read, is no ONNX model, points to files elsewhere, or asks for what no network
            needs.
    """
    data = read_bytes(path)
    return onnx.load_model_from_string(data)


def read_bytes(path: Path) -> bytes:
    """Return a model like `read_model`, as the bytes of a file.

    Args:
        path: an ONNX file.

    Raises:
        InputFileError: as `read_model`.
    """
    where = str(path)
    data = _bytes_of(path)
    external = _judged(data, where)["external"]
    if not external:
        return data
    completed = _completed(data, path.parent, external, where=where)
    _judged(completed, where)
    return completed


def run_once(data: bytes, values: Mapping[str, NDArray[Any]], *, where: str) -> dict[str, TensorKind]:
    """Return size and type of a model's tensors, as far as they are known or one run of it shows them.

    Without ONNX Runtime it is not run.

    Args:
        data: a model of `read_bytes`.
        values: of every input.
        where: its file, for errors.

    Raises:
        InputFileError: the runtime cannot load or run it within the limits.
    """
    answer = _answer(RUN, data, packed_values(values))
    _require_passed(answer, where)
    return {name: TensorKind(value_type=kind, shape=tuple(shape)) for name, (kind, shape) in answer["tensors"].items()}


def _bytes_of(path: Path) -> bytes:
    where = str(path)
    try:
        if path.exists() and not path.is_file():
            raise InputFileError("cannot be read: is no file", where=where)
        size_bytes = path.stat().st_size
        if size_bytes > LARGEST_FILE_BYTES:
            raise InputFileError(f"{size_bytes / 1e9:.1f} GB is more than one ONNX file holds", where=where)
        return path.read_bytes()
    except OSError as error:
        raise InputFileError(f"cannot be read: {error.strerror or error}", where=where) from error


# --- asking the guard ---------------------------------------------------------------------------------------------


def _judged(data: bytes, where: str) -> dict[str, Any]:
    answer = _judgement(data)
    _require_passed(answer, where)
    return answer


@functools.lru_cache(maxsize=4)  # several readers look at one file in turn
def _judgement(data: bytes) -> dict[str, Any]:
    return _answer(JUDGE, data)


def _require_passed(answer: Mapping[str, Any], where: str) -> None:
    if "refused" in answer:
        what, hint = answer["refused"]
        raise InputFileError(what, where=where, hint=hint or None)


def _answer(task: str, data: bytes, feed: bytes = b"") -> dict[str, Any]:
    """Return what a child says of a model."""
    command = [sys.executable, "-P", "-m", MODULE]  # -P: a folder's own onnx.py is not ours
    header = json.dumps({"task": task, "feed_bytes": len(feed), "run_seconds": RUN_SECONDS}).encode() + b"\n"
    verb = "run" if task == RUN else "checked"
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, this package, no shell
            command, input=b"".join((header, feed, data)), capture_output=True, timeout=LONGEST_WAIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"refused": [f"could not be {verb} in time", ""]}
    if done.returncode == -signal.SIGXCPU:
        return {"refused": [f"could not be {verb}: it took too long", ""]}
    if done.returncode:
        return {"refused": [f"could not be {verb}: it crashed, or asked for too much memory", ""]}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# --- weights in other files ---------------------------------------------------------------------------------------


def _completed(data: bytes, folder: Path, external: Sequence[Sequence[Any]], *, where: str) -> bytes:
    """Return a judged model with the weights that lie in files beneath a folder."""
    total_bytes = len(data) + sum(length for _, _, length in external)
    if total_bytes > LARGEST_FILE_BYTES:
        raise InputFileError(f"has {total_bytes / 1e9:.1f} GB of weights, more than is read at once", where=where)
    model = onnx.load_model_from_string(data)
    tensors = [tensor for tensor in tensors_of(model) if tensor.data_location == TensorProto.EXTERNAL]
    with _OpenFiles(folder, where=where) as files:
        for tensor, (location, offset, length) in zip(tensors, external, strict=True):
            tensor.raw_data = files.read(location, offset, length)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    completed: bytes = model.SerializeToString()
    return completed


class _OpenFiles:
    """The files beneath a folder that weights were read from."""

    def __init__(self, folder: Path, *, where: str) -> None:
        self._folder, self._where = folder, where
        self._files: dict[str, int] = {}

    def read(self, location: str, offset: int, length: int) -> bytes:
        file = self._files[location] if location in self._files else self._opened(location)
        data = os.pread(file, length, offset)
        if len(data) != length:
            raise self._error(f"ends before its weights do: {location[:60]!r}")
        return data

    def _opened(self, location: str) -> int:
        parts = PurePosixPath(location).parts
        if not parts or "\0" in location or location.startswith("/") or ".." in parts:
            raise self._error(f"keeps weights outside its folder, which is not opened: {location[:60]!r}")
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            # Looked at before it is opened: opening a pipe waits, and a hard link is a file of somewhere else.
            self._require_plain(os.stat(parts[-1], dir_fd=descriptor, follow_symlinks=False), location)
            file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
        except OSError as error:
            raise self._error(f"its weights in {location[:60]!r} cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)
        self._files[location] = file
        self._require_plain(os.fstat(file), location)
        return file

    def _require_plain(self, found: os.stat_result, location: str) -> None:
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise self._error(f"keeps weights in something else than a plain file: {location[:60]!r}")

    def _error(self, what: str) -> InputFileError:
        hint = "copy the file beside the model; links are not followed"
        return InputFileError(what, where=self._where, hint=hint)

    def __enter__(self) -> _OpenFiles:
        return self

    def __exit__(self, *error: object) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
