"""A network by whatever a person has of it: a design's folder, an architecture, an ONNX file, a known name. Layer 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deepmad_hw.errors import ConfigError, InputFileError, known_names
from deepmad_hw.formats import serde
from deepmad_hw.network import reference, released
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import Graph
from deepmad_hw.workflows.results.folders import require_architecture, require_design_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A network and where it came from.

    Args:
        graph: its layers.
        architecture: the network as numbers, where it is one of our designs.
        facts: by which an exported file is known again.
    """

    graph: Graph
    architecture: Architecture | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


def load_network(name_or_path: str | Path) -> Network:
    """Return a network.

    Args:
        name_or_path: the folder of a design, the JSON of a design or architecture, one of our ONNX files, or the name
            of a reference network or of one that DeepMAD's authors released (``deepmad_r18``).

    Raises:
        ConfigError: no such file or name.
        InputFileError: the file or the folder holds no network, or none that can be read.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        return _designed(require_design_file(path), name=path.resolve().name)
    if path.suffix == ".onnx" and path.is_file():
        return _exported(path)
    if path.is_file():
        return _designed(path, name=path.stem)
    if name in reference.names():
        return _known(name)
    if name in released.names():
        return from_architecture(released.get(name), name=name)
    names = (*reference.names(), *released.names())
    hint = known_names(name, names, kind="reference networks:")
    raise ConfigError(f"no design and no network is called {name!r}", hint=hint)


def from_architecture(architecture: Architecture, *, name: str | None = None) -> Network:
    """Return the network that an architecture stands for.

    Args:
        architecture: the network as numbers.
        name: what to call it; None lets the family name it.
    """
    from deepmad_hw.exporters.onnx_graph import architecture_metadata

    graph = expand(architecture)
    named = graph if name is None else replace(graph, name=name)
    return Network(graph=named, architecture=architecture, facts=architecture_metadata(architecture))


def adapted(network: Network, *, classes: int | None = None, activation: str | None = None) -> Network:
    """Return a network with another classifier or activation.

    Args:
        network: the network.
        classes: width of the classifier; None keeps the network's own.
        activation: one that the family has; None keeps the network's own.

    Raises:
        ConfigError: the network cannot have them.
    """
    from deepmad_hw.exporters.onnx_graph import REFERENCE_KEY

    if classes is None and activation is None:
        return network
    if network.architecture is not None:
        chosen: dict[str, Any] = {"classes": classes, "activation": activation}
        changed = replace(network.architecture, **{key: value for key, value in chosen.items() if value is not None})
        return from_architecture(changed, name=network.graph.name)
    if activation is not None or REFERENCE_KEY not in network.facts:
        raise ConfigError("only designs can be changed, give the design's folder", where=network.graph.name)
    return _known(network.facts[REFERENCE_KEY], classes=classes)


def _designed(path: Path, *, name: str) -> Network:
    return from_architecture(serde.architecture_from_json(require_architecture(path), where=str(path)), name=name)


def _known(name: str, *, classes: int | None = None) -> Network:
    from deepmad_hw.exporters.onnx_graph import reference_metadata

    graph = reference.get(name) if classes is None else reference.get(name, classes=classes)
    classes = graph.nodes[-1].spec.out_channels
    facts = reference_metadata(name, resolution=(graph.height, graph.width), classes=classes)
    return Network(graph=graph, facts=facts)


def _exported(path: Path) -> Network:
    from deepmad_hw.exporters import onnx_read

    graph = onnx_read.graph_of(path)
    if graph is None:
        raise InputFileError(
            "is not one of our files, so its layers are not known", where=str(path), hint="measure it with bench"
        )
    return Network(graph=graph, facts=onnx_read.read_identity(path))
