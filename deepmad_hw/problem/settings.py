"""How a problem is solved, as one record. Layer 1, standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from deepmad_hw.errors import ConfigError
from deepmad_hw.problem.objective import Objective, usual_gap

METHODS = ("certified", "fast", "continuous")  # how a problem may be solved, the surest first


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a problem is solved.

    Args:
        method: ``certified`` (a checked design with a proved bound), ``fast`` (a checked design, no bound) or
            ``continuous`` (a local optimum over real widths).
        gap: distance between design and bound at which the proof may stop, as `Solution.gap` has it; None takes 0.5 %,
            or 0.05 points of a calibrated objective.
        time_limit_s: for each solve; what is found by then is returned with what it is worth.
        threads: of the exact solver.
        seed: of every random choice.
        solver_log: file to which the exact solver adds its own words, or None.
    """

    method: str = "certified"
    gap: float | None = None
    time_limit_s: float = 60.0
    threads: int = 1
    seed: int = 0
    solver_log: Path | None = field(default=None, metadata={"left_out": None})

    def __post_init__(self) -> None:
        """Refuse a method that is not known, and a gap or time that is not positive."""
        if self.method not in METHODS:
            expected = ", ".join(METHODS)
            raise ConfigError(f"unknown method {self.method!r}", where="method", hint=f"expected one of {expected}")
        if self.gap is not None:
            _require_gap(self.gap, below=math.inf)
        if not self.time_limit_s > 0:
            raise ConfigError(f"expected a time above 0, got {self.time_limit_s:g} s", where="time_limit")

    def gap_for(self, objective: Objective) -> float:
        """Return the gap of an objective: what was asked for, or the usual one.

        Args:
            objective: what is maximised; the gap is a share of it, or in its unit where it has one.

        Raises:
            ConfigError: a share of 100 % or more.
        """
        gap = usual_gap(objective) if self.gap is None else self.gap
        _require_gap(gap, below=math.inf if objective.unit else 1)
        return gap


def _require_gap(gap: float, *, below: float) -> None:
    if not 0 < gap < below:
        raise ConfigError(f"expected a gap between 0 and 100 %, got {gap:.6g}", where="gap")
