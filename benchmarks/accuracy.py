"""How well ten minutes of profiling predict networks that were never profiled.

One interleaved run: the probes that make the table and the networks that test it take turns, with the canary between,
so that the machine's drift does not count as an error of either. The run is cut into parts; each goes on where the last
one ended. From the project's folder:

    python benchmarks/accuracy.py draw         # the networks, by seed; commit them before measuring
    python benchmarks/accuracy.py pack         # their files
    python benchmarks/accuracy.py measure      # one part; again until it says that all is measured
    python benchmarks/accuracy.py design       # designs that the new table itself was asked for, packed
    python benchmarks/accuracy.py measure --designs
    python benchmarks/accuracy.py collect      # the table and the raw samples, into benchmarks/results/accuracy
    python benchmarks/accuracy.py evaluate     # predictions beside them, from these files alone
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.formats.serde import architecture_from_json, architecture_to_json
from deepmad_hw.formats.serde_table import read_table, write_table
from deepmad_hw.latency.model import predict_ms, uncovered
from deepmad_hw.network import costs, reference
from deepmad_hw.network.expand import expand
from deepmad_hw.predict.network import TableModel
from deepmad_hw.problem import sampling
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.workflows.design.design import design
from deepmad_hw.workflows.profiling.choice import ProfileRequest, choose, spaces
from deepmad_hw.workflows.profiling.profile import publish
from deepmad_hw.workflows.tables.tables import load_model
from profilers import run, samples
from profilers.backend import Settings
from profilers.plan import read_plan
from profilers.run import Effort

SEED = 20261123  # of the networks, fixed before anything was measured
RANDOM_PER_SPACE = 26
DESIGNS_PER_SPACE = 5  # asked of the shipped table
NEW_DESIGNS_PER_SPACE = 3  # asked of the table that is tested
REFERENCES = ("resnet18", "resnet34", "resnet50", "mobilenet_v2", "efficientnet_b0")
LARGEST_MACS = 4e9
SHIPPED = Path("latency_tables/amd-epyc-25-17-1-2cores/onnxruntime-fp32-b1-t1.csv")

PROFILE_MINUTES = 10.0
RUN_MINUTES = 20.0  # of profile and networks together
DESIGNS_MINUTES = 1.5
PART_MINUTES = 9.0

WORK = Path(".bench/accuracy")
RESULTS = Path("benchmarks/results/accuracy")
NETWORKS, DESIGNS, SAMPLES = RESULTS / "networks.json", RESULTS / "designs.json", RESULTS / "samples.json"
TABLE = RESULTS / "table.csv"
SUMMARY = Path("benchmarks/results/accuracy.json")
TOLERANCES = (0.03, 0.05, 0.1, 0.15)


class _PartIsOver(Exception):  # noqa: N818 - no error
    """Stops a measurement that is to go on later."""


def request():
    return ProfileRequest(spaces=spaces([]), minutes=PROFILE_MINUTES)


# --- the networks -----------------------------------------------------------------------------------------------------


def draw():
    random, asked = np.random.default_rng(SEED), request()
    drawn = []
    for _, space in itertools.product(range(RANDOM_PER_SPACE), asked.spaces):
        drawn.append(_entry("random", len(drawn), _member(space, random)))
    designs = _designs(load_model(SHIPPED), asked.spaces, DESIGNS_PER_SPACE, random, group="design")
    _write(NETWORKS, {"seed": SEED, "shipped": SHIPPED.name, "networks": [*drawn, *designs]})


def draw_designs():
    """Ask the new table for designs, so that it is tested where an optimiser has searched for its mistakes."""
    plan, units, environment, chosen = _measured("plan")
    table = _table(plan, _kept(units, chosen), environment, chosen)
    random = np.random.default_rng(SEED + 1)
    designs = _designs(TableModel(table), request().spaces, NEW_DESIGNS_PER_SPACE, random, group="new-design")
    _write(DESIGNS, {"seed": SEED + 1, "networks": designs})


def _member(space, random):
    smallest = min((sampling.random_architecture(space, random) for _ in range(16)), key=costs.macs)
    return sampling.random_architecture(space, random, max_macs=max(LARGEST_MACS, 1.5 * costs.macs(smallest)))


def _designs(model, asked_spaces, count, random, *, group):
    """Return designs as fast as random networks, by the table's word."""
    found = []
    for _, space in itertools.product(range(count), asked_spaces):
        budget_ms = predict_ms(_covered_member(space, random, model), model)
        limits = Limits(
            latency=(LatencyLimit(table=model.name, budget_ms=budget_ms),), rho=float(random.uniform(0.2, 0.6))
        )
        solution = design(
            Problem(name=group, space=space, limits=limits), {model.name: model}, method="fast", time_limit_s=600
        )
        if solution.architecture is not None:
            found.append(_entry(group, len(found), solution.architecture))
    return found


def _covered_member(space, random, model):
    while True:
        drawn = _member(space, random)
        if not uncovered(expand(drawn), model):
            return drawn


def _entry(group, index, architecture):
    return {
        "name": f"{group}{index:03}",
        "group": group,
        "family": architecture.family,
        "architecture": architecture_to_json(architecture),
    }


def networks(path):
    """Return (entry, graph) of every network of a file."""
    listed = json.loads(path.read_text(encoding="utf-8"))["networks"]
    return [(entry, expand(architecture_from_json(entry["architecture"]), name=entry["name"])) for entry in listed]


def references():
    return [
        ({"name": name, "group": "reference", "family": name.rstrip("0123456789")}, reference.get(name))
        for name in REFERENCES
    ]


# --- measuring --------------------------------------------------------------------------------------------------------


def pack():
    chosen = choose(request())
    packed = [PackedProbe(name=i.graph.name, graph=i.graph, by_layer=i.architecture is None) for i in chosen]
    tests = [*networks(NETWORKS), *references()]
    packed += [PackedProbe(name=graph.name, graph=graph) for _, graph in tests]
    _require_disjoint([i.architecture for i in chosen], [entry for entry, _ in tests])
    order = np.random.default_rng(0).permutation(len(packed))
    write_plan(WORK / "plan", [packed[index] for index in order])
    print(f"{len(chosen)} networks to profile with, {len(tests)} to test with")


def pack_designs():
    write_plan(WORK / "designs", [PackedProbe(name=graph.name, graph=graph) for _, graph in networks(DESIGNS)])


def _require_disjoint(calibration, tests):
    known = [architecture_to_json(architecture) for architecture in calibration if architecture is not None]
    same = [entry["name"] for entry in tests if entry.get("architecture") in known]
    if same:
        raise SystemExit(f"test networks that also calibrate: {same}")


def measure(name, part_minutes):
    end = time.monotonic() + part_minutes * 60

    def show(tick):
        if tick.done % 25 == 0:
            print(f"{tick.done}/{tick.planned}, {tick.left_s:.0f} s left", file=sys.stderr, flush=True)
        if time.monotonic() > end:
            raise _PartIsOver

    effort = Effort(budget_s=(RUN_MINUTES if name == "plan" else DESIGNS_MINUTES) * 60)
    plan = read_plan(WORK / name)
    try:
        run.measure(plan, Settings(), journal=WORK / f"{name}.journal", effort=effort, on_tick=show)
    except _PartIsOver:
        print("not finished: the same command goes on")
    else:
        print("all is measured")


def _measured(name):
    """Return plan, units, environment and chosen networks of a finished measurement, without measuring more."""
    plan = read_plan(WORK / name)
    # No second beyond what is there; what `min_rounds` asks for has been measured.
    effort = Effort(budget_s=0.0, min_rounds=0)
    environment, units = run.measure(
        plan, Settings(), journal=WORK / f"{name}.journal", effort=effort, on_tick=lambda tick: None
    )
    return plan, units, environment, choose(request()) if name == "plan" else []


def _kept(units, chosen):
    """Return the units without those of the profile that came after its minutes were spent."""
    profiled, kept, spent_s = {item.graph.name for item in chosen}, [], 0.0
    for unit in units:
        if unit.probe in profiled:
            spent_s += unit.seconds
            if spent_s > PROFILE_MINUTES * 60:
                continue
        kept.append(unit)
    return kept


def _table(plan, units, environment, chosen):
    return publish(plan, units, environment, chosen, name="accuracy", request=request())


def collect():
    plan, units, environment, chosen = _measured("plan")
    kept = _kept(units, chosen)
    table = _table(plan, kept, environment, chosen)
    write_table(TABLE, table)
    profiled = {item.graph.name for item in chosen}
    rows = {row.spec: index for index, row in enumerate(read_table(TABLE).rows)}
    shown = {
        item.graph.name: [rows[spec] for spec in dict.fromkeys(node.spec for node in item.graph)]
        for item in chosen
        if item.architecture is None
    }
    designs = _measured("designs")[1] if DESIGNS.exists() else []
    # One usual speed of the machine for profile, networks and designs.
    times = {m.name: m for m in samples.networks([*kept, *designs]) if m.name not in profiled}
    swing = samples.drift_factors(samples.trusted([*kept, *designs])).values()
    facts = {
        "machine": environment.device,
        "cores": os.cpu_count(),
        "runtime": f"{environment.runtime} {environment.runtime_version}",
        "threads": environment.threads,
        "measured_on": table.measured_on,
        "profile_seconds": round(sum(unit.seconds for unit in kept if unit.probe in profiled), 1),
        "run_seconds": round(sum(unit.seconds for unit in [*kept, *designs]), 1),
        "units": len(kept) + len(designs),
        "disturbed_units": sum(samples.disturbed(unit) for unit in [*kept, *designs] if unit.status == "ok"),
        "failed_units": sum(unit.status != "ok" for unit in [*kept, *designs]),
        "canary_swing": round(max(swing) / min(swing), 3),
    }
    listed = [
        {"name": name, "status": m.status, "samples_us": [round(value, 1) for value in m.samples_us]}
        for name, m in times.items()
    ]
    _write(
        SAMPLES,
        {
            "facts": facts,
            "probes": [{"name": name, "rows": found} for name, found in shown.items()],
            "networks": listed,
        },
    )


# --- evaluating -------------------------------------------------------------------------------------------------------


def tests():
    """Return (entry, graph, measured_ms) of every network that was measured, from the stored files alone."""
    stored = {item["name"]: item for item in json.loads(SAMPLES.read_text(encoding="utf-8"))["networks"]}
    listed = [*networks(NETWORKS), *references(), *(networks(DESIGNS) if DESIGNS.exists() else [])]
    return [(entry, graph, statistics.median(stored[entry["name"]]["samples_us"]) / 1e3) for entry, graph in listed]


def evaluate():
    model = TableModel(read_table(TABLE))
    profiled = {row.spec for row in model.table.rows}
    rows = [_row(entry, graph, measured_ms, model, profiled) for entry, graph, measured_ms in tests()]
    summary = {
        **json.loads(SAMPLES.read_text(encoding="utf-8"))["facts"],
        "layers": len(model.table.rows),
        "calibration_networks": len(model.table.calibration),
        "margin": model.margin,
        **figures(rows),
    }
    _write(SUMMARY, {"summary": summary, "networks": rows})
    for row in sorted(rows, key=lambda row: abs(row["error"] or np.inf))[-15:]:
        error = "refused" if row["error"] is None else f"{row['error']:+.1%}"
        print(f"{row['name']:16} {row['family']:12} {row['measured_ms']:8.2f} ms  {error:>8}")
    print(json.dumps(summary, indent=1))


def _row(entry, graph, measured_ms, model, profiled):
    missing = uncovered(graph, model)
    predicted_ms = None if missing else predict_ms(graph, model)
    inside = None if missing or model.margin is None else abs(measured_ms / predicted_ms - 1) <= model.margin
    return {
        "name": entry["name"],
        "group": entry["group"],
        "family": entry["family"],
        "predicted_ms": predicted_ms,
        "measured_ms": measured_ms,
        "error": None if missing else predicted_ms / measured_ms - 1,
        "inside": inside,
        "profiled_share": sum(node.spec in profiled for node in graph) / len(graph.nodes),
        "uncovered": list(missing),
    }


def figures(rows):
    """Return what the errors of networks amount to; a refused network is an error without end."""
    errors = np.array([np.inf if row["error"] is None else row["error"] for row in rows])
    return {
        "networks": len(rows),
        "refused": int(np.isinf(errors).sum()),
        "median_error": float(np.median(np.abs(errors))),
        "mean_error": float(errors.mean()),
        "worst_error": float(np.abs(errors).max()),
        "within": {f"{limit:.0%}": float((np.abs(errors) <= limit).mean()) for limit in TOLERANCES},
        "covered": float(np.mean([row["inside"] is True for row in rows])),
    }


def _write(path, data):
    """Write an object as JSON, a line for each network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rest = {key: value for key, value in data.items() if key != "networks"}
    lines = ",\n".join(json.dumps(item) for item in data["networks"])
    text = json.dumps({**rest, "networks": []}, indent=1).removesuffix("[]\n}")
    path.write_text(f"{text}[\n{lines}\n]}}\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("draw", "pack", "measure", "design", "collect", "evaluate"))
    parser.add_argument("--designs", action="store_true", help="measure the designs of the new table")
    parser.add_argument("--part-minutes", type=float, default=PART_MINUTES)
    options = parser.parse_args()
    match options.step:
        case "draw":
            draw()
        case "pack":
            pack()
        case "measure":
            measure("designs" if options.designs else "plan", options.part_minutes)
        case "design":
            draw_designs()
            pack_designs()
        case "collect":
            collect()
        case "evaluate":
            evaluate()


if __name__ == "__main__":
    main()
