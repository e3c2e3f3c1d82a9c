"""What a machine does just before a measurement is said with what it means; a quiet one is passed over."""

from dataclasses import replace

import pytest

from deepmad_hw.workflows.profiling import outlook as workflow
from deepmad_hw.workflows.profiling.outlook import Seen, look, outlook
from profilers import environment

QUIET = Seen(cores=2, busy_cores=0.1, load=0.2, stolen_share=0.01, governor="performance")
AGAIN = "disturbed times are measured again, for up to 1.5 times as long"
MOST = "most times will be disturbed; stop that, or expect exit code 6"


def test_of_a_quiet_machine_nothing_is_said():
    assert outlook(QUIET) == ()


@pytest.mark.parametrize(
    ("change", "threads", "said"),
    [
        ({"busy_cores": 0.8}, 1, ("other programs use about 0.8 of 2 cores", AGAIN)),
        ({"busy_cores": 0.8}, 2, ("other programs use about 0.8 of 2 cores", MOST)),
        ({"busy_cores": 1.9}, 1, ("other programs use about 1.9 of 2 cores", MOST)),
        ({"load": 0.9}, 1, ("programs used about 0.9 of 2 cores over the last minute", AGAIN)),
        ({"load": 0.9, "busy_cores": None}, 1, ("programs used about 0.9 of 2 cores over the last minute", AGAIN)),
        ({"stolen_share": 0.07}, 1, ("the host takes away 7% of processor time", MOST)),
        ({"governor": "powersave"}, 1, ("the frequency governor is powersave", AGAIN)),
    ],
)
def test_what_disturbs_is_said_with_what_it_means(change, threads, said):
    lines = outlook(replace(QUIET, **change), threads=threads)
    assert lines[0].startswith("not quiet here: ")
    assert all(words in lines[0] for words in said)
    assert len(lines) <= 2
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"busy_cores": None}, "unknown here: what other programs use: "),
        ({"stolen_share": None}, "unknown here: time taken by the host: "),
        ({"governor": "unknown"}, "unknown here: frequency governor: "),
        (
            {"busy_cores": None, "stolen_share": None, "governor": "unknown"},
            "unknown here: what other programs use, time taken by the host, frequency governor: ",
        ),
    ],
)
def test_what_the_system_does_not_tell_is_unknown_and_not_fine(change, said):
    (line,) = outlook(replace(QUIET, **change))
    assert line.startswith(said)


def test_a_look_takes_the_time_of_others_and_not_its_own(monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr(workflow.time, "sleep", lambda seconds: clock.update(now=clock["now"] + seconds))
    monkeypatch.setattr(workflow.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(workflow.time, "process_time", lambda: 0.5 * clock["now"])
    monkeypatch.setattr(environment, "busy_s", lambda: 100.0 + 1.3 * clock["now"])
    monkeypatch.setattr(environment, "stolen_and_total_ticks", lambda: (7 * clock["now"], 1000 + 200 * clock["now"]))
    found = look(seconds=2.0)
    assert found.busy_cores == pytest.approx(0.8)
    assert found.stolen_share == pytest.approx(0.035)
    assert clock["now"] == 2.0


def test_a_system_that_tells_nothing_is_seen_as_unknown(monkeypatch):
    monkeypatch.setattr(environment, "_read", lambda path: "")
    found = look(seconds=0.0)
    assert (found.busy_cores, found.stolen_share, found.governor) == (None, None, "unknown")


def test_this_machine_is_looked_at():
    found = look(seconds=0.01)
    assert found.busy_cores is None or found.busy_cores >= 0
    assert found.cores >= 1
    assert len(outlook(found)) <= 2
