"""What ONNX Runtime ran: each operation in one place, and layers taken apart where a merge did not happen."""

import numpy as np
import pytest
from foreign_networks import feeds, model

from deepmad_hw.exporters import onnx_loader, runtime_look
from deepmad_hw.exporters.onnx_walk import walk
from deepmad_hw.exporters.runtime_graph import RuntimeOperation
from deepmad_hw.exporters.runtime_look import LookedAt, look
from deepmad_hw.exporters.runtime_walk import LAYOUT, UNCOVERED, VIEW, held
from deepmad_hw.exporters.walked import Walk
from deepmad_hw.network.layer import LayerSpec, Node

MAP = (1, 16, 8, 8)


def ran(kind, inputs, outputs, *, reads=None, writes=None, constants=(), **more):
    operation = RuntimeOperation(name=f"{kind}:{outputs[0]}", kind=kind, inputs=inputs, outputs=outputs, **more)
    return LookedAt(
        operation=operation,
        reads=(MAP,) * len(inputs) if reads is None else reads,
        constants=constants,
        writes=(MAP,) if writes is None else writes,
        value_type=1,
    )


def conv(name, *, inputs=("image",), **more):
    fields = {"op": "conv", "in_channels": 16, "out_channels": 16, "height": 8, "width": 8}
    return Node(name=name, spec=LayerSpec(**fields, **more), inputs=inputs)


def kinds(found):
    return [each.spec.kind for each in found.walk.operations]


def test_a_merged_layer_stays_as_the_rules_say():
    rules = Walk(nodes=(conv("a", activation="relu"),), members={"a": ("a", "r")})
    found = held(rules, [ran("nchwc.Conv", ("x",), ("r",), activation="Relu", constants=((16, 16, 1, 1),))])
    assert (found.walk.nodes, found.differences, found.places) == (rules.nodes, (), ("a",))
    assert found.walk.operations == ()


def test_an_activation_that_was_not_merged_is_an_operation_of_its_own():
    rules = Walk(nodes=(conv("a", activation="relu6"),), members={"a": ("a", "r")})
    found = held(rules, [ran("nchwc.Conv", ("x",), ("a",)), ran("Clip", ("a",), ("r",))])
    assert [node.spec.activation for node in found.walk.nodes] == ["none"]
    assert kinds(found) == ["clip"]
    assert found.differences == ("a: its activation is an operation of its own",)


def test_a_sum_that_was_not_merged_is_an_operation_of_its_own():
    rules = Walk(nodes=(conv("a", residual=True, inputs=("image", "image")),), members={"a": ("a", "s")})
    found = held(rules, [ran("nchwc.Conv", ("x",), ("a",)), ran("Add", ("a", "x"), ("s",))])
    (node,) = found.walk.nodes
    assert (node.spec.residual, node.inputs) == (False, ("image",))
    assert kinds(found) == ["add"]


def test_a_swish_stays_in_the_row_of_its_convolution():
    rules = Walk(nodes=(conv("a", activation="silu"),), members={"a": ("a", "g", "m")})
    found = held(rules, [ran("nchwc.Conv", ("x",), ("a",)), ran("QuickGelu", ("a",), ("m",))])
    assert (found.walk.nodes, kinds(found), found.places) == (rules.nodes, [], ("a", "a"))


def test_layout_is_an_operation_between_convolutions_and_in_the_row_of_a_layer_without_blocks():
    scale = Node(
        name="s",
        spec=LayerSpec(op="scale", in_channels=16, out_channels=16, height=8, width=8),
        inputs=("a", "factor"),
    )
    rules = Walk(nodes=(conv("a"), scale, conv("b")), members={"a": ("a",), "s": ("s",), "b": ("b",)})
    run = [
        ran("nchwc.Conv", ("x",), ("a",)),
        ran("ReorderOutput", ("a",), ("a",)),
        ran("Mul", ("a", "f"), ("s",), reads=(MAP, (1, 16, 1, 1))),
        ran("ReorderInput", ("s",), ("s",)),
        ran("nchwc.Conv", ("s",), ("b",)),
        ran("ReorderOutput", ("b",), ("b",)),
        ran("Concat", ("b", "x"), ("c",), writes=((1, 32, 8, 8),)),
    ]
    found = held(rules, run)
    assert found.places == ("a", LAYOUT, "s", LAYOUT, "b", "ReorderOutput:b", "Concat:c")
    assert kinds(found) == ["reorder", "concat"]


def test_views_are_left_out_and_what_nobody_knows_is_listed():
    rules = Walk(nodes=(conv("a"),), members={"a": ("a",)})
    run = [
        ran("nchwc.Conv", ("x",), ("a",)),
        ran("Reshape", ("a",), ("v",)),
        ran("NonMaxSuppression", ("v",), ("n",)),
        ran("NonMaxSuppression", ("v",), ("few",), writes=((1, 3),)),
    ]
    found = held(rules, run)
    assert found.places == ("a", VIEW, UNCOVERED, VIEW)
    assert found.walk.uncovered == ("NonMaxSuppression:n: NonMaxSuppression is no operation that tables hold",)
    assert found.walk.notes == ("2 views and operations on sizes are left out",)


def test_a_layer_that_the_runtime_does_not_run_is_no_layer():
    rules = Walk(nodes=(conv("a"), conv("b")), members={"a": ("a",), "b": ("b",)})
    found = held(rules, [ran("nchwc.Conv", ("x",), ("a",))])
    assert [node.name for node in found.walk.nodes] == ["a"]
    assert found.differences == ("b: the runtime runs no conv",)


@pytest.mark.parametrize("name", ["residuals", "splits_and_concats"])
def test_the_sizes_of_a_run_are_those_of_its_tensors(name):
    pytest.importorskip("onnxruntime", reason="the extra cpu is not installed")
    from foreign_networks import MEMBERS

    chosen = name if name in MEMBERS else next(each for each, member in MEMBERS.items() if not member.slow)
    found, values = model(chosen), feeds(model(chosen))
    data = found.SerializeToString()
    tensors = onnx_loader.run_once(data, values, where=chosen)
    run = look(data, values)
    assert run
    for each in run:
        for tensor, shape in zip(each.operation.outputs, each.writes, strict=True):
            if tensor in tensors and each.operation.kind not in ("ReorderInput", "ReorderOutput", "Reshape"):
                assert int(np.prod(shape)) == int(np.prod(tensors[tensor].shape)), each.operation.name
    assert held(walk(found, tensors), run).differences == ()


def test_without_the_runtime_nothing_is_looked_at(monkeypatch):
    monkeypatch.setattr(runtime_look, "MODULE", "deepmad_hw.no_such_module")
    assert look(b"", {}) is None
