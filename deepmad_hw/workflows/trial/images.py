"""A user's images as arrays: folders of classes, or one npz file. Layer 4.

The images for training and those for testing are read by different calls, so that a trial cannot see the latter by
mistake.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import InputFileError, MissingExtraError

LARGEST_BYTES = 16 * 2**30  # of all pixels together
FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
TRAIN, TEST = "train", "test"
GREY = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)
FORMS = "give a folder with train/CLASS/*.jpg and test/CLASS/*.jpg, or an .npz with x_train, y_train, x_test, y_test"

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledImages:
    """Images and what they show.

    Args:
        pixels: shape [n, height, width, channels].
        labels: number of the class, shape [n].
        classes: names of the classes.
    """

    pixels: Bytes
    labels: Labels
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> LabelledImages:
        """Return some of the images.

        Args:
            rows: their positions.
        """
        return LabelledImages(pixels=self.pixels[rows], labels=self.labels[rows], classes=self.classes)


def read_images(
    path: Path, part: str, *, shape: tuple[int, int, int], on_image: Callable[[int, int], None] = lambda done, of: None
) -> LabelledImages:
    """Return the images for training or for testing, at the size and with the colours that a network takes.

    Args:
        path: a folder with ``train/CLASS/*`` and ``test/CLASS/*``, or an npz file with ``x_train``, ``y_train``,
            ``x_test`` and ``y_test``: bytes of shape [n, height, width, channels] or [n, height, width], labels [n].
        part: ``train`` or ``test``.
        shape: (channels, height, width) of the network's input; 1 or 3 channels.
        on_image: is told how many images of how many are read.

    Raises:
        InputFileError: no such folder or file, or something in it that cannot be used.
        MissingExtraError: Pillow is needed and not installed.
    """
    if shape[0] not in (1, 3):
        raise InputFileError(f"images have 1 or 3 channels, the network takes {shape[0]}", where=str(path))
    if path.is_dir():
        return _from_folder(path / part, shape, on_image)
    if path.suffix == ".npz" and path.is_file():
        return _from_npz(path, part, shape, on_image)
    raise InputFileError("not a folder or an .npz file of images", where=str(path), hint=FORMS)


def split(images: LabelledImages, share: float, *, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Return the images to train on and those to compare networks on: the same share of every class.

    Args:
        images: those for training.
        share: of them that are kept for comparing.
        seed: of the choice.

    Raises:
        InputFileError: a class has fewer than two images.
    """
    random = np.random.default_rng(seed)
    kept = []
    for number, name in enumerate(images.classes):
        rows = random.permutation(np.flatnonzero(images.labels == number))
        if len(rows) < 2:
            raise InputFileError(f"class {name!r} has {len(rows)} images, at least 2 are needed", where=TRAIN)
        kept.append(rows[: min(max(1, round(share * len(rows))), len(rows) - 1)])
    validation = np.sort(np.concatenate(kept))
    rest = np.setdiff1d(np.arange(len(images)), validation)
    return images.take(rest), images.take(validation)


def digest(*parts: LabelledImages) -> str:
    """Return what tells images from others: a digest of all pixels and labels.

    Args:
        parts: images.
    """
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part.pixels).data)
        found.update(np.ascontiguousarray(part.labels).data)
    return found.hexdigest()


# --- folders --------------------------------------------------------------------------------------------------------


def _from_folder(folder: Path, shape: tuple[int, int, int], on_image: Callable[[int, int], None]) -> LabelledImages:
    if not folder.is_dir():
        raise InputFileError("no such folder", where=str(folder), hint=FORMS)
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    files = [
        (path, number)
        for number, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if len(classes) < 2 or not files:
        raise InputFileError(
            f"expected images of at least 2 classes, found {len(files)} images", where=str(folder), hint=FORMS
        )
    channels, height, width = shape
    _require_size(len(files) * channels * height * width, folder)
    pixels = np.empty((len(files), height, width, channels), np.uint8)
    pillow = _pillow(folder)
    for row, (path, _) in enumerate(files):
        try:
            with pillow.open(path, formats=FORMATS) as image:
                pixels[row] = _resized(image, shape, pillow)
        except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
            raise InputFileError(
                "not an image that can be read", where=str(path), hint="repair or remove it"
            ) from error
        on_image(row + 1, len(files))
    return LabelledImages(pixels=pixels, labels=np.array([label for _, label in files], np.int64), classes=classes)


def _resized(image: Any, shape: tuple[int, int, int], pillow: Any) -> Bytes:
    channels, height, width = shape
    converted = image.convert("L" if channels == 1 else "RGB")
    if converted.size != (width, height):
        converted = converted.resize((width, height), pillow.Resampling.BILINEAR)
    return np.asarray(converted, np.uint8).reshape(height, width, channels)


def _pillow(where: Path) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "reading and resizing images needs Pillow",
            where=str(where),
            hint='install it with: pip install "deepmad-hw[train]"',
        ) from error
    return Image


def _require_size(size: int, where: Path) -> None:
    if size > LARGEST_BYTES:
        raise InputFileError(f"{size / 2**30:.1f} GiB of pixels, at most {LARGEST_BYTES / 2**30:g}", where=str(where))


# --- npz ------------------------------------------------------------------------------------------------------------


def _from_npz(
    path: Path, part: str, shape: tuple[int, int, int], on_image: Callable[[int, int], None]
) -> LabelledImages:
    pixels, labels = _array(path, f"x_{part}"), _array(path, f"y_{part}")
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape:
        raise InputFileError(
            f"x_{part}: expected bytes of shape [n, height, width, 1 or 3], got {pixels.dtype} {list(pixels.shape)}",
            where=str(path),
        )
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.dtype.kind not in "iu" or labels.shape != (len(pixels),):
        raise InputFileError(
            f"y_{part}: expected {len(pixels)} whole numbers, got {labels.dtype} {list(labels.shape)}", where=str(path)
        )
    labels = labels.astype(np.int64)
    classes = int(labels.max()) + 1
    if labels.min() < 0 or classes < 2 or classes > len(labels):
        raise InputFileError(
            f"y_{part}: expected labels 0, 1 and on, got {labels.min()} to {labels.max()}", where=str(path)
        )
    return LabelledImages(
        pixels=_fitted(pixels, shape, path, on_image), labels=labels, classes=tuple(map(str, range(classes)))
    )


def _array(path: Path, name: str) -> NDArray[Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            _require_size(archive.getinfo(f"{name}.npy").file_size, path)
        with np.load(path, allow_pickle=False) as stored:
            found: NDArray[Any] = stored[name]
    except KeyError as error:
        raise InputFileError(f"holds no array {name!r}", where=str(path), hint=FORMS) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise InputFileError(f"{name}: not an array that can be read", where=str(path), hint=FORMS) from error
    return found


def _fitted(pixels: Bytes, shape: tuple[int, int, int], path: Path, on_image: Callable[[int, int], None]) -> Bytes:
    """Return pixels with a network's channels and size."""
    channels, height, width = shape
    if pixels.shape[3] == 3 and channels == 1:
        pixels = np.rint(pixels @ np.array(GREY))[..., None].astype(np.uint8)
    elif pixels.shape[3] == 1 and channels == 3:
        pixels = np.repeat(pixels, 3, axis=3)
    if pixels.shape[1:3] == (height, width):
        return pixels
    _require_size(len(pixels) * channels * height * width, path)
    pillow = _pillow(path)
    found = np.empty((len(pixels), height, width, channels), np.uint8)
    for row, each in enumerate(pixels):
        found[row] = _resized(pillow.fromarray(each.squeeze()), shape, pillow)
        on_image(row + 1, len(pixels))
    return found
