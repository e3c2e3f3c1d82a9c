"""The replay backend does what its script says."""

from dataclasses import replace

import pytest

from deepmad_hw.errors import InputFileError
from deepmad_hw.network.layer import LayerSpec
from profilers import replay
from profilers.backend import Settings
from profilers.plan import LAYERS
from profilers.replay import BACKEND, FILE_US, PROFILER_US_PER_NODE, layer_us


def test_a_convolution_by_hand():
    spec = LayerSpec(op="conv", in_channels=8, out_channels=16, height=10, width=20, kernel=3, stride=2)
    macs = 5 * 10 * 8 * 9 * 16
    values = 8 * 200 + 16 * 50
    assert layer_us(spec, gmacs=20) == pytest.approx(1 + macs / 20e3 + values * 4 / 4e3)


def test_a_residual_is_read_once_more():
    plain = LayerSpec(op="conv", in_channels=8, out_channels=8, height=10, width=10)
    added = LayerSpec(op="conv", in_channels=8, out_channels=8, height=10, width=10, residual=True)
    assert layer_us(added, gmacs=20) - layer_us(plain, gmacs=20) == pytest.approx(8 * 100 * 4 / 4e3)


def test_a_pool_has_no_multiply_adds():
    pool = LayerSpec(op="global_pool", in_channels=8, out_channels=8, height=10, width=10)
    assert layer_us(pool, gmacs=1e-9) == pytest.approx(1 + (800 + 8) * 4 / 4e3)


def load(plan, *, script="", profiled=False, name="probe0"):
    probe = next(probe for probe in plan.probes if probe.name == name)
    return BACKEND.load(plan, probe, Settings(runtime="replay", script=script), profiled=profiled)


def test_a_run_is_the_sum_of_its_layers(packed):
    plan = packed()
    expected = sum(layer_us(node.spec, gmacs=5) for node in plan.probes[0].nodes)
    assert load(plan, script="gmacs=5").run() == pytest.approx(expected)


def test_a_network_without_layers_takes_a_fixed_time(packed):
    plan = packed()
    session = replay._ReplaySession(BACKEND, plan, replace(plan.probes[0], nodes=()), {}, profiled=False)
    assert session.run() == FILE_US


def test_profiling_costs_time_per_node(packed):
    plan = packed()
    nodes = len(plan.probes[0].nodes)
    assert load(plan, profiled=True).run() - load(plan).run() == pytest.approx(nodes * PROFILER_US_PER_NODE)


def test_drift_slows_all_sessions_of_a_process_together(packed, monkeypatch):
    plan = packed()
    monkeypatch.setattr(BACKEND, "runs", 0)
    first, other = load(plan, script="drift=1"), load(plan, script="drift=1")
    times = [first.run() for _ in range(500)]
    assert times[499] / times[0] == pytest.approx(1.5 / 1.001)
    assert other.run() > times[499]


def test_noise_is_bounded_and_the_same_again(packed):
    plan = packed()
    quiet = load(plan).run()
    times = [load(plan, script="noise=0.1").run() for _ in range(2)]
    session = load(plan, script="noise=0.1")
    spread = [session.run() / quiet for _ in range(50)]
    assert times[0] == times[1]
    assert 1 <= min(spread) < max(spread) <= 1.1


def test_a_clock_runs_on_from_process_to_process(packed, tmp_path):
    plan, file = packed(), tmp_path / "clock"
    first = load(plan, script=f"clock={file}")
    spent_us = first.run() + first.run()
    assert float(file.read_text()) == pytest.approx(spent_us, abs=1e-3)
    other = replay._ReplayBackend()  # as in another process
    session = other.load(plan, plan.probes[1], Settings(runtime="replay", script=f"clock={file}"), profiled=False)
    assert float(file.read_text()) == pytest.approx(spent_us, abs=1e-3)
    spent_us += session.run()
    assert float(file.read_text()) == pytest.approx(spent_us, abs=1e-3)


@pytest.mark.parametrize(
    ("word", "canary", "probe"), [("slow", 2.0, 2.0), ("slow_canary", 2.0, 1.0), ("slow_probes", 1.0, 2.0)]
)
def test_runs_that_begin_in_a_window_take_longer(packed, tmp_path, word, canary, probe):
    plan = packed()
    names, expected = (plan.canary, plan.probes[0]), (canary, probe)
    for index, (each, factor) in enumerate(zip(names, expected, strict=True)):
        script = f"clock={tmp_path / str(index)} {word}=1-2*2.0"
        session = BACKEND.load(plan, each, Settings(runtime="replay", script=script), profiled=False)
        usual_us = session.run()
        clock = BACKEND.clock(str(tmp_path / str(index)))
        for now_us, times in ((999.0, 1.0), (1000.0, factor), (1999.0, factor), (2000.0, 1.0)):
            clock.now_us = now_us
            assert session.run() == pytest.approx(usual_us * times)


def test_a_throttled_run_is_told_once_whoever_ran(packed, tmp_path):
    plan, script = packed(), f"clock={tmp_path / 'clock'} throttle=0-0.001*1.5"
    watched, other = load(plan, script=script), load(plan, script=script, name="probe1")
    assert watched.conditions() == {"throttled": ""}
    slow, calm = other.run(), other.run()
    assert slow == pytest.approx(1.5 * calm)
    assert [watched.conditions()["throttled"] for _ in range(2)] == ["scripted", ""]
    assert load(plan).conditions() == {}


def test_the_first_run_is_cold_and_the_first_after_another_session_slow(packed):
    plan = packed()
    session, other = load(plan, script="cold=1000 idle=3"), load(plan, name="probe1")
    usual = load(plan).run()
    other.run()
    assert [session.run() for _ in range(3)] == pytest.approx([3000 * usual, usual, usual])
    other.run()
    assert [session.run() for _ in range(2)] == pytest.approx([3 * usual, usual])


def test_all_memory_is_taken_only_where_there_is_a_limit(packed):
    with pytest.raises(InputFileError, match="probe0: scripted to use up memory, which has no limit here"):
        load(packed(), script="oom=probe0")


def test_a_failing_probe_fails_to_load_and_others_do_not(packed):
    plan = packed()
    with pytest.raises(InputFileError, match="probe0: scripted to fail"):
        load(plan, script="fail=probe0")
    assert load(plan, script="fail=probe0", name="probe1").run() > 0


def test_every_layer_of_a_probe_is_timed(packed):
    plan = packed()
    probe = plan.probes[0]
    session = load(plan, profiled=True)
    total = [session.run() for _ in range(3)]
    times = session.finish()
    assert probe.kind == LAYERS
    assert set(times.us) == {node.name for node in probe.nodes}
    assert [sum(run) for run in zip(*times.us.values(), strict=True)] == pytest.approx(total)
