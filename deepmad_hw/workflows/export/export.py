"""From a network to a file that another program can run. Layer 4."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.workflows.networks.networks import Network, adapted, from_architecture
from profilers.engine_manifest import ENGINE_SUFFIX

if TYPE_CHECKING:
    from deepmad_hw.exporters.target import Target
    from deepmad_hw.exporters.weights import Array


def export(
    network: Network | Architecture,
    out: Path,
    *,
    target: str = "onnx",
    weights: Path | None = None,
    classes: int | None = None,
    seed: int = 0,
    choices: Mapping[str, Any] | None = None,
) -> tuple[Path, ...]:
    """Write a network in one of the forms of `deepmad_hw.exporters.target`, and return the files.

    Engines (``tensorrt``, ``rtx``) come with a sealed manifest and the ONNX file that they were built from.

    Args:
        network: what; see `deepmad_hw.workflows.networks.networks.load_network`.
        out: the main file.
        target: name of the form, such as ``onnx``.
        weights: safetensors file with the training form's parameters; None takes untrained ones.
        classes: width of the classifier; None keeps the network's own.
        seed: of the untrained weights.
        choices: of the target, by field name of its record in `deepmad_hw.exporters.options`.

    Returns:
        The files written, the main file first.

    Raises:
        ConfigError: unknown target or choice, another suffix than the target's, or weights that do not fit.
        InputFileError: the weights cannot be read.
        MissingExtraError: the target needs a package that is not installed.
        StorageError: a file could not be written.
    """
    from deepmad_hw.exporters import options
    from deepmad_hw.exporters import target as targets
    from deepmad_hw.exporters.weights import initial_weights, read_weights

    form = targets.get(target)
    chosen_options = options.choose(form.options, choices or {}, target=target)
    suffix = form.suffix if form.engine is None else ENGINE_SUFFIX
    if out.suffix != suffix:
        raise ConfigError(f"expected a name that ends in {suffix}", where=f"--out {out}")
    if not out.parent.is_dir():
        raise ConfigError("no such folder", where=f"--out {out}", hint=f"make it with: mkdir -p {out.parent}")
    chosen = adapted(from_architecture(network) if isinstance(network, Architecture) else network, classes=classes)
    values = initial_weights(chosen.graph, seed=seed) if weights is None else read_weights(weights)
    if form.engine is not None:
        return _engine(form, chosen, values, out, chosen_options)
    return form.write(chosen.graph, values, out, chosen.facts, chosen_options)


def _engine(form: Target, network: Network, weights: Mapping[str, Array], out: Path, options: Any) -> tuple[Path, ...]:
    """Write an engine, its manifest and the ONNX file it was built from: all of them, once it is built."""
    from profilers import engine_manifest, tensorrt

    tensorrt.require(form.engine)
    settings = tensorrt.EngineSettings(
        batches=options.batch_sizes, tf32=options.tf32, optimization_level=options.optimization_level
    )
    with tempfile.TemporaryDirectory(prefix="deepmad-hw-engine-") as folder:
        (source,) = form.write(network.graph, weights, Path(folder) / "network.onnx", network.facts, options)
        try:
            engine = tensorrt.build(source, flavour=form.engine, settings=settings)
        except InputFileError as error:  # what it was built from is gone by then
            raise InputFileError(error.what, where=f"--out {out}", hint=error.hint) from error
        contents = {
            out.with_name(f"{out.name}.onnx"): source.read_bytes(),
            engine_manifest.manifest_path(out): engine_manifest.sealed(engine.manifest),
            out: engine.plan,
        }
    for path, content in contents.items():
        write_atomically(path, content)
    return tuple(reversed(contents))


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
    from deepmad_hw.exporters import onnx_counts, onnx_read

    done = []
    graph = onnx_read.graph_of(path)
    if graph is not None:
        stated, counted = costs.macs(graph), onnx_counts.counts(onnx_read.load(path))
        if counted.not_counted:
            raise InputFileError(f"macs: cannot be counted at {counted.not_counted[0]}", where=str(path))
        if stated != counted.macs:
            raise InputFileError(f"macs: the file has {counted.macs}, its own facts say {stated}", where=str(path))
        done.append(f"holds the network it names ({stated} MACs)")
    if find_spec("onnxruntime") is None:
        return (*done, 'not run: ONNX Runtime is missing (pip install "deepmad-hw[cpu]")')
    from deepmad_hw.exporters.verify import check_onnx

    outputs = ", ".join(f"{name} {list(shape)}" for name, shape in check_onnx(path).items())
    return (*done, f"valid ONNX, run once in ONNX Runtime: {outputs}")
