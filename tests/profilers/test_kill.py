"""A measurement meets kills, Ctrl-C, full disks and rivals: nothing shown is lost, and the same command goes on."""

import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand

QUICKER = 10  # so often a measurement may end before what was to strike it
LAUNCHER = Path(__file__).with_name("faulty.py")
SMALL = """\
space:
  family: bottleneck
  resolution: 64
  classes: 10
  stem: {out: [16, 24]}
  stages:
    - {stride: 2, out: [32, 64], bottleneck: [8, 16], depth: [1, 2]}
limits:
  macs: 50M
"""
# Where the last kills of each fifty come: around the result file's way to the disk, its new name, and its folder's.
WRITING = [("fsync", "before", 1), ("replace", "before", 1), ("replace", "after", 1), ("fsync", "after", 2)]


def pack(folder, probes):
    """Write a plan of small networks, all of them alike."""
    stage = Stage(out=16, bottleneck=16, kernel=3, stride=2, depth=1)
    architecture = Architecture(family="basic", resolution=(32, 32), stem=Stem(out=8), stages=(stage,), classes=10)
    graphs = [expand(architecture, name=f"probe{index:03}") for index in range(probes)]
    write_plan(folder, [PackedProbe(name=graph.name, graph=graph, by_layer=True) for graph in graphs])
    return ("profilers", "run", str(folder), "--runtime", "replay", "--minutes", "0")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Return a command that measures 120 units."""
    return pack(tmp_path_factory.mktemp("many"), 60)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Return a command that measures 10 units."""
    return pack(tmp_path_factory.mktemp("few"), 5)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return a function: a command -> its result when nothing happens to it."""

    @functools.cache
    def result(command):
        out = tmp_path_factory.mktemp("whole") / "whole.jsonl"
        assert sit(command, out).code == 0
        return out

    return result


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """Return a command of the host that chooses, packs and measures."""
    config = tmp_path_factory.mktemp("profile") / "small.yaml"
    config.write_text(SMALL)
    return ("deepmad-hw", "profile", "--runtime", "replay", "--minutes", "0.01", "--space", str(config))


def start(command, out, **fault):
    """Start a command as a user does, with a fault on the way (see faulty.py)."""
    words = [sys.executable, str(LAUNCHER), json.dumps(fault), *command, "--out", str(out)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(words, text=True, start_new_session=True, **pipes)


def ended(process):
    """Return the exit code and what was left of standard error."""
    with process:
        return process.wait(120), process.stderr.read()


def stored(out):
    """Return the rows of a journal, read from a copy: the next start meets what the last one left."""
    journal, copy = out.with_suffix(".journal"), out.with_suffix(".copy")
    if not journal.exists():
        return []
    for ending in ("", "-wal"):
        copy.with_name(f"{copy.name}{ending}").unlink(missing_ok=True)
        if journal.with_name(f"{journal.name}{ending}").exists():
            shutil.copy(f"{journal}{ending}", f"{copy}{ending}")
    connection = sqlite3.connect(copy)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name = 'units'")]
    rows = connection.execute("SELECT probe, round, unit FROM units ORDER BY rowid").fetchall() if tables else []
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


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """What a command did from its start to its end.

    Args:
        code: exit code.
        shown: (units stored, probe) of the lines that it showed.
        said: its other lines on standard error.
        begun: (probe, round) of each unit that it began to measure.
        before: the journal's rows before.
        after: the journal's rows after.
    """

    code: int
    shown: list
    said: list
    begun: list
    before: list
    after: list

    @property
    def lost(self):
        """Return how many units were begun and will be measured again."""
        return len(self.begun) - (len(self.after) - len(self.before))


def sit(command, out, interrupt=lambda process: [], *, watched=True, **fault):
    """Let a command run until it ends, fail if it lost what it had stored or shown, and return what it did.

    Args:
        command: what to run.
        out: its result.
        interrupt: given the process, ends it or not; returns the lines that it read from standard error.
        watched: note what it begins to measure, for which a part of it is loaded beforehand.
        fault: see faulty.py.
    """
    before, orders = stored(out), out.with_suffix(".orders")
    orders.write_text("")
    with start(command, out, **fault, **({"orders": str(orders)} if watched else {})) as process:
        lines = interrupt(process)
        code, rest = ended(process)
    lines += rest.splitlines()
    found = [re.match(r"(\d+)/\d+ (\S+) ok, about", line) for line in lines]
    events = [line.split() for line in orders.read_text().splitlines()]
    begun = [(probe, int(number)) for _, _, event, probe, number in events if event == "begun"]
    taken = out.exists() and not out.with_suffix(".journal").exists()  # a table takes its journal's place
    sitting = Sitting(
        code=code,
        shown=[(int(match[1]), match[2]) for match in found if match],
        said=[line for line, match in zip(lines, found, strict=True) if line and not match],
        begun=begun,
        before=before,
        after=[*before, *((*key, "") for key in begun)] if taken else stored(out),
    )
    new = sitting.after[len(before) :] if watched else []
    assert sitting.after[: len(before)] == before
    assert all(sitting.after[done - 1][0] == probe for done, probe in sitting.shown)
    assert [key for *key, _ in new] == [list(key) for key in begun[: len(new)]]
    assert not watched or sitting.lost in (0, 1)
    return sitting


# --- kills ----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("T1", 500)
def test_kills_lose_nothing_that_was_shown(many, uninterrupted, tmp_path, tries):
    """Four of five come at random moments, half of these right behind a shown unit; the fifth at a step."""
    whole = uninterrupted(many)
    outs, seen = (tmp_path / f"killed{count}.jsonl" for count in itertools.count()), []
    out = next(outs)
    for number in tries:
        fault, interrupt = a_kill(number)
        for _ in range(QUICKER):
            sitting = sit(many, out, interrupt, **fault)
            if sitting.code != 0:
                break
            require_equal(out, whole)
            out, seen = next(outs), []
        assert sitting.code == -signal.SIGKILL
        assert len(sitting.after) - len(sitting.before) <= len(sitting.shown) + 1  # one that was not shown yet
        seen += sitting.shown
        if out.exists():  # under its name it is whole
            require_equal(out, whole)
    sitting = sit(many, out)
    assert (sitting.code, sitting.lost) == (0, 0)
    require_equal(out, whole)
    seen += sitting.shown
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})  # nothing was shown twice


def a_kill(number):
    """Return the fault and the interruption of a numbered try."""
    chance, place = random.Random(number), number % 50
    if place >= 50 - len(WRITING):
        return {"kill": WRITING[place - 50]}, lambda process: []
    if place % 8 == 3:
        return {"kill": a_step(chance)}, lambda process: []
    return {}, lambda process: at_random(process, chance)


def a_step(chance):
    """Return a step on the way of the first units: statements up to the commit, or what they are made of."""
    step, most = chance.choice([("add", 4), ("execute", 16), ("execute", 16), ("instruction", 1500)])
    return step, chance.choice(["before", "after"]), chance.randint(1, most)


def at_random(process, chance):
    lines = [process.stderr.readline().rstrip() for _ in range(chance.randint(1, 3))] if chance.random() < 0.5 else []
    time.sleep(chance.uniform(0, 0.01 if lines else 0.6))
    process.kill()
    return lines


def require_equal(out, whole):
    """Fail unless a result has the units and the times of one that was never interrupted."""
    assert [row[:2] for row in stored(out)] == [row[:2] for row in stored(whole)]
    assert results(out) == results(whole)


def test_the_measuring_process_ends_with_the_one_that_was_killed(few, tmp_path):
    process = start((*few, "--script", "hang=probe000"), tmp_path / "out.jsonl")
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


def test_a_measuring_process_that_nobody_listens_to_measures_nothing(few):
    """Its parent may be killed before it can ask to end with it."""
    words = [sys.executable, "-m", "profilers", "child", few[2], "--runtime", "replay", "--script", "hang=probe000"]
    order = {"probe": "probe000", "round": 0, "rhythm": {"blocks": 1, "min_runs": 1, "max_runs": 1}}
    listener, answers = os.pipe()
    os.close(listener)
    done = subprocess.run(
        words,
        input=f"{json.dumps(order)}\n",
        stdout=answers,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(answers)
    assert (done.returncode, done.stderr) == (0, "")


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


# --- Ctrl-C and kill ------------------------------------------------------------------------------------------------


@pytest.mark.promise("T18", 50)
def test_an_interruption_ends_quietly_and_the_same_command_goes_on(many, profile, tmp_path, tries):
    """One of five meets the host's command, another one the device's while its modules load."""
    endings = {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM}  # a shell calls the second one 143
    outs = {many: tmp_path / "device.jsonl", profile: tmp_path / "host.csv"}
    for number in tries:
        command, sent, loading = profile if number % 5 == 3 else many, list(endings)[number % 2], number % 5 == 4
        interruption = Interruption(sent=sent, after_s=random.Random(number).uniform(0, 0.1 if loading else 1.5))
        sitting = interrupted(command, outs[command], interruption, watched=not loading)
        assert sitting.code == endings[sent], sitting.said
        said = "\n".join(sitting.said)
        assert "Traceback" not in said, said
        assert "Exception ignored" not in said, said
    for command, out in outs.items():
        assert sit(command, out).code == 0
        assert out.exists()


def interrupted(command, out, interruption, *, watched):
    """Return a sitting that was interrupted."""
    for _ in range(QUICKER):
        sitting = sit(command, out, interruption, watched=watched, begun=True)
        if not out.exists():
            break
        for ending in (out.suffix, ".json", ".journal", ".journal-wal", ".journal-shm"):
            out.with_suffix(ending).unlink(missing_ok=True)
    return sitting


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """Sends a signal so long after a program began, and fails if that takes two seconds to end."""

    sent: int
    after_s: float

    def __call__(self, process):
        assert process.stdout.readline() == "begun\n"
        time.sleep(self.after_s)
        begin, waited_s = time.monotonic(), waited_for_processor_s(process.pid)
        os.killpg(process.pid, self.sent)  # as a terminal does
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        waited_s = waited_for_processor_s(process.pid) - waited_s
        assert time.monotonic() - begin - waited_s < 2
        return []


def waited_for_processor_s(pid):
    """Return how long other processes kept one from running, which is no fault of its own."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


# --- full disks -----------------------------------------------------------------------------------------------------


@pytest.mark.promise("T3", 50)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on_when_there_is_room(
    few, profile, uninterrupted, tmp_path, tries
):
    whole = uninterrupted(few)
    pages = whole.with_suffix(".journal").stat().st_size // 4096
    logged = 10 * 2 * 4096  # a unit takes a page of the table and one of its index to SQLite's log, at least
    kept = 0
    for number in tries:
        chance = random.Random(number)
        command, out = (few, tmp_path / f"{number}.jsonl") if number % 10 else (profile, tmp_path / f"{number}.csv")
        fault = {"pages": chance.randrange(1, pages)}
        if number // 2 % 2:
            fault = {"bytes": chance.randrange(4096, logged)}
        full = sit(command, out, **fault)
        assert full.code == 74, full.said
        assert [line.startswith("error: ") for line in full.said[-1:]] == [True]
        assert "Traceback" not in "".join(full.said)
        assert not out.exists()
        kept += len(full.after)
        assert sit(command, out).code == 0
        if command is few:
            require_equal(out, whole)
    assert kept > 0


# --- rivals ---------------------------------------------------------------------------------------------------------


@pytest.mark.promise("T4", 100)
def test_of_two_that_start_together_one_measures(few, tmp_path, tries):
    refused = 0
    for number in tries:
        orders = tmp_path / f"{number}.orders"
        outs = [tmp_path / f"{number}{side}.jsonl" for side in "ab"]
        pair = [start(few, out, orders=str(orders), begun=True, wait=True) for out in outs]
        assert [process.stdout.readline() for process in pair] == ["begun\n"] * 2
        for process in random.Random(number).sample(pair, 2):
            process.stdin.write("\n")
            process.stdin.flush()
        for process, out in zip(pair, outs, strict=True):
            code, said = ended(process)
            assert (code, out.exists()) in {(0, True), (9, False)}
            if code == 9:
                refused += 1
                assert re.fullmatch(
                    "error: .*: another process is measuring on the cpu; wait until it has ended\n", said
                )
        require_taken_in_turns(orders)
        assert any(out.exists() for out in outs)
    assert refused > 0


def require_taken_in_turns(orders):
    """Fail if a unit was begun while another process was measuring one."""
    events = sorted((line.split() for line in orders.read_text().splitlines()), key=lambda event: int(event[0]))
    assert len(events) >= 2 * 10
    for first, second in zip(events[::2], events[1::2], strict=True):
        assert (first[2], second[2]) == ("begun", "over")
        assert first[1] == second[1]
