"""The seven published problems solved with a proof: objective, bound, gap and time, as a table for the docs.

Each problem is one whole `deepmad-hw design` command, so that starting Python and building the model count. Run from
the project's folder, alone on the machine:

    python benchmarks/published_designs.py --grid reference --grid default --out docs/published-designs.md

With `--table TABLE.csv` every problem is solved again with a latency limit on that table, right after one without.
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

PROBLEMS = Path("tests/data/problems.json")
PUBLISHED = Path("tests/data/deepmad_published.json")
TIME_LIMIT_S = {"reference": 60, "default": 120, "fine": 240}
GAP = {"reference": "0.5%", "default": "0.5%", "fine": "1%"}
LATENCY_SHARE = 0.9  # of the latency of the design without a latency limit, so that the limit binds

INTRODUCTION = """\
# The published networks, designed again

DeepMAD's seven released networks were found by an evolutionary search. Here the same questions are asked again: the
same family, resolution, strides, kernels {{3, 5}} and head; as limits each released network's own multiply-adds and
parameters, and the rho its authors allowed (0.3 residual, 0.5 mobile). The answer is the best network on a declared
grid of widths, with a proved upper bound on what any network of that grid can reach.

Read the gains with care:

- The objective is DeepMAD's entropy score less its depth penalty, computed with true resolutions. It is no accuracy:
  none of these networks was trained here, and a higher objective promises none.
- The four mobile networks (29M to 89M) were searched under a score whose released code loses the resolution after the
  first squeeze-excite block. They were best under that score, not under this one.
- The released networks stay a little below the rho that was allowed them (0.2991, 0.3000, 0.2998, 0.4965, 0.4966,
  0.4930 and 0.4951 in the order of the tables), and rho is worth objective: `deepmad-hw design` prints its price.
- Several released networks break a rule of these spaces (growing widths, at most fourfold growth, the range of inner
  widths). Their costs are the limits, but they are not members of the spaces.
- Parameters count the classifier and two per batch-norm channel, in the limits as in the designs. The authors' budgets
  of the residual networks leave the classifier out.
- The bound is what the solver HiGHS claims to have proved, up to its tolerances. The design itself, its costs and its
  objective are recomputed without any solver (`deepmad-hw verify`).

Made by `{command}` on {machine}, {date}.
Seconds are whole commands: starting Python, the continuous start, building the model with Pyomo, solving, checking.
"""


def main():
    options = _options()
    listed = {problem["name"]: problem for problem in json.loads(PROBLEMS.read_text(encoding="utf-8"))["problems"]}
    sections = []
    for grid in options.grid:
        rows = [_solve(name, grid, problem) for name, problem in listed.items() if _asked(name, options)]
        sections.append(_section(grid, rows))
        print(sections[-1], flush=True)
        if options.table:
            sections.append(_latency_section(grid, rows, options.table))
            print(sections[-1], flush=True)
    if options.out:
        text = INTRODUCTION.format(
            command=origin.command(), machine=origin.machine(), date=datetime.date.today().isoformat()
        )
        options.out.write_text("\n".join([text, *sections]), encoding="utf-8")


def _asked(name, options):
    return not options.problem or name in options.problem


def _solve(name, grid, listed, *latency):
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(Path(sys.executable).with_name("deepmad-hw"), "design", name, "--grid", grid, "--gap", GAP[grid]),
            *("--time-limit", f"{TIME_LIMIT_S[grid]}s", "--out", folder, "--json", *latency),
        ]
        begin = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - begin
    if not done.stdout.strip():
        if latency:
            return None  # the table does not hold this problem's resolution
        sys.exit(f"{name}: {done.stderr.strip()}")
    answer = json.loads(done.stdout)
    return {"name": name, "seconds": seconds, "answer": answer, "listed": listed, "exit": done.returncode}


def _section(grid, rows):
    heading = {
        "reference": "## Reference grid: steps of 25 %, multiples of 8",
        "default": "## Default grid: steps of 12 %, multiples of 8",
        "fine": "## Fine grid: every multiple of 8",
    }[grid]
    lines = [
        heading,
        "",
        "| problem | published | ours | gain | proved bound | gap | continuous (local, no bound) | status | s |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    for row in rows:
        answer, published = row["answer"], row["listed"]["published_objective"]
        objective, bound, gap = answer["objective"], answer["bound"], answer["gap"]
        continuous = (answer.get("continuous") or {}).get("objective")
        lines.append(
            f"| {row['name']} | {published:,.0f} | {objective:,.1f} | {objective / published - 1:+.1%} "
            f"| {_number(bound)} | {'' if gap is None else f'{gap:.2%}'} | {_number(continuous)} "
            f"| {answer['status']} | {row['seconds']:.1f} |"
        )
    return "\n".join([*lines, ""])


def _latency_section(grid, rows, table):
    """Solve each problem once more under a share of its own design's latency; compare the seconds."""
    lines = [
        f"### The same with {LATENCY_SHARE:.0%} of the latency, by a measured table (`{table}`)",
        "",
        "| problem | budget ms | objective | proved bound | gap | status | s | times the plain one's |",
        "|---|---:|---:|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        wide = _solve(row["name"], grid, row["listed"], "--latency", f"{table}=1000s")
        if wide is None:
            lines.append(f"| {row['name']} | not in the table | | | | | | |")
            continue
        budget_ms = LATENCY_SHARE * wide["answer"]["latency"][0]["upper_ms"]
        plain = _solve(row["name"], grid, row["listed"])
        limited = _solve(row["name"], grid, row["listed"], "--latency", f"{table}={budget_ms:.3f}ms")
        answer = limited["answer"]
        gap = "" if answer["gap"] is None else f"{answer['gap']:.2%}"
        lines.append(
            f"| {row['name']} | {budget_ms:.2f} | {_number(answer['objective'])} | {_number(answer['bound'])} | {gap} "
            f"| {answer['status']} | {limited['seconds']:.1f} | {limited['seconds'] / plain['seconds']:.2f} |"
        )
    return "\n".join([*lines, ""])


def _number(value):
    return "" if value is None else f"{value:,.1f}"


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", action="append", default=[], choices=list(TIME_LIMIT_S))
    parser.add_argument("--problem", action="append", default=[])
    parser.add_argument("--table", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.grid = options.grid or ["reference"]
    return options


if __name__ == "__main__":
    main()
