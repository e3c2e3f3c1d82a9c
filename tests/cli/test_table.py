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
    assert "36 layers, 0 failed, 0 calibration networks" in ran.out
    return tmp_path / "a.csv"


def test_an_imported_table_is_shown(run, imported):
    shown = json.loads(run("table", "show", imported, "--json").out)
    assert (shown["rows"], shown["environment"]["device"], shown["margin"]) == (36, "a card", None)
    assert shown["fused_activations"] == ["relu", "none"]


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
