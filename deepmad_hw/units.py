"""Words into numbers and back: every quantity a person types carries its unit. Layer 2, standard library only.

Decimal arithmetic keeps what was typed: ``1.8G`` is 1,800,000,000 and not a float beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Context, Decimal

from deepmad_hw.errors import ConfigError

_MS_PER = {"ns": Decimal("1e-6"), "us": Decimal("1e-3"), "µs": Decimal("1e-3"), "ms": Decimal(1), "s": Decimal(1000)}
_SECONDS_PER = {"ms": Decimal("1e-3"), "s": Decimal(1), "min": Decimal(60), "h": Decimal(3600)}
_ONE_PER = {"": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12)}
_BYTES_PER = {
    "B": Decimal(1),
    "kB": Decimal(10**3),
    "MB": Decimal(10**6),
    "GB": Decimal(10**9),
    "KiB": Decimal(2**10),
    "MiB": Decimal(2**20),
    "GiB": Decimal(2**30),
}
RATES = ("/s", "fps")  # images per second, as people write them
_QUANTITY = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d{1,2})?)\s*(?P<unit>\D*?)\s*", re.ASCII)
_LONGEST = 64  # characters; nobody types a longer quantity, and a long one must not become a slow one
_EXACT = Context(prec=4 * _LONGEST)  # so many digits that no product of a quantity and its unit is rounded


def parse_time_ms(text: str, *, where: str = "time") -> float:
    """Return a time in milliseconds, such as ``5ms``, ``300us`` or ``0.02s``.

    Args:
        text: number and unit.
        where: the option or key it came from, for the message.

    Raises:
        ConfigError: no number, no unit or another unit.
    """
    return float(_parse(text, _MS_PER, where=where, example="5ms"))


def parse_seconds(text: str, *, where: str = "time") -> float:
    """Return a length of time in seconds, such as ``60s`` or ``2min``.

    Args:
        text: number and unit.
        where: the option or key it came from, for the message.

    Raises:
        ConfigError: no number, no unit or another unit.
    """
    return float(_parse(text, _SECONDS_PER, where=where, example="60s"))


def parse_count(text: str | int, *, where: str = "count") -> int:
    """Return a whole number, such as ``1.8G``, ``600M``, ``12k`` or ``11826088``.

    Args:
        text: number with or without k, M, G, T (powers of 1000).
        where: the option or key it came from, for the message.

    Raises:
        ConfigError: no number, another suffix, or a fraction of one.
    """
    return _whole(_parse(str(text), _ONE_PER, where=where, example="600M"), text, where)


def parse_bytes(text: str, *, where: str = "memory") -> int:
    """Return a size in bytes, such as ``8MiB`` or ``512kB``.

    Args:
        text: number and unit; kB is 1000 bytes, KiB is 1024.
        where: the option or key it came from, for the message.

    Raises:
        ConfigError: no number, no unit, another unit, or a fraction of a byte.
    """
    return _whole(_parse(text, _BYTES_PER, where=where, example="8MiB"), text, where)


def parse_percent(text: str, *, where: str = "share") -> float:
    """Return a share of one, 0.005 for ``0.5%``.

    Args:
        text: number and percent sign.
        where: the option or key it came from, for the message.

    Raises:
        ConfigError: no number or no percent sign.
    """
    return float(_parse(text, {"%": Decimal("0.01")}, where=where, example="0.5%"))


def parse_rate_per_s(text: str, *, where: str = "rate") -> float:
    """Return a throughput per second, 400.0 for ``400/s`` or ``400fps``.

    Args:
        text: number and one of `RATES`.
        where: the option or key it came from, for the message.

    Raises:
        ConfigError: no number or another unit.
    """
    return float(_parse(text, dict.fromkeys(RATES, Decimal(1)), where=where, example="400/s"))


def parse_number(text: str, *, where: str = "number") -> float:
    """Return a number above 0 without a unit, such as ``0.3``.

    Args:
        text: the number.
        where: the option or key it came from, for the message.

    Raises:
        ConfigError: no number, a unit, or 0.
    """
    value = float(_parse(text, {"": Decimal(1)}, where=where, example="0.3"))
    if not value > 0:
        raise ConfigError(f"{text!r} is no number above 0", where=where, hint="say 0.3")
    return value


def parse_resolution(text: str, *, where: str) -> list[int]:
    """Return height and width in pixels of ``224`` or ``192x256``.

    Args:
        text: one side of a square, or both.
        where: the option or key it came from, for the message.

    Raises:
        ConfigError: neither.

    Example:
        >>> parse_resolution("192x256", where="--resolution")
        [192, 256]
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() and len(side) < 6 for side in sides):
        raise ConfigError(f"{text!r} is no resolution", where=where, hint="say 224 or 192x256")
    return [int(sides[0]), int(sides[-1])]


def format_time_ms(time_ms: float) -> str:
    """Return a time with four significant digits in the unit that suits it.

    Args:
        time_ms: the time in milliseconds.
    """
    return _format(time_ms, {"us": 1e-3, "ms": 1.0, "s": 1e3})


def format_count(count: float) -> str:
    """Return a count with four significant digits and k, M, G or T.

    Args:
        count: the count.
    """
    return _format(count, {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}, gap="")


def format_bytes(size_bytes: float) -> str:
    """Return a size with four significant digits in a binary unit.

    Args:
        size_bytes: the size in bytes.
    """
    return _format(size_bytes, {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30})


def format_percent(share: float) -> str:
    """Return a share of one as a percentage with four significant digits.

    Args:
        share: 0.005 for half a percent.
    """
    return f"{_digits(share * 100)}%"


def format_objective(value: float) -> str:
    """Return an objective in words: entropy in whole numbers of thousands, points with the digits that count.

    Args:
        value: the objective, or a bound on it.

    Example:
        >>> format_objective(35731.31), format_objective(76.67813)
        ('35,731.3', '76.678')
    """
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.5g}"


def format_gap(gap: float, unit: str) -> str:
    """Return a gap in words: a share as a percentage, or points of a calibrated objective.

    Args:
        gap: as `deepmad_hw.problem.solution.Solution.gap` has it.
        unit: of the objective, empty for a formula.
    """
    return f"{_digits(gap)} {unit}" if unit else format_percent(gap)


def exact_gap(gap: float, unit: str) -> str:
    """Return a gap so that it is read as the same one again.

    Args:
        gap: as `deepmad_hw.problem.solution.Solution.gap` has it.
        unit: of the objective, empty for a formula.

    Example:
        >>> exact_gap(0.005, ""), exact_gap(0.123456, "accuracy points")
        ('0.5%', '0.123456')
    """
    return f"{gap:.12g}" if unit else f"{100 * gap:.12g}%"


def _parse(text: str, factors: Mapping[str, Decimal], *, where: str, example: str) -> Decimal:
    found = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ConfigError(f"{text[:_LONGEST]!r} is no quantity", where=where, hint=f"say {example}")
    unit = found["unit"]
    if unit not in factors:
        expected = ", ".join(known for known in factors if known)
        fault = f"unknown unit {unit!r} in {text!r}" if unit else f"{text!r} has no unit"
        raise ConfigError(fault, where=where, hint=f"say {example} (one of {expected})")
    return _EXACT.multiply(Decimal(found["number"]), factors[unit])


def _whole(value: Decimal, text: str | int, where: str) -> int:
    if value != value.to_integral_value():
        raise ConfigError(f"{text!r} is no whole number", where=where)
    return int(value)


def _format(value: float, sizes: Mapping[str, float], *, gap: str = " ") -> str:
    smallest = next(iter(sizes))
    # 999.96 of one unit rounds to 1000 of it, so the next unit starts where four digits would spill over.
    fitting = [unit for unit, size in sizes.items() if abs(value) >= 0.99995 * size]
    unit = fitting[-1] if fitting else smallest
    return f"{_digits(value / sizes[unit])}{gap if unit else ''}{unit}"


def _digits(value: float) -> str:
    rounded = float(f"{value:.4g}")
    return f"{rounded:.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"
