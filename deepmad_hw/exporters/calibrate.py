"""Finds the range of every tensor of a network over images, which is what int8 is scaled with. Layer 3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters import runtime
from deepmad_hw.exporters.images import Images

Range = tuple[float, float]

IMAGES_AT_ONCE = 8


def tensor_ranges(model: Any, images: Images) -> dict[str, Range]:
    """Return the smallest and largest value of every tensor that is no weight.

    Args:
        model: a self-contained `onnx.ModelProto` with one image input; any batch.
        images: (images, channels, height, width).

    Returns:
        Tensor name -> (smallest, largest), over all images.

    Raises:
        ConfigError: a value on the way is not finite.
        InputFileError: ONNX Runtime refuses the model.
        MissingExtraError: ONNX Runtime is not installed.
    """
    names = [model.graph.input[0].name, *(name for node in model.graph.node for name in node.output)]
    session = runtime.session(_watched(model, names).SerializeToString(), where="calibration")
    extremes = np.array([session.run(chunk) for chunk in _chunks(images)])
    if not np.isfinite(extremes).all():
        raise ConfigError("a value inside the network is not finite", where="calibration")
    lowest, highest = extremes[:, : len(names)].min(axis=0), extremes[:, len(names) :].max(axis=0)
    return {name: (float(low), float(high)) for name, low, high in zip(names, lowest, highest, strict=True)}


def _watched(model: Any, names: list[str]) -> Any:
    """Return a copy that takes any batch and returns the extremes of its tensors, smallest ones first."""
    watched = ModelProto()
    watched.CopyFrom(model)
    watched.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "images"
    del watched.graph.output[:]
    for kind in ("ReduceMin", "ReduceMax"):
        for name in names:
            extreme = f"{name}:{kind}"
            watched.graph.node.append(helper.make_node(kind, [name], [extreme], name=extreme, keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(extreme, TensorProto.FLOAT, ()))
    return watched


def _chunks(images: Images) -> Iterator[Images]:
    for first in range(0, len(images), IMAGES_AT_ONCE):
        yield images[first : first + IMAGES_AT_ONCE]
