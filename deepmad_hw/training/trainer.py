"""Trains the networks of a plan, one job after the other, and resumes each at its last finished epoch. Layer 2.

Needs torch and numpy only. In a packed folder this file is called ``train.py`` and stands beside ``jobs.py``,
``layers.py``, the plan and the images::

    python train.py                      trains all jobs of plan.json on one processor core
    python train.py --workers 4          four at once
    python train.py --device cuda        on a card

A job is one network, one seed and one number of epochs. After every epoch its state is stored in
``checkpoints/JOB.npz``, and a line of JSON is added to ``results.jsonl``. Every random number is a function of the
seed, the epoch and the step, so that a job that was stopped ends with the weights of one that was not: on one device,
with one number of threads.

The recipe: SGD with Nesterov momentum, a learning rate that rises linearly and falls as half a cosine, label smoothing,
random shifts and flips; no weight decay on norms and biases.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

try:
    from deepmad_hw.training import jobs, layers
except ImportError:  # alone, in a packed folder
    import jobs  # type: ignore[import-not-found, no-redef]
    import layers  # type: ignore[import-not-found, no-redef]

KINDS = ("Conv", "Linear", "Pool", "Scale", "Add")
TIMED_STEPS, UNTIMED_STEPS = 3, 2
EVALUATED_AT_ONCE = 500
FOLLOW_S = 1.0

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Images:
    """Images and what they show.

    Args:
        pixels: bytes, shape [n, height, width, channels].
        labels: number of the class, shape [n].
    """

    pixels: Bytes
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


class Plan:
    """A folder with networks, images and jobs.

    Args:
        folder: holds ``plan.json`` and the arrays.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data: dict[str, Any] = json.loads((folder / jobs.PLAN).read_text(encoding="utf-8"))
        if self._data.get("schema") != jobs.SCHEMA:
            raise SystemExit(f"{folder / jobs.PLAN}: expected schema {jobs.SCHEMA}")
        self.recipe: dict[str, Any] = self._data["recipe"]
        self.jobs = {job["name"]: jobs.Job(**job) for job in self._data["jobs"]}

    def job(self, name: str) -> jobs.Job:
        """Return a job by its name."""
        if name not in self.jobs:
            raise SystemExit(f"{self.folder / jobs.PLAN}: no job is called {name!r}")
        return self.jobs[name]

    def identity(self, job: jobs.Job) -> str:
        """Return what a checkpoint of a job must be equal in: network, recipe, seed, epochs."""
        parts = [self._data["networks"][job.network], self.recipe, job.seed, job.epochs]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def images(self, part: str) -> Images:
        """Return the images of ``train``, ``validation`` or ``test``; pixels stay on the disk until they are used."""
        pixels = np.load(self.folder / f"{part}_images.npy", mmap_mode="r")
        return Images(pixels, np.load(self.folder / f"{part}_labels.npy"))

    def module(self, network: str, *, seed: int) -> nn.Module:
        """Return an untrained network."""
        description = self._data["networks"][network]
        placed = []
        for layer in description["layers"]:
            if layer["kind"] not in KINDS:
                raise SystemExit(f"{self.folder / jobs.PLAN}: unknown layer {layer['kind']!r}")
            placed.append(
                (layer["name"], getattr(layers, layer["kind"])(*layer["args"], **layer["options"]), layer["inputs"])
            )
        module: nn.Module = layers.Network(placed, description["outputs"])
        module.load_state_dict(initial_values(module, description["initial"], seed=seed))
        return module

    @property
    def pixel_statistics(self) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the training images' channels, in bytes."""
        return np.asarray(self._data["mean"], np.float32), np.asarray(self._data["deviation"], np.float32)


def initial_values(module: nn.Module, initial: Mapping[str, Mapping[str, float]], *, seed: int) -> dict[str, Tensor]:
    """Return first values of all parameters: drawn normally, with the standard deviation that the plan names.

    Args:
        module: the network.
        initial: by layer, ``deviation`` of its weights and ``gain`` of its batch norm.
        seed: of the draws, which depend on the layer's name beside it.
    """
    values = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    for name, layer in initial.items():
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        drawn = random.standard_normal(tuple(values[f"{name}.weight"].shape), dtype=np.float32)
        values[f"{name}.weight"] = torch.from_numpy(drawn * np.float32(layer["deviation"]))
        if f"{name}.norm.weight" in values:
            values[f"{name}.norm.weight"] += layer["gain"]
            values[f"{name}.norm.running_var"] += 1
    return values


# --- images ---------------------------------------------------------------------------------------------------------


def augmented(pixels: Bytes, random: np.random.Generator, recipe: Mapping[str, Any]) -> Bytes:
    """Return images that are shifted and mirrored at random; what a shift uncovers is the image mirrored at its edge.

    Args:
        pixels: shape [n, height, width, channels].
        random: source of randomness.
        recipe: ``shift``, the largest one as a share of the side, and ``flips``.
    """
    n, height, width, _ = pixels.shape
    up, left = round(height * recipe["shift"]), round(width * recipe["shift"])
    rows = np.arange(height)[None] + random.integers(-up, up + 1, (n, 1))
    columns = np.arange(width)[None] + random.integers(-left, left + 1, (n, 1))
    if recipe["flips"]:
        columns = np.where(random.random((n, 1)) < 0.5, columns, width - 1 - columns)
    rows = np.where(rows < 0, -rows, np.where(rows >= height, 2 * height - 2 - rows, rows))
    columns = np.where(columns < 0, -columns, np.where(columns >= width, 2 * width - 2 - columns, columns))
    moved: Bytes = pixels[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


class Batches:
    """Turns pixels into what a network is given.

    Args:
        plan: with the statistics of its pixels.
        device: to which tensors are moved.
    """

    def __init__(self, plan: Plan, device: str) -> None:
        mean, deviation = plan.pixel_statistics
        self._mean = torch.from_numpy(mean).reshape(1, -1, 1, 1).to(device)
        self._deviation = torch.from_numpy(deviation).reshape(1, -1, 1, 1).to(device)
        self._recipe = plan.recipe
        self._device = device

    def tensor(self, pixels: Bytes) -> Tensor:
        """Return normalised images, [n, channels, height, width] in channels-last memory."""
        moved = torch.from_numpy(np.array(pixels)).to(self._device).permute(0, 3, 1, 2)
        return (moved.float() - self._mean) / self._deviation

    def train(self, images: Images, *, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's batches; the images that fill no batch are left out, other ones every epoch."""
        size = min(self._recipe["batch"], len(images))
        order = np.random.default_rng([seed, epoch]).permutation(len(images))
        for step, start in enumerate(range(0, len(images) - size + 1, size)):
            chosen = np.sort(order[start : start + size])
            random = np.random.default_rng([seed, epoch, step])
            pixels = augmented(images.pixels[chosen], random, self._recipe)
            yield self.tensor(pixels), torch.from_numpy(images.labels[chosen]).to(self._device)

    def whole(self, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images as they are, in order."""
        for start in range(0, len(images), EVALUATED_AT_ONCE):
            labels = images.labels[start : start + EVALUATED_AT_ONCE]
            yield (
                self.tensor(images.pixels[start : start + EVALUATED_AT_ONCE]),
                torch.from_numpy(labels).to(self._device),
            )


# --- training -------------------------------------------------------------------------------------------------------


def learning_rate(step: int, steps: int, recipe: Mapping[str, Any]) -> float:
    """Return the rate of a step: a straight line up, then half a cosine down to 0.

    Args:
        step: from 0.
        steps: in all.
        recipe: ``learning_rate``, the highest, and ``warm_up``, the share of steps that rise.
    """
    rising: int = max(1, round(recipe["warm_up"] * steps))
    highest: float = recipe["learning_rate"]
    if step < rising:
        return highest * (step + 1) / rising
    return highest * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1))) / 2


class Training:
    """One job, from its start or its checkpoint.

    Args:
        plan: the plan.
        job: one of its jobs.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, plan: Plan, job: jobs.Job, device: str) -> None:
        self.plan, self.job, self.device = plan, job, device
        self.module = plan.module(job.network, seed=job.seed).to(device)
        self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decayed = [value for value in self.module.parameters() if value.ndim > 1]
        others = [value for value in self.module.parameters() if value.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": plan.recipe["weight_decay"]}, {"params": others}]
        self.optimizer = torch.optim.SGD(
            groups, lr=plan.recipe["learning_rate"], momentum=plan.recipe["momentum"], nesterov=True
        )
        self.batches = Batches(plan, device)
        self.history: list[dict[str, Any]] = []

    def run(self) -> Iterator[dict[str, Any]]:
        """Train to the end; yield what is known of every epoch, those of the checkpoint first."""
        checkpoint = self.plan.folder / jobs.CHECKPOINTS / f"{self.job.name}.npz"
        if checkpoint.is_file():
            self._load(checkpoint)
            yield from self.history
        train, validation = self.plan.images("train"), self.plan.images("validation")
        while len(self.history) < self.job.epochs:
            began = time.monotonic()
            loss = self._epoch(train, len(self.history))
            found: dict[str, Any] = {"job": self.job.name, "epoch": len(self.history) + 1, "loss": loss}
            if not math.isfinite(loss):
                yield {**found, "failed": f"the loss is {loss} in epoch {found['epoch']}"}
                return
            found |= {"right": self.right(validation), "images": len(validation)}
            if self.job.test and found["epoch"] == self.job.epochs:
                test = self.plan.images("test")
                found |= {"test_right": self.right(test), "test_images": len(test)}
            self.history.append({**found, "seconds": time.monotonic() - began})
            self._save(checkpoint)
            yield self.history[-1]

    def _epoch(self, images: Images, epoch: int) -> float:
        """Return the mean loss of an epoch of training."""
        self.module.train()
        recipe = self.plan.recipe
        steps: int = len(images) // min(recipe["batch"], len(images))
        total = 0.0
        for step, (pixels, labels) in enumerate(self.batches.train(images, seed=self.job.seed, epoch=epoch)):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(epoch * steps + step, self.job.epochs * steps, recipe)
            loss = self.step(pixels, labels)
            total += loss
            if not math.isfinite(loss):
                return loss
        return total / steps

    def step(self, pixels: Tensor, labels: Tensor) -> float:
        """Take one step and return its loss."""
        with self._precision():
            logits = self.module(pixels)
            loss = functional.cross_entropy(logits, labels, label_smoothing=self.plan.recipe["label_smoothing"])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        value: float = loss.item()
        return value

    @torch.inference_mode()
    def right(self, images: Images) -> int:
        """Return how many images the network names right."""
        self.module.eval()
        right = 0
        for pixels, labels in self.batches.whole(images):
            with self._precision():
                right += int((self.module(pixels).argmax(1) == labels).sum())
        return right

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.plan.recipe["precision"] == "bf16")

    def _save(self, path: Path) -> None:
        arrays = {f"module.{name}": value.numpy(force=True) for name, value in self.module.state_dict().items()}
        if len(self.history) < self.job.epochs:
            for index, state in self.optimizer.state_dict()["state"].items():
                arrays[f"momentum.{index}"] = state["momentum_buffer"].numpy(force=True)
        facts = {"identity": self.plan.identity(self.job), "history": self.history}
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, facts=np.array(json.dumps(facts)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def _load(self, path: Path) -> None:
        with np.load(path) as stored:
            facts = json.loads(str(stored["facts"]))
            if facts["identity"] != self.plan.identity(self.job):
                raise SystemExit(f"{path}: belongs to another plan; delete it to train anew")
            self.history = facts["history"]
            values = {name.partition(".")[2]: stored[name] for name in stored.files if name.startswith("module.")}
            momenta = {int(name.partition(".")[2]): stored[name] for name in stored.files if name[:9] == "momentum."}
        self.module.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
        groups = self.optimizer.state_dict()["param_groups"]
        state = {index: {"momentum_buffer": torch.from_numpy(value)} for index, value in momenta.items()}
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def seconds_per_step(self) -> float:
        """Return how long a step takes, from a few of them."""
        images = self.plan.images("train")
        self.module.train()
        times = []
        for _, (pixels, labels) in zip(
            range(UNTIMED_STEPS + TIMED_STEPS), self.batches.train(images, seed=0, epoch=0), strict=False
        ):
            began = time.monotonic()
            self.step(pixels, labels)
            times.append(time.monotonic() - began)
        return min(times[UNTIMED_STEPS:] or times)


# --- the command ----------------------------------------------------------------------------------------------------


def lines(plan: Plan, job: jobs.Job, device: str) -> Iterator[dict[str, Any]]:
    """Yield what is known of a job's epochs; of one that cannot go on, a line with ``failed``."""
    try:
        yield from Training(plan, job, device).run()
    except MemoryError:
        yield {"job": job.name, "failed": "out of memory"}
    except RuntimeError as error:  # torch.OutOfMemoryError among them
        short = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        memory = isinstance(error, torch.OutOfMemoryError) or "not enough memory" in short or "can't allocate" in short
        yield {"job": job.name, "failed": f"out of memory: {short}" if memory else short}


def prepare(device: str, threads: int) -> None:
    """Make results a function of the plan, and say so early where the device is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is there")
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)


def follow_parent() -> None:
    """End with the process that started this one, however it ends."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(FOLLOW_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_one(plan: Plan, name: str, *, device: str) -> int:
    """Train one job; lines of JSON go to standard output."""
    failed = False
    for line in lines(plan, plan.job(name), device):
        print(json.dumps(line), flush=True)
        failed = failed or "failed" in line
    return jobs.EXIT_FAILED if failed else 0


def time_all(plan: Plan, *, device: str) -> None:
    """Print how many seconds a step of every network takes, as one line of JSON."""
    networks = {job.network: job for job in plan.jobs.values()}
    print(json.dumps({name: Training(plan, job, device).seconds_per_step() for name, job in networks.items()}))


def main() -> int:
    """Read the command line and run."""
    here = Path(__file__).resolve()
    parser = argparse.ArgumentParser(description="Train the networks of a plan; what is finished is not trained again.")
    parser.add_argument("--plan", type=Path, default=here.parent, metavar="DIR", help="folder of plan.json")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for each job")
    parser.add_argument("--workers", type=int, default=1, help="jobs at once")
    parser.add_argument("--job", help="train this job only, and print its results")
    parser.add_argument("--time", action="store_true", help="print how long a step of each network takes, and stop")
    given = parser.parse_args()
    if given.job is None and not given.time:
        jobs.run_all(given.plan, script=here, device=given.device, threads=given.threads, workers=given.workers)
        return 0
    follow_parent()
    prepare(given.device, given.threads)
    plan = Plan(given.plan)
    if given.time:
        time_all(plan, device=given.device)
        return 0
    return run_one(plan, given.job, device=given.device)


if __name__ == "__main__":
    sys.exit(main())
