"""Examples as modules, and a folder of images to train on."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def _example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def train_digits():
    """Return the example that goes from a design to files of all precisions."""
    for package in ("torch", "onnxruntime", "safetensors"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    return _example("train_digits")


@pytest.fixture(scope="session")
def train():
    """Return the example that trains on folders."""
    for package, reason in (("torch", "torch"), ("PIL", "pillow"), ("safetensors", "safetensors")):
        pytest.importorskip(package, reason=f"{reason} is not installed")
    return _example("train")


@pytest.fixture
def image_folder(tmp_path):
    """Return a data folder: bright and dark noise, 24 images to train with and 8 to validate with."""
    from PIL import Image

    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for name, level in (("bright", 200), ("dark", 50)):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.normal(level, 20, (40, 48)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "data"
