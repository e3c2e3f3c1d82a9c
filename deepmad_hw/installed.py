"""Which versions of packages are installed, for the results that depend on them. Layer 2."""

from __future__ import annotations

import functools
import importlib.metadata

SOLVING = ("numpy", "scipy", "pyomo", "casadi", "highspy")
SWEEPING = ("numpy", "scipy", "scikit-learn", "pyomo", "casadi", "highspy")


@functools.cache
def versions(packages: tuple[str, ...] = SOLVING) -> tuple[tuple[str, str], ...]:
    """Return packages with their versions.

    Args:
        packages: names of installed packages.
    """
    return tuple((package, importlib.metadata.version(package)) for package in packages)
