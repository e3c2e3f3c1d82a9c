"""Packs networks to be timed: ONNX files that share one file of weights, and the JSON that names every node. Layer 3.

The device side reads this in `profilers.plan`; the two are held together by a contract test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from deepmad_hw.costs import FLOAT32_BYTES
from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters.onnx_graph import save, to_onnx
from deepmad_hw.exporters.weights import Shape
from deepmad_hw.files import write_atomically
from deepmad_hw.layer import IMAGE, Graph, LayerSpec, Node

SCHEMA = 1
PLAN_FILE = "plan.json"
WEIGHTS_FILE = "weights.bin"
CANARY = "canary"
# Small enough that no depth overflows; the biases keep activations from fading into denormal numbers.
WEIGHT_DEVIATION = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedProbe:
    """A network to be packed, by its graph or by a file that exists already.

    Args:
        name: unique in the plan.
        graph: the network, written with random weights; None where `file` is given.
        by_layer: whether its nodes are timed, or only the whole.
        file: an ONNX file, or None.
        input_shape: channels, height, width of the file's image.
    """

    name: str
    graph: Graph | None = None
    by_layer: bool = False
    file: Path | None = None
    input_shape: tuple[int, int, int] = (0, 0, 0)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Return the layers of the graph, none for a file."""
        return self.graph.nodes if self.graph is not None else ()


def canary() -> Graph:
    """Return the fixed network that is timed between all others: convolutions bound by compute and by memory."""
    shapes = (
        ("dense3", 32, 32, 56, 3, 1, 1),
        ("reduce", 32, 128, 56, 1, 1, 1),
        ("depthwise", 128, 128, 56, 3, 2, 128),
        ("dense5", 128, 48, 28, 5, 1, 1),
        ("expand", 48, 256, 28, 1, 1, 1),
        ("stride", 256, 64, 28, 3, 2, 1),
        ("wide", 64, 512, 14, 1, 1, 1),
        ("square", 512, 512, 14, 1, 2, 1),
    )
    nodes: list[Node] = []
    source = IMAGE
    for name, in_channels, out_channels, side, kernel, stride, groups in shapes:
        spec = LayerSpec(
            op="conv",
            in_channels=in_channels,
            out_channels=out_channels,
            height=side,
            width=side,
            kernel=kernel,
            stride=stride,
            groups=groups,
            activation="relu",
        )
        nodes.append(Node(name=name, spec=spec, inputs=(source,), norm=True))
        source = name
    return Graph(name=CANARY, in_channels=32, height=56, width=56, nodes=tuple(nodes), outputs=(source,))


def write_plan(folder: Path, probes: list[PackedProbe], *, batch: int = 1) -> None:
    """Write a plan into a folder; the JSON comes last, so a folder with one is complete.

    Args:
        folder: made if it does not exist.
        probes: the networks, in the order of measuring.
        batch: images at once.

    Raises:
        ConfigError: two networks of one name, or one called like the canary.
        StorageError: the disk does not take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packed = [*probes, PackedProbe(name=CANARY, graph=canary())]
    names = [probe.name for probe in packed]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("two networks of one name", where=name, hint="rename one of them")
    largest = max(_values(node.spec) for probe in packed for node in probe.nodes)
    random = np.random.default_rng(0)
    blob = random.normal(0.0, WEIGHT_DEVIATION, largest).astype(np.float32)
    write_atomically(folder / WEIGHTS_FILE, blob.tobytes())
    entries = [_pack(folder, probe, batch) for probe in packed]
    plan = {"schema": SCHEMA, "batch": batch, "precision": "fp32", "canary": entries[-1], "probes": entries[:-1]}
    write_atomically(folder / PLAN_FILE, (json.dumps(plan, indent=1) + "\n").encode())


def _pack(folder: Path, probe: PackedProbe, batch: int) -> dict[str, Any]:
    file, shape = probe.file, probe.input_shape
    weight_bytes = file.stat().st_size if file is not None else FLOAT32_BYTES * sum(map(_values, _specs(probe)))
    if probe.graph is not None:
        file, shape = Path(f"{probe.name}.onnx"), (probe.graph.in_channels, probe.graph.height, probe.graph.width)
        save(to_onnx(probe.graph, _shared_tensor, batch=batch), folder / file)
    return {
        "name": probe.name,
        "file": str(file),
        "kind": "layers" if probe.by_layer else "network",
        "input_shape": [batch, *shape],
        "weight_bytes": weight_bytes,
        "nodes": [{"name": node.name, "spec": asdict(node.spec), "inputs": list(node.inputs)} for node in probe.nodes],
    }


def _specs(probe: PackedProbe) -> Iterator[LayerSpec]:
    return (node.spec for node in probe.nodes)


def _values(spec: LayerSpec) -> int:
    if spec.op not in ("conv", "linear"):
        return 0
    return spec.out_channels * spec.group_width * spec.kernel**2


def _shared_tensor(name: str, shape: Shape) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    length = FLOAT32_BYTES * int(np.prod(shape))
    for key, value in (("location", WEIGHTS_FILE), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor
