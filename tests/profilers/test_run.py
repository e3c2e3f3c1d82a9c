"""A plan is measured unit by unit: failures are marked and passed over, and a second call goes on."""

import json
import sqlite3
import statistics
import subprocess
import sys

import pytest

from deepmad_hw.errors import DeviceLostError, ForeignTableError
from profilers import run, samples
from profilers.backend import Settings
from profilers.journal import device_lock
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
    [({"threads": 2}, "begun with threads = 1, now it is 2"), ({"plan": True}, "begun with plan = ")],
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


def test_drift_is_divided_out_of_a_whole_run(packed):
    plan = packed()
    measured = {}
    for name, script in (("calm", ""), ("drifting", "drift=4")):
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
    monkeypatch.setattr(samples, "disturbed", lambda unit: True)
    _, units = measure(plan, script="noise=0.5", budget_s=1e-9)
    assert {unit.round for unit in units} == {0, 1, 2}


def test_what_nothing_trustworthy_is_known_of_is_measured_again_beyond_the_budget(packed, monkeypatch):
    plan = packed()

    def bad(units):
        return {(unit.probe, unit.round) for unit in units if unit.probe == "probe1" and unit.round < 3}

    monkeypatch.setattr(samples, "contaminated", bad)
    monkeypatch.setattr(run, "PATIENCE", 1e12)
    _, units = measure(plan, script="noise=0.5", budget_s=1e-9, max_rounds=6)
    assert [unit.round for unit in units if unit.probe == "probe1"] == [0, 1, 2, 3]
    assert {unit.round for unit in units if unit.probe != "probe1"} == {0, 1}


def test_patience_ends(packed, monkeypatch):
    plan = packed()
    monkeypatch.setattr(samples, "disturbed", lambda unit: True)
    _, units = measure(plan, script="noise=0.5", budget_s=0.5, max_rounds=1000)
    spent_s = sum(unit.seconds for unit in units)
    assert spent_s < run.PATIENCE * 0.5 + 2 * max(unit.seconds for unit in units)


def test_every_round_has_a_process_of_its_own(packed, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(run.subprocess, "Popen", lambda *args, **options: started.append(1) or popen(*args, **options))
    measure(packed(2), min_rounds=3)
    assert len(started) == 3


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
