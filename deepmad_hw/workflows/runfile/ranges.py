"""Ranges and lists of budgets: ``5ms:50ms:10:log``, ``20fps:60fps:5``, ``5ms,10ms,like:resnet18``. Layer 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial

from deepmad_hw import units
from deepmad_hw.errors import ConfigError

MOST_VALUES = 10_000
SCALES = ("lin", "log")
SIGNIFICANT_DIGITS = 4  # of the values between the ends, which are kept as they were written


def expanded(
    text: str, parse: Callable[[str], float], *, show: Callable[[float], str] | None = None, where: str
) -> tuple[str, ...]:
    """Return what a range or a list stands for, each value as a person would write it.

    Args:
        text: values with commas between them; ``FIRST:LAST:COUNT`` and ``FIRST:LAST:COUNT:log`` are ranges.
        parse: reads a range's end as a number.
        show: writes a value between the ends, with its unit; without one, as a plain number.
        where: the option or key, for messages.

    Raises:
        ConfigError: an end or a count cannot be used, there is no such scale, or a value stands twice.
    """
    return _distinct(
        [value for item in text.split(",") for value in _values(item.strip(), parse, show or _plain, where)], where
    )


def latencies(text: str, *, where: str) -> tuple[str, ...]:
    """Return what ranges and lists of latency budgets stand for; a range is one of times, or one of throughputs.

    Args:
        text: as `expanded`.
        where: the option or key, for messages.

    Raises:
        ConfigError: as `expanded`.
    """
    return _distinct(
        [value for item in text.split(",") for value in _values(item.strip(), *_scale(item.strip(), where), where)],
        where,
    )


def _scale(item: str, where: str) -> tuple[Callable[[str], float], Callable[[float], str]]:
    """Return how the ends of a range are read, and how the values between them are written."""
    first = item.partition(":")[0].rstrip()
    for rate in units.RATES:
        if first.endswith(rate):
            return partial(units.parse_rate_per_s, where=where), partial(in_unit, unit=rate)
    return partial(units.parse_time_ms, where=where), partial(in_unit, unit="ms")


def in_unit(value: float, unit: str) -> str:
    """Return a value in a unit, such as ``12.5ms``.

    Args:
        value: the value.
        unit: the unit.
    """
    return f"{_plain(value)}{unit}"


def _plain(value: float) -> str:
    return f"{Decimal(str(value)):f}".removesuffix(".0")


def _distinct(values: Sequence[str], where: str) -> tuple[str, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"{value} stands twice", where=where)
    if len(values) > MOST_VALUES:
        raise ConfigError(f"more than {MOST_VALUES} values", where=where)
    return tuple(values)


def _values(item: str, parse: Callable[[str], float], show: Callable[[float], str], where: str) -> tuple[str, ...]:
    if item.startswith("like:") or ":" not in item:
        return (item,)
    first, last, count, scale = _parts(item, where)
    low, high = parse(first), parse(last)
    if not 0 < low < high:
        raise ConfigError(f"{item!r} does not grow from a number above 0", where=where, hint="say 5ms:50ms:10")
    steps = (position / (count - 1) for position in range(1, count - 1))
    if scale == "log":
        between = [low * (high / low) ** step for step in steps]
    else:
        between = [low + (high - low) * step for step in steps]
    return (first, *(show(float(f"{value:.{SIGNIFICANT_DIGITS}g}")) for value in between), last)


def _parts(item: str, where: str) -> tuple[str, str, int, str]:
    parts = item.split(":")
    scale = parts[3] if len(parts) == 4 else "lin"
    if len(parts) not in (3, 4) or not parts[2].isdecimal() or scale not in SCALES:
        raise ConfigError(f"{item!r} is no range", where=where, hint="say 5ms:50ms:10 or 5ms:50ms:10:log")
    count = int(parts[2])
    if not 2 <= count <= MOST_VALUES:
        raise ConfigError(f"expected 2 to {MOST_VALUES} values, got {count}", where=where)
    return parts[0], parts[1], count, scale
