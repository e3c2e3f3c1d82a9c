"""Where the solves of a sweep run, and how they end."""

import signal

import pytest

from deepmad_hw.workflows.executors import workers


@pytest.mark.parametrize(
    ("own", "theirs"),
    [(signal.default_int_handler, signal.SIG_DFL), (signal.SIG_IGN, signal.SIG_IGN)],
    ids=["in a terminal", "in the background"],
)
def test_ctrl_c_counts_for_processes_that_solve_as_it_does_for_the_one_that_started_them(own, theirs):
    usual = signal.signal(signal.SIGINT, own)
    try:
        with workers(jobs=2) as spread:
            assert spread.executor.submit(signal.getsignal, signal.SIGINT).result() == theirs
    finally:
        signal.signal(signal.SIGINT, usual)
