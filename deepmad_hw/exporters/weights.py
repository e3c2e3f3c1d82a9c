"""Parameters of a graph by name: their shapes, first values, and batch norm folded into them. Layer 3, numpy only.

Names are those of a torch state dict: ``stage1.block1.conv1.weight``, ``stage1.block1.conv1.norm.running_mean``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters import extras
from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.network.layer import IMAGE, Graph, Node

Array = NDArray[np.float32]
Weights = dict[str, Array]
Shape = tuple[int, ...]

NORM_EPSILON = 1e-5

# Mean of activation(x)^2 for x of a standard normal distribution.
ACTIVATION_POWER = {
    "none": 1.0,
    "relu": 0.5,
    "relu6": 0.5,
    "silu": 0.3558,
    "hardswish": 0.3316,
    "sigmoid": 0.2934,
    "hardsigmoid": 0.2776,
}


def parameter_shapes(node: Node, *, fold_norm: bool = False) -> dict[str, Shape]:
    """Return the parameters of one node: final name -> shape.

    Args:
        node: the layer.
        fold_norm: False for the training form, True for weight and bias after batch norm is folded in.
    """
    spec, name = node.spec, node.name
    if spec.op not in ("conv", "linear"):
        return {}
    window = (spec.kernel, spec.kernel) if spec.op == "conv" else ()
    shapes: dict[str, Shape] = {f"{name}.weight": (spec.out_channels, spec.group_width, *window)}
    if node.bias or (node.norm and fold_norm):
        shapes[f"{name}.bias"] = (spec.out_channels,)
    if node.norm and not fold_norm:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{part}"] = (spec.out_channels,)
    return shapes


def initial_weights(graph: Graph, *, seed: int = 0) -> Weights:
    """Return untrained parameters under which activations stay finite and alive at any depth.

    The walk carries an estimate of every tensor's mean square. Each weight is drawn so that its layer's output has
    variance 1 (He initialisation with the true input power instead of an assumed 1/2), and the last convolution of
    each of n residual branches is scaled by 1/sqrt(n) through its norm, so that the sum over all branches is
    bounded. A node's values depend on the seed and its name only.

    Args:
        graph: the network.
        seed: any whole number >= 0.

    Returns:
        float32 arrays of the training form, by state-dict name.

    Source: He et al., ICCV 2015 (arXiv 1502.01852); branch scaling as in Fixup, Zhang et al., ICLR 2019.
    """
    weights: Weights = {}
    scales = initial_scales(graph)
    for node in graph:
        # What is not drawn (biases, running means) starts at zero.
        values = {key: np.zeros(shape, dtype=np.float32) for key, shape in parameter_shapes(node).items()}
        if values:
            random = np.random.default_rng([seed, zlib.crc32(node.name.encode())])
            weight, scale = f"{node.name}.weight", scales[node.name]
            drawn = random.standard_normal(values[weight].shape, dtype=np.float32)
            values[weight] = drawn * np.float32(scale.deviation)
            if node.norm:
                values[f"{node.name}.norm.weight"] += np.float32(scale.gain)
                values[f"{node.name}.norm.running_var"] += 1
        weights.update(values)
    return weights


@dataclass(frozen=True, slots=True)
class InitialScale:
    """How large one layer's first values are.

    Args:
        deviation: standard deviation of its weights, which are drawn normally.
        gain: factor of its batch norm.
    """

    deviation: float
    gain: float


def initial_scales(graph: Graph) -> dict[str, InitialScale]:
    """Return the size of the first values of every layer with weights, by its name; see `initial_weights`.

    Args:
        graph: the network.
    """
    branches = sum(node.spec.residual for node in graph)
    branch_gain = 1 / math.sqrt(branches) if branches else 1.0
    power = {IMAGE: 1.0}
    activated = {IMAGE: False}
    scales: dict[str, InitialScale] = {}
    for node in graph:
        gain = branch_gain if node.spec.residual else 1.0
        if parameter_shapes(node):
            fan_in = node.spec.group_width * node.spec.kernel * node.spec.kernel
            deviation = (1.0 if node.norm else gain) / math.sqrt(fan_in * power[node.inputs[0]])
            scales[node.name] = InitialScale(deviation=deviation, gain=gain)
        power[node.name] = _output_power(node, gain=gain, power=power, activated=activated)
        activated[node.name] = node.spec.activation != "none"
    return scales


def _output_power(node: Node, *, gain: float, power: Mapping[str, float], activated: Mapping[str, bool]) -> float:
    op, inputs = node.spec.op, node.inputs
    if op == "scale":
        return power[inputs[0]] * power[inputs[1]]
    if op == "add":
        return power[inputs[0]] + power[inputs[1]]
    if op not in ("conv", "linear"):
        return power[inputs[0]]
    if not node.spec.residual:
        return ACTIVATION_POWER[node.spec.activation]
    total = gain * gain + power[inputs[-1]]
    # A stream that went through the activation before passes it nearly unchanged.
    return total if activated[inputs[-1]] else total * ACTIVATION_POWER[node.spec.activation]


def fold_norms(graph: Graph, weights: Mapping[str, Array]) -> Weights:
    """Return the parameters with every batch norm folded into its convolution's weight and bias.

    Args:
        graph: the network.
        weights: training form.

    Raises:
        ConfigError: a parameter is missing, unknown or has another shape.
    """
    folded: Weights = {}
    require_weights(graph, weights)
    for node in graph:
        for key in parameter_shapes(node, fold_norm=True):
            if not node.norm:
                folded[key] = weights[key]
        if node.norm:
            folded.update(_fold_node(node.name, weights))
    return folded


def _fold_node(name: str, weights: Mapping[str, Array]) -> Weights:
    # float64, so that folding adds no rounding of its own to the comparison with the training form.
    weight, gamma, beta, mean, var = (
        weights[f"{name}.{part}"].astype(np.float64)
        for part in ("weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    )
    gain = gamma / np.sqrt(var + NORM_EPSILON)
    bias = weights[f"{name}.bias"].astype(np.float64) if f"{name}.bias" in weights else 0.0
    return {
        f"{name}.weight": (weight * gain[:, None, None, None]).astype(np.float32),
        f"{name}.bias": (beta + (bias - mean) * gain).astype(np.float32),
    }


def require_weights(graph: Graph, weights: Mapping[str, Array]) -> None:
    """Refuse weights that are not those of a graph's training form: every parameter and no other.

    Args:
        graph: the network.
        weights: parameters by state-dict name.

    Raises:
        ConfigError: a parameter is missing, unknown or has another shape.
    """
    require_shapes({key: shape for node in graph for key, shape in parameter_shapes(node).items()}, weights)


def require_shapes(expected: Mapping[str, Shape], weights: Mapping[str, Array]) -> None:
    """Refuse weights of other names or shapes than expected, naming the first one and what may have happened.

    Args:
        expected: shapes by name.
        weights: parameters by name.

    Raises:
        ConfigError: a parameter is missing, unknown or has another shape.
    """
    for key, shape in expected.items():
        if key not in weights:
            raise ConfigError("no such parameter among the weights", where=key, hint=_wrapper_hint(key, weights))
        found = weights[key].shape
        if found != shape:
            # Only classifiers have weights of two dimensions.
            refitted = len(shape) == len(found) == 2 and shape[1] == found[1]
            hint = f"the weights know {found[0]} classes: say so with --classes {found[0]}" if refitted else None
            raise ConfigError(f"expected a parameter of shape {shape}, got {found}", where=key, hint=hint)
    for key in weights:
        if key not in expected:
            raise ConfigError("the network has no such parameter", where=key, hint="are these weights of another one?")


def _wrapper_hint(key: str, weights: Mapping[str, Array]) -> str | None:
    """Return what to do about names to which a wrapper (DistributedDataParallel, torch.compile) added its own."""
    prefix = next((name.removesuffix(key) for name in weights if name.endswith(f".{key}")), None)
    if prefix is None:
        return None
    return f"it is called {prefix + key!r} there: save the state dict of the module inside the wrapper"


def save_weights(path: Path, weights: Mapping[str, Array], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write parameters as a safetensors file, whole or not at all.

    Args:
        path: where.
        weights: parameters by state-dict name.
        metadata: facts stored in the file.

    Raises:
        MissingExtraError: safetensors is not installed.
        StorageError: the file could not be written.
    """
    safetensors = extras.load("safetensors.numpy", extra="torch")
    tensors = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    write_atomically(path, safetensors.save(tensors, metadata=dict(metadata) if metadata else None))


def read_weights(path: Path) -> Weights:
    """Return the parameters of a safetensors file as float32, leaving out what is no parameter (integer counters).

    Args:
        path: a file that `save_weights` wrote, or ``safetensors.torch.save_file(module.state_dict(), ...)``.

    Raises:
        InputFileError: it is no safetensors file, or a value in it is not finite.
        MissingExtraError: safetensors is not installed.
    """
    safetensors = extras.load("safetensors", extra="torch")
    try:
        tensors = extras.load("safetensors.numpy", extra="torch").load(path.read_bytes())
    except OSError as error:
        raise InputFileError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputFileError(f"is no safetensors file of plain arrays: {error}", where=str(path)) from error
    weights = {name: value.astype(np.float32) for name, value in tensors.items() if value.dtype.kind == "f"}
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise InputFileError(f"parameter {name!r} holds a value that is not finite", where=str(path))
    return weights
