"""Jobs of a training plan, each in a process of its own, so that none can take another with it. Layer 2.

Standard library only; in a packed folder it stands beside ``train.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
PLAN, RESULTS, CHECKPOINTS = "plan.json", "results.jsonl", "checkpoints"
EXIT_FAILED = 7  # of a job that ended without an accuracy; its last line says why
TRAINER = Path(__file__).with_name("trainer.py")


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        name: of the job.
        network: name of the network in the plan.
        seed: of weights, order and augmentation.
        epochs: over the training images.
        test: whether the test images are looked at, once, after the last epoch.
    """

    name: str
    network: str
    seed: int
    epochs: int
    test: bool = False


def child_lines(
    folder: Path,
    job: str,
    *,
    device: str,
    threads: int,
    script: Path = TRAINER,
    on_start: Callable[[subprocess.Popen[str]], None] = lambda child: None,
) -> Iterator[dict[str, Any]]:
    """Train one job in a process of its own and yield its lines; where it dies, one more with ``failed``.

    Args:
        folder: of the plan.
        job: name of the job.
        device: ``cpu`` or ``cuda``.
        threads: of torch.
        script: that trains.
        on_start: is given the process.
    """
    words = [sys.executable, str(script), "--plan", str(folder), "--job", job]
    words += ["--device", device, "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with subprocess.Popen(  # noqa: S603 - this interpreter and a script of this package
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        on_start(child)
        # Emptied on the side: a child that waits for room in its pipe would never end.
        said: list[str] = []
        listener = threading.Thread(target=lambda: said.extend(child.stderr or ()), daemon=True)
        listener.start()
        for line in child.stdout:
            yield json.loads(line)
        code = child.wait()
        listener.join()
    if code not in (0, EXIT_FAILED):
        yield {"job": job, "failed": _reason(code, [line.strip() for line in said if line.strip()])}


def _reason(code: int, said: list[str]) -> str:
    if code == -9:
        return "killed by signal 9, as the system does where memory runs out"
    if code < 0:
        return f"killed by signal {-code}"
    return said[-1][:200] if said else f"ended with exit code {code}"


def run_all(folder: Path, *, script: Path, device: str, threads: int, workers: int) -> None:
    """Train all jobs of a plan; what is known of every epoch is added to ``results.jsonl`` beside it.

    Args:
        folder: of the plan.
        script: that trains.
        device: ``cpu`` or ``cuda``.
        threads: of each job.
        workers: jobs at once.
    """
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    names: list[str] = [job["name"] for job in plan["jobs"]]
    waiting, guard = list(names), threading.Lock()
    with (folder / RESULTS).open("a", encoding="utf-8") as results:

        def work() -> None:
            while True:
                with guard:
                    if not waiting:
                        return
                    name = waiting.pop(0)
                for line in child_lines(folder, name, device=device, threads=threads, script=script):
                    with guard:
                        results.write(json.dumps(line) + "\n")
                        results.flush()
                        os.fsync(results.fileno())
                        print(_shown(line, len(names) - len(waiting), len(names)), flush=True)

        crew = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
        for each in crew:
            each.start()
        for each in crew:
            each.join()


def _shown(line: dict[str, Any], number: int, of: int) -> str:
    if "failed" in line:
        return f"{number}/{of} {line['job']}: {line['failed']}"
    accuracy = 100 * line["right"] / line["images"]
    return f"{number}/{of} {line['job']}: epoch {line['epoch']}, {accuracy:.2f} % of the validation images"
