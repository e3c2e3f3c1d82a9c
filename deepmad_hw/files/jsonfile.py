"""JSON files and typed records: reads with one-line errors that name the key, writes the same bytes again. Layer 2.

Standard library only. What the records mean, and how their files look, is `deepmad_hw.formats.serde`'s business.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from deepmad_hw.errors import ConfigError, InputFileError, known_names
from deepmad_hw.files.atomic import write_atomically

LARGEST_FILE_BYTES = 16 * 2**20
LARGEST_INTEGER = 2**53  # beyond it, readers that keep numbers as doubles would see another one

Json = dict[str, Any]
Record = TypeVar("Record")


def dumps(data: Json | list[Any]) -> str:
    """Return JSON text, the same for the same data: keys in their order, floats in full.

    Args:
        data: without NaN or infinity, which JSON cannot say.
    """
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, data: Json) -> None:
    """Write JSON data whole or not at all.

    Args:
        path: where.
        data: what.

    Raises:
        StorageError: the file could not be written.
    """
    write_atomically(path, dumps(data).encode())


def read_json(path: Path) -> Json:
    """Return the object of a JSON file.

    Args:
        path: the file.

    Raises:
        InputFileError: no such file, too large, no JSON, no object, a key twice, or a number that JSON cannot say.
    """
    return parse_json(read_text(path), where=str(path))


def read_text(path: Path) -> str:
    """Return the text of a file that shall be JSON.

    Args:
        path: the file.

    Raises:
        InputFileError: no such file, too large, or no text.
    """
    where = str(path)
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise InputFileError(f"larger than {LARGEST_FILE_BYTES} bytes", where=where)
        data = path.read_bytes()
    except OSError as error:
        raise InputFileError(f"cannot be read: {error.strerror or error}", where=where) from error
    return decoded(data, where=where)


def decoded(data: bytes, *, where: str) -> str:
    """Return bytes as text.

    Args:
        data: of a file.
        where: the file, for messages.

    Raises:
        InputFileError: they are no UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputFileError("is no text", where=f"{where}:{_row_and_column(data[: error.start])}") from error


def _row_and_column(before: str | bytes) -> str:
    """Return row and column, from 1, of what follows a beginning."""
    end = "\n" if isinstance(before, str) else b"\n"
    return f"{before.count(end) + 1}:{len(before) - before.rfind(end)}"  # type: ignore[arg-type]


def parse_json(text: str, *, where: str) -> Json:
    """Return the object of a JSON text.

    Args:
        text: the text.
        where: the file it came from, for messages.

    Raises:
        InputFileError: as `read_json`.
    """
    try:
        data = json.loads(
            text,
            object_pairs_hook=_no_twins,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_exact_integer,
        )
    except json.JSONDecodeError as error:
        raise InputFileError(f"is no JSON: {error.msg}", where=f"{where}:{error.lineno}:{error.colno}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        culprit = error.culprit if isinstance(error, _RefusedError) else ""
        found = max(text.rfind(culprit), 0) if culprit else 0
        raise InputFileError(reason, where=f"{where}:{_row_and_column(text[:found])}") from error
    if not isinstance(data, dict):
        raise InputFileError(f"expected an object, got {kind_of(data)}", where=f"{where}:1:1")
    return data


def plain(value: Any) -> Any:
    """Return records as objects and tuples as lists, all the way down; a square resolution becomes one number.

    A field whose metadata have ``left_out`` is left out where it has that value: files from before it have no such key.

    Args:
        value: a record, a tuple or a plain value.
    """
    if dataclasses.is_dataclass(value):
        fields = {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if "left_out" not in field.metadata or getattr(value, field.name) != field.metadata["left_out"]
        }
        if "resolution" in fields and fields["resolution"][0] == fields["resolution"][1]:
            fields["resolution"] = fields["resolution"][0]
        return fields
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, for messages.

    Args:
        file: the file, or whatever the data came from.
        path: keys and positions down to the value, such as ``stages[1].out``.
        text: the file's text, for row and column in messages; without it they name the file only.
    """

    file: str
    path: str = ""
    text: str | None = None

    def key(self, name: str) -> Place:
        """Return the place of a key of the object here."""
        return Place(self.file, f"{self.path}.{name}" if self.path else name, self.text)

    def index(self, position: int) -> Place:
        """Return the place of an item of the list here."""
        return Place(self.file, f"{self.path}[{position}]", self.text)

    @property
    def where(self) -> str:
        """Return the file, with row and column where its text is known."""
        if self.text is None:
            return self.file
        return f"{self.file}:{_row_and_column(self.text[: offset_of(self.text, self.path)])}"

    def error(self, what: str, *, hint: str | None = None) -> InputFileError:
        """Return the error that says what is wrong here."""
        return InputFileError(f"{self.path}: {what}" if self.path else what, where=self.where, hint=hint)


def offset_of(text: str, path: str) -> int:
    """Return where a value begins in a JSON text; for a key that is missing, where its object begins.

    Args:
        text: of valid JSON.
        path: keys and positions, such as ``stages[1].out``.
    """
    steps = [int(digits) if digits else name for name, digits in _STEP.findall(path)]
    at = _after_space(text, 0)
    for step in steps:
        inner = dict(_items(text, at))
        if step not in inner:
            break
        at = inner[step]
    return at


_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _items(text: str, at: int) -> Iterator[tuple[str | int, int]]:
    """Yield each key or position of the object or list at an offset, with the offset of its value."""
    closing = {"{": "}", "[": "]"}.get(text[at : at + 1])
    if closing is None:
        return
    position = 0
    at = _after_space(text, at + 1)
    while text[at] != closing:
        step: str | int = position
        if closing == "}":
            step, at = _DECODER.raw_decode(text, at)
            at = _after_space(text, _after_space(text, at) + 1)  # past the colon
        yield step, at
        position += 1
        at = _after_space(text, _DECODER.raw_decode(text, at)[1])
        if text[at] == ",":
            at = _after_space(text, at + 1)


def versioned(data: object, at: Place, *, schema: int, oldest: int | None = None) -> Json:
    """Return an object's fields without its schema version, which must be one that is read.

    Args:
        data: the object.
        at: where it stands.
        schema: the newest version this program reads.
        oldest: the oldest one; None where that is the newest one.

    Raises:
        InputFileError: no object, no version, or another version.
    """
    if not isinstance(data, dict):
        raise at.error(f"expected an object, got {kind_of(data)}")
    fields = dict(data)
    version = fields.pop("schema", None)
    if not isinstance(version, int) or isinstance(version, bool):
        raise at.key("schema").error(f"expected a version number, got {kind_of(version)}")
    if version > schema:
        raise at.key("schema").error(
            f"{version} is too new, this program reads {schema}", hint="use a newer deepmad-hw"
        )
    if version < (schema if oldest is None else oldest):
        raise at.key("schema").error(f"{version} is too old, this program reads {schema}", hint="make the file anew")
    return fields


def require_keys(fields: Mapping[str, Any], known: Sequence[str], at: Place, *, optional: Sequence[str] = ()) -> None:
    """Refuse an object with a key too many or too few.

    Args:
        fields: the object.
        known: keys it may have.
        at: where it stands.
        optional: those of them that it may lack.

    Raises:
        InputFileError: naming the key.
    """
    for key in fields:
        if key not in known:
            raise at.key(key).error("unknown key", hint=known_names(key, known, kind="known here:"))
    for key in known:
        if key not in fields and key not in optional:
            raise at.key(key).error("missing")


def record(kind: type[Record], data: object, at: Place) -> Record:
    """Return the record of a class from an object with its fields; fields with a default may be left out.

    Args:
        kind: a dataclass whose fields are numbers, texts, records, tuples of them, or None.
        data: the object.
        at: where it stands.

    Raises:
        InputFileError: naming the key that is unknown, missing or refused.
    """
    if not isinstance(data, dict):
        raise at.error(f"expected an object, got {kind_of(data)}")
    fields = dataclasses.fields(typing.cast(Any, kind))
    optional = [field.name for field in fields if field.default is not dataclasses.MISSING]
    require_keys(data, [field.name for field in fields], at, optional=optional)
    hints = _hints(typing.cast(Hashable, kind))
    values = {key: typed(hints[key], _widened(key, item), at.key(key)) for key, item in data.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        # A record names its own field ("stage.out"); the file's path to it says more.
        place = at.key(error.where.rpartition(".")[2]) if error.where else at
        raise place.error(error.what, hint=error.hint) from error


@functools.cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _widened(key: str, item: object) -> object:
    return [item, item] if key == "resolution" and isinstance(item, int) else item


def typed(hint: Any, item: object, at: Place) -> Any:
    """Return a value as its type hint wants it.

    Args:
        hint: a plain type, a record's class, a tuple, a dict from text, or one of these or None.
        item: what `json` read.
        at: where it stands.

    Raises:
        InputFileError: the value is of another kind.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (option for option in typing.get_args(hint) if option is not type(None))
        return None if item is None else typed(inner, item, at)
    if origin is tuple:
        return _tuple(typing.get_args(hint), item, at)
    if origin is dict:
        return _mapping(typing.get_args(hint)[1], item, at)
    if dataclasses.is_dataclass(hint):
        return record(typing.cast(type[Any], hint), item, at)
    accepted = (int, float) if hint is float else (hint,)
    if hint is not Any and (not isinstance(item, accepted) or (isinstance(item, bool) and hint is not bool)):
        raise at.error(f"expected {_NAMES[hint]}, got {kind_of(item)}")
    return item


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _tuple(arguments: tuple[Any, ...], item: object, at: Place) -> tuple[Any, ...]:
    if not isinstance(item, list):
        raise at.error(f"expected a list, got {kind_of(item)}")
    hints = [arguments[0]] * len(item) if arguments[-1] is Ellipsis else list(arguments)
    if len(hints) != len(item):
        raise at.error(f"expected {len(hints)} values, got {len(item)}")
    return tuple(typed(hint, each, at.index(i)) for i, (hint, each) in enumerate(zip(hints, item, strict=True)))


def _mapping(hint: Any, item: object, at: Place) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise at.error(f"expected an object, got {kind_of(item)}")
    return {key: typed(hint, each, at.key(key)) for key, each in item.items()}


def kind_of(item: object) -> str:
    """Return what a value of JSON is, in words short enough for a message.

    Args:
        item: the value.
    """
    if isinstance(item, dict | list):
        return "an object" if isinstance(item, dict) else "a list"
    shown = json.dumps(item, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


class _RefusedError(ValueError):
    """A value that JSON's grammar lets through and this project does not; `culprit` is how it is written."""

    def __init__(self, what: str, culprit: str) -> None:
        super().__init__(what)
        self.culprit = culprit


def _no_twins(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise _RefusedError(f"key {twin!r} stands twice in one object", f'"{twin}"')
    return found


def _no_constant(name: str) -> float:
    raise _RefusedError(f"{name} is no number of JSON", name)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _RefusedError(f"{digits[:20]} is too large a number", digits)
    return number


def _exact_integer(digits: str) -> int:
    if len(digits) > len(str(LARGEST_INTEGER)) + 1 or abs(int(digits)) > LARGEST_INTEGER:
        raise _RefusedError(f"the whole number {digits[:20]} is beyond 2^53", digits)
    return int(digits)
