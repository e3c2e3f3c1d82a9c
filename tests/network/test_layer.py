"""One operation with every shape, and graphs of them."""

import dataclasses

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.network.layer import ACTIVATIONS, IMAGE, OPERATIONS, Graph, LayerSpec, Node, OperationSpec, out_pixels


def conv(**changes):
    fields = {"op": "conv", "in_channels": 8, "out_channels": 16, "height": 7, "width": 9, "kernel": 3}
    return LayerSpec(**(fields | changes))


@pytest.mark.parametrize(
    ("pixels", "kernel", "stride", "expected"),
    [
        (8, 1, 1, 8),
        (8, 3, 1, 8),
        (8, 5, 1, 8),
        (8, 3, 2, 4),
        (7, 3, 2, 4),
        (7, 5, 2, 4),
        (8, 2, 2, 4),  # even windows are not padded
        (7, 2, 2, 3),
        (224, 7, 2, 112),
        (1, 1, 1, 1),
    ],
)
def test_out_pixels_of_a_padded_window(pixels, kernel, stride, expected):
    assert out_pixels(pixels, kernel=kernel, stride=stride) == expected


def test_output_sides_follow_kernel_and_stride():
    spec = conv(stride=2)
    assert (spec.out_height, spec.out_width) == (4, 5)


def test_global_pooling_leaves_one_pixel():
    spec = LayerSpec(op="global_pool", in_channels=8, out_channels=8, height=7, width=9)
    assert (spec.out_height, spec.out_width) == (1, 1)


def test_group_width_and_depthwise():
    assert conv().group_width == 8
    assert not conv().depthwise
    depthwise = conv(out_channels=8, groups=8)
    assert (depthwise.group_width, depthwise.depthwise) == (1, True)
    grouped = conv(groups=4)
    assert (grouped.group_width, grouped.depthwise) == (2, False)


def test_one_channel_in_one_group_is_an_ordinary_convolution():
    assert not conv(in_channels=1, out_channels=1).depthwise


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("op", "conv3d", "op: unknown operation 'conv3d'"),
        ("activation", "gelu", "activation: unknown activation 'gelu'"),
        ("in_channels", 0, "in_channels: expected a whole number >= 1, got 0"),
        ("height", 7.0, "height: expected a whole number >= 1, got 7.0"),
        ("width", True, "width: expected a whole number >= 1, got True"),
        ("stride", -1, "stride: expected"),
        ("kernel", 8, "kernel: a window of 8 fits nowhere in 7x9 pixels"),
        ("kernel", 10**9, "kernel: expected a whole number up to 999999999"),
        ("residual", 1, "residual: expected true or false, got 1"),
        ("groups", 3, "groups: 3 groups do not divide 8 -> 16 channels"),
        ("groups", 16, "groups: 16 groups do not divide"),
    ],
)
def test_shapes_that_are_no_operation_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        conv(**{field: value})


def test_the_lists_of_names_have_no_doubles():
    assert len(set(OPERATIONS)) == len(OPERATIONS)
    assert len(set(ACTIVATIONS)) == len(ACTIVATIONS)


def test_equal_specs_are_one_key_and_any_difference_is_another():
    assert len({conv(), conv()}) == 1
    changes = [{"height": 8}, {"kernel": 5}, {"stride": 2}, {"activation": "relu"}, {"residual": True}]
    assert len({conv(), *(conv(**change) for change in changes)}) == 1 + len(changes)


def test_specs_are_ordered():
    assert sorted([conv(height=9), conv(height=7)]) == [conv(height=7), conv(height=9)]


# graphs

FIRST = Node(name="first", spec=conv(in_channels=3, out_channels=8), inputs=(IMAGE,))
SAME = conv(in_channels=8, out_channels=8)


def graph(*nodes, outputs=("first",)):
    return Graph(name="net", in_channels=3, height=7, width=9, nodes=nodes, outputs=outputs)


def test_a_graph_is_iterated_in_execution_order():
    second = Node(name="second", spec=SAME, inputs=("first",))
    assert [node.name for node in graph(FIRST, second)] == ["first", "second"]


@pytest.mark.parametrize(
    ("spec", "inputs", "count"),
    [
        (SAME, ("first", IMAGE), 1),
        (dataclasses.replace(SAME, residual=True), ("first",), 2),
        (LayerSpec(op="add", in_channels=8, out_channels=8, height=7, width=9), ("first",), 2),
        (LayerSpec(op="scale", in_channels=8, out_channels=8, height=7, width=9), ("first",), 2),
    ],
)
def test_a_node_with_too_few_or_too_many_inputs_is_refused(spec, inputs, count):
    with pytest.raises(ConfigError, match=f"second: {spec.op} takes {count} inputs here, got {len(inputs)}"):
        Node(name="second", spec=spec, inputs=inputs)


def test_a_name_used_twice_is_refused():
    with pytest.raises(ConfigError, match="first: the name is used twice"):
        graph(FIRST, Node(name="first", spec=SAME, inputs=("first",)))


def test_no_node_may_be_called_like_the_image():
    with pytest.raises(ConfigError, match=f"{IMAGE}: the name is used twice"):
        graph(Node(name=IMAGE, spec=FIRST.spec, inputs=(IMAGE,)), outputs=(IMAGE,))


def test_an_input_must_stand_before_its_reader():
    with pytest.raises(ConfigError, match="second: input 'third' does not stand before it"):
        graph(
            FIRST, Node(name="second", spec=SAME, inputs=("third",)), Node(name="third", spec=SAME, inputs=("first",))
        )


def test_shapes_must_meet():
    wrong = Node(name="second", spec=conv(in_channels=16), inputs=("first",))
    with pytest.raises(ConfigError, match=r"second: expects .* \(16, 7, 9\), is given \(8, 7, 9\)"):
        graph(FIRST, wrong)


def test_a_residual_of_another_shape_is_refused():
    wrong = Node(name="second", spec=dataclasses.replace(SAME, stride=2, residual=True), inputs=("first", "first"))
    with pytest.raises(ConfigError, match=r"second: adds \(8, 7, 9\) to \(8, 4, 5\)"):
        graph(FIRST, wrong)


def test_an_unknown_output_is_refused():
    with pytest.raises(ConfigError, match="net: output 'last' is no node"):
        graph(FIRST, outputs=("last",))


def test_an_operation_moves_what_it_reads_and_writes():
    assert OperationSpec(kind="concat", read_values=100, written_values=100, weight_values=7).moved_values == 200


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kind": "dance"}, "unknown kind of operation 'dance'"),
        ({"value_type": "fp8"}, "unknown value type 'fp8'"),
        ({"read_values": 0}, "reads or writes nothing"),
        ({"written_values": 0}, "reads or writes nothing"),
        ({"macs": -1}, "expected a whole number from 0"),
        ({"weight_values": True}, "expected a whole number from 0"),
        ({"macs": 2**51}, "expected a whole number from 0"),
    ],
)
def test_an_operation_of_impossible_amounts_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        OperationSpec(**{"kind": "concat", "read_values": 1, "written_values": 1, **wrong})
