"""Designs as fast as ResNet-18, ResNet-50 and MobileNetV2 are, beside these and DeepMAD's own networks, with a report.

Run from the project's folder, with nothing else running, on the machine that the table belongs to:

    python benchmarks/same_latency.py --out benchmarks/results/same-latency.json

The budget is what `bench` measures of each network first, at the speed that the machine had when the table was made.
One sweep designs for the budgets, is corrected on the device (`--measure`), and is measured in turns with all networks.
"""

import argparse
import datetime
import json
import tempfile
from pathlib import Path

import origin
from program import TABLE, answer

from deepmad_hw.installed import versions

YARDSTICKS = ("mobilenet_v2", "resnet18", "resnet50")


def main():
    options = _options()
    rows = json.loads(answer("bench", "--table", TABLE, "--json", *YARDSTICKS))
    budgets_ms = {row["name"]: row["measured_ms"] / row["drift"] for row in rows}
    with tempfile.TemporaryDirectory() as name:
        asked = ",".join(f"{budget_ms:.4g}ms" for budget_ms in sorted(budgets_ms.values()))
        sweep = ("sweep", options.config, "--latency", f"{TABLE}={asked}", "--gap", "1%", "--measure", "--compare")
        answer(*sweep, "--out", name)
        results = json.loads((Path(name) / "sweep.json").read_text(encoding="utf-8"))
        if options.report:
            answer("report", name, "--out", str(options.report))
    made = {
        "command": origin.command(),
        "date": datetime.date.today().isoformat(),
        "machine": origin.machine(),
        "versions": dict(versions()),
        "budgets_ms": budgets_ms,
        "designs": list(_designs(results)),
        "networks": [
            {
                key: row.get(key)
                for key in ("name", "measured_ms", "drift", "objective", "rho", "macs", "params", "memory_bytes")
            }
            for row in results["comparison"]
        ],
    }
    if options.out:
        options.out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made, indent=2))


def _designs(results):
    for asked, point in zip(results["plan"], results["points"], strict=True):
        (row,) = (row for row in results["measured"] if row["point"] == asked["name"])
        yield {
            "name": asked["name"],
            "status": point["status"],
            "measured_ms": row["measured_ms"],
            "drift": row["drift"],
            "rho": max(point["rho"]),
            **{key: point[key] for key in ("objective", "bound", "macs", "params", "memory_bytes")},
        }


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--report", type=Path, help="also write the report there")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
