"""What a person may choose of an export target; each field is also a flag of `export`. Layer 3, standard library only.

Read by the command line before any target is loaded, so nothing heavy is imported here. A record's field of one name
means the same in every record that has it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from deepmad_hw import registry
from deepmad_hw.errors import ConfigError

Int8Form = Literal["cpu", "tensorrt"]
Choice = Literal["auto", "yes", "no"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The choices of a target that has none."""


AnyOptions = TypeVar("AnyOptions", bound=Options)


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxOptions(Options):
    """The choices of ``onnx``.

    Args:
        batch: images per run, or 0 to leave it free.
    """

    batch: int = field(default=1, metadata={"help": "Images per run; 0 leaves it free. [onnx*: 1]"})

    def __post_init__(self) -> None:
        if self.batch < 0:
            raise ConfigError(f"{self.batch} images per run make no sense", where="--batch", hint="0 leaves it free")

    @property
    def batch_axis(self) -> int | str:
        """Return the batch as the ONNX file says it."""
        return self.batch or "batch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Float16Options(OnnxOptions):
    """The choices of ``onnx-fp16``.

    Args:
        float16_io: whether the image and the outputs are float16 too, and not float32.
    """

    float16_io: bool = field(
        default=False, metadata={"help": "Take and return float16 instead of float32. [onnx-fp16]"}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Int8Options(OnnxOptions):
    """The choices of ``onnx-int8``.

    Args:
        form: ``cpu`` for ONNX Runtime and OpenVINO, ``tensorrt`` for TensorRT.
        calibration: images that activations are scaled with; None takes random ones, which says little.
        reduce_range: weights of 7 bits, so that products of CPUs without VNNI do not saturate; ``auto`` looks here.
    """

    form: Int8Form = field(
        default="cpu", metadata={"help": "Whom the int8 file is for: cpu or tensorrt. [onnx-int8: cpu]"}
    )
    calibration: Path | None = field(
        default=None, metadata={"help": "Images (.npz) that int8 is scaled with; random ones otherwise."}
    )
    reduce_range: Choice = field(
        default="auto",
        metadata={"help": "Weights of 7 bits, for CPUs without VNNI: auto, yes or no. [onnx-int8: auto]"},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions(OnnxOptions):
    """The choices of ``tensorrt`` and ``rtx``.

    Args:
        precision: what the engine computes in; the ends stay float32.
        calibration: images that int8 is scaled with; None takes random ones, which says little.
        batches: least, usual and most images of a free batch, as ``1,8,32``.
        tf32: whether float32 convolutions may round their inputs.
        optimization_level: 0 (quickest build) to 5 (most tactics tried).
    """

    precision: Precision = field(
        default="fp32", metadata={"help": "What an engine computes in: fp32, fp16 or int8. [tensorrt, rtx: fp32]"}
    )
    calibration: Path | None = field(default=None, metadata={"help": ""})  # said by `Int8Options`
    batches: str | None = field(
        default=None,
        metadata={"help": "Least, usual and most images of an engine with --batch 0: 1,8,32. [tensorrt, rtx]"},
    )
    tf32: bool = field(
        default=False, metadata={"help": "Let float32 convolutions round their inputs to TF32. [tensorrt, rtx]"}
    )
    optimization_level: int = field(
        default=3, metadata={"help": "0 (quickest build) to 5 (most tactics tried). [tensorrt, rtx: 3]"}
    )

    def __post_init__(self) -> None:
        OnnxOptions.__post_init__(self)
        if (self.batches is None) != (self.batch != 0):
            raise ConfigError(
                "a free batch needs its sizes, and sizes a free batch",
                where="--batches",
                hint="--batch 0 --batches 1,8,32",
            )
        if self.batches is not None and len(self.batch_sizes or ()) != 3:
            raise ConfigError(
                f"expected three numbers of images, got {self.batches!r}", where="--batches", hint="as 1,8,32"
            )

    @property
    def batch_sizes(self) -> tuple[int, ...] | None:
        """Return least, usual and most images, None where the batch is fixed."""
        words = self.batches.split(",") if self.batches is not None else []
        return tuple(int(word) for word in words if word.strip().isdecimal()) or None


RECORDS: tuple[type[Options], ...] = (OnnxOptions, Float16Options, Int8Options, EngineOptions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """A choice as the command line offers it.

    Args:
        kind: its type, without the None of a default.
        text: its help.
    """

    kind: Any
    text: str


def flags() -> dict[str, Flag]:
    """Return every choice of any target, by field name."""
    found: dict[str, Flag] = {}
    for record in RECORDS:
        kinds = typing.get_type_hints(record)
        for each in dataclasses.fields(record):
            found.setdefault(each.name, Flag(kind=_plain(kinds[each.name]), text=each.metadata["help"]))
    return found


def _plain(kind: Any) -> Any:
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    return options[0] if isinstance(kind, types.UnionType) else kind


def choose(record: type[AnyOptions], values: Mapping[str, Any], *, target: str) -> AnyOptions:
    """Return a target's choices from what a person gave.

    Args:
        record: of the target.
        values: by field name; the others keep their defaults.
        target: its name, for messages.

    Raises:
        ConfigError: the target has no such choice, or a value makes no sense.
    """
    known = [each.name for each in dataclasses.fields(record)]
    for name in values:
        registry.require_known(name, known, what=f"choice of target {target}", where=f"--{name.replace('_', '-')}")
    return record(**values)
