"""Whether the measured loop ends on budgets: 8 of them, measured again in a fresh process, normalised by the canary.

Run from the project's folder, with nothing else running, on the machine that the table belongs to:

    python benchmarks/measured_loop.py --out benchmarks/results/measured-loop.json
"""

import argparse
import datetime
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import origin
from program import TABLE, answer

from deepmad_hw.installed import versions
from deepmad_hw.workflows.results.folders import DESIGN_FILE
from deepmad_hw.workflows.results.loop_file import LOOP_FILE

BUDGETS_MS = (12, 15, 18, 22, 26, 30, 35, 40)
LOW, HIGH = 0.93, 1.03
LEAST_GOOD = 7


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--table", default=TABLE)
    parser.add_argument("--method", default="certified", choices=("certified", "fast"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        points = _points(options, Path(folder))
    good = sum(LOW <= point["again_share"] <= HIGH for point in points if point["binds"])
    binding = sum(point["binds"] for point in points)
    made = {
        "command": origin.command(),
        "date": datetime.date.today().isoformat(),
        "machine": origin.machine(),
        "versions": dict(versions()),
        "seconds": round(time.monotonic() - begin),
        "good": good,
        "binding": binding,
        "points": points,
        "faults": []
        if good * len(BUDGETS_MS) >= LEAST_GOOD * binding
        else [f"{good} of {binding} end on their budget"],
    }
    if options.out:
        options.out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made))
    return 1 if made["faults"] else 0


def _points(options, folder):
    budgets = ",".join(f"{budget_ms}ms" for budget_ms in BUDGETS_MS)
    sweep = ("sweep", options.config, "--latency", f"{options.table}={budgets}", "--gap", "1%")
    answer(*sweep, "--method", options.method, "--measure", "--out", str(folder))
    results = json.loads((folder / "sweep.json").read_text())
    files = []
    for asked in results["plan"]:  # under names of their own: their folders are all called alike
        file = folder / f"{asked['name']}.json"
        shutil.copy(folder / asked["folder"] / DESIGN_FILE, file)
        files.append(str(file))
    rows = json.loads(answer("bench", "--table", options.table, "--json", *files))
    found = []
    for asked, budget_ms, row in zip(results["plan"], BUDGETS_MS, rows, strict=True):
        rounds = [each for each in results["rounds"] if each["point"] == asked["name"]]
        ended = json.loads((folder / asked["folder"] / LOOP_FILE).read_text())["ended"]
        again_ms = row["measured_ms"] / (row["drift"] or 1.0)
        found.append(
            {
                "budget_ms": budget_ms,
                "rounds": rounds,
                "ended": ended,
                "binds": ended not in ("latency does not bind", "the next larger budget has the same design"),
                "again_ms": again_ms,
                "again_share": again_ms / budget_ms,
                "drift": row["drift"],
            }
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
