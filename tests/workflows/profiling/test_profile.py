"""A profile from choice to table, on the replay backend whose every time is known."""

from dataclasses import replace

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError, DeviceLostError, ForeignTableError, TooNoisyError
from deepmad_hw.exporters.operation_probes import operations
from deepmad_hw.formats.serde_table import read_table, sidecar_path
from deepmad_hw.latency.model import predict_ms, uncovered
from deepmad_hw.network import costs, reference
from deepmad_hw.network.expand import expand
from deepmad_hw.problem import sampling
from deepmad_hw.problem.space import Space, StageSpace
from deepmad_hw.workflows.profiling import choice
from deepmad_hw.workflows.profiling.choice import (
    MAX_OPERATION_PROBES,
    MIN_OPERATION_PROBES,
    ProfileRequest,
    choose,
    choose_operations,
    preview,
)
from deepmad_hw.workflows.profiling.profile import pack, profile, table_name
from deepmad_hw.workflows.tables.tables import check_table, load_model
from profilers import run, samples
from profilers.plan import LAYERS, NETWORK, read_plan
from profilers.replay import layer_us, operation_us

SPACE = Space(
    family="bottleneck",
    resolution=(64, 64),
    stem=(16, 32),
    stages=(
        StageSpace(stride=2, out=(32, 48, 64), bottleneck=(16, 24, 32), kernel=(3, 5), depth=(1, 3)),
        StageSpace(stride=2, out=(64, 96, 128), bottleneck=(16, 32, 64), kernel=(3, 5), depth=(1, 3)),
    ),
    bottleneck_ratio=(0.1, 1.0),
    classes=10,
)
MOBILE = replace(SPACE, family="mbconv_se", bottleneck_ratio=(0.2, 6.0))
GMACS = 1.0  # so slow that the profiler's microseconds hardly count
REQUEST = ProfileRequest(spaces=(SPACE,), runtime="replay", minutes=0.2, references=(), script=f"gmacs={GMACS}")


class Stop(Exception):  # noqa: N818 - no error, but a person who has seen enough
    """Raised from a tick, as Ctrl-C is."""


def stop_after(count):
    def tick(found):
        if found.done == count:
            raise Stop

    return tick


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the file of a table that was profiled once for all tests here, and the table."""
    out = tmp_path_factory.mktemp("table") / "my table.csv"
    return out, profile(REQUEST, out=out)


def test_only_the_table_and_its_sidecar_are_left(made):
    out, _ = made
    assert sorted(path.name for path in out.parent.iterdir()) == ["my table.csv", "my table.json"]


def test_the_file_holds_the_table_that_is_returned(made):
    out, table = made
    read = read_table(out)
    assert read.name == table.name == "my-table"
    assert read.environment == table.environment
    assert {row.spec for row in read.rows} == {row.spec for row in table.rows}
    assert read.canary_us == pytest.approx(table.canary_us)
    assert [network.architecture for network in read.calibration] == [n.architecture for n in table.calibration]


def test_every_layer_of_the_probes_has_a_row_near_its_true_time(made):
    _, table = made
    shown = {node.spec for item in choose(REQUEST) if item.architecture is None for node in item.graph}
    assert {row.spec for row in table.rows} == shown
    for row in table.rows:
        assert row.status == "ok"
        # The replayed profiler adds 2 us to each layer, which scaling to the unprofiled network spreads.
        assert row.median_us == pytest.approx(layer_us(row.spec, gmacs=GMACS), rel=0.01, abs=2.0)


def test_calibration_networks_are_timed_as_a_whole_and_are_of_the_space(made):
    _, table = made
    assert len(table.calibration) >= 12
    for network in table.calibration:
        assert SPACE.violations(network.architecture) == ()
        true_us = sum(layer_us(node.spec, gmacs=GMACS) for node in expand(network.architecture))
        assert network.measurement.median_us == pytest.approx(true_us)


def test_other_operations_take_a_share_of_longer_profiles(tmp_path, monkeypatch):
    assert choose_operations(REQUEST) == []  # too little time
    assert preview(REQUEST).operation_probes == 0
    longer = replace(REQUEST, minutes=10)
    chosen = choose_operations(longer)
    assert MIN_OPERATION_PROBES <= len(chosen) < MAX_OPERATION_PROBES
    assert len(choose_operations(replace(longer, minutes=5))) < len(chosen)
    assert choose_operations(replace(longer, runtime="torch")) == []
    assert {probe.precision for probe in choose_operations(replace(longer, precision="int8"))} >= {"int8"}


def test_other_operations_are_measured_with_the_layers_and_their_laws_predict_them(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "OPERATION_SHARE", 1.2)
    chosen = choose_operations(replace(REQUEST, minutes=0.25))
    found = preview(replace(REQUEST, minutes=0.25))
    planned = {node.spec for probe in chosen for node in operations(probe)}
    assert (found.operation_probes, found.operations) == (len(chosen), len(planned))
    table = profile(replace(REQUEST, minutes=0.25), out=tmp_path / "t.csv")
    assert {row.spec for row in table.operations} == planned
    laws = load_model(tmp_path / "t.csv").operations
    specs = [spec for spec in planned if spec.moved_values > 50_000]
    assert len(specs) > 100
    true_us = [operation_us(spec, gmacs=GMACS) for spec in specs]
    # Of images, the replayed profiler takes two microseconds an operation, which long ones hardly feel.
    assert laws.predict_us(specs) == pytest.approx(true_us, rel=0.05)


def test_unseen_networks_are_predicted_within_two_percent(made):
    out, table = made
    model = load_model(out)
    random = np.random.default_rng(99)
    known = {network.architecture for network in table.calibration}
    drawn = [sampling.random_architecture(SPACE, random) for _ in range(40)]
    unseen = [each for each in drawn if each not in known and not uncovered(expand(each), model)]
    true_ms = [sum(layer_us(node.spec, gmacs=GMACS) for node in expand(each)) / 1e3 for each in unseen]
    errors = np.array([predict_ms(each, model) for each in unseen]) / true_ms - 1
    assert len(unseen) > 30
    assert np.median(np.abs(errors)) < 0.01
    assert np.max(np.abs(errors)) < 0.02
    assert model.margin is not None
    assert model.margin < 0.02


def test_a_table_says_how_it_was_made(made):
    _, table = made
    assert table.environment.runtime == "replay"
    assert table.notes[0] == "profiled for bottleneck"
    assert table.notes[1].startswith("0.2 minutes, seed 0, ")


def test_a_fresh_table_passes_its_check(tmp_path):
    # A check cannot know the script of a replay, so the canary is asked at the default speed.
    usual = profile(replace(REQUEST, script="", minutes=0.01), out=tmp_path / "usual.csv")
    found = check_table(tmp_path / "usual.csv", folder=tmp_path / "canary")
    assert found.rows == len(usual.rows)
    assert found.drift == pytest.approx(1.0)


def same(first, second):
    return [(item.graph, item.architecture) for item in first] == [(item.graph, item.architecture) for item in second]


def test_the_same_request_chooses_the_same_networks():
    assert same(choose(REQUEST), choose(replace(REQUEST)))
    assert same(choose(REQUEST), choose(replace(REQUEST, threads=2, runtime="onnxruntime")))  # a plan can travel
    assert not same(choose(REQUEST), choose(replace(REQUEST, seed=1)))


def test_names_are_unique_and_every_space_is_shown():
    chosen = choose(replace(REQUEST, spaces=(SPACE, MOBILE), references=("mobilenet_v2",)))
    names = [item.graph.name for item in chosen]
    assert len(set(names)) == len(names)
    families = {item.architecture.family for item in chosen if item.architecture is not None}
    assert families == {"bottleneck", "mbconv_se"}
    kinds = {node.spec.op for item in chosen if item.architecture is None for node in item.graph}
    assert kinds >= {"conv", "avg_pool", "scale", "global_pool", "linear"}


def test_probes_show_other_widths_than_the_reference_networks():
    chosen = choose(replace(REQUEST, references=("resnet18",)))
    own = {node.spec for node in reference.get("resnet18")}
    shown = {node.spec for item in chosen if item.graph.name.startswith("resnet18") for node in item.graph}
    assert len(shown) > 20
    assert len(own & shown) < 0.1 * len(own)


def test_more_time_shows_more_layers():
    few, many = preview(replace(REQUEST, minutes=0.2)), preview(replace(REQUEST, minutes=1.5))
    assert many.layers > few.layers
    assert many.probes > few.probes
    assert few.minutes > 0.2  # the least that is needed takes longer
    assert 1.5 <= many.minutes < 1.7  # what is asked, or a little more where whole networks do not fit


def test_a_larger_batch_leaves_time_for_fewer_probes():
    one, many = preview(replace(REQUEST, minutes=2)), preview(replace(REQUEST, minutes=2, batch=64))
    assert many.probes < one.probes
    assert one.operation_probes == many.operation_probes == 0  # else one would do without, and have the time for others


def test_int8_probes_are_packed_as_such(tmp_path):
    steps = []
    pack(replace(REQUEST, precision="int8", minutes=0.1), tmp_path, on_probe=lambda *step: steps.append(step))
    plan = read_plan(tmp_path)
    assert plan.precision == "int8"
    total = len(plan.probes) + 1  # the canary
    assert steps == [(done, total) for done in range(1, total + 1)]


def test_a_precision_without_probes_is_refused():
    with pytest.raises(ConfigError, match="no probes of precision 'fp16'; say fp32 or int8"):
        replace(REQUEST, precision="fp16")


def test_a_preview_says_what_is_packed(tmp_path):
    request = replace(REQUEST, spaces=(SPACE, MOBILE), batch=2)
    told = preview(request)
    pack(request, tmp_path)
    plan = read_plan(tmp_path)
    assert told.probes == sum(probe.kind == LAYERS for probe in plan.probes)
    assert told.networks == sum(probe.kind == NETWORK for probe in plan.probes)
    assert told.layers == len({node.spec for probe in plan.probes if probe.kind == LAYERS for node in probe.nodes})
    megabytes = sum(path.stat().st_size for path in tmp_path.iterdir()) / 2**20
    assert told.megabytes == pytest.approx(megabytes, rel=0.5)
    assert plan.batch == 2


def test_calibration_networks_are_not_too_large_to_time():
    limit = max(4e9, 1.5 * min(costs.macs(item.architecture) for item in choose(REQUEST) if item.architecture))
    assert all(costs.macs(item.architecture) <= limit for item in choose(REQUEST) if item.architecture is not None)


def test_a_profile_that_was_stopped_goes_on(tmp_path, made):
    out = tmp_path / "my table.csv"
    with pytest.raises(Stop):
        profile(REQUEST, out=out, on_tick=stop_after(7))
    assert sorted(path.suffix for path in tmp_path.iterdir() if "-" not in path.suffix) == [".journal", ".plan"]
    ticks = []
    table = profile(REQUEST, out=out, on_tick=ticks.append)
    assert ticks[0].done == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my table.csv", "my table.json"]
    _, whole = made
    assert {row.spec: row.status for row in table.rows} == {row.spec: row.status for row in whole.rows}
    assert table.notes == whole.notes
    assert len(table.calibration) == len(whole.calibration)


@pytest.mark.parametrize(
    ("change", "said"), [({"seed": 1}, "plan"), ({"threads": 2}, "threads = 1, now it is 2"), ({"batch": 2}, "plan")]
)
def test_another_request_does_not_go_on_in_its_journal(tmp_path, change, said):
    with pytest.raises(Stop):
        profile(REQUEST, out=tmp_path / "t.csv", on_tick=stop_after(2))
    with pytest.raises(ForeignTableError, match=f"t.journal: the journal was begun with {said}"):
        profile(replace(REQUEST, **change), out=tmp_path / "t.csv")


def test_an_older_table_stays_until_the_new_one_is_whole(tmp_path):
    out = tmp_path / "t.csv"
    quick = replace(REQUEST, minutes=0.01)
    profile(quick, out=out)
    before = out.read_bytes(), sidecar_path(out).read_bytes()
    with pytest.raises(Stop):
        profile(replace(quick, seed=3), out=out, on_tick=stop_after(2))
    assert (out.read_bytes(), sidecar_path(out).read_bytes()) == before


def test_a_crashing_probe_costs_its_own_rows_only(tmp_path):
    quick = replace(REQUEST, minutes=0.01)
    table = profile(replace(quick, script=f"gmacs={GMACS} crash=probe002"), out=tmp_path / "t.csv")
    chosen = {item.graph.name: item.graph for item in choose(quick) if item.architecture is None}
    others = {node.spec for name, graph in chosen.items() if name != "probe002" for node in graph}
    lost = {node.spec for node in chosen["probe002"]} - others
    assert {row.spec for row in table.rows if row.status == "error"} == lost
    assert len({row.spec for row in table.rows if row.status == "ok"}) == len(others)
    assert read_table(tmp_path / "t.csv").rows


def test_a_machine_that_is_never_calm_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_STOLEN", -1.0)  # any share of stolen time is too much
    monkeypatch.setattr(run, "EARLY_LOOK_S", float("inf"))
    with pytest.raises(TooNoisyError, match="layers were disturbed every time they were measured; stop other work"):
        profile(replace(REQUEST, minutes=0.001), out=tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()
    assert (tmp_path / "t.journal").exists()
    monkeypatch.undo()
    assert profile(replace(REQUEST, minutes=0.001), out=tmp_path / "t.csv").rows  # the same command goes on


def test_a_machine_that_is_never_calm_is_said_early(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_STOLEN", -1.0)
    monkeypatch.setattr(run, "EARLY_LOOK_S", 0.0)
    monkeypatch.setattr(run, "EARLY_LOOK_UNITS", 1)
    ticks = []
    with pytest.raises(TooNoisyError, match="everything measured so far was disturbed"):
        profile(REQUEST, out=tmp_path / "t.csv", on_tick=ticks.append)
    assert len(ticks) == 1
    monkeypatch.undo()
    with pytest.raises(Stop):
        profile(REQUEST, out=tmp_path / "t.csv", on_tick=stop_after(2))  # the same command goes on


def test_a_profile_that_measured_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("deepmad_hw.workflows.profiling.profile.samples.layers", lambda plan, units: [])
    with pytest.raises(DeviceLostError, match="t: nothing could be measured"):
        profile(replace(REQUEST, minutes=0.001), out=tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spaces": ()}, "--space: no space to profile for"),
        ({"threads": 0}, "--threads: expected a number above 0, got 0"),
        ({"batch": -1}, "--batch: expected a number above 0, got -1"),
        ({"minutes": 0.0}, "--minutes: expected a number above 0, got 0.0"),
        ({"minutes": float("inf")}, "--minutes: expected a number above 0, got inf"),
        ({"minutes": float("nan")}, "--minutes: expected a number above 0, got nan"),
    ],
)
def test_a_request_that_measures_nothing_is_refused(change, said):
    with pytest.raises(ConfigError) as caught:
        replace(REQUEST, **change)
    assert str(caught.value) == said


@pytest.mark.parametrize(("file", "name"), [("laptop.csv", "laptop"), ("a b (1).csv", "a-b-1-"), ("x.y.csv", "x.y")])
def test_a_table_is_named_after_its_file(tmp_path, file, name):
    assert table_name(tmp_path / file) == name
