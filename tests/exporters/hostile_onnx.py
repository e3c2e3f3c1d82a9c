"""Model files made to do harm, each by one function: a folder -> the file, with what it would reach for beside it."""

import itertools
import os

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

HOSTILE = {}  # refused before they are loaded
RUNNING = {}  # may be loaded, and do harm when they run


def _hostile(function):
    HOSTILE[function.__name__] = function
    return function


def _running(function):
    RUNNING[function.__name__] = function
    return function


def _value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def _model(*nodes, initialisers=(), inputs=None, output="y", functions=(), opset=20):
    graph = helper.make_graph(
        list(nodes) or [_node("Relu", ["x"], ["y"])],
        "hostile",
        list(inputs or [_value("x", (1, 3, 8, 8))]),
        [_value(output, None)],
        list(initialisers),
    )
    return helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)], functions=list(functions)
    )


def _node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def _saved(folder, model):
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _weight(shape=(1,), **fields):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape)
    for name, value in fields.items():
        setattr(tensor, name, value)
    return tensor


def _outside(location, **more):
    tensor = _weight(data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _secret(folder):
    """Write the file that must stay closed, outside the model's folder."""
    secret = folder.parent / f"{folder.name}.secret"
    secret.write_bytes(bytes(4))
    return secret


def _with_weight(tensor):
    return _model(_node("Add", ["x", "w"], ["y"]), initialisers=[tensor])


@_hostile
def external_data_in_a_parent_folder(folder):
    return _saved(folder, _with_weight(_outside(f"../{_secret(folder).name}")))


@_hostile
def external_data_by_absolute_path(folder):
    return _saved(folder, _with_weight(_outside(str(_secret(folder)))))


@_hostile
def external_data_by_a_path_that_comes_back(folder):
    return _saved(folder, _with_weight(_outside(f"sub/../../{_secret(folder).name}")))


@_hostile
def external_data_behind_a_symbolic_link(folder):
    (folder / "weights.bin").symlink_to(_secret(folder))
    return _saved(folder, _with_weight(_outside("weights.bin")))


@_hostile
def external_data_behind_a_hard_link(folder):
    os.link(_secret(folder), folder / "weights.bin")
    return _saved(folder, _with_weight(_outside("weights.bin")))


@_hostile
def external_data_behind_a_linked_folder(folder):
    (folder / "sub").symlink_to(_secret(folder).parent)
    return _saved(folder, _with_weight(_outside(f"sub/{folder.name}.secret")))


@_hostile
def external_data_of_a_device(folder):
    return _saved(folder, _with_weight(_outside("/dev/zero", length=str(2**40))))


@_hostile
def external_data_of_a_pipe_that_never_answers(folder):
    os.mkfifo(folder / "weights.bin")
    return _saved(folder, _with_weight(_outside("weights.bin")))


@_hostile
def external_data_at_a_negative_offset(folder):
    (folder / "weights.bin").write_bytes(bytes(4))
    return _saved(folder, _with_weight(_outside("weights.bin", offset="-4", length="4")))


@_hostile
def external_data_that_says_it_is_inside(folder):
    tensor = _outside(f"../{_secret(folder).name}")
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = bytes(4)
    return _saved(folder, _with_weight(tensor))


@_hostile
def external_data_of_a_constant(folder):
    constant = _node("Constant", [], ["w"], value=_outside(f"../{_secret(folder).name}"))
    return _saved(folder, _model(constant, _node("Add", ["x", "w"], ["y"])))


def _branch(*nodes):
    return helper.make_graph(list(nodes), "inner", [], [_value("c", None)])


@_hostile
def external_data_in_a_branch(folder):
    branch = _branch(_node("Constant", [], ["c"], value=_outside(f"../{_secret(folder).name}")))
    return _saved(folder, _model(_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)))


@_hostile
def external_data_in_a_function(folder):
    constant = _node("Constant", [], ["c"], value=_outside(f"../{_secret(folder).name}"))
    function = helper.make_function("own", "f", ["a"], ["c"], [constant], [helper.make_opsetid("", 20)])
    return _saved(folder, _model(_node("f", ["x"], ["y"], domain="own"), functions=[function]))


@_hostile
def external_data_of_a_sparse_tensor(folder):
    model = _model()
    values = _outside(f"../{_secret(folder).name}")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64), "i"), [1])
    )
    return _saved(folder, model)


@_hostile
def a_weight_of_a_terabyte(folder):
    return _saved(folder, _with_weight(_weight((2**38,), raw_data=b"")))


@_hostile
def a_weight_whose_size_overflows(folder):
    return _saved(folder, _with_weight(_weight((2**32, 2**32), raw_data=b"")))


@_hostile
def a_weight_of_negative_size(folder):
    return _saved(folder, _with_weight(_weight((-1,), raw_data=bytes(4))))


@_hostile
def a_weight_of_two_negative_sizes(folder):
    return _saved(folder, _with_weight(_weight((-2, -2), raw_data=bytes(16))))


@_hostile
def a_weight_with_too_few_bytes(folder):
    return _saved(folder, _with_weight(_weight((1000,), raw_data=bytes(4))))


@_hostile
def a_weight_with_too_many_bytes(folder):
    return _saved(folder, _with_weight(_weight((1,), raw_data=bytes(4000))))


@_hostile
def a_weight_with_too_few_numbers(folder):
    tensor = _weight((3, 8, 8))
    tensor.float_data.append(1.0)
    return _saved(folder, _with_weight(tensor))


@_hostile
def a_weight_of_texts(folder):
    tensor = _weight((1,), data_type=TensorProto.STRING)
    tensor.string_data.append(b"x" * 1000)
    return _saved(folder, _with_weight(tensor))


@_hostile
def a_weight_of_an_unknown_type(folder):
    return _saved(folder, _with_weight(_weight((1,), data_type=999, raw_data=bytes(4))))


@_hostile
def a_weight_in_segments(folder):
    tensor = _weight((1,), raw_data=bytes(4))
    tensor.segment.begin, tensor.segment.end = 0, 2**40
    return _saved(folder, _with_weight(tensor))


@_hostile
def a_weight_of_many_dimensions(folder):
    return _saved(folder, _with_weight(_weight((1,) * 10_000, raw_data=bytes(4))))


@_hostile
def an_image_of_a_terabyte(folder):
    return _saved(folder, _model(inputs=[_value("x", (1, 3, 2**20, 2**20))]))


@_hostile
def an_image_of_negative_size(folder):
    return _saved(folder, _model(inputs=[_value("x", (1, 3, -8, 8))]))


@_hostile
def a_batch_of_a_billion(folder):
    return _saved(folder, _model(inputs=[_value("x", (10**9, 3, 8, 8))]))


@_hostile
def a_cycle(folder):
    return _saved(
        folder, _model(_node("Add", ["x", "b"], ["a"]), _node("Relu", ["a"], ["b"]), _node("Relu", ["a"], ["y"]))
    )


@_hostile
def an_operation_on_itself(folder):
    return _saved(folder, _model(_node("Add", ["x", "y"], ["y"])))


@_hostile
def a_tensor_from_nowhere(folder):
    return _saved(folder, _model(_node("Add", ["x", "nothing"], ["y"])))


@_hostile
def a_tensor_computed_twice(folder):
    return _saved(folder, _model(_node("Relu", ["x"], ["y"]), _node("Sigmoid", ["x"], ["y"])))


@_hostile
def an_image_that_is_overwritten(folder):
    return _saved(folder, _model(_node("Relu", ["x"], ["x"]), output="x"))


@_hostile
def two_weights_of_one_name(folder):
    weights = [numpy_helper.from_array(np.zeros(size, np.float32), "w") for size in (1, 8)]
    return _saved(folder, _model(_node("Add", ["x", "w"], ["y"]), initialisers=weights))


@_hostile
def two_operations_of_one_name(folder):
    return _saved(folder, _model(_node("Relu", ["x"], ["a"], name="n"), _node("Relu", ["a"], ["y"], name="n")))


@_hostile
def an_operation_of_a_custom_domain(folder):
    model = _model(_node("Run", ["x"], ["y"], domain="evil.ops"))
    model.opset_import.append(helper.make_opsetid("evil.ops", 1))
    return _saved(folder, model)


@_hostile
def an_operation_of_a_runtimes_own_domain(folder):
    model = _model(_node("FusedConv", ["x"], ["y"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return _saved(folder, model)


@_hostile
def an_operation_that_does_not_exist(folder):
    return _saved(folder, _model(_node("System", ["x"], ["y"])))


@_hostile
def a_function_that_calls_itself(folder):
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "f", ["a"], ["b"], [_node("f", ["a"], ["b"], domain="own")], opsets)
    return _saved(folder, _model(_node("f", ["x"], ["y"], domain="own"), functions=[function]))


@_hostile
def functions_that_double_forty_times(folder):
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function(
            "own",
            f"f{level}",
            ["a"],
            ["b"],
            [_node(f"f{level + 1}", ["a"], ["m"], domain="own"), _node(f"f{level + 1}", ["m"], ["b"], domain="own")],
            opsets,
        )
        for level in range(40)
    ]
    functions.append(helper.make_function("own", "f40", ["a"], ["b"], [_node("Relu", ["a"], ["b"])], opsets))
    return _saved(folder, _model(_node("f0", ["x"], ["y"], domain="own"), functions=functions))


@_hostile
def a_loop_without_end(folder):
    body = helper.make_graph(
        [_node("Identity", ["go"], ["on"])],
        "body",
        [_value("i", (), TensorProto.INT64), _value("go", (), TensorProto.BOOL)],
        [_value("on", (), TensorProto.BOOL)],
    )
    forever = numpy_helper.from_array(np.array(2**62), "forever")
    return _saved(folder, _model(_node("Loop", ["forever", ""], ["y"], body=body), initialisers=[forever]))


def _nested(levels, *, empty=True):
    branch = leaf = _branch(_node("Constant", [], ["c"], value_float=1.0))
    other = helper.make_graph([], "e", [], []) if empty else leaf
    for _ in range(levels):
        branch = _branch(_node("If", ["x"], ["c"], then_branch=branch, else_branch=other))
    return _model(_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))


@_hostile
def branches_nested_deeply(folder):
    return _saved(folder, _nested(15))


@_hostile
def messages_nested_beyond_measure(folder):
    data = b""
    for _ in range(20_000):  # type.sequence_type.elem_type.sequence_type ..., as deep as the file is long
        data = b"\x22" + _varint(len(data)) + data
        data = b"\x0a" + _varint(len(data)) + data
    value = b"\x0a\x01x\x12" + _varint(len(data)) + data
    graph = b"\x5a" + _varint(len(value)) + value
    path = folder / "model.onnx"
    path.write_bytes(b"\x08\x0a\x3a" + _varint(len(graph)) + graph)
    return path


def _varint(number):
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


@_hostile
def an_attribute_of_a_million_numbers(folder):
    return _saved(folder, _model(_node("Transpose", ["x"], ["y"], perm=[0] * 10**6)))


@_hostile
def an_attribute_of_megabytes_of_text(folder):
    return _saved(folder, _model(_node("Gelu", ["x"], ["y"], approximate="n" * 10**7)))


@_hostile
def a_window_larger_than_any_image(folder):
    node = _node("AveragePool", ["x"], ["y"], kernel_shape=[2**31, 2**31], pads=[2**30] * 4)
    return _saved(folder, _model(node))


@_hostile
def an_axis_beyond_all_numbers(folder):
    return _saved(folder, _model(_node("Flatten", ["x"], ["y"], axis=-(2**63))))


@_hostile
def a_few_bytes_that_become_a_terabyte(folder):
    shape = numpy_helper.from_array(np.array([2**20, 2**20]), "s")
    return _saved(folder, _model(_node("ConstantOfShape", ["s"], ["y"]), initialisers=[shape]))


@_hostile
def a_range_without_end(folder):
    ends = [numpy_helper.from_array(np.array(value), name) for name, value in (("a", 0), ("b", 2**40), ("c", 1))]
    return _saved(folder, _model(_node("Range", ["a", "b", "c"], ["y"]), initialisers=ends))


@_hostile
def an_image_doubled_forty_times(folder):
    names = ["x", *(f"t{level}" for level in range(39)), "y"]
    nodes = [_node("Concat", [one, one], [other], axis=0) for one, other in itertools.pairwise(names)]
    return _saved(folder, _model(*nodes))


@_hostile
def an_image_repeated_a_billion_times(folder):
    repeats = numpy_helper.from_array(np.array([10**9, 1, 1, 1]), "r")
    return _saved(folder, _model(_node("Tile", ["x", "r"], ["y"]), initialisers=[repeats]))


@_hostile
def sizes_that_depend_on_the_pixels(folder):
    return _saved(folder, _model(_node("NonZero", ["x"], ["y"])))


@_hostile
def a_shape_that_contradicts_itself(folder):
    shape = numpy_helper.from_array(np.array([7, -1]), "s")
    return _saved(folder, _model(_node("Reshape", ["x", "s"], ["y"]), initialisers=[shape]))


@_hostile
def a_million_empty_operations(folder):
    graph = b"\x0a\x00" * 10**6
    path = folder / "model.onnx"
    path.write_bytes(b"\x08\x0a\x3a" + _varint(len(graph)) + graph)
    return path


@_hostile
def training_steps_inside(folder):
    model = _model()
    model.training_info.add().initialization.CopyFrom(_with_weight(_outside(f"../{_secret(folder).name}")).graph)
    return _saved(folder, model)


@_hostile
def an_input_that_is_a_list(folder):
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, (1,)))
    return _saved(folder, _model(_node("SequenceLength", ["x"], ["y"]), inputs=[helper.make_value_info("x", kind)]))


@_hostile
def operations_of_a_version_to_come(folder):
    return _saved(folder, _model(opset=9999))


@_hostile
def no_version_at_all(folder):
    model = _model()
    del model.opset_import[:]
    return _saved(folder, model)


@_hostile
def a_file_that_ends_too_soon(folder):
    path = _saved(folder, _with_weight(numpy_helper.from_array(np.zeros(1000, np.float32), "w")))
    path.write_bytes(path.read_bytes()[:-500])
    return path


@_hostile
def a_pickle(folder):
    path = folder / "model.onnx"
    path.write_bytes(b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.")
    return path


@_hostile
def a_pipe_in_place_of_a_file(folder):
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


@_hostile
def an_empty_model(folder):
    return _saved(folder, ModelProto(ir_version=10))


# --- what honest networks may have: graphs in attributes, operations of the runtime, sizes known at run time only ---


@_hostile
def graphs_nested_beyond_measure(folder):
    return _saved(folder, _nested(12, empty=False))


@_hostile
def an_operation_that_reads_another_file(folder):
    model = _model(
        _node("EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context=str(_secret(folder)))
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return _saved(folder, model)


@_hostile
def a_branch_that_uses_what_is_not_there(folder):
    branch = _branch(_node("Relu", ["nothing"], ["c"]))
    condition = numpy_helper.from_array(np.array(True), "yes")
    return _saved(
        folder, _model(_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch), initialisers=[condition])
    )


@_hostile
def a_weight_of_a_branch_outside(folder):
    branch = _branch(_node("Identity", ["w"], ["c"]))
    branch.initializer.append(_outside(f"../{_secret(folder).name}"))
    condition = numpy_helper.from_array(np.array(True), "yes")
    return _saved(
        folder, _model(_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch), initialisers=[condition])
    )


@_hostile
def many_operations_in_many_branches(folder):
    many = [_node("Constant", [], ["c0"], value_float=1.0)]
    many += [_node("Relu", [f"c{index}"], [f"c{index + 1}"]) for index in range(60_000)]
    branch = helper.make_graph(many, "inner", [], [_value("c60000", None)])
    condition = numpy_helper.from_array(np.array(True), "yes")
    return _saved(
        folder, _model(_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch), initialisers=[condition])
    )


@_hostile
def external_data_of_negative_length(folder):
    return _saved(folder, _with_weight(_outside("weights.bin", length="-4")))


@_hostile
def external_data_longer_than_its_tensor(folder):
    (folder / "weights.bin").write_bytes(bytes(4000))
    return _saved(folder, _with_weight(_outside("weights.bin", length="4000")))


@_hostile
def external_data_at_an_offset_beyond_all_numbers(folder):
    (folder / "weights.bin").write_bytes(bytes(4))
    return _saved(folder, _with_weight(_outside("weights.bin", offset="9" * 30)))


@_hostile
def external_data_without_a_name(folder):
    return _saved(folder, _with_weight(_outside("")))


@_hostile
def external_data_of_the_folder_itself(folder):
    return _saved(folder, _with_weight(_outside(".")))


@_hostile
def external_data_with_a_zero_in_its_name(folder):
    return _saved(folder, _with_weight(_outside("weights\0.bin")))


@_running
def a_loop_that_never_ends(folder):
    body = helper.make_graph(
        [_node("Identity", ["go"], ["on"]), _node("Identity", ["before"], ["after"])],
        "body",
        [_value("i", (), TensorProto.INT64), _value("go", (), TensorProto.BOOL), _value("before", (1, 3, 8, 8))],
        [_value("on", (), TensorProto.BOOL), _value("after", (1, 3, 8, 8))],
    )
    constants = [numpy_helper.from_array(np.array(2**62), "forever"), numpy_helper.from_array(np.array(True), "yes")]
    return _saved(folder, _model(_node("Loop", ["forever", "yes", "x"], ["y"], body=body), initialisers=constants))


@_running
def a_loop_that_doubles_its_tensor(folder):
    body = helper.make_graph(
        [_node("Identity", ["go"], ["on"]), _node("Concat", ["before", "before"], ["after"], axis=0)],
        "body",
        [_value("i", (), TensorProto.INT64), _value("go", (), TensorProto.BOOL), _value("before", None)],
        [_value("on", (), TensorProto.BOOL), _value("after", None)],
    )
    constants = [numpy_helper.from_array(np.array(60), "sixty"), numpy_helper.from_array(np.array(True), "yes")]
    return _saved(folder, _model(_node("Loop", ["sixty", "yes", "x"], ["y"], body=body), initialisers=constants))


@_running
def a_terabyte_whose_size_is_computed(folder):
    nodes = [
        _node("NonZero", ["x"], ["n"]),
        _node("Shape", ["n"], ["s"]),
        _node("Mul", ["s", "big"], ["large"]),
        _node("ConstantOfShape", ["large"], ["y"]),
    ]
    return _saved(folder, _model(*nodes, initialisers=[numpy_helper.from_array(np.array([2**20, 2**14]), "big")]))


@_running
def an_operation_of_the_runtime_on_the_wrong_tensors(folder):
    model = _model(
        _node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft", activation="Relu", kernel_shape=[3, 3]),
        initialisers=[numpy_helper.from_array(np.zeros((4, 5, 3, 3), np.float32), "w")],
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return _saved(folder, model)
