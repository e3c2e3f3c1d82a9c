"""The verbs of tables, called as a user calls them."""

import csv
import json

import pytest

from deepmad_hw.cli import EXIT_INPUT_FILE, EXIT_USAGE

PROFILE = "".join(
    f"{{Regular,1,{i},28,28,{o},{k},1,{e}}} {0.004 + i * o * k * k * 784 / 5e9:.6g}\n"
    for i in (16, 32, 64)
    for o in (16, 32, 64)
    for k in (1, 3)
    for e in (0, 1)
)


@pytest.fixture
def imported(run, tmp_path):
    (tmp_path / "theirs.out").write_text(PROFILE)
    ran = run("table", "import", "tinynas", tmp_path / "theirs.out", "--device", "a card", "--out", tmp_path / "a.csv")
    assert ran.code == 0, ran.err
    assert "36 layers, 0 failed, 0 odd, 0 calibration networks" in ran.out
    return tmp_path / "a.csv"


def test_an_imported_table_is_shown(run, imported):
    shown = json.loads(run("table", "show", imported, "--json").out)
    assert (shown["rows"], shown["environment"]["device"], shown["margin"]) == (36, "a card", None)
    assert (shown["us_per_layer"], shown["curve_ms"]) == (0.0, [[0.0, 0.0]])
    assert shown["fused_activations"] == ["relu", "none"]
    assert shown["odd_rows"] == []


def test_a_row_that_is_far_from_those_around_it_is_counted_listed_and_not_used(run, tmp_path):
    lines = PROFILE.splitlines()
    key, time_ms = lines[13].rsplit(" ", 1)
    assert key == "{Regular,1,32,28,28,16,1,1,1}"
    (tmp_path / "theirs.out").write_text("\n".join([*lines[:13], f"{key} {1e3 * float(time_ms):g}", *lines[14:]]))
    ran = run("table", "import", "tinynas", tmp_path / "theirs.out", "--precision", "fp16", "--out", tmp_path / "a.csv")
    assert ran.code == 0, ran.err
    assert "36 layers, 0 failed, 1 odd, 0 calibration networks" in ran.out
    assert f"note: no prediction uses the odd rows; `deepmad-hw table show {tmp_path}/a.csv` lists them" in ran.out
    shown = json.loads(run("table", "show", tmp_path / "a.csv", "--json").out)
    (odd,) = shown["odd_rows"]
    assert (shown["rows"], shown["environment"]["precision"]) == (36, "fp16")
    assert (odd["in_channels"], odd["out_channels"], odd["kernel"], odd["residual"]) == (32, 16, 1, True)
    assert odd["median_us"] == pytest.approx(1e6 * float(time_ms), rel=1e-4)
    assert odd["expected_us"] == pytest.approx(1e3 * float(time_ms), rel=0.5)
    told = run("table", "show", tmp_path / "a.csv").out
    assert "1, which no prediction uses" in told
    assert "conv1x1 32->16 28x28 relu add" in told


def test_a_mistake_in_a_foreign_file_is_one_line(run, tmp_path):
    (tmp_path / "theirs.out").write_text(PROFILE + "{Regular,1}\n")
    ran = run("table", "import", "tinynas", tmp_path / "theirs.out", "--out", tmp_path / "a.csv")
    assert ran.code == EXIT_INPUT_FILE
    assert f"{tmp_path}/theirs.out:37:type: expected" in ran.error
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("import", "nothing", "x", "--out", "a.csv"),
        ("import", "tinynas", "x", "--out", "a.txt"),
        ("import", "tinynas", "x", "--precision", "fp8", "--out", "a.csv"),
        ("merge", "x.csv", "--out", "a"),
    ],
)
def test_words_that_make_no_sense_are_one_line(run, words):
    ran = run("table", *words)
    assert ran.code == EXIT_USAGE
    assert ran.error


def test_a_table_and_itself_do_not_differ_and_merge(run, imported, tmp_path):
    found = json.loads(run("table", "diff", imported, imported, "--json").out)
    assert (found["common_rows"], found["drift"], found["only_first"], found["canary_drift"]) == (36, 1.0, 0, None)
    assert "median layer +0.0%" in run("table", "diff", imported, imported).out
    ran = run("table", "merge", imported, imported, "--out", tmp_path / "b.csv", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"] == 36


def test_tables_of_two_environments_do_not_merge(run, imported, tmp_path):
    other = tmp_path / "other.csv"
    words = ("table", "import", "tinynas", tmp_path / "theirs.out", "--device", "another", "--out", other)
    assert run(*words).code == 0
    ran = run("table", "merge", imported, other, "--out", tmp_path / "b.csv")
    assert ran.code == EXIT_INPUT_FILE
    assert "device: a card != another" in ran.error
    assert "environment: device: a card != another" in run("table", "diff", imported, other, "--rows").out


def test_an_exported_table_needs_no_sidecar(run, imported, tmp_path):
    ran = run("table", "export", imported, "--out", tmp_path / "flat.csv")
    assert ran.code == 0, ran.err
    with (tmp_path / "flat.csv").open() as file:
        assert {row["device"] for row in csv.DictReader(file)} == {"a card"}
