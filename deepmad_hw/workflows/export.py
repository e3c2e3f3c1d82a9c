"""From a network to a file that another program can run. Layer 4."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from deepmad_hw import costs
from deepmad_hw.architecture import Architecture
from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.workflows.networks import Network, from_architecture


def export(
    network: Network | Architecture,
    out: Path,
    *,
    target: str = "onnx",
    weights: Path | None = None,
    seed: int = 0,
) -> tuple[Path, ...]:
    """Write a network in one of the forms of `deepmad_hw.exporters.target`, and return the files.

    Args:
        network: what; see `deepmad_hw.workflows.networks.load_network`.
        out: the main file.
        target: name of the form, such as ``onnx``.
        weights: safetensors file with the training form's parameters; None takes untrained ones.
        seed: of the untrained weights.

    Returns:
        The files written, the main file first.

    Raises:
        ConfigError: unknown target, another suffix than the target's, or weights that do not fit.
        InputFileError: the weights cannot be read.
        MissingExtraError: the target needs a package that is not installed.
        StorageError: a file could not be written.
    """
    from deepmad_hw.exporters import target as targets
    from deepmad_hw.exporters.weights import initial_weights, read_weights

    form = targets.get(target)
    if out.suffix != form.suffix:
        raise ConfigError(f"expected a name that ends in {form.suffix}", where=f"--out {out}")
    if not out.parent.is_dir():
        raise ConfigError("no such folder", where=f"--out {out}", hint=f"make it with: mkdir -p {out.parent}")
    chosen = from_architecture(network) if isinstance(network, Architecture) else network
    values = initial_weights(chosen.graph, seed=seed) if weights is None else read_weights(weights)
    return form.write(chosen.graph, values, out, chosen.facts)


def check_exported(path: Path) -> tuple[str, ...]:
    """Check an ONNX file and return what was done, each in one sentence.

    One of our files must hold the network that its own facts name, multiply-add by multiply-add. Where ONNX Runtime
    is installed, any file is held against the standard and run once.

    Args:
        path: the file.

    Raises:
        InputFileError: it is no valid model, holds another network than it says, does not run, or returns values that
            are not finite.
    """
    from deepmad_hw.exporters import onnx_read

    done = []
    graph = onnx_read.graph_of(path)
    if graph is not None:
        stated, counted = costs.macs(graph), onnx_read.counts(onnx_read.load(path)).macs
        if stated != counted:
            raise InputFileError(f"macs: the file has {counted}, its own facts say {stated}", where=str(path))
        done.append(f"holds the network it names ({counted} MACs)")
    if find_spec("onnxruntime") is None:
        return (*done, 'not run: ONNX Runtime is missing (pip install "deepmad-hw[cpu]")')
    from deepmad_hw.exporters.verify import check_onnx

    outputs = ", ".join(f"{name} {list(shape)}" for name, shape in check_onnx(path).items())
    return (*done, f"valid ONNX, run once in ONNX Runtime: {outputs}")
