"""Kills `python -m profilers run` at random moments, each time goes on, and counts what was lost or done twice.

python benchmarks/kills.py --kills 500 --out benchmarks/results/kills.json

The runtime is the replay backend, whose clock is a script, so that minutes stand for hours. A unit is acknowledged when
its line is shown; half of the kills come right behind such a line, where the next one is being measured and stored. A
kill costs the unit that was being measured, which is measured again; one that is stored but not yet shown stays.
"""

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import origin

from deepmad_hw.architecture import Architecture, Stage, Stem
from deepmad_hw.expand import expand
from deepmad_hw.exporters.probes import PackedProbe, write_plan

SHOWN = re.compile(r"(\d+)/\d+ (\S+) ok, about")
PROBES = 300  # each in two rounds


def main():
    options = _options()
    chance = random.Random(options.seed)  # noqa: S311 - moments, no secret
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A lock of its own, so that another measurement on this machine is not in the way.
        os.environ["TMPDIR"] = name
        plan = _pack(folder / "plan")
        _finish(_start(plan, folder / "whole.jsonl"))
        found = _killed(plan, folder, kills=options.kills, chance=chance)
    found = {
        "command": origin.command(),
        "machine": origin.machine(),
        **found,
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _pack(folder):
    stage = Stage(out=16, bottleneck=16, kernel=3, stride=2, depth=1)
    architecture = Architecture(family="basic", resolution=(32, 32), stem=Stem(out=8), stages=(stage,), classes=10)
    graphs = (expand(architecture, name=f"probe{index:03}") for index in range(PROBES))
    write_plan(folder, [PackedProbe(name=graph.name, graph=graph, by_layer=True) for graph in graphs])
    return folder


def _killed(plan, folder, *, kills, chance):
    begin = time.monotonic()
    counts = Counter(
        kills=0, journals=0, units=0, acknowledged_units_lost=0, stored_units_altered=0, units_shown_twice=0
    )
    unshown = 0
    while counts["kills"] < kills:
        out = folder / f"killed{counts['journals']}.jsonl"
        shown = []
        while not out.exists():  # it appears when all is measured
            before, process = _stored(out), _start(plan, out)
            if counts["kills"] < kills:
                seen = _kill(process, chance)
                counts["kills"] += process.returncode == -signal.SIGKILL
            else:
                seen = _shown(_finish(process))
            after = _stored(out)
            keys = list(after)
            counts["acknowledged_units_lost"] += sum(
                not keys[number - 1 :] or keys[number - 1][0] != probe for number, probe in seen
            )
            counts["stored_units_altered"] += sum(after.get(key) != text for key, text in before.items())
            unshown = max(unshown, len(after) - len(before) - len(seen))
            shown += seen
        counts["units_shown_twice"] += len(shown) - len(dict(shown))
        if list(_stored(out)) != list(_stored(folder / "whole.jsonl")):
            raise SystemExit(f"{out} has other units than an uninterrupted run")
        counts["journals"] += 1
        counts["units"] += len(_stored(out))
    return {
        **counts,
        "units_stored_but_not_shown_per_kill_at_most": unshown,
        "same_units_as_uninterrupted": True,
        "seconds": time.monotonic() - begin,
    }


def _kill(process, chance):
    """Kill a run at a random moment, and return what it had shown."""
    lines = [process.stderr.readline() for _ in range(chance.randrange(1, 4))] if chance.random() < 0.5 else []
    time.sleep(chance.uniform(0, 0.005) if lines else chance.uniform(0, 0.6))
    process.kill()
    return _shown([*lines, *_finish(process)])


def _start(plan, out):
    command = [sys.executable, "-m", "profilers", "run", str(plan), "--runtime", "replay", "--minutes", "0"]
    return subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True)


def _finish(process):
    """Return what was left of standard error when the process has ended."""
    with process:
        return process.stderr.read().splitlines()


def _shown(lines):
    """Return (units stored, probe) of lines that `python -m profilers run` shows."""
    found = (SHOWN.match(line) for line in lines)
    return [(int(match[1]), match[2]) for match in found if match]


def _stored(out):
    """Return key -> contents of a journal as a kill left it, in order; it must be whole."""
    journal = out.with_suffix(".journal")
    if not journal.exists():
        return {}
    connection = sqlite3.connect(journal)
    try:
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise SystemExit(f"{journal} is damaged")
        if not connection.execute("SELECT name FROM sqlite_master WHERE name = 'units'").fetchall():
            return {}
        rows = connection.execute("SELECT probe, round, unit FROM units ORDER BY rowid").fetchall()
    finally:
        connection.close()
    return {(probe, number): text for probe, number, text in rows}


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=20261123, help="of the moments of the kills")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
