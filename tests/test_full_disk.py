"""A disk that is full, or a kill, in the middle of an export: every file is the old one or the new one, whole."""

import ast
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

import pytest

import deepmad_hw
from deepmad_hw.cli import EXIT_OK, EXIT_STORAGE

pytest.importorskip("safetensors", reason="the extra torch is not installed")

DATA = Path(__file__).parent / "data"
STEPS_OF_A_FILE = 4  # write, fsync, rename, fsync of the folder
OLD = b"what stood here before"

SPACE = """\
space:
  family: bottleneck
  resolution: 64
  classes: 10
  stem: {out: [16, 24]}
  stages:
    - {stride: 2, out: [32, 64], bottleneck: [8, 16], depth: [1, 2]}
limits:
  macs: 50M
"""
PROFILE = "".join(
    f"{{Regular,1,{i},28,28,{o},3,1,0}} {0.004 + i * o * 9 * 784 / 5e9:.6g}\n" for i in (16, 32) for o in (16, 32)
)
NETWORK = str(DATA / "digits" / "mbconv_se.json")
PLOTS = [f"r-plots/{name}.{kind}" for name in ("pareto-0", "accuracy") for kind in ("png", "svg")]

# What writes which files, below the folder of the test.
EXPORTS = {
    "onnx": (("export", NETWORK, "--out", "{}/a.onnx"), ["a.onnx"]),
    "torch": (("export", NETWORK, "--target", "torch", "--out", "{}/a.py"), ["a.py", "a.safetensors"]),
    "report": (("report", "{}.results", "--out", "{}/r.html"), ["r.html", *PLOTS]),
    "design": (
        ("design", "{}.yaml", "--method", "fast", "--out", "{}"),
        ["design.json", "problem.json"],
    ),
    "table": (("table", "import", "tinynas", "{}.out", "--out", "{}/t.csv"), ["t.csv", "t.json"]),
}


class Disk:
    """`failing_disk.py` in a process, one folder per export, and what each export writes when nothing fails."""

    def __init__(self, process, folder):
        self._process, self.folder = process, folder
        self.whole = {}
        for name in EXPORTS:
            self.prepare(name, old=None)
            code, errors, steps = self.run(name, 0, "")
            assert (code, steps) == (EXIT_OK, STEPS_OF_A_FILE * len(EXPORTS[name][1])), (name, errors)
            self.whole[name] = self.files(name)

    def run(self, name, fails_at, how):
        words = [word.format(self.folder / name) for word in EXPORTS[name][0]]
        self._process.stdin.write(json.dumps([words, str(self.folder / name), fails_at, how]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def prepare(self, name, *, old):
        """Leave an export's folder with its files as they were before, or without any."""
        folder = self.folder / name
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()
        for path in (folder / file for file in EXPORTS[name][1]):
            path.parent.mkdir(parents=True, exist_ok=True)
            if old is not None:
                path.write_bytes(old)

    def files(self, name):
        folder = self.folder / name
        return {
            str(path.relative_to(folder)): _without_clock(path) for path in sorted(folder.rglob("*")) if path.is_file()
        }


def _without_clock(path):
    """Return a file's content, but for the one thing in it that differs from run to run: how long solving took."""
    content = path.read_bytes()
    if path.name != "design.json" or content == OLD:
        return content
    return {key: value for key, value in json.loads(content).items() if key != "timings"}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    (folder / "design.yaml").write_text(SPACE)
    (folder / "table.out").write_text(PROFILE)
    (folder / "report.results").mkdir()
    sweep = json.loads((DATA / "results" / "rho" / "sweep.json").read_text())
    one = {key: value[:1] if key in ("points", "plan") else value for key, value in sweep.items()}
    (folder / "report.results" / "sweep.json").write_text(json.dumps(one))
    command = [sys.executable, Path(__file__).with_name("failing_disk.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Disk(process, folder)
        process.stdin.close()


@dataclass(frozen=True, kw_only=True)
class Injected:
    """What came of an export that failed at one of its steps."""

    name: str
    fails_at: int
    code: int
    errors: list
    new: set  # files that are the new ones, whole
    kept: set  # files that are as they were
    others: set  # what else lies there

    @property
    def finished(self):
        """Return how many files were renamed before the step that failed."""
        files, step = divmod(self.fails_at - 1, STEPS_OF_A_FILE)
        return files + (step == STEPS_OF_A_FILE - 1)


def injected(disk, number, how):
    """Let a random step of an export fail, where files of an earlier export stand or none do."""
    chance = random.Random(number)
    name = list(EXPORTS)[number % len(EXPORTS)]
    files = EXPORTS[name][1]
    fails_at = chance.randint(1, STEPS_OF_A_FILE * len(files))
    old = OLD if chance.random() < 0.7 else None
    disk.prepare(name, old=old)
    code, errors, _ = disk.run(name, fails_at, how)
    found = disk.files(name)
    return Injected(
        name=name,
        fails_at=fails_at,
        code=code,
        errors=errors,
        new={file for file in files if found.get(file) == disk.whole[name][file]},
        kept={file for file in files if found.get(file) == old},
        others=found.keys() - set(files),
    )


@pytest.mark.promise("T3", 200)
def test_a_full_disk_leaves_every_file_old_or_new(disk, tries):
    for number in tries:
        found = injected(disk, number, "full")
        assert found.code == EXIT_STORAGE, found
        assert [line.startswith("error: ") for line in found.errors].count(True) == 1, found
        assert "No space left on device" in found.errors[-1], found
        assert found.errors[-1].startswith("error: "), found
        assert len(found.new) == found.finished, found
        assert found.new | found.kept == set(EXPORTS[found.name][1]), found
        assert found.others == set(), found


@pytest.mark.promise("T3", 100)
def test_a_kill_leaves_every_file_old_or_new(disk, tries):
    """Beside them, the unfinished one may stay under a name that begins with a dot and ends in .tmp."""
    for number in tries:
        found = injected(disk, number, "kill")
        assert found.code == -SIGKILL, found
        assert len(found.new) == found.finished, found
        assert found.new | found.kept == set(EXPORTS[found.name][1]), found
        unfinished = [Path(file).name for file in found.others]
        assert len(unfinished) == (found.fails_at % STEPS_OF_A_FILE in (1, 2, 3)), found
        assert all(name.startswith(".") and name.endswith(".tmp") for name in unfinished), found


@pytest.mark.parametrize("name", EXPORTS)
def test_after_a_kill_the_same_command_writes_everything(disk, name):
    disk.prepare(name, old=OLD)
    assert disk.run(name, 2, "kill")[0] == -SIGKILL
    assert disk.run(name, 0, "")[0] == EXIT_OK
    found = disk.files(name)
    assert {file: found[file] for file in EXPORTS[name][1]} == disk.whole[name]


# What opens files for writing by itself, and why that is as good.
OWN_WAYS = {
    "atomic.py": "the one way",
    "jobs.py": "lines added to a packed training's results, each synced",
    "onnx_inputs.py": "into memory",
    "solvers.py": "the solver's log, in a temporary folder",
    "trainer.py": "runs without this package: a part is written, synced and renamed",
}


def test_every_other_file_is_written_by_write_atomically():
    sources = sorted(Path(deepmad_hw.__file__).parent.rglob("*.py"))
    assert {path.name for path in sources if _writing(path.read_text(encoding="utf-8"))} == set(OWN_WAYS)


def _writing(source):
    """Return the calls of a Python text that write files by themselves."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if _called(call) in WRITERS or _opens_for_writing(call)]


WRITERS = {"write_text", "write_bytes", "save_file", "save_model", "to_csv", "tofile", "savez"}


def _called(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _opens_for_writing(call):
    texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    modes = [text for text in texts if isinstance(text, str) and set(text) <= set("rwxabt+")]
    return _called(call) == "open" and any(set(mode) & set("wxa+") for mode in modes)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("path.open('wb')", True),
        ("open(name, 'a')", True),
        ("path.write_text(text)", True),
        ("path.open('rb'); path.open(); gzip.open(path); path.read_text()", False),
    ],
)
def test_a_file_that_is_written_otherwise_is_found(source, expected):
    assert bool(_writing(source)) == expected
