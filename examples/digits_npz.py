"""Writes scikit-learn's 1797 handwritten digits as images that `deepmad-hw trial` reads.

    python examples/digits_npz.py digits.npz

A toy (docs/trial.md): 8 x 8 grey pixels, of which 540 images are kept for testing.
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.datasets import load_digits

TEST_IMAGES = 540


def main() -> None:
    """Write the file that is named."""
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(pixels))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    np.savez(
        sys.argv[1],
        x_train=pixels[train],
        y_train=digits.target[train],
        x_test=pixels[test],
        y_test=digits.target[test],
    )


if __name__ == "__main__":
    main()
