"""What ONNX Runtime makes of a model is read as it says: merged, in its own layout, by the names of the model."""

import onnx
import pytest
from foreign_graphs import GRAPHS, Drawing, stem, weights_beside
from foreign_networks import MEMBERS, model, quantised

from deepmad_hw.errors import InputFileError
from deepmad_hw.exporters.runtime_graph import operations, optimised

pytest.importorskip("onnxruntime", reason="the extra cpu is not installed")


def read(made, **options):
    return operations(optimised(made.SerializeToString(), **options), source=made)


def kinds(found):
    return [operation.kind.removeprefix("nchwc.") for operation in found if not operation.kind.startswith("Reorder")]


def skip_without_blocks(found):
    if not any(operation.kind.startswith("nchwc.") for operation in found):
        pytest.skip("ONNX Runtime has no layout of blocks for this processor")


def test_a_convolution_holds_its_window_its_activation_and_its_groups():
    drawing = stem()
    drawing.op("Clip", drawing.conv(32, 5, 2, group=32), drawing.weight(0.0), drawing.weight(6.0))
    found = next(operation for operation in read(drawing.model()) if operation.group == 32)
    assert found.kind.removeprefix("nchwc.") in ("Conv", "FusedConv")
    assert (found.kernel_shape, found.strides, found.pads) == ((5, 5), (2, 2), (2, 2, 2, 2))
    assert (found.activation, found.activation_params) == ("Clip", (0.0, 6.0))
    assert (found.inputs, found.residual, len(found.constants)) == (("relu_3",), False, 2)


def test_a_residual_sum_is_seen_where_it_was_merged():
    drawing = stem()
    start = drawing.last
    drawing.op("Relu", drawing.op("Add", drawing.conv(32, source=drawing.block(32)), start))
    found = read(drawing.model())
    skip_without_blocks(found)
    assert kinds(found) == ["Conv"] * 4
    assert [operation.residual for operation in found if "Conv" in operation.kind] == [False, False, False, True]
    assert found[3].inputs == ("relu_5", "relu_3")
    assert found[3].activation == "Relu"


def test_the_runtime_s_marks_are_taken_off_the_names_of_tensors():
    made = model("upsample_of_old")
    tensors = {name for node in made.graph.node for name in node.output} | {"image"}
    found = read(made)
    assert {name for operation in found for name in (*operation.inputs, *operation.outputs)} <= tensors
    assert found[-1].outputs == (made.graph.output[0].name,)


def test_every_operation_reads_what_was_made_before_it():
    made = model("residuals")
    ready = {"image"}
    for operation in read(made):
        assert set(operation.inputs) <= ready, operation
        ready.update(operation.outputs)


def test_operations_on_int8_are_named_after_the_model_s_tensors():
    made = quantised(model("residuals"))
    tensors = {name for node in made.graph.node for name in node.output} | {"image"}
    found = read(made)
    assert {"QLinearConv", "QLinearAdd", "QGemm"} <= set(kinds(found))
    assert {name for operation in found for name in operation.outputs} <= tensors


def test_bodies_follow_the_operation_that_they_belong_to():
    found = read(model("a_choice"))
    assert [(operation.kind, operation.inside) for operation in found if operation.inside] == [
        ("Relu", "node_if_6"),
        ("Sigmoid", "node_if_6"),
    ]


def test_weights_beside_the_file_are_found(tmp_path):
    path = weights_beside(tmp_path)
    made = onnx.load(path, load_external_data=False)
    found = operations(optimised(path.read_bytes(), folder=tmp_path), source=made)
    assert [operation.kind for operation in found] == [operation.kind for operation in read(model("residuals"))]


def test_a_model_that_the_runtime_refuses_is_refused_in_one_line():
    with pytest.raises(InputFileError, match=r"ONNX Runtime refuses it: .*HardSwish") as error:
        read(model("hard_swish_before_its_time"))
    assert "\n" not in str(error.value)


def test_where_the_channels_lie_is_said():
    drawing = stem()
    features = drawing.op("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    drawing.op("Elu", drawing.op("Relu", features))
    drawing.op("Transpose", drawing.conv(32), perm=[0, 2, 3, 1])
    found = read(drawing.model())
    skip_without_blocks(found)
    last = {operation.kind: (operation.blocked, operation.channels_last) for operation in found}
    assert last["Relu"] == (True, False)
    assert last["Elu"] == (False, False)
    assert last["ReorderInput"] == (False, False)
    assert last["ReorderOutput"] == (True, True)


def test_a_sum_of_two_images_stays_an_operation():
    drawing = Drawing(1, 8, 16, 16)
    drawing.input("other", 1, 8, 16, 16)
    drawing.op("Add", "image", "other")
    (found,) = read(drawing.model())
    assert (found.kind, found.inputs, found.residual, found.constants) == ("Add", ("image", "other"), False, ())


@pytest.mark.parametrize("name", [name for name in GRAPHS if not MEMBERS[name].refused])
def test_every_graph_of_the_corpus_is_read(name):
    found = read(model(name))
    assert found
    assert all(operation.kind and operation.outputs for operation in found)
