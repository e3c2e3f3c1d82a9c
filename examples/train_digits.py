"""The whole hand-over on real numbers: design, train, export, quantise, and measure the accuracy of every file.

    python examples/train_digits.py --out digits/

The data are the 1797 handwritten digits that come with scikit-learn, so nothing is downloaded; one core takes a few
minutes. Everything random has a seed: the same machine and versions give the same figures. docs/training.md says more.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.nn import functional

import deepmad_hw as dm
from deepmad_hw.errors import DeepmadError
from deepmad_hw.workflows.design.design import save_design
from deepmad_hw.workflows.networks.networks import Network, load_network
from deepmad_hw.workflows.runfile.config import load_problem

CONFIG = "digits"
TEST_IMAGES = 540  # of 1797; the rest trains
CALIBRATION_IMAGES = 256  # of those that train
BATCH = 64
LEARNING_RATE = 0.1
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.1
SHIFT = 2  # pixels by which training images move
PRECISIONS = {"fp32": "onnx", "fp16": "onnx-fp16", "int8": "onnx-int8"}


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Images (N, 1, side, side) in [-1, 1] and what they show."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def digits(side: int) -> Digits:
    """Return the images of 8 x 8 pixels, each pixel repeated, in an order that is always the same."""
    data = load_digits()
    scale = side // 8
    images = np.kron(data.images / 8 - 1, np.ones((1, scale, scale))).astype(np.float32)[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return Digits(
        train_images=images[train],
        train_labels=data.target[train],
        test_images=images[test],
        test_labels=data.target[test],
    )


def design(folder: Path) -> Network:
    """Design a small network for the digits and store it."""
    problem = load_problem(CONFIG)
    solution = dm.design(problem)
    save_design(folder, solution, problem)
    return load_network(folder)


def train(module: torch.nn.Module, data: Digits, *, epochs: int, seed: int) -> None:
    """Train by SGD with momentum, one cycle of the learning rate, images shifted at random."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    steps = epochs * (len(data.train_images) // BATCH)
    optimizer = torch.optim.SGD(
        module.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    module.train()
    for epoch in range(epochs):
        losses = []
        order = random.permutation(len(data.train_images))
        for batch in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            images = np.roll(data.train_images[batch], random.integers(-SHIFT, SHIFT + 1, size=2), axis=(2, 3))
            logits = module(torch.from_numpy(images))
            labels = torch.from_numpy(data.train_labels[batch])
            loss = functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{epochs}  loss {np.mean(losses):.3f}", flush=True)


def torch_logits(module: torch.nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the trained module says."""
    module.eval()
    with torch.inference_mode():
        return module(torch.from_numpy(images)).numpy()


def onnx_logits(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what an exported file says in ONNX Runtime, one image at a time."""
    import onnxruntime  # after deepmad_hw, which turns off its reports to its maker

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def export(network: Network, weights: Path, data: Digits, folder: Path) -> dict[str, Path]:
    """Write the trained network in every precision; int8 is scaled with images that it was trained with."""
    calibration = folder / "calibration.npz"
    np.savez(calibration, images=data.train_images[:CALIBRATION_IMAGES])
    paths = {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}
    for precision, path in paths.items():
        choices = {"calibration": calibration} if precision == "int8" else {}
        dm.export(network, path, target=PRECISIONS[precision], weights=weights, choices=choices)
    return paths


def report(logits: Mapping[str, NDArray[np.float32]], data: Digits) -> dict[str, dict[str, float]]:
    """Return the accuracy of each form, and how often it says what the trained module says."""
    trained = logits["torch"].argmax(1)
    return {
        name: {
            "accuracy": float(np.mean(each.argmax(1) == data.test_labels)),
            "agreement": float(np.mean(each.argmax(1) == trained)),
        }
        for name, each in logits.items()
    }


def run(network: str | None, folder: Path, *, epochs: int, seed: int) -> dict[str, object]:
    """Do all steps, leave all files in a folder, and return the result."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = design(folder / "design") if network is None else load_network(network)
    data = digits(chosen.graph.height)
    module = dm.trainable(chosen, seed=seed)
    train(module, data, epochs=epochs, seed=seed)
    weights = folder / "weights.safetensors"
    save_file(module.state_dict(), weights)
    logits = {"torch": torch_logits(module, data.test_images)}
    for precision, path in export(chosen, weights, data, folder).items():
        logits[precision] = onnx_logits(path, data.test_images)
    result: dict[str, object] = {
        "schema": 1,
        "network": network or CONFIG,
        "macs": dm.evaluate(chosen.architecture).macs,
        "params": dm.evaluate(chosen.architecture).params,
        "epochs": epochs,
        "seed": seed,
        "test_images": TEST_IMAGES,
        "precisions": report(logits, data),
        "versions": {name: version(name) for name in ("deepmad-hw", "numpy", "onnxruntime", "scikit-learn", "torch")},
        "machine": platform.machine(),
    }
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def main() -> None:
    """Read the command line, run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "network", nargs="?", help=f"a design for grey digits; without, the run file {CONFIG} is solved"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for all files")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        result = run(arguments.network, arguments.out, epochs=arguments.epochs, seed=arguments.seed)
    except DeepmadError as error:
        parser.exit(3, f"{error}\n")
    print(f"\n{'form':8}{'accuracy':>10}{'agreement with torch':>24}")
    for name, row in result["precisions"].items():
        print(f"{name:8}{row['accuracy']:10.4f}{row['agreement']:24.4f}")


if __name__ == "__main__":
    main()
