"""The same question has the same answer, byte for byte: in any process, hash seed, and number of threads."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from deepmad_hw import cli
from deepmad_hw.formats.serde_table import write_table
from deepmad_hw.latency.measurement import Environment, LayerMeasurement, NetworkMeasurement
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network.expand import expand
from deepmad_hw.problem.sampling import random_architecture
from deepmad_hw.workflows.runfile.config import load_run
from profilers.replay import layer_us

RUN_FILE = """\
space:
  family: mbconv_se
  resolution: 64
  classes: 10
  stem: {out: [8, 16, 24]}
  stages:
    - {stride: 2, out: [16, 24, 32, 48], bottleneck: [32, 64, 96], depth: [1, 3]}
    - {stride: 2, out: [32, 48, 64, 96], bottleneck: [96, 128, 192], depth: [1, 4]}
    - {stride: 2, out: [64, 96, 128], bottleneck: [192, 256, 384], depth: [1, 4]}
  rules: {bottleneck_ratio: [0.5, 8]}
limits: {macs: 20M, rho: 0.5}
"""
COMMAND = "import sys; from deepmad_hw.cli import main; sys.exit(main())"
THREADS, HASH_SEEDS = (1, 2), (0, 4711)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Return a folder with a run file and a table, and what this process makes of them."""
    folder = tmp_path_factory.mktemp("repeat")
    (folder / "run.yaml").write_text(RUN_FILE)
    write_table(folder / "board.csv", made_up_table(load_run(folder / "run.yaml").problem.space))
    assert cli.main(words(folder, "reference", threads=1)) == cli.EXIT_OK
    return folder, stored(folder / "reference")


def made_up_table(space):
    """Return noisy times of the layers of some networks: others are predicted from these, and from whole networks."""
    chance = np.random.default_rng(0)

    def times_us(nodes):
        time_us = sum(layer_us(node.spec, gmacs=20.0) for node in nodes)
        return tuple((time_us * chance.uniform(0.95, 1.05, 5)).tolist())

    shown = {node.spec: node for _ in range(60) for node in expand(random_architecture(space, chance))}
    networks = [random_architecture(space, chance) for _ in range(12)]
    environment = Environment(
        device="board", machine="none", cores=1, features=(), governor="unknown", runtime="replay", runtime_version="1"
    )
    return LatencyTable(
        name="board",
        environment=environment,
        rows=tuple(LayerMeasurement(spec=spec, samples_us=times_us([node])) for spec, node in shown.items()),
        calibration=tuple(
            CalibrationNetwork(
                architecture=network,
                measurement=NetworkMeasurement(name=f"network{i:03}", samples_us=times_us(expand(network))),
            )
            for i, network in enumerate(networks)
        ),
    )


def words(folder, out, *, threads):
    """Return the words of the command."""
    limit = ("--latency", f"{folder / 'board.csv'}=1ms", "--gap", "0.01%", "--time-limit", "9999s")
    return ["design", str(folder / "run.yaml"), *limit, "--threads", str(threads), "--out", str(folder / out)]


def stored(folder):
    """Return the bytes of a design's files, without the timings."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    design = json.loads(files["design.json"])
    assert design.pop("timings")
    return {**files, "design.json": json.dumps(design).encode()}


@pytest.mark.promise("T11", 40)
def test_fresh_processes_write_the_same_bytes(tries, asked):
    folder, reference = asked
    assert sorted(reference) == ["certificate.json", "design.json", "problem.json"]
    for number in tries:
        threads, seed = THREADS[number % 2], HASH_SEEDS[number // 2 % 2]
        command = [sys.executable, "-c", COMMAND, *words(folder, f"out{number}", threads=threads)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == cli.EXIT_OK, done.stderr
        assert stored(folder / f"out{number}") == reference, (threads, seed)
