"""How well a part of a published GPU table predicts the rest of it: other people's times, TensorRT's steps and all.

Reads TinyNAS's profile of convolutions on a V100 (101,240 rows, TensorRT, fp32). Of the valid rows of batch 1 and 32,
random ones are kept, one table a batch; the others inside the bounding box of the kept ones are predicted. Each size
is drawn anew with every seed. Other ways to learn the same are measured beside ours on the same draws:

    python benchmarks/v100.py tinynas_v100_trt_fp32.out.gz --out benchmarks/results/v100.json
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import origin
from threadpoolctl import threadpool_limits

from deepmad_hw.predict import interpolate
from deepmad_hw.predict.interpolate import Interpolator
from deepmad_hw.workflows.tables.imports import ImportRequest, import_table

BATCHES = (1, 32)
SIZES = (500, 1000, 2000, 5000, 10000, 20000)
COMPARED_SIZES = (2000, 20000)
SEEDS = (0, 1, 2)
WIDTH = 0.15
TIMED_LAYERS = 10_000


def main() -> None:
    options = _options()
    tables = {
        batch: [
            row
            for row in import_table("tinynas", options.profile, ImportRequest(name="v100", batch=batch)).rows
            if row.samples_us
        ]
        for batch in BATCHES
    }
    curve = []
    for size in options.sizes:
        for seed in range(options.seeds):
            curve.append(_measured(tables, size, seed, Interpolator))
            print(_told("ours", curve[-1]), flush=True)
    others = []
    for size in options.compared:
        for name, make in OTHERS.items():
            others.append({"way": name, **_measured(tables, size, 0, make)})
            print(_told(name, others[-1]), flush=True)
    result = {
        "command": origin.command(),
        "rows": {str(batch): len(rows) for batch, rows in tables.items()},
        "within": WIDTH,
        "curve": curve,
        "others": others,
        "seconds_for_10000_layers": _seconds(tables),
    }
    print(f"10,000 layers in {result['seconds_for_10000_layers']:.2f} s")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        _plot(curve, others, options.plot)


def _drawn(tables, size, seed):
    """Return for each batch the kept rows and the others."""
    everything = [(batch, row) for batch, rows in tables.items() for row in rows]
    order = np.random.default_rng(seed).permutation(len(everything))
    for batch in tables:
        kept = [everything[i][1] for i in order[:size] if everything[i][0] == batch]
        rest = [everything[i][1] for i in order[size:] if everything[i][0] == batch]
        yield batch, kept, rest


def _measured(tables, size, seed, make):
    errors, asked = [], 0
    begin = time.monotonic()
    for batch, kept, rest in _drawn(tables, size, seed):
        model = make(kept, batch=batch)
        inside = model.covers([row.spec for row in rest])
        found = [row for row, covered in zip(rest, inside, strict=True) if covered]
        asked += len(rest)
        errors.append(model.predict_us([row.spec for row in found]) / np.array([r.median_us for r in found]) - 1)
    all_errors = np.abs(np.concatenate(errors))
    return {
        "rows": size,
        "seed": seed,
        "covered": len(all_errors) / asked,
        "median_error": float(np.median(all_errors)),
        "p90_error": float(np.quantile(all_errors, 0.9)),
        "within_15_percent": float((all_errors <= WIDTH).mean()),
        "seconds": round(time.monotonic() - begin, 1),
    }


def _told(name, found):
    return (
        f"{name:26} {found['rows']:6} rows, seed {found['seed']}: covered {found['covered']:.1%}, "
        f"median {found['median_error']:.2%}, 90 % within {found['p90_error']:.1%}, "
        f"within 15 % {found['within_15_percent']:.1%}, {found['seconds']} s"
    )


def _seconds(tables):
    """Return the median time that predicting 10,000 layers takes, once a table is loaded and its trees are grown."""
    batch, kept, rest = next(_drawn(tables, 20000, 0))
    specs = [row.spec for row in rest[:TIMED_LAYERS]]
    model, times = Interpolator(kept, batch=batch), []
    model.predict_us(specs[:1])
    for _ in range(7):
        begin = time.perf_counter()
        model.predict_us(specs)
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


class _Other(Interpolator):
    """The same law, with another way to learn what it misses."""

    regressor = None

    def __init__(self, rows, *, batch=1):
        super().__init__(rows, batch=batch)
        points, rest = self._learned
        self._middle, self._spread = points.mean(axis=0), points.std(axis=0) + 1e-9
        self._other = self.regressor() if self.regressor else None
        if self._other is not None:
            self._other.fit((points - self._middle) / self._spread, rest)

    def predict_us(self, specs):
        numbers = interpolate._Numbers(specs, self._batch)
        law_us = self._law_us(specs, numbers)
        if self._other is None:
            return law_us
        points = (numbers.tree_features(law_us) - self._middle) / self._spread
        return law_us * np.exp(self._other.predict(points))


def _way(make):
    return type("Way", (_Other,), {"regressor": staticmethod(make) if make else None})


def _nearest():
    from sklearn.neighbors import KNeighborsRegressor

    return KNeighborsRegressor(n_neighbors=1)


def _linear():
    from sklearn.linear_model import Ridge

    return Ridge(alpha=1e-3)


def _boosting():
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=400, learning_rate=0.06, max_leaf_nodes=15, min_samples_leaf=5)


def _forest():
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(n_estimators=50, random_state=0)


class _Smooth(Interpolator):
    """The Gaussian process alone, whatever its errors say; kinds too large for it are left to the law."""

    def __init__(self, rows, *, batch=1):
        super().__init__(rows, batch=batch)
        self._by_trees = False


OTHERS = {
    "law alone": _way(None),
    "nearest on the law": _way(_nearest),
    "linear on the law": _way(_linear),
    "gradient boosting on the law": _way(_boosting),
    "random forest on the law": _way(_forest),
    "Gaussian process on the law": _Smooth,
    "extra trees on the law": Interpolator,
}


def _plot(curve, others, path):
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "v100"
    from matplotlib import pyplot as plt

    sizes = sorted({each["rows"] for each in curve})
    _, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    views = (("median_error", "median error", 0.06, 0.035), ("within_15_percent", "within ±15 %", 0.85, 0.96))
    for axis, (key, label, few, many) in zip(axes, views, strict=True):
        middles = [100 * float(np.mean([e[key] for e in curve if e["rows"] == size])) for size in sizes]
        axis.plot(sizes, middles, marker="o", label="this project")
        for name in ("law alone", "Gaussian process on the law", "gradient boosting on the law"):
            found = [(e["rows"], 100 * e[key]) for e in others if e["way"] == name]
            axis.plot(*zip(*found, strict=True), linestyle="none", marker="x", label=name)
        axis.plot((2000, 20000), (100 * few, 100 * many), linestyle="none", marker="_", markersize=16, label="goal")
        axis.set(xscale="log", xlabel="rows kept of batch 1 and 32", ylabel=f"{label} (%)")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    plt.savefig(path, metadata={"Date": None})


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path, help="tinynas_v100_trt_fp32.out.gz, or that of fp16")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--compared", type=int, nargs="*", default=COMPARED_SIZES)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="learning curve as SVG")
    return parser.parse_args()


if __name__ == "__main__":
    with threadpool_limits(1):  # all ways alike, and as the library itself does
        main()
