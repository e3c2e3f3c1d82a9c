"""What the host packs is what the device side reads."""

import hashlib
import json

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters.operation_probes import operation_probes, operations
from deepmad_hw.exporters.probes import PLAN_FILE, PackedProbe, canary, write_plan
from deepmad_hw.network import reference
from profilers.plan import LAYERS, NETWORK, read_plan


def _read_nodes(nodes):
    return [(node.name, node.spec, node.inputs) for node in nodes]


@pytest.mark.parametrize("family", ["bottleneck", "basic", "mbconv", "mbconv_se"])
def test_every_node_of_a_packed_graph_is_read_back_equal(tmp_path, graph, family):
    packed = graph(family, "net")
    write_plan(tmp_path, [PackedProbe(name="net", graph=packed, by_layer=True)], batch=3)
    plan = read_plan(tmp_path)
    (probe,) = plan.probes
    assert _read_nodes(probe.nodes) == _read_nodes(packed.nodes)
    assert (probe.name, probe.kind, probe.input_shape) == ("net", LAYERS, (3, 3, 32, 32))
    assert (plan.batch, plan.precision) == (3, "fp32")


def test_a_reference_network_is_read_back_equal(tmp_path):
    packed = reference.get("efficientnet_b0", resolution=(32, 32))
    write_plan(tmp_path, [PackedProbe(name="net", graph=packed)])
    (probe,) = read_plan(tmp_path).probes
    assert probe.kind == NETWORK
    assert _read_nodes(probe.nodes) == _read_nodes(packed.nodes)


def test_every_operation_of_a_packed_network_is_read_back_equal(tmp_path):
    (found,) = operation_probes(1)
    write_plan(tmp_path, [PackedProbe(name="other", operations=found, by_layer=True)], batch=2)
    plan = read_plan(tmp_path)
    (probe,) = plan.probes
    assert probe.operations == operations(found)
    assert (probe.nodes, probe.kind, probe.input_shape) == ((), LAYERS, (2, 16, found.side, found.side))
    assert plan.path(probe).is_file()
    assert probe.weight_bytes > 10_000


def test_a_plan_of_the_first_schema_is_read(packed):
    plan = packed(2)
    path = plan.folder / PLAN_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 1}))
    assert read_plan(plan.folder).probes == plan.probes


def test_the_canary_comes_with_every_plan(packed):
    plan = packed()
    assert _read_nodes(plan.canary.nodes) == _read_nodes(canary().nodes)
    assert plan.path(plan.canary).is_file()


def test_the_order_of_probes_is_kept(packed):
    assert [probe.name for probe in packed(5).probes] == ["probe0", "probe1", "probe2", "probe3", "probe4", "whole"]


def test_a_file_is_copied_with_the_values_of_its_inputs(tmp_path):
    values = {"../image/0": np.ones((1, 3, 8, 9), np.float32), "size": np.array([8, 9])}
    write_plan(tmp_path, [PackedProbe(name="net", data=b"12345", values=values)])
    plan = read_plan(tmp_path)
    (probe,) = plan.probes
    assert plan.path(probe).read_bytes() == b"12345"
    assert (probe.weight_bytes, probe.nodes) == (5, ())
    feed = plan.feed(probe, image="")
    assert feed.keys() == values.keys()
    assert all(np.array_equal(feed[name], values[name]) for name in values)


def test_a_network_of_ours_is_fed_with_a_random_image(tmp_path, graph):
    write_plan(tmp_path, [PackedProbe(name="net", graph=graph("basic", "net"))], batch=2)
    plan = read_plan(tmp_path)
    feed = plan.feed(plan.probes[0], image="x")
    assert feed["x"].shape[0] == 2
    assert feed["x"].dtype == np.float32


def test_weights_are_counted_in_bytes(tmp_path, graph):
    write_plan(tmp_path, [PackedProbe(name="net", graph=graph("basic", "net"))])
    (probe,) = read_plan(tmp_path).probes
    weights = [n.spec for n in probe.nodes if n.spec.op in ("conv", "linear")]
    assert probe.weight_bytes == 4 * sum(s.out_channels * s.in_channels // s.groups * s.kernel**2 for s in weights)


def test_a_plan_is_known_by_the_digest_of_its_text(packed):
    plan = packed()
    assert plan.sha256 == hashlib.sha256((plan.folder / PLAN_FILE).read_bytes()).hexdigest()


@pytest.mark.parametrize("names", [("net", "net"), ("canary",)])
def test_names_that_would_be_mixed_up_are_refused(tmp_path, graph, names):
    with pytest.raises(ConfigError, match="two networks of one name"):
        write_plan(tmp_path, [PackedProbe(name=name, graph=graph("basic", name)) for name in names])


def _broken(change):
    def write(folder):
        path = folder / PLAN_FILE
        data = json.loads(path.read_text())
        path.write_text(json.dumps(change(data)))

    return write


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / PLAN_FILE).unlink(), "cannot read the plan"),
        (lambda folder: (folder / PLAN_FILE).write_text("{"), "not a plan"),
        (lambda folder: (folder / PLAN_FILE).write_bytes(b"\xff\xfe"), "not a plan"),
        (_broken(lambda data: {**data, "schema": 3}), "plan of schema 3, this version reads 1 to 2"),
        (_broken(lambda data: {**data, "schema": 0}), "plan of schema 0, this version reads 1 to 2"),
        (_broken(lambda data: {**data, "schema": "2"}), "not a plan"),
        (_broken(lambda data: []), "not a plan"),
        (_broken(lambda data: {key: value for key, value in data.items() if key != "canary"}), "not a plan"),
        (_broken(lambda data: {**data, "probes": [{}]}), "not a plan"),
        (_broken(lambda data: {**data, "probes": 3}), "not a plan"),
        (_broken(lambda data: {**data, "canary": {**data["canary"], "input_shape": [1, 2]}}), "not a plan"),
        (
            _broken(lambda data: {**data, "canary": {**data["canary"], "nodes": [{"name": "a", "spec": {"op": "x"}}]}}),
            "not a plan",
        ),
    ],
)
def test_a_damaged_plan_is_one_line(packed, spoil, said):
    folder = packed(1).folder
    spoil(folder)
    with pytest.raises(InputFileError, match=said) as caught:
        read_plan(folder)
    assert "\n" not in str(caught.value)
    assert str(folder / PLAN_FILE) in str(caught.value)
