"""Builds a graph as a PyTorch module in training form, and writes it as a Python file of its own. Layer 3.

Importing this file needs no torch; its functions do.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files as package_files
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters import extras
from deepmad_hw.exporters.target import Target
from deepmad_hw.exporters.weights import Array, read_weights, require_weights, save_weights
from deepmad_hw.files import write_atomically
from deepmad_hw.layer import Graph, Node

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TARGET", "build", "load_weights", "read_weights", "save_weights", "source_code", "write"]

EXTRA = "torch"


def build(graph: Graph) -> nn.Module:
    """Return the network as a module in training form, batch norm unfolded, with torch's own first weights.

    Submodules have the nodes' names; state-dict names are those of `deepmad_hw.exporters.weights`, beside batch norm's
    own counters (``num_batches_tracked``).

    Args:
        graph: the network.

    Returns:
        A module that takes an image batch (N, channels, height, width) and returns the graph's one output, or a
        tuple of several.

    Raises:
        ConfigError: a node has no PyTorch form here.
        MissingExtraError: torch is not installed.
    """
    layers = _layers()
    placed = []
    for node in graph:
        kind, positional, named = _call(node)
        placed.append((node.name, getattr(layers, kind)(*positional, **named), node.inputs))
    module: nn.Module = layers.Network(placed, graph.outputs)
    return module


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
    try:
        module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    except RuntimeError as error:
        raise ConfigError(f"the weights do not fit the network: {' '.join(str(error).split())}") from error


def source_code(graph: Graph, *, weights_file: str) -> str:
    """Return a Python file that builds the network with nothing but torch.

    Args:
        graph: the network.
        weights_file: name of the weights' file, for the file's own instructions.

    Raises:
        ConfigError: a node has no PyTorch form here.
    """
    text = package_files("deepmad_hw.exporters").joinpath("torch_layers.py").read_text(encoding="utf-8")
    layers = text.split('"""', 2)[2].lstrip()  # without the docstring, which speaks of this project
    lines = [f"            ({node.name!r}, {_call_text(node)}, {list(node.inputs)!r})," for node in graph]
    return _FILE.format(
        name=_plain(graph.name),
        shape=f"{graph.in_channels}, {graph.height}, {graph.width}",
        weights_file=_plain(weights_file),
        layers=layers,
        lines="\n".join(lines),
        outputs=list(graph.outputs),
    )


_FILE = '''"""{name}: a convolutional network for images of shape (N, {shape}), written by deepmad-hw.

    from safetensors.torch import load_file
    network = build()
    network.load_state_dict(load_file("{weights_file}"))
"""

{layers}

def build() -> Network:
    """Return the network in training form."""
    return Network(
        [
{lines}
        ],
        outputs={outputs!r},
    )
'''


def write(graph: Graph, weights: Mapping[str, Array], path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
    """Write the network as ``FILE.py`` and its weights as ``FILE.safetensors``.

    Args:
        graph: the network.
        weights: training form.
        path: the Python file.
        metadata: facts stored beside the weights.

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
    return extras.load("deepmad_hw.exporters.torch_layers", extra=EXTRA)


def _call(node: Node) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Return the class of `torch_layers` that a node becomes, and its arguments without the defaults."""
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


def _call_text(node: Node) -> str:
    kind, positional, named = _call(node)
    arguments = [repr(value) for value in positional] + [f"{key}={value!r}" for key, value in named.items()]
    return f"{kind}({', '.join(arguments)})"


def _plain(text: str) -> str:
    """Return text that cannot end the docstring it is put in."""
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")
