"""What is asked for: a space, an objective, limits. Layer 1, standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from deepmad_hw.errors import ConfigError
from deepmad_hw.space import Space, require_positive


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
        require_positive(self.budget_ms, f"latency:{self.table}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a design must not exceed; None leaves a quantity free.

    Args:
        macs: multiply-adds at batch 1.
        params: trainable parameters.
        memory_bytes: peak activation memory at fp32 and batch 1.
        rho: effectiveness at every scale (DeepMAD's rho_0).
        latency: budgets, one per device.
    """

    macs: float | None = None
    params: float | None = None
    memory_bytes: float | None = None
    rho: float | None = None
    latency: tuple[LatencyLimit, ...] = ()

    def __post_init__(self) -> None:
        """Refuse limits that nothing can keep, and two on one table."""
        for field in ("macs", "params", "memory_bytes", "rho"):
            value = getattr(self, field)
            if value is not None:
                require_positive(value, field)
        tables = [limit.table for limit in self.latency]
        for table in tables:
            if tables.count(table) > 1:
                raise ConfigError("two budgets on one table", where=f"latency:{table}", hint="keep the smaller one")

    def named(self) -> dict[str, float]:
        """Return every limit that is set, by the name that prices and solutions give it."""
        named = {"macs": self.macs, "params": self.params, "memory": self.memory_bytes, "rho": self.rho}
        named.update({f"latency:{limit.table}": limit.budget_ms for limit in self.latency})
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Maximise DeepMAD's objective over a space within limits.

    Args:
        name: what to call it in files.
        space: the designs to choose from.
        limits: what they must keep.
        penalty: form of the depth penalty, see `deepmad_hw.entropy.depth_penalty`.
    """

    name: str
    space: Space
    limits: Limits
    penalty: str = "std"
