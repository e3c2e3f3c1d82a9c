"""The page on accuracy is what its generator writes from the stored results, and its figures are theirs."""

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "accuracy.md"
SUMMARY = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())


def test_the_page_is_what_the_generator_writes(written_page):
    assert PAGE.read_text() == (written_page / "accuracy.md").read_text()


def test_the_plots_are_what_the_generator_draws(written_page):
    drawn = sorted(path.name for path in written_page.glob("*.svg"))
    assert drawn == sorted(path.name for path in PAGE.parent.glob("accuracy-*.svg"))
    assert [name for name in drawn if f"({name})" not in PAGE.read_text()] == []
    for name in drawn:
        assert (written_page / name).read_bytes() == (PAGE.parent / name).read_bytes(), name


def test_the_figures_follow_from_the_networks():
    rows, summary = SUMMARY["networks"], SUMMARY["summary"]
    errors = np.array([row["predicted_ms"] / row["measured_ms"] - 1 for row in rows])
    assert summary["networks"] == len(rows) == len({row["name"] for row in rows})
    assert summary["median_error"] == pytest.approx(np.median(np.abs(errors)))
    assert summary["mean_error"] == pytest.approx(errors.mean())
    assert summary["worst_error"] == pytest.approx(np.abs(errors).max())
    inside = [abs(row["measured_ms"] / row["predicted_ms"] - 1) <= summary["margin"] for row in rows]
    assert [row["inside"] for row in rows] == inside
    assert summary["covered"] == pytest.approx(np.mean(inside))


def test_the_tested_networks_do_not_calibrate():
    folder = ROOT / "benchmarks/results/accuracy"
    calibration = [item["architecture"] for item in json.loads((folder / "table.json").read_text())["calibration"]]
    tested = [
        item["architecture"]
        for name in ("networks.json", "designs.json")
        for item in json.loads((folder / name).read_text())["networks"]
    ]
    assert calibration
    assert [one for one in tested if one in calibration] == []
