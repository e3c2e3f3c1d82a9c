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
from deepmad_hw.latency.model import CONFIDENCE
from deepmad_hw.problem import limits
from deepmad_hw.problem.problem import latency_name, table_of
from deepmad_hw.problem.settings import Settings
from deepmad_hw.workflows.design.design import Question, load_table, with_tables
from deepmad_hw.workflows.runfile.config import Run, load_run, parse_latency
from deepmad_hw.workflows.runfile.ranges import expanded, latencies
from deepmad_hw.workflows.sweep.sweep_plan import Asked, Plan, each_device, line


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranges:
    """Ranges and lists, as people write them; None or nothing leaves a value as the run file has it.

    Args:
        limits: of what can be limited, by name, such as ``{"macs": "0.5G:2G:5", "rho": "0.3"}``.
        resolution: of pixels, such as ``192,224`` or ``192x256,224``.
        latency: of budgets, by the table's path, such as ``5ms:50ms:10:log`` or ``20fps:60fps:5``.
    """

    limits: Mapping[str, str] = field(default_factory=dict)
    resolution: str | None = None
    latency: Mapping[str, str] = field(default_factory=dict)

    def over(self, file: Mapping[str, Any]) -> Ranges:
        """Return these ranges over those of a run file.

        Args:
            file: `Run.sweep`.
        """
        own = {Path(path).resolve() for path in self.latency}
        others = {path: text for path, text in file.get("latency", {}).items() if Path(path).resolve() not in own}
        limits = {name: text for name, text in file.items() if name not in ("latency", "resolution")}
        return Ranges(
            limits={**limits, **self.limits},
            resolution=self.resolution or file.get("resolution"),
            latency={**others, **self.latency},
        )


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
    budgets, apart = _together(_budgets(asked)), _apart(asked)
    sides = tuple(asked.resolution.split(",")) if asked.resolution else ("",)
    walked, apart = (budgets, apart) if len(budgets) > 1 else ([{**budgets[0], **each} for each in apart], [{}])
    for side, each in product(sides, apart):
        own = [f"{name} {text}" for name, text in each.items()] if len(apart) > 1 else []
        group = ", ".join([*own, side] if len(sides) > 1 else own)
        points = []
        for values in walked:
            chosen = {**values, **each, "resolution": side}
            points.append((_name(chosen, walked), _run(config, chosen, overrides)))
        yield group, points


def _budgets(ranges: Ranges) -> dict[str, tuple[str, ...]]:
    """Return the values of the budgets: a larger one is never worth less."""
    found = {latency_name(path): latencies(text, where=f"--latency {path}") for path, text in ranges.latency.items()}
    return {**found, **{name: _values(name, text) for name, text in ranges.limits.items() if _is_budget(name)}}


def _apart(ranges: Ranges) -> list[dict[str, str]]:
    """Return the values of the limits that make lines of their own."""
    names = [name for name in ranges.limits if not _is_budget(name)]
    values = product(*(_values(name, ranges.limits[name]) for name in names))
    return [dict(zip(names, each, strict=True)) for each in values]


def _is_budget(name: str) -> bool:
    return limits.quantity(name).budget


def _values(name: str, text: str) -> tuple[str, ...]:
    known = limits.quantity(name)
    return expanded(text, lambda value: known.parse(value, where=known.option), show=known.exact, where=known.option)


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
    return "-".join(
        chosen[key] if table_of(key) is not None or _is_budget(key) else f"{key}{chosen[key]}" for key in differing
    )


def _run(config: str, chosen: Mapping[str, str], overrides: Mapping[str, Any]) -> Run:
    values: dict[str, Any] = dict(overrides)
    requests = []
    for key, text in chosen.items():
        path = table_of(key)
        if path is not None:
            requests.append(parse_latency(path, text, where=f"--latency {path}"))
        elif key == "resolution":
            values.update({"space.resolution": units.parse_resolution(text, where="--resolution")} if text else {})
        else:
            known = limits.quantity(key)
            known.parse(text, where=known.option)
            values[f"limits.{key}"] = text
    run = load_run(config, overrides=values).with_latency(requests)
    return replace(run, sweep={})
