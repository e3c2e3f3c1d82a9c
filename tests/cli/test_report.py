"""`report` as a user runs it: one page, plots beside it, one line for every bad input."""

import json
from pathlib import Path

import pytest

from deepmad_hw.cli import EXIT_INPUT_FILE, EXIT_STORAGE, EXIT_USAGE

RHO = Path(__file__).parents[1] / "data" / "results" / "rho"


@pytest.fixture
def designed(run, config, tmp_path):
    ran = run("design", config, "--method", "fast", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    return tmp_path / "out"


def test_a_design_becomes_a_page(run, designed, tmp_path):
    ran = run("report", designed, "--out", tmp_path / "r.html", "--no-plots")
    assert ran.code == 0, ran.err
    assert ran.out == f"{tmp_path / 'r.html'}\n"
    text = (tmp_path / "r.html").read_text()
    assert f"deepmad-hw design {designed}/problem.json --method fast" in text
    assert not (tmp_path / "r-plots").exists()


def test_a_sweep_becomes_a_page_and_plots(run, tmp_path):
    ran = run("report", RHO, "--out", tmp_path / "r.html", "--json")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert data["size_bytes"] == (tmp_path / "r.html").stat().st_size < 6_000_000
    names = {Path(plot).name for plot in data["plots"]}
    kinds = ("pareto-0", "accuracy", "prices", "rho")
    assert names == {f"{kind}.{suffix}" for kind in kinds for suffix in ("svg", "png")}
    for plot in data["plots"]:
        start = Path(plot).read_bytes()[:8]
        assert start == b"\x89PNG\r\n\x1a\n" if plot.endswith("png") else start.startswith(b"<?xml")


def test_rows_of_a_bench_are_shown_beside(run, designed, tmp_path):
    (tmp_path / "b.json").write_text('[{"name": "out", "measured_ms": 3.25}, {"name": "resnet18", "measured_ms": 9.5}]')
    ran = run("report", designed, "--bench", tmp_path / "b.json", "--out", tmp_path / "r.html", "--no-plots")
    assert ran.code == 0, ran.err
    assert "<th>resnet18</th>" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nowhere", "--out", "r.html"), EXIT_USAGE, "nowhere: no such folder"),
        (("{empty}", "--out", "r.html"), EXIT_INPUT_FILE, "holds neither sweep.json nor design.json"),
        ((RHO, "--out", "r.pdf"), EXIT_USAGE, "end it with .html"),
        ((RHO, "--out", "/nowhere/r.html"), EXIT_STORAGE, "/nowhere/r.html: could not be written"),
        ((RHO, "--out", "r.html", "--bench", "nothing.json"), EXIT_INPUT_FILE, "nothing.json: cannot be read"),
        ((RHO,), EXIT_USAGE, "--out"),
    ],
)
def test_a_report_that_cannot_be_made_is_one_line(run, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    ran = run("report", *(str(word).format(empty=tmp_path / "empty") for word in words))
    assert ran.code == code, ran.err
    assert said in ran.error
    assert not (tmp_path / "r.html").exists()


def test_a_damaged_sweep_is_one_line_that_names_the_place(run, tmp_path):
    (tmp_path / "sweep.json").write_text('{"schema": 1, "name": "x"}')
    ran = run("report", tmp_path, "--out", tmp_path / "r.html")
    assert ran.code == EXIT_INPUT_FILE
    assert ran.error == f"{tmp_path / 'sweep.json'}: points: missing"
