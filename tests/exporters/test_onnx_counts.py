"""Multiply-adds and parameters of any ONNX graph, against numbers worked out by hand and against torch."""

import io
import math
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepmad_hw.exporters.onnx_counts import counts

MICROSOFT, BLOCKED = "com.microsoft", "com.microsoft.nchwc"


def _zeros(name, *shape, kind=np.float32):
    return numpy_helper.from_array(np.zeros(shape, dtype=kind), name)


def _value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def _model(*nodes, weights=(), opset=20, functions=(), stated=(), **inputs):
    graph = helper.make_graph(
        list(nodes),
        "foreign",
        [_value(name, shape) for name, shape in inputs.items()],
        [_value(nodes[-1].output[0], None)],
        list(weights),
        value_info=list(stated),
    )
    domains = {("", opset), *((node.domain, 1) for node in nodes if node.domain)}
    opsets = [helper.make_opsetid(*pair) for pair in sorted(domains)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets, functions=list(functions))


def _node(kind, inputs, outputs="y", *, name="", domain="", **attributes):
    return helper.make_node(kind, inputs.split(" "), outputs.split(" "), name=name, domain=domain, **attributes)


def _exactly(model, macs, params, **options):
    found = counts(model, **options)
    assert (found.macs, found.params, found.not_counted) == (macs, params, ())


def _named(model, *reasons, macs=0, params=0, **options):
    found = counts(model, **options)
    assert found.not_counted == reasons
    assert (found.macs, found.params) == (macs, params)


# --- convolutions -----------------------------------------------------------------------------------------------------


def test_a_convolution_and_a_fully_connected_layer():
    conv = _node("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[2, 2])
    weights = [_zeros("w", 4, 3, 3, 3), _zeros("b", 4), _zeros("v", 64, 5), _zeros("u", 5)]
    model = _model(conv, _node("Flatten", "c", "f"), _node("Gemm", "f v u"), weights=weights, x=(1, 3, 8, 8))
    _exactly(model, 4 * 4 * 4 * 27 + 64 * 5, 108 + 4 + 320 + 5)


def test_groups_divide_the_work():
    grouped = _model(_node("Conv", "x w", group=4), weights=[_zeros("w", 8, 2, 3, 3)], x=(1, 8, 6, 6))
    depthwise = _model(_node("Conv", "x w", group=8), weights=[_zeros("w", 8, 1, 3, 3)], x=(1, 8, 6, 6))
    _exactly(grouped, 8 * 4 * 4 * 2 * 9, 8 * 2 * 9)
    _exactly(depthwise, 8 * 4 * 4 * 9, 8 * 9)


def test_one_and_three_dimensions():
    _exactly(_model(_node("Conv", "x w"), weights=[_zeros("w", 4, 2, 3)], x=(1, 2, 10)), 4 * 8 * 6, 24)
    volume = _model(_node("Conv", "x w"), weights=[_zeros("w", 4, 2, 3, 3, 3)], x=(1, 2, 5, 6, 7))
    _exactly(volume, 4 * (3 * 4 * 5) * (2 * 27), 216)


def test_padding_and_dilation_count_by_the_output():
    same = _model(
        _node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2]), weights=[_zeros("w", 4, 3, 3, 3)], x=(1, 3, 7, 7)
    )
    dilated = _model(_node("Conv", "x w", dilations=[2, 2]), weights=[_zeros("w", 4, 3, 3, 3)], x=(1, 3, 7, 7))
    _exactly(same, 4 * 4 * 4 * 27, 108)
    _exactly(dilated, 4 * 3 * 3 * 27, 108)


def test_a_transposed_convolution_counts_by_its_input():
    """By its output, as tools do, it would be four times as much."""
    plain = _node("ConvTranspose", "x w b", strides=[2, 2])
    model = _model(plain, weights=[_zeros("w", 6, 3, 2, 2), _zeros("b", 3)], x=(1, 6, 5, 5))
    _exactly(model, (6 * 5 * 5) * (3 * 2 * 2), 72 + 3)
    grouped = _node("ConvTranspose", "x w", strides=[2, 2], group=3)
    _exactly(_model(grouped, weights=[_zeros("w", 6, 1, 2, 2)], x=(1, 6, 5, 5)), 6 * 25 * 4, 24)


def test_a_deformable_convolution_counts_as_one():
    weights = [_zeros("w", 4, 3, 3, 3), _zeros("b", 4)]
    model = _model(_node("DeformConv", "x w o b"), weights=weights, x=(1, 3, 6, 6), o=(1, 18, 4, 4))
    _exactly(model, 4 * 16 * 27, 108 + 4)


# --- matrix products --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("transposed", "shape"), [((0, 0), (6, 5)), ((0, 1), (5, 6)), ((1, 0), (6, 5))])
def test_gemm_either_way(transposed, shape):
    node = _node("Gemm", "x w", transA=transposed[0], transB=transposed[1])
    model = _model(node, weights=[_zeros("w", *shape)], x=(6, 2) if transposed[0] else (2, 6))
    _exactly(model, 2 * 6 * 5, 30)


def test_batches_of_matrices_multiply():
    """Of attention scores: 2 heads of 7 by 7, over 4 values; counting one batch would be half."""
    _exactly(_model(_node("MatMul", "q k"), q=(1, 2, 7, 4), k=(1, 2, 4, 7)), 2 * 7 * 7 * 4, 0)
    stretched = _model(_node("MatMul", "q k"), q=(1, 3, 7, 4), k=(2, 1, 4, 5))
    _exactly(stretched, (2 * 3) * 7 * 5 * 4, 0)


def test_a_matrix_times_vectors():
    _exactly(_model(_node("MatMul", "a b"), a=(4,), b=(4, 5)), 20, 0)
    _exactly(_model(_node("MatMul", "a b"), a=(3, 4), b=(4,)), 12, 0)


def test_what_is_added_or_multiplied_for_each_channel_behind_a_layer_is_a_parameter():
    """So exporters write a linear layer on sequences; a mask, a shift of one value or a factor by place is none."""
    weights = [_zeros("w", 4, 6), _zeros("b", 6), _zeros("f", 1, 1, 6), _zeros("mask", 5, 6), _zeros("three")]
    ops = [_node("MatMul", "x w", "m"), _node("Add", "b m", "a"), _node("Mul", "a f", "s"), _node("Add", "s mask")]
    _exactly(_model(*ops, weights=weights, x=(1, 5, 4)), 5 * 4 * 6, 24 + 6 + 6)
    ops = [_node("MatMul", "x w", "m"), _node("Add", "m three", "a"), _node("Add", "a b")]
    _exactly(_model(*ops, weights=weights, x=(1, 5, 4)), 5 * 4 * 6, 24)
    by_place = [_node("Conv", "x w", "m"), _node("Mul", "m b")]
    _exactly(_model(*by_place, weights=[_zeros("w", 6, 4, 1, 1), _zeros("b", 6)], x=(1, 4, 2, 6)), 288, 24)
    behind = [_node("Conv", "x w", "m"), _node("Cast", "m", "h", to=1), _node("Add", "h b")]
    _exactly(_model(*behind, weights=[_zeros("w", 6, 4, 1, 1), _zeros("b", 6, 1, 1)], x=(1, 4, 2, 6)), 288, 24 + 6)


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("ij,jk->ik", ((3, 4), (4, 5)), 60),
        ("bhqd, bhkd -> bhqk", ((1, 2, 7, 4), (1, 2, 5, 4)), 2 * 7 * 5 * 4),
        ("bqd,dk->bqk", ((1, 7, 4), (4, 5)), 7 * 4 * 5),
        ("ij->ji", ((3, 4),), 0),
    ],
)
def test_einsum_as_a_matrix_product(equation, shapes, macs):
    inputs = dict(zip("ab", shapes, strict=False))
    _exactly(_model(_node("Einsum", " ".join(inputs), equation=equation), **inputs), macs, 0)


@pytest.mark.parametrize("equation", ["ij,jk,kl->il", "...ij,jk->...ik", "ij,k->i", "ii,ij->j", "ij,ij->ij", "ij,jk"])
def test_another_einsum_is_named(equation):
    inputs = dict.fromkeys("abc"[: equation.count(",") + 1], (3, 3))
    model = _model(_node("Einsum", " ".join(inputs), equation=equation, name="e"), **inputs)
    _named(model, f"e: Einsum of {equation!r} is no plain matrix product")


def test_attention_of_the_standard():
    """Scores 3 heads x 7 x 5 over 4 values, and as many weights over 6."""
    inputs = {"q": (1, 3, 7, 4), "k": (1, 3, 5, 4), "v": (1, 3, 5, 6)}
    _exactly(_model(_node("Attention", "q k v"), opset=23, **inputs), 3 * 7 * 5 * (4 + 6), 0)
    flat = {"q": (1, 7, 12), "k": (1, 5, 12), "v": (1, 5, 18)}
    node = _node("Attention", "q k v", q_num_heads=3, kv_num_heads=3)
    _exactly(_model(node, opset=23, **flat), 3 * 7 * 5 * (4 + 6), 0)


def test_attention_that_remembers_is_named():
    node = _node("Attention", "q k v  p r", "y s t", name="a")
    inputs = {"q": (1, 3, 1, 4), "k": (1, 3, 1, 4), "v": (1, 3, 1, 4), "p": (1, 3, 9, 4), "r": (1, 3, 9, 4)}
    _named(_model(node, opset=23, **inputs), "a: Attention remembers earlier keys, whose number changes")


# --- recurrent layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers(kind, gates, directions):
    """9 steps of 2 sequences, 5 values in and 7 within."""
    weights = [
        _zeros("w", directions, gates * 7, 5),
        _zeros("r", directions, gates * 7, 7),
        _zeros("b", directions, 2 * gates * 7),
    ]
    direction = ["", "forward", "bidirectional"][directions]
    model = _model(_node(kind, "x w r b", hidden_size=7, direction=direction), weights=weights, x=(9, 2, 5))
    macs = 9 * 2 * directions * gates * 7 * (5 + 7)
    _exactly(model, macs, directions * gates * 7 * (5 + 7 + 2))


def test_steps_stand_second_in_the_other_layout():
    node = _node("LSTM", "x w r", hidden_size=7, layout=1)
    model = _model(node, weights=[_zeros("w", 1, 28, 5), _zeros("r", 1, 28, 7)], x=("batch", 9, 5))
    _exactly(model, 9 * 28 * 12, 28 * 12)


def test_a_free_batch_of_sequences_is_one_but_a_free_length_is_named():
    node, weights = _node("GRU", "x w r", hidden_size=7, name="g"), [_zeros("w", 1, 21, 5), _zeros("r", 1, 21, 7)]
    _exactly(_model(node, weights=weights, x=(9, "n", 5)), 9 * 21 * 12, 252)
    _named(
        _model(node, weights=weights, x=("steps", "n", 5)), "g: the size of 'x' is not known before it runs", params=252
    )


# --- integers ---------------------------------------------------------------------------------------------------------


def test_quantised_operations_count_like_floats():
    small, scale = {"kind": np.int8}, _zeros("s")
    zero, bias = _zeros("z", **small), _zeros("b", 4, kind=np.int32)
    conv = _node("QLinearConv", "x s z w s z s z b")
    _exactly(_typed(conv, [_zeros("w", 4, 3, 3, 3, **small), scale, zero, bias], x=(1, 3, 8, 8)), 4 * 36 * 27, 112)
    product = _node("QLinearMatMul", "x s z w s z s z")
    _exactly(_typed(product, [_zeros("w", 6, 5, **small), scale, zero], x=(2, 7, 6)), 2 * 7 * 6 * 5, 30)
    conv = _node("ConvInteger", "x w z")
    _exactly(_typed(conv, [_zeros("w", 4, 3, 3, 3, **small), zero], x=(1, 3, 8, 8)), 4 * 36 * 27, 108)
    product = _node("MatMulInteger", "x w")
    _exactly(_typed(product, [_zeros("w", 6, 5, **small)], x=(2, 7, 6)), 2 * 7 * 6 * 5, 30)


def _typed(node, weights, **inputs):
    model = _model(node, weights=weights, **inputs)
    for info in model.graph.input:
        info.type.tensor_type.elem_type = TensorProto.INT8
    return model


def test_a_weight_that_is_restored_is_the_one_that_is_stored():
    weights = [_zeros("w8", 4, 3, 3, 3, kind=np.int8), _zeros("s", 4), _zeros("b32", 4, kind=np.int32), _zeros("t", 4)]
    restored = [_node("DequantizeLinear", "w8 s", "w", axis=0), _node("DequantizeLinear", "b32 t", "b", axis=0)]
    model = _model(*restored, _node("Conv", "x w b"), weights=weights, x=(1, 3, 8, 8))
    _exactly(model, 4 * 36 * 27, 108 + 4)


def test_a_weight_that_is_rounded_and_restored_counts_once():
    weights = [_zeros("w", 5, 6), _zeros("s"), _zeros("z", kind=np.int8)]
    ops = [_node("QuantizeLinear", "w s z", "q"), _node("DequantizeLinear", "q s z", "d"), _node("Transpose", "d", "t")]
    _exactly(_model(*ops, _node("MatMul", "x t"), weights=weights, x=(1, 6)), 30, 30)


# --- what ONNX Runtime calls its own ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes", "sizes", "macs"),
    [
        ("FusedConv", "x w b", {"activation": "Relu"}, {"x": (1, 3, 8, 8), "w": (4, 3, 3, 3), "y": (1, 4, 6, 6)}, 3888),
        ("FusedGemm", "x w b", {"transB": 1}, {"x": (1, 6), "w": (4, 6), "y": (1, 4)}, 24),
        ("FusedGemm", "x w b", {"transA": 1}, {"x": (6, 1), "w": (6, 4), "y": (1, 4)}, 24),
        ("FusedMatMul", "x w", {}, {"x": (2, 3, 6), "w": (6, 4), "y": (2, 3, 4)}, 144),
        ("FusedMatMul", "x w", {"transA": 1}, {"x": (2, 6, 3), "w": (6, 4), "y": (2, 3, 4)}, 144),
        ("FusedMatMul", "x w", {"transA": 1, "transBatchA": 1}, {"x": (6, 2, 3), "w": (6, 4), "y": (2, 3, 4)}, 144),
        ("FusedMatMul", "x w", {"transBatchA": 1}, {"x": (3, 2, 6), "w": (6, 4), "y": (2, 3, 4)}, 144),
        ("QGemm", "x s z w s z b", {"transB": 1}, {"x": (1, 6), "w": (4, 6), "y": (1, 4)}, 24),
        ("MatMulIntegerToFloat", "x w s s   b", {}, {"x": (1, 6), "w": (6, 4), "y": (1, 4)}, 24),
        ("DynamicQuantizeMatMul", "x w s  b", {}, {"x": (1, 6), "w": (6, 4), "y": (1, 4)}, 24),
    ],
)
def test_operations_of_a_runtime(kind, inputs, attributes, sizes, macs):
    node = _node(kind, inputs, domain=MICROSOFT, **attributes)
    weights = [_zeros("w", *sizes["w"]), _zeros("s", 1), _zeros("z", 1), _zeros("b", 4)]
    params = math.prod(sizes["w"]) + (4 if "b" in inputs.split() else 0)
    _exactly(_model(node, weights=weights, x=sizes["x"]), macs, params, shapes=sizes)


def test_convolutions_in_blocks():
    node = _node("Conv", "x w b", domain=BLOCKED)
    model = _model(node, weights=[_zeros("w", 8, 3, 3, 3), _zeros("b", 8)], x=(1, 3, 8, 8), stated=[_value("c", (1,))])
    _exactly(model, 8 * 36 * 27, 216 + 8, shapes={"x": (1, 3, 8, 8), "y": (1, 8, 6, 6)})


def test_what_the_file_says_of_sizes_counts_where_nothing_else_is_known():
    fused = _node("FusedConv", "x w", "c", domain=MICROSOFT)
    weights = [_zeros("w", 4, 3, 3, 3), _zeros("v", 2, 4, 1, 1)]
    stated = [_value("c", ("n", 4, 6, 6))]
    model = _model(fused, _node("Conv", "c v"), weights=weights, x=("n", 3, 8, 8), stated=stated)
    _exactly(model, 4 * 36 * 27 + 2 * 36 * 4, 108 + 8)


def test_what_the_file_says_of_sizes_does_not_overrule_the_standard():
    model = _model(_node("Conv", "x w", "c"), _node("Relu", "c"), weights=[_zeros("w", 4, 3, 3, 3)], x=(1, 3, 8, 8))
    model.graph.value_info.append(_value("c", (1, 4, 60, 60)))
    _exactly(model, 4 * 36 * 27, 108)


@pytest.mark.parametrize("kind", ["Attention", "MultiHeadAttention", "MatMulNBits", "NhwcFusedConv", "SomethingNew"])
def test_other_operations_of_a_runtime_are_named(kind):
    node = _node(kind, "x w", domain=MICROSOFT, name="a")
    _named(
        _model(node, weights=[_zeros("w", 4, 4)], x=(1, 5, 4)),
        f"a: what com.microsoft.{kind} multiplies is not known",
        shapes={"y": (1, 5, 4)},
    )


# --- what cannot be counted -------------------------------------------------------------------------------------------


def test_an_operation_that_is_not_known_is_named_not_counted_as_zero():
    _named(_model(_node("Det", "x", name="d"), x=(1, 3, 3)), "d: what Det multiplies is not known")
    _named(_model(_node("Conv", "x x", domain="elsewhere"), x=(1, 3)), "y: what elsewhere.Conv multiplies is not known")


def test_a_size_that_is_known_only_when_it_runs_is_named_but_its_weights_count():
    conv = _node("Conv", "x w", name="c")
    model = _model(conv, weights=[_zeros("w", 4, 3, 3, 3)], x=("n", 3, "h", "w"))
    _named(model, "c: the size of 'y' is not known before it runs", params=108)
    _exactly(model, 4 * 36 * 27, 108, shapes={"x": (1, 3, 8, 8), "y": (1, 4, 6, 6)})


def test_shapes_that_do_not_meet_are_named():
    model = _model(_node("Conv", "x w", name="c"), weights=[_zeros("w", 4, 3, 3)], x=(1, 3, 8, 8))
    _named(model, "c: the size of 'y' is not known before it runs", params=36)


@pytest.mark.parametrize("inputs", ["", "x", "x "])
def test_an_operation_without_its_weights_is_named(inputs):
    found = counts(_model(_node("ConvTranspose", inputs, name="c"), x=(1, 3, 8, 8)))
    assert found.not_counted == (f"c: the size of '{'' if inputs else inputs}' is not known before it runs",)


def test_too_few_dimensions_are_named():
    found = counts(_model(_node("Gemm", "x x", name="g"), x=(4,)), shapes={"y": (4, 4)})
    assert found.not_counted == ("g: multiplies 'x' of 1 dimensions",)


def test_weights_that_are_computed_are_named():
    ops = [_node("Add", "b b", "sum"), _node("Conv", "x w sum", name="c")]
    model = _model(*ops, weights=[_zeros("w", 4, 3, 3, 3), _zeros("b", 4)], x=(1, 3, 8, 8))
    _named(model, "c: its weight 'sum' is computed", macs=4 * 36 * 27, params=108)


def _if(*inner, **inputs):
    body = helper.make_graph(list(inner), "body", [], [_value(inner[-1].output[0], None)])
    return _node("If", "choice", name="branch", then_branch=body, else_branch=body)


def test_a_product_in_a_branch_is_named_at_any_depth():
    product = _node("MatMul", "x x", "m")
    for branch in (_if(product), _if(_if(product))):
        model = _model(branch, x=(4, 4), choice=())
        _named(model, "branch: If holds MatMul, and how often they run is not known")


def test_a_branch_that_only_moves_is_free():
    _exactly(_model(_if(_node("Squeeze", "x", "m")), x=(4, 1), choice=()), 0, 0)


def test_a_loop_is_named():
    ops = [_node("Identity", "go", "still"), _node("Conv", "state w", "next")]
    body = helper.make_graph(
        ops,
        "body",
        [_value("i", ()), _value("go", ()), _value("state", (1, 3, 8, 8))],
        [_value("still", ()), _value("next", None)],
    )
    model = _model(_node("Loop", "n  x", name="l", body=body), weights=[_zeros("w", 3, 3, 1, 1)], n=(), x=(1, 3, 8, 8))
    _named(model, "l: Loop holds Conv, and how often they run is not known")


def test_a_function_of_the_files_own_is_named():
    inner = helper.make_function(
        "own", "Twice", ["a"], ["b"], [_node("MatMul", "a a", "b")], [helper.make_opsetid("", 20)]
    )
    model = _model(_node("Twice", "x", name="t", domain="own"), x=(4, 4), functions=[inner])
    _named(model, "t: own.Twice is a function of the file's own")


def test_a_function_that_takes_a_standard_name_is_no_free_operation():
    inner = helper.make_function("", "Relu", ["a"], ["b"], [_node("MatMul", "a a", "b")], [helper.make_opsetid("", 20)])
    model = _model(_node("Relu", "x", name="t"), x=(4, 4), functions=[inner])
    _named(model, "t: Relu is a function of the file's own")


def test_sparse_weights_are_named():
    model = _model(_node("Conv", "x w", name="c"), x=(1, 3, 8, 8))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(_zeros("w", 1), _zeros("i", 1, kind=np.int64), [9]))
    assert counts(model).not_counted[0] == "w: is a sparse tensor"


# --- one image --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, "n", None])
def test_numbers_are_for_one_image(batch):
    ops = [_node("Conv", "x w", "c"), _node("Flatten", "c", "f"), _node("MatMul", "f v")]
    model = _model(*ops, weights=[_zeros("w", 4, 3, 3, 3), _zeros("v", 144, 2)], x=(batch, 3, 8, 8))
    _exactly(model, 4 * 36 * 27 + 144 * 2, 108 + 288)


def test_a_batch_that_was_run_is_divided():
    model = _model(_node("Conv", "x w"), weights=[_zeros("w", 4, 3, 3, 3)], x=("n", 3, 8, 8))
    _exactly(model, 4 * 36 * 27, 108, shapes={"x": (5, 3, 8, 8), "y": (5, 4, 6, 6)})


def test_rows_of_a_matrix_are_no_batch_of_images():
    _exactly(_model(_node("MatMul", "x w"), weights=[_zeros("w", 4, 2)], x=(5, 4)), 5 * 4 * 2, 8)


# --- parameters -------------------------------------------------------------------------------------------------------


def test_weights_used_twice_are_one_parameter_but_twice_the_work():
    ops = [_node("Conv", "x w", "c"), _node("Conv", "c w")]
    _exactly(_model(*ops, weights=[_zeros("w", 3, 3, 1, 1)], x=(1, 3, 8, 8)), 2 * 64 * 9, 9)


def test_norms_have_scale_and_bias_but_no_statistics():
    values = [_zeros(name, 6) for name in "abcd"]
    image = {"x": (1, 6, 2, 6)}
    _exactly(_model(_node("BatchNormalization", "x a b c d"), weights=values, **image), 0, 12)
    _exactly(_model(_node("InstanceNormalization", "x a b"), weights=values, **image), 0, 12)
    _exactly(_model(_node("LayerNormalization", "x a b"), weights=values, **image), 0, 12)
    _exactly(_model(_node("LayerNormalization", "x a"), weights=values, **image), 0, 6)
    group = _node("GroupNormalization", "x a b", num_groups=2)
    _exactly(_model(group, weights=values, opset=21, **image), 0, 12)
    _exactly(_model(_node("RMSNormalization", "x a"), weights=values, opset=23, **image), 0, 6)
    skip = _node("SkipLayerNormalization", "x x a b c", domain=MICROSOFT)
    _exactly(_model(skip, weights=values, **image), 0, 18)


def test_a_slope_is_a_parameter():
    _exactly(_model(_node("PRelu", "x s"), weights=[_zeros("s", 6, 1, 1)], x=(1, 6, 2, 2)), 0, 6)


def test_constants_of_shapes_and_preprocessing_are_no_parameters():
    weights = [_zeros("mean", 3, 1, 1), _zeros("target", 2, kind=np.int64), _zeros("whole", 3, 3, kind=np.int32)]
    ops = [_node("Sub", "x mean", "s"), _node("Reshape", "s target", "r"), _node("MatMul", "whole whole")]
    _exactly(_model(*ops, weights=weights, x=(1, 3, 8, 8)), 27, 0)


def test_weights_stand_in_nodes_too():
    constants = [
        _node("Constant", "", "w", value=_zeros("", 4, 3, 3, 3)),
        _node("Constant", "", "b", value_floats=[0.0] * 4),
    ]
    _exactly(_model(*constants, _node("Conv", "x w b"), x=(1, 3, 8, 8)), 4 * 36 * 27, 108 + 4)


def test_a_weight_without_values_has_a_size_all_the_same():
    weight = TensorProto(name="w", dims=(4, 3, 3, 3), data_type=TensorProto.FLOAT)
    _exactly(_model(_node("Conv", "x w"), weights=[weight], x=(1, 3, 8, 8)), 4 * 36 * 27, 108)


# --- against torch ----------------------------------------------------------------------------------------------------


def _torch():
    return pytest.importorskip("torch", reason="the extra torch is not installed")


def _block(torch):
    """A transformer's block as vision models write it: norms, attention of 2 heads, two linear layers."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(8) for _ in range(2))
            self.qkv, self.out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)
            self.wide, self.narrow = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)

        def forward(self, x):
            queries, keys, values = self.qkv(self.norms[0](x)).reshape(1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
            mixed = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
            x = x + self.out(mixed.transpose(1, 2).reshape(1, 5, 8))
            return x + self.narrow(torch.nn.functional.gelu(self.wide(self.norms[1](x))))

    return Block()


# What torch multiplies, worked out from its layers' definitions; parameters are torch's own.
TORCH = {
    "transposed": (lambda torch: torch.nn.ConvTranspose2d(6, 3, 2, stride=2), (1, 6, 5, 5), 6 * 25 * 3 * 4),
    "transposed, grouped": (
        lambda torch: torch.nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        (1, 6, 5, 5),
        6 * 25 * 2 * 9,
    ),
    "grouped": (lambda torch: torch.nn.Conv2d(8, 12, 3, groups=4, padding=1), (1, 8, 6, 6), 12 * 36 * 2 * 9),
    "1-D": (lambda torch: torch.nn.Conv1d(4, 6, 5, stride=2), (1, 4, 21), 6 * 9 * 4 * 5),
    "3-D": (lambda torch: torch.nn.Conv3d(2, 3, 3), (1, 2, 5, 5, 5), 3 * 27 * 2 * 27),
    "linear on a sequence": (lambda torch: torch.nn.Linear(8, 3), (1, 5, 8), 5 * 8 * 3),
    "group norm, spelt out": (lambda torch: torch.nn.GroupNorm(2, 6), (1, 6, 4, 4), 0),
    "layer norm, spelt out": (lambda torch: torch.nn.LayerNorm(8), (1, 5, 8), 0),
    "instance norm": (lambda torch: torch.nn.InstanceNorm2d(6, affine=True), (1, 6, 4, 4), 0),
    "attention": (_block, (1, 5, 8), 5 * 8 * (24 + 8 + 32 + 32) + 2 * 2 * 5 * 5 * 4),
    "LSTM": (lambda torch: _Recurrent.of(torch, "LSTM"), (9, 1, 5), 9 * 2 * 4 * 7 * (5 + 7)),
    "GRU": (lambda torch: _Recurrent.of(torch, "GRU"), (9, 1, 5), 9 * 2 * 3 * 7 * (5 + 7)),
}


class _Recurrent:
    @staticmethod
    def of(torch, kind):
        class First(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = getattr(torch.nn, kind)(5, 7, bidirectional=True)

            def forward(self, x):
                return self.layer(x)[0]

        return First()


@pytest.mark.parametrize("name", TORCH)
def test_a_module_of_torch_has_its_own_numbers(name):
    torch = _torch()
    make, shape, macs = TORCH[name]
    module = make(torch).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)  # the exporter makes one of equal ones
    file = io.BytesIO()
    opset = 16 if name == "layer norm, spelt out" else 17
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(module, (torch.zeros(shape),), file, dynamo=False, opset_version=opset)
    params = sum(parameter.numel() for parameter in module.parameters())
    _exactly(onnx.load_model_from_string(file.getvalue()), macs, params)
