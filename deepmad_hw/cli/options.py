"""Options that several verbs share: their types, their help, and how their words are read. Layer 4."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepmad_hw import units
from deepmad_hw.errors import ConfigError
from deepmad_hw.problem import limits
from deepmad_hw.problem.objective import usual_gap

if TYPE_CHECKING:
    from deepmad_hw.problem.problem import Problem
    from deepmad_hw.workflows.runfile.config import LatencyRequest

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads to use.")]
Seed = Annotated[int, typer.Option(min=0, help="Start of every random choice.")]
Latency = Annotated[
    list[str],
    typer.Option(
        metavar="TABLE=BUDGET",
        help="Latency limit on a table's device: T.csv=25ms, T.csv=30fps or T.csv=like:NETWORK. Repeatable.",
    ),
]
Confidence = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT",
        help="Share of networks that keep the upper value, such as 95%; it is held against the budget. [default: 90%]",
    ),
]
AllowUncovered = Annotated[
    bool,
    typer.Option("--allow-uncovered", help="Count operations that a table has no rows of as 0 ms, and list them."),
]
Gap = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT|POINTS",
        help="Largest gap to the proved bound; points of a calibrated objective. [default: 0.5%, or 0.05 points]",
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="What is maximised: deepmad, or the file of a calibrated objective."),
]
TimeLimit = Annotated[str, typer.Option(metavar="TIME", help="Longest time to solve.")]
Grid = Annotated[str | None, typer.Option(metavar="NAME", help="Widths to choose from: default, reference or fine.")]
Resolution = Annotated[
    str | None,
    typer.Option(metavar="SIDE|HxW[,...]", help="Pixels of the image, such as 224 or 192x256; of several, the best."),
]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Replace any value of the run file, such as limits.rho=0.4."),
]


def latency_requests(texts: Sequence[str]) -> tuple[LatencyRequest, ...]:
    """Return what ``--latency`` asks for.

    Args:
        texts: the option's values.

    Raises:
        ConfigError: one of them is no table and budget.
    """
    from deepmad_hw.workflows.runfile.config import parse_latency

    parts = [text.partition("=") for text in texts]
    return tuple(parse_latency(path, budget, where="--latency") for path, _, budget in parts)


def with_limits(command: Callable[..., None], *, after: str, ranges: bool = False) -> None:
    """Give a command one option for everything that can be limited; it finds what was given among its keywords.

    Args:
        command: with ``**limits`` as its last parameter.
        after: name of the parameter behind which they stand in its help.
        ranges: whether each takes a range of values instead of one.
    """
    # The list says what can be limited; typer reads it from the signature.
    own = [
        each
        for each in inspect.signature(command, eval_str=True).parameters.values()
        if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    flags = [
        inspect.Parameter(
            quantity.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(
                    quantity.option,
                    metavar="RANGE" if ranges else "VALUE",
                    help=f"{quantity.help}, such as {quantity.examples if ranges else quantity.example}.",
                ),
            ],
        )
        for quantity in limits.QUANTITIES.values()
    ]
    place = [each.name for each in own].index(after) + 1
    command.__signature__ = inspect.Signature([*own[:place], *flags, *own[place:]])  # type: ignore[attr-defined]


def overrides(
    asked: Mapping[str, str | None] | None = None,
    *,
    grid: str | None = None,
    objective: str | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the values that flags put over a run file, by dotted key.

    Args:
        asked: limits by name, as they were typed; None where an option was not given.
        grid: value of ``--grid``.
        objective: value of ``--objective``.
        settings: values of ``--set``.

    Raises:
        ConfigError: a value has no or another unit.
    """
    found: dict[str, Any] = {}
    for name, text in (asked or {}).items():
        if text is not None:
            quantity = limits.quantity(name)
            quantity.parse(text, where=quantity.option)
            found[f"limits.{name}"] = text
    if grid is not None:
        found["grid"] = grid
    if objective is not None:
        found["objective"] = objective if objective == "deepmad" else str(Path(objective).resolve())
    return {**found, **dict(_setting(text) for text in settings)}


def gap(text: str | None, problem: Problem) -> float:
    """Return the gap at which a proof may stop: a share, or points where the objective is calibrated.

    Args:
        text: value of ``--gap``, None without the option.
        problem: what is solved.

    Raises:
        ConfigError: a share of a calibrated objective, points of a formula, or neither.
    """
    if text is None:
        return usual_gap(problem.worth)
    unit = problem.worth.unit
    if not unit:
        return units.parse_percent(text, where="--gap")
    if text.rstrip().endswith("%"):
        raise ConfigError(
            f"a calibrated objective has a unit, {unit}", where="--gap", hint="say 0.05 for a twentieth of one"
        )
    return units.parse_number(text, where="--gap")


def confidence_share(text: str | None) -> float | None:
    """Return the share that ``--confidence`` asks for, None without the option.

    Args:
        text: the option's value.

    Raises:
        ConfigError: it is no share between 0 and 100 %.
    """
    if text is None:
        return None
    share = units.parse_percent(text, where="--confidence")
    if not 0 < share < 1:
        raise ConfigError(f"expected more than 0 and less than 100 %, got {text!r}", where="--confidence")
    return share


def resolutions(text: str | None) -> list[dict[str, Any]]:
    """Return what each resolution of ``--resolution`` puts over a run file; one empty entry without the option.

    Args:
        text: the option's value.

    Raises:
        ConfigError: one of them is no resolution.
    """
    if text is None:
        return [{}]
    return [{"space.resolution": units.parse_resolution(each, where="--resolution")} for each in text.split(",")]


def words(context: typer.Context, *, but: Collection[str] = ()) -> list[str]:
    """Return the words that give a command the values that it was given, defaults among them.

    Args:
        context: of the command.
        but: names of parameters that change nothing of its results.
    """
    found: list[str] = []
    for parameter in context.command.params:
        value = None if parameter.name is None or parameter.name in but else context.params.get(parameter.name)
        values = value if isinstance(value, list | tuple) else [] if value is None else [value]
        for each in values:
            text = str(each.value if isinstance(each, enum.Enum) else each)
            if parameter.param_type_name == "argument":
                found.append(text)
            elif each is True:
                found.append(parameter.opts[0])
            elif each is not False:
                found += [parameter.opts[0], text]
    return found


def existing_folder(path: Path) -> Path:
    """Return a folder that a result is read from.

    Args:
        path: the folder.

    Raises:
        ConfigError: there is none.
    """
    if not path.is_dir():
        raise ConfigError(
            "is no folder" if path.exists() else "no such folder",
            where=str(path),
            hint="give the folder that `design --out` wrote",
        )
    return path


def new_folder(path: Path) -> Path:
    """Return a folder that a result will be written to, refused before the work rather than after it.

    Args:
        path: the folder, which need not be there yet.

    Raises:
        ConfigError: something else has that name.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError("is a file, not a folder", where=f"--out {path}", hint="give another name")
    return path


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError(f"{text!r} is no key and value", where="--set", hint="say limits.rho=0.4")
    try:
        return key, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{value!r} is no YAML value", where=f"--set {key}") from error
