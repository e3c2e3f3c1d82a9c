"""One unit: canary, whole runs and profiled runs take turns, and runs that were interrupted are left out."""

import itertools
from types import SimpleNamespace

import pytest

from deepmad_hw.errors import InputFileError
from profilers import timing
from profilers.backend import NodeTimes
from profilers.timing import CANARY_RUNS, WARM_UP_RUNS, Rhythm, time_unit


class Clockwork:
    """A session whose runs take 1, 2, 3, ... times as long as the first, and which writes down when it ran."""

    def __init__(self, name, log, *, us=10.0):
        self.name, self.log, self.us, self.runs, self.finished = name, log, us, 0, 0

    def run(self):
        self.log.append(self.name)
        self.runs += 1
        return self.us * self.runs

    def finish(self):
        self.finished += 1
        return NodeTimes(us={"conv": tuple(float(run) for run in range(1, self.runs + 1))}, operations={"conv": 2})


@pytest.fixture
def quiet(monkeypatch):
    """Return the list of involuntary switches to come; the processor is never stolen."""
    switches = []
    counter = SimpleNamespace(total=0)

    def usage(who):
        counter.total += switches.pop(0) if switches else 0
        return SimpleNamespace(ru_nivcsw=counter.total)

    monkeypatch.setattr(timing.resource, "getrusage", usage)
    monkeypatch.setattr(timing, "stolen_and_total_ticks", lambda: (0, 0))
    return switches


def measure(rhythm, *, profiled=True, us=10.0):
    log = []
    canary, whole = Clockwork("canary", log), Clockwork("whole", log, us=us)
    watched = Clockwork("profiled", log) if profiled else None
    unit = time_unit("net", 3, canary=canary, whole=whole, profiled=watched, rhythm=rhythm)
    return unit, log, (canary, whole, watched)


def test_the_three_take_turns_after_a_warm_up(quiet):
    _, log, _ = measure(Rhythm(blocks=2, min_runs=2, max_runs=2))
    warm = ["canary", "whole", "profiled"] * WARM_UP_RUNS
    block = ["canary"] * CANARY_RUNS + ["whole"] * 2 + ["profiled"] * 2
    assert log == warm + block * 2 + ["canary"] * CANARY_RUNS


def test_warm_up_runs_are_no_samples(quiet):
    unit, _, _ = measure(Rhythm(blocks=2, min_runs=3, max_runs=3))
    assert unit.total_us == tuple(10.0 * run for run in range(3, 9))
    assert unit.nodes_us == {"conv": (3.0, 4.0, 5.0, 6.0, 7.0, 8.0)}
    assert len(unit.canary_us) == 3 * CANARY_RUNS
    assert (unit.probe, unit.round, unit.status, unit.operations) == ("net", 3, "ok", {"conv": 2})


@pytest.mark.parametrize(
    ("block_us", "runs"),
    [(0.0, 2), (100.0, 5), (1e9, 7)],  # the last warm-up run takes 20 us; at least 2, at most 7
)
def test_a_block_has_as_many_runs_as_its_time_allows(quiet, block_us, runs):
    unit, _, _ = measure(Rhythm(blocks=1, block_us=block_us, min_runs=2, max_runs=7))
    assert len(unit.total_us) == len(unit.nodes_us["conv"]) == runs


def test_a_network_without_profiler_has_no_node_times(quiet):
    unit, log, _ = measure(Rhythm(blocks=1, min_runs=2, max_runs=2), profiled=False)
    assert unit.nodes_us == {}
    assert "profiled" not in log


@pytest.mark.parametrize("us", [{}, {"conv": (0.0,) * 4}])
def test_a_profile_without_times_is_an_error(quiet, monkeypatch, us):
    monkeypatch.setattr(Clockwork, "finish", lambda self: NodeTimes(us=us))
    with pytest.raises(InputFileError, match="net: the runtime's profile tells no time"):
        measure(Rhythm(blocks=1, min_runs=2, max_runs=2))


def test_only_the_profiled_session_is_finished(quiet):
    _, _, (canary, whole, watched) = measure(Rhythm(blocks=1, min_runs=2, max_runs=2))
    assert (canary.finished, whole.finished, watched.finished) == (0, 0, 1)


def test_interrupted_runs_are_left_out(quiet):
    quiet += [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]  # before and after each of five whole runs: the second is interrupted
    quiet += [0, 0, 0, 0, 0, 0, 0, 0, 0, 2]  # the fifth of five profiled runs
    unit, _, _ = measure(Rhythm(blocks=1, min_runs=5, max_runs=5))
    assert unit.total_us == (30.0, 50.0, 60.0, 70.0)
    assert unit.nodes_us == {"conv": (3.0, 4.0, 5.0, 6.0)}


def test_if_nearly_all_runs_were_interrupted_all_are_kept(quiet):
    quiet += [0, 1] * 4 + [0, 0]
    unit, _, _ = measure(Rhythm(blocks=1, min_runs=5, max_runs=5), profiled=False)
    assert len(unit.total_us) == 5


@pytest.mark.parametrize(
    ("before", "after", "stolen"),
    [((10, 1000), (20, 1200), 0.05), ((10, 1000), (11, 1001), 0.02)],
)
def test_the_share_that_a_hypervisor_took_needs_enough_ticks_to_be_one(quiet, monkeypatch, before, after, stolen):
    answers = [before, after]
    monkeypatch.setattr(timing, "stolen_and_total_ticks", lambda: answers.pop(0))
    unit, _, _ = measure(Rhythm(blocks=1, min_runs=2, max_runs=2))
    assert unit.stolen == pytest.approx(stolen)


@pytest.mark.promise("T9")
def test_what_the_system_does_not_tell_of_its_disturbances_is_not_none_of_them(quiet, monkeypatch):
    monkeypatch.setattr(timing, "waited_ns", lambda: None)
    unit, _, _ = measure(Rhythm(blocks=1, min_runs=2, max_runs=2))
    assert (unit.stolen, unit.waited) == (None, None)


def test_a_script_does_not_feel_this_machine(quiet, monkeypatch):
    quiet += [0, 1] * 5
    monkeypatch.setattr(timing, "waited_ns", itertools.count(step=10**12).__next__)
    sessions = {name: Clockwork(name, []) for name in ("canary", "whole")}
    rhythm = Rhythm(blocks=1, min_runs=9, max_runs=9)
    felt, scripted = (
        time_unit("net", 0, **sessions, profiled=None, rhythm=rhythm, scripted=each) for each in (False, True)
    )
    assert (len(felt.total_us), len(scripted.total_us)) == (4, 9)
    assert felt.waited > scripted.waited == scripted.stolen == 0.0


def test_a_system_without_disturbances_tells_so(quiet, monkeypatch):
    monkeypatch.setattr(timing, "stolen_and_total_ticks", lambda: (3, 1000))
    monkeypatch.setattr(timing, "waited_ns", lambda: 5)
    unit, _, _ = measure(Rhythm(blocks=1, min_runs=2, max_runs=2))
    assert (unit.stolen, unit.waited) == (0.0, 0.0)
