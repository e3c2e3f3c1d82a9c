"""What the command line costs: time of --help, time of a continuous solve, time and memory of the first run.

python benchmarks/footprint.py --out benchmarks/results/footprint.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import origin

PROBLEMS = (
    "deepmad-r18",
    "deepmad-r34",
    "deepmad-r50",
    "deepmad-29m-224",
    "deepmad-29m-288",
    "deepmad-50m",
    "deepmad-89m",
)
HELP_RUNS = 10


def main():
    options = _options()
    program = options.program
    found = {
        "command": origin.command(),
        "machine": origin.machine(),
        "help_s": _help(program),
        "continuous_solve_ms": {name: _continuous_ms(program, name) for name in PROBLEMS},
    }
    if not options.short:
        found["quickstart"] = _quickstart(program)
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _help(program):
    times = []
    for _ in range(HELP_RUNS):
        begin = time.monotonic()
        subprocess.run([program, "--help"], capture_output=True, check=True)
        times.append(time.monotonic() - begin)
    return {"median": statistics.median(times), "largest": max(times), "runs": HELP_RUNS}


def _continuous_ms(program, name):
    done = subprocess.run(
        [program, "design", name, "--method", "continuous", "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)["timings"]["continuous_ms"]


def _quickstart(program):
    with tempfile.TemporaryDirectory() as folder:
        begin, peak = time.monotonic(), 0
        running = subprocess.Popen(
            [program, "quickstart"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        while running.poll() is None:
            peak = max(peak, sum(_resident_bytes(pid) for pid in _tree(running.pid)))
            time.sleep(0.1)
        return {"seconds": time.monotonic() - begin, "peak_mib": peak / 2**20, "exit": running.returncode}


def _tree(pid):
    """Return a process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in _tree(int(child)))]


def _resident_bytes(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * 4096
    except OSError:
        return 0


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, default=Path(sys.executable).with_name("deepmad-hw"))
    parser.add_argument("--short", action="store_true", help="leave the first run out")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
