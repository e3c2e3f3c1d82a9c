"""A trial as a folder that trains without this package: networks, images and jobs. Layer 4."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.exporters.torch_module import layer_call
from deepmad_hw.exporters.weights import initial_scales
from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.files.jsonfile import Json, plain, write_json
from deepmad_hw.network.layer import Graph
from deepmad_hw.training import jobs
from deepmad_hw.training.jobs import Job
from deepmad_hw.workflows.trial.images import LabelledImages
from deepmad_hw.workflows.trial.records import Recipe

SOURCES = {"trainer.py": "train.py", "jobs.py": "jobs.py", "layers.py": "layers.py"}  # file here: file in the pack
LEAST_DEVIATION = 1.0  # of pixels, in bytes, so that images of one colour can be divided by it


def write_images(folder: Path, **parts: LabelledImages) -> None:
    """Write images where a plan finds them.

    Args:
        folder: of the plan, made where it is not there.
        parts: images by the name of their part: ``train``, ``validation``, ``test``.

    Raises:
        StorageError: they could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part, images in parts.items():
        _write_array(folder / f"{part}_images.npy", images.pixels)
        _write_array(folder / f"{part}_labels.npy", images.labels)


def share_images(source: Path, folder: Path, *parts: str) -> None:
    """Give a plan the images of another one, without a second copy where the file system allows it.

    Args:
        source: folder of the other plan.
        folder: of the plan.
        parts: names of their parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for name in (f"{part}_images.npy", f"{part}_labels.npy"):
            if (folder / name).exists():
                continue
            try:
                os.link(source / name, folder / name)
            except OSError:
                shutil.copyfile(source / name, folder / name)


def write_training_plan(
    folder: Path, networks: Mapping[str, Graph], work: Sequence[Job], *, recipe: Recipe, train: LabelledImages
) -> None:
    """Write ``plan.json``: what `deepmad_hw.training.trainer` reads beside the images.

    Args:
        folder: of the plan.
        networks: by name.
        work: trainings, in the order in which they are done.
        recipe: of all of them.
        train: images that the pixels' mean and deviation are taken of.

    Raises:
        StorageError: it could not be written.
    """
    pixels = train.pixels.reshape(-1, train.pixels.shape[-1])
    mean = [float(pixels[:, channel].mean()) for channel in range(pixels.shape[1])]
    deviation = [max(LEAST_DEVIATION, float(pixels[:, channel].std())) for channel in range(pixels.shape[1])]
    write_json(
        folder / jobs.PLAN,
        {
            "schema": jobs.SCHEMA,
            "recipe": plain(recipe),
            "mean": mean,
            "deviation": deviation,
            "networks": {name: network_to_json(graph) for name, graph in networks.items()},
            "jobs": [asdict(job) for job in work],
        },
    )


def network_to_json(graph: Graph) -> Json:
    """Return a network as calls of `deepmad_hw.training.layers`, with the size of its first values.

    Args:
        graph: the network.

    Raises:
        ConfigError: a layer has no PyTorch form.
    """
    layers = []
    for node in graph:
        kind, arguments, options = layer_call(node)
        layers.append(
            {"name": node.name, "kind": kind, "args": list(arguments), "options": options, "inputs": list(node.inputs)}
        )
    scales = {name: asdict(scale) for name, scale in initial_scales(graph).items()}
    return {"layers": layers, "outputs": list(graph.outputs), "initial": scales}


def write_pack(source: Path, folder: Path) -> None:
    """Write a folder that trains a plan where only torch and numpy are installed: ``python train.py``.

    Args:
        source: folder of the plan.
        folder: to write to, made where it is not there.

    Raises:
        StorageError: it could not be written.
    """
    parts = [path.name.removesuffix("_images.npy") for path in source.glob("*_images.npy")]
    share_images(source, folder, *parts)
    write_atomically(folder / jobs.PLAN, (source / jobs.PLAN).read_bytes())
    for name, packed in SOURCES.items():
        write_atomically(folder / packed, (jobs.TRAINER.parent / name).read_bytes())


def _write_array(path: Path, values: NDArray[np.generic]) -> None:
    buffer = BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    write_atomically(path, buffer.getvalue())
