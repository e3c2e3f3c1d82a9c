"""Tables come back as they were written; what is wrong in one is said with file, row and column."""

import csv
import hashlib
import io
import json
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_numbers import ODD_NUMBERS, numbers_in, put

from deepmad_hw.errors import ConfigError, DeepmadError, InputFileError, StorageError
from deepmad_hw.formats.serde_table import COLUMNS, read_table, sidecar_path, write_table
from deepmad_hw.latency.measurement import (
    PRECISIONS,
    Environment,
    LayerMeasurement,
    NetworkMeasurement,
    OperationMeasurement,
)
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.network.layer import ACTIVATIONS, KINDS, VALUE_TYPES, LayerSpec, OperationSpec

ENVIRONMENT = Environment(
    device="Some CPU (25/17/1)",
    machine="x86_64",
    cores=2,
    features=("avx2", "fma"),
    governor="unknown",
    runtime="onnxruntime",
    runtime_version="1.32.0",
)
ARCHITECTURE = Architecture(
    family="mbconv_se",
    resolution=(64, 96),
    stem=Stem(out=8),
    stages=(Stage(out=16, bottleneck=48, kernel=5, stride=2, depth=2),),
    head=Head(out=32),
    classes=10,
)


def spec(index=0, **fields):
    return LayerSpec(**{"op": "conv", "in_channels": 8, "out_channels": 8 + index, "height": 16, "width": 16, **fields})


CONCAT = OperationSpec(kind="concat", read_values=100, written_values=100)


def table(**fields):
    rows = (
        LayerMeasurement(spec=spec(1), samples_us=(10.5, 12.25, 11.0)),
        LayerMeasurement(spec=spec(0, kernel=3, groups=8, activation="silu", residual=True), samples_us=(3.0,)),
        LayerMeasurement(spec=spec(2), samples_us=(7.0, 8.0), status="noisy"),
        LayerMeasurement(spec=spec(3), samples_us=(), status="timeout"),
    )
    network = CalibrationNetwork(
        architecture=ARCHITECTURE, measurement=NetworkMeasurement(name="network000", samples_us=(900.0, 901.5))
    )
    operations = (
        OperationMeasurement(spec=CONCAT, samples_us=(31.0, 32.5)),
        OperationMeasurement(spec=replace(CONCAT, kind="softmax", macs=7), samples_us=(), status="oom"),
    )
    default = {
        "rows": rows,
        "operations": operations,
        "calibration": (network,),
        "canary_us": 4452.794,
        "notes": ("profiled for mbconv_se",),
    }
    return LatencyTable(**{"name": "mine", "environment": ENVIRONMENT, **default, **fields})


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "mine.csv"
    write_table(path, table())
    return path


def test_a_table_comes_back_in_the_order_of_its_layers(written):
    assert read_table(written) == as_read(table())


def test_a_table_read_and_written_again_has_the_same_bytes(written, tmp_path):
    write_table(tmp_path / "again.csv", read_table(written))
    assert (tmp_path / "again.csv").read_bytes() == written.read_bytes()
    assert (tmp_path / "again.json").read_bytes() == sidecar_path(written).read_bytes()


def test_a_table_of_the_first_schema_is_one_without_other_operations(tmp_path):
    path = tmp_path / "old.csv"
    write_table(path, table(operations=()))
    side = json.loads(sidecar_path(path).read_text())
    assert "operations" not in side
    sidecar_path(path).write_text(json.dumps({**side, "schema": 1}))
    assert read_table(path).operations == ()
    assert len(read_table(path).rows) == 4


def test_operations_are_readable_beside_the_csv(written):
    first, second = json.loads(sidecar_path(written).read_text())["operations"]
    spec = {"kind": "concat", "value_type": "fp32", "read_values": 100, "written_values": 100}
    assert first == {"spec": spec, "status": "ok", "samples_us": "31 32.5"}
    assert (second["spec"]["macs"], second["status"], second["samples_us"]) == (7, "oom", "")


times = st.floats(1e-3, 1e9)
activations = st.sampled_from(ACTIVATIONS)
specs = st.builds(
    LayerSpec,
    op=st.sampled_from(("conv", "linear", "avg_pool", "max_pool", "global_pool", "scale", "add")),
    in_channels=st.integers(1, 10**6),
    out_channels=st.integers(1, 10**6),
    height=st.integers(8, 4096),
    width=st.integers(8, 4096),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    activation=activations,
    residual=st.booleans(),
)
measured = st.builds(
    LayerMeasurement,
    spec=specs,
    samples_us=st.lists(times, min_size=1, max_size=6).map(tuple),
    status=st.sampled_from(("ok", "noisy")),
)
failed = st.builds(
    LayerMeasurement, spec=specs, samples_us=st.just(()), status=st.sampled_from(("oom", "timeout", "unsupported"))
)


amounts = st.integers(0, 10**12)
other_operations = st.builds(
    OperationMeasurement,
    spec=st.builds(
        OperationSpec,
        kind=st.sampled_from(KINDS),
        value_type=st.sampled_from(VALUE_TYPES),
        read_values=st.integers(1, 10**12),
        written_values=st.integers(1, 10**12),
        macs=amounts,
        weight_values=amounts,
    ),
    samples_us=st.lists(times, min_size=1, max_size=6).map(tuple),
)
names = st.text(min_size=1, max_size=9)
counts = st.integers(1, 999)
environments = st.builds(
    Environment,
    device=names,
    machine=names,
    cores=counts,
    features=st.lists(names, max_size=3).map(tuple),
    governor=names,
    runtime=names,
    runtime_version=names,
    precision=st.sampled_from(PRECISIONS),
    batch=counts,
    threads=counts,
)
networks = st.builds(
    CalibrationNetwork,
    architecture=st.builds(replace, st.just(ARCHITECTURE), classes=counts, activation=st.sampled_from([None, "relu6"])),
    measurement=st.builds(NetworkMeasurement, name=names, samples_us=st.lists(times, min_size=1).map(tuple))
    | st.builds(NetworkMeasurement, name=names, samples_us=st.just(()), status=st.just("timeout")),
)
tables = st.builds(
    LatencyTable,
    name=names,
    environment=environments,
    # No two differ in their activation alone, so that some may be free.
    rows=st.lists(measured | failed, max_size=6, unique_by=lambda row: replace(row.spec, activation="none")).map(tuple),
    calibration=st.lists(networks, max_size=2).map(tuple),
    measured_on=st.none() | st.just("2026-11-26"),
    canary_us=st.none() | times,
    notes=st.lists(names, max_size=2).map(tuple),
    fused_activations=st.sampled_from([(), ("relu", "none"), ("none", "relu", "silu")]),
    operations=st.lists(other_operations, max_size=3, unique_by=lambda row: row.spec).map(tuple),
)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def to_five_digits(measurement):
    return replace(measurement, samples_us=tuple(float(f"{value:.5g}") for value in measurement.samples_us))


def as_read(table):
    """Return a table as its files hold it: in the order of its layers, times to five digits."""
    networks = [replace(each, measurement=to_five_digits(each.measurement)) for each in table.calibration]
    rows = sorted(map(to_five_digits, table.rows), key=lambda row: row.spec)
    operations = sorted(map(to_five_digits, table.operations), key=lambda row: row.spec)
    return replace(table, rows=tuple(rows), calibration=tuple(networks), operations=tuple(operations))


@given(table=tables)
@in_one_folder
def test_any_table_comes_back_to_five_digits_and_writes_the_same_bytes_again(tmp_path, table):
    path = tmp_path / "any.csv"
    write_table(path, table)
    written = path.read_bytes(), sidecar_path(path).read_bytes()
    found = read_table(path)
    assert found == as_read(table)
    for row, given_row in zip(found.rows, sorted(table.rows, key=lambda row: row.spec), strict=True):
        assert row.samples_us == pytest.approx(given_row.samples_us, rel=5.1e-5)
    write_table(path, found)
    assert (path.read_bytes(), sidecar_path(path).read_bytes()) == written


@given(table=tables, chance=st.randoms(use_true_random=False))
@in_one_folder
def test_rows_and_keys_may_stand_in_any_order_and_columns_may_not(tmp_path, table, chance):
    path = tmp_path / "any.csv"
    write_table(path, table)
    header, *rows = csv.reader(io.StringIO(path.read_text()))
    order = chance.sample(range(len(rows)), k=len(rows))
    forge(path, as_csv([header, *(rows[index] for index in order)]))
    side = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps(dict(chance.sample(list(side.items()), k=len(side)))))
    expected = as_read(table)
    assert read_table(path) == replace(expected, rows=tuple(expected.rows[index] for index in order))
    columns = chance.sample(range(len(header)), k=len(header))
    forge(path, as_csv([[row[index] for index in columns] for row in (header, *rows)]))
    if columns != sorted(columns):
        assert f"{path}:1:1: expected the columns" in refused(path)


@given(table=tables, data=st.data())
@in_one_folder
def test_any_number_in_a_table_is_refused_or_comes_back(tmp_path, table, data):
    path = data.draw(st.sampled_from(list(numbers_in(table))))
    try:
        changed = put(table, path, data.draw(ODD_NUMBERS))
    except ConfigError:
        return
    write_table(tmp_path / "any.csv", changed)
    assert read_table(tmp_path / "any.csv") == as_read(changed)


def test_columns_say_their_unit_and_medians_are_readable(written):
    rows = list(csv.DictReader(io.StringIO(written.read_text())))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["median_us"] for row in rows] == ["3", "11", "7.5", ""]
    assert rows[1]["samples_us"] == "10.5 12.25 11"


def test_a_layer_seen_in_very_many_networks_is_read_back(tmp_path):
    """Python's csv module refuses cells above 128 KiB unless it is told otherwise."""
    many = LayerMeasurement(spec=spec(), samples_us=tuple(100.0 + index / 1000 for index in range(40_000)))
    write_table(tmp_path / "long.csv", table(rows=(many,)))
    limit = csv.field_size_limit()
    (row,) = read_table(tmp_path / "long.csv").rows
    assert len(row.samples_us) == 40_000
    assert csv.field_size_limit() == limit


def write_rows(path, change):
    """Change a table's CSV and make its sidecar agree, as someone does who means it."""
    rows = list(csv.reader(io.StringIO(path.read_text())))
    forge(path, as_csv(change(rows) or rows))


def as_csv(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def forge(path, data):
    path.write_bytes(data)
    side = json.loads(sidecar_path(path).read_text())
    side["csv_sha256"] = hashlib.sha256(data).hexdigest()
    sidecar_path(path).write_text(json.dumps(side))


def cell(column, value, *, row=2):
    def change(rows):
        rows[row][COLUMNS.index(column)] = value

    return change


def refused(path):
    with pytest.raises(InputFileError) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("samples_us", "10.5 nan", "expected a time above 0 us, got nan"),
        ("samples_us", "inf", "expected a time above 0 us, got inf"),
        ("samples_us", "1e999", "expected a time above 0 us, got inf"),
        ("samples_us", "-3", "expected a time above 0 us, got -3.0"),
        ("samples_us", "0", "expected a time above 0 us, got 0.0"),
        ("samples_us", "-0.0", "expected a time above 0 us, got -0.0"),
        ("samples_us", "fast", "expected a number, got 'fast'"),
        ("samples_us", "1_000", "expected a number, got '1_000'"),
        ("samples_us", "١٢", "expected a number"),
        ("samples_us", "10,5", "expected a number, got '10,5'"),
        ("samples_us", "", "status 'ok' with 0 samples"),
        ("status", "good", "unknown status 'good'"),
        ("status", "", "unknown status ''"),
        ("status", "oom", None),
        ("median_us", "0.011", "0.011 is not the median of the samples, 11"),
        ("median_us", "nan", "nan is not the median of the samples, 11"),
        ("median_us", "", "expected a number, got ''"),
        ("in_channels", "8.0", "expected a whole number, got '8.0'"),
        ("in_channels", "-8", "expected a whole number, got '-8'"),
        ("in_channels", "", "expected a whole number, got ''"),
        ("in_channels", "0", "expected a whole number >= 1, got 0"),
        ("in_channels", "8_0", "expected a whole number, got '8_0'"),
        ("in_channels", "9" * 30, "expected a whole number, got '999"),
        ("groups", "3", "3 groups do not divide 8 -> 9 channels"),
        ("op", "convolution", "unknown operation 'convolution'"),
        ("activation", "gelu", "unknown activation 'gelu'"),
        ("residual", "2", "expected 0 or 1, got 2"),
        ("residual", "True", "expected a whole number, got 'True'"),
    ],
)
def test_a_wrong_cell_is_named_by_file_row_and_column(written, column, value, said):
    write_rows(written, cell(column, value))
    if column == "status" and said is None:
        said, column = "status 'oom' with 3 samples", "samples_us"
    message = refused(written)
    assert message.startswith(f"{written}:3:{column}: ")
    assert said in message


def test_a_missing_cell_is_named_by_its_row(written):
    write_rows(written, lambda rows: [*rows[:2], rows[2][:-1], *rows[3:]])
    assert f"{written}:3:samples_us: expected {len(COLUMNS)} cells, got {len(COLUMNS) - 1}" in refused(written)


def test_one_layer_twice_is_named_by_its_row(written):
    write_rows(written, lambda rows: [*rows, rows[1]])
    assert f"{written}:6:op: two rows of one layer" in refused(written)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xef\xbb\xbf" + ",".join(COLUMNS).encode() + b"\n",
        ",".join(COLUMNS).replace("median_us", "median_ms").encode() + b"\n",
        ",".join(COLUMNS[::-1]).encode() + b"\n",
        ";".join(COLUMNS).encode() + b"\n",
    ],
)
def test_another_header_is_refused(written, header):
    forge(written, header)
    assert f"{written}:1:1: expected the columns op,in_channels," in refused(written)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x80"])
def test_bytes_that_are_no_text_are_refused(written, data):
    forge(written, data)
    assert "is no text" in refused(written)


def test_a_quote_that_does_not_end_is_refused(written):
    forge(written, written.read_bytes() + b'"conv,8')
    assert "is no CSV" in refused(written)


def test_rows_that_are_not_the_sidecars_are_refused(written):
    written.write_text(written.read_text().replace("10.5", "10.6"))
    assert "the rows of mine.csv are not those this sidecar was written for; copy both files again" in refused(written)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    assert "none.csv: cannot be read: No such file or directory; make one with" in refused(tmp_path / "none.csv")


def test_a_missing_sidecar_is_named(written):
    sidecar_path(written).unlink()
    assert refused(written) == f"{sidecar_path(written)}: the table's sidecar is missing; copy it along with the CSV"


def test_a_huge_file_is_not_read(written, monkeypatch):
    monkeypatch.setattr("deepmad_hw.formats.serde_table.LARGEST_TABLE_BYTES", 10)
    assert "larger than 10 bytes" in refused(written)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda side: side.update(schema=3), "schema: 3 is too new"),
        (lambda side: side.update(schema=0), "schema: 0 is too old"),
        (lambda side: side.pop("environment"), "environment: missing"),
        (lambda side: side.update(enviroment=1), "enviroment: unknown key; did you mean 'environment'?"),
        (lambda side: side["environment"].update(cores="two"), "environment.cores: expected a whole number"),
        (lambda side: side["environment"].pop("device"), "environment.device: missing"),
        (lambda side: side.update(calibration=3), "calibration: expected a list"),
        (lambda side: side.update(calibration={}), "calibration: expected a list"),
        (lambda side: side.update(calibration=[3]), "calibration[0]: expected an object"),
        (lambda side: side["calibration"][0].pop("samples_us"), "calibration[0].samples_us: missing"),
        (lambda side: side["calibration"][0].update(samples_us=[-1.0]), "expected a time above 0 us"),
        (lambda side: side["calibration"][0]["architecture"].update(family=3), "family: expected a text"),
        (lambda side: side.update(canary_us="fast"), "canary_us: expected a number"),
        (lambda side: side.update(canary_us=0.0), "expected a canary time above 0 us"),
        (lambda side: side.update(canary_us=-4.0), "expected a canary time above 0 us"),
        (lambda side: side.update(notes=[1]), "notes[0]: expected a text"),
        (lambda side: side.update(name=None), "name: expected a text"),
        (lambda side: side.update(operations={}), "operations: expected a list"),
        (lambda side: side.update(operations=[3]), "operations[0]: expected an object"),
        (lambda side: side["operations"][0].pop("spec"), "operations[0].spec: missing"),
        (lambda side: side["operations"][0].update(samples_us=[1.0]), "operations[0].samples_us: expected a text"),
        (lambda side: side["operations"][0].update(samples_us="1_0"), "samples_us: expected a number, got '1_0'"),
        (lambda side: side["operations"][0].update(samples_us="nan"), "expected a time above 0 us"),
        (lambda side: side["operations"][0].update(samples_us=""), "status 'ok' with 0 samples"),
        (lambda side: side["operations"][0]["spec"].update(kind="fft"), "unknown kind of operation 'fft'"),
        (lambda side: side["operations"][0]["spec"].update(macs=-1), "operations[0].spec.macs: expected a whole"),
        (lambda side: side["operations"].append(side["operations"][0]), "two measurements of one operation"),
        (lambda side: side.update(schema=1), "operations: unknown key"),
    ],
)
def test_a_damaged_sidecar_is_named_by_its_key(written, change, said):
    side = json.loads(sidecar_path(written).read_text())
    change(side)
    sidecar_path(written).write_text(json.dumps(side))
    assert said in refused(written)


@pytest.mark.parametrize("victim", ["csv", "json"])
def test_fuzzed_bytes_never_end_in_another_error(written, victim):
    chance = random.Random(4)
    original = {path: path.read_bytes() for path in (written, sidecar_path(written))}
    path = written if victim == "csv" else sidecar_path(written)
    refusals = 0
    for _ in range(400):
        for each, data in original.items():
            each.write_bytes(data)
        spoilt = bytearray(original[path])
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(spoilt))
            spoilt[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        if victim == "csv":
            forge(path, bytes(spoilt))
        else:
            path.write_bytes(spoilt)
        try:
            read_table(written)
        except DeepmadError as error:
            refusals += "\n" not in str(error)
    assert refusals > 100


def test_a_table_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(StorageError):
        write_table(tmp_path / "none" / "mine.csv", table())


def test_a_table_does_not_hold_one_layer_twice():
    with pytest.raises(ConfigError, match="mine: two rows of one layer"):
        table(rows=(table().rows[0],) * 2)
