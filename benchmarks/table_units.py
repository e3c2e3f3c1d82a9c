"""Whether a table in another unit is found by physics: 20 tables, each with its times scaled by four wrong units.

Ten tables of devices that follow a script from a board to a card, the table that comes with the project, thirds of it,
and TinyNAS's V100 at its four batch sizes:

    python benchmarks/table_units.py tinynas_v100_trt_fp32.out.gz
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepmad_hw import costs
from deepmad_hw.errors import InputFileError
from deepmad_hw.exporters.probes import canary
from deepmad_hw.serde_table import read_table
from deepmad_hw.workflows.imports import ImportRequest, import_table
from deepmad_hw.workflows.tables import require_possible

FACTORS = (1e3, 1e-3, 1e6, 1e-6)
ROOT = Path(__file__).resolve().parent.parent
SPEEDS = (0.5, 2.0, 8.0, 20.0, 60.0, 100.0, 150.0, 200.0, 250.0, 300.0)  # GMAC/s of one thread, boards to servers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path, help="tinynas_v100_trt_fp32.out.gz")
    tables = list(_tables(parser.parse_args().profile))
    refused = {factor: sum(_refused(_scaled(table, factor)) for table in tables) for factor in FACTORS}
    originals = sum(_refused(table) for table in tables)
    for factor, count in refused.items():
        print(f"times x {factor:g}: {count} of {len(tables)} refused")
    print(f"originals: {originals} of {len(tables)} refused")
    sys.exit(originals > 0 or any(count < len(tables) for count in refused.values()))


def _tables(profile):
    shipped = read_table(min((ROOT / "latency_tables").glob("*/*.csv")))
    yield shipped
    order = np.random.default_rng(0).permutation(len(shipped.rows))
    for part in np.array_split(order, 5):
        yield replace(shipped, rows=tuple(shipped.rows[index] for index in part))
    for batch in (1, 32, 64, 128):
        yield import_table("tinynas", profile, ImportRequest(name=f"v100-b{batch}", batch=batch))
    for speed in SPEEDS:
        yield _made(shipped, speed)


def _made(shipped, speed):
    """Return the shipped layers as a device of one speed takes them: arithmetic, memory, and a call."""
    features = {True: ("avx2", "fma"), False: ("asimd",)}[speed > 30]
    bytes_per_us = 300 * speed

    def us(spec):
        values = spec.in_channels * spec.height * spec.width + spec.out_channels * spec.out_height * spec.out_width
        moved = 4 * (values + costs.layer_weights(spec))
        return 1.0 + costs.layer_macs(spec) / (1e3 * speed) + moved / bytes_per_us

    rows = tuple(replace(row, samples_us=(us(row.spec),), status="ok") for row in shipped.rows if row.samples_us)
    return replace(
        shipped,
        name=f"made-{speed:g}",
        environment=replace(shipped.environment, features=features),
        rows=rows,
        calibration=(),
        canary_us=sum(us(node.spec) for node in canary()),
    )


def _scaled(table, factor):
    rows = tuple(replace(row, samples_us=tuple(t * factor for t in row.samples_us)) for row in table.rows)
    return replace(table, rows=rows, canary_us=table.canary_us and table.canary_us * factor)


def _refused(table):
    try:
        require_possible(table, where=f"{table.name}.csv")
    except InputFileError:
        return True
    return False


if __name__ == "__main__":
    main()
