"""Reads a packed plan: probe networks as ONNX files plus one JSON that names every node. Layer 3, device side."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmad_hw.errors import InputFileError
from deepmad_hw.files.planfile import OLDEST_SCHEMA, PLAN_FILE, SCHEMA
from deepmad_hw.network.layer import LayerSpec, Node, OperationNode, OperationSpec

LAYERS = "layers"  # timed node by node and as a whole
NETWORK = "network"  # timed as a whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One network to time.

    Args:
        name: unique in the plan.
        file: ONNX file, relative to the plan's folder.
        kind: `LAYERS` or `NETWORK`.
        input_shape: batch, channels, height, width of its image, zeros where `feed` gives all inputs.
        weight_bytes: size of its weights, to know how many networks fit into memory.
        nodes: its layers, empty for a file that says nothing of them.
        feed: file in the plan's folder with the values of all inputs (``names``, ``array0``, ``array1``, ...); empty
            for one image of random values.
        operations: what is timed in a network of operations outside the block families, which has no `nodes`.
    """

    name: str
    file: str
    kind: str
    input_shape: tuple[int, int, int, int]
    weight_bytes: int
    nodes: tuple[Node, ...] = ()
    feed: str = ""
    operations: tuple[OperationNode, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to time, in which files.

    Args:
        folder: where the files lie.
        probes: the networks in the order of measuring.
        canary: a fixed small network timed between all others, to see the machine drift.
        batch: images at once.
        precision: of the files.
        sha256: of the plan's JSON.
    """

    folder: Path
    probes: tuple[Probe, ...]
    canary: Probe
    batch: int
    precision: str
    sha256: str

    def path(self, probe: Probe) -> Path:
        """Return where a probe's file lies.

        Args:
            probe: one of the plan's.
        """
        return self.folder / probe.file

    def feed(self, probe: Probe, *, image: str) -> dict[str, Any]:
        """Return values for all inputs of a probe, as arrays by name.

        Args:
            probe: one of the plan's.
            image: name of its one input, where the plan holds no values.
        """
        import numpy as np

        if not probe.feed:
            return {image: np.random.default_rng(0).standard_normal(probe.input_shape, dtype=np.float32)}
        with np.load(self.folder / probe.feed, allow_pickle=False) as archive:
            return {str(name): archive[f"array{index}"] for index, name in enumerate(archive["names"])}


def read_plan(folder: Path) -> Plan:
    """Return the plan packed in a folder.

    Args:
        folder: holds `PLAN_FILE` and the files it names.

    Raises:
        InputFileError: the folder holds no plan of this schema.
    """
    path = folder / PLAN_FILE
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputFileError(
            f"cannot read the plan ({error.strerror})", where=str(path), hint="pack one with 'profile --pack'"
        ) from error
    try:
        data = json.loads(raw)
        if not OLDEST_SCHEMA <= data["schema"] <= SCHEMA:
            raise InputFileError(
                f"plan of schema {data['schema']}, this version reads {OLDEST_SCHEMA} to {SCHEMA}",
                where=str(path),
                hint="pack it again",
            )
        return Plan(
            folder=folder,
            probes=tuple(_probe(item) for item in data["probes"]),
            canary=_probe(data["canary"]),
            batch=data["batch"],
            precision=data["precision"],
            sha256=hashlib.sha256(raw).hexdigest(),
        )
    except InputFileError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputFileError(f"not a plan ({error!r})", where=str(path), hint="pack it again") from error


def _probe(item: dict[str, Any]) -> Probe:
    nodes = tuple(
        Node(name=node["name"], spec=LayerSpec(**node["spec"]), inputs=tuple(node["inputs"])) for node in item["nodes"]
    )
    operations = tuple(
        OperationNode(name=node["name"], spec=OperationSpec(**node["spec"])) for node in item.get("operations", ())
    )
    batch, channels, height, width = item["input_shape"]
    return Probe(
        name=item["name"],
        file=item["file"],
        kind=item["kind"],
        input_shape=(batch, channels, height, width),
        weight_bytes=item["weight_bytes"],
        nodes=nodes,
        feed=item.get("feed", ""),
        operations=operations,
    )
