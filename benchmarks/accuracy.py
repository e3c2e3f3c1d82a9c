"""How well a few minutes of profiling predict networks that were never profiled.

One interleaved run: the probes that make the table and the networks that test it take turns, so that the machine's
drift between minutes does not count as an error of either. Run from the project's folder:

    python benchmarks/accuracy.py --space quickstart --minutes 2 --out benchmarks/results/accuracy-quickstart.json
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from deepmad_hw import reference, sampling
from deepmad_hw.expand import expand
from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.latency import predict_ms, uncovered
from deepmad_hw.predict.network import TableModel
from deepmad_hw.workflows.profile import ProfileRequest, choose, publish, spaces
from profilers import run, samples
from profilers.backend import Settings
from profilers.plan import read_plan
from profilers.run import Effort

SEED = 20261122  # of the test networks, fixed before anything was measured
RANDOM_NETWORKS = 20
LARGEST_MACS = 4e9
REFERENCES = ("resnet18", "resnet50", "mobilenet_v2")


def main() -> None:
    options = _options()
    request = ProfileRequest(
        spaces=spaces(options.space), minutes=options.minutes, threads=options.threads, references=REFERENCES
    )
    chosen, tests = choose(request), _tests(request)
    profiled = {node.spec for item in chosen if item.architecture is None for node in item.graph}
    packed = [PackedProbe(name=i.graph.name, graph=i.graph, by_layer=i.architecture is None) for i in chosen]
    packed += [PackedProbe(name=graph.name, graph=graph) for graph in tests]
    order = np.random.default_rng(0).permutation(len(packed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_plan(folder, [packed[index] for index in order])
        plan, begin = read_plan(folder), time.monotonic()
        share = len(tests) * 0.8 / (len(tests) * 0.8 + options.minutes * 30)
        effort = Effort(budget_s=options.minutes * 60 / (1 - share))
        environment, units = run.measure(
            plan, Settings(threads=options.threads), journal=folder / "journal", effort=effort, on_tick=_show
        )
        seconds = time.monotonic() - begin
        table = publish(plan, units, environment, chosen, name="accuracy", request=request)
    model = TableModel(table)
    names = {item.graph.name for item in chosen}
    profiling_s = sum(unit.seconds for unit in units if unit.probe in names)
    measured = {m.name: m.median_us / 1e3 for m in samples.networks(units)}
    rows = [_row(graph, model, measured[graph.name], profiled) for graph in tests]
    _report(rows, model, seconds, profiling_s, options)


def _tests(request):
    random = np.random.default_rng(SEED)
    graphs = [
        expand(sampling.random_architecture(space, random, max_macs=LARGEST_MACS), name=f"random{index:02}")
        for index, space in zip(range(RANDOM_NETWORKS), request.spaces * RANDOM_NETWORKS, strict=False)
    ]
    return graphs + [reference.get(name) for name in REFERENCES]


def _row(graph, model, measured_ms, profiled):
    missing = uncovered(graph, model)
    predicted_ms = None if missing else predict_ms(graph, model)
    return {
        "name": graph.name,
        "predicted_ms": predicted_ms,
        "measured_ms": measured_ms,
        "error": None if missing else predicted_ms / measured_ms - 1,
        "profiled_share": sum(node.spec in profiled for node in graph) / len(graph.nodes),
        "uncovered": list(missing),
    }


def _report(rows, model, seconds, profiling_s, options):
    # A refused network is an error without end.
    errors = np.array([np.inf if row["error"] is None else row["error"] for row in rows])
    summary = {
        "command": " ".join(["python", *sys.argv]),
        "device": model.device,
        "cores": os.cpu_count(),
        "load_average_at_end": os.getloadavg()[0],
        "runtime": f"{model.table.environment.runtime} {model.table.environment.runtime_version}",
        "threads": options.threads,
        "seconds": round(seconds, 1),
        "profiling_seconds": round(profiling_s, 1),
        "layers": len(model.table.rows),
        "networks": len(rows),
        "refused": sum(row["error"] is None for row in rows),
        "median_error": float(np.median(np.abs(errors))),
        "worst_error": float(np.abs(errors).max()),
        "mean_error": float(errors.mean()),
        "within_10_percent": float((np.abs(errors) <= 0.1).mean()),
        "margin": model.margin,
        "covered_by_margin": None
        if model.margin is None
        else float((np.abs(1 / (1 + errors) - 1) <= model.margin).mean()),
    }
    for row in rows:
        error = "refused" if row["error"] is None else f"{row['error']:+.1%}"
        print(f"{row['name']:14} {row['measured_ms']:8.2f} ms  {error:>8}  profiled layers {row['profiled_share']:.0%}")
    print(json.dumps(summary, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"summary": summary, "networks": rows}, indent=1) + "\n", encoding="utf-8")


def _show(tick):
    if tick.done % 20 == 0:
        print(f"{tick.done}/{tick.planned}, {tick.left_s:.0f} s left", file=sys.stderr)


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", action="append", default=[])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
