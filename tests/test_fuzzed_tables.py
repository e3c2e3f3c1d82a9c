"""Whatever a table's files say, the answer is the table or one line with file, row and column."""

import hashlib
import json
import random
import re
from dataclasses import replace

import pytest

from deepmad_hw.architecture import Architecture, Stage, Stem
from deepmad_hw.cli import EXIT_INPUT_FILE, EXIT_OK, main
from deepmad_hw.layer import LayerSpec
from deepmad_hw.measurement import Environment, LayerMeasurement, NetworkMeasurement
from deepmad_hw.serde_table import COLUMNS, write_table
from deepmad_hw.table import CalibrationNetwork, LatencyTable
from profilers.replay import layer_us

ONE_LINE = re.compile(r"error: \S+/mine\.(csv|json):\d+:\w+: [^\n]+\n")
CELLS = (
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "1e999",
    "1e-9",
    "8_0",
    "٣",
    "0x10",
    "9" * 40,
    "conv",
    "x" * 300,
    '"',
    "\0",
    "1;2",
)
VALUES = (None, True, -1, 0, 1e300, "", "nan", [], {}, [[]], "x" * 300, 2**60, {"a": {"b": []}})
TEXTS = (b"", b"\xff\xfe", b"\xef\xbb\xbf", b"NaN", b"{", b'"', b",,,", b"\n\n", b"-", b"1e999", b"[" * 2000, b"\0")


def specs():
    conv = LayerSpec(op="conv", in_channels=16, out_channels=16, height=28, width=28, activation="relu")
    for channels in (16, 24, 32):
        for kernel in (1, 3):
            yield replace(conv, in_channels=channels, kernel=kernel)
    yield replace(conv, op="global_pool", activation="none")
    yield LayerSpec(op="linear", in_channels=16, out_channels=10, height=1, width=1)


def table():
    rows = [LayerMeasurement(spec=spec, samples_us=(layer_us(spec, gmacs=20.0),) * 3) for spec in specs()]
    rows.append(LayerMeasurement(spec=replace(rows[0].spec, kernel=5), samples_us=(), status="oom"))
    network = Architecture(
        family="basic",
        resolution=(32, 32),
        stem=Stem(out=16),
        stages=(Stage(out=32, bottleneck=16, kernel=3, stride=2, depth=1),),
    )
    measured = NetworkMeasurement(name="network000", samples_us=(900.0, 901.0))
    environment = Environment(
        device="some",
        machine="none",
        cores=1,
        features=(),
        governor="unknown",
        runtime="replay",
        runtime_version="1",
    )
    return LatencyTable(
        name="mine",
        environment=environment,
        rows=tuple(rows),
        calibration=(CalibrationNetwork(architecture=network, measurement=measured),),
        canary_us=4000.0,
    )


def change_cell(chance, csv, side):
    rows = [line.split(",") for line in csv.decode().splitlines()]
    row = chance.randrange(len(rows))
    rows[row][chance.randrange(len(COLUMNS))] = chance.choice(CELLS)
    return "\n".join(",".join(row) for row in rows).encode() + b"\n", side


def change_rows(chance, csv, side):
    rows = csv.decode().splitlines()
    row = chance.randrange(len(rows))
    changed = chance.choice(([rows[row]] * 2, [], [rows[row] + ",7"], [rows[row][:-20]], [rows[row][::-1]]))
    return "\n".join([*rows[:row], *changed, *rows[row + 1 :]]).encode() + b"\n", side


def change_bytes(chance, csv, side):
    place = chance.randrange(len(csv))
    return csv[:place] + chance.choice(TEXTS) + csv[place + chance.randrange(4) :], side


def change_unit(chance, csv, side):
    factor = chance.choice((1e3, 1e-3, 1e6, 1e-6))
    rows = [line.split(",") for line in csv.decode().splitlines()]
    for row in rows[1:] if chance.random() < 0.5 else [chance.choice(rows[1:-1])]:
        if row[-1]:
            row[-1] = " ".join(str(float(word) * factor) for word in row[-1].split())
            row[-3] = str(float(row[-3]) * factor)
    return "\n".join(",".join(row) for row in rows).encode() + b"\n", side


def places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


def change_key(chance, csv, side):
    data = json.loads(side)
    *path, key = chance.choice([place for place in places(data) if place])
    for step in path:
        data = data[step]
    return csv, json.dumps(_with(json.loads(side), [*path, key], chance), indent=2).encode()


def _with(data, path, chance):
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    if chance.random() < 0.3 and isinstance(inner, dict):
        del inner[path[-1]]
        if chance.random() < 0.5:
            inner[f"{path[-1]}s"] = 1
    else:
        inner[path[-1]] = chance.choice(VALUES)
    return data


def change_sidecar_bytes(chance, csv, side):
    place = chance.randrange(len(side))
    return csv, side[:place] + chance.choice(TEXTS) + side[place + chance.randrange(4) :]


CHANGES = (
    change_cell,
    change_cell,
    change_rows,
    change_bytes,
    change_unit,
    change_key,
    change_key,
    change_sidecar_bytes,
)


def fuzzed(seed, csv, side):
    """Return the changed bytes of both files; a changed CSV gets its sha256 into an unchanged sidecar, mostly."""
    chance = random.Random(seed)
    new_csv, new_side = CHANGES[seed % len(CHANGES)](chance, csv, side)
    if new_csv != csv and chance.random() < 0.95:
        old, new = (hashlib.sha256(data).hexdigest().encode() for data in (csv, new_csv))
        new_side = new_side.replace(old, new)
    return new_csv, new_side


@pytest.mark.promise("T5", 1000)
def test_a_fuzzed_table_is_read_or_refused_in_one_line(tmp_path, capsys, tries):
    path = tmp_path / "mine.csv"
    write_table(path, table())
    csv, side = path.read_bytes(), path.with_suffix(".json").read_bytes()
    assert main(["table", "show", str(path)]) == EXIT_OK
    refused = 0
    for seed in tries:
        new_csv, new_side = fuzzed(seed, csv, side)
        path.write_bytes(new_csv)
        path.with_suffix(".json").write_bytes(new_side)
        capsys.readouterr()
        code = main(["table", "show", str(path)])
        told = capsys.readouterr().err
        if code != EXIT_OK:
            refused += 1
            assert (code, bool(ONE_LINE.fullmatch(told))) == (EXIT_INPUT_FILE, True), (seed, code, told)
    assert refused > 0.8 * len(tries)
