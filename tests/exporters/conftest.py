"""Networks that the exporters' tests share."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from deepmad_hw.exporters.weights import initial_weights, read_weights
from deepmad_hw.formats import serde
from deepmad_hw.network import families, reference
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.network.expand import expand

PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "deepmad_published.json").read_text())["networks"]


def _published(name):
    entry = next(entry for entry in PUBLISHED if entry["name"] == name)
    fields = {key: entry[key] for key in ("family",)}
    side = entry["resolution"]
    return Architecture(
        **fields,
        resolution=(side, side),
        stem=Stem(**entry["stem"]),
        stages=tuple(Stage(**stage) for stage in entry["stages"]),
        head=Head(**entry["head"]) if entry["head"] else None,
    )


def _small(family, *, depth=2, resolution=(64, 96), classes=10, in_channels=3, activation=None):
    """Five strides, a stage without one, a stage of equal widths, blocks with and without projection."""
    inner = 1 if family in ("bottleneck", "basic") else 3
    widths, strides = (16, 16, 24, 24, 40), (2, 2, 2, 1, 2)
    return Architecture(
        family=family,
        resolution=resolution,
        stem=Stem(out=16),
        stages=tuple(
            Stage(out=out, bottleneck=out * inner, kernel=5 if index == 1 else 3, stride=stride, depth=depth)
            for index, (out, stride) in enumerate(zip(widths, strides, strict=True))
        ),
        head=Head(out=64),
        classes=classes,
        in_channels=in_channels,
        activation=activation,
    )


@pytest.fixture
def small():
    """Return a function: family and options -> small architecture."""
    return _small


@pytest.fixture
def published():
    """Return a function: name -> published architecture."""
    return _published


def _drawn(number):
    """Any family and activation in turn, any shape: odd widths, unequal sides, with and without head and classes."""
    chance = np.random.default_rng(number)
    family = families.names()[number % len(families.names())]
    activations = families.get(family).activations
    return Architecture(
        family=family,
        resolution=(int(chance.choice([64, 128])), int(chance.choice([64, 192]))),
        stem=Stem(out=int(chance.integers(4, 40)), kernel=int(chance.choice([1, 3, 5])), stride=_stride(chance)),
        stages=tuple(
            Stage(
                out=int(chance.integers(4, 40)),
                bottleneck=int(chance.integers(4, 40)),
                kernel=int(chance.choice([1, 3, 5, 7])),
                stride=_stride(chance),
                depth=int(chance.integers(1, 4)),
            )
            for _ in range(chance.integers(1, 6))
        ),
        head=chance.choice([None, Head(out=33), Head(out=16, kernel=3)]),
        in_channels=int(chance.integers(1, 5)),
        classes=int(chance.choice([0, 1, 10, 10])),
        activation=[None, *activations][number // len(families.names()) % (1 + len(activations))],
    )


def _stride(chance):
    return int(chance.integers(1, 3))


@pytest.fixture
def drawn():
    """Return a function: any number -> random architecture."""
    return _drawn


@pytest.fixture
def any_graph():
    """Return a function: the id of a family, a published or a reference network -> graph."""

    def build(name):
        if name in reference.names():
            return reference.get(name)
        return expand(_published(name) if name.startswith("DeepMAD") else _small(name), name=name)

    return build


@pytest.fixture
def trained():
    """Return a function: graph -> weights whose batch norms have statistics of their own."""

    def build(graph, *, seed=0):
        random = np.random.default_rng(seed)
        weights = initial_weights(graph, seed=seed)
        for name, value in weights.items():
            if name.endswith((".bias", ".running_mean")):
                weights[name] = random.normal(0, 0.2, value.shape).astype(np.float32)
            if name.endswith((".norm.weight", ".running_var")):
                weights[name] = (value * random.uniform(0.7, 1.4, value.shape)).astype(np.float32)
        return weights

    return build


DIGITS = Path(__file__).parents[1] / "data" / "digits"


@pytest.fixture
def digits_network():
    """Return a function: family -> graph and weights of a small network trained on 32 x 32 digits."""

    def load(family):
        pytest.importorskip("safetensors", reason="the extra torch is not installed")
        graph = expand(serde.read_architecture(DIGITS / f"{family}.json"), name=family)
        return graph, read_weights(DIGITS / f"{family}.safetensors")

    return load


@pytest.fixture(scope="session")
def digits():
    """Return 1257 images to train (or calibrate) with and 540 to test with, and their digits."""
    pytest.importorskip("torch", reason="the extra torch is not installed")
    path = Path(__file__).parents[2] / "examples" / "train_digits.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    example = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = example  # where dataclasses look their names up
    spec.loader.exec_module(example)
    return example.digits(32)
