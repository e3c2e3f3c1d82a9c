"""How long sweeps take: whole commands in a fresh folder, with the memory of all their processes.

Run from the project's folder, with nothing else running:

    python benchmarks/sweep.py latency --out benchmarks/results/sweep-latency.json
    python benchmarks/sweep.py macs --out benchmarks/results/sweep-macs.json
    python benchmarks/sweep.py continuous --out benchmarks/results/sweep-continuous.json

`latency`: 12 budgets on the shipped CPU table, default grid, 1 % gap. `macs`: 10 budgets around ResNet-18's.
`continuous`: a thousand continuous designs, 100 budgets times 10 rho.
"""

import argparse
import contextlib
import datetime
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import origin
from program import CALL, TABLE

from deepmad_hw.installed import versions

SWEEPS = {
    "latency": ("deepmad-r18", "--latency", f"{TABLE}=10ms:60ms:12", "--gap", "1%"),
    "macs": ("deepmad-r18", "--macs", "0.5G:3G:10", "--gap", "1%"),
}
LIMITS_S = {"latency": 90.0, "macs": 60.0, "continuous": 100.0}
LIMIT_GIB = 3.0
BUDGETS, RHOS = 100, 10


def main():
    options = _options()
    found = _continuous() if options.command == "continuous" else _sweep(SWEEPS[options.command])
    faults = [] if found["seconds"] <= LIMITS_S[options.command] else [f"slower than {LIMITS_S[options.command]} s"]
    if found.get("peak_gib", 0.0) > LIMIT_GIB:
        faults.append(f"more than {LIMIT_GIB} GiB")
    made = {
        "command": origin.command(),
        "date": datetime.date.today().isoformat(),
        "machine": origin.machine(),
        "versions": dict(versions()),
        **found,
        "faults": faults,
    }
    if options.out:
        options.out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made))
    return 1 if faults else 0


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=(*SWEEPS, "continuous"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _sweep(words):
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        command = [sys.executable, "-c", CALL, "sweep", *words, "--out", folder, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak = _Peak(process.pid)
        text, _ = process.communicate()
        seconds = time.monotonic() - begin
    data = json.loads(text)
    return {
        "seconds": round(seconds, 1),
        "peak_gib": round(peak.stop() / 2**30, 2),
        "exit": process.returncode,
        "points": [
            {
                "status": point["status"],
                "objective": point["objective"],
                "gap": point["gap"],
                "timings": point["timings"],
            }
            for point in data["points"]
        ],
    }


class _Peak:
    """Watches the memory of a process and its children; shared pages count once per process, so it errs upwards."""

    def __init__(self, pid):
        self._pid, self._peak, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        while not self._over.wait(0.2):
            self._peak = max(self._peak, sum(_resident(pid) for pid in _family(self._pid)))

    def stop(self):
        self._over.set()
        self._thread.join()
        return self._peak


def _family(pid):
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += task.read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _resident(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def _continuous():
    from dataclasses import replace

    from deepmad_hw.optimize.continuous import continuous_designs
    from deepmad_hw.problem.problem import LatencyLimit
    from deepmad_hw.workflows.runfile.config import load_problem
    from deepmad_hw.workflows.tables.tables import load_model

    begin = time.monotonic()
    model = load_model(Path(TABLE))
    problem = load_problem("deepmad-r18")
    problems = [
        replace(problem, limits=replace(problem.limits, rho=0.1 * (rho + 1), latency=(limit,)))
        for limit in (LatencyLimit(table=model.name, budget_ms=10.0 + 0.5 * budget) for budget in range(BUDGETS))
        for rho in range(RHOS)
    ]
    found = sum(result is not None for result in continuous_designs(problems, {model.name: model}))
    return {"seconds": round(time.monotonic() - begin, 1), "solves": BUDGETS * RHOS, "found": found}


if __name__ == "__main__":
    sys.exit(main())
