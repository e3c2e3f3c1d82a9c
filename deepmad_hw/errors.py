"""Every error the project raises on purpose: one base, one child per kind of trouble. Layer 0.

Each child is also the standard-library error a caller would expect, so that ``except ValueError`` works.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection


class DeepmadError(Exception):
    """One line a person can act on: what went wrong, where, and what to do about it.

    Args:
        what: the fault, in one sentence.
        where: the place (``file:row:column``, an option, a record's field), if there is one.
        hint: what to do about it, if something can be done.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what, where, hint)

    def __reduce__(self) -> tuple[Callable[..., DeepmadError], tuple[object, ...]]:
        """Return how to make the error again: it may have happened in another process."""
        return _again, (type(self), self.what, self.where, self.hint)

    def __str__(self) -> str:
        """Return ``where: what; hint`` on one line, leaving out what is missing.

        Names and other people's messages come from outside: what a terminal would obey is written as an escape.
        """
        line = f"{self.where}: {self.what}" if self.where else self.what
        line = f"{line}; {self.hint}" if self.hint else line
        return line if line.isprintable() else "".join(map(_shown, line))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()


def _again(kind: type[DeepmadError], what: str, where: str | None, hint: str | None) -> DeepmadError:
    return kind(what, where=where, hint=hint)


class ConfigError(DeepmadError, ValueError):
    """A run was asked for in words that make no sense (option, configuration, record)."""


class InputFileError(DeepmadError, ValueError):
    """A file given by the user cannot be used."""


class NotCoveredError(DeepmadError, LookupError):
    """A latency table says nothing about a layer, and nothing is not zero."""


class InfeasibleError(DeepmadError, ValueError):
    """No design of the space keeps every limit."""


class SolverError(DeepmadError, RuntimeError):
    """A solver returned no usable point."""


class TooNoisyError(DeepmadError, RuntimeError):
    """The machine is too noisy for a number that can be trusted."""


class ForeignTableError(DeepmadError, ValueError):
    """A latency table belongs to another device, or to this one in another state."""


class MissingExtraError(DeepmadError, ImportError):
    """An optional package is not installed."""


class DeviceLostError(DeepmadError, RuntimeError):
    """The measuring process or device went away and did not come back."""


class StorageError(DeepmadError, OSError):
    """A file could not be written, most often because the disk is full."""


def known_names(name: str, known: Collection[str], *, kind: str = "expected one of") -> str:
    """Return the hint for a name that is not known: the nearest one that is, or all of them.

    Args:
        name: what was given.
        known: the names there are.
        kind: what stands before all of them.

    Example:
        >>> known_names("bottelneck", ["basic", "bottleneck"])
        "did you mean 'bottleneck'?"
    """
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"{kind} {', '.join(known)}"
