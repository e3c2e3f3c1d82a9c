"""The inputs of an ONNX model: their names and types from the file, their sizes and values from the user. Layer 3."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters.onnx_messages import Shape, free_inputs

LARGEST_INPUT_VALUES = 2**28
EXAMPLE_PIXELS = 224  # what an error proposes for a size that is free
DATA_OPTION, INPUT_OPTION = "--data", "--input"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInput:
    """One input of a model.

    Args:
        name: its tensor's.
        sizes: of each dimension, None where the file leaves it free; None if it does not say how many there are.
        value_type: numpy's name of its values' type, such as ``float32`` or ``uint8``.
    """

    name: str
    sizes: tuple[int | None, ...] | None
    value_type: str

    def fixed(self, batch: int = 1) -> Shape | None:
        """Return its shape if the file leaves no dimension free but the batch, else None.

        Args:
            batch: images at once, where the file leaves that free.
        """
        if self.sizes is None:
            return None
        sizes = [batch if index == 0 and size is None else size for index, size in enumerate(self.sizes)]
        known = tuple(size for size in sizes if size is not None)
        return known if len(known) == len(sizes) else None

    def takes(self, shape: Shape) -> bool:
        """Return whether a shape agrees with the sizes that the file fixes.

        Args:
            shape: asked for.
        """
        if self.sizes is None:
            return True
        return len(shape) == len(self.sizes) and all(
            size in (None, wanted) for size, wanted in zip(self.sizes, shape, strict=True)
        )

    def example(self, batch: int = 1) -> str:
        """Return the words after the option that says its shape, with sizes to replace where they are free.

        Args:
            batch: images at once, where the file leaves that free.
        """
        free = (None, 3, None, None) if self.sizes is None else self.sizes
        sizes = [batch if index == 0 and size is None else size or EXAMPLE_PIXELS for index, size in enumerate(free)]
        return f"{self.name}={'x'.join(map(str, sizes))}"


def inputs_of(model: Any, *, where: str) -> tuple[ModelInput, ...]:
    """Return the inputs that a run of a model must be given.

    Args:
        model: an `onnx.ModelProto`.
        where: its file, for errors.

    Raises:
        InputFileError: an input is of a type that cannot be made here.
    """
    return tuple(_input(info, where=where) for info in free_inputs(model.graph))


def _input(info: Any, *, where: str) -> ModelInput:
    name, kind = info.name[:60], info.type
    try:
        value_type = np.dtype(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))
    except (KeyError, TypeError, ValueError) as error:
        raise InputFileError(f"input {name!r} has values of no known type", where=where) from error
    if value_type.kind not in "fiub" or kind.tensor_type.elem_type == TensorProto.BFLOAT16:
        raise InputFileError(f"input {name!r} takes {value_type} values, which cannot be made here", where=where)
    if not kind.tensor_type.HasField("shape"):
        return ModelInput(name=info.name, sizes=None, value_type=value_type.name)
    # Some exporters write a free size as -1 or 0.
    sizes = tuple(size.dim_value if size.dim_value > 0 else None for size in kind.tensor_type.shape.dim)
    return ModelInput(name=info.name, sizes=sizes, value_type=value_type.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class InputRequest:
    """What the user says of the inputs of the networks to be run.

    Args:
        shapes: by input; under the empty name, that of the one input of a model that has one.
        data: values by input, empty to make some.
    """

    shapes: Mapping[str, Shape]
    data: Arrays

    def __bool__(self) -> bool:
        """Return whether anything was said."""
        return bool(self.shapes or self.data)


NOTHING_SAID = InputRequest(shapes={}, data={})


def parsed_shapes(words: Sequence[str]) -> dict[str, Shape]:
    """Return the shapes that options give, by input; under the empty name one without a name.

    Args:
        words: such as ``1x3x320x320`` or ``images=1x3x320x320``.

    Raises:
        ConfigError: a word is no shape, or two speak of one input.

    Example:
        >>> parsed_shapes(["images=1x3x320x320"])
        {'images': (1, 3, 320, 320)}
    """
    found: dict[str, Shape] = {}
    for word in words:
        name, _, text = word.rpartition("=")
        sizes = text.lower().split("x")
        if not all(size.isascii() and size.isdigit() and 0 < int(size) < 2**31 for size in sizes):
            raise ConfigError(
                f"expected a shape such as 1x3x320x320 or images=1x3x320x320, got {word!r}", where=INPUT_OPTION
            )
        if name in found:
            raise ConfigError(f"two shapes for {f'input {name!r}' if name else 'one input'}", where=INPUT_OPTION)
        found[name] = tuple(map(int, sizes))
    return found


def read_data(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file by name.

    Args:
        path: written by `numpy.savez`; nothing in it is unpickled.

    Raises:
        InputFileError: it cannot be read, is none, or holds something else than arrays of numbers.
    """
    where = str(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputFileError("holds one array without a name", where=where, hint="write it with numpy.savez")
        with archive:
            arrays = {name: np.ascontiguousarray(archive[name]) for name in archive.files}
    except InputFileError:
        raise
    except OSError as error:
        raise InputFileError(f"cannot be read: {error.strerror or error}", where=where) from error
    except (ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise InputFileError("is no .npz file of arrays of numbers", where=where) from error
    for name, values in arrays.items():
        if values.dtype.kind not in "fiub":
            raise InputFileError(f"{name!r} holds {values.dtype}, not numbers", where=where)
    return arrays


def shapes_of(inputs: Sequence[ModelInput], request: InputRequest, *, batch: int = 1, where: str) -> dict[str, Shape]:
    """Return the shape of every input: from the user's arrays, the user's word, or the file.

    Args:
        inputs: of the model.
        request: what the user says.
        batch: images at once, where a file leaves it free.
        where: the model's file, for errors.

    Raises:
        ConfigError: what was said does not fit the model, or a size is still free: then it shows the option filled in.
    """
    said = _said(inputs, request, where=where)
    for each in inputs:
        if each.name in said and not each.takes(said[each.name]):
            fixed = "x".join("?" if size is None else str(size) for size in each.sizes or ())
            raise ConfigError(
                f"input {each.name!r} takes {fixed}, not {'x'.join(map(str, said[each.name]))}", where=where
            )
    shapes = {each.name: said.get(each.name) or each.fixed(batch) for each in inputs}
    free = [each for each in inputs if shapes[each.name] is None]
    if free:
        options = " ".join(f"{INPUT_OPTION} {each.example(batch)}" for each in free)
        raise ConfigError(
            f"the size of input {free[0].name!r} is not fixed in the file", where=where, hint=f"say it: {options}"
        )
    known = {name: shape for name, shape in shapes.items() if shape is not None}
    for name, shape in known.items():
        if math.prod(shape) > LARGEST_INPUT_VALUES:
            raise ConfigError(f"input {name!r} is too large: {'x'.join(map(str, shape))}", where=where)
    return known


def _said(inputs: Sequence[ModelInput], request: InputRequest, *, where: str) -> dict[str, Shape]:
    names = {each.name for each in inputs}
    if request.data and not names <= request.data.keys():
        missing = sorted(names - request.data.keys())
        raise ConfigError(f"no array for input {missing[0]!r}", where=DATA_OPTION, hint=f"{where} asks for it")
    said = {name: shape for name, shape in request.shapes.items() if name in names}
    if "" in request.shapes and len(inputs) != 1 and not said:
        raise ConfigError(
            f"has {len(inputs)} inputs: {', '.join(sorted(names))}",
            where=where,
            hint=f"name one: {INPUT_OPTION} {inputs[0].example()}" if inputs else None,
        )
    if "" in request.shapes and len(inputs) == 1:
        said.setdefault(inputs[0].name, request.shapes[""])
    return said | {name: values.shape for name, values in request.data.items() if name in names}


def values_of(inputs: Sequence[ModelInput], shapes: Mapping[str, Shape], data: Arrays) -> dict[str, NDArray[Any]]:
    """Return values for every input: the user's, else normal random floats, random bytes, and ones.

    Ones, because whole numbers and truths are mostly sizes, indices and switches, which random ones would break.

    Args:
        inputs: of the model.
        shapes: of every input.
        data: the user's arrays.

    Raises:
        ConfigError: an array is of another type than its input.
    """
    random = np.random.default_rng(0)
    return {each.name: _values(each, shapes[each.name], data.get(each.name), random) for each in inputs}


def _values(each: ModelInput, shape: Shape, given: NDArray[Any] | None, random: np.random.Generator) -> NDArray[Any]:
    value_type = np.dtype(each.value_type)
    if given is not None:
        if given.dtype != value_type:
            raise ConfigError(f"input {each.name!r} takes {value_type} values, not {given.dtype}", where=DATA_OPTION)
        return given
    if value_type.kind == "f":
        return random.standard_normal(shape, dtype=np.float32).astype(value_type)
    if value_type.itemsize == 1 and value_type.kind in "iu":
        limits = np.iinfo(value_type)
        return random.integers(limits.min, limits.max + 1, shape, dtype=value_type)
    return np.ones(shape, value_type)


def packed_values(values: Arrays) -> bytes:
    """Return arrays as the bytes of an ``.npz`` file.

    Args:
        values: by name.
    """
    # Names of tensors may be anything; those of members of an archive may not.
    file = io.BytesIO()
    arrays: dict[str, Any] = {f"array{index}": each for index, each in enumerate(values.values())}
    np.savez(file, names=np.array(list(values), dtype=np.str_), **arrays)
    return file.getvalue()
