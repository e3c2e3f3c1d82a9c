"""What the documents say is true: links, make targets, files and examples."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from deepmad_hw import cli
from deepmad_hw.cli.app import VERBS, app
from deepmad_hw.serde_table import COLUMNS

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[!.]*/README.md")])
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_make_targets_exist(path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)", path.read_text(), flags=re.MULTILINE))
    assert named <= targets


def test_the_readme_names_the_two_commands():
    assert re.findall(r"^make ([a-z]+)", README, flags=re.MULTILINE) == ["quickstart", "test"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
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


def command_lines(text):
    """Return the words of every `deepmad-hw ...` line in a document's code blocks, without comments."""
    blocks = re.findall(r"^```\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = (line.split("#")[0] for block in blocks for line in block.splitlines())
    return [re.sub(r"[\[\]]", "", line).split()[1:] for line in lines if line.startswith("deepmad-hw ")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_verb_that_is_named_exists(path):
    named = set(re.findall(r"`deepmad-hw ([a-z]+)", path.read_text()))
    named |= {words[0] for words in command_lines(path.read_text()) if words[0].islower()}
    assert named <= set(VERBS)


def test_every_command_of_the_readme_has_verbs_and_options_that_exist():
    commands = command_lines(README)
    assert {words[0] for words in commands} == set(VERBS)
    for words in commands:
        command, rest = get_command(app), words
        while rest and rest[0] in getattr(command, "commands", {}):
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        assert [word for word in rest if word.startswith("--") and word not in known] == [], words


def test_the_readme_lists_every_exit_code():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    codes = {value for name, value in vars(cli).items() if name.startswith("EXIT_") and isinstance(value, int)}
    assert listed == codes - {cli.EXIT_UNEXPECTED}


def test_the_columns_of_a_latency_table_are_explained():
    text = (ROOT / "latency_tables" / "README.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, flags=re.MULTILINE)
    assert tuple(name for row in rows for name in re.findall(r"\w+", row)) == COLUMNS
