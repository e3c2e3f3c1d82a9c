"""Fills a page's template: escaped, with its own style and script by their hashes and nothing else. Layer 4."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from deepmad_hw import __version__
from deepmad_hw.workflows.report import facts


def environment() -> Environment:
    """Return the template engine, which escapes every text."""
    found = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=printable
    )
    found.filters["number"] = facts.number
    return found


def render(template: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: its file.
        values: what it shows.
    """
    style, script = resource("report.css"), resource("report.js")
    return (
        environment()
        .from_string(resource(template))
        .render(
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            style_hash=_hash(style),
            script_hash=_hash(script),
            version=__version__,
            **values,
        )
    )


def resource(name: str) -> str:
    """Return the text of a file of this package.

    Args:
        name: of the file.
    """
    return (files(__package__) / name).read_text(encoding="utf-8")


def printable(value: Any) -> Any:
    """Replace characters that no page shows and that turn the reading direction of others.

    Args:
        value: of any type; only plain texts are changed.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in value)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
