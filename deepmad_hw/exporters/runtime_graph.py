"""Reads which operations ONNX Runtime makes of a model on this machine's CPU, by its own word. Layer 3.

The runtime writes the graph that it runs: merged, in the processor's layout, with the changes of layout between. What
the walk of a graph predicts is held to this.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from deepmad_hw.errors import InputFileError
from deepmad_hw.exporters import extras
from deepmad_hw.exporters.onnx_messages import attributes_of, bodies_of
from deepmad_hw.exporters.runtime import one_line

WRITTEN, WEIGHTS = "graph.onnx", "graph.weights"
# What the runtime and its quantiser append to the name of a tensor or an operation that they make another one of.
_MARK = re.compile(
    r"(_bn_nchwc|_nchwc|_token_\d+|_out0|/duplicated|/\w+Fusion/?"
    r"|_(Quantize|Dequantize)Linear(_Output)?|_pre_q|_post_dq|_q_to_dq|_q)$"
)
_NUMBERED = re.compile(r"reorder(_token_\d+)?$")  # a tensor in the processor's layout
_DOMAINS = {
    "": "",
    "ai.onnx": "",
    "com.microsoft": "",
    "com.microsoft.nchwc": "nchwc.",
    "com.ms.internal.nhwc": "nhwc.",
}
_REORDERS = ("ReorderInput", "ReorderOutput")
_FORMATS = (*_REORDERS, "Transpose", "QuantizeLinear", "DequantizeLinear")  # make the same values in another form
_CONVOLUTIONS = ("FusedConv", "nchwc.Conv")
_SUM = 3  # the input of a convolution that is added to what it computes, after image, weights and bias
_WINDOW = ("strides", "kernel_shape", "dilations", "pads")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeOperation:
    """An operation as ONNX Runtime runs it.

    Args:
        name: as the runtime calls it in profiles.
        kind: its type; ``nchwc.`` before it says that it runs on blocks of channels.
        inputs: the tensors it computes with, by their names in the model (see `operations`); weights are left out.
        outputs: the tensors it makes, by their names in the model.
        constants: its weights, by the names the runtime gave them.
        activation: what is applied to its result before that is stored, empty for nothing.
        activation_params: of the activation.
        group: of a convolution.
        strides: of a window.
        kernel_shape: of a window.
        dilations: of a window.
        pads: of a window.
        residual: whether another tensor is added to what a convolution computes.
        blocked: whether it reads a tensor that lies in blocks of channels.
        channels_last: whether it works on, reads or writes tensors whose channels come last.
        inside: name of the operation whose body it stands in, empty in the graph itself.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[str, ...] = ()
    activation: str = ""
    activation_params: tuple[float, ...] = ()
    group: int = 1
    strides: tuple[int, ...] = ()
    kernel_shape: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    residual: bool = False
    blocked: bool = False
    channels_last: bool = False
    inside: str = ""


def optimised(model: bytes, *, folder: Path | None = None) -> Any:
    """Return the graph that ONNX Runtime runs on this machine, as it writes it at its highest level.

    Args:
        model: serialised.
        folder: where the files lie that the model keeps weights in; None where it keeps them inside.

    Returns:
        An `onnx.ModelProto`. Large weights are described in it, not held: nothing reads their values.

    Raises:
        InputFileError: ONNX Runtime refuses the model.
        MissingExtraError: ONNX Runtime is not installed.
    """
    runtime = extras.load("onnxruntime", extra="cpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # it warns that what it writes suits this machine alone
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    with tempfile.TemporaryDirectory(prefix="deepmad-hw-") as own:
        options.optimized_model_filepath = str(Path(own) / WRITTEN)
        try:
            runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base of their own
            raise InputFileError(f"ONNX Runtime refuses it: {one_line(error)}", where="onnx") from error
        return onnx.load(Path(own) / WRITTEN, load_external_data=False)


def operations(model: Any, *, source: Any) -> tuple[RuntimeOperation, ...]:
    """Return what a graph that ONNX Runtime wrote consists of, in its order; bodies follow what they belong to.

    In the processor's own layout the runtime numbers its tensors and names only its operations, after tensors or
    operations of the model. So a tensor goes by the last name in the model that is known of it, and one that holds the
    values of another in some other form (reordered, transposed, rounded) goes by the name of that.

    Args:
        model: an `onnx.ModelProto`, such as `optimised` returns.
        source: the model that it was made of.
    """
    return tuple(_operations(model.graph, frozenset(), "", _Source.of(source)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """The names of a model: its tensors, and the first tensor that each operation makes."""

    tensors: frozenset[str]
    made: Mapping[str, str]

    @classmethod
    def of(cls, model: Any) -> _Source:
        tensors, made = {info.name for info in model.graph.input}, {}
        for node in model.graph.node:
            tensors.update(node.output)
            made[node.name] = node.output[0]
        return cls(tensors=frozenset(tensors), made=made)

    def tensor(self, name: str) -> str:
        """Return the tensor that a name of the runtime stands for, empty where it tells nothing."""
        while name:
            if name in self.tensors:
                return name
            if name in self.made:
                return self.made[name]
            shorter = _MARK.sub("", name)
            if shorter == name:
                return ""
            name = shorter
        return ""


def _operations(graph: Any, outer: frozenset[str], inside: str, source: _Source) -> Iterator[RuntimeOperation]:
    constants = outer | {tensor.name for tensor in graph.initializer}
    names = _names(graph, constants, source)
    for node in graph.node:
        yield _operation(node, constants, names, inside)
        for body in bodies_of(node):
            yield from _operations(body, constants, node.name, source)


def _names(graph: Any, constants: frozenset[str], source: _Source) -> dict[str, str]:
    """Return what the tensors of a graph that operations make are called in the model."""
    plain = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "ReorderOutput"}
    names: dict[str, str] = {}
    for node in graph.node:
        for tensor in node.output:
            numbered = _NUMBERED.match(tensor)
            known = source.tensor(plain.get(tensor, node.name) if numbered else tensor)
            if not known and numbered:
                known = source.tensor(node.name)
            if not known and node.op_type in _FORMATS and node.input[0] not in constants:
                known = names.get(node.input[0], node.input[0])
            names[tensor] = known or tensor
    return names


def _operation(node: Any, constants: frozenset[str], names: Mapping[str, str], inside: str) -> RuntimeOperation:
    attributes = attributes_of(node)
    kind = _kind(node)
    return RuntimeOperation(
        name=node.name,
        kind=kind,
        inputs=tuple(names.get(name, name) for name in node.input if name and name not in constants),
        outputs=tuple(names[name] for name in node.output if name),
        constants=tuple(name for name in node.input if name in constants),
        activation=attributes.get("activation", b"").decode(),
        activation_params=tuple(attributes.get("activation_params", ())),
        group=attributes.get("group", 1),
        residual=kind in _CONVOLUTIONS and len(node.input) > _SUM and bool(node.input[_SUM]),
        blocked=any(_NUMBERED.match(name) for name in node.input if name not in constants),
        channels_last=bool(attributes.get("channels_last", 0)),
        inside=inside,
        **{name: tuple(attributes.get(name, ())) for name in _WINDOW},
    )


def _kind(node: Any) -> str:
    if node.op_type in _REORDERS:
        return str(node.op_type)
    return f"{_DOMAINS.get(node.domain, f'{node.domain}.')}{node.op_type}"
