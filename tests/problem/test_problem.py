"""What is asked for: limits that make sense."""

import math

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.problem.problem import LatencyLimit, Limits


def test_nothing_is_limited_by_default():
    limits = Limits()
    assert (limits.macs, limits.params, limits.memory_bytes, limits.rho, limits.latency) == (None,) * 4 + ((),)


@pytest.mark.parametrize("field", ["macs", "params", "memory_bytes", "rho"])
@pytest.mark.parametrize("value", [0, -1.5, math.inf, math.nan, True, 2**53 + 1])
def test_limits_nothing_can_keep_are_refused(field, value):
    with pytest.raises(ConfigError, match=rf"^{field}: expected a number above 0"):
        Limits(**{field: value})


@pytest.mark.parametrize("budget_ms", [0, -3, math.inf, math.nan, None])
def test_a_budget_is_a_time(budget_ms):
    with pytest.raises(ConfigError, match=r"^latency:board: expected a number above 0"):
        LatencyLimit(table="board", budget_ms=budget_ms)


def test_two_budgets_on_one_table_are_refused():
    with pytest.raises(ConfigError) as caught:
        Limits(latency=(LatencyLimit(table="board", budget_ms=5), LatencyLimit(table="board", budget_ms=6)))
    assert str(caught.value) == "latency:board: two budgets on one table; keep the smaller one"


def test_budgets_on_several_tables_are_kept_in_order():
    limits = Limits(latency=(LatencyLimit(table="b", budget_ms=5), LatencyLimit(table="a", budget_ms=6)))
    assert [limit.table for limit in limits.latency] == ["b", "a"]
