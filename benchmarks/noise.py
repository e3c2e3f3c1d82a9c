"""What a neighbour does to a profile: tables made beside a busy loop against tables made in quiet.

python benchmarks/noise.py --out benchmarks/results/noise.json

Two quiet profiles enclose the noisy ones. A busy loop runs on one core, drawn anew for every noisy profile, during 30 %
of it: 4.5 of every 15 seconds. Compared are the medians of all layers over the canary of their table. The yardstick is
what two quiet tables differ by, at the 95th percentile of the layers; a noisy table passes where at least 95 % of its
layers differ by at most 1.5 times as much from either quiet one.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import origin

from deepmad_hw.errors import TooNoisyError
from deepmad_hw.workflows.profiling.choice import ProfileRequest, spaces
from deepmad_hw.workflows.profiling.profile import profile

CYCLE_S, BUSY_SHARE = 15.0, 0.3
PERCENTILE, ALLOWED, NEEDED_SHARE = 0.95, 1.5, 0.95


def main():
    options = _options()
    chance = random.Random(options.seed)  # noqa: S311 - moments, no secret
    request = ProfileRequest(spaces=spaces([options.space]), minutes=options.minutes, references=())
    kinds = ["quiet", *["noisy"] * options.noisy, "quiet"]
    with tempfile.TemporaryDirectory() as folder:
        runs = [_run(kind, request, Path(folder) / f"{index}.csv", chance) for index, kind in enumerate(kinds)]
    found = {
        "command": origin.command(),
        "machine": origin.machine(),
        "minutes": options.minutes,
        **_judged(runs),
        "runs": [{key: value for key, value in run.items() if key != "medians"} for run in runs],
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _run(kind, request, out, chance):
    """Return one profile's outcome, and its layers' medians over the canary."""
    begin = time.monotonic()
    statuses = {}

    def count(tick):
        statuses[tick.status] = statuses.get(tick.status, 0) + 1

    neighbour = _Neighbour(chance) if kind == "noisy" else None
    outcome = {"kind": kind, "exit": 0, "core": neighbour.core if neighbour else None}
    try:
        table = profile(request, out=out, on_tick=count)
    except TooNoisyError as error:
        outcome |= {"exit": 6, "message": str(error), "medians": {}}
    else:
        noisy = sum(row.status == "noisy" for row in table.rows)
        medians = {row.spec: row.median_us / table.canary_us for row in table.rows if row.samples_us}
        outcome |= {"canary_us": table.canary_us, "rows": len(medians), "noisy_rows": noisy, "medians": medians}
    finally:
        if neighbour:
            outcome["busy_s"] = neighbour.stop()
    return outcome | {"seconds": time.monotonic() - begin, "units": statuses}


class _Neighbour(threading.Thread):
    """A busy loop on one core, on for a share of every cycle."""

    def __init__(self, chance):
        super().__init__(daemon=True)
        self.core = chance.choice(sorted(os.sched_getaffinity(0)))
        self._first_s = chance.uniform(0, CYCLE_S * (1 - BUSY_SHARE))
        self._ended, self._busy_s = threading.Event(), 0.0
        self.start()

    def run(self):
        wait_s = self._first_s
        while not self._ended.wait(wait_s):
            begin = time.monotonic()
            with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as loop:
                os.sched_setaffinity(loop.pid, {self.core})
                self._ended.wait(CYCLE_S * BUSY_SHARE)
                loop.kill()
            self._busy_s += time.monotonic() - begin
            wait_s = CYCLE_S * (1 - BUSY_SHARE)

    def stop(self):
        self._ended.set()
        self.join()
        return self._busy_s


def _judged(runs):
    quiet = [run["medians"] for run in runs if run["kind"] == "quiet"]
    noisy = [run for run in runs if run["kind"] == "noisy"]
    yardstick = _percentile(_differences(*quiet), PERCENTILE)
    for run in noisy:
        differences = [value for other in quiet for value in _differences(run["medians"], other)]
        if differences:
            close = sum(value <= ALLOWED * yardstick for value in differences) / len(differences)
            run |= {"close_share": close, "p95": _percentile(differences, PERCENTILE)}
    tables = [run for run in noisy if run["exit"] == 0]
    return {
        "quiet_p50": _percentile(_differences(*quiet), 0.5),
        "quiet_p95": yardstick,
        "noisy_close_share": [run["close_share"] for run in tables],
        "noisy_passed": sum(run["close_share"] >= NEEDED_SHARE for run in tables),
        "noisy_tables": len(tables),
        "noisy_exit_6": len(noisy) - len(tables),
        "quiet_exit_6": sum(run["exit"] == 6 for run in runs if run["kind"] == "quiet"),
    }


def _differences(one, other):
    return [abs(math.log(one[spec] / other[spec])) for spec in one.keys() & other.keys()]


def _percentile(values, share):
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.inf


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mobile-cpu")
    parser.add_argument("--minutes", type=float, default=0.75, help="measuring time of each profile")
    parser.add_argument("--noisy", type=int, default=5, help="profiles beside the busy loop")
    parser.add_argument("--seed", type=int, default=20261123, help="of the cores and moments of the busy loop")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
