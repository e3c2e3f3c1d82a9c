"""What is asked for: a space, an objective, limits. Layer 1, standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deepmad_hw.errors import ConfigError
from deepmad_hw.problem.objective import Objective, require_fit
from deepmad_hw.problem.space import Space, require_positive

_LATENCY = "latency:"


def latency_name(table: str) -> str:
    """Return what a budget on a table is called among the limits.

    Args:
        table: name of the latency model.

    Example:
        >>> latency_name("board"), table_of("latency:board"), table_of("macs")
        ('latency:board', 'board', None)
    """
    return f"{_LATENCY}{table}"


def table_of(name: str) -> str | None:
    """Return the table that a limit is about, None for a limit that is no latency budget.

    Args:
        name: of the limit.
    """
    return name.removeprefix(_LATENCY) if name.startswith(_LATENCY) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyLimit:
    """A budget on one device.

    Args:
        table: name of the latency model that speaks for the device.
        budget_ms: the upper value of the predicted latency must not exceed this.
    """

    table: str
    budget_ms: float

    def __post_init__(self) -> None:
        """Refuse a budget that is no time."""
        require_positive(self.budget_ms, latency_name(self.table))


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """A limit, or a design's value, of a quantity that has no field of its own.

    Args:
        limit: name of the quantity, one of `deepmad_hw.problem.limits`.
        value: in the quantity's unit.
    """

    limit: str
    value: float

    def __post_init__(self) -> None:
        """Refuse what is no amount."""
        require_positive(self.value, self.limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a design must not exceed; None leaves a quantity free. What can be limited: `deepmad_hw.problem.limits`.

    Args:
        macs: multiply-adds at batch 1.
        params: trainable parameters.
        memory_bytes: peak activation memory at fp32 and batch 1.
        rho: effectiveness at every scale (DeepMAD's rho_0).
        latency: budgets, one per device.
        others: limits of other quantities.

    Example:
        >>> limits = Limits(macs=1.8e9, latency=(LatencyLimit(table="board", budget_ms=25.0),))
        >>> limits.named()
        {'macs': 1800000000.0, 'latency:board': 25.0}
        >>> Limits.of(limits.named()) == limits
        True
    """

    macs: float | None = None
    params: float | None = None
    memory_bytes: float | None = None
    rho: float | None = None
    latency: tuple[LatencyLimit, ...] = ()
    others: tuple[Amount, ...] = field(default=(), metadata={"left_out": ()})

    def __post_init__(self) -> None:
        """Refuse limits that nothing can keep, and two on one quantity."""
        for name in _FIELDS.values():
            value = getattr(self, name)
            if value is not None:
                require_positive(value, name)
        tables = [limit.table for limit in self.latency]
        for table in tables:
            if tables.count(table) > 1:
                raise ConfigError("two budgets on one table", where=latency_name(table), hint="keep the smaller one")
        names = [other.limit for other in self.others]
        for name in names:
            if names.count(name) > 1 or name in _FIELDS or table_of(name) is not None:
                raise ConfigError("stands twice among the limits", where=name)

    def named(self) -> dict[str, float]:
        """Return every limit that is set, by the name that prices and solutions give it."""
        fields = {name: getattr(self, field) for name, field in _FIELDS.items()}
        return {
            **{name: value for name, value in fields.items() if value is not None},
            **{latency_name(limit.table): limit.budget_ms for limit in self.latency},
            **{other.limit: other.value for other in self.others},
        }

    @classmethod
    def of(cls, named: Mapping[str, float]) -> Limits:
        """Return limits from their names; the opposite of `named`.

        Args:
            named: value by name.

        Raises:
            ConfigError: a value that nothing can keep.
        """
        tables = {name: table for name in named if (table := table_of(name)) is not None}
        return cls(
            **{field: named[name] for name, field in _FIELDS.items() if name in named},
            latency=tuple(LatencyLimit(table=table, budget_ms=named[name]) for name, table in tables.items()),
            others=tuple(
                Amount(limit=name, value=value)
                for name, value in named.items()
                if name not in _FIELDS and name not in tables
            ),
        )


_FIELDS = {"macs": "macs", "params": "params", "memory": "memory_bytes", "rho": "rho"}  # field by name of the limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Maximise DeepMAD's objective over a space within limits.

    Args:
        name: what to call it in files.
        space: the designs to choose from.
        limits: what they must keep.
        penalty: form of the depth penalty of DeepMAD's objective, see `deepmad_hw.problem.entropy.depth_penalty`.
        objective: what is maximised; None stands for DeepMAD's.
    """

    name: str
    space: Space
    limits: Limits
    penalty: str = "std"
    objective: Objective | None = field(default=None, metadata={"left_out": None})

    def __post_init__(self) -> None:
        """Refuse an objective that does not fit the space."""
        if self.objective is None:
            return
        if self.penalty != "std":
            raise ConfigError("the objective says which penalty", where="penalty", hint="leave it away")
        stages = len(self.space.stages)
        scales = 1 + sum(stage.stride == 2 for stage in self.space.stages)
        require_fit(self.objective, family=self.space.family, stages=stages, scales=scales)

    @property
    def worth(self) -> Objective:
        """Return what is maximised, DeepMAD's objective written out."""
        return self.objective if self.objective is not None else Objective(penalty=self.penalty)
