"""`python -m profilers run` may be killed at any moment: the same command goes on and loses nothing that was shown."""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 10


def start(plan, out, *options, **popen):
    command = [sys.executable, "-m", "profilers", "run", str(plan.folder), "--runtime", "replay"]
    return subprocess.Popen(
        [*command, "--minutes", "0", "--out", str(out), *options], stderr=subprocess.PIPE, text=True, **popen
    )


def ended(process):
    """Return the exit code and what was left of standard error."""
    with process:
        return process.wait(60), process.stderr.read()


def ticks_of(lines):
    """Return (units stored, probe) of the lines that `python -m profilers run` shows."""
    found = (re.match(r"(\d+)/\d+ (\S+) ok, about", line) for line in lines)
    return [(int(match[1]), match[2]) for match in found if match]


def stored(out):
    """Return the keys in a journal as a kill left it, read as any program would."""
    journal = out.with_suffix(".journal")
    if not journal.exists():
        return []
    connection = sqlite3.connect(journal)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name = 'units'")]
    rows = connection.execute("SELECT probe, round FROM units ORDER BY rowid").fetchall() if tables else []
    connection.close()
    return rows


def results(out):
    """Return what a finished run says: where, and for each probe and layer the status and distinct times."""
    where, *rows = [json.loads(line) for line in out.read_text().splitlines()]
    found = {}
    for row in rows:
        data = row.get("layer") or row.get("network")
        if data is None:  # the canary's times, which differ from run to run
            continue
        times = {f"{value:.3g}" for value in data["samples_us"]}
        found[json.dumps(data.get("spec") or data["name"])] = (data["status"], times)
    return where, found


def test_kills_at_random_moments_lose_nothing_that_was_shown(packed, tmp_path):
    plan = packed(150)  # so many that no machine measures them all between two kills
    whole, out = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    code, _ = ended(start(plan, whole))
    assert code == 0
    expected = stored(whole)
    assert len(expected) == 2 * 151

    chance = random.Random(7)
    shown, kills = [], 0
    for _ in range(KILLS):
        before = stored(out)
        process = start(plan, out)
        lines = [process.stderr.readline() for _ in range(chance.randrange(4))]
        time.sleep(chance.random() * (0.01 if lines else 0.4))
        process.kill()
        code, rest = ended(process)
        kills += code == -signal.SIGKILL
        seen = ticks_of([*lines, *rest.splitlines()])
        after = stored(out)
        assert after[: len(before)] == before
        assert all(after[done - 1][0] == probe for done, probe in seen)  # what was shown is stored, in its place
        assert len(after) - len(before) <= len(seen) + 1  # at most one unit stored that was not shown yet
        shown += seen
    assert kills == KILLS

    code, rest = ended(start(plan, out))
    shown += ticks_of(rest.splitlines())
    assert code == 0
    assert stored(out) == expected
    assert [done for done, _ in shown] == sorted({done for done, _ in shown})  # nothing was measured twice
    assert len(expected) - len(shown) <= KILLS
    assert results(out) == results(whole)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_an_interruption_ends_quietly_and_the_same_command_goes_on(packed, tmp_path, sent, code):
    plan, out = packed(6), tmp_path / "out.jsonl"
    process = start(plan, out, start_new_session=True)
    lines = [process.stderr.readline() for _ in range(3)]
    os.killpg(process.pid, sent)  # as a terminal does: to the measuring process too
    found, rest = ended(process)
    assert found == code
    assert "Traceback" not in rest
    assert not out.exists()
    before = stored(out)
    assert len(before) >= len(ticks_of(lines)) == 3
    assert ended(start(plan, out))[0] == 0
    assert stored(out)[: len(before)] == before
    assert len(stored(out)) == 14


def test_the_measuring_process_ends_with_the_one_that_was_killed(packed, tmp_path):
    process = start(packed(1), tmp_path / "out.jsonl", "--script", "hang=probe0")
    deadline = time.monotonic() + 30
    while not (found := children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    (child,) = found
    time.sleep(0.5)  # it asks the system for this right after its start
    process.kill()
    ended(process)
    while state(child) not in "ZX" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state(child) in "ZX"


def children(parent):
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if status(pid)[1:2] == [str(parent)]]


def state(pid):
    return status(pid)[0]


def status(pid):
    """Return state and parent of a process; X is one that has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return ["X"]
