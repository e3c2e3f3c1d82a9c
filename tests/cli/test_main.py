"""The frame: exit codes, one line per error, nothing heavy for --help."""

import errno
import os
import subprocess
import sys

import pytest

from deepmad_hw import errors
from deepmad_hw.cli import EXIT_CODES, app, main

HEAVY = ("casadi", "highspy", "numpy", "onnx", "onnxruntime", "pydantic", "pyomo", "rich", "scipy", "sklearn", "torch")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("what"), 2),
        (errors.InputFileError("what"), 3),
        (errors.NotCoveredError("what"), 3),
        (errors.InfeasibleError("what"), 4),
        (errors.SolverError("what"), 5),
        (errors.TooNoisyError("what"), 6),
        (errors.ForeignTableError("what"), 7),
        (errors.MissingExtraError("what"), 8),
        (errors.DeviceLostError("what"), 9),
        (errors.StorageError("what"), 74),
        (OSError(errno.ENOSPC, "No space left on device"), 74),
        (KeyboardInterrupt(), 130),
        (RuntimeError("odd"), 1),
    ],
)
def test_every_error_has_its_exit_code_and_one_line(run, monkeypatch, error, code):
    def fail():
        raise error

    monkeypatch.setattr("deepmad_hw.workflows.doctor.diagnose", fail)
    ran = run("doctor")
    assert ran.code == code
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1
    assert "Traceback" not in ran.err


def test_every_kind_of_error_is_in_the_table():
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DeepmadError)}
    assert set(EXIT_CODES) == kinds - {errors.DeepmadError}


def test_an_unexpected_error_asks_for_debug_and_debug_shows_the_traceback(run, monkeypatch):
    def fail():
        raise RuntimeError("odd\nthing")

    monkeypatch.setattr("deepmad_hw.workflows.doctor.diagnose", fail)
    plain = run("doctor")
    assert plain.error == "unexpected RuntimeError: odd thing; run again with --debug and report what it shows"
    for words in (("--debug", "doctor"), ("doctor", "--debug")):
        ran = run(*words)
        assert ran.code == 1
        assert "Traceback (most recent call last)" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["desing"], "No such command 'desing'"),
        (["design"], "Missing argument 'CONFIG'"),
        (["design", "deepmad-r18", "--methd", "fast"], "No such option: --methd"),
        (["design", "deepmad-r18", "--method", "best"], "Invalid value for '--method'"),
        (["export", "resnet18"], "Missing option '--out'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(run, words, said):
    ran = run(*words)
    assert ran.code == 2
    assert ran.error.startswith(said)
    assert ran.error.endswith("--help")


def test_no_command_shows_the_help(run):
    bare, asked = run(), run("--help")
    assert bare.code == asked.code == 0
    assert bare.out == asked.out
    for verb in app.VERBS:
        assert f"\n  {verb} " in asked.out


@pytest.mark.parametrize("verb", app.VERBS)
def test_every_verb_explains_itself(run, verb):
    ran = run(verb, "--help")
    assert ran.code == 0
    assert f"deepmad-hw {verb}" in ran.out


def test_the_version_is_told(run):
    assert run("--version").out == "deepmad-hw 0.1.0\n"


def test_help_loads_nothing_heavy():
    code = (
        f"import sys; from deepmad_hw.cli import main; main(['--help']); print(sorted(set(sys.modules) & set({HEAVY})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from deepmad_hw.cli import main; sys.exit(main(['doctor', '--json']))"
    command = f'{sys.executable} -c "{code}" | head -c 1'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


def test_main_takes_the_processes_own_arguments(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["deepmad-hw", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("deepmad-hw ")


CLOSED = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, '-c', *sys.argv[2:]])"
CALL = "import sys; from deepmad_hw.cli import main; sys.exit(main())"


@pytest.mark.parametrize("closed", ["0", "1", "2"])
def test_a_closed_stream_is_no_fault(config, tmp_path, closed):
    words = ("design", config, "--method", "fast", "--out", tmp_path / "out", "--json")
    command = [sys.executable, "-c", CLOSED, closed, CALL, *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("{") == (closed != "1")
    assert ended.stderr.startswith("solving ") == (closed != "2")
    assert (tmp_path / "out" / "design.json").is_file()


def process(*words, **variables):
    """Run the module as a program of its own, in a shell without a terminal."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", "deepmad_hw", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_module_is_the_program():
    shown = process("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("Usage: deepmad-hw [OPTIONS] COMMAND")
    wrong = process("desing")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: No such command 'desing'")
    assert wrong.stderr.endswith("see deepmad-hw --help\n")


@pytest.mark.parametrize(
    ("typed", "offered"), [("sw", "sweep"), ("table im", "import"), ("design --time-l", "--time-limit")]
)
def test_bash_and_zsh_are_told_how_a_word_goes_on(typed, offered):
    line = f"deepmad-hw {typed}"
    last = str(len(line.split()) - 1)
    bash = process(_DEEPMAD_HW_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=last)
    assert (bash.returncode, bash.stdout.split(), bash.stderr) == (0, [offered], "")
    zsh = process(_DEEPMAD_HW_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    assert zsh.returncode == 0
    assert f'"{offered}"' in zsh.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_installed_where_a_shell_looks_for_it(tmp_path, shell):
    told = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = process("--show-completion", shell, **told)
    assert shown.returncode == 0
    assert f"_DEEPMAD_HW_COMPLETE=complete_{shell}" in shown.stdout
    assert not list(tmp_path.iterdir())
    assert process("--install-completion", shell, **told).returncode == 0
    assert (tmp_path / f".{shell}rc").is_file()
    (script,) = (path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path)
    assert f"_DEEPMAD_HW_COMPLETE=complete_{shell}" in script.read_text()
