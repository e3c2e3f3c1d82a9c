"""Quantities as people type them."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmad_hw import units
from deepmad_hw.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [("5ms", 5.0), ("300us", 0.3), ("0.02s", 20.0), ("25 ms", 25.0), (" 1e3us ", 1.0), ("7µs", 0.007)],
)
def test_times_become_milliseconds(text, expected_ms):
    assert units.parse_time_ms(text) == expected_ms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.8G", 1_800_000_000),
        ("600M", 600_000_000),
        ("11.7M", 11_700_000),
        ("12k", 12_000),
        ("7", 7),
        ("1.8e9", 18 * 10**8),
    ],
)
def test_counts_are_exact_whole_numbers(text, expected):
    found = units.parse_count(text)
    assert found == expected
    assert isinstance(found, int)


def test_a_count_may_be_a_plain_integer():
    assert units.parse_count(11_826_088) == 11_826_088


@pytest.mark.parametrize(("text", "expected"), [("8MiB", 2**23), ("512kB", 512_000), ("1.5KiB", 1536), ("9B", 9)])
def test_sizes_become_bytes(text, expected):
    assert units.parse_bytes(text) == expected


def test_percent_becomes_a_share():
    assert units.parse_percent("0.5%") == 0.005


@pytest.mark.parametrize(("text", "expected_s"), [("60s", 60.0), ("2min", 120.0), ("1h", 3600.0), ("250ms", 0.25)])
def test_lengths_become_seconds(text, expected_s):
    assert units.parse_seconds(text) == expected_s


def test_throughput_is_per_second():
    assert units.parse_rate_per_s("400/s") == 400.0
    assert units.parse_rate_per_s("29.97 fps") == 29.97


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (units.parse_time_ms, "5", "say 5ms"),
        (units.parse_time_ms, "5MB", "'MB'"),
        (units.parse_time_ms, "-5ms", "no quantity"),
        (units.parse_time_ms, "fast", "no quantity"),
        (units.parse_time_ms, "1e999ms", "no quantity"),
        (units.parse_time_ms, "9" * 10_000 + "ms", "no quantity"),
        (units.parse_seconds, "60", "say 60s"),
        (units.parse_count, "1.8ms", "'ms'"),
        (units.parse_count, "1.5", "no whole number"),
        (units.parse_count, f"1.{'0' * 40}1", "no whole number"),
        (units.parse_count, "1.8g", "'g'"),
        (units.parse_bytes, "8", "say 8MiB"),
        (units.parse_bytes, "0.5B", "no whole number"),
        (units.parse_percent, "0.005", "say 0.5%"),
        (units.parse_rate_per_s, "400", "say 400/s"),
    ],
)
def test_a_wrong_unit_is_one_line_that_names_the_option(parse, text, said):
    with pytest.raises(ConfigError) as caught:
        parse(text, where="--option")
    line = str(caught.value)
    assert line.startswith("--option: ")
    assert said in line
    assert "\n" not in line


PARSERS = {
    units.parse_time_ms: ("ns", "us", "µs", "ms", "s"),
    units.parse_seconds: ("ms", "s", "min", "h"),
    units.parse_count: ("", "k", "M", "G", "T"),
    units.parse_bytes: ("B", "kB", "MB", "GB", "KiB", "MiB", "GiB"),
    units.parse_percent: ("%",),
    units.parse_rate_per_s: ("/s", "fps"),
}
WITH_UNITS = [parse for parse in PARSERS if parse is not units.parse_count]
words = st.text(max_size=80) | st.from_regex(r"\s?[-+]?[0-9]{1,70}[.,]?[0-9]{0,9}(e-?[0-9]{1,4})? ?[a-zA-Zµ/%]{0,4}\n?")
numbers = st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,30})?(e-?[0-9]{1,2})?", fullmatch=True)


def quantity(parse, text):
    """Return what a text is, or None where it is refused in one line that names the option."""
    try:
        return parse(text, where="--option")
    except ConfigError as error:
        line = str(error)
        assert line.startswith("--option: ")
        assert line.isprintable()
        return None


@pytest.mark.parametrize("parse", PARSERS)
@settings(max_examples=200)
@given(text=words)
def test_any_text_is_a_quantity_or_one_line(parse, text):
    found = quantity(parse, text)
    assert found is None or (found >= 0 and math.isfinite(found) and text.strip()[0].isdigit())


@pytest.mark.parametrize("parse", PARSERS)
@given(number=numbers, data=st.data())
def test_a_number_with_its_unit_is_that_quantity_and_order_is_kept(parse, number, data):
    unit, other = (data.draw(st.sampled_from(PARSERS[parse])) for _ in range(2))
    first, second = quantity(parse, f"{number}{unit}"), quantity(parse, f"{number}{other}")
    one, two = (Fraction(parse(f"1{each}")).limit_denominator(10**9) for each in (unit, other))
    if parse in (units.parse_count, units.parse_bytes):  # whole, or refused
        exact = Fraction(number) * one
        assert first == (exact if exact.denominator == 1 else None)
    else:
        assert first == float(Fraction(number) * one)
        assert (one <= two) <= (first <= second)
        assert first <= parse(f"9{number}{unit}")


@pytest.mark.parametrize("parse", WITH_UNITS)
@given(number=numbers)
def test_no_number_without_its_unit_is_taken(parse, number):
    with pytest.raises(ConfigError, match=r"^--option: '[^']*' has no unit; say "):
        parse(number, where="--option")


@given(st.integers(min_value=0, max_value=10**15), st.sampled_from(["", "k", "M", "G"]))
def test_any_count_times_its_suffix_is_exact(number, suffix):
    factor = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[suffix]
    assert units.parse_count(f"{number}{suffix}") == number * factor


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_any_milliseconds_come_back_unchanged(time_ms):
    assert units.parse_time_ms(f"{time_ms!r}ms") == time_ms


@pytest.mark.parametrize(
    ("show", "parse"),
    [
        (units.format_time_ms, units.parse_time_ms),
        (units.format_percent, units.parse_percent),
    ],
)
@given(value=st.floats(min_value=1e-12, max_value=1e15))
def test_what_is_shown_can_be_typed_back_to_four_digits(show, parse, value):
    assert math.isclose(parse(show(value)), value, rel_tol=5.1e-4)


@pytest.mark.parametrize(
    ("show", "parse"),
    [
        (units.format_time_ms, units.parse_time_ms),
        (units.format_percent, units.parse_percent),
        (units.format_count, lambda text: float(units.parse_count(text))),
    ],
)
@given(value=st.floats(min_value=1.0, max_value=1e12), factor=st.floats(1.0, 1.01))
def test_the_larger_of_two_values_is_never_shown_as_the_smaller(show, parse, value, factor):
    whole = math.floor if show is units.format_count else float
    assert parse(show(whole(value))) <= parse(show(whole(value * factor)))


@pytest.mark.parametrize(
    ("show", "parse"), [(units.format_count, units.parse_count), (units.format_bytes, units.parse_bytes)]
)
@given(value=st.integers(min_value=1, max_value=10**15))
def test_counts_and_sizes_can_be_typed_back_to_four_digits(show, parse, value):
    try:
        back = parse(show(value))
    except ConfigError:  # "1.001 KiB" is a fraction of a byte: shown to people, refused as a limit
        assert parse is units.parse_bytes
        return
    assert math.isclose(back, value, rel_tol=5.1e-4)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.format_time_ms(24.23), "24.23 ms"),
        (units.format_time_ms(0.3), "300 us"),
        (units.format_time_ms(1500), "1.5 s"),
        (units.format_count(1_811_574_016), "1.812G"),
        (units.format_count(999_960), "1M"),
        (units.format_count(12), "12"),
        (units.format_bytes(2**23), "8 MiB"),
        (units.format_percent(0.0037), "0.37%"),
    ],
)
def test_people_read_short_numbers(shown, expected):
    assert shown == expected
