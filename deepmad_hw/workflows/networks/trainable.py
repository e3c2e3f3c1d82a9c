"""From a network to a PyTorch module that is ready to be trained. Layer 4."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepmad_hw.network.architecture import Architecture
from deepmad_hw.workflows.networks.networks import Network, adapted, from_architecture, load_network

if TYPE_CHECKING:
    from torch import nn


def trainable(
    network: str | Path | Network | Architecture,
    *,
    classes: int | None = None,
    activation: str | None = None,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    weights: Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """Return a network as a PyTorch module in training form.

    A network without weights gets first ones that fit its family: He initialisation with the true power of every
    layer's input (which depends on the family's activation), and residual branches that start small.

    Args:
        network: the folder of a design, its JSON, the name of a reference network, or the record itself.
        classes: width of the classifier; None keeps the network's own.
        activation: of stem, blocks and head, one that the family has; None keeps the network's own.
        drop_path: rate at which the last residual branch is left out for an image while training; the rates of the
            branches before it grow from 0 in equal steps.
        dropout: rate at which the classifier's inputs are left out while training.
        weights: safetensors file to start from; None starts untrained.
        seed: of the untrained weights.

    Returns:
        A module whose state dict has the names that ``deepmad-hw export --weights`` reads. It takes images
        (N, channels, height, width) of any size that its strides divide.

    Raises:
        ConfigError: no such network, an option that it cannot have, or weights that do not fit.
        InputFileError: a file cannot be read.
        MissingExtraError: torch is not installed.

    Source: initialisation, see `deepmad_hw.exporters.weights.initial_weights`.
    """
    from deepmad_hw.exporters import torch_module
    from deepmad_hw.exporters.weights import initial_weights, read_weights

    chosen = adapted(_loaded(network), classes=classes, activation=activation)
    module = torch_module.build(chosen.graph, drop_path=drop_path, dropout=dropout)
    values = initial_weights(chosen.graph, seed=seed) if weights is None else read_weights(weights)
    torch_module.load_weights(module, values)
    return module


def _loaded(network: str | Path | Network | Architecture) -> Network:
    if isinstance(network, Network):
        return network
    return from_architecture(network) if isinstance(network, Architecture) else load_network(network)
