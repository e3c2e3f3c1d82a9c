"""What "certified" is worth: proofs against brute force, infeasible problems against brute force, the same bytes again.

Run from the project's folder; each command prints its counts, writes a JSON file and fails where anything disagrees:

    python benchmarks/certified.py optimum --out benchmarks/results/certified-optimum.json
    python benchmarks/certified.py infeasible --out benchmarks/results/certified-infeasible.json
    python benchmarks/certified.py repeat --out benchmarks/results/certified-repeat.json

`optimum`: 200 random small spaces of all families, each without a table, with one, with three, and with one and a limit
on memory. `infeasible`: 100 random problems without an answer. `repeat`: the seven published problems on the
reference grid, twice in fresh processes on one thread and once on two.
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

sys.path.insert(0, str(Path("tests/optimize").resolve()))

from small_problems import (
    MOST_DESIGNS,
    VARIANTS,
    count_designs,
    feasible_problem,
    infeasible_problem,
    needs_faults,
    optimum_faults,
    table_faults,
)

from deepmad_hw.optimize.solve import solve, versions

GAP = 0.005
TIME_LIMIT_S = 600.0  # no run may be cut, or it could differ from its repetition
PROBLEMS = Path("tests/data/problems.json")


def main():
    options = _options()
    begin = time.monotonic()
    found = {"optimum": _optimum, "infeasible": _infeasible, "repeat": _repeat}[options.command](options)
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
    print(json.dumps({key: value for key, value in found.items() if key != "problems"}))
    return 1 if found["faults"] else 0


# --- against brute force --------------------------------------------------------------------------------------------


def _optimum(options):
    """Compare proved optimum and bound with the best of all designs."""
    agree, faults, designs = dict.fromkeys(VARIANTS, 0), [], []
    for index in range(options.count or 200):
        for variant in VARIANTS:
            problem, models = feasible_problem(index, variant)
            wrong = optimum_faults(problem, models, gap=GAP) + table_faults(problem, models)
            agree[variant] += not wrong
            faults += [f"{variant}, problem {index}: {fault}" for fault in wrong]
        designs.append(count_designs(problem.space))
        assert designs[-1] <= MOST_DESIGNS
        _progress(f"{index + 1} spaces, agree {agree}", wrong=faults)
    return {"spaces": len(designs), "designs": sum(designs), "largest": max(designs), "agree": agree, "faults": faults}


def _infeasible(options):
    """Compare the reported smallest values with the designs that there are."""
    agree, values, faults, count = 0, 0, [], options.count or 100
    for index in range(count):
        problem, models = infeasible_problem(index)
        solution = solve(problem, models, method="certified", gap=GAP, time_limit_s=TIME_LIMIT_S)
        wrong = needs_faults(problem, models, solution)
        agree, values = agree + (not wrong), values + len(solution.tightest)
        faults += [f"problem {index}: {fault}" for fault in wrong]
        _progress(f"{index + 1} problems, {agree} agree", wrong=faults)
    return {"problems": count, "agree": agree, "values": values, "faults": faults}


def _progress(line, *, wrong):
    print(f"{line}{'; last fault: ' + wrong[-1] if wrong else ''}", file=sys.stderr, flush=True)


# --- the same again -------------------------------------------------------------------------------------------------


def _repeat(options):
    """Compare what fresh processes write, byte for byte, timings aside."""
    faults, problems = [], {}
    for problem in json.loads(PROBLEMS.read_text(encoding="utf-8"))["problems"][: options.count]:
        name = problem["name"]
        first, second, threaded = (_designed(name, threads=threads) for threads in (1, 1, 2))
        problems[name] = {"again": first == second, "two_threads": first == threaded, "status": _status(first)}
        if first != second or problems[name]["status"] != "certified":
            faults.append(f"{name}: {problems[name]}")
        _progress(f"{name}: {problems[name]}", wrong=faults)
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
    parser.add_argument("command", choices=("optimum", "infeasible", "repeat"))
    parser.add_argument("--count", type=int, help="fewer spaces or problems")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
