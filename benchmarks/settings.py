"""Profile, predict and bench in other settings than one image on one thread: batch 8, two threads, int8, OpenVINO.

python benchmarks/settings.py --out benchmarks/results/settings.json

For every setting, at 224x224 and at 64x64: one short profile for spaces of all four families, then networks of each
family that were not profiled, drawn with a fixed seed, predicted and measured. A refused network counts as an error
without end.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import origin

from deepmad_hw.network.expand import expand
from deepmad_hw.predict.network import TableModel
from deepmad_hw.problem import sampling
from deepmad_hw.workflows.bench.bench import bench, of_graph, require_sure
from deepmad_hw.workflows.profiling.choice import ProfileRequest, spaces
from deepmad_hw.workflows.profiling.profile import profile

SETTINGS = {
    "fp32": {},
    "fp32, batch 8, 2 threads": {"batch": 8, "threads": 2},
    "int8": {"precision": "int8"},
    "int8, batch 8, 2 threads": {"precision": "int8", "batch": 8, "threads": 2},
    "OpenVINO fp32": {"runtime": "openvino"},
    "OpenVINO int8": {"runtime": "openvino", "precision": "int8"},
}
SPACES = {"bottleneck": "deepmad-r18", "basic": "resnet-basic", "mbconv": "mobile-cpu", "mbconv_se": "mobile-cpu"}
SIDES = (224, 64)
LARGEST_MACS = 2e9
SEED = 20261126


def main():
    options = _options()
    chosen = [name for name in SETTINGS if not options.only or name in options.only]
    found = {
        "command": origin.command(),
        "machine": origin.machine(),
        "minutes": options.minutes,
        "sides": {side: _at(side, chosen, options) for side in options.sides},
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _at(side, chosen, options):
    asked = [_space(name, side) for name in options.families]
    subjects = _subjects(asked, options.networks)
    return {name: _tried(name, asked, subjects, options) for name in chosen}


def _space(family, side):
    return replace(spaces([SPACES[family]])[0], family=family, resolution=(side, side))


def _subjects(asked, count):
    random = np.random.default_rng(SEED)
    return [
        of_graph(
            expand(sampling.random_architecture(space, random, max_macs=LARGEST_MACS), name=f"{space.family}{index}")
        )
        for space in asked
        for index in range(count)
    ]


def _tried(name, asked, subjects, options):
    begin = time.monotonic()
    request = ProfileRequest(spaces=tuple(asked), references=(), minutes=options.minutes, **SETTINGS[name])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        table = profile(request, out=path)
        profiled_s = time.monotonic() - begin
        rows = bench(subjects, table=path, seconds_per_network=options.seconds)
        require_sure(rows)
    errors = [math.inf if row.error is None else row.error for row in rows]
    known = [error for error in errors if math.isfinite(error)]
    print(f"{asked[0].resolution} {name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return {
        "profiled_s": profiled_s,
        "layers": len(table.rows),
        "noisy_layers": sum(row.status == "noisy" for row in table.rows),
        "refused": len(errors) - len(known),
        "median_error": statistics.median(map(abs, errors)),
        "worst_error": max(map(abs, errors)),
        "signed_mean_error": statistics.mean(known) if known else None,
        "margin": TableModel(table).margin,
        "outside_margin": sum(not row.lower_ms <= row.measured_ms <= row.upper_ms for row in rows if row.upper_ms),
        "networks": {
            row.name: {"predicted_ms": row.predicted_ms, "measured_ms": row.measured_ms, "uncovered": row.uncovered[:1]}
            for row in rows
        },
    }


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.5, help="measuring time of each profile")
    parser.add_argument("--networks", type=int, default=3, help="of each family")
    parser.add_argument("--seconds", type=float, default=0.5, help="of measuring each network")
    parser.add_argument("--families", nargs="*", choices=tuple(SPACES), default=tuple(SPACES))
    parser.add_argument("--sides", nargs="*", type=int, default=SIDES, help="of the images, in pixels")
    parser.add_argument("--only", nargs="*", choices=tuple(SETTINGS), help="settings to try")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
