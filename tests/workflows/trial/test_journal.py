"""The journal keeps every line once, and refuses what is none."""

import sqlite3

import pytest

from deepmad_hw.errors import InputFileError
from deepmad_hw.workflows.trial.journal import EpochResult, FailedJob, Journal

LINE = {"job": "a-s0", "epoch": 1, "loss": 1.5, "right": 30, "images": 40, "seconds": 2.0}


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


def test_what_was_added_is_there_after_opening_again(tmp_path):
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.add(LINE)
        journal.add({**LINE, "epoch": 2, "test_right": 3, "test_images": 4})
    with Journal(tmp_path / "j.sqlite") as journal:
        first, last = journal.epochs("a-s0")
    assert first == EpochResult(**LINE)
    assert first.accuracy == 75
    assert (first.test_accuracy, last.test_accuracy) == (None, 75)


def test_a_line_that_comes_twice_is_stored_once(journal):
    journal.add(LINE)
    journal.add({**LINE, "seconds": 9.0})
    assert journal.results() == [EpochResult(**LINE)]


def test_a_failure_is_kept_until_it_is_forgotten_or_the_job_goes_on(journal):
    assert journal.add({"job": "a-s0", "failed": "out of memory", "loss": float("inf")}) == FailedJob(
        job="a-s0", failed="out of memory"
    )
    assert journal.failures() == {"a-s0": "out of memory"}
    journal.add(LINE)
    assert journal.failures() == {}
    journal.add({"job": "b-s0", "failed": "killed"})
    journal.forget_failures()
    assert journal.failures() == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"right": 41},
        {"right": -1},
        {"images": 0, "right": 0},
        {"epoch": 0},
        {"epoch": "1"},
        {"loss": "1"},
        {"extra": 1},
        {"test_right": 5, "test_images": 4},
    ],
)
def test_lines_that_no_training_says_are_refused(journal, wrong):
    with pytest.raises(InputFileError):
        journal.add({**LINE, **wrong})
    assert journal.results() == []


@pytest.mark.parametrize("line", [None, [], "text", {}, {"failed": 3, "job": "a"}, {"failed": "x"}])
def test_values_that_are_no_lines_are_refused(journal, line):
    with pytest.raises(InputFileError):
        journal.add(line)


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    path = tmp_path / "j.sqlite"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 50)
    with pytest.raises(InputFileError, match="damaged"):
        Journal(path)


def test_a_changed_row_is_refused(tmp_path):
    path = tmp_path / "j.sqlite"
    with Journal(path) as journal:
        journal.add(LINE)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE epochs SET line = 'nothing'")
    connection.close()
    with Journal(path) as journal, pytest.raises(InputFileError, match="damaged"):
        journal.results()
