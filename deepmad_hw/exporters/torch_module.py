"""Builds a graph as a PyTorch module in training form, and writes it as a Python file of its own. Layer 3.

Importing this file needs no torch; its functions do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters import extras
from deepmad_hw.exporters.options import Options
from deepmad_hw.exporters.target import Target
from deepmad_hw.exporters.torch_source import source_code
from deepmad_hw.exporters.weights import Array, read_weights, require_shapes, require_weights, save_weights
from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.network.layer import Graph, Node

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TARGET", "build", "load_weights", "read_weights", "save_weights", "source_code", "write"]

EXTRA = "torch"


def build(graph: Graph, *, drop_path: float = 0.0, dropout: float = 0.0) -> nn.Module:
    """Return the network as a module in training form, batch norm unfolded, with torch's own first weights.

    Submodules have the nodes' names; state-dict names are those of `deepmad_hw.exporters.weights`, beside batch norm's
    own counters (``num_batches_tracked``).

    Args:
        graph: the network.
        drop_path: rate at which the last residual branch is left out for an image while training; the rates of the
            branches before it grow from 0 in equal steps.
        dropout: rate at which the classifier's inputs are left out while training.

    Returns:
        A module that takes an image batch (N, channels, height, width) and returns the graph's one output, or a
        tuple of several.

    Raises:
        ConfigError: a node has no PyTorch form here, or a rate is none.
        MissingExtraError: torch is not installed.
    """
    _require_rate(drop_path, "drop_path")
    _require_rate(dropout, "dropout")
    layers = _layers()
    rates = _drop_path_rates(graph, drop_path)
    placed = []
    for node in graph:
        kind, positional, named = layer_call(node)
        if node.name in rates:
            named["drop_path"] = rates[node.name]
        if kind == "Linear" and node.name in graph.outputs:
            named["dropout"] = dropout
        placed.append((node.name, getattr(layers, kind)(*positional, **named), node.inputs))
    module: nn.Module = layers.Network(placed, graph.outputs)
    return module


def _require_rate(rate: float, where: str) -> None:
    if not 0 <= rate < 1:
        raise ConfigError(f"expected a rate of at least 0 and below 1, got {rate!r}", where=where)


def _drop_path_rates(graph: Graph, highest: float) -> dict[str, float]:
    """Return the rate of every residual branch by the node that ends it, growing linearly from 0 to `highest`."""
    ends = [node.name for node in graph if node.spec.residual]
    return {name: highest * index / max(len(ends) - 1, 1) for index, name in enumerate(ends)}


def load_weights(module: nn.Module, weights: Mapping[str, Array]) -> None:
    """Put parameters into a module that `build` returned.

    Args:
        module: the module.
        weights: training form, every parameter and no other.

    Raises:
        ConfigError: a parameter is missing, unknown or misshapen.
        MissingExtraError: torch is not installed.
    """
    torch = extras.load("torch", extra=EXTRA)
    counters = "num_batches_tracked"
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items() if not name.endswith(counters)}
    require_shapes(shapes, weights)
    module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()}, strict=False)


def write(
    graph: Graph,
    weights: Mapping[str, Array],
    path: Path,
    metadata: Mapping[str, str],
    options: Options = Options(),  # noqa: B008 - frozen
) -> tuple[Path, ...]:
    """Write the network as ``FILE.py`` and its weights as ``FILE.safetensors``.

    Args:
        graph: the network.
        weights: training form.
        path: the Python file.
        metadata: facts stored beside the weights.
        options: nothing is chosen here.

    Returns:
        Both paths, the Python file first.

    Raises:
        ConfigError: the weights do not fit.
        MissingExtraError: safetensors is not installed.
        StorageError: a file could not be written.
    """
    code_path, weights_path = path.with_suffix(".py"), path.with_suffix(".safetensors")
    require_weights(graph, weights)
    code = source_code(graph, weights_file=weights_path.name)
    save_weights(weights_path, weights, metadata=metadata)
    write_atomically(code_path, code.encode())
    return code_path, weights_path


TARGET = Target(name="torch", suffix=".py", extra=EXTRA, write=write)


def _layers() -> ModuleType:
    extras.load("torch", extra=EXTRA)  # so that what is missing is called by its own name
    return extras.load("deepmad_hw.training.layers", extra=EXTRA)


def layer_call(node: Node) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Return the class of `deepmad_hw.training.layers` that a node becomes, and its arguments without the defaults.

    Args:
        node: the layer.

    Raises:
        ConfigError: it has no PyTorch form here.
    """
    spec = node.spec
    if spec.residual and spec.op != "conv":
        raise ConfigError(f"a residual on {spec.op} has no PyTorch form here", where=node.name)
    if spec.op == "linear" and not node.bias:
        raise ConfigError("a linear layer without bias has no PyTorch form here", where=node.name)
    kind, *positional = {
        "conv": ("Conv", spec.in_channels, spec.out_channels),
        "linear": ("Linear", spec.in_channels, spec.out_channels),
        "avg_pool": ("Pool", "avg"),
        "max_pool": ("Pool", "max"),
        "global_pool": ("Pool", "global"),
        "scale": ("Scale",),
        "add": ("Add",),
    }[spec.op]
    window = {"kernel": spec.kernel, "stride": spec.stride}
    own = {
        "Conv": window | {"groups": spec.groups, "norm": node.norm, "bias": node.bias},
        "Pool": window if spec.op != "global_pool" else {},
    }
    defaults = {"kernel": 1, "stride": 1, "groups": 1, "norm": False, "bias": False, "act": "none"}
    named = own.get(str(kind), {}) | {"act": spec.activation}
    return str(kind), tuple(positional), {key: value for key, value in named.items() if value != defaults[key]}
