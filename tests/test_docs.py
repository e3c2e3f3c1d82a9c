"""What the documents say is true: links, make targets, files and examples."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)", path.read_text(), flags=re.MULTILINE))
    assert named <= targets


def test_the_readme_names_the_two_commands():
    assert re.findall(r"^make ([a-z]+)", README, flags=re.MULTILINE) == ["quickstart", "test"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_the_packages_that_are_named_exist(path):
    named = re.findall(r"(?<![\w/.])(?:deepmad_hw|profilers|tests|latency_tables|configs)/[\w/.]*", path.read_text())
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []


def test_python_examples_of_the_readme_run():
    examples = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().isdigit()
