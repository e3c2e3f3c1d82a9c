"""Times ONNX files with OpenVINO on the CPU, whole and node by node. Layer 3, device side.

Facts this rests on (OpenVINO 2026.4, x86): the profile names an operation after its ONNX node plus ``/WithoutBiases``
and the like; what was fused into another operation has no time; of two convolutions on one input one may be merged
into the other; changes of layout have names of their own and go before what they are for. Times are whole
microseconds, averaged over all runs since loading.
"""

from __future__ import annotations

import importlib.util
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from deepmad_hw.errors import MissingExtraError
from deepmad_hw.latency.measurement import Environment
from deepmad_hw.network.layer import Node
from profilers import environment
from profilers.backend import NodeTimes, Settings
from profilers.joining import owner
from profilers.plan import Plan, Probe

INSTALL_LINE = 'pip install "deepmad-hw[openvino]"'
LAZY_RUNS = 2  # the first runs prepare weights and caches; they are taken out of the averages
Operations = list[tuple[str, float]]  # name and microseconds, in order; 0 of what is fused into another one


class _OpenVinoSession:
    def __init__(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> None:
        import openvino

        compiled = openvino.Core().compile_model(
            plan.path(probe),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": settings.threads,
                "INFERENCE_PRECISION_HINT": "f32",  # or capable processors would take bfloat16
                "ENABLE_CPU_PINNING": False,  # ONNX Runtime does not pin either
                "CPU_DENORMALS_OPTIMIZATION": True,
                "PERF_COUNT": profiled,
            },
        )
        self._request: Any = compiled.create_infer_request()
        self._feed = plan.feed(probe, image=next((each.any_name for each in compiled.inputs), ""))
        for name, values in self._feed.items():
            self._request.set_tensor(name, openvino.Tensor(values, shared_memory=True))
        self._probe, self._profiled = probe, profiled
        self._runs = 0
        self._lazy: Operations = []

    def run(self) -> float:
        begin = time.perf_counter_ns()
        self._request.infer(share_outputs=True)
        us = (time.perf_counter_ns() - begin) / 1e3
        self._runs += 1
        if self._profiled and self._runs == LAZY_RUNS:
            self._lazy = self._averages()
        return us

    def finish(self) -> NodeTimes:
        if not self._profiled:
            return NodeTimes()
        operations = self._averages()
        if self._runs > LAZY_RUNS:
            operations = without_lazy_runs(operations, self._lazy, runs=self._runs)
        return node_times(operations, self._probe.nodes, runs=self._runs)

    def _averages(self) -> Operations:
        return [(info.node_name, info.real_time.total_seconds() * 1e6) for info in self._request.profiling_info]


def without_lazy_runs(averages: Operations, lazy: Operations, *, runs: int) -> Operations:
    """Return the averages over all runs but the first `LAZY_RUNS`.

    Args:
        averages: over all runs.
        lazy: over the first ones.
        runs: how many there were.
    """
    pairs = zip(averages, lazy, strict=True)
    return [(name, max(0.0, (us * runs - early * LAZY_RUNS) / (runs - LAZY_RUNS))) for (name, us), (_, early) in pairs]


def node_times(operations: Sequence[tuple[str, float]], nodes: tuple[Node, ...], *, runs: int) -> NodeTimes:
    """Return a profile's times joined to the nodes of a probe; every run gets the average.

    An operation with a name of its own belongs to the one after it, behind all others to the last.

    Args:
        operations: name and average microseconds, in order.
        nodes: the probe's layers in execution order.
        runs: how many runs the averages are over.
    """
    position = {node.name: index for index, node in enumerate(nodes)}
    us: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    following = len(nodes) - 1
    for name, operation_us in reversed(operations):
        found = owner(name, position)
        following = following if found is None else found
        us[nodes[following].name] += operation_us
        counts[nodes[following].name] += operation_us > 0
    for node in nodes:
        if node.name not in us:
            _share(node, nodes, us)
    return NodeTimes(
        us={name: (value,) * runs for name, value in us.items()},
        operations={name: max(counts[name], 1) for name in us},
    )


def _share(node: Node, nodes: tuple[Node, ...], us: dict[str, float]) -> None:
    """Give a node its part of the convolution on the same input that it was merged into, by output channels."""
    twins = (other for other in nodes if other.inputs == node.inputs and other.spec.op == node.spec.op)
    twin = next((other for other in twins if us.get(other.name)), None)
    if twin is not None:
        us[node.name] = us[twin.name] * node.spec.out_channels / (node.spec.out_channels + twin.spec.out_channels)
        us[twin.name] -= us[node.name]


class _OpenVinoBackend:
    def environment(self, plan: Plan, settings: Settings) -> Environment:
        if importlib.util.find_spec("openvino") is None:
            raise MissingExtraError("OpenVINO is not installed", hint=f"install it with: {INSTALL_LINE}")
        import openvino

        return environment.of_processor(
            runtime="openvino",
            runtime_version=openvino.__version__,
            precision=plan.precision,
            batch=plan.batch,
            threads=settings.threads,
        )

    def load(self, plan: Plan, probe: Probe, settings: Settings, *, profiled: bool) -> _OpenVinoSession:
        return _OpenVinoSession(plan, probe, settings, profiled=profiled)


BACKEND = _OpenVinoBackend()
