"""A plan is measured unit by unit: failures are marked and passed over, and a second call goes on."""

import json
import random
import sqlite3
import statistics
import subprocess
import sys
from dataclasses import dataclass
from itertools import chain, cycle, repeat

import pytest

from deepmad_hw.errors import DeviceLostError, ForeignTableError, TooNoisyError
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.predict.network import TableModel
from deepmad_hw.workflows.profiling.profile import MAX_NOISY_SHARE
from profilers import environment as sensors
from profilers import run, samples
from profilers.backend import Settings
from profilers.journal import Unit, device_lock
from profilers.plan import LAYERS
from profilers.replay import layer_us
from profilers.run import Effort
from profilers.timing import Rhythm

QUICK = Rhythm(blocks=1, min_runs=3, max_runs=3)


def measure(plan, *, script="", on_tick=lambda tick: None, budget_s=0.0, journal=None, threads=1, **effort):
    path = journal or plan.folder / "journal"
    settings = Settings(runtime="replay", script=script, threads=threads)
    effort = Effort(**{"rhythm": QUICK, "budget_s": budget_s, **effort})
    return run.measure(plan, settings, journal=path, effort=effort, on_tick=on_tick)


def keys(units):
    return [(unit.probe, unit.round) for unit in units]


def statuses(units):
    return {(unit.probe, unit.round): unit.status for unit in units}


def test_the_first_rounds_are_finished_whatever_the_budget(packed):
    plan = packed()
    environment, units = measure(plan)
    assert environment.runtime == "replay"
    assert keys(units) == [(name, number) for number in (0, 1) for name in ("probe0", "probe1", "probe2", "whole")]
    assert all(unit.status == "ok" and unit.seconds > 0 for unit in units)


def test_only_layer_probes_are_profiled(packed):
    _, units = measure(packed())
    assert {unit.probe for unit in units if unit.nodes_us} == {"probe0", "probe1", "probe2"}


def test_what_is_sure_is_not_measured_again(packed):
    _, units = measure(packed(), budget_s=1e6, max_rounds=5)
    assert {unit.round for unit in units} == {0, 1}


def test_what_is_unsure_is_measured_until_the_last_round(packed):
    _, units = measure(packed(), script="noise=0.5", budget_s=1e6, max_rounds=4)
    assert {unit.round for unit in units if unit.probe == "probe0"} == {0, 1, 2, 3}


def test_a_spent_budget_ends_it_after_the_first_rounds(packed):
    _, units = measure(packed(), script="noise=0.5", budget_s=1e-9, max_rounds=50)
    assert {unit.round for unit in units} == {0, 1}


def test_every_unit_is_durable_before_it_is_shown(packed):
    plan = packed()
    shown = []

    def look(tick):
        connection = sqlite3.connect(plan.folder / "journal")
        (rows,) = connection.execute("SELECT count(*) FROM units").fetchone()
        connection.close()
        shown.append((tick.probe, tick.done, rows))

    measure(plan, on_tick=look)
    assert [done for _, done, _ in shown] == [rows for _, _, rows in shown] == list(range(1, 9))
    assert [probe for probe, _, _ in shown] == ["probe0", "probe1", "probe2", "whole"] * 2


def test_ticks_say_what_is_left(packed):
    ticks = []
    measure(packed(), on_tick=ticks.append)
    assert {tick.planned for tick in ticks} == {8}
    assert ticks[-1].left_s == 0
    assert all(tick.left_s > 0 for tick in ticks[:-1])


class Stop(Exception):  # noqa: N818 - no error, but a person who has seen enough
    """Raised from a tick, as Ctrl-C is."""


def stop_after(count):
    def tick(found):
        if found.done == count:
            raise Stop

    return tick


def test_a_second_call_goes_on_where_the_first_stopped(packed):
    plan = packed()
    with pytest.raises(Stop):
        measure(plan, on_tick=stop_after(3))
    ticks = []
    _, units = measure(plan, on_tick=ticks.append)
    assert [tick.done for tick in ticks] == [4, 5, 6, 7, 8]
    assert keys(units) == keys(measure(plan, journal=plan.folder / "other")[1])


def test_a_finished_journal_is_not_measured_again(packed):
    plan = packed()
    _, first = measure(plan)
    ticks = []
    _, second = measure(plan, on_tick=ticks.append)
    assert ticks == []
    assert second == first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 2}, "begun with threads = 1, now it is 2"),
        ({"plan": True}, "begun with plan = "),
        pytest.param(
            {"script": "governor=powersave"},
            "begun with governor = scripted, now it is powersave",
            marks=pytest.mark.promise("T9"),
        ),
    ],
)
def test_another_setting_or_plan_does_not_go_on(packed, change, said):
    plan = packed()
    measure(plan)
    again = packed(2) if change.pop("plan", False) else plan
    with pytest.raises(ForeignTableError, match=said):
        measure(again, **change)


@pytest.mark.parametrize(
    ("script", "message"),
    [("crash=probe1", "measuring process ended (-9)"), ("fail=probe1", "probe1: scripted to fail")],
)
def test_a_probe_that_fails_is_marked_and_the_run_goes_on(packed, script, message):
    plan = packed()
    _, units = measure(plan, script=script)
    failed = {key: status for key, status in statuses(units).items() if status != "ok"}
    assert failed == {("probe1", 0): "error", ("probe1", 1): "error"}
    assert {unit.message for unit in units if unit.status != "ok"} == {message}
    broken = {node.spec for node in plan.probes[1].nodes}
    others = {node.spec for probe in plan.probes if probe.name in ("probe0", "probe2") for node in probe.nodes}
    rows = {row.spec: row.status for row in samples.layers(plan, units)}
    assert {spec for spec, status in rows.items() if status == "error"} == broken - others
    assert set(rows) == broken | others


def test_a_probe_that_hangs_is_ended(packed):
    ticks = []
    _, units = measure(packed(2), script="hang=probe1", min_rounds=1, unit_timeout_s=4.0, on_tick=ticks.append)
    assert statuses(units) == {("probe0", 0): "ok", ("probe1", 0): "timeout", ("whole", 0): "ok"}
    assert [tick.status for tick in ticks] == ["ok", "timeout", "ok"]


FATES = {"oom": "oom", "hang": "timeout", "crash": "error"}


@pytest.mark.promise("T17", 30)
def test_networks_that_take_all_memory_never_end_or_crash_cost_only_their_own_rows(packed, tries):
    plan = packed(2 * len(tries))
    names = [probe.name for probe in plan.probes if probe.kind == LAYERS]
    doomed = dict(zip(random.Random(tries.start).sample(names, len(tries)), cycle(FATES), strict=False))
    script = [f"{fate}={','.join(name for name, own in doomed.items() if own == fate)}" for fate in FATES]
    found, units = measure(plan, script=" ".join(script), min_rounds=1, unit_timeout_s=4.0, memory_bytes=2 * 2**30)
    assert statuses(units) == {(probe.name, 0): FATES.get(doomed.get(probe.name), "ok") for probe in plan.probes}
    rows = samples.layers(plan, units)
    lost = [row for row in rows if not row.samples_us]
    assert lost
    for row in lost:
        shown_by = {probe.name for probe in plan.probes if row.spec in {node.spec for node in probe.nodes}}
        assert row.status in {FATES[doomed[name]] for name in shown_by if name in doomed}
    all_rows, measured = (
        TableModel(LatencyTable(name="t", environment=found, rows=tuple(each)))
        for each in (rows, [row for row in rows if row.samples_us])
    )
    specs = [row.spec for row in rows]
    covered = measured.covers(specs)
    assert not measured.covers([row.spec for row in lost]).all()
    assert (all_rows.covers(specs) == covered).all()
    known = [spec for spec, is_covered in zip(specs, covered, strict=True) if is_covered]
    assert (all_rows.layers_ms(known) == measured.layers_ms(known)).all()


def test_a_broken_probe_is_given_up_after_two_failures(packed):
    _, units = measure(packed(), script="fail=probe1 noise=0.5", min_rounds=4)
    assert [unit.round for unit in units if unit.probe == "probe1"] == [0, 1]
    assert [unit.round for unit in units if unit.probe == "probe0"] == [0, 1, 2, 3]


def test_when_everything_fails_the_device_is_lost_and_nothing_stored_is(packed):
    plan = packed(6)
    for name in ("canary.onnx", "plan.json"):
        (plan.folder / name).unlink()  # the child cannot even start
    with pytest.raises(DeviceLostError, match=r"5 probes failed one after another.*the same command goes on"):
        measure(plan)
    connection = sqlite3.connect(plan.folder / "journal")
    assert connection.execute("SELECT count(*) FROM units").fetchone() == (5,)
    connection.close()


def test_two_measurements_at_once_are_refused(packed):
    plan = packed()
    with device_lock("cpu"), pytest.raises(DeviceLostError, match="another process is measuring"):
        measure(plan)
    refusals = []

    def meanwhile(tick):
        if not refusals:
            with pytest.raises(DeviceLostError) as caught:
                measure(plan, journal=plan.folder / "other")
            refusals.append(str(caught.value))

    measure(plan, on_tick=meanwhile)
    assert len(refusals) == 1
    assert not (plan.folder / "other").exists()


def test_layers_take_what_the_script_says_though_its_profiler_adds_to_each(packed):
    plan = packed()
    _, units = measure(plan)
    rows = {row.spec: row.median_us for row in samples.layers(plan, units)}
    specs = {node.spec for probe in plan.probes if probe.kind == LAYERS for node in probe.nodes}
    assert rows == pytest.approx({spec: layer_us(spec, gmacs=20) for spec in specs})


def test_drift_is_divided_out_of_a_whole_run(packed):
    """A slow one: what slows a unit's profiled runs more than those before them counts as the profiler's."""
    plan = packed(12)
    measured = {}
    for name, script in (("calm", ""), ("drifting", "drift=1")):
        _, units = measure(plan, script=script, journal=plan.folder / name, rhythm=Rhythm(blocks=4, max_runs=4))
        levels = [samples.canary_level_us(unit) for unit in units]
        measured[name] = {row.name: row.median_us for row in samples.networks(units)}
        measured[f"{name} layers"] = {row.spec: row.median_us for row in samples.layers(plan, units)}
        measured[f"{name} usual"] = statistics.median(map(samples.canary_level_us, samples.trusted(units)))
    assert max(levels) / min(levels) > 1.5
    slower = measured["drifting usual"] / measured["calm usual"]
    for kind in ("", " layers"):
        calm, drifting = measured[f"calm{kind}"], measured[f"drifting{kind}"]
        assert calm.keys() == drifting.keys()
        assert max(abs(drifting[key] / slower / calm[key] - 1) for key in calm) < 0.05


def test_what_earlier_sittings_measured_in_vain_may_be_measured_again(packed, monkeypatch):
    """After a noisy sitting the same command must have time left, or it could never succeed."""
    plan = packed()
    _, units = measure(plan, script="noise=0.5", budget_s=1e-9)
    assert {unit.round for unit in units} == {0, 1}
    monkeypatch.setattr(samples, "calm_share", lambda unit: 0.0)
    monkeypatch.setattr(run, "EARLY_LOOK_S", float("inf"))
    _, units = measure(plan, script="noise=0.5", budget_s=1e-9)
    assert {unit.round for unit in units} == {0, 1, 2}


def test_what_lacks_calm_rounds_is_measured_again_beyond_the_budget(packed, monkeypatch):
    plan = packed()

    def calm(units):
        return {(unit.probe, unit.round) for unit in units if unit.probe != "probe1" or unit.round >= 3}

    monkeypatch.setattr(samples, "calm_rounds", calm)
    monkeypatch.setattr(run, "PATIENCE", 1e12)
    _, units = measure(plan, script="noise=0.5", budget_s=1e-9, max_rounds=6)
    assert [unit.round for unit in units if unit.probe == "probe1"] == [0, 1, 2, 3, 4]  # the last two are calm
    assert {unit.round for unit in units if unit.probe != "probe1"} == {0, 1}


def test_patience_ends(packed, monkeypatch):
    plan = packed()
    monkeypatch.setattr(samples, "calm_share", lambda unit: 0.0)
    monkeypatch.setattr(run, "EARLY_LOOK_S", float("inf"))
    _, units = measure(plan, script="noise=0.5", budget_s=0.5, max_rounds=1000)
    spent_s = sum(unit.seconds for unit in units)
    assert spent_s < run.PATIENCE * 0.5 + 2 * max(unit.seconds for unit in units)


def test_every_round_has_a_process_of_its_own(packed, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(run.subprocess, "Popen", lambda *args, **options: started.append(1) or popen(*args, **options))
    measure(packed(2), min_rounds=3)
    assert len(started) == 3


# --- a machine on which nothing is calm -----------------------------------------------------------------------------


class Scripted:
    """Stands in for the measuring process: units of some seconds each, disturbed as a list says."""

    def __init__(self, disturbed, unit_s):
        self.disturbed, self.unit_s, self.asked = disturbed, unit_s, 0

    def __call__(self, plan, settings, effort):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def measure(self, probe, number):
        waited = 0.31 if next(self.disturbed) else 0.0
        self.asked += 1
        times = (1000.0,) * 8
        return Unit(probe=probe.name, round=number, canary_us=times, total_us=times, waited=waited, seconds=self.unit_s)


@pytest.fixture
def units_of(monkeypatch):
    """Return a function: whether each unit is disturbed, and its seconds -> the measuring process that says so."""

    def script(disturbed, *, unit_s=2.0):
        monkeypatch.setattr(run, "_Child", child := Scripted(iter(disturbed), unit_s))
        return child

    return script


LONG = {"budget_s": 300.0, "min_rounds": 50, "max_rounds": 50}


def test_a_run_of_which_nothing_is_calm_ends_within_a_minute_and_says_what_was_seen(packed, units_of):
    plan, child = packed(), units_of(repeat(True))
    with pytest.raises(TooNoisyError) as caught:
        measure(plan, **LONG)
    assert child.asked * 2.0 == 60.0 == run.EARLY_LOOK_S
    assert str(caught.value).startswith("everything measured so far was disturbed (waited 31%); stop other work")


def test_one_or_two_long_units_end_no_run(packed, units_of):
    child = units_of(chain([True, True], repeat(False)), unit_s=100.0)
    measure(packed(), min_rounds=2, max_rounds=2)
    assert child.asked == 8


def test_what_a_run_without_calm_units_stored_stays_and_the_same_command_goes_on(packed, units_of):
    plan = packed()
    units_of(repeat(True))
    with pytest.raises(TooNoisyError):
        measure(plan, **LONG)
    before = run.stored(plan.folder / "journal")
    assert len(before) == 30
    units_of(chain(repeat(True, 20), repeat(False)))  # the neighbour leaves in the second sitting
    _, units = measure(plan, **LONG)
    assert {(unit.probe, unit.round) for unit in before} < {(unit.probe, unit.round) for unit in units}
    child = units_of(repeat(True))
    (plan.folder / "journal").unlink()
    for _ in range(2):  # as long as it stays, each sitting ends as the first one
        with pytest.raises(TooNoisyError):
            measure(plan, **LONG)
    assert child.asked == 60


@pytest.mark.parametrize("first_calm", [0, 1, 29])
def test_one_calm_unit_in_the_first_minute_lets_a_run_go_on(packed, units_of, first_calm):
    child = units_of(chain(repeat(True, first_calm), [False], repeat(True)))
    measure(packed(), **LONG)
    assert child.asked == 200


@pytest.mark.parametrize("begin", range(0, 20, 3))
def test_a_neighbour_that_is_there_for_a_third_of_the_time_does_not_end_a_run(packed, units_of, begin):
    there = (index % 20 < 6 for index in range(begin, 1000))
    child = units_of(there)
    measure(packed(), **LONG)
    assert child.asked == 200


def test_what_the_canary_tells_of_a_scripted_clock_ends_a_run_too(packed, monkeypatch):
    monkeypatch.setattr(run, "EARLY_LOOK_S", 0.0)
    monkeypatch.setattr(run, "EARLY_LOOK_UNITS", 1)
    plan = packed()
    with pytest.raises(TooNoisyError, match=r"everything measured so far was disturbed \(canary swings by 200%\)"):
        measure(plan, script="slow_canary=0-200*3")  # two runs to warm up and the first four, of 39 ms each
    assert len(run.stored(plan.folder / "journal")) == 1


LOUD = """
import os, sys
from pathlib import Path
from profilers import child, replay
from profilers.backend import Settings

load = replay._ReplayBackend.load

def loud(*arguments, **options):
    os.write(1, b"{hello from C}\\n")
    return load(*arguments, **options)

replay._ReplayBackend.load = loud
child.serve(Path(sys.argv[1]), Settings(runtime="replay"), memory_bytes=0)
"""


def test_a_runtime_that_prints_does_not_garble_the_answers(packed):
    order = {"probe": "probe0", "round": 0, "rhythm": {"blocks": 1, "min_runs": 1, "max_runs": 1}}
    ended = subprocess.run(
        [sys.executable, "-c", LOUD, str(packed(1).folder)],
        input=json.dumps(order) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ended.stdout)["status"] == "ok"
    assert "hello from C" in ended.stderr


# --- a machine that is not calm, on a scripted clock ----------------------------------------------------------------

CLOSE = 0.05  # what a median may be off
NOISE = "noise=0.02"


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """What a profile on a scripted clock gave: its units with the time they took, and its rows over the canary."""

    units: list
    spans_ms: dict
    rows: dict
    noisy: set

    @property
    def length_ms(self):
        return max(end for _, end in self.spans_ms.values())


def sitting(plan, *, script="", **options):
    folder = plan.folder / f"sitting{len(list(plan.folder.glob('sitting*')))}"
    folder.mkdir()
    clock, spans_ms, begin_ms = folder / "clock", {}, 0.0
    clock.touch()

    def tick(found):
        nonlocal begin_ms
        end_ms = float(clock.read_text()) / 1e3
        spans_ms[len(spans_ms)] = (begin_ms, end_ms)
        begin_ms = end_ms

    effort = {"rhythm": Rhythm(), "budget_s": 20.0, "max_rounds": 12} | options
    _, units = measure(
        plan, script=f"{NOISE} clock={clock} {script}", journal=folder / "journal", on_tick=tick, **effort
    )
    order = sqlite3.connect(folder / "journal")
    keys = order.execute("SELECT probe, round FROM units ORDER BY rowid").fetchall()
    order.close()
    usual = statistics.median(map(samples.canary_level_us, samples.trusted(units)))
    rows = samples.layers(plan, units)
    return Sitting(
        units=units,
        spans_ms={key: spans_ms[index] for index, key in enumerate(keys)},
        rows={row.spec: row.median_us / usual for row in rows},
        noisy={row.spec for row in rows if row.status != "ok"},
    )


def windows(chance, *, until_ms, shortest_ms, longest_ms, share, factor):
    """Return windows of random lengths that hold a share of the clock."""
    found, now_ms = [], chance.uniform(0, longest_ms)
    while now_ms < until_ms:
        length_ms = shortest_ms * (longest_ms / shortest_ms) ** chance.random()
        found.append((now_ms, now_ms + length_ms, factor))
        now_ms += length_ms + length_ms * (1 - share) / share * chance.uniform(0.5, 1.5)
    return found


def words(found):
    return ",".join(f"{begin:.3f}-{end:.3f}*{factor:.3f}" for begin, end, factor in found)


def share_within(span, found):
    begin, end = span
    return sum(max(0.0, min(end, to) - max(begin, start)) for start, to, _ in found) / (end - begin)


def levels(unit):
    """Return what a unit says of its network and of each of its layers, over its canary.

    A layer's share is taken as profiled. What the profiler adds is found from all units; rows are judged without it.
    """
    usual = samples.canary_level_us(unit)
    times_us = samples.unprofiled_us(unit, 0.0) if unit.nodes_us else {}
    nodes = {name: statistics.median(values) / usual for name, values in times_us.items()}
    return nodes | {"": statistics.median(unit.total_us) / usual}


def spoilt_parts(calm, found):
    """Return the blocks that say another time than in quiet, of their network or of one of its layers."""
    quiet = {unit.probe: levels(unit) for unit in calm.units}
    return {
        key_of(part)
        for part in samples.parts(found.units)
        if any(abs(level / quiet[part.probe][name] - 1) > CLOSE for name, level in levels(part).items())
    }


def key_of(part):
    return part.probe, part.round, part.block


def seen_at_their_best(calm, found):
    """Return the networks of which a quarter of some round's runs took what they take in quiet."""
    quiet = {unit.probe: levels(unit)[""] for unit in calm.units}
    return {
        unit.probe
        for unit in found.units
        if sorted(unit.total_us)[len(unit.total_us) // 4] / samples.canary_level_us(unit)
        <= (1 + CLOSE) * quiet[unit.probe]
    }


def far_off(calm, found):
    assert calm.rows.keys() == found.rows.keys()
    return {spec for spec, value in calm.rows.items() if abs(found.rows[spec] / value - 1) > CLOSE}


@pytest.mark.promise("T8", 10)
@pytest.mark.parametrize("slowed", ["slow", "slow_canary", "slow_probes"])
def test_what_a_neighbour_slowed_is_found_and_measured_again(packed, tries, slowed):
    """A network that was slow in every round, while the canary never was, is a slow network for all anyone knows."""
    plan = packed(8, side=128)
    calm = sitting(plan)
    unit_ms = calm.length_ms / len(calm.units)
    spoilt = flagged = 0
    for number in tries:
        chance = random.Random(number + 1)
        busy = windows(
            chance,
            until_ms=20 * calm.length_ms,
            shortest_ms=0.1 * unit_ms,
            longest_ms=unit_ms,
            share=0.3,
            factor=chance.uniform(1.3, 2.5),
        )
        found = sitting(plan, script=f"{slowed}={words(busy)}")
        assert sum(share_within(span, busy) > 0 for span in found.spans_ms.values()) > 0.2 * len(found.units)
        known = seen_at_their_best(calm, found)
        assert len(known) >= 0.8 * len(plan.probes)
        bad, wrong = samples.contaminated(found.units), {key for key in spoilt_parts(calm, found) if key[0] in known}
        spoilt, flagged = spoilt + len(wrong), flagged + len(wrong & bad)
        again = {part.probe for part in samples.parts(found.units) if key_of(part) not in bad}
        noisy = {row.name for row in samples.networks(found.units) if row.status == "noisy"}
        assert {probe for probe, *_ in wrong & bad} <= again | noisy
        far = far_off(calm, found) & {node.spec for probe in plan.probes if probe.name in known for node in probe.nodes}
        assert len(found.noisy) > MAX_NOISY_SHARE * len(found.rows) or len(far) <= 0.05 * len(calm.rows)
    assert spoilt > 0
    assert flagged >= 0.95 * spoilt


@pytest.mark.promise("T9", 10)
@pytest.mark.parametrize("kind", ["slow", "throttle"], ids=["the clock halves unseen", "a sensor tells"])
def test_no_row_of_a_slow_window_passes_for_calm(packed, tries, kind):
    plan = packed(6, side=128)
    calm = sitting(plan)
    unit_ms = calm.length_ms / len(calm.units)
    for number in tries:
        chance = random.Random(number)
        told = kind == "throttle"
        slow = windows(
            chance,
            until_ms=20 * calm.length_ms,
            shortest_ms=(0.05 if told else 1.2) * unit_ms,
            longest_ms=6 * unit_ms,
            share=0.3,
            factor=chance.uniform(1.0, 2.0) if told else 2.0,
        )
        found = sitting(plan, script=f"{kind}={words(slow)}")
        hit = {key for key, span in found.spans_ms.items() if share_within(span, slow) > (0.05 if told else 0.99)}
        assert hit
        calm_rounds = samples.calm_rounds(found.units)
        assert not hit & calm_rounds
        again = {probe for probe, _ in calm_rounds}
        noisy = {row.name for row in samples.networks(found.units) if row.status == "noisy"}
        assert {probe for probe, _ in hit} <= again | noisy
        assert far_off(calm, found) <= found.noisy


@pytest.mark.promise("T9")
@pytest.mark.parametrize("script", ["cold=1000", "idle=3", "cold=1000 idle=3"])
def test_a_cold_first_run_and_one_after_an_idle_gap_move_no_row(packed, script):
    plan = packed(4)
    calm, found = sitting(plan), sitting(plan, script=script)
    assert found.length_ms > calm.length_ms
    assert far_off(calm, found) == found.noisy == set()


@pytest.mark.promise("T9")
def test_networks_of_few_runs_that_idle_gaps_move_are_marked(packed):
    plan = packed(2, side=64)
    few = {"rhythm": Rhythm(max_runs=2), "max_rounds": 3}
    calm, found = sitting(plan, **few), sitting(plan, script="idle=3", **few)
    assert far_off(calm, found)
    assert far_off(calm, found) <= found.noisy


@pytest.mark.promise("T9", 10)
def test_a_governor_that_changes_in_mid_run_ends_it_and_leaves_what_came_before(packed, tries, monkeypatch):
    plan = packed()
    whole = keys(measure(plan, journal=plan.folder / "whole")[1])
    for number in tries:
        journal, before = plan.folder / f"journal{number}", random.Random(number).randrange(len(whole))
        told = chain(repeat("performance", 1 + before), repeat("powersave"))
        monkeypatch.setattr(sensors, "governor", lambda told=told: next(told))
        ticks = []
        with pytest.raises(ForeignTableError, match="changed from performance to powersave"):
            measure(plan, journal=journal, on_tick=ticks.append)
        assert len(ticks) == before
        monkeypatch.setattr(sensors, "governor", lambda: "performance")
        _, units = measure(plan, journal=journal, on_tick=ticks.append)
        assert keys(units) == whole
        assert len(ticks) == len(whole)
