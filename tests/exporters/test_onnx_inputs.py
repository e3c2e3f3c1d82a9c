"""Inputs of any model: sizes from the file or the user, values of any type of numbers."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters.onnx_inputs import (
    InputRequest,
    inputs_of,
    packed_values,
    parsed_shapes,
    read_data,
    shapes_of,
    values_of,
)

FLOAT = TensorProto.FLOAT


def inputs(*values, weights=()):
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in values]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", infos, [])
    graph.initializer.extend(helper.make_tensor(name, FLOAT, [1], [0.0]) for name in weights)
    return inputs_of(helper.make_model(graph), where="m.onnx")


def said(*words, **arrays):
    return InputRequest(shapes=parsed_shapes(words), data=arrays)


def test_weights_listed_as_inputs_are_none():
    assert [each.name for each in inputs(("x", FLOAT, (1, 3)), ("w", FLOAT, (1,)), weights=["w"])] == ["x"]


@pytest.mark.parametrize("free", ["batch", -1, None])
def test_a_free_batch_is_one_image_or_that_of_the_table(free):
    model = inputs(("x", FLOAT, (free, 3, 8, 9)))
    assert shapes_of(model, said(), where="m") == {"x": (1, 3, 8, 9)}
    assert shapes_of(model, said(), batch=4, where="m") == {"x": (4, 3, 8, 9)}


def test_a_free_side_is_refused_with_the_option_filled_in():
    model = inputs(("images", FLOAT, ("n", 3, "height", "width")))
    with pytest.raises(ConfigError) as caught:
        shapes_of(model, said(), where="m.onnx")
    assert str(caught.value) == (
        "m.onnx: the size of input 'images' is not fixed in the file; say it: --input images=1x3x224x224"
    )


def test_all_free_inputs_are_in_the_option_that_is_proposed():
    model = inputs(("a", FLOAT, (1, "s")), ("b", TensorProto.INT64, ("n", 7)), ("c", FLOAT, None))
    with pytest.raises(ConfigError, match=r"say it: --input a=1x224 --input c=1x3x224x224$"):
        shapes_of(model, said(), where="m")


@pytest.mark.parametrize("word", ["1x3x32x64", "images=1x3x32x64", "images=1X3X32X64"])
def test_a_shape_is_taken_with_or_without_a_name(word):
    model = inputs(("images", FLOAT, ("n", 3, "h", "w")))
    assert shapes_of(model, said(word), where="m") == {"images": (1, 3, 32, 64)}


def test_several_inputs_want_names():
    model = inputs(("a", FLOAT, ("n", 3)), ("b", FLOAT, ("n", 4)))
    with pytest.raises(ConfigError, match=r"m: has 2 inputs: a, b; name one: --input a=1x3"):
        shapes_of(model, said("2x3"), where="m")
    assert shapes_of(model, said("a=2x3"), where="m") == {"a": (2, 3), "b": (1, 4)}


@pytest.mark.parametrize("word", ["1x3x32x32", "1x1x224", "2x1x224x224"])
def test_a_shape_that_the_file_contradicts_is_refused(word):
    model = inputs(("x", FLOAT, (1, 1, 224, 224)))
    with pytest.raises(ConfigError, match="input 'x' takes 1x1x224x224, not"):
        shapes_of(model, said(word), where="m")


@pytest.mark.parametrize("word", ["", "x", "1x", "ax3", "0x3", "-1x3", "1x3.5", "x=1,3", "1x99999999999"])
def test_a_word_that_is_no_shape_is_refused(word):
    with pytest.raises(ConfigError, match="expected a shape such as 1x3x320x320"):
        parsed_shapes([word])


def test_two_shapes_for_one_input_are_refused():
    with pytest.raises(ConfigError, match="two shapes for input 'x'"):
        parsed_shapes(["x=1x3", "x=1x4"])


def test_an_input_beyond_measure_is_refused():
    model = inputs(("x", FLOAT, ("a", "b")))
    with pytest.raises(ConfigError, match="input 'x' is too large"):
        shapes_of(model, said("100000x100000"), where="m")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (TensorProto.FLOAT, "float32"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT8, "int8"),
        (TensorProto.INT64, "int64"),
        (TensorProto.INT32, "int32"),
        (TensorProto.BOOL, "bool"),
    ],
)
def test_values_have_the_type_and_shape_of_their_input(kind, name):
    model = inputs(("x", kind, (2, 3)))
    made = values_of(model, {"x": (2, 3)}, {})["x"]
    assert (made.dtype.name, made.shape) == (name, (2, 3))
    again = values_of(model, {"x": (2, 3)}, {})["x"]
    assert np.array_equal(made, again)


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.BFLOAT16, TensorProto.COMPLEX64])
def test_an_input_of_no_numbers_is_refused(kind):
    with pytest.raises(InputFileError, match="input 'x'"):
        inputs(("x", kind, (1,)))


def test_the_users_own_values_are_taken_with_their_shape(tmp_path):
    model = inputs(("x", FLOAT, ("n", "k")), ("size", TensorProto.INT64, (2,)))
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.ones((3, 5), np.float32), size=np.array([7, 8]), other=np.zeros(1))
    request = InputRequest(shapes={}, data=read_data(path))
    shapes = shapes_of(model, request, where="m")
    assert shapes == {"x": (3, 5), "size": (2,)}
    assert values_of(model, shapes, request.data)["size"].tolist() == [7, 8]


def test_values_of_another_type_or_missing_ones_are_refused():
    model = inputs(("x", FLOAT, (2,)))
    wrong = InputRequest(shapes={}, data={"x": np.zeros(2)})
    with pytest.raises(ConfigError, match="input 'x' takes float32 values, not float64"):
        values_of(model, {"x": (2,)}, wrong.data)
    with pytest.raises(ConfigError, match="no array for input 'x'"):
        shapes_of(model, InputRequest(shapes={}, data={"y": np.zeros(2)}), where="m")


def test_data_that_is_no_archive_of_numbers_is_refused(tmp_path):
    path = tmp_path / "inputs.npz"
    with pytest.raises(InputFileError, match="cannot be read: No such file"):
        read_data(path)
    path.write_bytes(b"no archive")
    with pytest.raises(InputFileError, match=r"is no \.npz file of arrays of numbers"):
        read_data(path)
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(InputFileError, match=r"is no \.npz file of arrays of numbers"):
        read_data(path)
    np.savez(path, x=np.array(["text"]))
    with pytest.raises(InputFileError, match="'x' holds <U4, not numbers"):
        read_data(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputFileError, match="holds one array without a name"):
        read_data(path)


def test_names_of_tensors_may_be_anything_in_what_is_packed():
    import io

    values = {"../a b": np.zeros(2), "": np.ones(1)}
    with np.load(io.BytesIO(packed_values(values)), allow_pickle=False) as archive:
        assert archive["names"].tolist() == ["../a b", ""]
        assert archive["array1"].tolist() == [1.0]
