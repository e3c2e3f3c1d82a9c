"""Runs the jobs of a training plan: in local processes or on a Dask cluster, into the journal. Layer 4."""

from __future__ import annotations

import importlib.util
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmad_hw.errors import ConfigError, DeviceLostError, MissingExtraError
from deepmad_hw.training import jobs
from deepmad_hw.training.jobs import Job, child_lines
from deepmad_hw.workflows.executors import workers as executors
from deepmad_hw.workflows.trial.journal import EpochResult, FailedJob, Journal
from deepmad_hw.workflows.trial.records import DEVICES, Trial

LONGEST_TIMING_S = 600.0

OnResult = Callable[[EpochResult | FailedJob], None]


def unfinished(work: Sequence[Job], journal: Journal) -> list[Job]:
    """Return the jobs that have neither ended nor failed, in their order.

    Args:
        work: all jobs.
        journal: what is known of them.
    """
    reached: dict[str, int] = {}
    for result in journal.results():
        reached[result.job] = max(result.epoch, reached.get(result.job, 0))
    failed = journal.failures()
    return [job for job in work if job.name not in failed and reached.get(job.name, 0) < job.epochs]


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """What networks are trained on.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: processor threads of each training.
        workers: trainings at once on this machine.
        dask: address of a Dask scheduler whose workers see the trial's folder under the same path, or None.
    """

    device: str = "cpu"
    threads: int = 1
    workers: int = 1
    dask: str | None = None

    def __post_init__(self) -> None:
        """Refuse what trains nothing."""
        if self.device not in DEVICES:
            raise ConfigError(f"expected one of {', '.join(DEVICES)}, got {self.device!r}", where="device")
        for name in ("threads", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected at least 1, got {getattr(self, name)}", where=name)


def train(
    folder: Path, work: Sequence[Job], journal: Journal, where: Where, *, on_result: OnResult = lambda result: None
) -> None:
    """Train what is left of a plan; every epoch is in the journal as soon as it is known.

    A job that fails (out of memory, a loss that is not a number) is noted, and the others go on.

    Args:
        folder: of the plan.
        work: its jobs.
        journal: into which results go, and which says what is done.
        where: what is trained on.
        on_result: is told every result.

    Raises:
        MissingExtraError: torch, or Dask where it is asked for, is not installed.
        DeviceLostError: nobody answers at the address.
    """
    left = unfinished(work, journal)
    if not left:
        return
    require_torch()
    lines = _cluster_lines(folder, left, where) if where.dask is not None else _local_lines(folder, left, where)
    for line in lines:
        on_result(journal.add(line))


def _local_lines(folder: Path, left: Sequence[Job], where: Where) -> Iterator[dict[str, Any]]:
    with _Crew(folder, left, where) as crew:
        yield from crew.lines()


class _Crew:
    """Threads that each work off jobs, one child process at a time; leaving ends the children.

    Args:
        folder: of the plan.
        left: jobs to do.
        where: what is trained on.
    """

    def __init__(self, folder: Path, left: Sequence[Job], where: Where) -> None:
        self._folder, self._where = folder, where
        self._waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in left:
            self._waiting.put(job)
        self._said: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self._children: list[subprocess.Popen[str]] = []
        self._stopped = threading.Event()
        self._size = min(where.workers, len(left))

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what the jobs say, as they say it."""
        running = self._size
        while running:
            line = self._said.get()
            if isinstance(line, BaseException):
                raise line
            if line is None:
                running -= 1
            else:
                yield line

    def _work(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    job = self._waiting.get_nowait()
                except queue.Empty:
                    break
                for line in child_lines(
                    self._folder,
                    job.name,
                    device=self._where.device,
                    threads=self._where.threads,
                    on_start=self._children.append,
                ):
                    self._said.put(line)
        except Exception as error:  # whatever it is, the one who waits hears of it
            self._said.put(error)
        finally:
            self._said.put(None)

    def __enter__(self) -> _Crew:
        """Start."""
        for _ in range(self._size):
            threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End all children, finished or not."""
        self._stopped.set()
        for child in self._children:
            if child.poll() is None:
                child.kill()


def step_seconds(folder: Path, *, device: str = "cpu", threads: int = 1) -> dict[str, float]:
    """Return how long one training step of each network of a plan takes, from a few steps.

    Args:
        folder: of the plan.
        device: ``cpu`` or ``cuda``.
        threads: of a job.

    Raises:
        MissingExtraError: torch is not installed.
        DeviceLostError: the trainer ended without an answer.
    """
    require_torch()
    words = [sys.executable, str(jobs.TRAINER), "--plan", str(folder), "--time"]
    words += ["--device", device, "--threads", str(threads)]
    done = subprocess.run(  # noqa: S603 - this interpreter and a script of this package
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONGEST_TIMING_S
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise DeviceLostError(f"the trainer ended: {said[-1] if said else done.returncode}", where=str(folder))
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


def training_hours(trial: Trial, work: Sequence[Job], step_s: Mapping[str, float], *, workers: int = 1) -> float:
    """Return about how many hours the jobs of a trial take.

    Args:
        trial: whose images and recipe they train with.
        work: the jobs.
        step_s: seconds of a step, by network.
        workers: jobs at once, each as fast as one alone.
    """
    steps = trial.data.train // min(trial.settings.recipe.batch, trial.data.train)
    return sum(step_s[job.network] * steps * job.epochs for job in work) / workers / 3600


def require_torch() -> None:
    """Refuse to train where torch is not installed.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError(
            "training needs PyTorch", where="trial", hint='install it with: pip install "deepmad-hw[torch]"'
        )


def _cluster_lines(folder: Path, left: Sequence[Job], where: Where) -> Iterator[dict[str, Any]]:
    with executors(dask=where.dask) as crew:
        pending: set[Future[str]] = {
            crew.executor.submit(_whole_job, str(folder.resolve()), job.name, where.device, where.threads)
            for job in left
        }
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield from json.loads(future.result())


def _whole_job(folder: str, job: str, device: str, threads: int) -> str:
    """Train one job where this runs and return all its lines; what was trained before is in its checkpoint."""
    return json.dumps(list(child_lines(Path(folder), job, device=device, threads=threads)))
