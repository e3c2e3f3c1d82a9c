"""Model files with faults of structure: our own exports, changed here and there, each by its number the same again.

Every function of `MUTATIONS` changes one thing of a model. What comes out is parsed most of the time, and seldom valid.
"""

import random
import struct

import numpy as np
from onnx import AttributeProto, TensorProto, helper

from deepmad_hw.exporters import onnx_int8
from deepmad_hw.exporters.onnx_graph import architecture_metadata, export_model, initial_weights
from deepmad_hw.network import families
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.network.expand import expand

MUTATIONS = []
MOST_MUTATIONS = 2

NUMBERS = (0, 1, 2, 3, 5, 7, 33, 1000, 2**20, 2**31 - 1, 2**31, 2**62, -1, -2, -3, -(2**31), -(2**63))
FLOATS = (0.0, -1.0, 1e38, -1e38, float("nan"), float("inf"), float("-inf"))
SIZES = (0, 1, 2, 31, 33, 1000, 2**20, 2**40, 2**62, -1)
KINDS = (
    *("Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape"),
    *(
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "CumSum",
        "DepthToSpace",
        "DequantizeLinear",
        "Einsum",
        "Expand",
        "Flatten",
    ),
    *(
        "GRU",
        "Gather",
        "GatherND",
        "Gemm",
        "GlobalAveragePool",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "If",
        "LSTM",
        "LRN",
    ),
    *(
        "LayerNormalization",
        "Loop",
        "MatMul",
        "MaxPool",
        "Mod",
        "Mul",
        "NonZero",
        "OneHot",
        "Pad",
        "QLinearConv",
        "Range",
    ),
    *(
        "QuantizeLinear",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Resize",
        "RoiAlign",
        "Scan",
        "Shape",
        "Sigmoid",
        "Slice",
        "Split",
    ),
    *(
        "Softmax",
        "SplitToSequence",
        "Squeeze",
        "StringNormalizer",
        "Sub",
        "Tile",
        "TopK",
        "Transpose",
        "Unique",
        "Where",
    ),
    *("Nonsense", "", "Conv\n", "FusedConv", "Attention", "MemcpyToHost"),
)
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "com.microsoft", "com.microsoft.nchwc", "elsewhere", "\n")
NAMES = ("", " ", "image", "nowhere", "a\nb", "\x1b[2J", "../up", "x" * 5000, "naïve", "NaN", "classifier")
ATTRIBUTES = {
    "kernel_shape": [3, 3],
    "strides": [2, 2],
    "pads": [1, 1, 1, 1],
    "dilations": [2, 2],
    "group": 4,
    "auto_pad": "SAME_UPPER",
    "ceil_mode": 1,
    "count_include_pad": 1,
    "axis": 1,
    "axes": [1],
    "perm": [0, 2, 3, 1],
    "keepdims": 0,
    "transA": 1,
    "transB": 1,
    "alpha": 0.5,
    "epsilon": 1e-5,
    "to": 10,
    "value_ints": [1, 2],
    "block_size": 2,
    "storage_order": 1,
    "equation": "ab,bc->ac",
    "hidden_size": 3,
    "allowzero": 1,
    "training_mode": 1,
    "nonsense": [1.5],
}


def originals():
    """Return a model of each family, in float32 and in int8, all of which are valid."""
    models = []
    for family in families.names():
        architecture = Architecture(
            family=family,
            resolution=(32, 32),
            stem=Stem(out=4),
            stages=(
                Stage(out=6, bottleneck=8, kernel=3, stride=2, depth=2),
                Stage(out=8, bottleneck=8, kernel=3, stride=1, depth=1),
            ),
            head=Head(out=10),
            classes=5,
        )
        graph, facts = expand(architecture, name=family), architecture_metadata(architecture)
        weights = initial_weights(graph)
        images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
        models.append(export_model(graph, weights, metadata=facts))
        models.append(onnx_int8.quantize(graph, weights, images, metadata=facts))
    return models


def mutated(number, models):
    """Return the bytes of one mutant, and what was done to it."""
    chance = random.Random(number)
    model = type(models[0])()
    model.CopyFrom(models[number % len(models)])
    if chance.random() < 0.75:  # else it is held against the facts of what it was
        del model.metadata_props[:]
    done = []
    for _ in range(chance.randint(1, MOST_MUTATIONS)):
        mutation = chance.choice(MUTATIONS)
        if not model.graph.node:
            break
        mutation(model, chance)
        done.append(mutation.__name__)
    data = bytearray(model.SerializeToString())
    if chance.random() < 0.1:
        done.append("byte flips")
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data), f"{number}: {models[number % len(models)].graph.name}: {', '.join(done)}"


def _mutation(function):
    MUTATIONS.append(function)
    return function


def _node(model, chance):
    return chance.choice(model.graph.node)


def _any(values, chance):
    """Return one of a protobuf list, or None of an empty one."""
    return chance.choice(values) if len(values) else None


def _tensors(model):
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    return [*names, *(tensor.name for tensor in model.graph.initializer)]


# --- attributes -------------------------------------------------------------------------------------------------------


def _attribute(model, chance):
    nodes = [node for node in model.graph.node if node.attribute]
    return chance.choice(chance.choice(nodes).attribute) if nodes else None


@_mutation
def change_attribute(model, chance):
    item = _attribute(model, chance)
    if item is None:
        return
    value = chance.choice(NUMBERS)
    if item.type == AttributeProto.INT:
        item.i = value
    elif item.type == AttributeProto.FLOAT:
        item.f = chance.choice(FLOATS)
    elif item.ints and chance.random() < 0.5:
        item.ints[chance.randrange(len(item.ints))] = value
    else:
        item.ints[:] = [value] * chance.choice((len(item.ints), 0, 1, 3, 5000))


change_another_attribute = _mutation(change_attribute)  # twice as often as others


@_mutation
def remove_attribute(model, chance):
    nodes = [node for node in model.graph.node if node.attribute]
    if nodes:
        node = chance.choice(nodes)
        del node.attribute[chance.randrange(len(node.attribute))]


@_mutation
def add_attribute(model, chance):
    name = chance.choice(list(ATTRIBUTES))
    _node(model, chance).attribute.append(helper.make_attribute(name, ATTRIBUTES[name]))


@_mutation
def repeat_attribute(model, chance):
    node = _node(model, chance)
    node.attribute.extend(list(node.attribute))


@_mutation
def retype_attribute(model, chance):
    item = _attribute(model, chance)
    if item is not None:
        item.type = chance.choice(AttributeProto.AttributeType.values())


@_mutation
def rename_attribute(model, chance):
    item = _attribute(model, chance)
    if item is not None:
        item.name = chance.choice((*ATTRIBUTES, *NAMES))


@_mutation
def put_a_body_into_an_operation(model, chance):
    body = helper.make_graph([helper.make_node("Relu", ["image"], ["inner"])], "body", [], [])
    node = _node(model, chance)
    for name in chance.choice((["body"], ["then_branch", "else_branch"], ["nonsense"])):
        node.attribute.append(helper.make_attribute(name, body))


# --- edges ------------------------------------------------------------------------------------------------------------


@_mutation
def swap_inputs(model, chance):
    first, second = _node(model, chance), _node(model, chance)
    if first.input and second.input:
        one, other = chance.randrange(len(first.input)), chance.randrange(len(second.input))
        first.input[one], second.input[other] = second.input[other], first.input[one]


@_mutation
def reverse_inputs(model, chance):
    node = _node(model, chance)
    node.input[:] = list(node.input)[::-1]


@_mutation
def drop_input(model, chance):
    node = _node(model, chance)
    if node.input:
        del node.input[chance.randrange(len(node.input))]


@_mutation
def drop_all_inputs(model, chance):
    del _node(model, chance).input[:]


@_mutation
def rename_input(model, chance):
    node = _node(model, chance)
    if node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice((*NAMES, *_tensors(model)))


@_mutation
def repeat_input(model, chance):
    node = _node(model, chance)
    if node.input:
        node.input.extend([chance.choice(node.input)] * chance.choice((1, 2, 40)))


@_mutation
def rename_output(model, chance):
    node = _node(model, chance)
    if node.output:
        node.output[chance.randrange(len(node.output))] = chance.choice((*NAMES, *_tensors(model)))


@_mutation
def change_outputs(model, chance):
    node = _node(model, chance)
    node.output[:] = chance.choice(([], [*node.output, "more"], ["", *node.output], list(node.output) * 2))


@_mutation
def rename_a_tensor_everywhere(model, chance):
    old, new = chance.choice(_tensors(model)), chance.choice(NAMES)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name


# --- operations -------------------------------------------------------------------------------------------------------


@_mutation
def change_kind(model, chance):
    _node(model, chance).op_type = chance.choice(KINDS)


@_mutation
def swap_kinds(model, chance):
    first, second = _node(model, chance), _node(model, chance)
    first.op_type, second.op_type = second.op_type, first.op_type


@_mutation
def change_domain(model, chance):
    domain = chance.choice(DOMAINS)
    _node(model, chance).domain = domain
    if chance.random() < 0.5:
        model.opset_import.add(domain=domain, version=1)


@_mutation
def rename_operation(model, chance):
    _node(model, chance).name = chance.choice((*NAMES, _node(model, chance).name))


@_mutation
def repeat_operation(model, chance):
    node = type(model.graph.node[0])()
    node.CopyFrom(_node(model, chance))
    if chance.random() < 0.5:
        node.name, node.output[:] = "again", [f"{name}.again" for name in node.output]
    model.graph.node.insert(chance.randrange(len(model.graph.node)), node)


@_mutation
def remove_operation(model, chance):
    del model.graph.node[chance.randrange(len(model.graph.node))]


@_mutation
def bypass_operation(model, chance):
    """What read it reads what it read."""
    place = chance.randrange(len(model.graph.node))
    node = model.graph.node[place]
    if node.input and node.output:
        for reader in model.graph.node:
            reader.input[:] = [node.input[0] if name == node.output[0] else name for name in reader.input]
        del model.graph.node[place]


@_mutation
def reorder_operations(model, chance):
    nodes = list(model.graph.node)
    first, second = chance.randrange(len(nodes)), chance.randrange(len(nodes))
    nodes[first], nodes[second] = nodes[second], nodes[first]
    if chance.random() < 0.2:
        chance.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


# --- weights ----------------------------------------------------------------------------------------------------------


@_mutation
def resize_weight(model, chance):
    """With the values that its new shape holds, or with those it had."""
    tensor = _any(model.graph.initializer, chance)
    if tensor is None:
        return
    dims = list(tensor.dims)
    if dims and chance.random() < 0.7:
        dims[chance.randrange(len(dims))] = chance.choice(SIZES)
    else:
        dims = chance.choice(([], [1, *dims], dims[:-1], dims[::-1], [2] * 12))
    tensor.dims[:] = dims
    values = int(np.prod(np.array(dims, dtype=object))) if dims else 1
    if 0 <= values < 100_000 and tensor.data_type == TensorProto.FLOAT and chance.random() < 0.8:
        tensor.raw_data = bytes(4 * values)


@_mutation
def retype_weight(model, chance):
    tensor = _any(model.graph.initializer, chance)
    if tensor is not None:
        values = int(np.prod(np.array(tensor.dims, dtype=object))) if tensor.dims else 1
        tensor.data_type = chance.choice((*TensorProto.DataType.values(), 99))
        if 0 <= values < 100_000 and chance.random() < 0.8:
            tensor.raw_data = bytes(values * chance.choice((1, 2, 4, 8)))


@_mutation
def empty_weight(model, chance):
    tensor = _any(model.graph.initializer, chance)
    if tensor is not None:
        tensor.ClearField(chance.choice(("raw_data", "dims", "data_type", "name")))


@_mutation
def fill_weight(model, chance):
    tensor = _any(model.graph.initializer, chance)
    if tensor is not None:
        value = struct.pack("<f", chance.choice(FLOATS))
        tensor.raw_data = (value * (len(tensor.raw_data) // 4 + 1))[: len(tensor.raw_data)]


@_mutation
def remove_weight(model, chance):
    if model.graph.initializer:
        del model.graph.initializer[chance.randrange(len(model.graph.initializer))]


@_mutation
def repeat_weight(model, chance):
    tensor = _any(model.graph.initializer, chance)
    if tensor is not None:
        model.graph.initializer.add().CopyFrom(tensor)


@_mutation
def rename_weight(model, chance):
    tensor = _any(model.graph.initializer, chance)
    if tensor is not None:
        tensor.name = chance.choice((*NAMES, *_tensors(model)))


@_mutation
def send_weight_elsewhere(model, chance):
    tensor = _any(model.graph.initializer, chance)
    if tensor is not None:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=chance.choice(NAMES))


# --- ends -------------------------------------------------------------------------------------------------------------


def _end(model, chance):
    return _any([*model.graph.input, *model.graph.output], chance)


@_mutation
def change_a_size_of_an_end(model, chance):
    end = _end(model, chance)
    size = _any(end.type.tensor_type.shape.dim, chance) if end is not None else None
    if size is not None:
        size.dim_value = chance.choice(SIZES)


@_mutation
def free_a_size_of_an_end(model, chance):
    end = _end(model, chance)
    size = _any(end.type.tensor_type.shape.dim, chance) if end is not None else None
    if size is not None and chance.random() < 0.5:
        size.Clear()
    elif size is not None:
        size.dim_param = chance.choice(("n", *NAMES))


@_mutation
def change_the_rank_of_an_end(model, chance):
    end = _end(model, chance)
    if end is None:
        return
    sizes = end.type.tensor_type.shape.dim
    if sizes and chance.random() < 0.5:
        del sizes[chance.randrange(len(sizes)) :]
    else:
        sizes.add(dim_value=chance.choice(SIZES))


@_mutation
def change_what_an_end_is(model, chance):
    end = _end(model, chance)
    if end is None:
        return
    change = chance.randrange(5)
    if change == 0:
        end.ClearField("type")
    elif change == 1:
        end.type.tensor_type.ClearField("shape")
    elif change == 2:
        end.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    elif change == 3:
        end.name = chance.choice((*NAMES, *_tensors(model)))
    else:
        end.type.tensor_type.elem_type = chance.choice((*TensorProto.DataType.values(), 99))


@_mutation
def remove_an_end(model, chance):
    ends = chance.choice((model.graph.input, model.graph.output))
    if ends:
        del ends[chance.randrange(len(ends))]


@_mutation
def repeat_an_end(model, chance):
    end = _end(model, chance)
    if end is not None:
        ends = chance.choice((model.graph.input, model.graph.output))
        ends.add().CopyFrom(end)
        ends[-1].name = chance.choice((end.name, "another", *_tensors(model)))


@_mutation
def lie_of_a_size_inside(model, chance):
    shape = [chance.choice((*SIZES, "n")) for _ in range(chance.choice((0, 2, 4, 9)))]
    kind = chance.choice((TensorProto.FLOAT, TensorProto.INT8, TensorProto.STRING))
    model.graph.value_info.append(helper.make_tensor_value_info(chance.choice(_tensors(model)), kind, shape))


# --- the model itself -------------------------------------------------------------------------------------------------


@_mutation
def change_opset(model, chance):
    if model.opset_import:
        model.opset_import[0].version = chance.choice((*range(1, 31), 0, -1, 2**40))


change_opset_too = _mutation(change_opset)


@_mutation
def change_opsets(model, chance):
    del model.opset_import[: chance.randrange(2)]
    model.opset_import.add(domain=chance.choice(DOMAINS), version=chance.choice((1, 13, 20)))


@_mutation
def change_ir_version(model, chance):
    model.ir_version = chance.choice((*range(14), 99, -1))


@_mutation
def bring_a_function(model, chance):
    node = _node(model, chance)
    inner = helper.make_node(chance.choice(KINDS), ["a"], ["b"])
    function = helper.make_function(node.domain, node.op_type, ["a"], ["b"], [inner], [helper.make_opsetid("", 20)])
    model.functions.append(function)


@_mutation
def change_facts(model, chance):
    value = chance.choice(("", "{}", "[]", "null", "resnet18", "32x32", "9" * 400, "[" * 5000, "\n"))
    name = chance.choice(("architecture", "reference", "resolution", "classes", "int8.form"))
    model.metadata_props.add(key=f"deepmad_hw.{name}", value=value)
