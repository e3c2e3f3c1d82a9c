"""Tries every promise of docs/reliability.md as often as it says, and prints the table: test, tried, passed.

python benchmarks/stress.py --out benchmarks/results/stress.json --page docs/reliability-tried.md

First the tests that are marked as promises, all tenths of each, on two workers. Then, alone on the machine, what only a
real processor can tell: a busy neighbour, a slower machine, and the soaks. `--only tests` or `--only machine` does
one half.
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

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MACHINE = {  # benchmark, its arguments, and where its result lies
    "noise": ("noise.py", "--out", RESULTS / "noise.json"),
    "canary": ("canary.py", "--out", RESULTS / "canary.json"),
    "soak-scripted": ("soak.py", "scripted", "--hours", "1", "--out", RESULTS / "soak-scripted.json"),
    "soak-real": ("soak.py", "real", "--minutes", "15", "--out", RESULTS / "soak-real.json"),
}


def main():
    options = _options()
    begin = time.monotonic()
    rows = []
    if options.only != "machine":
        rows += _tests()
    if options.only != "tests":
        for name, (program, *words) in MACHINE.items():
            print(f"{name}: {program} {' '.join(map(str, words))}", file=sys.stderr, flush=True)
            subprocess.run(
                [sys.executable, str(HERE / program), *map(str, words)], stdout=subprocess.DEVNULL, check=False
            )
    rows += _machine()
    made = {
        "command": origin.command(),
        "date": datetime.date.today().isoformat(),
        "machine": origin.machine(),
        "seconds": round(time.monotonic() - begin),
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    page = _page(made)
    if options.page:
        options.page.write_text(page, encoding="utf-8")
    print(page)
    return int(any(row["passed"] != row["tried"] or not row["tried"] for row in rows))


def _tests():
    """Return a row per promise and test, by pytest."""
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / "tried.json"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "promise", "--stress", "--tried", str(tried)]
        subprocess.run(command, stdout=sys.stderr, check=False)
        found = json.loads(tried.read_text(encoding="utf-8"))
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


def _page(made):
    """Return the table as the documents show it."""
    lines = [
        f"Made by `{made['command']}`, {made['date']}, {made['machine']}.",
        "",
        "| threat | what | tried | passed |",
        "|---|---|---:|---:|",
    ]
    lines += [f"| {row['threat']} | {row['what']} | {row['tried']:,} | {row['passed']:,} |" for row in made["rows"]]
    return "\n".join(lines) + "\n"


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("tests", "machine"), help="one half; the other's last results are shown")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
