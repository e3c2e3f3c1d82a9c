"""Times of OpenVINO's profile find the layer they belong to."""

import pytest

from deepmad_hw.network.layer import IMAGE, LayerSpec, Node
from profilers import backend as backends
from profilers.backend import Settings
from profilers.openvino_cpu import LAZY_RUNS, node_times, without_lazy_runs


def _conv(name, source):
    return Node(
        name=name, spec=LayerSpec(op="conv", in_channels=8, out_channels=8, height=8, width=8), inputs=(source,)
    )


NODES = (_conv("stem", IMAGE), _conv("s.conv1", "stem"), _conv("s.conv2", "s.conv1"))
# Names and order as OpenVINO 2026.4 gave them; the times are made up.
OPERATIONS = [
    ("image_QuantizeLinear", 3.0),
    ("image_QuantizeLinear_abcd_acdb_stem/WithoutBiases", 5.0),
    ("stem/WithoutBiases", 40.0),
    ("stem_QuantizeLinear", 7.0),
    ("stem.act", 0.0),  # fused
    ("s.conv1/WithoutBiases", 30.0),
    ("s.conv1_DequantizeLinear", 2.0),
    ("s.conv1_acdb_abcd_s.conv2", 4.0),
    ("s.conv2/WithoutBiases", 20.0),
    ("result", 1.0),
]


def test_every_operation_finds_its_node_and_every_run_gets_the_average():
    times = node_times(OPERATIONS, NODES, runs=3)
    assert times.us == {"stem": (55.0,) * 3, "s.conv1": (32.0,) * 3, "s.conv2": (25.0,) * 3}
    assert times.operations == {"stem": 4, "s.conv1": 2, "s.conv2": 3}


def test_convolutions_that_were_merged_share_their_time_by_output_channels():
    wide = Node(
        name="s.projection",
        spec=LayerSpec(op="conv", in_channels=8, out_channels=24, height=8, width=8),
        inputs=("stem",),
    )
    times = node_times([("stem/WithoutBiases", 10.0), ("s.conv1/WithoutBiases", 40.0)], (*NODES[:2], wide), runs=1)
    assert times.us == {"stem": (10.0,), "s.conv1": (10.0,), "s.projection": (30.0,)}
    assert times.operations == {"stem": 1, "s.conv1": 1, "s.projection": 1}


def test_the_first_runs_are_taken_out_of_the_averages():
    lazy = [("a", 500.0), ("b", 10.0)]  # 1000 and 20 in two runs
    averages = [("a", 108.0), ("b", 10.0)]  # 1080 and 100 in ten
    assert LAZY_RUNS == 2
    assert without_lazy_runs(averages, lazy, runs=10) == [("a", 10.0), ("b", 10.0)]


def test_rounding_makes_no_time_negative():
    assert without_lazy_runs([("a", 1.0)], [("a", 9.0)], runs=10) == [("a", 0.0)]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("family", ["bottleneck", "basic", "mbconv", "mbconv_se"])
def test_every_layer_of_a_real_network_is_timed_and_they_sum_to_it(graph, tmp_path, family, precision):
    pytest.importorskip("openvino")
    from deepmad_hw.exporters.probes import PackedProbe, write_plan
    from profilers.plan import read_plan

    probes = [PackedProbe(name="net", graph=graph(family, "net", side=192), by_layer=True)]
    write_plan(tmp_path, probes, precision=precision)
    plan = read_plan(tmp_path)
    session = backends.get("openvino").load(plan, plan.probes[0], Settings(), profiled=True)
    total_us = [session.run() for _ in range(20)][LAZY_RUNS:]
    times = session.finish()
    assert [node.name for node in plan.probes[0].nodes if node.name not in times.us] == []
    layers_us = sum(values[0] for values in times.us.values())
    assert sum(total_us) / len(total_us) / 2 < layers_us <= sum(total_us) / len(total_us)
