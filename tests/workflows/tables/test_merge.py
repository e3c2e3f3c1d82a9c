"""Tables of one environment become one; of two tables the differences are told."""

from dataclasses import replace
from pathlib import Path

import pytest

from deepmad_hw.errors import InputFileError
from deepmad_hw.latency.measurement import Environment, LayerMeasurement, NetworkMeasurement, OperationMeasurement
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.layer import LayerSpec, OperationSpec
from deepmad_hw.workflows.tables.merge import difference, merge

HERE = Environment(
    device="CPU", machine="x86_64", cores=2, features=(), governor="unknown", runtime="replay", runtime_version="1"
)
CONV = LayerSpec(op="conv", in_channels=8, out_channels=8, height=8, width=8)
NETWORK = Architecture(
    family="basic",
    resolution=(32, 32),
    stem=Stem(out=16),
    stages=(Stage(out=32, bottleneck=16, kernel=3, stride=2, depth=1),),
)


def row(kernel, *samples_us, status="ok"):
    return LayerMeasurement(spec=replace(CONV, kernel=kernel), samples_us=samples_us, status=status)


def table(*rows, **fields):
    return LatencyTable(**{"name": "t", "environment": HERE, "rows": rows, "canary_us": 100.0, **fields})


def network(*samples_us, status="ok", architecture=NETWORK):
    measured = NetworkMeasurement(name="network000", samples_us=samples_us, status=status)
    return CalibrationNetwork(architecture=architecture, measurement=measured)


def merged(*tables):
    return merge([(Path(f"t{index}.csv"), each) for index, each in enumerate(tables)], name="both")


def samples(found):
    return {each.spec.kernel: (each.status, each.samples_us) for each in found.rows}


def test_samples_of_the_same_layer_stand_together():
    found = merged(table(row(1, 1.0, 2.0), row(3, 9.0)), table(row(1, 3.0), row(5, 7.0)))
    assert samples(found) == {1: ("ok", (1.0, 2.0, 3.0)), 3: ("ok", (9.0,)), 5: ("ok", (7.0,))}
    assert found.name == "both"
    assert found.environment == HERE


def test_calm_rows_win_over_disturbed_and_failed_ones():
    found = merged(
        table(row(1, 9.0, status="noisy"), row(3, status="oom"), row(5, status="timeout")),
        table(row(1, 1.0), row(3, 2.0, status="noisy")),
    )
    assert samples(found) == {1: ("ok", (1.0,)), 3: ("noisy", (2.0,)), 5: ("timeout", ())}


def test_the_second_tables_times_are_brought_to_the_first_ones_speed():
    slow = table(row(3, 11.0), canary_us=110.0, calibration=(network(220.0),))
    found = merged(table(row(1, 1.0)), slow)
    assert samples(found)[3][1] == pytest.approx((10.0,))
    assert found.calibration[0].measurement.samples_us == pytest.approx((200.0,))
    assert found.canary_us == 100.0


def test_calibration_networks_stand_once_with_all_samples():
    other = replace(NETWORK, stem=Stem(out=24))
    found = merged(
        table(row(1, 1.0), calibration=(network(5.0),)),
        table(row(3, 1.0), calibration=(network(6.0), network(8.0, architecture=other))),
    )
    assert [(each.measurement.name, each.measurement.samples_us) for each in found.calibration] == [
        ("network000", (5.0, 6.0)),
        ("network001", (8.0,)),
    ]


def concat(values, *samples_us, status="ok"):
    spec = OperationSpec(kind="concat", read_values=values, written_values=values)
    return OperationMeasurement(spec=spec, samples_us=samples_us, status=status)


def test_other_operations_are_merged_like_layers():
    one = table(operations=(concat(1, 1.0), concat(2, 5.0, status="noisy")))
    two = table(operations=(concat(1, 4.0), concat(2, 6.0)), canary_us=110.0)
    found = {row.spec.read_values: (row.status, row.samples_us) for row in merged(one, two).operations}
    assert found[1] == ("ok", pytest.approx((1.0, 4.0 / 1.1)))
    assert found[2] == ("ok", pytest.approx((6.0 / 1.1,)))


def test_other_operations_are_compared_by_kind():
    one = table(row(1, 1.0), operations=(concat(1, 1.0), concat(2, 2.0), concat(3, 5.0)))
    two = table(row(1, 1.0), operations=(concat(1, 2.0), concat(2, 3.0), concat(4, 5.0)))
    (found,) = difference(one, two).operations
    assert (found.kind, found.common, found.ratio) == ("concat", 2, pytest.approx(1.75))


def test_the_last_day_and_all_notes_are_kept():
    found = merged(
        table(row(1, 1.0), measured_on="2026-11-20", notes=("a",)),
        table(row(3, 1.0), measured_on="2026-11-23", notes=("a", "b")),
    )
    assert found.measured_on == "2026-11-23"
    assert found.notes == ("merged from t, t", "a", "b")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"environment": replace(HERE, threads=2)}, "threads: 1 != 2"),
        ({"environment": replace(HERE, device="GPU")}, "device: CPU != GPU"),
        ({"fused_activations": ("relu", "none")}, "fused_activations"),
        ({"canary_us": 200.0}, "its canary took 200 us"),
    ],
)
def test_tables_of_different_environments_stay_apart(other, said):
    with pytest.raises(InputFileError, match=r"^t1.csv:1:1: .*" + said):
        merged(table(row(1, 1.0)), table(row(3, 1.0), **other))


def test_a_difference_is_told_by_layer_and_overall():
    old = table(row(1, 10.0), row(3, 20.0), row(5, 30.0), row(7, 1.0))
    new = table(row(1, 11.0), row(3, 10.0), row(5, 33.0), row(2, 1.0), canary_us=120.0)
    found = difference(old, new)
    assert [each.spec.kernel for each in found.rows] == [3, 1, 5]
    assert [each.ratio for each in found.rows] == pytest.approx([0.5, 1.1, 1.1])
    assert (found.only_first, found.only_second, found.environment) == (1, 1, ())
    assert found.drift == pytest.approx(1.1)
    assert found.total_drift == pytest.approx(54 / 60)
    assert found.canary_drift == pytest.approx(1.2)


def test_tables_without_common_layers_have_no_drift():
    found = difference(table(row(1, 1.0)), table(row(3, 1.0), canary_us=None, environment=replace(HERE, cores=4)))
    assert (found.drift, found.total_drift, found.canary_drift) == (None, None, None)
    assert found.environment == ("cores: 2 != 4",)
