"""Starts `python -m profilers` or `deepmad-hw` as a user does, with a fault on the way; tests start it as a process.

python faulty.py FAULT PROGRAM ARGUMENTS...

FAULT is a JSON object of any of these:

orders  file that gets a line when a unit is begun and one when it is over, with the time and this process
kill    [step, side, count]: the process kills itself `before` or `after` the count-th such step
pages   the journal may hold so many pages: a disk that is full, as SQLite sees it
bytes   no file may grow beyond so many bytes: a disk that is full, as the system sees it
begun   true: say "begun" on standard output when the program begins, and wait for a line if `wait` is true too
"""

import importlib
import json
import os
import resource
import signal
import sqlite3
import sys
import time
from pathlib import Path

PROGRAMS = {"profilers": "profilers.__main__", "deepmad-hw": "deepmad_hw.cli"}


class Kill:
    """Ends this process as `kill -9` does when a step has come so often."""

    def __init__(self, step="", side="", count=0):
        self.step, self.side, self._left = step, side, count

    def come(self):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner, name):
        """Let each call of a function count."""
        call = getattr(owner, name)

        def counted(*arguments, **options):
            if self.side == "before":
                self.come()
            result = call(*arguments, **options)
            if self.side == "after":
                self.come()
            return result

        setattr(owner, name, counted)


def open_with_faults(kill, pages):
    """Let SQLite open its files with a limit, or count its statements or the instructions that they are made of."""

    class Connection(sqlite3.Connection):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            if pages:
                self.execute(f"PRAGMA max_page_count = {pages}")
            if kill.step == "instruction":
                self.set_progress_handler(kill.come, 1)

    if kill.step == "execute":
        Connection.execute = sqlite3.Connection.execute
        kill.around(Connection, "execute")
    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Connection, **options)


def note_orders(path):
    """Write down when this process measures."""
    from profilers import run

    orders = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    measure = run._Child.measure

    def note(event, probe, number):
        os.write(orders, f"{time.monotonic_ns()} {os.getpid()} {event} {probe.name} {number}\n".encode())

    def noted(self, probe, number):
        note("begun", probe, number)
        unit = measure(self, probe, number)
        note("over", probe, number)
        return unit

    run._Child.measure = noted


def arm(fault):
    kill = Kill(*fault.get("kill", ()))
    if kill.step == "add":
        from profilers.journal import Journal

        kill.around(Journal, "add")
    if kill.step == "fsync":
        kill.around(os, "fsync")
    if kill.step == "replace":
        kill.around(Path, "replace")
    if kill.step in ("execute", "instruction") or "pages" in fault:
        open_with_faults(kill, fault.get("pages"))
    if "orders" in fault:
        note_orders(fault["orders"])
    if "bytes" in fault:  # Python ignores SIGXFSZ, so that a write ends with an error and not the process
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"], fault["bytes"]))


def start():
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until the program begins, which has an own way to end
    fault = json.loads(sys.argv[1])
    sys.argv = sys.argv[2:]
    main = importlib.import_module(PROGRAMS[sys.argv[0]]).main
    arm(fault)
    if fault.get("begun"):
        sys.stdout.write("begun\n")
        sys.stdout.flush()
    if fault.get("wait"):
        sys.stdin.readline()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background is born without it
    return main()


if __name__ == "__main__":
    sys.exit(start())
