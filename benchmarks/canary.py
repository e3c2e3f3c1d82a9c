"""Whether `table check` finds a slower machine: trials beside calm ones, taking turns.

python benchmarks/canary.py --out benchmarks/results/canary.json

A table is profiled first. Then checks of two tables take turns: of that one, and of one that says that its canary took
1/1.3 of the time, as a machine of this kind that is slowed 1.3 times since would have it. What the canary takes now is
measured anew each time.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import origin

PROGRAM = Path(sys.executable).with_name("deepmad-hw")


def main():
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "here.csv"
        _profile(here, options)
        faster = _of_a_faster_machine(here, options.slowdown)
        trials = [_check(table) for _ in range(options.trials) for table in (here, faster)]
        made_us = _canary_us(here)
    calm, slow = trials[::2], trials[1::2]
    found = {
        "command": origin.command(),
        "machine": origin.machine(),
        "slowdown": options.slowdown,
        "found": f"{sum(code == 7 for code, _ in slow)}/{len(slow)}",
        "false_alarms": f"{sum(code != 0 for code, _ in calm)}/{len(calm)}",
        "exit_codes": sorted({code for code, _ in trials}),
        "canary_over_table": _spread([us / made_us for _, us in trials if us]),
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _profile(table, options):
    command = [PROGRAM, "profile", "--space", options.space, "--minutes", str(options.minutes), "--out", str(table)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def _of_a_faster_machine(table, slowdown):
    """Return a copy of a table whose canary took less, by a factor."""
    copy = table.with_name("faster.csv")
    shutil.copy(table, copy)
    sidecar = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))
    changed = {**sidecar, "name": "faster", "canary_us": sidecar["canary_us"] / slowdown}
    copy.with_suffix(".json").write_text(json.dumps(changed), encoding="utf-8")
    return copy


def _canary_us(table):
    return json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))["canary_us"]


def _check(table):
    """Return the exit code of a check, and what the canary took in microseconds."""
    command = [PROGRAM, "table", "check", str(table), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = re.search(r"canary takes (\d+) us|\"canary_us\": ([\d.]+)", done.stderr + done.stdout)
    return done.returncode, float(said[1] or said[2]) if said else None


def _spread(values):
    return {"median": statistics.median(values), "smallest": min(values), "largest": max(values)} if values else None


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mobile-cpu")
    parser.add_argument("--minutes", type=float, default=0.3, help="of the table's profile")
    parser.add_argument("--trials", type=int, default=20, help="of each kind")
    parser.add_argument("--slowdown", type=float, default=1.3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
