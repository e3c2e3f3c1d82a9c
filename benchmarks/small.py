"""How well networks for small images are predicted: 32x32, 64x64 and 96x96, fp32 and int8, one and two threads.

One interleaved run for each setting: the probes that make the table, the networks that calibrate it and those that
test it take turns. The networks are drawn with fixed seeds from spaces of all four families. From the project's folder,
with nothing else running:

    python benchmarks/small.py measure           # goes on where it was stopped; --only NAME for one setting
    python benchmarks/small.py evaluate --out benchmarks/results/small.json
    python benchmarks/small.py repeat --earlier .bench/small-earlier --out benchmarks/results/small-repeat.json

The last compares two measurements of the same test networks, each in a run of its own: how well the one would predict
the other, if it were a perfect prediction, the run's speed divided out.
"""

import argparse
import datetime
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import origin

from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.installed import versions
from deepmad_hw.latency.model import predict_ms, uncovered
from deepmad_hw.network import costs
from deepmad_hw.network.expand import expand
from deepmad_hw.predict.network import TableModel
from deepmad_hw.problem import sampling
from deepmad_hw.workflows.profiling.choice import ProfileRequest, choose, spaces
from deepmad_hw.workflows.profiling.profile import publish
from profilers import run, samples
from profilers.backend import Settings
from profilers.plan import read_plan
from profilers.run import Effort

SETTINGS = {
    "fp32, 1 thread": {"precision": "fp32", "threads": 1},
    "int8, 1 thread": {"precision": "int8", "threads": 1},
    "fp32, 2 threads": {"precision": "fp32", "threads": 2},
    "int8, 2 threads": {"precision": "int8", "threads": 2},
}
SPACES = {"bottleneck": "deepmad-r18", "basic": "resnet-basic", "mbconv": "mobile-cpu", "mbconv_se": "mobile-cpu"}
SIDES = (32, 64, 96)
NETWORKS_PER_SPACE = 3
LARGEST_MACS = 2e9
SEED = 20261128
SHORT_US = 3000
WORK = Path(".bench/small")


def main():
    options = _options()
    chosen = [name for name in SETTINGS if not options.only or name in options.only]
    if options.step == "measure":
        for name in chosen:
            print(f"{name}: {len(_measured(name, options.minutes)[1])} units", file=sys.stderr, flush=True)
        return
    if options.step == "repeat":
        _write(options.out, {name: _repeated(name, options.earlier) for name in chosen})
        return
    found = {name: _evaluated(name) for name in chosen}
    together = figures([row for setting in found.values() for row in setting["networks"]])
    _write(options.out, found, together=together)


def _write(out, found, **more):
    made = {
        "command": origin.command(),
        "date": datetime.date.today().isoformat(),
        "machine": origin.machine(),
        "versions": dict(versions()),
        "settings": found,
        **more,
    }
    if out:
        out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for name, setting in found.items():
        print(name, json.dumps({key: value for key, value in setting.items() if key != "networks"}))
    print(json.dumps(more))


def _request(name, minutes):
    asked = tuple(
        replace(spaces([problem])[0], family=family, resolution=(side, side))
        for side in SIDES
        for family, problem in SPACES.items()
    )
    return ProfileRequest(spaces=asked, references=(), minutes=minutes, **SETTINGS[name])


def _tests(request):
    random = np.random.default_rng(SEED)
    return [
        expand(
            sampling.random_architecture(space, random, max_macs=LARGEST_MACS),
            name=f"{space.family}-{space.resolution[0]}-{index}",
        )
        for space in request.spaces
        for index in range(NETWORKS_PER_SPACE)
    ]


def _folder(name, work=WORK):
    return work / name.replace(", ", "-").replace(" ", "")


def _measured(name, minutes, *, more=True, work=WORK):
    """Return plan, units, environment and chosen networks, measured further where something is left to measure."""
    folder, request = _folder(name, work), _request(name, minutes)
    chosen, tests = choose(request), _tests(request)
    if not (folder / "plan").exists():
        packed = [PackedProbe(name=i.graph.name, graph=i.graph, by_layer=i.architecture is None) for i in chosen]
        packed += [PackedProbe(name=graph.name, graph=graph) for graph in tests]
        order = np.random.default_rng(0).permutation(len(packed))
        write_plan(folder / "plan", [packed[index] for index in order], precision=request.precision)
    effort = Effort(budget_s=minutes * 60 * len([*chosen, *tests]) / len(chosen))
    plan, settings = read_plan(folder / "plan"), Settings(threads=request.threads)
    environment, units = run.measure(
        plan,
        settings,
        journal=folder / "plan.journal",
        effort=effort if more else Effort(budget_s=0.0, min_rounds=0),
        on_tick=_show if more else lambda tick: None,
    )
    return plan, units, environment, chosen


def _show(tick):
    if tick.done % 50 == 0:
        print(f"{tick.done}/{tick.planned}, {tick.left_s:.0f} s left", file=sys.stderr, flush=True)


def _evaluated(name):
    minutes = _options().minutes
    plan, units, environment, chosen = _measured(name, minutes, more=False)
    request = _request(name, minutes)
    model = TableModel(publish(plan, units, environment, chosen, name="small", request=request))
    times = {measured.name: measured for measured in samples.networks(units)}
    rows = [_row(graph, times[graph.name], model) for graph in _tests(request)]
    return {
        "layers": len(model.table.rows),
        "noisy_layers": sum(row.status == "noisy" for row in model.table.rows),
        "calibration_networks": len(model.table.calibration),
        "margin": model.margin,
        "us_per_layer": model.corrections.us_per_layer,
        "curve_ms": model.curve.knots,
        **figures(rows),
        "by_side": {side: figures([row for row in rows if f"-{side}-" in row["name"]]) for side in SIDES},
        "networks": rows,
    }


def _repeated(name, earlier):
    minutes = _options().minutes
    now, then = (
        {each.name: each.median_us for each in samples.networks(_measured(name, minutes, more=False, work=work)[1])}
        for work in (WORK, earlier)
    )
    tests = [graph.name for graph in _tests(_request(name, minutes))]
    ratios = np.array([now[test] / then[test] for test in tests])
    errors = np.abs(ratios / np.median(ratios) - 1)
    rows = [{"name": test, "now_us": now[test], "earlier_us": then[test]} for test in tests]
    short = np.array([row["earlier_us"] < SHORT_US for row in rows])
    return {
        "drift": float(np.median(ratios)),
        "median_difference": float(np.median(errors)),
        "ninth_decile": float(np.quantile(errors, 0.9)),
        "within_12_percent": float(np.mean(errors <= 0.12)),
        "short": int(short.sum()),
        "short_within_12_percent": float(np.mean(errors[short] <= 0.12)) if short.any() else None,
        "networks": rows,
    }


def _row(graph, measured, model):
    missing = uncovered(graph, model)
    predicted_ms = None if missing else predict_ms(graph, model)
    measured_ms = measured.median_us / 1e3
    return {
        "name": graph.name,
        "weights": sum(costs.layer_weights(node.spec) for node in graph),
        "layers": len(graph.nodes),
        "predicted_ms": predicted_ms,
        "measured_ms": measured_ms,
        "status": measured.status,
        "error": None if missing else predicted_ms / measured_ms - 1,
        "inside": not missing and model.margin is not None and abs(measured_ms / predicted_ms - 1) <= model.margin,
    }


def figures(rows):
    """Return what the errors of networks amount to; a refused network is an error without end.

    Args:
        rows: of the result.
    """
    errors = np.abs([np.inf if row["error"] is None else row["error"] for row in rows])
    return {
        "networks": len(rows),
        "refused": int(np.isinf(errors).sum()),
        "noisy": sum(row["status"] == "noisy" for row in rows),
        "median_error": float(np.median(errors)),
        "ninth_decile": float(np.quantile(errors, 0.9)),
        "worst_error": float(errors.max()),
        "within_12_percent": float(np.mean(errors <= 0.12)),
        "inside": float(np.mean([row["inside"] for row in rows])),
    }


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("measure", "evaluate", "repeat"))
    parser.add_argument("--earlier", type=Path, default=WORK.with_name("small-earlier"), help="folder of another run")
    parser.add_argument("--only", nargs="*", choices=tuple(SETTINGS))
    parser.add_argument("--minutes", type=float, default=5.0, help="of profiling, for each setting")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
