"""Networks of others, measured beside their prediction in one interleaved run: the corpus of the tests.

Run from the project's folder, with nothing else running, on the machine that the table belongs to:

    python benchmarks/foreign.py --table TABLE.csv --out benchmarks/results/foreign.json

`--int8` rounds every network to Q/DQ first (for a table of int8). `--again RESULT.json` takes the measured times of an
earlier run on the same table and only predicts anew.

The networks are what PyTorch's exporters make of the modules in tests/exporters/foreign_torch.py: none is a member of a
block family, and none was profiled. More files may be named; those that leave a size free are left out.
"""

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from pathlib import Path

import origin

from deepmad_hw.installed import versions
from deepmad_hw.workflows.bench.bench import bench

sys.path.append("tests/exporters")  # where the corpus is

RESTS_ON_GUESSES = 0.01  # share of extrapolation from which a network is reported apart


def main():
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        paths = [*_written(Path(name), int8=options.int8), *options.files]
        command = origin.command()
        if options.again is None:
            rows = bench(paths, table=options.table, seconds_per_network=options.seconds, on_tick=_tell)
            networks = [_network(row) for row in rows]
        else:
            rows = bench(paths, table=options.table, predict_only=True)
            earlier = json.loads(options.again.read_text(encoding="utf-8"))
            networks = _measured_before(rows, earlier)
            command = f"{earlier['command'].splitlines()[0]}\n{command}"
    made = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": origin.machine(),
        "versions": dict(versions()),
        "summary": {
            "all": summary(networks),
            "measured_parts": summary([row for row in networks if not row["guessed"]]),
            "guessed_parts": summary([row for row in networks if row["guessed"]]),
        },
        "networks": networks,
    }
    if options.out:
        options.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(made["summary"], indent=1))


def _written(folder, *, int8):
    from foreign_networks import MEMBERS, model, quantised

    for name, member in MEMBERS.items():
        if member.slow and not member.refused and (member.quantises or not int8):
            path = folder / f"{name}.onnx"
            network = quantised(model(name)) if int8 else model(name)
            path.write_bytes(network.SerializeToString())
            yield path


def _network(row):
    share = row.extrapolated_share or 0.0
    return {
        "name": row.name,
        "macs": row.macs,
        "params": row.params,
        "predicted_ms": row.predicted_ms,
        "lower_ms": row.lower_ms,
        "upper_ms": row.upper_ms,
        "measured_ms": row.measured_ms,
        "relative_error": None if row.measurement is None else row.measurement.relative_error,
        "status": row.status,
        "extrapolated_share": share,
        "guessed": share > RESTS_ON_GUESSES,
        "uncovered": list(row.uncovered[:5]),
        "drift": row.drift,
    }


def _measured_before(rows, earlier):
    """Return predictions beside the measured times of an earlier run."""
    before = {row["name"]: row for row in earlier["networks"]}
    kept = ("measured_ms", "relative_error", "status", "drift")
    return [{**_network(row), **{key: before[row.name][key] for key in kept}} for row in rows]


def summary(networks):
    """Return how well some networks were predicted; times are brought to the speed the table was made at.

    Args:
        networks: rows of the result.
    """
    told = [row for row in networks if row["predicted_ms"] is not None and row["measured_ms"] is not None]
    measured_ms = [row["measured_ms"] for row in told]
    errors = [row["predicted_ms"] / value - 1 for row, value in zip(told, measured_ms, strict=True)]
    sizes = sorted(abs(error) for error in errors)
    inside = [row["lower_ms"] <= value <= row["upper_ms"] for row, value in zip(told, measured_ms, strict=True)]
    return {
        "networks": len(networks),
        "measured": sum(row["measured_ms"] is not None for row in networks),
        "predicted": len(told),
        "median_error": statistics.median(sizes) if sizes else None,
        "mean_error": statistics.fmean(errors) if errors else None,
        "ninth_decile": sizes[int(0.9 * (len(sizes) - 1))] if sizes else None,
        "worst_error": sizes[-1] if sizes else None,
        "within_20_percent": sum(size <= 0.2 for size in sizes) / len(sizes) if sizes else None,
        "inside_interval": sum(inside) / len(inside) if inside else None,
    }


def _tell(tick):
    print(f"{tick.done}/{tick.planned}, {tick.left_s:.0f} s left", file=sys.stderr, flush=True)


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="more ONNX files")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0, help="measuring time of a network")
    parser.add_argument("--int8", action="store_true", help="round the networks to int8 (Q/DQ)")
    parser.add_argument("--again", type=Path, help="take the measured times of this result")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
