"""Run files: YAML becomes a problem, and every mistake in it one line with file, row and column. Layer 4.

The schema is the pydantic models below; configs/README.md explains it to people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from deepmad_hw import units
from deepmad_hw.errors import ConfigError, InputFileError, known_names
from deepmad_hw.files.jsonfile import read_json
from deepmad_hw.formats import serde
from deepmad_hw.network import families
from deepmad_hw.network.architecture import MOST_BLOCKS, Head
from deepmad_hw.network.families.base import Family
from deepmad_hw.problem import limits
from deepmad_hw.problem.objective import PENALTIES, PENALTY_WEIGHT, Objective
from deepmad_hw.problem.problem import Limits, Problem
from deepmad_hw.problem.space import Space, StageSpace, geometric_grid, linear_grid
from deepmad_hw.workflows.runfile.config_file import Document, put

GRIDS = {"default": math.sqrt(1.25), "reference": 1.25, "fine": 1.0}  # ratio of two steps; 1 is every multiple
SMALLEST_RATIO = 1.01
LARGEST_WIDTH = 65_536
DEFAULT_STEP = 8
DEFAULT_DEPTH = 20
DEFAULT_KERNELS = [3, 5]


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyRequest:
    """A latency limit as a person states it; the table turns it into milliseconds.

    Args:
        path: of the table.
        budget_ms: the budget, or None.
        rate_per_s: images per second at the table's batch, or None.
        like: path of a network whose latency is the budget, or None.
    """

    path: Path
    budget_ms: float | None = None
    rate_per_s: float | None = None
    like: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a run file and the flags over it ask for.

    Args:
        problem: everything but the latency limits, which need their tables.
        latency: those.
        sweep: ranges of the values that a sweep walks through, by option: ``macs``, ``rho``, ``resolution``,
            ``latency`` with a range per table's path, and the like.
    """

    problem: Problem
    latency: tuple[LatencyRequest, ...] = ()
    sweep: Mapping[str, Any] = field(default_factory=dict)

    def with_latency(self, requests: Sequence[LatencyRequest]) -> Run:
        """Return the run with more latency limits; one on the same table replaces the file's.

        Args:
            requests: what the flags ask for.
        """
        asked = [request.path.resolve() for request in requests]
        kept = [request for request in self.latency if request.path.resolve() not in asked]
        return replace(self, latency=(*kept, *requests))


def config_folder() -> Path:
    """Return the folder of the named problems: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def problem_names() -> tuple[str, ...]:
    """Return the names of the problems that come with the project, ascending."""
    return tuple(sorted(path.stem for path in config_folder().glob("*.yaml")))


def load_problem(name_or_path: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Problem:
    """Return the problem of a run file.

    Args:
        name_or_path: one of `problem_names()`, a YAML file, or a ``problem.json`` stored beside a result.
        overrides: values by dotted key (``limits.macs``, ``space.stages.0.depth``) that replace the file's.

    Raises:
        ConfigError: no such problem, a mistake in it, or limits that need a table: those are `load_run`'s.
    """
    run = load_run(name_or_path, overrides=overrides)
    if run.latency:
        raise ConfigError("has latency limits, which need their tables", where=str(name_or_path), hint="use load_run")
    return run.problem


def load_run(name_or_path: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Run:
    """Return the problem of a run file and the latency limits it asks for.

    Args:
        name_or_path: one of `problem_names()`, a YAML file, or a ``problem.json`` stored beside a result.
        overrides: values by dotted key (``limits.macs``, ``space.stages.0.depth``) that replace the file's.

    Raises:
        ConfigError: no such problem, or a mistake in it.
        InputFileError: a ``problem.json`` that cannot be used.
    """
    path = find(name_or_path)
    if path.suffix == ".json":
        return _stored_run(path, overrides or {})
    document = Document(path, overrides or {})
    try:
        config = _Config.model_validate(document.data)
    except ValidationError as error:
        first, *others = error.errors()
        raise _refusal(first, document, more=len(others)) from error
    return _run(config, document)


def find(name_or_path: str | Path) -> Path:
    """Return the file of a named problem, or the file itself.

    Args:
        name_or_path: one of `problem_names()`, or a path.

    Raises:
        ConfigError: neither.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_file():
        return path
    if name in problem_names():
        return config_folder() / f"{name}.yaml"
    if path.suffix in (".yaml", ".yml", ".json") or len(path.parts) > 1:
        raise ConfigError("no such file", where=name, hint=f"named problems: {', '.join(problem_names())}")
    hint = known_names(name, problem_names(), kind="named problems:")
    raise ConfigError(f"no problem and no file is called {name!r}", hint=hint)


def parse_latency(path: str, budget: str, *, where: str, folder: Path | None = None) -> LatencyRequest:
    """Return what ``TABLE=25ms``, ``TABLE=400/s``, ``TABLE=30fps`` or ``TABLE=like:model.onnx`` asks for.

    Args:
        path: of the table.
        budget: what follows the equals sign.
        where: the option or key, for messages.
        folder: that relative paths start from; None means the working folder.

    Raises:
        ConfigError: no table, or the budget is none of these.
    """
    if not path or not budget:
        raise ConfigError("expected a table and its budget", where=where, hint="say TABLE.csv=25ms")
    base = folder or Path()
    if budget.startswith("like:") and len(budget) > len("like:"):
        like = budget.removeprefix("like:")  # a file, or the name of a reference network
        return LatencyRequest(path=base / path, like=base / like if (base / like).exists() else Path(like))
    if budget.rstrip().endswith(units.RATES):
        return LatencyRequest(path=base / path, rate_per_s=units.parse_rate_per_s(budget, where=where))
    return LatencyRequest(path=base / path, budget_ms=units.parse_time_ms(budget, where=where))


class _Section(BaseModel):
    """What every part of a run file has in common: no unknown key, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _know_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise PydanticCustomError("section", "expected {keys}", {"keys": f"keys: {', '.join(cls.model_fields)}"})
        for key in data:
            if key not in cls.model_fields:
                hint = known_names(str(key), cls.model_fields, kind="known here:")
                raise PydanticCustomError("unknown_key", "unknown key", {"key": str(key), "hint": hint})
        return data


def _listed(length: int) -> BeforeValidator:
    """Let one whole number stand for a list of it."""
    return BeforeValidator(lambda item: [item] * length if type(item) is int else item)


def _widths_form(item: Any) -> Any:
    """Let one width, or a list of them, stand for ``{values: [...]}``."""
    values = [item] if type(item) is int else item
    return {"values": values} if isinstance(values, list) else values


def _grid_form(item: Any) -> Any:
    """Let a grid's name stand for its ratio."""
    if not isinstance(item, str):
        return item
    if item not in GRIDS:
        raise ConfigError(f"unknown grid {item!r}", hint=f"say {', '.join(GRIDS)}, or a ratio and a step")
    return {"ratio": GRIDS[item]}


def _limit(name: str, item: Any) -> Any:
    """Return the value of a limit, which people write as text with its unit, or as a number where it has none."""
    quantity = limits.quantity(name)
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        raise ConfigError(f"expected a value such as {quantity.example}, got {item!r:.60}")
    return quantity.parse(str(item), where="")


_Width = Annotated[int, Field(ge=1, le=LARGEST_WIDTH)]
_End = Annotated[float, Field(gt=0, le=LARGEST_WIDTH)]
_Ratio = Annotated[float, Field(ge=1, le=100)]
_Step = Annotated[int, Field(ge=1, le=1024)]
_Kernel = Annotated[int, Field(ge=1, le=31)]
_Kernels = Annotated[list[_Kernel], Field(min_length=1, max_length=16), _listed(1)]
_Pair = Annotated[list[Annotated[int, Field(ge=1, le=LARGEST_WIDTH)]], Field(min_length=2, max_length=2), _listed(2)]
_RatioPair = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]


class _Grid(_Section):
    ratio: _Ratio = GRIDS["default"]
    step: _Step = DEFAULT_STEP


class _Widths(_Section):
    values: Annotated[list[_Width], Field(min_length=1, max_length=LARGEST_WIDTH)] | None = None
    min: _End | None = None
    max: _End | None = None
    ratio: _Ratio | None = None
    step: _Step | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        walked = self.min is not None and self.max is not None
        given = any(end is not None for end in (self.min, self.max, self.ratio, self.step))
        if (self.values is None) != walked or (self.values is not None and given):
            raise ConfigError("expected a list of widths or {min, max}", hint="say [16, 24, 32] or {min: 16, max: 96}")
        return self


_Grids = Annotated[_Widths, BeforeValidator(_widths_form)]


class _Stem(_Section):
    out: _Grids
    kernel: _Kernel = 3
    stride: int = 2


class _Stage(_Section):
    stride: int
    out: _Grids
    bottleneck: _Grids
    kernel: _Kernels = DEFAULT_KERNELS
    depth: _Pair | None = None


class _Head(_Section):
    out: _Width
    kernel: _Kernel = 1


class _Rules(_Section):
    non_decreasing: bool = True
    max_growth: Annotated[float, Field(gt=0)] = 4.0
    bottleneck_ratio: _RatioPair | None = None
    min_depth: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] | None = None


class _Space(_Section):
    family: str
    resolution: _Pair = [224, 224]
    in_channels: Annotated[int, Field(ge=1, le=LARGEST_WIDTH)] = 3
    classes: Annotated[int, Field(ge=0, le=2**24)] = 1000
    activation: str | None = None
    stem: _Stem
    stages: Annotated[list[_Stage], Field(min_length=1, max_length=32)]
    head: _Head | None = None
    rules: _Rules = _Rules()


class _LatencyLimits(_Section):
    latency: dict[str, str] = {}


class _LatencyRanges(_LatencyLimits):
    resolution: str | None = None


def _with_quantities(base: type[_Section], kind: Callable[[str], Any]) -> Any:
    """Return a section with one more key for everything that can be limited."""
    fields: dict[str, Any] = {name: (kind(name), None) for name in limits.QUANTITIES}
    return create_model(base.__name__, __base__=base, **fields)


_Limits = _with_quantities(_LatencyLimits, lambda name: Annotated[Any, BeforeValidator(partial(_limit, name))])
_Sweep = _with_quantities(_LatencyRanges, lambda _: str | None)


class _Penalty(_Section):
    form: str = "std"
    weight: Annotated[float, Field(ge=0)] = PENALTY_WEIGHT
    stages: list[int] | None = None


class _Objective(_Section):
    file: str | None = None
    scale_weights: list[float] | None = None
    depth_penalty: _Penalty = _Penalty()
    log_params: Annotated[float, Field(ge=0)] = 0.0
    log_macs: Annotated[float, Field(ge=0)] = 0.0
    depth_weights: list[float] = []


def _named_objective(item: Any) -> Any:
    """Let a name stand for ``{file: ...}``."""
    return {"file": item} if isinstance(item, str) else item


class _Config(_Section):
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    space: _Space
    grid: Annotated[_Grid, BeforeValidator(_grid_form)] = _Grid()
    limits: Annotated[Any, GetPydanticSchema(lambda _, handler: handler(_Limits))] = Field(default_factory=_Limits)
    penalty: str | None = None
    objective: Annotated[_Objective, BeforeValidator(_named_objective)] = _Objective()
    sweep: Annotated[Any, GetPydanticSchema(lambda _, handler: handler(_Sweep))] = Field(default_factory=_Sweep)


def _refusal(detail: ErrorDetails, document: Document, *, more: int) -> ConfigError:
    """Return pydantic's complaint as one of ours, with its place in the file."""
    context = detail.get("ctx", {})
    cause = context.get("error")
    what, hint = (cause.what, cause.hint) if isinstance(cause, ConfigError) else (detail["msg"], context.get("hint"))
    if detail["type"] == "missing":
        what = f"{detail['loc'][-1]!r} is missing"
    elif detail["type"].endswith("_type"):
        what = f"{what}, got {detail['input']!r:.60}"
    rest = f" (and {more} more)" if more else ""
    return document.error(tuple(detail["loc"]), what + rest, hint=hint, key=context.get("key"))


def _run(config: _Config, document: Document) -> Run:
    if config.penalty is not None and config.penalty not in PENALTIES:
        expected = ", ".join(PENALTIES)
        raise document.error(("penalty",), f"unknown penalty {config.penalty!r}", hint=f"expected one of {expected}")
    space = _space(config, document)
    asked = {name: value for name in limits.QUANTITIES if (value := getattr(config.limits, name)) is not None}
    with document.at("limits"):
        kept = Limits.of(asked)
    with document.at("objective"):
        objective = _objective(config.objective, document.path.parent)
    problem = Problem(name=config.name or document.path.stem, space=space, limits=kept, penalty=config.penalty or "std")
    if objective is not None:
        with document.at("objective"):
            problem = _maximising(problem, objective, file=config.objective.file)
    ranges = config.sweep.model_dump(exclude_none=True, exclude_defaults=True)
    if config.sweep.latency:
        ranges["latency"] = {str(document.path.parent / path): text for path, text in config.sweep.latency.items()}
    return Run(problem=problem, latency=tuple(_requests(config.limits.latency, document)), sweep=ranges)


def _objective(asked: _Objective, folder: Path) -> Objective | None:
    """Return what is maximised, None for DeepMAD's objective: a name, a file, or weights."""
    if asked == _Objective():
        return None
    if asked.file is not None:
        if asked != _Objective(file=asked.file):
            raise ConfigError("a file and weights beside it", where="file", hint="give one of them")
        return load_objective(asked.file, folder=folder)
    penalty = asked.depth_penalty
    return Objective(
        scale_weights=None if asked.scale_weights is None else tuple(asked.scale_weights),
        penalty=penalty.form,
        penalty_weight=penalty.weight,
        penalty_stages=None if penalty.stages is None else tuple(penalty.stages),
        log_params=asked.log_params,
        log_macs=asked.log_macs,
        depth_weights=tuple(asked.depth_weights),
    )


def _maximising(problem: Problem, objective: Objective, *, file: str | None) -> Problem:
    """Return a problem with another objective; a file's that does not fit its space is no use here."""
    try:
        return replace(problem, objective=objective)
    except ConfigError as error:
        if file is None:
            raise
        raise InputFileError(f"{error.where}: {error.what}", where=file, hint=error.hint) from error


def load_objective(name_or_path: str, *, folder: Path | None = None) -> Objective | None:
    """Return an objective by name or from its file.

    Args:
        name_or_path: ``deepmad``, or an ``objective.json``.
        folder: that a relative path starts from; None means the working folder.

    Returns:
        The objective, None for DeepMAD's own.

    Raises:
        ConfigError: no such file.
        InputFileError: the file holds no objective.
    """
    if name_or_path == "deepmad":
        return None
    path = (folder or Path()) / name_or_path
    if not path.is_file():
        raise ConfigError(
            f"no objective and no file is called {name_or_path!r}", hint="say deepmad, or the file that calibrate wrote"
        )
    return serde.read_objective(path)


def _requests(latency: Mapping[str, str], document: Document) -> list[LatencyRequest]:
    requests = []
    for path, budget in latency.items():
        with document.at("limits", "latency", path):
            requests.append(parse_latency(path, budget, where="", folder=document.path.parent))
    return requests


def _space(config: _Config, document: Document) -> Space:
    asked = config.space
    with document.at("space"):
        family = families.get(asked.family)
        families.resolve_activation(family, asked.activation)
    stages = tuple(_stage(config, index, family, document) for index in range(len(asked.stages)))
    stem = _widths(asked.stem.out, config.grid, document, ("space", "stem", "out"))
    ratio = asked.rules.bottleneck_ratio or family.bottleneck_ratio
    with document.at("space"):
        if asked.stem.stride not in (1, 2):
            raise ConfigError(f"expected stride 1 or 2, got {asked.stem.stride}", where="stem.stride")
        if asked.stem.kernel % 2 == 0:
            raise ConfigError(f"expected an odd kernel, got {asked.stem.kernel}", where="stem.kernel")
        return Space(
            family=family.name,
            resolution=(asked.resolution[0], asked.resolution[1]),
            stem=stem,
            stages=stages,
            bottleneck_ratio=(ratio[0], ratio[1]),
            head=None if asked.head is None else Head(out=asked.head.out, kernel=asked.head.kernel),
            in_channels=asked.in_channels,
            classes=asked.classes,
            activation=asked.activation,
            stem_kernel=asked.stem.kernel,
            stem_stride=asked.stem.stride,
            non_decreasing=asked.rules.non_decreasing,
            max_growth=asked.rules.max_growth,
        )


def _stage(config: _Config, index: int, family: Family, document: Document) -> StageSpace:
    asked, place = config.space.stages[index], ("space", "stages", index)
    largest = family.max_first_depth if index == 0 and family.max_first_depth else DEFAULT_DEPTH
    low, high = asked.depth or [1, largest]
    least = config.space.rules.min_depth
    if least is not None and least > high:
        raise document.error(place, f"has at most {high} blocks, and rules.min_depth asks for {least}")
    low = low if least is None else max(low, least)
    out = _widths(asked.out, config.grid, document, (*place, "out"))
    bottleneck = _widths(asked.bottleneck, config.grid, document, (*place, "bottleneck"))
    with document.at(*place):
        return StageSpace(
            stride=asked.stride,
            out=out,
            bottleneck=bottleneck,
            kernel=tuple(asked.kernel),
            depth=(low, high),
        )


def _widths(asked: _Widths, grid: _Grid, document: Document, place: tuple[str | int, ...]) -> tuple[int, ...]:
    if asked.values is not None:
        return tuple(asked.values)
    ratio, step = asked.ratio or grid.ratio, asked.step or grid.step
    low, high = asked.min or 0.0, asked.max or 0.0
    with document.at(*place):
        if high < low:
            raise ConfigError(f"min {low:g} is above max {high:g}")
        if ratio == GRIDS["fine"]:
            return linear_grid(low, high, multiple=step)
        if ratio < SMALLEST_RATIO:
            raise ConfigError(f"a ratio of {ratio:g} makes no steps", hint=f"say 1 for every multiple of {step}")
        return geometric_grid(low, high, ratio=ratio, multiple=step)


def _stored_run(path: Path, overrides: Mapping[str, Any]) -> Run:
    """Return what a ``problem.json`` asks for; its keys are those of the records."""
    data, changed = read_json(path), {}
    for key, value in overrides.items():
        name = key.removeprefix("limits.")
        if name != key and name in limits.QUANTITIES:
            changed[name] = _limit(name, value)
        elif key == "objective":
            continue  # a name or a file, read below
        elif key == "grid":
            raise ConfigError("a stored problem has its widths written out", where="grid", hint="give the run file")
        else:
            put(data, key, value)
    file = serde.problem_from_json(data, where=str(path))
    paths = {reference.table: path.parent / reference.path for reference in file.tables}
    requests = []
    for limit in file.problem.limits.latency:
        if limit.table not in paths:
            raise ConfigError(f"no file is named for table {limit.table!r}", where=str(path), hint="add it to tables")
        requests.append(LatencyRequest(path=paths[limit.table], budget_ms=limit.budget_ms))
    kept = replace(Limits.of({**file.problem.limits.named(), **changed}), latency=())
    problem = replace(file.problem, limits=kept)
    if "objective" in overrides:
        name = str(overrides["objective"])
        objective = load_objective(name)
        problem = replace(problem, objective=None) if objective is None else _maximising(problem, objective, file=name)
    return Run(problem=problem, latency=tuple(requests))
