"""Every error is one line with what, where and what to do."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmad_hw import errors

CHILDREN = {
    errors.ConfigError: ValueError,
    errors.InputFileError: ValueError,
    errors.NotCoveredError: LookupError,
    errors.InfeasibleError: ValueError,
    errors.SolverError: RuntimeError,
    errors.TooNoisyError: RuntimeError,
    errors.ForeignTableError: ValueError,
    errors.MissingExtraError: ImportError,
    errors.DeviceLostError: RuntimeError,
    errors.StorageError: OSError,
}


def test_every_error_of_the_module_is_listed_here():
    classes = {c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__}
    assert classes == {*CHILDREN, errors.DeepmadError}


@pytest.mark.parametrize(("child", "standard"), CHILDREN.items())
def test_an_error_is_caught_as_ours_and_as_the_standard_one(child, standard):
    for expected in (errors.DeepmadError, standard):
        with pytest.raises(expected):
            raise child("no such table", where="a.csv:3:1", hint="name another")


@pytest.mark.parametrize("child", CHILDREN)
def test_an_error_keeps_its_parts_and_reads_as_one_line(child):
    error = child("no such table", where="a.csv:3:1", hint="name another")
    assert (error.what, error.where, error.hint) == ("no such table", "a.csv:3:1", "name another")
    assert str(error) == "a.csv:3:1: no such table; name another"


def test_missing_parts_leave_no_punctuation():
    assert str(errors.ConfigError("no such table")) == "no such table"
    assert str(errors.ConfigError("no such table", where="x")) == "x: no such table"
    assert str(errors.ConfigError("no such table", hint="name another")) == "no such table; name another"


@given(what=st.text(), where=st.none() | st.text(), hint=st.none() | st.text())
def test_whatever_a_name_holds_an_error_is_one_line_that_no_terminal_obeys(what, where, hint):
    line = str(errors.InputFileError(what, where=where, hint=hint))
    assert line.isprintable()


def test_control_characters_are_shown_as_spaces_or_escapes():
    assert str(errors.ConfigError("no table", where="a\n\x1b[2J.csv")) == "a \\x1b[2J.csv: no table"
