"""Finds the layer that an operation of a runtime belongs to, by the names that runtimes derive. Layer 3, device side.

Exported files name every tensor after its layer plus a dotted helper (``stage1.block1.conv1.act``); runtimes append
their own marks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# ONNX Runtime: blocked layout, copies of a name, conversions of int8.
_MARKS = re.compile(r"(_nchwc|_token_\d+|_QuantizeLinear|_DequantizeLinear)+$")


def owner(name: str, position: Mapping[str, int]) -> int | None:
    """Return the position of the layer that an operation belongs to, or None if its name tells nothing.

    Args:
        name: of the operation or of the tensor it makes; what follows a slash is the runtime's.
        position: of every layer, by name.
    """
    tensor = unmarked(name)
    while tensor not in position and "." in tensor:
        tensor = tensor.rpartition(".")[0]
    return position.get(tensor)


def unmarked(name: str) -> str:
    """Return the name of an operation without what runtimes append.

    Args:
        name: of the operation or of the tensor it makes.
    """
    return _MARKS.sub("", name.split("/", 1)[0])
