"""What the documents say is true: links, make targets, files, examples, and every command."""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from typer.main import get_command

from deepmad_hw import cli
from deepmad_hw.cli.app import VERBS, app
from deepmad_hw.formats.serde_table import COLUMNS
from deepmad_hw.network.layer import OperationSpec
from profilers import command

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[!.]*/README.md")])
README = (ROOT / "README.md").read_text()
MADE = {ROOT / "docs" / "reference" / "cli.md"}  # by `make docs`, from the program itself


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    links += re.findall(r"^\[[^\]]+\]: (?!https?://|#)([^#\s]+)", path.read_text(), flags=re.MULTILINE)
    assert [link for link in links if not (path.parent / link).exists() and path.parent / link not in MADE] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_make_targets_exist(path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)", path.read_text(), flags=re.MULTILINE))
    assert named <= targets


def test_the_readme_names_the_two_commands():
    assert re.findall(r"^make ([a-z]+)", README, flags=re.MULTILINE) == ["quickstart", "test"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_of_the_packages_that_are_named_exist(path):
    named = re.findall(r"(?<![\w/.])(?:deepmad_hw|profilers|tests|latency_tables|configs)/[\w/.-]*", path.read_text())
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


@dataclass(frozen=True)
class Block:
    """Commands of a page, and the remarks that stand before them as comments, such as ``exit: 4``."""

    lines: tuple[str, ...]
    remarks: tuple[tuple[str, str], ...]

    def all(self, kind: str) -> list[str]:
        return [text for name, text in self.remarks if name == kind]


BLOCK = re.compile(r"(?P<remarks>(?:<!-- [^\n]* -->\n)*)```sh\n(?P<lines>.*?)^```", flags=re.DOTALL | re.MULTILINE)
REMARK = re.compile(r"<!-- (not run|shorter|exit|before): (.*) -->")
PAGES = [path for path in DOCUMENTS if path.is_relative_to(ROOT / "docs") and "```sh" in path.read_text()]
# Pages whose commands are made or tested elsewhere, and why.
ELSEWHERE = {
    "docs/answers.md": "options in passing, not commands",
    "docs/published-designs.md": "written by the command that it names",
    "docs/runtimes-on-cpu.md": "written by the command that it names",
    "docs/accuracy.md": "written by the commands that it names",
    "docs/evidence.md": "written by the commands that it names",
    "docs/evidence-cifar10.md": "written by the commands that it names",
    "docs/training.md": "tests/examples runs them",
    "docs/nvidia-gpu.md": "needs an NVIDIA GPU",
    "docs/reference/cli.md": "made from the program itself",
}
COMMAND = re.compile(r"^(deepmad-hw|python|make|scp|ssh) ", flags=re.MULTILINE)


def blocks(path):
    return [
        Block(lines=tuple(found["lines"].splitlines()), remarks=tuple(REMARK.findall(found["remarks"])))
        for found in BLOCK.finditer(path.read_text())
    ]


def test_every_command_of_the_documents_is_run_or_says_why_not():
    for path in DOCUMENTS:
        name = path.relative_to(ROOT).as_posix()
        if not path.is_relative_to(ROOT / "docs") or name in ELSEWHERE:
            continue
        left = BLOCK.sub("", path.read_text())
        assert COMMAND.findall(left) == [], f"{name}: write it as ```sh, so that it is run"
        for block in blocks(path):
            assert all(len(reason) > 10 for reason in block.all("not run"))


def test_remarks_on_commands_are_understood():
    for path in PAGES:
        comments = re.findall(r"<!-- .* -->", path.read_text())
        assert [comment for comment in comments if not REMARK.fullmatch(comment)] == [], path


def shortened(line, block):
    for text in block.all("shorter"):
        long, short = text.split(" -> ")
        line = line.replace(long, short)
    return line


def run_line(line, capsys):
    """Run one command as the page has it, and return its exit code."""
    words = shlex.split(line, comments=True)
    words, target = (words[:-2], words[-1]) if ">" in words else (words, None)
    if words[0] == "cp":
        shutil.copy(*words[1:])
        return 0
    if words[:3] == ["python", "-m", "profilers"]:  # in this process, where no timing decides
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words[2:])
            return command.main()
    if words[0] == "python":
        return subprocess.run([sys.executable, *words[1:]], check=False).returncode
    assert words[0] == "deepmad-hw", line
    capsys.readouterr()
    code = cli.main(words[1:])
    if target is not None:
        Path(target).write_text(capsys.readouterr().out)
    return code


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_run_in_their_order(path, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="the pages measure with ONNX Runtime")
    from deepmad_hw.workflows.bench import bench as benches
    from profilers import run, samples

    monkeypatch.setattr(run, "EARLY_LOOK_S", float("inf"))
    monkeypatch.setattr(benches, "ROUNDS", 2)  # whatever runs beside the tests: no timing decides them
    monkeypatch.setattr(benches, "MAX_RELATIVE_ERROR", 1e9)
    monkeypatch.setattr(samples, "MAX_STOLEN", 2.0)
    monkeypatch.setattr(samples, "MAX_CANARY_SWING", 1e9)
    monkeypatch.chdir(tmp_path)
    for name in ("latency_tables", "profilers", "deepmad_hw", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    for block in blocks(path):
        if block.all("not run"):
            continue
        for line in block.all("before"):
            assert run_line(line, capsys) == 0, line
        expected = int((block.all("exit") or ["0"])[0])
        for line in block.lines:
            assert run_line(shortened(line, block), capsys) == expected, (line, capsys.readouterr().err)


@pytest.mark.slow
def test_python_examples_of_the_documents_run():
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python-api.md").read_text(), flags=re.DOTALL | re.M)
    assert len(found) == 2
    for example in found:
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_notebook_runs():
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra dev)")
    import nbformat

    notebook = nbformat.read(ROOT / "docs" / "python-api.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "keep outputs out: they go stale"
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_verb_that_is_named_exists(path):
    named = set(re.findall(r"`deepmad-hw ([a-z]+)", path.read_text()))
    named |= {words[0] for words in command_lines(path.read_text()) if words[0].islower()}
    assert named <= set(VERBS)


def test_every_command_of_the_readme_has_verbs_and_options_that_exist():
    commands = command_lines(README)
    assert {words[0] for words in commands} == set(VERBS)
    require_known_options(commands)


def require_known_options(commands):
    for words in commands:
        command, rest = get_command(app), words
        while verbs := getattr(command, "commands", {}):
            if rest[0] in verbs:
                command, rest = verbs[rest[0]], rest[1:]
            else:  # as in `trial RUNFILE`
                command = verbs["run"]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert [word for word in rest if word.startswith("--") and word not in known] == [], words


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_has_options_that_exist(path):
    lines = [line.split("#")[0] for block in blocks(path) for line in block.lines]
    require_known_options([line.split()[1:] for line in lines if line.startswith("deepmad-hw ")])


def test_the_readme_lists_every_exit_code():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    codes = {value for name, value in vars(cli).items() if name.startswith("EXIT_") and isinstance(value, int)}
    assert listed == codes - {cli.EXIT_UNEXPECTED}


def test_the_columns_of_a_latency_table_are_explained():
    text = (ROOT / "latency_tables" / "README.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, flags=re.MULTILINE)
    operation = tuple(field.name for field in fields(OperationSpec))
    assert tuple(name for row in rows for name in re.findall(r"\w+", row)) == (
        *COLUMNS,
        *(*operation, "status", "samples_us"),  # the keys of the JSON's other operations
    )
