"""What is printed where."""

import json

import pytest

from deepmad_hw.cli import output


@pytest.mark.parametrize("asked", ["FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR", "COLUMNS"])
def test_a_table_is_plain_text_off_a_terminal(capsys, monkeypatch, asked):
    monkeypatch.setenv(asked, "1")
    output.table(("name", "n"), [("a[b]", "1"), ("long name", "20")], numbers=(1,))
    captured = capsys.readouterr()
    assert [line.split() for line in captured.out.splitlines() if line[0] != "─"] == [
        ["name", "n"],
        ["a[b]", "1"],
        ["long", "name", "20"],
    ]
    assert "\x1b" not in captured.out
    assert all(line == line.rstrip() for line in captured.out.splitlines())


def test_progress_off_a_terminal_is_one_line_on_stderr(capsys):
    with output.progress("working", total=3) as steps:
        steps.advance(done=1)
        steps.advance(done=3, text="nearly")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "working\n"


def test_progress_on_a_terminal_leaves_stdout_alone(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with output.progress("working", total=3) as steps:
        steps.advance(done=1, text="on [its] way")
    assert capsys.readouterr().out == ""


def test_json_is_one_value(capsys):
    output.answer_json([{"name": "ä", "value": 0.1}])
    assert json.loads(capsys.readouterr().out) == [{"name": "ä", "value": 0.1}]
