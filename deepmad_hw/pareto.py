"""Which of several designs no other one beats at once in every cost and in value. Layer 2, standard library only."""

from __future__ import annotations

from collections.abc import Sequence


def front(costs: Sequence[Sequence[float]], values: Sequence[float]) -> tuple[int, ...]:
    """Return the positions of the Pareto front, in their order.

    A point stays unless another one has no higher cost, no lower value, and is better in one of them. Of equal points
    all stay.

    Args:
        costs: per point one number per device, such as latencies in milliseconds; smaller is better.
        values: per point, such as the objective; larger is better.
    """
    points = [(*(-cost for cost in costs_of_point), value) for costs_of_point, value in zip(costs, values, strict=True)]
    return tuple(position for position, point in enumerate(points) if not any(_beats(other, point) for other in points))


def _beats(other: tuple[float, ...], point: tuple[float, ...]) -> bool:
    return other != point and all(theirs >= ours for theirs, ours in zip(other, point, strict=True))
