"""Times networks in fp32, fp16 and int8 on this CPU, all forms of a network taking turns in one run.

python benchmarks/precisions.py resnet50 resnet18 mobilenet_v2 --out benchmarks/results/precisions.json
"""

import argparse
import json
import tempfile
from pathlib import Path

import origin

from deepmad_hw.exporters.onnx_int8 import RECORDED_FLAGS, cpu_flags
from deepmad_hw.workflows.bench.bench import bench, require_sure
from deepmad_hw.workflows.export.export import export
from deepmad_hw.workflows.networks.networks import load_network

# As files, so that all are fed alike. Weights are untrained: they change no time.
FORMS = {"fp32": ("onnx", {}), "fp16": ("onnx-fp16", {}), "int8": ("onnx-int8", {"form": "cpu"})}


def main():
    options = _options()
    found = {
        "command": origin.command(),
        "machine": origin.machine(),
        "flags": sorted(cpu_flags() & set(RECORDED_FLAGS)),
        "networks": {network: _measured(network, options.seconds) for network in options.networks},
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _measured(network, seconds):
    with tempfile.TemporaryDirectory() as folder:
        files = {form: Path(folder) / f"{form}.onnx" for form in FORMS}
        for form, (target, choices) in FORMS.items():
            export(load_network(network), files[form], target=target, choices=choices)
        rows = {row.name: row for row in bench(list(files.values()), seconds_per_network=seconds)}
        require_sure(rows.values())
    median_ms = {form: rows[form].measured_ms for form in FORMS}
    return {
        "median_ms": median_ms,
        "fp32_over": {form: median_ms["fp32"] / median_ms[form] for form in FORMS if form != "fp32"},
        "samples": {form: len(rows[form].measurement.samples_us) for form in FORMS},
    }


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--seconds", type=float, default=6.0, help="measuring time of each form of each network")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
