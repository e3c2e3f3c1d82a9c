"""Times as raw samples: statistics, statuses, environments."""

import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmad_hw.errors import ConfigError
from deepmad_hw.latency.measurement import Environment, LayerMeasurement, NetworkMeasurement, median_interval
from deepmad_hw.network.layer import LayerSpec

SPEC = LayerSpec(op="conv", in_channels=8, out_channels=16, height=7, width=9, kernel=3)
HERE = Environment(
    device="Example CPU",
    machine="x86_64",
    cores=2,
    features=("avx2", "fma"),
    governor="unknown",
    runtime="onnxruntime_cpu",
    runtime_version="1.0",
)


def layer(*samples_us, status="ok"):
    return LayerMeasurement(spec=SPEC, samples_us=samples_us, status=status)


def network(*samples_us, status="ok"):
    return NetworkMeasurement(name="net", samples_us=samples_us, status=status)


def test_medians_of_odd_and_even_counts():
    assert layer(3.0, 1.0, 100.0).median_us == 3.0
    assert network(4.0, 1.0, 2.0, 100.0).median_us == 3.0


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (10, 1), (10.1, 2), (50, 5), (90, 9), (99, 10), (100, 10)])
def test_a_percentile_is_the_smallest_sample_with_so_many_at_or_below(percent, expected):
    assert network(*(float(value) for value in (7, 3, 10, 1, 5, 9, 2, 8, 4, 6))).percentile_us(percent) == expected


def test_a_percentile_of_one_sample_is_that_sample():
    assert network(5.0).percentile_us(1) == network(5.0).percentile_us(99) == 5.0


def test_interval_of_the_median_from_order_statistics():
    # 25 samples: ranks 12 -+ 0.98 * 5 = 7.1 .. 16.9, taken outwards
    assert median_interval(list(range(25, 0, -1))) == (8, 18)


def test_interval_of_few_samples_is_their_range():
    assert median_interval([2.0]) == (2.0, 2.0)
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=60))
def test_the_interval_holds_the_median(samples):
    low, high = median_interval(samples)
    assert low <= network(*samples).median_us <= high


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    rng = random.Random(1)
    hits = 0
    for _ in range(1000):
        low, high = median_interval([rng.gauss(0, 1) for _ in range(41)])
        hits += low <= 0 <= high
    assert 0.94 <= hits / 1000 <= 0.99  # ranks are whole, so the interval is a little wider than 95 %


def test_relative_error_is_half_the_interval_over_the_median():
    assert layer(*(float(value) for value in range(1, 26))).relative_error == pytest.approx((18 - 8) / 2 / 13)
    assert layer(5.0, 5.0, 5.0).relative_error == 0


@pytest.mark.parametrize("made", [layer, network])
@pytest.mark.parametrize("status", ["throttled", "oom", "timeout", "unsupported", "error"])
def test_a_failed_measurement_has_no_samples(made, status):
    assert made(status=status).samples_us == ()
    with pytest.raises(ConfigError, match=f"status '{status}' with 1 samples"):
        made(5.0, status=status)


@pytest.mark.parametrize("made", [layer, network])
@pytest.mark.parametrize("status", ["ok", "noisy"])
def test_a_measured_time_has_samples(made, status):
    assert made(5.0, status=status).median_us == 5.0
    with pytest.raises(ConfigError, match=f"status '{status}' with 0 samples"):
        made(status=status)


@pytest.mark.parametrize("made", [layer, network])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan, None, True])
def test_no_time_is_zero_negative_or_not_a_number(made, value):
    with pytest.raises(ConfigError, match="expected a time above 0 us"):
        made(5.0, value)


def test_an_unknown_status_is_refused():
    with pytest.raises(ConfigError, match="unknown status 'fine', expected one of ok, noisy"):
        layer(5.0, status="fine")


def test_equal_environments_have_no_differences():
    assert HERE.differences(dataclasses.replace(HERE)) == ()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("device", "Other CPU", "device: Example CPU != Other CPU"),
        ("machine", "aarch64", "machine: x86_64 != aarch64"),
        ("cores", 4, "cores: 2 != 4"),
        ("features", ("avx2",), "features: avx2 fma != avx2"),
        ("governor", "powersave", "governor: unknown != powersave"),
        ("runtime", "openvino_cpu", "runtime: onnxruntime_cpu != openvino_cpu"),
        ("runtime_version", "2.0", "runtime_version: 1.0 != 2.0"),
        ("precision", "int8", "precision: fp32 != int8"),
        ("batch", 8, "batch: 1 != 8"),
        ("threads", 2, "threads: 1 != 2"),
    ],
)
def test_every_field_makes_another_environment(field, value, said):
    assert HERE.differences(dataclasses.replace(HERE, **{field: value})) == (said,)


def test_all_differences_are_named():
    other = dataclasses.replace(HERE, threads=2, batch=8)
    assert HERE.differences(other) == ("batch: 1 != 8", "threads: 1 != 2")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("batch", 0, "batch: expected a whole number >= 1, got 0"),
        ("batch", True, "batch: expected a whole number >= 1, got True"),
        ("threads", -1, "threads: expected a whole number >= 1, got -1"),
        ("cores", 2**53 + 1, "cores: expected a whole number up to 2147483647, got 9007199254740993"),
        ("threads", 1.5, "threads: expected a whole number >= 1, got 1.5"),
        ("cores", 0, "cores: expected a whole number >= 1, got 0"),
        ("precision", "int4", "precision: unknown precision 'int4', expected one of fp32, fp16, int8"),
        ("runtime", "", "runtime: expected a name, got nothing; say unknown"),
        ("device", "", "device: expected a name, got nothing; say unknown"),
    ],
)
def test_an_environment_in_which_nothing_can_run_is_refused(field, value, said):
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(HERE, **{field: value})
    assert str(caught.value) == said
