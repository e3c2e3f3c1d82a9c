"""Times networks as TensorRT engines on an NVIDIA GPU, whole and layer by layer. Layer 3, device side.

Facts this rests on: the library's profiler tells the time of engine layers, which hold one operation of the ONNX file
or many, and are named as it likes; the engine's inspector says which operations those are (``[ONNX Layer: name]``), in
10 and in 11 alike, though other parts of its JSON changed. Where a layer holds several layers of ours, nobody tells
how long each took: its time is shared by the values they read and write. Profiled times are shares, never a latency.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import platform
import re
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepmad_hw.errors import DeviceLostError, InputFileError, MissingExtraError
from deepmad_hw.latency.measurement import Environment
from deepmad_hw.network.layer import LayerSpec, Node
from profilers import environment, gpu_sensors, tensorrt
from profilers.backend import NodeTimes, Session, Settings
from profilers.cuda import WholeSession, Work
from profilers.engine_manifest import ENGINE_SUFFIX, REBUILD, Manifest, manifest_path, read_engine, sealed
from profilers.joining import owner
from profilers.plan import Plan, Probe
from profilers.tensorrt import EngineSettings

_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_WORD = re.compile(r"[\w.]+")


class CudaGpu:
    """NVIDIA's own Python calls of the driver: nothing here runs without a card."""

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._cuda: Any = runtime
        self._capturing = False
        self.stream: Any = self._value(runtime.cudaStreamCreate())

    def event(self) -> Any:
        """Return a new event."""
        return self._value(self._cuda.cudaEventCreate())

    def record(self, event: Any) -> None:
        """Have the device stamp an event when it gets there."""
        flag = self._cuda.cudaEventRecordExternal if self._capturing else self._cuda.cudaEventRecordDefault
        self._value(self._cuda.cudaEventRecordWithFlags(event, self.stream, flag))

    def elapsed_us(self, begin: Any, end: Any) -> float:
        """Return the time between two stamped events in microseconds."""
        return float(self._value(self._cuda.cudaEventElapsedTime(begin, end))) * 1e3

    def wait(self) -> None:
        """Wait until all work is done."""
        self._value(self._cuda.cudaStreamSynchronize(self.stream))

    def capture(self, work: Work) -> Work:
        """Return a function that launches at once what `work` launches piece by piece."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._value(self._cuda.cudaStreamBeginCapture(self.stream, mode))
        self._capturing = True
        try:
            work()
        finally:
            self._capturing = False
            graph = self._value(self._cuda.cudaStreamEndCapture(self.stream))
        ready = self._value(self._cuda.cudaGraphInstantiate(graph, 0))

        def launch() -> None:
            self._value(self._cuda.cudaGraphLaunch(ready, self.stream))

        return launch

    def placed(self, array: Any) -> int:
        """Return the address of a copy of an array on the device.

        Args:
            array: of numpy, contiguous.
        """
        address = int(self._value(self._cuda.cudaMalloc(array.nbytes)))
        self.put(address, array)
        return address

    def put(self, address: int, array: Any) -> None:
        """Copy an array to an address of the device.

        Args:
            address: on the device.
            array: of numpy, contiguous.
        """
        to_device = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._value(self._cuda.cudaMemcpy(address, array.ctypes.data, array.nbytes, to_device))

    def fetch(self, address: int, array: Any) -> None:
        """Copy what lies at an address of the device into an array.

        Args:
            address: on the device.
            array: of numpy, contiguous.
        """
        to_host = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._value(self._cuda.cudaMemcpy(array.ctypes.data, address, array.nbytes, to_host))

    def free(self, address: int) -> None:
        """Give memory of the device back.

        Args:
            address: on the device.
        """
        self._cuda.cudaFree(address)

    def _value(self, answer: tuple[Any, ...]) -> Any:
        error, *values = answer
        if error == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise MemoryError("the card's memory is full")
        if error != self._cuda.cudaError_t.cudaSuccess:
            text = self._cuda.cudaGetErrorString(error)[1].decode()
            raise DeviceLostError(f"CUDA: {text}", hint="see 'deepmad-hw doctor'")
        return values[0] if values else None


class LoadedEngine:
    """An engine with its inputs and outputs on the device.

    Args:
        plan: the engine's bytes, built here.
        flavour: the library that built it.
        gpu: where it runs.
        shape: of the image batch.
        where: its file, for messages.

    Raises:
        InputFileError: the library does not take it.
    """

    def __init__(self, plan: bytes, *, flavour: str, gpu: CudaGpu, shape: Sequence[int], where: str) -> None:
        trt, log = tensorrt.library(flavour)
        log.rows.clear()
        self._gpu, self._where = gpu, where
        self.engine: Any = trt.Runtime(log).deserialize_cuda_engine(plan)
        self.context: Any = None if self.engine is None else self.engine.create_execution_context()
        if self.context is None:
            raise InputFileError(f"the engine cannot be loaded: {tensorrt.last_errors(log)}", where=where)
        self._buffers = dict(self._placed(trt, tuple(shape)))
        for name, (address, _) in self._buffers.items():
            self.context.set_tensor_address(name, address)
            weakref.finalize(self, gpu.free, address)

    def _placed(self, trt: Any, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, Any]]]:
        import numpy as np

        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        inputs = [name for name in names if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._inputs = inputs
        if len(inputs) != 1 or not self.context.set_input_shape(inputs[0], shape):
            raise InputFileError(f"the engine does not take one image batch of shape {shape}", where=self._where)
        random = np.random.default_rng(0)
        placed = []
        for name in names:
            dtype, sizes = trt.nptype(self.engine.get_tensor_dtype(name)), tuple(self.context.get_tensor_shape(name))
            array = (random.standard_normal(sizes) if name in inputs else np.zeros(sizes)).astype(dtype)
            placed.append((name, (self._gpu.placed(array), array)))
        return placed

    def launch(self) -> None:
        """Launch one inference."""
        if not self.context.execute_async_v3(int(self._gpu.stream)):
            raise DeviceLostError("the engine did not start", where=self._where)

    def infer(self, batch: Any) -> list[Any]:
        """Return every output for one image batch.

        Args:
            batch: of the shape that the engine was loaded for.
        """
        (image,) = self._inputs
        address, array = self._buffers[image]
        array[...] = batch
        self._gpu.put(address, array)
        self.launch()
        self._gpu.wait()
        outputs = []
        for name, (address, array) in self._buffers.items():
            if name != image:
                self._gpu.fetch(address, array)
                outputs.append(array.astype("float32"))
        return outputs

    def description(self, trt: Any) -> str:
        """Return what the inspector tells of the engine's layers, as JSON.

        Args:
            trt: the library.
        """
        return str(self.engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


class _EngineLayers:
    """An engine timed by the library's own profiler."""

    def __init__(self, loaded: LoadedEngine, *, flavour: str, gpu: CudaGpu, nodes: tuple[Node, ...]) -> None:
        trt, _ = tensorrt.library(flavour)
        self._loaded, self._gpu, self._nodes = loaded, gpu, nodes
        self._rows: list[tuple[str, float]] = []
        self._runs: list[list[tuple[str, float]]] = []
        self._description = loaded.description(trt)
        rows = self._rows

        class Reporter(trt.IProfiler):  # type: ignore[misc, name-defined]
            """Keeps the times of one run."""

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                """Keep a layer's time."""
                rows.append((layer_name, ms * 1e3))

        self._reporter = Reporter()  # the library does not keep it alive
        loaded.context.profiler = self._reporter
        loaded.context.enqueue_emits_profile = False

    def run(self) -> float:
        self._rows.clear()
        self._loaded.launch()
        self._gpu.wait()
        self._loaded.context.report_to_profiler()
        self._runs.append(list(self._rows))
        return sum(us for _, us in self._rows)

    def finish(self) -> NodeTimes:
        return node_times(self._runs, self._description, self._nodes)


def node_times(runs: Sequence[Sequence[tuple[str, float]]], description: str, nodes: tuple[Node, ...]) -> NodeTimes:
    """Return the profiler's times joined to the nodes of a probe.

    Args:
        runs: per run, the name and microseconds of every engine layer.
        description: the inspector's JSON.
        nodes: the probe's layers.
    """
    position = {node.name: index for index, node in enumerate(nodes)}
    operations = _operations(description)
    us: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(runs))
    counts: dict[str, int] = defaultdict(int)
    for current, run in enumerate(runs):
        for name, layer_us in run:
            found = _owners(operations.get(name) or _WORD.findall(name), position)
            whole = sum(_values(nodes[index].spec) for index in found)
            for index in found:
                us[nodes[index].name][current] += layer_us * _values(nodes[index].spec) / whole
                counts[nodes[index].name] += current == 0
    return NodeTimes(us={name: tuple(values) for name, values in us.items()}, operations=dict(counts))


def _operations(description: str) -> dict[str, list[str]]:
    """Return the ONNX operations of every engine layer that tells them, by its name."""
    layers = json.loads(description).get("Layers", [])
    told = (layer for layer in layers if isinstance(layer, dict))  # without details a layer is its name alone
    return {str(layer.get("Name")): _ONNX_LAYER.findall(str(layer.get("Metadata", ""))) for layer in told}


def _owners(names: Sequence[str], position: Mapping[str, int]) -> list[int]:
    return sorted({index for index in (owner(name, position) for name in names) if index is not None})


def _values(spec: LayerSpec) -> int:
    read = spec.in_channels * spec.height * spec.width
    written = spec.out_channels * spec.out_height * spec.out_width
    weights = spec.out_channels * spec.group_width * spec.kernel**2 if spec.op in ("conv", "linear") else 0
    return read + written * (1 + spec.residual) + weights


class _TensorRtBackend:
    def __init__(self) -> None:
        self._gpu: CudaGpu | None = None

    def environment(self, plan: Plan, settings: Settings) -> Environment:
        flavour = tensorrt.require()
        card = _card(flavour)
        trt, _ = tensorrt.library(flavour)
        return Environment(
            device=card.name,
            machine=platform.machine(),
            cores=environment.usable_cores(),
            features=(),
            governor=environment.governor(),
            runtime="tensorrt",
            runtime_version=f"{tensorrt.TITLES[flavour]} {trt.__version__} driver {card.driver}",
            precision=plan.precision,
            batch=plan.batch,
            threads=settings.threads,
        )

    def load(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> Session:
        flavour = tensorrt.require()
        data = engine_of(plan, probe, flavour=flavour, card=_card(flavour))
        self._gpu = self._gpu or CudaGpu()
        loaded = LoadedEngine(
            data, flavour=flavour, gpu=self._gpu, shape=probe.input_shape, where=str(plan.path(probe))
        )
        if profiled:
            return _EngineLayers(loaded, flavour=flavour, gpu=self._gpu, nodes=probe.nodes)
        return WholeSession(self._gpu, loaded.launch)


def infer(file: Path, images: Any) -> tuple[Manifest, list[Any]]:
    """Return what an engine is, and every one of its outputs for all images, as float32.

    Args:
        file: an engine that was built here.
        images: (images, channels, height, width), of any number.

    Raises:
        InputFileError: the engine was not built here, for this card and library, or does not take the images.
        MissingExtraError: its library or a GPU is missing.
    """
    manifest, plan = read_engine(file)
    _require_made_for(manifest, _card(tensorrt.require(manifest.flavour)), flavour=manifest.flavour, where=str(file))
    fixed = manifest.tensors[0].shape[0]
    size = fixed if fixed > 0 else manifest.profiles[0].usual[0]
    loaded = LoadedEngine(
        plan, flavour=manifest.flavour, gpu=CudaGpu(), shape=(size, *images.shape[1:]), where=str(file)
    )
    return manifest, in_batches(loaded.infer, images, size=size)


def in_batches(run: Callable[[Any], Sequence[Any]], images: Any, *, size: int) -> list[Any]:
    """Return what batches of one size return, for any number of images: the last batch is filled up.

    Args:
        run: from a batch to its outputs.
        images: (images, channels, height, width), at least one.
        size: images at once.
    """
    import numpy as np

    parts = []
    for begin in range(0, len(images), size):
        batch = images[begin : begin + size]
        filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        parts.append([output[: len(batch)] for output in run(filled)])
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _card(flavour: str) -> gpu_sensors.Card:
    if not gpu_sensors.installed() or importlib.util.find_spec("cuda") is None:
        raise MissingExtraError(
            "the packages that run engines and read the card are not installed",
            hint=f"install them with: {gpu_sensors.INSTALL_LINE}",
        )
    card = gpu_sensors.card()
    if card is None:
        raise MissingExtraError(f"{tensorrt.TITLES[flavour]} finds no NVIDIA GPU", hint="see 'deepmad-hw doctor'")
    return card


def _require_made_for(manifest: Manifest, card: gpu_sensors.Card, *, flavour: str, where: str) -> None:
    """Refuse an engine of another library or card: what takes it apart expects its own."""
    trt, _ = tensorrt.library(flavour)
    pairs = [("", tensorrt.TITLES[manifest.flavour], tensorrt.TITLES[flavour])]
    pairs += [("version ", manifest.version, str(trt.__version__))]
    if manifest.gpu != "none":  # RTX builds without a card, for any
        pairs += [("", manifest.gpu, card.name), ("capability ", manifest.compute_capability, card.compute_capability)]
    for what, made_for, here in pairs:
        if made_for != here:
            raise InputFileError(
                f"the engine was built for {what}{made_for}, here is {what}{here}", where=where, hint=REBUILD
            )


def engine_of(plan: Plan, probe: Probe, *, flavour: str, card: gpu_sensors.Card) -> bytes:
    """Return a probe's engine: as it lies there, as it was built before for this card, or built now.

    Args:
        plan: holds the probe's file; engines are kept in its folder.
        probe: an ONNX file, or an engine that was built here.
        flavour: the library.
        card: what it is for.

    Raises:
        InputFileError: the engine that lies there was not built here, for this card and library.
    """
    file = plan.path(probe)
    if file.suffix == ENGINE_SUFFIX:
        manifest, data = read_engine(file)
        _require_made_for(manifest, card, flavour=flavour, where=str(file))
        return data
    kept = plan.folder / "engines" / f"{probe.name}{ENGINE_SUFFIX}"
    trt, _ = tensorrt.library(flavour)
    wanted = (flavour, str(trt.__version__), card.name, card.driver, _sha256(file))
    with contextlib.suppress(InputFileError):  # none yet, or half of one
        manifest, data = read_engine(kept)
        made_for = (manifest.flavour, manifest.version, manifest.gpu, manifest.driver, manifest.onnx_sha256)
        if made_for == wanted:
            return data
    built = tensorrt.build(file, flavour=flavour, settings=EngineSettings(detailed=True))
    kept.parent.mkdir(exist_ok=True)
    for path, content in ((manifest_path(kept), sealed(built.manifest)), (kept, built.plan)):
        temporary = path.with_name(f"{path.name}.part")
        temporary.write_bytes(content)
        temporary.replace(path)
    return built.plan


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputFileError(f"cannot read the network ({error.strerror})", where=str(file)) from error


BACKEND = _TensorRtBackend()
