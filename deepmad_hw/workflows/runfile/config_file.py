"""A YAML file that remembers where everything stands, so that a mistake can be shown to the column. Layer 4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from deepmad_hw.errors import ConfigError

LARGEST_FILE_BYTES = 2**20
MOST_NODES = 20_000  # of a file with its aliases written out; a real one has a few hundred

Location = tuple[str | int, ...]


class Document:
    """The data of a YAML file with some values replaced, and the place of each in the file.

    Args:
        path: the file.
        overrides: values by dotted key (``limits.macs``, ``stages.0.depth``) that replace the file's.

    Raises:
        ConfigError: the file is no YAML mapping, too large, or has a key twice; or an override has no place in it.
    """

    def __init__(self, path: Path, overrides: Mapping[str, Any]) -> None:
        self.path = path
        self.data, self._root = _parse(path)
        self._overrides = tuple(tuple(key.split(".")) for key in overrides)
        for key, value in overrides.items():
            put(self.data, key, value)

    @contextmanager
    def at(self, *location: str | int) -> Iterator[None]:
        """Give a record's refusal its place in the file.

        Args:
            location: keys and positions down to what the record was made of.
        """
        try:
            yield
        except ConfigError as error:
            inner = tuple(error.where.split(".")) if error.where else ()
            deeper = location + inner
            found = deeper if self._known_part(deeper) == deeper else location
            raise self.error(found, error.what, hint=error.hint) from error

    def error(self, location: Location, what: str, *, hint: str | None = None, key: str | None = None) -> ConfigError:
        """Return the error that points to a place in the file, or to the flag that replaced it.

        Args:
            location: keys and positions down to the value.
            what: the fault.
            hint: what to do about it.
            key: a key of the mapping there, if that is what is wrong.
        """
        known = self._known_part(location)
        shown = _dotted(known if key is None else (*known, key))
        fault = f"{shown}: {what}" if shown else what
        texts = tuple(str(part) for part in (*location, *([] if key is None else [key])))
        if any(texts[: len(flag)] == flag for flag in self._overrides):
            return ConfigError(fault, hint=hint)
        mark = _mark(_descend(self._root, known), key)
        return ConfigError(fault, where=f"{self.path}:{mark.line + 1}:{mark.column + 1}", hint=hint)

    def _known_part(self, location: Location) -> Location:
        """Return a location without the steps that the data don't have, such as a validator's own."""
        data: Any = self.data
        known = []
        for part in location:
            with suppress(KeyError, IndexError, TypeError, ValueError):
                data = data[int(part)] if isinstance(data, list) else data[part]
                known.append(part)
        return tuple(known)


def _parse(path: Path) -> tuple[dict[str, Any], yaml.Node]:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ConfigError(f"larger than {LARGEST_FILE_BYTES} bytes", where=str(path))
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"cannot be read: {reason}", where=str(path)) from error
    try:
        _require_short(text, path)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(root, yaml.MappingNode):
            _require_small(root, path)
        data = _unshared(yaml.safe_load(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"is no YAML: {error.problem or error.context}", where=where) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise ConfigError(f"is no YAML: {reason}", where=str(path)) from error
    if not isinstance(data, dict) or root is None:
        raise ConfigError("expected keys and values, as in configs/README.md", where=str(path))
    return data, root


def _unshared(data: Any) -> Any:
    """Return data whose aliases are copies, so that a value replaced in one place stays as it was in the other."""
    if isinstance(data, dict):
        return {key: _unshared(value) for key, value in data.items()}
    return [_unshared(value) for value in data] if isinstance(data, list) else data


def _require_short(text: str, path: Path) -> None:
    """Refuse a file of far too many values after a look at its beginning, with a parser many times as fast."""
    with suppress(yaml.YAMLError):  # what is wrong is said when the file is read
        for count, _ in enumerate(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
            if count > 2 * MOST_NODES + 4:  # a value is two events at most, and so are the document and the file
                raise _too_many(path)


def _too_many(path: Path) -> ConfigError:
    return ConfigError(f"holds more than {MOST_NODES} values, aliases written out", where=str(path))


def _require_small(root: yaml.Node, path: Path) -> None:
    """Refuse files whose aliases stand for far more than they show, and keys that stand twice."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, inside: frozenset[int]) -> int:
        if id(node) in inside:
            raise ConfigError("an alias contains itself", where=_position(path, node))
        if id(node) not in sizes:
            sizes[id(node)] = 1 + sum(size(child, inside | {id(node)}) for child in _children(node, path))
        return sizes[id(node)]

    if size(root, frozenset()) > MOST_NODES:
        raise _too_many(path)


def _children(node: yaml.Node, path: Path) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise ConfigError(f"key {key.value!r} stands twice", where=_position(path, key))
        seen.add(str(key.value))
    return [child for pair in node.value for child in pair]


def _position(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _descend(root: yaml.Node, location: Location) -> yaml.Node:
    """Return the node at a location, or the last one on the way there."""
    node = root
    for part in location:
        if isinstance(node, yaml.SequenceNode) and int(part) < len(node.value):
            node = node.value[int(part)]
        elif isinstance(node, yaml.MappingNode):
            matching = [value for key, value in node.value if key.value == str(part)]
            if not matching:
                return node
            node = matching[0]
    return node


def _mark(node: yaml.Node, key: str | None) -> yaml.Mark:
    named = node.value if key is not None and isinstance(node, yaml.MappingNode) else []
    starts: list[yaml.Mark] = [found.start_mark for found, _ in named if found.value == key]
    return starts[0] if starts else node.start_mark


def _dotted(location: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def put(data: Any, dotted: str, value: Any) -> None:
    """Set a value by its dotted key, making the mappings on the way.

    Args:
        data: what a file held, changed in place.
        dotted: such as ``space.stages.0.depth``.
        value: the new value.

    Raises:
        ConfigError: the key has no place in the data.
    """
    *path, last = dotted.split(".")
    for part in path:
        data = data[_index(data, part, dotted)] if isinstance(data, list) else _child(data, part, dotted)
    if isinstance(data, list):
        data[_index(data, last, dotted)] = value
    else:
        _require_mapping(data, dotted)[last] = value


def _child(data: Any, part: str, dotted: str) -> Any:
    mapping = _require_mapping(data, dotted)
    if mapping.get(part) is None:
        mapping[part] = {}
    return mapping[part]


def _require_mapping(data: Any, dotted: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError("has no place in the run file", where=dotted)
    return data


def _index(data: list[Any], part: str, dotted: str) -> int:
    if not part.isdecimal() or int(part) >= len(data):
        raise ConfigError(f"expected a position from 0 to {len(data) - 1}, got {part!r}", where=dotted)
    return int(part)
