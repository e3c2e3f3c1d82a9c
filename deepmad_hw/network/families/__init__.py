"""Block families by name: what a block is made of. Layer 2.

A new family is one file here and one line in `_FAMILIES`.
"""

from __future__ import annotations

from deepmad_hw import registry
from deepmad_hw.errors import ConfigError
from deepmad_hw.network.families.base import Family

_FAMILIES = {
    "bottleneck": "deepmad_hw.network.families.bottleneck:FAMILY",
    "basic": "deepmad_hw.network.families.basic:FAMILY",
    "mbconv": "deepmad_hw.network.families.mbconv:PLAIN",
    "mbconv_se": "deepmad_hw.network.families.mbconv:SQUEEZE_EXCITE",
}


def names() -> tuple[str, ...]:
    """Return the names of all families."""
    return tuple(_FAMILIES)


def get(name: str) -> Family:
    """Return the family called `name`.

    Args:
        name: one of `names()`.

    Raises:
        ConfigError: there is no such family.
    """
    family: Family = registry.load(name, _FAMILIES, what="block family", where="family")
    return family


def resolve_activation(family: Family, activation: str | None) -> str:
    """Return the activation a network of `family` uses.

    Args:
        family: the block family.
        activation: what was asked for; None takes the family's own.

    Raises:
        ConfigError: the family does not use that activation.
    """
    if activation is None:
        return family.activations[0]
    if activation not in family.activations:
        raise ConfigError(
            f"family {family.name!r} has no activation {activation!r}",
            where="activation",
            hint=f"expected one of {', '.join(family.activations)}",
        )
    return activation
