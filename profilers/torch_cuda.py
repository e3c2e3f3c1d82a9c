"""Times a plan's networks with PyTorch on an NVIDIA GPU, by CUDA graphs or piece by piece. Layer 3, device side.

Float32 is IEEE's: TF32 is off. Pixels lie together (channels last), and cuDNN tries its kernels once per shape.
"""

from __future__ import annotations

import functools
import importlib.util
import platform
from dataclasses import dataclass
from typing import Any

from deepmad_hw.errors import MissingExtraError
from deepmad_hw.latency.measurement import Environment
from profilers import environment, gpu_sensors
from profilers.backend import Session, Settings
from profilers.cuda import Gpu, LayersSession, WholeSession, Work
from profilers.plan import Plan, Probe
from profilers.torch_network import INSTALL_LINE, TorchNetwork


class _TorchGpu:
    """PyTorch's calls of the driver: nothing here runs without a card."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        self._stream: Any = self._torch.cuda.Stream()
        torch.cuda.set_stream(self._stream)

    def event(self) -> Any:
        return self._torch.cuda.Event(enable_timing=True, external=True)  # external: stamped inside graphs too

    def record(self, event: Any) -> None:
        event.record(self._stream)

    def elapsed_us(self, begin: Any, end: Any) -> float:
        return float(begin.elapsed_time(end)) * 1e3

    def wait(self) -> None:
        self._stream.synchronize()

    def capture(self, work: Work) -> Work:
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream):
            work()
        launch: Work = graph.replay
        return launch


@functools.cache
def _gpu() -> Gpu:
    return _TorchGpu()


def session(plan: Plan, probe: Probe, *, gpu: Gpu, device: str, graph: bool, profiled: bool) -> Session:
    """Return a probe ready to be timed.

    Args:
        plan: holds the weights.
        probe: what to load.
        gpu: times it.
        device: where PyTorch puts it.
        graph: whether a whole run is launched at once; layers always are.
        profiled: whether it is timed layer by layer.
    """
    import torch

    with torch.inference_mode():
        network = TorchNetwork(plan, probe, device=device, precision=plan.precision, channels_last=True)
    inference = torch.inference_mode()
    if profiled:
        return LayersSession(gpu, [(name, inference(layer)) for name, layer in network.layers])
    return WholeSession(gpu, inference(network.__call__), graph=graph)


@dataclass(frozen=True, slots=True)
class _TorchCudaBackend:
    name: str
    graph: bool

    def environment(self, plan: Plan, settings: Settings) -> Environment:
        if importlib.util.find_spec("torch") is None:
            raise MissingExtraError("PyTorch is not installed", hint=f"install it with: {INSTALL_LINE}")
        gpu_sensors.count_cards_as_the_bus_does()
        import torch

        if not torch.cuda.is_available():
            raise MissingExtraError(
                f"PyTorch {torch.__version__} finds no NVIDIA GPU", hint="see 'deepmad-hw doctor', or --runtime torch"
            )
        card = gpu_sensors.card()
        driver = card.driver if card else "unknown"
        cudnn: Any = torch.backends.cudnn
        return Environment(
            device=torch.cuda.get_device_name(),
            machine=platform.machine(),
            cores=environment.usable_cores(),
            features=(),
            governor=environment.governor(),
            runtime=self.name,
            runtime_version=f"{torch.__version__} cudnn {cudnn.version()} driver {driver}",
            precision=plan.precision,
            batch=plan.batch,
            threads=settings.threads,
        )

    def load(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> Session:
        return session(plan, probe, gpu=_gpu(), device="cuda", graph=self.graph, profiled=profiled)


BACKEND = _TorchCudaBackend("torch_cuda", graph=True)
EAGER = _TorchCudaBackend("torch_cuda_eager", graph=False)
