"""Runs commands of `deepmad-hw` on a disk that fails at the n-th step: a write, an fsync or a rename.

Started as a program of its own, so that what it replaces stays replaced in it alone. Jobs come as lines of JSON over
standard input: the command's words, the folder that it writes to, the step in there that fails (0: none), and how:
``full`` is a write of half of the bytes and then ENOSPC, ``kill`` the same half and then SIGKILL. Each job runs in a
fork and is answered by one line: its exit code (the negative signal, if one ended it), the lines of its errors, and the
steps it took.
"""

import builtins
import contextlib
import errno
import io
import json
import os
import signal
import sys
from pathlib import Path

# What the commands need is imported before the forks.
import deepmad_hw.exporters.torch_module
import deepmad_hw.optimize.continuous
import deepmad_hw.optimize.local_search
import deepmad_hw.workflows.design.design
import deepmad_hw.workflows.export.export
import deepmad_hw.workflows.report.page
import deepmad_hw.workflows.tables.imports.tinynas
import deepmad_hw.workflows.tables.tables  # noqa: F401
from deepmad_hw.cli import main


class Disk:
    """Counts the steps inside a folder and fails at one of them."""

    def __init__(self, folder, fails_at, how):
        self.folder, self.steps, self.fails_at, self.how = folder, 0, fails_at, how

    def inside(self, place):
        """Return whether a path or a descriptor is of the folder."""
        path = Path(f"/proc/self/fd/{place}").readlink() if isinstance(place, int) else place
        return f"{path}/".startswith(f"{self.folder}/")

    def step(self):
        """Count a step, and return whether it is the one that fails."""
        self.steps += 1
        return self.steps == self.fails_at

    def fail(self):
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def before(self, function):
        def stepped(place, *arguments, **named):
            if self.inside(place) and self.step():
                self.fail()
            return function(place, *arguments, **named)

        return stepped

    def opening(self, function):
        def opened(file, mode="r", *arguments, **named):
            found = function(file, mode, *arguments, **named)
            return Written(found, self) if set(mode) & set("wxa+") and self.inside(file) else found

        return opened


class Written:
    """A file whose writes are steps."""

    def __init__(self, file, disk):
        self._file, self._disk = file, disk

    def write(self, data):
        if self._disk.step():
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            self._disk.fail()
        return self._file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


def run(words, folder, fails_at, how):
    """Run a command in this process and return what it answers."""
    disk = Disk(folder, fails_at, how)
    io.open = builtins.open = disk.opening(io.open)
    for name in ("fsync", "replace", "rename", "link"):
        setattr(os, name, disk.before(getattr(os, name)))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    return code, said.getvalue().splitlines(), disk.steps


def forked(*job):
    """Run a command in a fork and return what it answers, or the signal that ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, json.dumps(run(*job)).encode())
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as answer:  # noqa: PTH123 - a descriptor
        said = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(said) if said else (status, [], 0)


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(forked(*json.loads(line))) + "\n")
        sys.stdout.flush()
