"""ONNX Runtime beside OpenVINO on this CPU: whole networks and kinds of layers, in float32 and int8, in one run.

python benchmarks/runtimes.py --out benchmarks/results/runtimes.json --page docs/runtimes-on-cpu.md

Runtimes and precisions take turns network by network, round by round. A network's time is the median over rounds of the
median of its unprofiled runs; a kind's time is the sum over its layers in all networks, what each runtime's profiler
adds taken off.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import origin

from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.network import reference
from profilers import backend, samples
from profilers.backend import Settings
from profilers.environment import cpu_features
from profilers.plan import read_plan
from profilers.timing import Rhythm, time_unit

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "regnet_y_400mf")
RUNTIMES = ("onnxruntime", "openvino")
PRECISIONS = ("fp32", "int8")
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def main():
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        plans = {precision: _plan(Path(folder) / precision, precision) for precision in PRECISIONS}
        units, versions = _measured(plans, options)
    found = {
        "command": origin.command(),
        "machine": origin.machine(),
        "features": list(cpu_features()),
        "versions": versions,
        "threads": options.threads,
        "rounds": options.rounds,
        "networks_ms": _networks_ms(units),
        "kinds_ms": _kinds_ms(plans["fp32"], units),
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.page:
        options.page.write_text(page(found), encoding="utf-8")


def _plan(folder, precision):
    probes = [PackedProbe(name=name, graph=reference.get(name), by_layer=True) for name in NETWORKS]
    write_plan(folder, probes, precision=precision)
    return read_plan(folder)


def _measured(plans, options):
    """Return the units by network, runtime and precision, and the runtimes' versions."""
    settings = {name: Settings(runtime=name, threads=options.threads) for name in RUNTIMES}
    combinations = [(runtime, precision) for precision in PRECISIONS for runtime in RUNTIMES]
    canaries = {
        (runtime, precision): backend.get(runtime).load(
            plans[precision], plans[precision].canary, settings[runtime], profiled=False
        )
        for runtime, precision in combinations
    }
    units = defaultdict(list)
    for number in range(options.rounds):
        for index, network in enumerate(NETWORKS):
            for runtime, precision in combinations:
                plan = plans[precision]
                load, probe = backend.get(runtime).load, plan.probes[index]
                unit = time_unit(
                    network,
                    number,
                    canary=canaries[runtime, precision],
                    whole=load(plan, probe, settings[runtime], profiled=False),
                    profiled=load(plan, probe, settings[runtime], profiled=True),
                    rhythm=Rhythm(),
                )
                units[network, runtime, precision].append(unit)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    found = {name: backend.get(name).environment(plans["fp32"], settings[name]) for name in RUNTIMES}
    return units, {name: environment.runtime_version for name, environment in found.items()}


def _networks_ms(units):
    found = defaultdict(dict)
    for (network, runtime, precision), measured in units.items():
        medians_us = [statistics.median(unit.total_us) for unit in measured]
        found[network][f"{runtime} {precision}"] = statistics.median(medians_us) / 1e3
    return dict(found)


def _kinds_ms(plan, units):
    found = defaultdict(lambda: defaultdict(float))
    for runtime, precision in itertools.product(RUNTIMES, PRECISIONS):
        measured = [unit for network in NETWORKS for unit in units[network, runtime, precision]]
        factors = samples.drift_factors(measured)
        added_us = samples.profiler_us(measured, factors)
        rounds = defaultdict(list)
        for unit in measured:
            rounds[unit.probe].append(samples.unprofiled_us(unit, added_us * factors[unit.probe, unit.round]))
        for probe in plan.probes:
            for node in probe.nodes:
                times_us = [statistics.median(nodes_us.get(node.name, (0.0,))) for nodes_us in rounds[probe.name]]
                found[_kind(node.spec)][f"{runtime} {precision}"] += statistics.median(times_us) / 1e3
    return {kind: dict(times) for kind, times in found.items()}


def _kind(spec):
    if spec.op != "conv":
        return {"linear": "classifier", "scale": "squeeze-excite's product"}.get(spec.op, "pooling and sums")
    if spec.height * spec.width == 1:
        return "1x1 convolution of one pixel"
    if spec.in_channels == 3:
        return "first convolution"
    if spec.groups > 1:
        return "depthwise convolution" if spec.depthwise else "grouped convolution"
    return "1x1 convolution" if spec.kernel == 1 else "dense convolution, 3x3 and more"


def page(found):
    """Return the page of documentation that a result makes."""
    said = ", ".join(f"{TITLES[name]} {version.split('-')[0]}" for name, version in found["versions"].items())
    vnni = "with" if any("vnni" in feature for feature in found["features"]) else "without"
    one = "thread" if found["threads"] == 1 else "threads"
    lines = [
        "# Two runtimes on one CPU",
        "",
        "The same networks with ONNX Runtime and with OpenVINO, in float32 and int8, taking turns in one run. A",
        "latency table belongs to one runtime: here is how far two of them are apart, and where.",
        "",
        "Generated; do not edit. Made by:",
        "",
        "```",
        found["command"],
        "```",
        "",
        f"Machine: {found['machine']}, {vnni} VNNI; {said}; {found['threads']} {one}, batch 1, 224x224,",
        f"{found['rounds']} rounds. int8 is written by the quantiser of ONNX Runtime (uint8 activations, int8 weights",
        "per channel) with made-up scales, which no time depends on; it says nothing of accuracy.",
        "",
        "## Whole networks",
        "",
        *_table("network", found["networks_ms"]),
        "",
        "## Kinds of layers, summed over these networks",
        "",
        "What a runtime merges into another operation has no time of its own. A convolution holds its activation and",
        "its residual sum; changes of layout are booked to what needs them.",
        "",
        *_table("kind", dict(sorted(found["kinds_ms"].items(), key=lambda item: -item[1]["onnxruntime fp32"]))),
        "",
    ]
    return "\n".join(lines)


def _table(first, rows):
    columns = [f"{runtime} {precision}" for precision in PRECISIONS for runtime in RUNTIMES]
    titles = [f"{TITLES[runtime]} {precision}, ms" for precision in PRECISIONS for runtime in RUNTIMES]
    ratios = [f"OpenVINO / ONNX Runtime, {precision}" for precision in PRECISIONS]
    yield "| " + " | ".join([first, *titles, *ratios]) + " |"
    yield "|---|" + "---:|" * (len(titles) + len(ratios))
    for name, times in rows.items():
        quotients = [times[f"openvino {precision}"] / times[f"onnxruntime {precision}"] for precision in PRECISIONS]
        cells = [*(f"{times[column]:.2f}" for column in columns), *(f"{value:.2f}" for value in quotients)]
        yield "| " + " | ".join([name, *cells]) + " |"


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
