"""Ranges and lists of budgets."""

from functools import partial

import pytest

from deepmad_hw import units
from deepmad_hw.errors import ConfigError
from deepmad_hw.workflows.runfile.ranges import expanded, in_unit, latencies


def times(text):
    return expanded(text, units.parse_time_ms, show=partial(in_unit, unit="ms"), where="--latency")


def test_a_range_keeps_its_ends_as_they_were_written_and_steps_evenly():
    assert times("300us:1.2ms:4") == ("300us", "0.6ms", "0.9ms", "1.2ms")


def test_a_logarithmic_range_grows_by_one_factor():
    assert times("5ms:40ms:4:log") == ("5ms", "10ms", "20ms", "40ms")


def test_lists_hold_values_ranges_and_networks():
    assert times("like:resnet18,5ms, 10ms:20ms:3:lin") == ("like:resnet18", "5ms", "10ms", "15ms", "20ms")


def test_budgets_may_be_throughputs():
    assert latencies("20fps:60fps:5", where="--latency") == ("20fps", "30fps", "40fps", "50fps", "60fps")
    assert latencies("5ms:7ms:3,100/s:400/s:3:log, 30fps,like:resnet18", where="--latency") == (
        *("5ms", "6ms", "7ms"),
        *("100/s", "200/s", "400/s"),
        *("30fps", "like:resnet18"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [("20fps:50ms:3", "unknown unit 'ms'"), ("5ms:30fps:3", "unknown unit 'fps'"), ("60fps:20fps:3", "not grow")],
)
def test_a_range_of_a_throughput_and_a_time_is_one_line(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        latencies(text, where="--latency a.csv")
    assert str(caught.value).startswith("--latency a.csv: ")


def test_large_counts_are_written_without_an_exponent():
    assert expanded("1G:3G:3", units.parse_count, show=units.format_count, where="--macs") == ("1G", "2G", "3G")
    assert expanded("0.6G:1.8G:6", units.parse_count, show=units.format_count, where="--macs")[1:3] == ("840M", "1.08G")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5ms:50ms", "'5ms:50ms' is no range; say 5ms:50ms:10"),
        ("5ms:50ms:ten", "is no range"),
        ("5ms:50ms:5:cubic", "is no range"),
        ("5ms:50ms:1", "expected 2 to 10000 values, got 1"),
        ("50ms:5ms:3", "does not grow from a number above 0"),
        ("5:50:3", "say"),
        ("5ms,5ms", "5ms stands twice"),
    ],
)
def test_what_is_no_range_is_refused_in_one_line(text, said):
    with pytest.raises(ConfigError) as caught:
        times(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
