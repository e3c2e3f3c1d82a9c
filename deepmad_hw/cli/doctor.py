"""``deepmad-hw doctor``: what is here, what is missing, what makes measurements noisy. Layer 4."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING

from deepmad_hw.cli import options, output

if TYPE_CHECKING:
    from deepmad_hw.workflows.doctor import Diagnosis


def doctor(json: options.Json = False) -> None:
    """Show what is here, what is missing, what makes measurements noisy."""
    from deepmad_hw.workflows.doctor import diagnose

    found = diagnose()
    if json:
        output.answer_json(_as_json(found))
        return
    output.table(("machine", ""), _machine(found))
    output.answer("")
    rows = [(package.name, package.version or "missing", package.role) for package in found.packages]
    output.table(("package", "version", "for"), rows)
    for package in found.missing:
        output.answer(f"\n{package.name} is missing: {package.install}")
    output.answer("\nNothing here makes measurements noisy." if not found.noise else "\nWhat makes measurements noisy:")
    for sentence in found.noise:
        output.answer(f"- {sentence}")


def _machine(found: Diagnosis) -> list[tuple[str, str]]:
    temperatures = ", ".join(f"{sensor.name} {sensor.celsius:.0f} C" for sensor in found.sensors)
    return [
        ("deepmad-hw", f"{found.version} on Python {found.python}"),
        ("system", found.system),
        ("cpu", found.cpu),
        ("cores", str(found.cores)),
        ("extensions", " ".join(found.features) or "none that matter"),
        ("governor", found.governor),
        ("load", f"{found.load:.2f}"),
        ("stolen time", "unknown" if found.stolen_share is None else f"{found.stolen_share:.2%} since boot"),
        ("gpu", ", ".join(found.gpus) or "none seen"),
        ("sensors", temperatures or "none seen"),
    ]


def _as_json(found: Diagnosis) -> dict[str, typing.Any]:
    from deepmad_hw.files.jsonfile import plain

    missing = [{"name": package.name, "install": package.install} for package in found.missing]
    return {"schema": 1, **plain(found), "missing": missing}
