"""Whether `table check` finds a slower machine: trials beside calm ones, taking turns.

python benchmarks/canary.py --out benchmarks/results/canary.json

A table is profiled first. Then checks of it take turns: one as the machine is, one whose process is stopped
(SIGSTOP) and continued (SIGCONT) every millisecond or so, as long as makes everything it runs take 1.3 times as long.
The pause is tuned on a busy loop before the trials; what the canary saw is reported.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import origin

RUN_S = 0.001
PROGRAM = Path(sys.executable).with_name("deepmad-hw")
LOOP = "import time\nbegin = time.perf_counter()\nfor _ in range(20_000_000): pass\nprint(time.perf_counter() - begin)"


def main():
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "here.csv"
        _profile(table, options)
        made_us = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))["canary_us"]
        pause_s = _tuned_pause_s(options.slowdown)
        trials = [_check(table, pause_s * (index % 2)) for index in range(2 * options.trials)]
    calm, slow = trials[::2], trials[1::2]
    found = {
        "command": origin.command(),
        "machine": origin.machine(),
        "pause_us_per_ms": pause_s * 1e6,
        "found": f"{sum(code == 7 for code, _ in slow)}/{len(slow)}",
        "false_alarms": f"{sum(code != 0 for code, _ in calm)}/{len(calm)}",
        "exit_codes": sorted({code for code, _ in trials}),
        "canary_over_table": {
            "calm": _spread([us / made_us for _, us in calm if us]),
            "slowed": _spread([us / made_us for _, us in slow if us]),
        },
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _profile(table, options):
    command = [PROGRAM, "profile", "--space", options.space, "--minutes", str(options.minutes), "--out", str(table)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def _check(table, pause_s):
    """Return the exit code of a check, and what the canary took in microseconds."""
    process = subprocess.Popen(
        [PROGRAM, "table", "check", str(table), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with _slowed(process.pid, pause_s):
        out, err = process.communicate()
    said = re.search(r"canary takes (\d+) us|\"canary_us\": ([\d.]+)", err + out)
    return process.returncode, float(said[1] or said[2]) if said else None


@contextlib.contextmanager
def _slowed(pid, pause_s):
    """Stop a process for `pause_s` after every `RUN_S`; not at all if that is 0."""
    ended = threading.Event()

    def stutter():
        with contextlib.suppress(ProcessLookupError):
            while not ended.is_set():
                os.kill(pid, signal.SIGSTOP)
                time.sleep(pause_s)
                os.kill(pid, signal.SIGCONT)
                time.sleep(RUN_S)

    thread = threading.Thread(target=stutter, daemon=True)
    if pause_s:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if pause_s:
            thread.join()


def _tuned_pause_s(slowdown):
    """Return the pause that makes a busy loop take `slowdown` times as long."""
    free_s, pause_s = _loop_s(0), (slowdown - 1) * RUN_S
    for _ in range(6):
        pause_s *= (slowdown - 1) / max(_loop_s(pause_s) / free_s - 1, 0.01)
    return pause_s


def _loop_s(pause_s):
    process = subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True)
    with _slowed(process.pid, pause_s):
        out, _ = process.communicate()
    return float(out)


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
