"""What "certified" is worth on real problems: the same bytes again.

Run from the project's folder; it prints its counts, writes a JSON file and fails where anything disagrees:

    python benchmarks/certified.py repeat --out benchmarks/results/certified-repeat.json

The seven published problems on the reference grid, twice in fresh processes on one thread and once on two. Proofs and
infeasible problems against brute force are tests; see docs/reliability.md.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import origin

from deepmad_hw.installed import versions

GAP = 0.005
TIME_LIMIT_S = 600.0  # no run may be cut, or it could differ from its repetition
PROBLEMS = Path("tests/data/problems.json")


def main():
    options = _options()
    begin = time.monotonic()
    found = _repeat(options)
    made = {
        "command": origin.command(),
        "date": datetime.date.today().isoformat(),
        "machine": origin.machine(),
        "versions": dict(versions()),
        "seconds": round(time.monotonic() - begin),
        **found,
    }
    if options.out:
        options.out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({"problems": len(found["problems"]), "faults": found["faults"]}))
    return 1 if found["faults"] else 0


def _repeat(options):
    """Compare what fresh processes write, byte for byte, timings aside."""
    faults, problems = [], {}
    for problem in json.loads(PROBLEMS.read_text(encoding="utf-8"))["problems"][: options.count]:
        name = problem["name"]
        first, second, threaded = (_designed(name, threads=threads) for threads in (1, 1, 2))
        problems[name] = {"again": first == second, "two_threads": first == threaded, "status": _status(first)}
        if first != second or problems[name]["status"] != "certified":
            faults.append(f"{name}: {problems[name]}")
        print(f"{name}: {problems[name]}", file=sys.stderr, flush=True)
    return {"problems": problems, "faults": faults}


def _designed(name, *, threads):
    """Return the bytes of each file that one whole command leaves, design.json without its timings."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(Path(sys.executable).with_name("deepmad-hw"), "design", name, "--grid", "reference"),
            *("--gap", f"{100 * GAP}%", "--time-limit", f"{TIME_LIMIT_S}s", "--threads", str(threads)),
            *("--out", folder, "--json"),
        ]
        subprocess.run(command, capture_output=True, check=False)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    design = json.loads(files["design.json"])
    design.pop("timings")
    return {**files, "design.json": json.dumps(design).encode()}


def _status(files):
    return json.loads(files["design.json"])["status"]


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("repeat",))
    parser.add_argument("--count", type=int, help="fewer problems")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
