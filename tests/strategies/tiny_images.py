"""Made-up images that a small network can tell apart: a bright stripe in one of three places, and noise."""

import numpy as np

from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.problem.space import Space, StageSpace
from deepmad_hw.workflows.trial.images import LabelledImages

CLASSES = ("left", "middle", "right")
SIDE = 8

TINY = Architecture(
    family="bottleneck",
    resolution=(8, 8),
    stem=Stem(out=8, stride=1),
    stages=(
        Stage(out=16, bottleneck=8, kernel=3, stride=1, depth=1),
        Stage(out=16, bottleneck=8, kernel=3, stride=2, depth=2),
    ),
    in_channels=1,
    classes=3,
)

TINY_SPACE = Space(
    family="bottleneck",
    resolution=(SIDE, SIDE),
    stem=(8, 16),
    stem_stride=1,
    stages=(
        StageSpace(stride=1, out=(16, 24, 32), bottleneck=(8, 16), kernel=(3,), depth=(1, 4)),
        StageSpace(stride=2, out=(16, 24, 32, 48, 64), bottleneck=(8, 16, 24), kernel=(3, 5), depth=(1, 5)),
    ),
    bottleneck_ratio=(0.1, 1.0),
    in_channels=1,
    classes=len(CLASSES),
)

TINY_RUN = """\
space:
  family: bottleneck
  resolution: 8
  in_channels: 1
  classes: 3
  stem: {out: [8, 16], stride: 1}
  stages:
    - {stride: 1, out: [16, 24, 32], bottleneck: [8, 16], kernel: 3, depth: [1, 4]}
    - {stride: 2, out: [16, 24, 32, 48, 64], bottleneck: [8, 16, 24], kernel: [3, 5], depth: [1, 5]}
limits:
  macs: 800k
"""


def tiny_images(count, *, seed, side=SIDE):
    """Return grey images of three classes in turn."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    pixels = random.integers(0, 120, (count, side, side, 1), dtype=np.uint8)
    width = side // len(CLASSES)
    for row, label in enumerate(labels):
        pixels[row, :, label * width : (label + 1) * width] += 100
    return LabelledImages(pixels=pixels, labels=labels.astype(np.int64), classes=CLASSES)


def write_npz(path, *, train=90, test=30, side=SIDE):
    """Write them as a user has them."""
    one, other = tiny_images(train, seed=1, side=side), tiny_images(test, seed=2, side=side)
    np.savez(path, x_train=one.pixels, y_train=one.labels, x_test=other.pixels, y_test=other.labels)
    return path
