"""The command line of the device side: measures a packed plan, or answers measuring orders. Layer 3, device side."""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

from deepmad_hw.errors import (
    ConfigError,
    DeepmadError,
    DeviceLostError,
    ForeignTableError,
    InputFileError,
    MissingExtraError,
    StorageError,
    TooNoisyError,
)
from deepmad_hw.files.atomic import open_standard_streams, write_atomically
from profilers import child, run, samples
from profilers.backend import Settings
from profilers.plan import read_plan
from profilers.run import Effort, Tick

# Those of `deepmad-hw`, so that a script on a board tells a full disk from a device in use too.
EXIT_CODES: dict[type[DeepmadError], int] = {
    ConfigError: 2,
    InputFileError: 3,
    ForeignTableError: 7,
    MissingExtraError: 8,
    DeviceLostError: 9,
    StorageError: 74,
    TooNoisyError: 6,
}


def main() -> int:
    """Run what the process's arguments say and return its exit code."""
    open_standard_streams()
    options = _parser().parse_args()
    settings = Settings(runtime=options.runtime, threads=options.threads, script=options.script)
    try:
        if options.verb == "child":
            child.serve(options.plan, settings, memory_bytes=options.memory_bytes)
        else:
            _run(options, settings)
    except DeepmadError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_CODES.get(type(error), 1)
    return 0


def _run(options: argparse.Namespace, settings: Settings) -> None:
    plan = read_plan(options.plan)
    effort = Effort(budget_s=options.minutes * 60, memory_bytes=options.memory_bytes)
    journal = options.out.with_suffix(".journal")
    environment, units = run.measure(plan, settings, journal=journal, effort=effort, on_tick=_show)
    levels_us = [samples.canary_level_us(unit) for unit in samples.trusted(units)]
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()  # noqa: UP017 - the device may run 3.10
    rows: list[object] = [{"environment": asdict(environment)}, {"measured_on": today}]
    rows += [{"canary_us": statistics.median(levels_us)}] if levels_us else []
    rows += [{"layer": asdict(row)} for row in samples.layers(plan, units)]
    rows += [{"operation": asdict(row)} for row in samples.operations(plan, units)]
    rows += [{"network": asdict(row)} for row in samples.networks(units)]
    write_atomically(options.out, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _show(tick: Tick) -> None:
    sys.stderr.write(f"{tick.done}/{tick.planned} {tick.probe} {tick.status}, about {tick.left_s:.0f} s left\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m profilers", description="Measures a packed plan on this device.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (("run", "measure a plan"), ("child", "answer measuring orders (used by run)")):
        command = verbs.add_parser(verb, help=text)
        command.add_argument("plan", type=Path, help="folder of the packed plan")
        command.add_argument("--runtime", default="onnxruntime", help="backend to time with")
        command.add_argument("--threads", type=int, default=1, help="threads per operator")
        command.add_argument("--memory-bytes", type=int, default=0, help="address space limit of the measuring process")
        command.add_argument("--script", default="", help="options of the replay backend")
        if verb == "run":
            command.add_argument("--minutes", type=float, default=10.0, help="measuring time")
            command.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    return parser
