"""What a layer takes while a network's weights stay in the cache, and what it takes once they do not.

Run from the project's folder, with nothing else running:

    python benchmarks/cached_weights.py --out benchmarks/results/cached-weights.json

Chains of the same 3x3 convolution, each layer with weights of its own, and chains whose layers share one weight, all
taking turns. Only the first grow in what they have to keep.
"""

import argparse
import datetime
import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import origin
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIDE = 128, 4
OWN, SHARED = (2, 4, 8, 12, 16, 20, 24, 32, 64), (8, 16, 32, 64)
TURNS, TURN_MS = 12, 40.0
NOMINAL_LAYER_MS = 0.08


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    chains = {(layers, False): session(layers, shared=False) for layers in OWN}
    chains |= {(layers, True): session(layers, shared=True) for layers in SHARED}
    times_us = {key: [] for key in chains}
    for _ in range(TURNS):
        for key, chain in chains.items():
            times_us[key].append(median_us(chain, runs=max(3, round(TURN_MS / (NOMINAL_LAYER_MS * key[0])))))
    made = {
        "command": origin.command(),
        "date": datetime.date.today().isoformat(),
        "machine": origin.machine(),
        "chains": [
            {
                "layers": layers,
                "shared": shared,
                "weights_mib": round((1 if shared else layers) * CHANNELS**2 * 9 * 4 / 2**20, 2),
                "median_us": statistics.median(found),
                "us_per_layer": round(statistics.median(found) / layers, 1),
            }
            for (layers, shared), found in times_us.items()
        ],
    }
    if out:
        out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for chain in made["chains"]:
        print(chain)


def session(layers, *, shared):
    """Return a session of a chain of convolutions.

    Args:
        layers: how many.
        shared: whether all have one weight.
    """
    random = np.random.default_rng(0)
    count = 1 if shared else layers
    weights = [random.normal(0, 0.02, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32) for _ in range(count)]
    nodes, source = [], "image"
    for layer in range(layers):
        weight = f"weight{0 if shared else layer}"
        nodes.append(helper.make_node("Conv", [source, weight], [f"conv{layer}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"conv{layer}"], [f"relu{layer}"]))
        source = f"relu{layer}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, CHANNELS, SIDE, SIDE))],
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, f"weight{index}") for index, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def median_us(chain, *, runs):
    """Return the median time of some runs in microseconds."""
    feed = {"image": np.full((1, CHANNELS, SIDE, SIDE), 0.5, np.float32)}
    found = []
    for _ in range(runs):
        begin = time.perf_counter_ns()
        chain.run(None, feed)
        found.append((time.perf_counter_ns() - begin) / 1e3)
    return statistics.median(found)


if __name__ == "__main__":
    main()
