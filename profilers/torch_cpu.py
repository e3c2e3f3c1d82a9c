"""Times a plan's networks with PyTorch on the CPU, as eager PyTorch runs them. Layer 3, device side."""

from __future__ import annotations

import importlib.util
import itertools
import time

from deepmad_hw.errors import MissingExtraError
from deepmad_hw.latency.measurement import Environment
from profilers import environment
from profilers.backend import NodeTimes, Settings
from profilers.plan import Plan, Probe
from profilers.torch_network import INSTALL_LINE, TorchNetwork


class _TorchSession:
    def __init__(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> None:
        import torch

        torch.set_num_threads(settings.threads)
        torch.set_flush_denormal(True)
        self._inference = torch.inference_mode
        self._profiled = profiled
        self._runs: list[list[float]] = []
        with self._inference():
            self._network = TorchNetwork(plan, probe, device="cpu", precision=plan.precision, channels_last=False)

    def run(self) -> float:
        with self._inference():
            if self._profiled:
                return self._run_by_layer()
            begin = time.perf_counter_ns()
            self._network()
            return (time.perf_counter_ns() - begin) / 1e3

    def _run_by_layer(self) -> float:
        marks = [time.perf_counter_ns()]
        for name, layer in self._network.layers:
            layer()
            self._network.forget_after(name)
            marks.append(time.perf_counter_ns())
        self._runs.append([(end - begin) / 1e3 for begin, end in itertools.pairwise(marks)])
        return (marks[-1] - marks[0]) / 1e3

    def finish(self) -> NodeTimes:
        if not self._profiled:
            return NodeTimes()
        names = [name for name, _ in self._network.layers]
        us = {name: tuple(values) for name, values in zip(names, zip(*self._runs, strict=True), strict=True)}
        return NodeTimes(us=us, operations=dict.fromkeys(names, 1))


class _TorchBackend:
    def environment(self, plan: Plan, settings: Settings) -> Environment:
        if importlib.util.find_spec("torch") is None:
            raise MissingExtraError("PyTorch is not installed", hint=f"install it with: {INSTALL_LINE}")
        import torch

        return environment.of_processor(
            runtime="torch",
            runtime_version=torch.__version__,
            precision=plan.precision,
            batch=plan.batch,
            threads=settings.threads,
        )

    def load(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> _TorchSession:
        return _TorchSession(plan, probe, settings, profiled=profiled)


BACKEND = _TorchBackend()
