"""The measuring process: loads probes, times them, answers one JSON line per order. Layer 3, device side.

It is a process of its own so that a crash, a hang or a lack of memory ends it alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from profilers import backend as backends
from profilers.backend import Session, Settings, Watched
from profilers.plan import LAYERS, Plan, Probe, read_plan
from profilers.timing import Rhythm, time_unit

PR_SET_PDEATHSIG = 1  # of Linux' prctl
KEPT_BYTES = 400 * 2**20  # loaded networks kept from order to order, counted by their weights


class _Shelf:
    """Loaded networks, the least recently used leaving first."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._plan, self._settings = plan, settings
        self._backend = backends.get(settings.runtime)
        self.scripted = getattr(self._backend, "SCRIPTED", False)
        self._sessions: OrderedDict[str, tuple[Session, int]] = OrderedDict()

    def whole(self, probe: Probe) -> Session:
        if probe.name not in self._sessions:
            session = self._backend.load(self._plan, probe, self._settings, profiled=False)
            self._sessions[probe.name] = (session, probe.weight_bytes)
        self._sessions.move_to_end(probe.name)
        while len(self._sessions) > 2 and sum(size for _, size in self._sessions.values()) > KEPT_BYTES:
            oldest = next(name for name in self._sessions if name not in (probe.name, self._plan.canary.name))
            del self._sessions[oldest]
        return self._sessions[probe.name][0]

    def profiled(self, probe: Probe) -> Session:
        return self._backend.load(self._plan, probe, self._settings, profiled=True)


def serve(folder: Path, settings: Settings, *, memory_bytes: int) -> None:
    """Answer orders from standard input until it ends.

    Args:
        folder: the packed plan.
        settings: how to run.
        memory_bytes: address space this process may use; 0 sets no limit.
    """
    _end_with_parent()
    if _parent_has_gone():
        return
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    answers = _private_output()
    plan = read_plan(folder)
    probes = {probe.name: probe for probe in plan.probes}
    shelf = _Shelf(plan, settings)
    for line in sys.stdin:
        order = json.loads(line)
        probe = probes[order["probe"]]
        try:
            answers.write(json.dumps(_measured(shelf, plan, probe, order)) + "\n")
            answers.flush()
        except BrokenPipeError:  # it ended just now
            return


def _end_with_parent() -> None:
    """Ask the system to end this process with its parent, so that no orphan disturbs the next measurement."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux, the end of input ends it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _parent_has_gone() -> bool:
    """Return whether the parent ended before this process could ask for that; then nobody reads the answers."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)  # an error is always told
    return bool(watch.poll(0))


def _private_output() -> TextIO:
    """Return standard output, and let whatever a runtime prints go to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _measured(shelf: _Shelf, plan: Plan, probe: Probe, order: dict[str, Any]) -> dict[str, Any]:
    try:
        canary = shelf.whole(plan.canary)
        unit = time_unit(
            probe.name,
            order["round"],
            canary=canary,
            whole=shelf.whole(probe),
            profiled=shelf.profiled(probe) if probe.kind == LAYERS else None,
            rhythm=Rhythm(**order["rhythm"]),
            scripted=shelf.scripted,
        )
        whole = shelf.whole(probe)
        conditions = whole.conditions() if isinstance(whole, Watched) else {}
    except MemoryError:
        return {"probe": probe.name, "round": order["round"], "status": "oom", "message": "out of memory"}
    except Exception as error:
        return {"probe": probe.name, "round": order["round"], "status": "error", "message": f"{error}"[:300]}
    return {**asdict(unit), "conditions": conditions}
