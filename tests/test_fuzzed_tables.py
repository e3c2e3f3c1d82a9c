"""Whatever a table's files say, the answer is the table or one line with file, row and column."""

import hashlib
import json
import random
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from deepmad_hw.cli import EXIT_INPUT_FILE, EXIT_OK, main
from deepmad_hw.formats.serde_table import COLUMNS, write_table
from deepmad_hw.latency.measurement import Environment, LayerMeasurement, NetworkMeasurement
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.layer import LayerSpec
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


# --- by hand ----------------------------------------------------------------------------------------------------------

MOST_SECONDS = 2.0  # of processor time
MOST_BYTES = 512 * 2**20

# A command in a process of its own, and what it took: seconds of processor time, and KiB. The outer process is small,
# because what a process counts as its peak begins with its parent's size.
MEASURED = """
import json, resource, subprocess, sys
command = [sys.executable, "-c", "import sys; from deepmad_hw.cli import main; sys.exit(main())", *sys.argv[1:]]
done = subprocess.run(command, capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stderr, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""

SPACE = """\
space:
  family: bottleneck
  resolution: 64
  classes: 10
  stem: {out: [16, 24]}
  stages:
    - {stride: 2, out: [32, 64], bottleneck: [8, 16], depth: [1, 2]}
"""


def first_row(**cells):
    """Return a change of one cell of the first row, and of the columns that follow from it."""

    def change(folder, csv, side):
        rows = [line.split(",") for line in csv.decode().splitlines()]
        for column, text in cells.items():
            rows[1][COLUMNS.index(column)] = text
        return forged(folder, "\n".join(",".join(row) for row in rows).encode() + b"\n", csv, side)

    return change


def forged(folder, new, old, side):
    (folder / "mine.csv").write_bytes(new)
    sums = (hashlib.sha256(data).hexdigest().encode() for data in (old, new))
    (folder / "mine.json").write_bytes(side.replace(*sums))
    return "table", "show", "mine.csv"


def one_layer_twice(folder, csv, side):
    return forged(folder, csv + csv.splitlines(keepends=True)[1], csv, side)


def one_key_twice(folder, csv, side):
    (folder / "mine.json").write_bytes(side.replace(b"{", b'{"name": "another",', 1))
    return "table", "show", "mine.csv"


def too_few_rows_for_the_space(folder, csv, side):
    (folder / "space.yaml").write_text(SPACE)
    return "design", "space.yaml", "--method", "fast", "--latency", "mine.csv=5ms"


def ten_million_rows(folder, csv, side):
    lines = csv.splitlines(keepends=True)
    shortest = min(lines[1:], key=len)
    with (folder / "mine.csv").open("ab") as file:
        for _ in range(100):
            file.write(shortest * 100_000)
    return "table", "show", "mine.csv"


def a_million_rows_of_one_layer(folder, csv, side):
    lines = csv.splitlines(keepends=True)
    return forged(folder, csv + min(lines[1:], key=len) * 1_000_000, csv, side)


def deep_lists(folder, csv, side):
    (folder / "mine.json").write_bytes(side.replace(b'"notes": []', b'"notes": ' + b"[" * 10**6 + b"]" * 10**6))
    return "table", "show", "mine.csv"


def deep_objects(folder, csv, side):
    deep = b'{"a": ' * 10**6 + b"1" + b"}" * 10**6
    (folder / "mine.json").write_bytes(side.replace(b'"notes": []', b'"notes": ' + deep))
    return "table", "show", "mine.csv"


def a_mark_of_byte_order(folder, csv, side):
    return forged(folder, b"\xef\xbb\xbf" + csv, csv, side)


def a_mark_of_byte_order_in_the_sidecar(folder, csv, side):
    (folder / "mine.json").write_bytes(b"\xef\xbb\xbf" + side)
    return "table", "show", "mine.csv"


def aliases_that_stand_for_billions(folder, csv, side):
    lines = ["a0: &a0 {mean: 1.0}"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 40)]
    (folder / "lut.yaml").write_text("\n".join(lines) + "\n")
    return "table", "import", "once-for-all", "lut.yaml", "--out", "new.csv"


def a_whole_number_of_a_million_digits(folder, csv, side):
    (folder / "mine.json").write_bytes(side.replace(b'"cores": 1', b'"cores": ' + b"9" * 10**6))
    return "table", "show", "mine.csv"


def one_row_in_milliseconds(folder, csv, side):
    rows = [line.split(",") for line in csv.decode().splitlines()]
    row = max((row for row in rows[1:] if row[-1]), key=lambda row: float(row[-3]))
    row[-1] = " ".join(f"{float(word) / 1e3:.5g}" for word in row[-1].split())
    row[-3] = f"{float(row[-3]) / 1e3:.6g}"
    return forged(folder, "\n".join(",".join(row) for row in rows).encode() + b"\n", csv, side)


HAND = {
    "nan": first_row(samples_us="nan"),
    "inf": first_row(samples_us="inf"),
    "minus zero": first_row(samples_us="-0.0"),
    "negative": first_row(samples_us="-3"),
    "zero": first_row(samples_us="0"),
    "text": first_row(samples_us="fast"),
    "wrong dtype": first_row(in_channels="16.0"),
    "a huge cell": first_row(in_channels="9" * 10**6),
    **{
        function.__name__.replace("_", " "): function
        for function in (
            one_layer_twice,
            one_key_twice,
            too_few_rows_for_the_space,
            ten_million_rows,
            a_million_rows_of_one_layer,
            deep_lists,
            deep_objects,
            a_mark_of_byte_order,
            a_mark_of_byte_order_in_the_sidecar,
            aliases_that_stand_for_billions,
            a_whole_number_of_a_million_digits,
            one_row_in_milliseconds,
        )
    },
}
HEAVY = (
    "a huge cell",
    "ten million rows",
    "a million rows of one layer",
    "deep lists",
    "deep objects",
    "aliases that stand for billions",
    "a whole number of a million digits",
)
# Where no row is to blame: what is said first then.
WITHOUT_A_ROW = {
    "ten million rows": r"mine\.csv: larger",
    "too few rows for the space": "mine: the table has no rows of",
}


def one_line_of(told, name):
    """Hold a refusal to one line with the file, and the row and column where there are any."""
    *progress, line = told.splitlines()
    place = WITHOUT_A_ROW.get(name, r"(mine\.(csv|json)|lut\.yaml):\d+:\w+: ")
    assert re.match(f"error: {place}", line), told[:500]
    assert len(line) < 1000
    assert progress in ([], ["solving space (fast)"])


def written(folder, name):
    """Write a bad table, and return the words that read it."""
    path = folder / "mine.csv"
    write_table(path, table())
    return HAND[name](folder, path.read_bytes(), path.with_suffix(".json").read_bytes())


@pytest.mark.promise("T5")
@pytest.mark.parametrize("name", [name for name in HAND if name not in HEAVY])
def test_a_bad_table_is_refused_in_one_line(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    words = written(tmp_path, name)
    capsys.readouterr()
    assert main(list(words)) == EXIT_INPUT_FILE
    one_line_of(capsys.readouterr().err, name)


@pytest.mark.promise("T5")
@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_table_is_refused_soon_and_in_little_memory(tmp_path, name):
    words = written(tmp_path, name)
    command = [sys.executable, "-c", MEASURED, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    code, told, seconds, kib = json.loads(done.stdout)
    assert code == EXIT_INPUT_FILE, told
    one_line_of(told, name)
    assert seconds < MOST_SECONDS
    assert kib * 1024 < MOST_BYTES
