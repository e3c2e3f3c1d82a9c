"""Looks plug-ins up by name and imports them when they are asked for. Layer 1, standard library only."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from typing import Any

from deepmad_hw.errors import ConfigError, known_names


def require_known(name: str, known: Collection[str], *, what: str, where: str) -> None:
    """Refuse a name that is not known, with the nearest one that is.

    Args:
        name: what was asked for.
        known: the names there are.
        what: the kind of thing, for the message.
        where: the option or field, for the message.

    Raises:
        ConfigError: the name is unknown.
    """
    if name in known:
        return
    raise ConfigError(f"unknown {what} {name!r}", where=where, hint=known_names(name, known))


def load(name: str, places: Mapping[str, str], *, what: str, where: str) -> Any:
    """Return the object of a name, importing its module now.

    Args:
        name: a key of `places`.
        places: name -> ``module:attribute``.
        what: the kind of thing, for the message.
        where: the option or field, for the message.

    Raises:
        ConfigError: the name is unknown.
    """
    require_known(name, places, what=what, where=where)
    module, attribute = places[name].split(":")
    return getattr(importlib.import_module(module), attribute)
