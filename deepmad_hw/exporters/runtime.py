"""Runs self-contained ONNX models in ONNX Runtime on the CPU, to check what was written. Layer 3."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import InputFileError
from deepmad_hw.exporters import extras

IMAGES_AT_ONCE = 32  # where the model leaves it free
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Session:
    """A model that is loaded and takes images.

    Args:
        loaded: an `onnxruntime.InferenceSession` with one input.
        where: names the model in errors.
    """

    def __init__(self, loaded: Any, *, where: str) -> None:
        (image,) = loaded.get_inputs()
        self._loaded, self._where = loaded, where
        self._name, self._dtype = image.name, _FLOATS[image.type]
        batch = image.shape[0]
        self.batch: int | None = batch if isinstance(batch, int) else None

    def run(self, images: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return every output for images that are run at once.

        Args:
            images: (images, channels, height, width).

        Raises:
            InputFileError: ONNX Runtime refuses them.
        """
        try:
            found: list[NDArray[Any]] = self._loaded.run(None, {self._name: images.astype(self._dtype, copy=False)})
        except Exception as error:  # its exceptions share no base of their own
            raise InputFileError(f"ONNX Runtime cannot run it: {one_line(error)}", where=self._where) from error
        return found

    def run_all(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return every output as float32 for any number of images, as many at once as the model takes.

        Args:
            images: (images, channels, height, width).

        Raises:
            InputFileError: ONNX Runtime refuses them.
        """
        batch = self.batch or min(len(images), IMAGES_AT_ONCE)
        filled = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch, axis=0)])
        parts = [self.run(filled[first : first + batch]) for first in range(0, len(images), batch)]
        return [np.concatenate(output)[: len(images)].astype(np.float32) for output in zip(*parts, strict=True)]


def session(model: bytes, *, where: str = "onnx") -> Session:
    """Return a model that is ready to run on one thread.

    Args:
        model: serialised, self-contained, with one input of float32 or float16.
        where: names the model in errors.

    Raises:
        InputFileError: ONNX Runtime refuses the model, or it takes something else.
        MissingExtraError: ONNX Runtime is not installed.
    """
    runtime = extras.load("onnxruntime", extra="cpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, not logged
    # Without it sums of bytes saturate on processors without VNNI, and files for other devices look broken here.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        loaded = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base of their own
        raise InputFileError(f"ONNX Runtime refuses it: {one_line(error)}", where=where) from error
    inputs = loaded.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _FLOATS:
        raise InputFileError("takes something else than one image of floats", where=where)
    return Session(loaded, where=where)


def one_line(error: Exception) -> str:
    """Return an error's text without line breaks.

    Args:
        error: of a package that writes several lines.
    """
    return " ".join(str(error).split())
