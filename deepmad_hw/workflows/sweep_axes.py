"""From ranges to the plan of a sweep: which values walk together, and which make lines of their own. Layer 4."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from deepmad_hw import units
from deepmad_hw.errors import ConfigError
from deepmad_hw.latency import CONFIDENCE
from deepmad_hw.workflows.config import Run, load_run, parse_latency
from deepmad_hw.workflows.design import Question, load_table, with_tables
from deepmad_hw.workflows.ranges import expanded, in_unit, latencies
from deepmad_hw.workflows.sweep_plan import Asked, Plan, Settings, each_device, line

COUNTS = ("macs", "params")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranges:
    """Ranges and lists, as people write them; None or nothing leaves a value as the run file has it.

    Args:
        macs: of multiply-adds, such as ``0.5G:2G:5``.
        params: of parameters.
        memory: of activation memory.
        rho: of the largest effectiveness.
        resolution: of pixels, such as ``192,224`` or ``192x256,224``.
        latency: of budgets, by the table's path, such as ``5ms:50ms:10:log`` or ``20fps:60fps:5``.
    """

    macs: str | None = None
    params: str | None = None
    memory: str | None = None
    rho: str | None = None
    resolution: str | None = None
    latency: Mapping[str, str] = field(default_factory=dict)

    def over(self, file: Mapping[str, Any]) -> Ranges:
        """Return these ranges over those of a run file.

        Args:
            file: `Run.sweep`.
        """
        given = {name: getattr(self, name) for name in ("macs", "params", "memory", "rho", "resolution")}
        kept = {name: value for name, value in given.items() if value is not None}
        own = {Path(path).resolve() for path in self.latency}
        others = {path: text for path, text in file.get("latency", {}).items() if Path(path).resolve() not in own}
        return Ranges(**{**file, **kept, "latency": {**others, **self.latency}})


def make_plan(
    configs: Sequence[str],
    ranges: Ranges,
    *,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    overrides: Mapping[str, Any] | None = None,
    own_designs: bool = False,
    confidence: float | None = None,
    allow_uncovered: bool = False,
) -> Plan:
    """Return the points of a sweep.

    Budgets of several quantities walk together, so each has one value or as many as the longest. Run files,
    resolutions and rho make lines of their own; rho alone is walked through like a budget.

    Args:
        configs: run files or names of problems.
        ranges: over those of the run files.
        settings: of every point.
        overrides: values by dotted key over the run files'.
        own_designs: add the best designs for each device alone.
        confidence: as `with_tables`.
        allow_uncovered: as `with_tables`.

    Raises:
        ConfigError: a range makes no sense, or ranges of different lengths.
        InputFileError: a table cannot be used.
    """
    load = functools.cache(
        lambda path: load_table(path, confidence=confidence or CONFIDENCE, allow_uncovered=allow_uncovered)
    )
    lines: list[tuple[Asked, ...]] = []
    names = []
    for config in configs:
        names.append(load_run(config, overrides=overrides).problem.name)
        for group, points in _lines(config, ranges, overrides or {}):
            questions = [
                (name, _question(run, load, confidence=confidence, allow_uncovered=allow_uncovered))
                for name, run in points
            ]
            label = ", ".join(filter(None, (names[-1] if len(configs) > 1 else "", group)))
            lines.append(line(questions, group=label))
    alone = [own for shared in lines for own in each_device(shared)] if own_designs else []
    return Plan(name=" and ".join(names), lines=(*lines, *alone), settings=settings)


def _question(run: Run, load: Any, *, confidence: float | None, allow_uncovered: bool) -> Question:
    return with_tables(run, load=load, confidence=confidence, allow_uncovered=allow_uncovered)


def _lines(config: str, ranges: Ranges, overrides: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, Run]]]]:
    """Yield the lines of one run file: their group, and the name and run of each point."""
    asked = ranges.over(load_run(config, overrides=overrides).sweep)
    budgets = _together(_budgets(asked))
    rhos = expanded(asked.rho, _rho, where="--rho") if asked.rho else ("",)
    sides = tuple(asked.resolution.split(",")) if asked.resolution else ("",)
    walked, apart = (budgets, rhos) if len(budgets) > 1 else ([{**budgets[0], "rho": rho} for rho in rhos], ("",))
    for side, rho in product(sides, apart):
        group = ", ".join(
            text for text in (f"rho {rho}" if len(apart) > 1 else "", side if len(sides) > 1 else "") if text
        )
        points = []
        for values in walked:
            chosen = {**values, "rho": values.get("rho") or rho, "resolution": side}
            points.append((_name(chosen, walked), _run(config, chosen, overrides)))
        yield group, points


def _budgets(ranges: Ranges) -> dict[str, tuple[str, ...]]:
    found = {f"latency:{path}": latencies(text, where=f"--latency {path}") for path, text in ranges.latency.items()}
    for name in COUNTS:
        text = getattr(ranges, name)
        if text:
            found[name] = expanded(text, _count, show=units.format_count, where=f"--{name}")
    if ranges.memory:
        found["memory"] = expanded(ranges.memory, _bytes, show=functools.partial(in_unit, unit="B"), where="--memory")
    return found


def _together(budgets: Mapping[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """Return the values of every budget at each point."""
    count = max((len(values) for values in budgets.values()), default=1)
    for name, values in budgets.items():
        if len(values) not in (1, count):
            raise ConfigError(
                f"has {len(values)} values beside {count} of another range",
                where=name,
                hint="budgets walk together: give one value, or as many",
            )
    return [
        {name: values[position if len(values) > 1 else 0] for name, values in budgets.items()}
        for position in range(count)
    ]


def _name(chosen: Mapping[str, str], walked: Sequence[Mapping[str, str]]) -> str:
    """Return a point's name: the values that differ along its line."""
    differing = [key for key in walked[0] if len({values[key] for values in walked}) > 1]
    return "-".join(f"rho{chosen[key]}" if key == "rho" else chosen[key] for key in differing)


def _run(config: str, chosen: Mapping[str, str], overrides: Mapping[str, Any]) -> Run:
    values: dict[str, Any] = dict(overrides)
    requests = []
    for key, text in chosen.items():
        if key.startswith("latency:"):
            path = key.removeprefix("latency:")
            requests.append(parse_latency(path, text, where=f"--latency {path}"))
        elif key in COUNTS:
            values[f"limits.{key}"] = units.parse_count(text, where=f"--{key}")
        elif key == "memory":
            values["limits.memory"] = f"{units.parse_bytes(text, where='--memory')}B"
        elif key == "rho" and text:
            values["limits.rho"] = _rho(text)
        elif key == "resolution" and text:
            values["space.resolution"] = units.parse_resolution(text, where="--resolution")
    run = load_run(config, overrides=values).with_latency(requests)
    return replace(run, sweep={})


def _count(text: str) -> float:
    return units.parse_count(text, where="--macs or --params")


def _bytes(text: str) -> float:
    return units.parse_bytes(text, where="--memory")


def _rho(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{text!r} is no number above 0", where="--rho", hint="say 0.3 or 0.1:1.0:10")
    return value
