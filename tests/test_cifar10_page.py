"""The page on CIFAR-10 is what its generator writes from the stored results, and the README repeats its figures."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence-cifar10.md"
RESULTS = ROOT / "benchmarks" / "results" / "cifar10"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of the page, written anew."""
    folder = tmp_path_factory.mktemp("page")
    command = [sys.executable, "benchmarks/cifar10.py", "page", "--out", folder / "evidence-cifar10.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_page_is_what_the_generator_writes(written):
    assert PAGE.read_text() == (written / "evidence-cifar10.md").read_text()


def test_the_plots_are_what_the_generator_draws(written):
    drawn = sorted(path.name for path in written.glob("*.svg"))
    assert drawn == sorted(path.name for path in PAGE.parent.glob("cifar10-*.svg"))
    for name in drawn:
        assert f"({name})" in PAGE.read_text()
        assert (written / name).read_bytes() == (PAGE.parent / name).read_bytes(), name


def test_the_readme_repeats_its_figures():
    said = (ROOT / "README.md").read_text()
    table = dict(re.findall(r"^\| ([^|]+?) \| (-?\d\.\d\d) \(", PAGE.read_text(), flags=re.MULTILINE))
    claim = said[said.index("**Is the network any good?**") :].split("\n\n")[0]
    calibrated = next(value for name, value in table.items() if name.startswith("**calibrated objective**"))
    for value in (table["DeepMAD's objective"], table["the number of parameters"], calibrated):
        assert value in claim


def test_every_network_used_the_budget_and_every_line_is_of_a_job():
    trial = json.loads((RESULTS / "trial.json").read_text())
    budget_ms = json.loads((RESULTS / "problem.json").read_text())["limits"]["latency"][0]["budget_ms"]
    for each in trial["members"]:
        assert trial["least_share"] * budget_ms <= each["measured_ms"] <= budget_ms
    names = {each["name"] for each in (*trial["members"], *trial["references"])}
    lines = [json.loads(line) for line in (RESULTS / "epochs.jsonl").read_text().splitlines()]
    assert {line["job"].rpartition("-s")[0] for line in lines} <= names
    assert all(line["images"] == trial["data"]["validation"] for line in lines)
