"""From units to measurements: drift divided out, what the profiler adds taken off, disturbances dropped."""

import itertools
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmad_hw.network.layer import IMAGE, LayerSpec, Node, OperationNode, OperationSpec
from profilers import samples
from profilers.journal import Unit
from profilers.plan import LAYERS, NETWORK, Plan, Probe
from profilers.timing import CANARY_RUNS


def spec(channels):
    return LayerSpec(op="conv", in_channels=channels, out_channels=channels, height=8, width=8)


ONE, TWO, THREE = spec(1), spec(2), spec(3)


def probe(name, *specs, kind=LAYERS):
    nodes = tuple(Node(name=f"n{index}", spec=each, inputs=(IMAGE,)) for index, each in enumerate(specs))
    return Probe(name=name, file="", kind=kind, input_shape=(1, 1, 8, 8), weight_bytes=0, nodes=nodes)


def plan(*probes):
    return Plan(folder=Path(), probes=probes, canary=probe("canary"), batch=1, precision="fp32", sha256="")


A, B, WHOLE = probe("a", ONE, TWO), probe("b", TWO, THREE), probe("whole", ONE, kind=NETWORK)


def unit(name, *, number=0, slow=1.0, total=(100.0, 100.0, 100.0), nodes=((30.0,) * 3, (50.0,) * 3), **other):
    return Unit(
        probe=name,
        round=number,
        canary_us=(10.0 * slow,) * 16,
        total_us=tuple(value * slow for value in total),
        nodes_us={f"n{index}": tuple(value * slow for value in values) for index, values in enumerate(nodes)},
        **other,
    )


def whole(*, number=0, slow=1.0, **other):
    return unit("whole", number=number, slow=slow, nodes=(), **other)


def medians(rows):
    return {row.spec: row.median_us for row in rows}


def added(units):
    return samples.profiler_us(units, samples.drift_factors(units))


def test_layers_add_up_to_the_unprofiled_network():
    rows = medians(samples.layers(plan(A), [unit("a")]))
    assert rows == pytest.approx({ONE: 100 * 30 / 80, TWO: 100 * 50 / 80})


@given(
    nodes=st.lists(st.floats(1, 1e4), min_size=1, max_size=6),
    total=st.floats(1, 1e5),
    runs=st.integers(1, 7),
    slow=st.floats(0.5, 2),
)
def test_layers_add_up_whatever_the_profiler_costs(nodes, total, runs, slow):
    specs = [spec(channels) for channels in range(1, len(nodes) + 1)]
    measured = unit("p", slow=slow, total=(total,) * runs, nodes=[(value,) * runs for value in nodes])
    rows = samples.layers(plan(probe("p", *specs)), [measured])
    assert sum(row.median_us for row in rows) == pytest.approx(total * slow)  # one unit is its own usual speed


@given(
    networks=st.lists(
        st.lists(st.tuples(st.floats(5, 1e4), st.integers(1, 4)), min_size=1, max_size=6), min_size=1, max_size=4
    ),
    added_us=st.floats(0.01, 5),
)
def test_what_the_profiler_adds_to_every_operation_is_taken_off(networks, added_us):
    specs = iter(spec(channels) for channels in range(1, 100))
    truth, probes, units = {}, [], []
    for number, nodes in enumerate(networks):
        probes.append(probe(f"p{number}", *(each := [next(specs) for _ in nodes])))
        truth |= {layer: us for layer, (us, _) in zip(each, nodes, strict=True)}
        units.append(
            unit(
                f"p{number}",
                total=(sum(us for us, _ in nodes),) * 3,
                nodes=[(us + added_us * operations,) * 3 for us, operations in nodes],
                operations={f"n{index}": operations for index, (_, operations) in enumerate(nodes)},
            )
        )
    assert added(units) == pytest.approx(added_us, abs=1e-6)
    assert medians(samples.layers(plan(*probes), units)) == pytest.approx(truth)


def test_a_node_as_short_as_what_the_profiler_adds_keeps_some_time():
    measured = unit("a", total=(96.0,) * 3, nodes=((2.0,) * 3, (98.0,) * 3))  # two microseconds an operation
    assert added([measured]) == pytest.approx(2)
    rows = medians(samples.layers(plan(A), [measured]))
    assert rows[ONE] == pytest.approx(0.2, rel=0.01)
    assert sum(rows.values()) == pytest.approx(96)


def test_a_profiler_that_sees_less_than_the_whole_adds_nothing():
    assert added([unit("a")]) == 0.0
    assert added([]) == 0.0


def test_what_the_profiler_adds_is_told_by_short_networks():
    """Two percent of noise on a long network are more microseconds than the profiler adds to it."""
    short = unit("a", total=(20.0,) * 3, nodes=((13.0,) * 3, (13.0,) * 3))
    noisy = unit("b", total=(10_000.0,) * 3, nodes=((5_100.0,) * 3, (5_100.0,) * 3))
    assert added([short, noisy]) == pytest.approx(3, rel=0.01)


def operation(kind):
    return OperationSpec(kind=kind, read_values=64, written_values=64)


def test_operations_have_rows_of_their_own_and_what_is_not_planned_has_none():
    planned = tuple(OperationNode(name=f"n{index}", spec=operation(kind)) for index, kind in enumerate(("exp", "pad")))
    other = replace(probe("o"), operations=planned)
    times = unit("o", nodes=((20.0,) * 3, (30.0,) * 3, (50.0,) * 3))  # the third is a convolution between them
    found = samples.operations(plan(A, other), [times, unit("a")])
    assert {row.spec: row.median_us for row in found} == pytest.approx({operation("exp"): 20, operation("pad"): 30})
    assert {row.spec for row in samples.layers(plan(A, other), [times, unit("a")])} == {ONE, TWO}


def test_operations_of_a_network_that_failed_have_a_status_and_no_time():
    other = replace(probe("o"), operations=(OperationNode(name="n0", spec=operation("exp")),))
    (row,) = samples.operations(plan(other), [Unit(probe="o", round=0, status="oom")])
    assert (row.spec, row.status, row.samples_us) == (operation("exp"), "oom", ())


def test_drift_is_divided_out_of_layers_and_networks():
    calm = [unit("a", number=n) for n in range(3)] + [whole(number=n) for n in range(3)]
    drifting = [unit("a", number=n, slow=1 + 0.05 * n) for n in range(3)]
    drifting += [whole(number=n, slow=1 + 0.05 * n) for n in range(3)]
    usual = 1.05  # the median of 1, 1, 1.05, 1.05, 1.1, 1.1 is what is called usual
    for measure in (lambda units: samples.layers(plan(A, WHOLE), units), samples.networks):
        for row, quiet in zip(measure(drifting), measure(calm), strict=True):
            assert row.samples_us == pytest.approx([value * usual for value in quiet.samples_us])


def test_layers_and_networks_have_one_usual_speed():
    units = [unit("a", slow=1.0), *(whole(number=n, slow=1.1) for n in range(3))]
    (network,) = (row for row in samples.networks(units) if row.name == "whole")
    layers = samples.layers(plan(A, WHOLE), units)
    assert network.median_us == pytest.approx(110)
    assert sum(row.median_us for row in layers) == pytest.approx(110)


def test_one_slow_canary_run_is_no_drift_and_no_disturbance():
    hit = replace(unit("a"), canary_us=(10.0,) * 5 + (50.0,) + (10.0,) * 10)
    assert samples.canary_level_us(hit) == 10
    assert not samples.disturbed(hit)


@pytest.mark.parametrize(
    ("change", "disturbed"),
    [
        ({"stolen": 0.02}, False),
        ({"stolen": 0.04}, True),
        ({"stolen": None, "waited": None}, False),
        ({"canary_us": (10.0,) * 12 + (11.0,) * 4}, False),
        ({"canary_us": (10.0,) * 12 + (11.5,) * 4}, True),
    ],
)
def test_stolen_time_and_a_swinging_canary_are_disturbances(change, disturbed):
    assert samples.disturbed(replace(unit("a"), **change)) is disturbed


def test_what_disturbs_is_said_as_the_median_of_the_units_that_show_it():
    calm = unit("a")
    assert samples.disturbances([calm]) == ()
    found = [
        calm,
        *(replace(calm, stolen=share) for share in (0.04, 0.08, 0.5)),
        replace(calm, waited=0.31),
        replace(calm, canary_us=(100.0,) * 4 + (140.0,) * 4),
        replace(calm, conditions={"throttled": "hw_thermal"}),
        replace(calm, total_us=(100.0,) * 6 + (200.0,) * 6),
        replace(calm, stolen=None, waited=None),
    ]
    assert samples.disturbances(found) == (
        *("stolen 8%", "waited 31%", "canary swings by 40%", "throttled: hw_thermal", "runs of two speeds"),
    )


def test_disturbed_units_are_dropped_where_calm_ones_exist():
    units = [unit("a"), unit("a", number=1, total=(900.0,) * 3, stolen=0.5)]
    (row,) = samples.networks(units)
    assert row.samples_us == (100.0,) * 3
    assert row.status == "ok"
    assert {each.status for each in samples.layers(plan(A), units)} == {"ok"}


def test_what_was_always_disturbed_is_kept_and_called_noisy():
    units = [unit("a", stolen=0.5), unit("b")]
    assert {row.name: row.status for row in samples.networks(units)} == {"a": "noisy", "b": "ok"}
    statuses = {row.spec: row.status for row in samples.layers(plan(A, B), units)}
    assert statuses == {ONE: "noisy", TWO: "ok", THREE: "ok"}


def test_a_layer_of_several_networks_has_the_samples_of_all():
    rows = {row.spec: row for row in samples.layers(plan(A, B), [unit("a"), unit("b")])}
    assert len(rows[ONE].samples_us) == 3
    assert len(rows[TWO].samples_us) == 6


def test_a_failed_probe_leaves_rows_with_its_status():
    failed = Unit(probe="b", round=0, status="timeout", message="no answer")
    rows = {row.spec: row for row in samples.layers(plan(A, B), [unit("a"), failed])}
    assert {each: row.status for each, row in rows.items()} == {ONE: "ok", TWO: "ok", THREE: "timeout"}
    assert rows[THREE].samples_us == ()


def test_a_failed_network_says_nothing_of_its_layers():
    failed = Unit(probe="whole", round=0, status="oom")
    assert samples.layers(plan(WHOLE), [failed]) == []
    assert samples.networks([failed]) == []


def test_a_probe_that_failed_once_is_measured_by_its_other_rounds():
    failed = Unit(probe="a", round=0, status="error")
    rows = samples.layers(plan(A), [failed, unit("a", number=1)])
    assert {row.status for row in rows} == {"ok"}
    assert sum(row.median_us for row in rows) == pytest.approx(100)


def test_a_node_that_the_runtime_merged_away_has_no_row():
    rows = medians(samples.layers(plan(A), [unit("a", nodes=((30.0,) * 3,))]))
    assert rows == {ONE: pytest.approx(100)}


def test_a_time_too_short_for_the_profilers_clock_is_no_sample():
    (row, _) = samples.layers(plan(A), [unit("a", nodes=((0.0, 1.0, 1.0), (99.0, 99.0, 99.0)))])
    assert len(row.samples_us) == 2
    assert min(row.samples_us) > 0


def test_of_nothing_there_is_nothing():
    assert samples.drift_factors([]) == {}
    assert samples.networks([]) == []
    assert samples.layers(plan(A), []) == []


def test_the_usual_speed_is_the_median_units():
    units = [unit("a", number=n, slow=slow) for n, slow in enumerate((1.0, 1.0, 1.5))]
    assert samples.drift_factors(units) == pytest.approx({("a", 0, 0): 1.0, ("a", 1, 0): 1.0, ("a", 2, 0): 1.5})
    assert statistics.median(samples.drift_factors(units).values()) == 1.0


def test_threads_that_waited_for_a_processor_make_a_unit_untrustworthy():
    assert not samples.disturbed(unit("a", waited=samples.MAX_WAITED))
    assert samples.disturbed(unit("a", waited=samples.MAX_WAITED * 1.01))


@pytest.mark.parametrize(
    ("times", "found"),
    [
        ([100.0] * 8 + [120.0] * 8, True),
        ([100.0] * 12 + [120.0] * 4, True),  # a quarter is a least
        ([100.0] * 13 + [120.0] * 3, False),  # less are stragglers
        ([100.0, 120.0] * 5, False),  # ten runs say nothing
        ([100.0 + index for index in range(40)], False),  # wide, but one least
        ([100.0] * 8 + [109.0] * 8, False),
    ],
)
def test_two_speeds_within_a_unit_are_seen(times, found):
    assert samples.bimodal(times) is found
    assert samples.disturbed(unit("a", total=times)) is found


def test_a_unit_that_was_slow_from_end_to_end_is_seen_beside_the_others():
    calm = [unit("a", number=number) for number in range(4)]
    slow, drifting = unit("b", slow=1.3), unit("b", number=1, slow=1.1)
    assert not samples.disturbed(slow)
    assert samples.contaminated([*calm, slow, drifting]) == {("b", 0, 0)}


@pytest.mark.parametrize("other", [(100.0,) * 12, (100.0,) * 4 + (170.0,) * 8], ids=["calm", "calm for a quarter"])
def test_a_network_that_was_slow_while_the_canary_was_not_is_seen_beside_its_other_rounds(other):
    slow, others = unit("a", total=(130.0,) * 12), [unit("a", number=1, total=other), unit("b", number=1)]
    assert not samples.disturbed(slow)
    assert ("a", 0, 0) in samples.contaminated([slow, *others])
    assert ("b", 1, 0) not in samples.contaminated([slow, *others])
    assert samples.contaminated([unit("a", total=(124.0,) * 12), unit("a", number=1)]) == set()


def test_a_round_whose_canary_was_slow_says_nothing_of_a_network_at_its_best():
    swinging = replace(unit("a", number=1, total=(50.0,) * 3), canary_us=(10.0,) * 8 + (20.0,) * 8)
    slow = unit("a", number=2, slow=1.3, total=(50.0,) * 3)
    others = [unit("a"), *(unit("b", number=number) for number in range(4))]
    assert samples.contaminated([swinging, slow, *others]) == {("a", 1, 0), ("a", 2, 0)}


def test_of_contaminated_and_calm_units_only_the_calm_ones_count():
    calm, slow = unit("a"), unit("a", number=1, slow=1.3, total=(150.0, 150.0, 150.0))
    others = [unit("b", number=number) for number in range(3)]
    (row,) = (row for row in samples.networks([calm, slow, *others]) if row.name == "a")
    assert (row.median_us, row.status) == (100.0, "ok")


def test_a_network_that_was_slow_whenever_it_was_measured_is_noisy():
    slow = [unit("a", number=number, slow=1.3) for number in range(2)]
    others = [unit("b", number=number) for number in range(5)]
    statuses = {row.name: row.status for row in samples.networks([*slow, *others])}
    assert statuses == {"a": "noisy", "b": "ok"}


# --- blocks ---------------------------------------------------------------------------------------------------------


def blocks_of(levels, *, runs=3, slowed=1.0):
    """Return a unit of as many blocks as there are gaps between the canary's turns, as slow as the canary after it."""
    around = list(itertools.pairwise(levels))
    return Unit(
        probe="a",
        round=0,
        canary_us=tuple(10.0 * level for level in levels for _ in range(CANARY_RUNS)),
        total_us=tuple(100.0 * (1 + slowed * (after - 1)) for _, after in around for _ in range(runs)),
        nodes_us={
            "n0": tuple(30.0 * after for _, after in around for _ in range(runs)),
            "n1": tuple(70.0 * after for _, after in around for _ in range(runs)),
        },
        whole_runs=(runs,) * len(around),
        profiled_runs=(runs,) * len(around),
    )


def test_each_block_of_a_unit_has_its_own_runs_and_the_canary_around_them():
    found = samples.blocks(blocks_of((1.0, 1.0, 1.3)))
    assert [(part.round, part.block) for part in found] == [(0, 0), (0, 1)]
    assert [part.canary_us for part in found] == [(10.0,) * 8, (10.0,) * 4 + (13.0,) * 4]
    assert [part.total_us for part in found] == [(100.0,) * 3, (130.0,) * 3]
    assert [part.nodes_us["n1"] for part in found] == [(70.0,) * 3, (91.0,) * 3]
    assert [samples.blocks(part) for part in found] == [[part] for part in found]


def test_a_unit_of_an_older_journal_is_one_block():
    older = unit("a", number=3)
    assert samples.blocks(older) == [older]


def test_blocks_whose_runs_were_all_interrupted_are_left_out():
    some = replace(blocks_of((1.0,) * 4), whole_runs=(9, 0, 0), profiled_runs=(3, 3, 3))
    assert [part.block for part in samples.blocks(some)] == [0]
    assert len(samples.blocks(some)[0].total_us) == 9


def test_of_a_machine_that_changes_its_speed_within_a_unit_the_calm_blocks_count():
    """Layers that the neighbour does not slow by as much as the canary would otherwise come out too fast."""
    calm_before_busy = blocks_of((1.0, 1.0, 1.0, 1.3, 1.3, 1.3), slowed=0.3)
    assert not samples.disturbed(calm_before_busy)
    assert samples.calm_share(calm_before_busy) == pytest.approx(4 / 5)
    assert samples.contaminated([calm_before_busy]) == {("a", 0, 2), ("a", 0, 3), ("a", 0, 4)}
    assert samples.calm_rounds([calm_before_busy]) == {("a", 0)}
    (network,) = samples.networks([calm_before_busy])
    assert (network.median_us, network.status, len(network.samples_us)) == (100.0, "ok", 6)
    assert medians(samples.layers(plan(A), [calm_before_busy])) == pytest.approx({ONE: 30, TWO: 70})
