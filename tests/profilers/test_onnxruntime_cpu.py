"""Times of ONNX Runtime's profile find the layer they belong to."""

import os
import subprocess
import sys

import pytest

from deepmad_hw.network.layer import IMAGE, LayerSpec, Node, OperationNode, OperationSpec
from profilers import backend as backends
from profilers.backend import Settings
from profilers.onnxruntime_cpu import node_times, operation_times


def _conv(name, source, channels=(8, 8), **fields):
    spec = LayerSpec(op="conv", in_channels=channels[0], out_channels=channels[1], height=8, width=8, **fields)
    return Node(name=name, spec=spec, inputs=(source,))


def _pool(name, source):
    spec = LayerSpec(op="global_pool", in_channels=8, out_channels=8, height=8, width=8)
    return Node(name=name, spec=spec, inputs=(source,))


# One block with squeeze-excite and SiLU, then pool and classifier.
NODES = (
    _conv("stem", IMAGE, (3, 8), kernel=3, activation="silu"),
    _conv("s.conv1", "stem", activation="relu"),
    _pool("s.se.pool", "s.conv1"),
    _conv("s.se.reduce", "s.se.pool", activation="silu"),
    _conv("s.se.expand", "s.se.reduce", activation="sigmoid"),
    Node(
        name="s.se.scale",
        spec=LayerSpec(op="scale", in_channels=8, out_channels=8, height=8, width=8),
        inputs=("s.conv1", "s.se.expand"),
    ),
    _conv("s.conv2", "s.se.scale"),
    _pool("pool", "s.conv2"),
    Node(
        name="classifier",
        spec=LayerSpec(op="linear", in_channels=8, out_channels=10, height=1, width=1),
        inputs=("pool",),
    ),
)
# Names and order as ONNX Runtime 1.32 wrote them on x86; the times are made up.
KERNELS = (
    ("stem.conv_nchwc_kernel_time", "Conv", 39),
    ("stem.act/QuickGeluFusion/_kernel_time", "QuickGelu", 11),
    ("s.conv1_nchwc_kernel_time", "Conv", 32),
    ("ReorderOutput_token_5_kernel_time", "ReorderOutput", 4),
    ("s.se.pool_kernel_time", "GlobalAveragePool", 9),
    ("ReorderInput_kernel_time", "ReorderInput", 3),
    ("s.se.reduce.conv_nchwc_kernel_time", "Conv", 7),
    ("s.se.reduce.act/QuickGeluFusion/_kernel_time", "QuickGelu", 2),
    ("s.se.expand_nchwc_kernel_time", "Conv", 15),
    ("ReorderOutput_token_6_kernel_time", "ReorderOutput", 1),
    ("s.se.scale_kernel_time", "Mul", 24),
    ("ReorderInput_token_20_kernel_time", "ReorderInput", 5),
    ("s.conv2_nchwc_kernel_time", "Conv", 111),
    ("pool_nchwc_kernel_time", "GlobalAveragePool", 6),
    ("ReorderOutput_kernel_time", "ReorderOutput", 8),
    ("classifier.flatten_kernel_time", "Flatten", 3),
    ("classifier_kernel_time", "Gemm", 10),
)
EXPECTED = {
    "stem": 50,
    "s.conv1": 32,
    "s.se.pool": 9 + 4 + 3,  # it runs in plain layout, so the changes around it are its price
    "s.se.reduce": 9,
    "s.se.expand": 15,
    "s.se.scale": 24 + 1 + 5,
    "s.conv2": 111,
    "pool": 6,
    "classifier": 8 + 3 + 10,
}


def trace(*runs, loading_us=500):
    """Return the events of a profile; each run is a list of (name, operation, us)."""
    events = [{"cat": "Session", "name": "model_loading_uri", "ts": 0, "dur": loading_us, "args": {}}]
    now = loading_us
    for kernels in runs:
        begin = now
        now += 15
        for name, operation, us in kernels:
            events.append({"cat": "Node", "name": name, "ts": now, "dur": us, "args": {"op_name": operation}})
            now += us + 2
        events.append({"cat": "Session", "name": "SequentialExecutor::Execute", "ts": begin + 5, "dur": 9, "args": {}})
        events.append({"cat": "Session", "name": "model_run", "ts": begin, "dur": now - begin, "args": {}})
        now += 40
    return events


def test_every_event_finds_its_node():
    times = node_times(trace(KERNELS), NODES)
    assert times.us == {name: (float(us),) for name, us in EXPECTED.items()}


def test_every_run_is_told_apart():
    second = [(name, operation, us * 10) for name, operation, us in KERNELS]
    times = node_times(trace(KERNELS, second, KERNELS), NODES)
    assert times.us == {name: (float(us), us * 10.0, float(us)) for name, us in EXPECTED.items()}


def test_no_time_is_lost():
    times = node_times(trace(KERNELS, KERNELS), NODES)
    assert sum(map(sum, times.us.values())) == 2 * sum(us for _, _, us in KERNELS)


def test_operations_are_counted_once_for_all_runs():
    times = node_times(trace(KERNELS, KERNELS), NODES)
    assert times.operations["stem"] == 2
    assert times.operations["s.conv1"] == 1
    assert times.operations["classifier"] == 3
    assert sum(times.operations.values()) == len(KERNELS)


def test_the_order_of_events_in_the_file_does_not_matter():
    events = trace(KERNELS, KERNELS)
    assert node_times(events[::-1], NODES) == node_times(events, NODES)


def test_a_layer_that_the_runtime_merged_away_has_no_time():
    without = [kernel for kernel in KERNELS if not kernel[0].startswith("s.conv1")]
    assert set(node_times(trace(without), NODES).us) == set(EXPECTED) - {"s.conv1"}


def test_a_layer_that_was_left_out_of_one_run_has_zero_there():
    without = [kernel for kernel in KERNELS if not kernel[0].startswith("s.conv2")]
    assert node_times(trace(KERNELS, without), NODES).us["s.conv2"] == (111.0, 0.0)


def test_an_event_with_a_name_of_its_own_belongs_to_what_ran_before_it():
    more = [*KERNELS[:2], ("Mul_76_kernel_time", "Mul", 1000), *KERNELS[2:]]
    assert node_times(trace(more), NODES).us == {
        name: (us + 1000.0 * (name == "stem"),) for name, us in EXPECTED.items()
    }


# The same block in int8, with HardSwish in place of SiLU behind the stem; names as ONNX Runtime 1.32 wrote them.
INT8_KERNELS = (
    ("image_QuantizeLinear_kernel_time", "QuantizeLinear", 5),
    ("Transpose_kernel_time", "Transpose", 6),
    ("stem_token_2_kernel_time", "QLinearConv", 39),
    ("stem.conv_DequantizeLinear_kernel_time", "DequantizeLinear", 7),
    ("HardSigmoid_75_kernel_time", "HardSigmoid", 8),
    ("Mul_76_kernel_time", "Mul", 9),
    ("stem_QuantizeLinear_kernel_time", "QuantizeLinear", 10),
    ("s.conv1_token_7_kernel_time", "QLinearConv", 32),
    ("s.se.pool_kernel_time", "QLinearGlobalAveragePool", 9),
    ("s.se.reduce_token_12_kernel_time", "QLinearConv", 7),
    ("s.se.reduce.sigmoid_kernel_time", "QLinearSigmoid", 2),
    ("s.se.reduce.act_kernel_time", "QLinearMul", 3),
    ("s.se.expand_token_22_kernel_time", "QLinearConv", 15),
    ("s.se.expand.act_kernel_time", "QLinearSigmoid", 4),
    ("s.se.scale_kernel_time", "QLinearMul", 24),
    ("s.conv2_token_27_kernel_time", "QLinearConv", 111),
    ("pool_kernel_time", "QLinearGlobalAveragePool", 6),
    ("Transpose_token_35_kernel_time", "Transpose", 8),
    ("classifier.flatten_kernel_time", "Flatten", 3),
    ("classifier_kernel_time", "QGemm", 10),
    ("classifier_DequantizeLinear_kernel_time", "DequantizeLinear", 2),
)
INT8_EXPECTED = {
    "stem": 5 + 6 + 39 + 7 + 8 + 9 + 10,
    "s.conv1": 32,
    "s.se.pool": 9,
    "s.se.reduce": 7 + 2 + 3,
    "s.se.expand": 15 + 4,
    "s.se.scale": 24,
    "s.conv2": 111,
    "pool": 6 + 8,
    "classifier": 3 + 10 + 2,
}


def test_every_event_of_int8_finds_its_node():
    times = node_times(trace(INT8_KERNELS), NODES)
    assert times.us == {name: (float(us),) for name, us in INT8_EXPECTED.items()}


def test_a_name_that_begins_like_another_is_not_mixed_up():
    nodes = (_conv("conv", IMAGE), _conv("conv_1", "conv"), _conv("conv_10", "conv_1"))
    kernels = [("conv_10_nchwc_kernel_time", "Conv", 1), ("conv_1_nchwc_kernel_time", "Conv", 2)]
    assert node_times(trace(kernels), nodes).us == {"conv_10": (1.0,), "conv_1": (2.0,)}


def test_of_no_runs_there_are_no_times():
    assert node_times(trace(), NODES) == backends.NodeTimes()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("family", ["bottleneck", "basic", "mbconv", "mbconv_se"])
def test_every_layer_of_a_real_network_is_timed_and_they_sum_to_it(graph, tmp_path, family, precision):
    pytest.importorskip("onnxruntime")
    from deepmad_hw.exporters.probes import PackedProbe, write_plan
    from profilers.plan import read_plan

    probes = [PackedProbe(name="net", graph=graph(family, "net", side=192), by_layer=True)]
    write_plan(tmp_path, probes, precision=precision)
    plan = read_plan(tmp_path)
    session = backends.get("onnxruntime").load(plan, plan.probes[0], Settings(), profiled=True)
    total_us = [session.run() for _ in range(20)]
    times = session.finish()
    assert [node.name for node in plan.probes[0].nodes if node.name not in times.us] == []
    sums_us = [sum(run) for run in zip(*times.us.values(), strict=True)]
    assert all(part <= whole for part, whole in zip(sums_us, total_us, strict=True))
    assert max(part / whole for part, whole in zip(sums_us, total_us, strict=True)) > 0.5


def _operation(name, kind, values=64):
    return OperationNode(name=name, spec=OperationSpec(kind=kind, read_values=values, written_values=values))


# A group norm and a mish that the runtime takes apart, an activation that it merges, a lone norm, changes of layout.
PLANNED = (
    _operation("exp1.reorder", "reorder"),
    _operation("exp1", "exp"),
    _operation("group_norm2", "group_norm"),
    _operation("other3.reorder", "reorder"),
    _operation("relu4", "relu"),
    _operation("max_pool5", "max_pool"),
    _operation("silu6", "silu"),
    _operation("batch_norm7", "depthwise_conv"),
    _operation("erf8", "erf"),
    _operation("mish9", "mish"),
    _operation("other10.reorder", "reorder", values=32),
    _operation("conv11", "conv"),
)
# Names as ONNX Runtime 1.32 wrote them on x86: the constants of the group norm are cast before everything.
OPERATION_KERNELS = (
    ("Cast_163_kernel_time", "Cast", 1),
    ("ReorderInput_kernel_time", "ReorderInput", 100),
    ("other0_nchwc_kernel_time", "Conv", 200),
    ("ReorderOutput_token_127_kernel_time", "ReorderOutput", 3),
    ("exp1_kernel_time", "Exp", 5),
    ("ReduceMean_151_kernel_time", "ReduceMean", 7),
    ("Sub_158_kernel_time", "Sub", 9),
    ("ReorderInput_token_4_kernel_time", "ReorderInput", 11),
    ("other3_nchwc_kernel_time", "Conv", 300),
    ("relu4_nchwc_kernel_time", "Conv", 400),
    ("max_pool5_nchwc_kernel_time", "MaxPool", 13),
    ("silu6/QuickGeluFusion/_kernel_time", "QuickGelu", 15),
    ("batch_norm7_bn_nchwc_kernel_time", "Conv", 17),
    ("ReorderOutput_token_128_kernel_time", "ReorderOutput", 500),
    ("erf8_kernel_time", "Erf", 19),
    ("Softplus_172_kernel_time", "Softplus", 21),
    ("Mul_174_kernel_time", "Mul", 23),
    ("ReorderInput_token_10_kernel_time", "ReorderInput", 600),
    ("other10_nchwc_kernel_time", "Conv", 700),
    ("conv11_nchwc_kernel_time", "Conv", 25),
)
OPERATION_TIMES = {
    "exp1.reorder": 3,
    "exp1": 5,
    "group_norm2": 1 + 7 + 9,
    "other3.reorder": 11,
    "max_pool5": 13,
    "silu6": 15,
    "batch_norm7": 17,
    "erf8": 19,
    "mish9": 21 + 23,
    "conv11": 25,
}


def _shaped(events, values=64):
    for event in events:
        event["args"]["input_type_shape"] = [{"float": [1, values, 1, 1]}]
    return events


def test_every_event_finds_the_operation_that_it_still_is():
    times = operation_times(_shaped(trace(OPERATION_KERNELS, OPERATION_KERNELS)), PLANNED, batch=1)
    planned = {node.name for node in PLANNED}
    found = {name: values for name, values in times.us.items() if name in planned}
    assert found == {name: (float(us),) * 2 for name, us in OPERATION_TIMES.items()}
    assert (times.operations["group_norm2"], times.operations["exp1"]) == (3, 1)


def test_no_time_of_operations_and_their_neighbours_is_lost():
    times = operation_times(_shaped(trace(OPERATION_KERNELS)), PLANNED, batch=1)
    assert sum(map(sum, times.us.values())) == sum(us for _, _, us in OPERATION_KERNELS)


def test_a_change_of_layout_of_another_tensor_makes_no_row():
    for events, batch in ((_shaped(trace(OPERATION_KERNELS), values=63), 1), (trace(OPERATION_KERNELS), 1)):
        assert "exp1.reorder" not in operation_times(events, PLANNED, batch=batch).us
    assert "exp1.reorder" in operation_times(_shaped(trace(OPERATION_KERNELS), values=128), PLANNED, batch=2).us


def test_two_changes_of_layout_before_one_operation_are_not_timed_as_one():
    kernels = [
        ("ReorderInput_1_kernel_time", "ReorderInput", 2),
        ("ReorderInput_2_kernel_time", "ReorderInput", 3),
        ("exp1_kernel_time", "Exp", 5),
    ]
    planned = (
        OperationNode(
            name="exp1.reorder", spec=OperationSpec(kind="reorder", read_values=64, written_values=64, span=1)
        ),
        _operation("exp1", "exp"),
    )
    times = operation_times(_shaped(trace(kernels)), planned, batch=1)
    assert times.us["exp1.reorder"] in {(2.0,), (3.0,)}
    assert times.operations["exp1.reorder"] == 1
    assert sum(map(sum, times.us.values())) == 10


# Bytes become floats for an exponential and bytes again; names and types as ONNX Runtime 1.32 wrote them.
ROUNDED = (
    OperationNode(name="add1", spec=OperationSpec(kind="add", value_type="int8", read_values=128, written_values=64)),
    OperationNode(
        name="exp2.transpose",
        spec=OperationSpec(kind="transpose", value_type="int8", read_values=64, written_values=64, span=1),
    ),
    OperationNode(
        name="exp2.dequantize",
        spec=OperationSpec(kind="dequantize", value_type="int8", read_values=64, written_values=64),
    ),
    _operation("exp2", "exp"),
    _operation("conv3.quantize", "quantize"),
    OperationNode(
        name="conv3", spec=OperationSpec(kind="conv", value_type="int8", read_values=64, written_values=64, macs=64)
    ),
)
ROUNDED_KERNELS = (
    ("add1_token_7_kernel_time", "QLinearAdd", 1, "uint8"),
    ("Transpose_token_8_kernel_time", "Transpose", 2, "uint8"),
    ("add1_DequantizeLinear_kernel_time", "DequantizeLinear", 4, "uint8"),
    ("exp2_kernel_time", "Exp", 8, "float"),
    ("exp2_QuantizeLinear_kernel_time", "QuantizeLinear", 16, "float"),
    ("conv3_token_9_kernel_time", "QLinearConv", 32, "uint8"),
)


def _typed(kernels):
    events = trace([kernel[:3] for kernel in kernels])
    types = {kernel[0]: kernel[3] for kernel in kernels}
    for event in events:
        event["args"]["input_type_shape"] = [{types.get(event["name"], "float"): [1, 64, 1, 1]}]
    return events


def test_changes_between_bytes_and_floats_are_operations_of_their_own():
    times = operation_times(_typed(ROUNDED_KERNELS), ROUNDED, batch=1)
    assert times.us == {
        "add1": (1.0,),
        "exp2.transpose": (2.0,),
        "exp2.dequantize": (4.0,),
        "exp2": (8.0,),
        "conv3.quantize": (16.0,),
        "conv3": (32.0,),
    }


def test_an_operation_planned_on_bytes_that_ran_on_floats_makes_no_row():
    on_floats = [(name, kind.removeprefix("QLinear"), us, "float") for name, kind, us, _ in ROUNDED_KERNELS]
    assert not {"add1", "conv3", "exp2.dequantize"} & set(operation_times(_typed(on_floats), ROUNDED, batch=1).us)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_operation_of_real_probes_is_timed_alone(tmp_path, precision):
    """Of all kinds, what a newer runtime merges or takes apart must be seen here, not in tables."""
    pytest.importorskip("onnxruntime")
    from deepmad_hw.exporters.operation_probes import operation_probes
    from deepmad_hw.exporters.probes import PackedProbe, write_plan
    from profilers.plan import read_plan

    chosen = [probe for probe in operation_probes(20, precision=precision) if probe.side in (7, 20, 40)][:4]
    packed = [PackedProbe(name=each.name, operations=each, by_layer=True) for each in chosen]
    write_plan(tmp_path, packed, batch=2, precision=precision)
    plan = read_plan(tmp_path)
    for probe in plan.probes:
        session = backends.get("onnxruntime").load(plan, probe, Settings(), profiled=True)
        for _ in range(2):
            session.run()
        times = session.finish()
        kinds = {node.name: node.spec.kind for node in probe.operations}
        changes = {name for name, kind in kinds.items() if name.endswith(f".{kind}")}
        assert [name for name in kinds if name not in times.us and name not in changes] == []
        parted = {kinds[name] for name in kinds if times.operations.get(name, 1) > 1}
        assert parted <= {"group_norm", "hardswish", "mish"}
        assert len(changes & set(times.us)) > 10
        known = ("other", "Reorder", "Transpose", "image")
        bare = [name for name in times.us if name not in kinds and "quantizelinear" not in name.lower()]
        assert [name for name in bare if not name.startswith(known)] == []


@pytest.mark.parametrize("first", ["deepmad_hw", "profilers.backend"])
def test_the_runtime_keeps_no_diary_of_its_use(tmp_path, first):
    """It leaves the number of its session in the temporary folder where it reports to its maker."""
    pytest.importorskip("onnxruntime", reason='ONNX Runtime is not installed: pip install "deepmad-hw[cpu]"')
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment["TMPDIR"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", f"import {first}, onnxruntime"], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []
