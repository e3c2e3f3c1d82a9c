"""How a problem is solved, as one record. Layer 4."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a problem is solved; see `deepmad_hw.workflows.design.design.design`.

    Args:
        method: ``certified`` or ``fast``.
        gap: at which the proof may stop.
        time_limit_s: for each solve.
        threads: of each solver.
        seed: of every random choice.
    """

    method: str = "certified"
    gap: float = 0.005
    time_limit_s: float = 60.0
    threads: int = 1
    seed: int = 0
