"""Whether anything grows when one process profiles, designs and measures again and again.

python benchmarks/soak.py scripted --hours 1 --out benchmarks/results/soak-scripted.json
python benchmarks/soak.py real --minutes 15 --out benchmarks/results/soak-real.json

`scripted` runs on the replay backend until its clock has passed the hours, which is what the runs of all profiles say
they took (those of the benches are not counted); `real` with ONNX Runtime on this processor for minutes of wall time. A
loop is a profile, a certified design under a latency budget of the new table, and a bench of it. After each loop the
memory of this process is read, with its open files, its children and what lies in its temporary folder; after each unit
of a profile the size of the journal, which is gone once the table is written. The slope of the memory is that of a
straight line through the second half of the loops; the first half holds what is loaded once.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import origin

from deepmad_hw.errors import TooNoisyError
from deepmad_hw.network.expand import expand
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.problem.space import Space, StageSpace
from deepmad_hw.workflows.bench import bench as benching
from deepmad_hw.workflows.bench.bench import bench, of_graph, require_sure
from deepmad_hw.workflows.design.design import design
from deepmad_hw.workflows.profiling import profile as profiling
from deepmad_hw.workflows.profiling.choice import ProfileRequest
from deepmad_hw.workflows.profiling.profile import profile
from deepmad_hw.workflows.tables.tables import load_model

TOO_NOISY = "too noisy"
LEAST_LOOPS = {"scripted": 50, "real": 2}
MOST_GROWTH_KIB = {"scripted": 32.0, "real": 256.0}  # of the memory per loop, over the second half
PROFILE_MINUTES = {"scripted": 0.001, "real": 0.4}  # what was disturbed is measured again for half as long
BENCH_S = {"scripted": 0.05, "real": 0.5}  # of each measurement of a design
SLACK = 1.2  # of the budget, over the median network of the table
MOST_UNIT_BYTES = 2**20  # of the journal
RESOLUTION = {"scripted": (160, 160), "real": (32, 32)}  # a clock that is a script may run for as long as it likes
SPACE = Space(
    family="basic",
    resolution=(32, 32),
    stem=(8, 16),
    stages=(
        StageSpace(stride=2, out=(16, 24, 32), bottleneck=(16, 24, 32), kernel=(3,), depth=(1, 2)),
        StageSpace(stride=2, out=(32, 48, 64), bottleneck=(32, 48, 64), kernel=(3,), depth=(1, 2)),
    ),
    bottleneck_ratio=(0.5, 2.0),
    classes=10,
)


def main():
    options = _options()
    begin = time.monotonic()
    # No time is believed here, so a noisy machine is no reason to end a loop early.
    profiling.MAX_NOISY_SHARE, benching.MAX_RELATIVE_ERROR = 1.0, math.inf
    with tempfile.TemporaryDirectory() as name:
        room = _Room(Path(name))
        loops = []
        while not _enough(options, loops, time.monotonic() - begin):
            loops.append(_loop(options.kind, room, seed=sum(each["status"] != TOO_NOISY for each in loops)))
            _show(loops[-1], len(loops))
    made = {
        "command": origin.command(),
        "machine": origin.machine(),
        "seconds": round(time.monotonic() - begin),
        **_judged(options.kind, loops),
    }
    print(json.dumps({key: value for key, value in made.items() if key != "samples"}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return 1 if made["faults"] else 0


class _Room:
    """A folder for tables, and a temporary folder of its own, so that all that is left there is ours."""

    def __init__(self, folder):
        self.tables, self.temporary, self.clock = folder / "tables", folder / "temporary", folder / "clock"
        self.tables.mkdir()
        self.temporary.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)

    def clock_s(self):
        """Return what all runs of the replay backend took so far, by its script."""
        return float(self.clock.read_text(encoding="ascii")) / 1e6 if self.clock.exists() else 0.0

    def left(self):
        """Return what lies around that is neither a table nor the device's lock, which stays."""
        found = [*self.temporary.rglob("*"), *self.tables.iterdir()]
        return sorted(path.name for path in found if path.suffix not in (".lock", ".csv", ".json"))


def _enough(options, loops, wall_s):
    if len(loops) < LEAST_LOOPS[options.kind]:
        return False
    if options.kind == "scripted":
        return loops[-1]["clock_s"] >= options.hours * 3600
    return wall_s >= options.minutes * 60


def _loop(kind, room, *, seed):
    """Return how a loop went; the one after a profile that was too noisy goes on with it."""
    begin = time.monotonic()
    table = room.tables / "soak.csv"
    journal = table.with_suffix(".journal")
    largest = {"units": 0, "bytes": 0}

    def look(tick):
        sizes = [path.stat().st_size for path in journal.parent.glob(f"{journal.name}*")]
        largest.update(units=tick.done, bytes=max(largest["bytes"], sum(sizes)))

    request = ProfileRequest(
        spaces=(_space(kind),),
        runtime="replay" if kind == "scripted" else "onnxruntime",
        minutes=PROFILE_MINUTES[kind],
        seed=seed,
        references=(),
        script=f"noise=0.02 clock={room.clock}" if kind == "scripted" else "",
    )
    outcome = {"status": TOO_NOISY, "measured_over_predicted": None}
    with contextlib.suppress(TooNoisyError):
        profile(request, out=table, on_tick=look)
        outcome = _designed(kind, table, load_model(table))
    return {
        "seconds": time.monotonic() - begin,
        "clock_s": room.clock_s(),
        **outcome,
        "units": largest["units"],
        "journal_bytes": largest["bytes"],
        **_state(room),
    }


def _space(kind):
    return replace(SPACE, resolution=RESOLUTION[kind])


def _designed(kind, table, model):
    """Return the outcome of a design under the new table, and of a measurement of it."""
    usual_ms = statistics.median(each.measurement.median_us for each in model.table.calibration) / 1e3
    limit = LatencyLimit(table=model.name, budget_ms=SLACK * usual_ms)
    solution = design(Problem(name="soak", space=_space(kind), limits=Limits(latency=(limit,))), {model.name: model})
    graph = replace(expand(solution.architecture), name="design")
    (row,) = bench([of_graph(graph)], table=table, seconds_per_network=BENCH_S[kind])
    require_sure([row])
    return {"status": solution.status.value, "measured_over_predicted": row.measured_ms / row.predicted_ms}


def _state(room):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free but kept for later use is no growth
    pid = os.getpid()
    children = [
        child
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text(encoding="ascii").split()
    ]
    return {
        "resident_kib": int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        * (os.sysconf("SC_PAGE_SIZE") // 1024),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": sum(1 for _ in Path("/proc/self/task").iterdir()),
        "children": len(children),
        "left": room.left(),
    }


def _judged(kind, loops):
    second = loops[len(loops) // 2 :]
    memory = np.array([each["resident_kib"] for each in second], dtype=float)
    slope_kib = float(np.polyfit(np.arange(len(memory)), memory, 1)[0]) if len(memory) > 1 else 0.0
    wall_s = sum(each["seconds"] for each in loops)
    first, last = loops[0], loops[-1]
    unit_bytes = max(each["journal_bytes"] / each["units"] for each in loops)
    faults = []
    if slope_kib > MOST_GROWTH_KIB[kind]:
        faults.append(f"memory grows by {slope_kib:.0f} KiB per loop, at most {MOST_GROWTH_KIB[kind]:g}")
    faults += [
        f"{name}: {second[0][name]}, then {last[name]}"
        for name in ("descriptors", "threads")
        if last[name] > second[0][name]
    ]
    if any(each["children"] for each in loops):
        faults.append("a child outlived its loop")
    made = [each for each in loops if each["status"] != TOO_NOISY]
    if not made:
        faults.append("no table was made")
    faults += [f"left behind: {' '.join(each['left'][:5])}" for each in made[-1:] if each["left"]]
    if unit_bytes > MOST_UNIT_BYTES:
        faults.append(f"a unit takes {unit_bytes:.0f} bytes of the journal, at most {MOST_UNIT_BYTES}")
    return {
        "loops": len(loops),
        "wall_hours": wall_s / 3600,
        "scripted_hours": last["clock_s"] / 3600,
        "memory_kib": {
            "first": first["resident_kib"],
            "middle": second[0]["resident_kib"],
            "last": last["resident_kib"],
            "largest": max(each["resident_kib"] for each in loops),
            "growth_per_loop": slope_kib,
            "growth_per_wall_hour": slope_kib * len(loops) / wall_s * 3600,
            "growth_per_scripted_hour": slope_kib * len(loops) / last["clock_s"] * 3600 if last["clock_s"] else None,
        },
        "descriptors": {"first": first["descriptors"], "middle": second[0]["descriptors"], "last": last["descriptors"]},
        "threads": {"first": first["threads"], "middle": second[0]["threads"], "last": last["threads"]},
        "children_at_most": max(each["children"] for each in loops),
        "journal": {
            "units_at_most": max(each["units"] for each in loops),
            "bytes_at_most": max(each["journal_bytes"] for each in loops),
            "bytes_per_unit_at_most": unit_bytes,
        },
        "statuses": {
            word: sum(each["status"] == word for each in loops) for word in sorted({each["status"] for each in loops})
        },
        "faults": faults,
        "samples": loops,
    }


def _show(found, count):
    sys.stderr.write(
        f"loop {count}: {found['seconds']:.1f} s, clock {found['clock_s']:.0f} s, "
        f"{found['resident_kib'] / 1024:.1f} MiB, {found['descriptors']} files, {found['status']}\n"
    )


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    scripted, real = kinds.add_parser("scripted"), kinds.add_parser("real")
    scripted.add_argument("--hours", type=float, default=1.0, help="of the scripted clock")
    real.add_argument("--minutes", type=float, default=15.0, help="of wall time")
    for each in (scripted, real):
        each.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
