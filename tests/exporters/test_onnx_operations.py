"""Which kind of operation an operator is, and its amounts: worked out by hand from the sizes of its tensors."""

import pytest

from deepmad_hw.exporters.onnx_operations import Sized, operation_of
from deepmad_hw.exporters.runtime_look import _told_apart

MAP = (1, 8, 6, 5)


def of(operator, reads, writes, *, constants=(), **attributes):
    return operation_of(
        Sized(operator=operator, reads=reads, constants=constants, writes=[writes], attributes=attributes)
    )


@pytest.mark.parametrize(
    ("operator", "reads", "constants", "writes", "kind", "span"),
    [
        ("MaxPool", [MAP], [], MAP, "max_pool", 9),
        ("nchwc.MaxPool", [MAP], [], MAP, "max_pool_blocked", 9),
        ("nchwc.GlobalAveragePool", [MAP], [], (1, 8, 1, 1), "global_pool_blocked", 30),
        ("nchwc.Upsample", [MAP], [], (1, 8, 12, 10), "resize_nearest_blocked", 0),
        ("Resize", [MAP], [], (1, 8, 12, 10), "resize_nearest", 0),
        ("ReduceMean", [MAP], [(2,)], (1, 8), "reduce", 30),
        ("ReduceMean", [MAP], [(1,)], (1, 8, 6, 1), "reduce", 5),
        ("ReduceMean", [MAP], [(1,)], (1, 1, 6, 5), "reduce_outer", 30),
        ("ReduceMean", [(1, 49, 64)], [(1,)], (1, 64), "reduce_outer", 64),
        ("Softmax", [(1, 4, 7, 7)], [], (1, 4, 7, 7), "softmax", 7),
        ("LayerNormalization", [(1, 49, 64)], [(64,), (64,)], (1, 49, 64), "layer_norm", 64),
        ("Add", [MAP], [MAP], MAP, "add", 0),
        ("Add", [(1, 49, 64)], [(49, 64)], (1, 49, 64), "add", 0),
        ("Mul", [MAP], [(8, 1, 1)], MAP, "mul_broadcast", 30),
        ("Mul", [(1, 8, 1, 1), MAP], [], MAP, "mul_broadcast", 30),
        ("Mul", [(1, 49, 64)], [(64,)], (1, 49, 64), "mul_broadcast", 64),
        ("Mul", [MAP, (1, 1, 6, 5)], [], MAP, "mul_broadcast", 30),
        ("Mul", [MAP], [()], MAP, "mul_broadcast", 240),
        ("Slice", [MAP], [], (1, 4, 6, 5), "slice", 120),
        ("Pad", [MAP], [], (1, 8, 8, 7), "pad", 5),
        ("Concat", [MAP, MAP], [], (1, 16, 6, 5), "concat", 240),
        ("Concat", [(1, 60, 4), (1, 60, 80)], [], (1, 60, 84), "concat", 4),
    ],
)
def test_a_kind_and_what_belongs_together_follow_from_the_sizes(operator, reads, constants, writes, kind, span):
    found = of(operator, reads, writes, constants=constants, kernel_shape=(3, 3))
    assert (found.kind, found.span) == (kind, span)


@pytest.mark.parametrize(("perm", "span"), [((0, 2, 1, 3), 5), ((0, 1, 3, 2), 1), ((1, 0, 2, 3), 30), ((), 1)])
def test_a_transpose_copies_the_axes_that_stay_last(perm, span):
    assert of("Transpose", [MAP], MAP, perm=perm).span == span


@pytest.mark.parametrize(("weight", "group", "kind"), [((16, 8, 1, 7), 1, "conv"), ((16, 4, 1, 7), 2, "grouped_conv")])
def test_a_convolution_says_its_window_and_its_outputs(weight, group, kind):
    found = of("FusedConv", [MAP], (1, 16, 6, 5), constants=[weight, (16,)], group=group)
    assert (found.kind, found.span, found.channels) == (kind, 7, 16)
    assert found.macs == 16 * 30 * weight[1] * 7


def test_an_axis_that_there_is_not_is_no_row():
    assert of("Softmax", [MAP], MAP, axis=9).span == 0


X, WEIGHT, BIAS = (1, (1, 8, 6, 5)), (1, (8, 4, 2, 2)), (1, (4,))


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ([X, WEIGHT, BIAS], [X, WEIGHT, BIAS]),
        ([X, BIAS], [X, WEIGHT, BIAS]),  # the runtime has packed the weight in a form of its own
        ([X], [X, WEIGHT, BIAS]),
    ],
)
def test_weights_that_a_profile_leaves_out_are_taken_from_the_graph(seen, found):
    held = {"w": WEIGHT, "b": BIAS}
    assert _told_apart(["x", "w", "b"], seen, held) == (found, [False, True, True])


def test_inputs_that_fit_no_names_are_taken_as_computed():
    assert _told_apart(["x", "w"], [X, X, X], {"w": WEIGHT}) == ([X, X, X], [False] * 3)
