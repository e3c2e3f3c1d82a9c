"""Images that networks are calibrated and compared with: random ones, or those of an ``.npz`` file. Layer 3, numpy."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import InputFileError

Images = NDArray[np.float32]

ARRAY = "images"  # the name that is looked for where a file holds several arrays
LARGEST_BYTES = 8 * 2**30


def random_images(shape: tuple[int, int, int], *, images: int, seed: int = 0) -> Images:
    """Return images of standard-normal pixels.

    Args:
        shape: channels, height, width.
        images: how many.
        seed: any whole number >= 0.

    Returns:
        An array (images, channels, height, width).
    """
    return np.random.default_rng(seed).standard_normal((images, *shape), dtype=np.float32)


def read_images(path: Path, *, shape: tuple[int, int, int]) -> Images:
    """Return the images of a file that `numpy.savez` wrote: its one array, or that called ``images``.

    Args:
        path: the file.
        shape: channels, height, width that the network takes.

    Returns:
        An array (images, channels, height, width), float32.

    Raises:
        InputFileError: no such file or array, another shape, no floats, or a value that is not finite.
    """
    where = str(path)
    try:
        _require_size(path)
        with np.load(path, allow_pickle=False) as arrays:
            name = _array_name(list(arrays), where=where)
            found = arrays[name]
    except OSError as error:
        raise InputFileError(f"cannot be read: {error.strerror or error}", where=where) from error
    except (ValueError, MemoryError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        if isinstance(error, InputFileError):
            raise
        raise InputFileError("is no .npz file of plain arrays", where=where) from error
    return _fitting(found, name, shape, where=where)


def _require_size(path: Path) -> None:
    """Refuse a file that would unpack to more than memory holds, by its own list of contents."""
    with zipfile.ZipFile(path) as archive:
        size_bytes = sum(entry.file_size for entry in archive.infolist())
    if size_bytes > LARGEST_BYTES:
        raise InputFileError(f"unpacks to {size_bytes / 1e9:.1f} GB", where=str(path), hint="give fewer images")


def _array_name(names: list[str], *, where: str) -> str:
    if len(names) == 1:
        return names[0]
    if ARRAY not in names:
        raise InputFileError(f"expected one array, or one called {ARRAY!r}; found {', '.join(names)}", where=where)
    return ARRAY


def _fitting(found: NDArray[np.generic], name: str, shape: tuple[int, int, int], *, where: str) -> Images:
    if found.dtype.kind != "f":
        raise InputFileError(
            f"{name}: expected floats as the network takes them, got {found.dtype}",
            where=where,
            hint="scale and normalise the images as in training",
        )
    if found.ndim != 4 or found.shape[1:] != shape or not len(found):
        wanted = ", ".join(str(size) for size in ("images", *shape))
        raise InputFileError(f"{name}: expected shape ({wanted}), got {found.shape}", where=where)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        images = np.ascontiguousarray(found, dtype=np.float32)
    if not np.isfinite(images).all():
        raise InputFileError(f"{name}: a value is not finite as float32", where=where)
    return images
