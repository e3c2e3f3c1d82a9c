"""Export targets by name, loaded when asked for. Layer 3.

A target is one file here with a `Target` and one line in `_TARGETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmad_hw import registry
from deepmad_hw.exporters.options import Options
from deepmad_hw.exporters.weights import Array
from deepmad_hw.network.layer import Graph

_TARGETS = {
    "onnx": "deepmad_hw.exporters.onnx_graph:TARGET",
    "onnx-fp16": "deepmad_hw.exporters.float16:TARGET",
    "onnx-int8": "deepmad_hw.exporters.onnx_int8:TARGET",
    "rtx": "deepmad_hw.exporters.rtx:TARGET",
    "tensorrt": "deepmad_hw.exporters.tensorrt:TARGET",
    "torch": "deepmad_hw.exporters.torch_module:TARGET",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A form in which a network can leave the project.

    Args:
        name: as users call it.
        suffix: of the main file.
        extra: the extra it needs, or None.
        write: takes the graph, training-form weights by state-dict name, the main file's path, the facts to store and
            the choices; writes whole files or none; returns what it wrote, the main file first.
        options: record of the choices, one of `deepmad_hw.exporters.options.RECORDS` where there are any.
        engine: library that builds an engine from what is written, or None where that is the result.
    """

    name: str
    suffix: str
    extra: str | None
    write: Callable[[Graph, Mapping[str, Array], Path, Mapping[str, str], Any], tuple[Path, ...]]
    options: type[Options] = Options
    engine: str | None = None


def names() -> tuple[str, ...]:
    """Return the names of all targets."""
    return tuple(_TARGETS)


def get(name: str) -> Target:
    """Return the target called `name`.

    Args:
        name: one of `names()`.

    Raises:
        ConfigError: there is no such target.
    """
    target: Target = registry.load(name, _TARGETS, what="export target", where="target")
    return target
