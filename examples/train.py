"""Trains a design on a folder of images, ImageNet's way; the same command resumes after any interruption.

    python examples/train.py r18-25ms/ /data/imagenet --out runs/r18 --epochs 100 --batch 512 --lr 1.0

The data folder holds `train/CLASS/*.jpg` and `val/CLASS/*.jpg`. What comes out is `weights.safetensors` (the moving
average of the weights) for `deepmad-hw export --weights`, and `result.json`. docs/training.md says more.

Every random number is a function of the seed and the step or epoch it is drawn for, so a checkpoint needs no state of a
random generator, and a resumed run draws what an undisturbed one would have drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import deepmad_hw as dm
from deepmad_hw.errors import ConfigError, DeepmadError, InputFileError
from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.workflows.networks.networks import load_network

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
RESULT = "result.json"
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
CROP_AREA, CROP_RATIO, CROP_TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # random-resized-crop as in Inception
CENTER = 0.875  # of the shorter side is seen in validation


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides the result; a checkpoint goes on only under the same ones."""

    network: str
    data: str
    weights: str | None
    epochs: int
    batch: int
    optimizer: str
    lr: float
    weight_decay: float
    warm_up: int
    label_smoothing: float
    mixup: float
    ema: float
    drop_path: float
    dropout: float
    seed: int


# --- images ---------------------------------------------------------------------------------------------------------


def find_images(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the names of the classes and every image with its class's number."""
    if not folder.is_dir():
        raise InputFileError("no such folder", where=str(folder), hint="the data folder holds train/ and val/")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    images = [
        (path, number)
        for number, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not images:
        raise InputFileError("holds no images", where=str(folder), hint="expected one folder of images per class")
    return classes, images


class Images(Dataset):
    """Images as tensors; an item is asked for by (epoch, index), so that its crop depends on nothing else."""

    def __init__(self, images: list[tuple[Path, int]], *, shape: tuple[int, int, int], seed: int, train: bool) -> None:
        self.images = images
        self.channels, *self.size = shape
        self.seed = seed
        self.train = train

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int] | str:
        """Return an image and its class, or the name of a file that cannot be read."""
        epoch, index = item
        path, label = self.images[index]
        try:
            with Image.open(path) as image:
                loaded = image.convert("RGB" if self.channels == 3 else "L")
        except (OSError, ValueError, Image.DecompressionBombError):
            return str(path)
        random = np.random.default_rng([self.seed, epoch, index])
        box = random_box(random, loaded.size) if self.train else center_box(loaded.size, self.size)
        pixels = np.asarray(loaded.resize(tuple(reversed(self.size)), Image.Resampling.BILINEAR, box=box), np.float32)
        if self.train and random.random() < 0.5:
            pixels = pixels[:, ::-1]
        mean, deviation = (MEAN, DEVIATION) if self.channels == 3 else (np.mean(MEAN), np.mean(DEVIATION))
        normal = ((pixels / 255 - mean) / deviation).astype(np.float32)
        return torch.from_numpy(normal.reshape(*self.size, self.channels).transpose(2, 0, 1).copy()), label


def random_box(random: np.random.Generator, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of a random part of an image of (width, height)."""
    width, height = size
    for _ in range(CROP_TRIES):
        area = width * height * random.uniform(*CROP_AREA)
        ratio = math.exp(random.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= width and down <= height:
            left, top = random.uniform(0, width - across), random.uniform(0, height - down)
            return left, top, min(left + across, width), min(top + down, height)  # sums may round up
    return 0, 0, width, height


def center_box(size: tuple[int, int], wanted: list[int]) -> tuple[float, float, float, float]:
    """Return the middle of an image of (width, height), in the proportions of the wanted (height, width)."""
    width, height = size
    scale = CENTER * min(width / wanted[1], height / wanted[0])
    across, down = scale * wanted[1], scale * wanted[0]
    return (width - across) / 2, (height - down) / 2, (width + across) / 2, (height + down) / 2


def collate(items: list[tuple[Tensor, int] | str]) -> tuple[Tensor, Tensor] | str:
    """Return one batch, or the name of a file that cannot be read."""
    faults = [item for item in items if isinstance(item, str)]
    if faults:
        return faults[0]
    return torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])


def loader(
    images: Images, batches: Iterable[list[tuple[int, int]]], *, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches, made by other processes."""
    pinned = torch.cuda.is_available()
    for batch in DataLoader(
        images, batch_sampler=list(batches), num_workers=workers, collate_fn=collate, pin_memory=pinned
    ):
        if isinstance(batch, str):
            raise InputFileError("is no image that can be read", where=batch, hint="repair or remove it")
        yield batch


def train_batches(settings: Settings, *, images: int, epoch: int, skip: int) -> list[list[tuple[int, int]]]:
    """Return an epoch's batches in its own order, without those that were trained before an interruption."""
    order = np.random.default_rng([settings.seed, epoch]).permutation(images)
    count = images // settings.batch
    return [[(epoch, int(index)) for index in batch] for batch in order[: count * settings.batch].reshape(count, -1)][
        skip:
    ]


# --- training -------------------------------------------------------------------------------------------------------


def make_optimizer(module: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer; norms and biases do not decay."""
    decayed = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)


def learning_rate(step: int, *, settings: Settings, steps: int, warm_up: int) -> float:
    """Return the rate of a step: a straight line up, then half a cosine down to 0."""
    if step < warm_up:
        return settings.lr * (step + 1) / warm_up
    return settings.lr * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1))) / 2


def loss_of(module: nn.Module, images: Tensor, labels: Tensor, *, settings: Settings, step: int) -> Tensor:
    """Return the smoothed cross entropy, of images that are mixed in pairs where that was asked for."""
    smoothing = settings.label_smoothing
    if not settings.mixup:
        return functional.cross_entropy(module(images), labels, label_smoothing=smoothing)
    share = float(np.random.default_rng([settings.seed, step, 1]).beta(settings.mixup, settings.mixup))
    logits = module(images * share + images.flip(0) * (1 - share))
    own, other = (
        functional.cross_entropy(logits, each, label_smoothing=smoothing) for each in (labels, labels.flip(0))
    )
    return own * share + other * (1 - share)


@torch.no_grad()
def update_average(average: dict[str, Tensor], module: nn.Module, *, decay: float, step: int) -> None:
    """Move the average of all weights and statistics towards the newest ones; faster while there are few."""
    kept = min(decay, (1 + step) / (10 + step))
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - kept)
        else:
            average[name].copy_(value)


@torch.inference_mode()
def accuracy(
    module: nn.Module, average: dict[str, Tensor], batches: Iterable[tuple[Tensor, Tensor]], device: str
) -> float:
    """Return the share of validation images that the averaged weights name right."""
    own = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(average)
    module.eval()
    right = total = 0
    for images, labels in batches:
        right += int((module(images.to(device)).argmax(1).cpu() == labels).sum())
        total += len(labels)
    module.load_state_dict(own)
    return right / total


# --- checkpoints ----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class State:
    """Where a run stands."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    step: int
    history: list[dict[str, float]]


def save_state(path: Path, state: State, settings: Settings) -> None:
    """Write a checkpoint, whole or not at all: tensors by name, and the rest as JSON."""
    tensors = {f"module.{name}": value for name, value in state.module.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in state.average.items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items() if value is not None}
    facts = {"schema": 1, "step": state.step, "history": state.history, "settings": asdict(settings)}
    write_atomically(
        path, save({name: value.contiguous().cpu() for name, value in tensors.items()}, {"run": json.dumps(facts)})
    )


def load_state(path: Path, state: State, settings: Settings) -> None:
    """Go on where a checkpoint was written."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputFileError(
            "is no checkpoint of this script", where=str(path), hint="remove it to start anew"
        ) from error
    for name, value in asdict(settings).items():
        if facts["settings"].get(name) != value:
            before = facts["settings"].get(name)
            hint = "take the same settings, or another --out"
            raise ConfigError(f"{name} was {before!r} in {path}, now {value!r}", where="resume", hint=hint)
    parts: dict[str, dict[str, Tensor]] = {"module": {}, "average": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        index, _, rest = name.partition(".")
        moments.setdefault(int(index), {})[rest] = value
    try:
        state.module.load_state_dict(parts["module"])
        state.optimizer.load_state_dict(
            {"state": moments, "param_groups": state.optimizer.state_dict()["param_groups"]}
        )
        for name, value in parts["average"].items():
            state.average[name].copy_(value)
    except (RuntimeError, KeyError) as error:
        raise InputFileError("belongs to another network", where=str(path), hint="take another --out") from error
    state.step, state.history = facts["step"], facts["history"]


# --- the run --------------------------------------------------------------------------------------------------------


def run(settings: Settings, out: Path, *, workers: int, checkpoint_every: int, device: str) -> dict[str, object]:
    """Train from the start or the last checkpoint to the end, and return the result."""
    data = Path(settings.data)
    classes, train_images = find_images(data / "train")
    val_classes, val_images = find_images(data / "val")
    if val_classes != classes:
        odd = sorted(set(classes) ^ set(val_classes))[0]
        raise InputFileError(f"class {odd!r} is not in both train/ and val/", where=str(data))
    per_epoch = len(train_images) // settings.batch
    if not per_epoch:
        raise ConfigError(f"{len(train_images)} images make no batch of {settings.batch}", where="--batch")
    state, shape = start(settings, classes=len(classes), device=device)
    out.mkdir(parents=True, exist_ok=True)
    if (out / CHECKPOINT).exists():
        load_state(out / CHECKPOINT, state, settings)
        print(f"resuming at step {state.step} of {settings.epochs * per_epoch}", flush=True)
    train_set = Images(train_images, shape=shape, seed=settings.seed, train=True)
    val_set = Images(val_images, shape=shape, seed=settings.seed, train=False)
    val_batches = [
        [(0, index) for index in range(first, min(first + settings.batch, len(val_images)))]
        for first in range(0, len(val_images), settings.batch)
    ]
    while state.step < settings.epochs * per_epoch:
        epoch, done = divmod(state.step, per_epoch)
        batches = train_batches(settings, images=len(train_images), epoch=epoch, skip=done)
        losses = []
        began = time.monotonic()
        for images, labels in loader(train_set, batches, workers=workers):
            losses.append(
                train_step(state, images.to(device), labels.to(device), settings=settings, per_epoch=per_epoch)
            )
            tell(
                state,
                losses[-1],
                settings=settings,
                per_epoch=per_epoch,
                seconds=(time.monotonic() - began) / len(losses),
            )
            if state.step % checkpoint_every == 0 and state.step % per_epoch:
                save_state(out / CHECKPOINT, state, settings)
        found = accuracy(state.module, state.average, loader(val_set, val_batches, workers=workers), device)
        state.history.append({"epoch": epoch + 1, "accuracy": found})
        print(f"epoch {epoch + 1}/{settings.epochs}  validation accuracy {found:.4f}", flush=True)
        save_state(out / CHECKPOINT, state, settings)
    weights = {name: value.contiguous().cpu() for name, value in state.average.items()}
    write_atomically(out / WEIGHTS, save(weights))
    result: dict[str, object] = {
        "schema": 1,
        "settings": asdict(settings),
        "classes": classes,
        "history": state.history,
    }
    write_atomically(out / RESULT, (json.dumps(result, indent=2) + "\n").encode())
    return result


def start(settings: Settings, *, classes: int, device: str) -> tuple[State, tuple[int, int, int]]:
    """Return the state before the first step, and the shape of one image."""
    network = load_network(settings.network)
    module = dm.trainable(
        network,
        classes=classes,
        drop_path=settings.drop_path,
        dropout=settings.dropout,
        weights=None if settings.weights is None else Path(settings.weights),
        seed=settings.seed,
    ).to(device)
    if device == "cuda":
        module = module.to(memory_format=torch.channels_last)
    average = {name: value.clone() for name, value in module.state_dict().items()}
    state = State(module=module, optimizer=make_optimizer(module, settings), average=average, step=0, history=[])
    return state, (network.graph.in_channels, network.graph.height, network.graph.width)


def train_step(state: State, images: Tensor, labels: Tensor, *, settings: Settings, per_epoch: int) -> float:
    """Take one step and return its loss."""
    rate = learning_rate(
        state.step, settings=settings, steps=settings.epochs * per_epoch, warm_up=settings.warm_up * per_epoch
    )
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    torch.manual_seed(int(np.random.default_rng([settings.seed, state.step, 0]).integers(2**62)))
    state.module.train()
    # bfloat16 needs no loss scaling; cards without it train in float32.
    mixed = images.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=mixed):
        loss = loss_of(state.module, images, labels, settings=settings, step=state.step)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    update_average(state.average, state.module, decay=settings.ema, step=state.step)
    state.step += 1
    value = loss.item()
    if not math.isfinite(value):
        raise ConfigError(
            f"the loss is {value} at step {state.step}", where="training", hint="lower --lr or warm up longer"
        )
    return value


def tell(state: State, loss: float, *, settings: Settings, per_epoch: int, seconds: float) -> None:
    """Print about ten lines an epoch."""
    if state.step % max(per_epoch // 10, 1):
        return
    steps = settings.epochs * per_epoch
    left_minutes = (steps - state.step) * seconds / 60
    speed = settings.batch / seconds
    print(f"step {state.step}/{steps}  loss {loss:.3f}  {speed:.0f} images/s  {left_minutes:.0f} min left", flush=True)


def command_line() -> argparse.ArgumentParser:
    """Return the options with their defaults: a common recipe for residual networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="folder of a design, its JSON, or a reference network (resnet18)")
    parser.add_argument("data", help="folder with train/CLASS/* and val/CLASS/*")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoint and weights")
    parser.add_argument("--weights", metavar="FILE", help="safetensors to start from")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch", type=int, default=256, metavar="N")
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd")
    parser.add_argument("--lr", type=float, default=0.5, help="highest learning rate")
    parser.add_argument("--weight-decay", type=float, default=5e-5, metavar="X")
    parser.add_argument("--warm-up", type=int, default=5, metavar="EPOCHS")
    parser.add_argument("--label-smoothing", type=float, default=0.1, metavar="X")
    parser.add_argument("--mixup", type=float, default=0.0, metavar="ALPHA", help="0 mixes nothing, 0.2 is common")
    parser.add_argument("--ema", type=float, default=0.9999, metavar="DECAY", help="of the average of the weights")
    parser.add_argument("--drop-path", type=float, default=0.0, metavar="RATE")
    parser.add_argument("--dropout", type=float, default=0.0, metavar="RATE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 16), help="processes that read images")
    parser.add_argument("--checkpoint-every", type=int, default=1000, metavar="STEPS", help="and after every epoch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def main() -> None:
    """Read the command line and run."""
    given = vars(command_line().parse_args())
    out, workers, every, device = (given.pop(name) for name in ("out", "workers", "checkpoint_every", "device"))
    try:
        run(Settings(**given), out, workers=workers, checkpoint_every=every, device=device)
    except DeepmadError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command resumes at the last checkpoint")
    print(f"wrote {out / WEIGHTS}")


if __name__ == "__main__":
    main()
