"""Loads optional packages, or says how to install them. Layer 3."""

from __future__ import annotations

import importlib
from types import ModuleType

from deepmad_hw.errors import MissingExtraError


def load(module: str, *, extra: str) -> ModuleType:
    """Import a package that an extra brings.

    Args:
        module: dotted name, such as ``safetensors.numpy``.
        extra: the extra (or several, ``cpu,torch``) that the caller's job needs.

    Raises:
        MissingExtraError: it is not installed; the message holds the exact install line.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module.split('.')[0]} is not installed", hint=f'run: pip install "deepmad-hw[{extra}]"'
        ) from error
