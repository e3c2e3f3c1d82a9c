"""Where the solves of a sweep run: in this process, in local processes, on a Dask cluster. Layer 4.

All three are a `concurrent.futures.Executor`, so whoever submits work knows no difference. What is submitted is a
function of a text that returns a text: a worker needs the package, and the tables under the same paths.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deepmad_hw.errors import ConfigError, DeviceLostError, MissingExtraError

CONNECT_S = 15
CLUSTER_WIDTH = 10_000  # a scheduler queues by itself


@dataclass(frozen=True, kw_only=True)
class Workers:
    """An executor, and how much work it should hold at once.

    Args:
        executor: takes the work.
        width: pieces of work to hand out at once.
    """

    executor: Executor
    width: int


class _InThisProcess(Executor):
    """Does the work when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # a future hands over whatever went wrong
            done.set_exception(error)
        return done


@contextmanager
def workers(*, jobs: int = 1, dask: str | None = None) -> Iterator[Workers]:
    """Give workers, and take them back.

    Args:
        jobs: local processes; 1 works in this one.
        dask: address of a Dask scheduler, such as ``tcp://127.0.0.1:8786``, or None for this machine.

    Raises:
        ConfigError: fewer than one process.
        MissingExtraError: Dask is asked for and not installed.
        DeviceLostError: nobody answers at the address.
    """
    if jobs < 1:
        raise ConfigError(f"expected at least 1 process, got {jobs}", where="--jobs")
    if dask is not None:
        with _cluster(dask) as executor:
            yield Workers(executor=executor, width=CLUSTER_WIDTH)
    elif jobs == 1:
        yield Workers(executor=_InThisProcess(), width=1)
    else:
        # Fresh processes: those that are forked inherit the locks of threads that they don't have.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(max_workers=jobs, mp_context=context, initializer=_follow_parent)
        try:
            yield Workers(executor=pool, width=jobs)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """End with the process that started this one, however it ends, and at Ctrl-C, if that counts, without a word."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is in the background, where all ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError(
            "a cluster needs Dask", where="--dask", hint='install it with: pip install "deepmad-hw[dask]"'
        ) from error
    library: Any = distributed
    try:
        client = library.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DeviceLostError(
            "no Dask scheduler answers", where=f"--dask {address}", hint="start one with: dask scheduler"
        ) from error
    with client:
        yield client.get_executor(pure=False)
