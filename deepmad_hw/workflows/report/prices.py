"""What one more unit of each limit would buy, along the designs of a report. Layer 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepmad_hw.errors import ConfigError
from deepmad_hw.problem import limits
from deepmad_hw.problem.problem import table_of
from deepmad_hw.problem.solution import Price
from deepmad_hw.workflows.report.facts import Design

MOST_PANELS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One limit's price along the designs.

    Args:
        title: the limit.
        unit: what one more of it is.
        along: what the x axis holds.
        values: design, place on the x axis, objective per unit (0 where the limit does not bind).
    """

    title: str
    unit: str
    along: str
    values: tuple[tuple[Design, float, float], ...]


def prices(designs: Sequence[Design]) -> tuple[Panel, ...]:
    """Return what one more unit of each limit would buy, along the designs; limits that never bind are left out.

    Args:
        designs: the designs.
    """
    along, place = _axis(designs)
    priced = _priced(designs)
    several = sum(table_of(limit) is not None for limit, _ in priced) > 1
    panels = []
    for limit, unit in priced:
        values = tuple(
            (design, x, _price(design.solution.prices, limit))
            for design in designs
            if (x := place(design)) is not None and design.solution.prices
        )
        panels.append(Panel(title=_limit_title(limit, several=several), unit=unit, along=along, values=values))
    return tuple(panels[:MOST_PANELS])


def _priced(designs: Sequence[Design]) -> list[tuple[str, str]]:
    """Return the limits whose prices are drawn, latencies first, with the step of each price."""
    order = ["", *limits.QUANTITIES]
    binding = {
        (name, price.unit)
        for design in designs
        for price in design.solution.prices
        if price.binding and (name := _limited(price.limit)) is not None
    }
    return sorted(binding, key=lambda item: (order.index("" if table_of(item[0]) else item[0]), item[0]))


def _limited(limit: str) -> str | None:
    """Return the limit that a price is about (rho has one at every scale), None for a rule of the space."""
    try:
        return limits.quantity(limit).name
    except ConfigError:
        return None


def _limit_title(limit: str, *, several: bool) -> str:
    return limits.quantity(limit).title if several or table_of(limit) is None else "latency"


def _price(prices: Sequence[Price], limit: str) -> float:
    """Return a limit's price; rho counts at its dearest scale."""
    matching = [price.objective_per_unit for price in prices if _limited(price.limit) == limit and price.binding]
    return max(matching, default=0.0)


def _axis(designs: Sequence[Design]) -> tuple[str, Callable[[Design], float | None]]:
    """Return what differs most between designs and how to read it: the first budget, rho_0, or the MACs."""
    budgets = {_budget_ms(design) for design in designs}
    rhos = {design.rho_limit for design in designs}
    if len(budgets) > 1 and None not in budgets:
        return "latency budget in ms", _budget_ms
    if len(rhos) > 1 and None not in rhos:
        return "rho_0", lambda design: design.rho_limit
    return "GMACs", lambda design: design.macs / 1e9


def _budget_ms(design: Design) -> float | None:
    return next((value.budget_ms for value in design.evaluation.latency), None)
