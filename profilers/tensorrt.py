"""Builds engines from ONNX files with TensorRT 10, 11 or TensorRT-RTX, one path for all. Layer 3, device side.

Facts this rests on: networks are always strongly typed, so precision lies in the ONNX file (in 10 that is a flag, in 11
it is always so and the flag does nothing, RTX is as 11). Batch is always explicit; 11 has no flag for it any more.
Failures are None where other libraries raise. A process has one logger. RTX builds without a GPU, and its engines are
not TensorRT's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmad_hw.errors import ConfigError, InputFileError, MissingExtraError
from profilers import gpu_sensors
from profilers.engine_manifest import Manifest, ShapeProfile, TensorInfo

# In order of preference where any will do.
INSTALL_LINES = {
    "tensorrt": 'pip install "deepmad-hw[tensorrt]"',
    "tensorrt_rtx": 'pip install "deepmad-hw[rtx]"',
}
TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
LEVELS = range(6)  # of `EngineSettings.optimization_level`
SHOWN_ERRORS = 3
_DTYPES = {"FLOAT": "float32", "HALF": "float16"}
_BUILDING = threading.Lock()  # the logger is the process's, so its rows are one build's at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How to build.

    Args:
        batches: least, usual and most images of inputs whose batch is free, or None where it is fixed.
        tf32: whether float32 convolutions may round their inputs to 10 bits of mantissa.
        optimization_level: 0 (quickest build) to 5 (most tactics tried).
        workspace_bytes: memory that a tactic may use, or None for the library's own limit.
        detailed: whether the engine keeps every layer's description, as profiling needs; costs a little at run time.
    """

    batches: tuple[int, int, int] | None = None
    tf32: bool = False
    optimization_level: int = 3
    workspace_bytes: int | None = None
    detailed: bool = False

    def __post_init__(self) -> None:
        """Refuse what no library takes."""
        if self.optimization_level not in LEVELS:
            raise ConfigError(f"expected 0 to 5, got {self.optimization_level}", where="optimization level")
        if self.batches is not None and not 1 <= self.batches[0] <= self.batches[1] <= self.batches[2]:
            raise ConfigError(f"expected least <= usual <= most images, from 1, got {self.batches}", where="batches")


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """What was built.

    Args:
        plan: the engine's bytes.
        manifest: what it was made of; unsealed, see `profilers.engine_manifest.sealed`.
    """

    plan: bytes
    manifest: Manifest


def require(flavour: str | None = None) -> str:
    """Return the library to build with.

    Args:
        flavour: ``tensorrt`` or ``tensorrt_rtx``, or None for the first that is installed.

    Raises:
        MissingExtraError: it, or any, is not installed.
    """
    wanted = (flavour,) if flavour else tuple(INSTALL_LINES)
    found = next((name for name in wanted if importlib.util.find_spec(name) is not None), None)
    if found is None:
        lines = " or ".join(INSTALL_LINES[name] for name in wanted)
        titles = " or ".join(TITLES[name] for name in wanted)
        raise MissingExtraError(f"{titles} is not installed", hint=f"install it with: {lines}")
    return found


def build(onnx_file: Path, *, flavour: str | None = None, settings: EngineSettings | None = None) -> Engine:
    """Build an engine.

    Args:
        onnx_file: the network, with the precision it shall have.
        flavour: see `require`.
        settings: how to build; None takes the defaults.

    Raises:
        MissingExtraError: the library is not installed, or needs a GPU and finds none.
        InputFileError: the library does not take the file; its own words and the node's name are given.
        ConfigError: an input has a free batch and `settings` do not say which, or the reverse.
    """
    name = require(flavour)
    chosen = settings or EngineSettings()
    where = str(onnx_file)
    try:
        onnx_sha256 = hashlib.sha256(onnx_file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputFileError(f"cannot read the network ({error.strerror})", where=where) from error
    with _BUILDING:
        trt, log = library(name)
        log.rows.clear()
        builder = _builder(trt, log, name)
        network = builder.create_network(_creation_flags(trt))
        _parse(trt, network, log, onnx_file)
        config, profiles = _configured(trt, builder, network, chosen, where=where)
        card = gpu_sensors.card()
        with _timing_cache(config, name, str(trt.__version__), card):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise InputFileError(f"{TITLES[name]} cannot build it: {last_errors(log)}", where=where)
        data = bytes(plan)
        manifest = Manifest(
            flavour=name,
            version=str(trt.__version__),
            gpu=card.name if card else "none",
            compute_capability=card.compute_capability if card else "none",
            driver=card.driver if card else "none",
            flags=_flags(trt, config),
            settings=_words(chosen),
            types=_types(network),
            profiles=profiles,
            tensors=tuple(_tensors(network)),
            onnx_sha256=onnx_sha256,
            plan_sha256=hashlib.sha256(data).hexdigest(),
        )
    return Engine(plan=data, manifest=manifest)


@functools.cache
def library(name: str) -> tuple[Any, Any]:
    """Return a library and the one logger that this process gives it.

    Args:
        name: of the module.
    """
    gpu_sensors.count_cards_as_the_bus_does()
    trt = importlib.import_module(name)

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps what the library says."""

        def __init__(self) -> None:
            super().__init__()
            self.rows: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            """Keep a message unless it is chatter."""
            if severity.name not in ("INFO", "VERBOSE"):
                self.rows.append((severity.name, message))

    return trt, Log()


def _builder(trt: Any, log: Any, name: str) -> Any:
    try:
        builder = trt.Builder(log)
    except TypeError:  # how the bindings say that the library gave nothing back
        builder = None
    if builder is None:
        raise MissingExtraError(
            f"{TITLES[name]} cannot start here: {last_errors(log)}",
            hint="it needs an NVIDIA GPU and its driver; TensorRT-RTX builds without",
        )
    return builder


def _creation_flags(trt: Any) -> int:
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if typed is None else 1 << int(typed)


def _parse(trt: Any, network: Any, log: Any, onnx_file: Path) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(onnx_file)):
        return
    errors = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    more = f" and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
    told = "; ".join(errors[:SHOWN_ERRORS]) + more or last_errors(log)
    raise InputFileError(f"the parser refuses it: {told}", where=str(onnx_file))


def _parser_error(error: Any) -> str:
    node, operation = error.node_name(), error.node_operator()
    place = f"{operation or 'node'} {node}: " if node else ""
    return f"{place}{_one_line(error.desc())}"


def last_errors(log: Any) -> str:
    """Return what the library last complained about, on one line.

    Args:
        log: of `library`.
    """
    errors = [_one_line(text) for severity, text in log.rows if severity.endswith("ERROR")]
    return "; ".join(errors[-SHOWN_ERRORS:]) or "no reason was given"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _configured(
    trt: Any, builder: Any, network: Any, settings: EngineSettings, *, where: str
) -> tuple[Any, tuple[ShapeProfile, ...]]:
    config = builder.create_builder_config()
    flag = trt.BuilderFlag.TF32
    (config.set_flag if settings.tf32 else config.clear_flag)(flag)  # on unless it is cleared
    verbosity = trt.ProfilingVerbosity
    config.profiling_verbosity = verbosity.DETAILED if settings.detailed else verbosity.LAYER_NAMES_ONLY
    config.builder_optimization_level = settings.optimization_level
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    profiles = _profiles(network, settings.batches, where=where)
    if profiles:
        profile = builder.create_optimization_profile()
        for each in profiles:
            profile.set_shape(each.tensor, each.smallest, each.usual, each.largest)
        if config.add_optimization_profile(profile) < 0:
            raise ConfigError(f"the library refuses the batches {settings.batches}", where=where)
    return config, profiles


def _profiles(network: Any, batches: tuple[int, int, int] | None, *, where: str) -> tuple[ShapeProfile, ...]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    free = {each.name: tuple(each.shape) for each in inputs if -1 in tuple(each.shape)}
    for name, shape in free.items():
        if -1 in shape[1:]:
            raise InputFileError(f"input {name} {shape} is free in more than its batch", where=where)
    if free and batches is None:
        raise ConfigError(
            f"the batch of input {next(iter(free))} is free", where=where, hint="say least, usual and most images"
        )
    if batches is None or not free:
        if batches is not None:
            raise ConfigError("batches are given for a network whose batch is fixed", where=where)
        return ()
    least, usual, most = batches
    return tuple(
        ShapeProfile(tensor=name, smallest=(least, *shape[1:]), usual=(usual, *shape[1:]), largest=(most, *shape[1:]))
        for name, shape in free.items()
    )


def _flags(trt: Any, config: Any) -> tuple[str, ...]:
    members = trt.BuilderFlag.__members__
    return tuple(sorted(name for name, member in members.items() if config.get_flag(member)))


def _words(settings: EngineSettings) -> tuple[tuple[str, str], ...]:
    workspace = "library's" if settings.workspace_bytes is None else str(settings.workspace_bytes)
    return (
        ("optimization_level", str(settings.optimization_level)),
        ("profiling_verbosity", "detailed" if settings.detailed else "layer names"),
        ("workspace_bytes", workspace),
    )


def _types(network: Any) -> tuple[str, ...]:
    """Return the number types that layers return, but for those of sizes: what the engine computes in."""
    found = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        found |= {_dtype(layer.get_output(output)) for output in range(layer.num_outputs)}
    return tuple(sorted(found - {"int32", "int64", "bool"}))


def _tensors(network: Any) -> Iterator[TensorInfo]:
    for kind, count, get in (
        ("input", network.num_inputs, network.get_input),
        ("output", network.num_outputs, network.get_output),
    ):
        for index in range(count):
            tensor = get(index)
            yield TensorInfo(name=tensor.name, kind=kind, dtype=_dtype(tensor), shape=tuple(tensor.shape))


def _dtype(tensor: Any) -> str:
    name = str(tensor.dtype.name)
    return _DTYPES.get(name, name.lower())


@contextlib.contextmanager
def _timing_cache(config: Any, name: str, version: str, card: gpu_sensors.Card | None) -> Iterator[None]:
    """Lend a build the timings of earlier ones on this card, and keep its own.

    TensorRT-RTX tunes when it runs, and without a card there is nothing to time.
    """
    if name != "tensorrt" or card is None:
        yield
        return
    path = timing_cache_path((name, version, card.name, card.compute_capability, card.driver))
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    usable = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    kept = config.get_timing_cache() if usable else None
    if kept is not None:
        with contextlib.suppress(OSError):  # without it the next build is slower, no more
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            temporary.write_bytes(bytes(kept.serialize()))
            temporary.replace(path)


def timing_cache_path(key: Sequence[str]) -> Path:
    """Return where the timings of a library on a card are kept: the user's cache folder (``XDG_CACHE_HOME``).

    Args:
        key: library, version, card, compute capability, driver.
    """
    folder = os.environ.get("XDG_CACHE_HOME")
    name = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", word) for word in key)
    return (Path(folder) if folder else Path.home() / ".cache") / "deepmad-hw" / f"{name}.timing"
