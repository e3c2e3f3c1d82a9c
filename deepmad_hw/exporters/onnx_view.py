"""An ONNX graph as operations on feature maps: views, bytes and arithmetic on shapes looked through. Layer 3."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto, numpy_helper, shape_inference

from deepmad_hw.errors import NotCoveredError
from deepmad_hw.exporters.onnx_loader import TensorKind
from deepmad_hw.exporters.onnx_messages import IMAGE_RANK, Shape, attributes_of, free_inputs, tensors_in, unsized

# Views of their first input: nothing is computed, whatever they are called.
VIEWS = frozenset({"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"})
# Changes between floats and bytes, which the runtime merges into an operation that has a kernel on bytes.
FORMATS = frozenset({"QuantizeLinear", "DequantizeLinear"})
INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})
WINDOWS = frozenset({"Conv", "AveragePool", "MaxPool"})  # a padding before them is merged into them
PAD_INPUTS = 3  # of a padding whose value is given


@dataclass(frozen=True, kw_only=True, slots=True)
class Op:
    """An operation with its inputs as written, and as what they are views of.

    Args:
        name: unique in the graph.
        kind: its ONNX type, with the domain where that is not ONNX's own.
        inputs: tensors it reads, as written.
        roots: what those that are no constants are views of.
        outputs: tensors it makes.
        attributes: by name.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    roots: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def output(self) -> str:
        """Return the tensor that stands for the operation."""
        return self.outputs[0]


class View:
    """A model as operations on feature maps, everything else looked through.

    Args:
        model: an `onnx.ModelProto`.
        tensors: size and type of its tensors.
    """

    def __init__(self, model: Any, tensors: Mapping[str, TensorKind]) -> None:
        graph = model.graph
        self._types = {name: kind.value_type for name, kind in tensors.items()}
        self._shapes = {name: kind.shape for name, kind in tensors.items()}
        self._shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self.constants = {tensor.name for tensor in graph.initializer}
        self.images = [info.name for info in free_inputs(graph)]
        self._root: dict[str, str] = {}
        self._forms: dict[str, list[str]] = defaultdict(list)
        self._read_by: dict[str, set[str]] = defaultdict(set)  # kinds of operations, by tensor
        for node in graph.node:
            for name in node.input:
                self._read_by[name].add(node.op_type)
        self.quantised: set[str] = set()  # tensors that int8 values were turned into
        self.clipped: set[str] = set()  # tensors that are turned into int8 values from zero up
        self._zeros = {tensor.name for tensor in graph.initializer if _is_zero(tensor)}
        self._zero_bytes = {
            tensor.name
            for tensor in graph.initializer
            if tensor.data_type == TensorProto.UINT8 and tensor.name in self._zeros
        }
        self.ops = [op for node in graph.node for op in self._seen(node)]
        self.readers: dict[str, list[Op]] = defaultdict(list)
        for op in self.ops:
            for root in dict.fromkeys(op.roots):
                self.readers[root].append(op)
        self.outputs = {self.root(info.name) for info in graph.output}

    @property
    def batch(self) -> int:
        """Return how many images it takes at once: the first size of its first input of four dimensions."""
        shapes = (self.shape(name) for name in self.images)
        return max(1, next((shape[0] for shape in shapes if len(shape) == IMAGE_RANK), 1))

    def root(self, tensor: str) -> str:
        """Return what a tensor is a view of.

        Args:
            tensor: its name.
        """
        return self._root.get(tensor, tensor)

    def forms(self, tensor: str) -> tuple[str, ...]:
        """Return a tensor and the same values as bytes and floats again.

        Args:
            tensor: its name.
        """
        return (tensor, *self._forms[tensor])

    def shape(self, tensor: str) -> Shape:
        """Return a tensor's shape, empty where it is not known.

        Args:
            tensor: its name.
        """
        return self._shapes.get(tensor, ())

    def value_type(self, tensor: str) -> int:
        """Return the type of a tensor's values as in `onnx.TensorProto`; bytes where floats were made of them.

        Args:
            tensor: its name.
        """
        return int(TensorProto.INT8 if tensor in self.quantised else self._types.get(tensor, TensorProto.FLOAT))

    def is_half(self, tensor: str) -> bool:
        """Return whether a tensor holds 16-bit floats.

        Args:
            tensor: its name.
        """
        return self._types.get(tensor) in (TensorProto.FLOAT16, TensorProto.BFLOAT16)

    def sole_reader(self, tensor: str) -> Op | None:
        """Return the one operation that reads a tensor; None where there are more, or where it leaves the network.

        Args:
            tensor: its name.
        """
        readers = self.readers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def _seen(self, node: Any) -> Iterator[Op]:
        inputs = tuple(name for name in node.input if name)
        outputs = [name for name in node.output if name]
        if node.op_type == "DequantizeLinear":
            self.quantised.add(outputs[0])
        if node.op_type == "QuantizeLinear" and set(inputs[2:]) <= self._zero_bytes:
            self.clipped.add(self.root(inputs[0]))
        from_constants = bool(inputs) and all(name in self.constants for name in inputs)
        if node.op_type == "Constant" or from_constants or self._counts_only(outputs):
            self.constants.update(outputs)
        elif self._is_view(node, inputs, outputs[0]):
            self._root[outputs[0]] = self.root(inputs[0])
            if node.op_type in FORMATS:
                self._forms[self.root(inputs[0])].append(outputs[0])
            if inputs[0] in self.quantised:
                self.quantised.add(outputs[0])
        else:
            yield Op(
                name=node.name or outputs[0],
                kind=node.op_type if not node.domain else f"{node.domain}.{node.op_type}",
                inputs=inputs,
                roots=tuple(self.root(name) for name in inputs if name not in self.constants),
                outputs=tuple(outputs),
                attributes=attributes_of(node),
            )

    def _counts_only(self, outputs: Sequence[str]) -> bool:
        """Return whether only shapes are computed here: whole numbers, a handful of them."""
        whole = all(self._types.get(name) in INTEGERS for name in outputs)
        return whole and all(len(self.shape(name)) <= 1 for name in outputs)

    def _is_view(self, node: Any, inputs: Sequence[str], output: str) -> bool:
        if node.op_type in VIEWS | FORMATS:
            return True
        same_channels = self.shape(inputs[0])[:2] == self.shape(output)[:2]
        attributes = attributes_of(node)
        with_zeros = attributes.get("mode", b"constant") == b"constant" and not attributes.get("value", 0.0)
        with_zeros = with_zeros and (len(inputs) < PAD_INPUTS or inputs[2] in self._zeros)
        return node.op_type == "Pad" and with_zeros and same_channels and self._read_by[output] <= WINDOWS


def _is_zero(tensor: Any) -> bool:
    stored = tensor.raw_data or tensor.float_data or tensor.int32_data  # a weight may be a shape alone
    return tuple(tensor.dims) in ((), (1,)) and bool(stored) and not numpy_helper.to_array(tensor).any()


def inferred(model: Any) -> dict[str, TensorKind]:
    """Return size and type of all tensors by inference, for one image where the batch is free.

    Args:
        model: an `onnx.ModelProto`.

    Raises:
        NotCoveredError: its shapes do not meet.
    """
    bare = unsized(model)
    for info in free_inputs(bare.graph):
        sizes = info.type.tensor_type.shape.dim
        if sizes and not sizes[0].dim_value:
            sizes[0].dim_value = 1
    try:
        graph = shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True).graph
    except shape_inference.InferenceError as error:
        reason = " ".join(str(error).split())
        raise NotCoveredError(f"its shapes do not meet: {reason}", where=model.graph.name) from error
    kinds = {info.name: info.type.tensor_type for info in tensors_in(graph)}
    return {
        name: TensorKind(value_type=kind.elem_type, shape=tuple(size.dim_value for size in kind.shape.dim))
        for name, kind in kinds.items()
    }
