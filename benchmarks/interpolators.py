"""Which interpolator predicts held-out layers and held-out whole networks best, from how many probe networks.

All see the same rows of the table in benchmarks/results/accuracy, and the same gain found on the same calibration
networks; a row that was measured well is taken as it is, whoever interpolates. The networks and the layers of probes
left out are never among the rows. From the project's folder, without measuring anything:

    python benchmarks/interpolators.py --out benchmarks/results/interpolators.json
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import accuracy
import numpy as np
from regressors import REGRESSORS
from sklearn.exceptions import ConvergenceWarning

from deepmad_hw.formats.serde_table import read_table
from deepmad_hw.network.expand import expand
from deepmad_hw.predict.interpolate import Interpolator
from deepmad_hw.predict.network import EXACT_RELATIVE_ERROR

SEED = 5
PROBES = (10, 30)  # and all
TESTED_SHARE = 0.2  # of the probes: their layers test, unless other probes show them too


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    table = read_table(accuracy.TABLE)
    probes = [item["rows"] for item in json.loads(accuracy.SAMPLES.read_text(encoding="utf-8"))["probes"]]
    order = np.random.default_rng(SEED).permutation(len(probes))
    tested = round(TESTED_SHARE * len(probes))
    left_out, rest = order[:tested], order[tested:]
    found = []
    for count in (*(size for size in PROBES if size < len(rest)), len(rest)):
        shown = {row for index in rest[:count] for row in probes[index]}
        rows = [table.rows[index] for index in sorted(shown) if table.rows[index].samples_us]
        hidden = sorted({row for index in left_out for row in probes[index]} - shown)
        layers = [table.rows[index] for index in hidden if table.rows[index].status == "ok"]
        found += [{"probes": count, **_judged(name, rows, layers, table.calibration)} for name in REGRESSORS]
        for line in found[-len(REGRESSORS) :]:
            print(line, flush=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _judged(name, rows, layers, calibration):
    """Return how well one interpolator does with some rows; all are asked only what ours does not refuse."""
    begin = time.perf_counter()
    predict_us = REGRESSORS[name](rows)
    seconds = time.perf_counter() - begin
    hull = Interpolator(rows)
    exact = {r.spec: r.median_us for r in rows if r.status == "ok" and r.relative_error <= EXACT_RELATIVE_ERROR}

    tests, graphs = accuracy.tests(), [expand(item.architecture) for item in calibration]
    asked = dict.fromkeys(node.spec for graph in (*graphs, *(graph for _, graph, _ in tests)) for node in graph)
    between = [spec for spec in asked if spec not in exact]
    between = [spec for spec, known in zip(between, hull.covers(between), strict=True) if known]
    known_us = exact | dict(zip(between, predict_us(between), strict=True))

    def total_us(graph):
        times = [known_us.get(node.spec) for node in graph]
        return None if None in times else sum(times)

    pairs = [(total_us(graph), item.measurement.median_us) for graph, item in zip(graphs, calibration, strict=True)]
    gain = float(np.median([measured / total for total, measured in pairs if total is not None] or [1.0]))
    totals = [(total_us(graph), measured_ms) for _, graph, measured_ms in tests]
    errors = np.abs([gain * total / 1e3 / measured - 1 for total, measured in totals if total is not None])
    asked = [row for row, known in zip(layers, hull.covers([row.spec for row in layers]), strict=True) if known]
    missed = np.abs(predict_us([row.spec for row in asked]) / np.array([row.median_us for row in asked]) - 1)
    return {
        "interpolator": name,
        "rows": len(rows),
        "fit_seconds": round(seconds, 2),
        "layers": len(asked),
        "layer_median_error": float(np.median(missed)),
        "layer_p90_error": float(np.quantile(missed, 0.9)),
        "networks": len(errors),
        "refused": len(tests) - len(errors),
        "median_error": float(np.median(errors)) if len(errors) else None,
        "p90_error": float(np.quantile(errors, 0.9)) if len(errors) else None,
        "within_10_percent": float((errors <= 0.1).mean()) if len(errors) else None,
    }


if __name__ == "__main__":
    main()
