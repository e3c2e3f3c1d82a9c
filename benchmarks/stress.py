"""Tries every promise of docs/reliability.md as often as it says, and prints the table: test, tried, passed.

python benchmarks/stress.py --page docs/reliability-tried.md

First the tests that are marked as promises, all tenths of each, on two workers. Then, alone on the machine, what only a
real processor can tell: a busy neighbour, a slower machine, and the soaks. `--only tests` and `--only machine` do one
half, `--only page` neither; the table is always made of the last results of both.
"""

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

import origin

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TESTS = ("-m", "pytest", "-q", "-n", "2", "-m", "promise", "--stress", "--tried", "benchmarks/results/tried.json")
MACHINE = {  # benchmark, its arguments, and where its result lies
    "noise": ("noise.py", "--out", RESULTS / "noise.json"),
    "canary": ("canary.py", "--out", RESULTS / "canary.json"),
    "soak-scripted": ("soak.py", "scripted", "--hours", "1", "--out", RESULTS / "soak-scripted.json"),
    "soak-real": ("soak.py", "real", "--minutes", "15", "--out", RESULTS / "soak-real.json"),
}


def main():
    options = _options()
    if options.only in (None, "tests"):
        subprocess.run([sys.executable, *TESTS], stdout=sys.stderr, check=False, cwd=HERE.parent)
    if options.only in (None, "machine"):
        for name, (program, *words) in MACHINE.items():
            print(f"{name}: {program} {' '.join(map(str, words))}", file=sys.stderr, flush=True)
            command = [sys.executable, str(HERE / program), *map(str, words)]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    rows = [*_tests(), *_machine()]
    page = _page(rows)
    if options.page:
        options.page.write_text(page, encoding="utf-8")
    print(page)
    return int(any(row["passed"] != row["tried"] or not row["tried"] for row in rows))


def _tests():
    """Return a row per promise and test."""
    found = _result("tried")
    named = {name.partition(" ")[::2]: row for name, row in found.items()}
    ordered = sorted(named.items(), key=lambda item: (int(item[0][0].lstrip("T")), item[0][1]))
    return [{"threat": threat, "what": _words(test), **row} for (threat, test), row in ordered]


def _words(test):
    return test.removeprefix("test_").replace("_", " ")


def _machine():
    """Return a row per result of the benchmarks that need the machine for themselves."""
    noise, canary = _result("noise"), _result("canary")
    found, alarms = (tuple(map(int, canary[key].split("/"))) for key in ("found", "false_alarms"))
    rows = [
        ("T8", "profiles beside a busy loop give a quiet one's times", noise["noisy_tables"], noise["noisy_passed"]),
        ("T7", "a machine slowed 1.3 times is found by its canary", found[1], found[0]),
        ("T7", "an unchanged machine raises no alarm", alarms[1], alarms[1] - alarms[0]),
    ]
    for name, what in (
        ("soak-scripted", "an hour of the scripted clock"),
        ("soak-real", "a quarter of an hour for real"),
    ):
        soak = _result(name)
        rows.append(("soak", f"{what} leaves nothing behind", soak["loops"], soak["loops"] * (not soak["faults"])))
    return [{"threat": threat, "what": what, "tried": tried, "passed": passed} for threat, what, tried, passed in rows]


def _result(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _page(rows):
    """Return the table as the documents show it."""
    machine = ", ".join(f"`{_result(name)['command']}`" for name in MACHINE)
    lines = [
        f"{datetime.date.today().isoformat()}, {origin.machine()}. Made by `python {' '.join(TESTS)}`",
        f"and, the last {len(MACHINE) + 1} rows, {machine}.",
        "",
        "| threat | what | tried | passed |",
        "|---|---|---:|---:|",
        *(f"| {row['threat']} | {row['what']} | {row['tried']:,} | {row['passed']:,} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("tests", "machine", "page"))
    parser.add_argument("--page", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
