"""An ONNX network that grows operation by operation, each with the kind that it is timed as. Layer 3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from deepmad_hw.exporters.onnx_graph import IR_VERSION, TensorSource
from deepmad_hw.exporters.onnx_messages import Shape
from deepmad_hw.exporters.onnx_operations import NAMED_KINDS
from deepmad_hw.network.layer import IMAGE

OPSET = 21  # the first with a GroupNormalization that can be used
SMALL = "constant"  # how the names of constants begin that lie in no file of weights
NECK = 16  # channels between two groups of operations: few, so that the convolutions there are cheap
CHANNELS = (16, 512)
UNEVEN_SHARE = 0.2  # of widths that are no multiple of 16
FEW_CHANNELS = (1, 15)
LARGEST_VALUES = 2_000_000  # of one tensor
LARGEST_MACS = 60_000_000


@dataclass(kw_only=True)
class OperationNetwork:
    """An ONNX network that grows node by node.

    Attributes:
        side: of its image, in pixels.
        batch: images at once.
        bytewise: whether its values will be rounded to bytes.
        tensor: gives the weights of convolutions and products.
        random: draws widths and values.
        turn: of the groups of operations, which hold other windows each time.
        nodes: its ONNX nodes.
        constants: its weights and small constants.
        kinds: of the nodes that are timed, by their names.
        parts: the nodes that together are one operation, by the name of the last.
        reorders: nodes before which the layout may change.
        ends: outputs of the network besides the last tensor.
        source: tensor of the neck's width that the next operations begin with.
        stated: tensors whose shapes cannot be inferred.
    """

    side: int
    batch: int
    bytewise: bool
    tensor: TensorSource
    random: np.random.Generator
    turn: int = 0
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[Any]] = field(default_factory=dict)
    reorders: set[str] = field(default_factory=set)
    ends: list[str] = field(default_factory=list)
    source: str = IMAGE
    stated: list[Any] = field(default_factory=list)

    def model(self, name: str) -> Any:
        """Return the network as an `onnx.ModelProto`.

        Args:
            name: of the graph.
        """
        shape = (self.batch, NECK, self.side, self.side)
        image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, shape)
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, None) for end in (*self.ends, self.source)]
        graph = helper.make_graph(self.nodes, name, [image], ends, self.constants, value_info=self.stated)
        return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])

    # --- sizes ---

    def drawn(self, low: float, high: float) -> float:
        """Return a number that is spread evenly over orders of magnitude.

        Args:
            low: the least.
            high: the most.
        """
        return float(np.exp(self.random.uniform(np.log(low), np.log(high))))

    def channels(
        self,
        *,
        values: int = LARGEST_VALUES,
        macs_per_pixel: Callable[[int], int] | None = None,
        multiple: int | None = None,
    ) -> int:
        """Return a width, spread evenly over orders of magnitude as far as tensors and work stay small enough.

        Args:
            values: most of one tensor.
            macs_per_pixel: multiply-adds of a width, None to leave them out.
            multiple: of which the width shall be, None for any.
        """
        low, high = CHANNELS
        high = max(low, min(high, values // self.side**2))
        while macs_per_pixel is not None and high > low and macs_per_pixel(high) * self.side**2 > LARGEST_MACS:
            high -= NECK
        width = self.drawn(low, max(high, low))
        step = multiple or (4 if self.random.random() < UNEVEN_SHARE else NECK)
        return max(low, step, round(width / step) * step)

    def few(self) -> int:
        """Return a width below that of a block, spread evenly over orders of magnitude."""
        return round(self.drawn(*FEW_CHANNELS))

    def some(self, items: Sequence[Any], count: int) -> list[Any]:
        """Return a few of some items, the next ones in every turn.

        Args:
            items: all of them.
            count: how many.
        """
        return [items[(self.turn * count + index) % len(items)] for index in range(count)]

    # --- nodes ---

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node that is not timed, and return its tensor.

        Args:
            operator: its ONNX type.
            inputs: tensors it reads.
            attributes: as in ONNX.
        """
        return self._node("other", operator, inputs, attributes)

    def timed(self, operator: str, *inputs: str, kind: str = "", form: str = "", **attributes: Any) -> str:
        """Add a node that is timed under its tensor's name, and return that.

        Args:
            operator: its ONNX type.
            inputs: tensors it reads.
            kind: of operation, empty for the one that the type names.
            form: ending of the kind: ``_blocked``, ``_broadcast`` or ``_outer``.
            attributes: as in ONNX.
        """
        kind = f"{kind or NAMED_KINDS[operator]}{form}"
        made_by = next((node.op_type for node in reversed(self.nodes) if inputs[0] in node.output), "")
        name = self._node(kind, operator, inputs, attributes)
        self.kinds[name] = kind
        if made_by == "Conv":
            self.reorders.add(name)
        return name

    def chain(self, source: str, *operators: str) -> str:
        """Add operations of one input that are timed, each reading the one before, and return the last tensor.

        Args:
            source: what the first reads.
            operators: their ONNX types.
        """
        for operator in operators:
            source = self.timed(operator, source)
        return source

    def _node(self, kind: str, operator: str, inputs: Sequence[str], attributes: dict[str, Any]) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def conv(self, source: str, inside: int, outside: int) -> str:
        """Return a 1x1 convolution that is not timed.

        Args:
            source: what it reads.
            inside: its channels.
            outside: channels that it makes.
        """
        return self.add("Conv", source, *self._kernel(inside, outside, (1, 1), 1))

    def widened(self, channels: int) -> str:
        """Return the network's image brought to a width.

        Args:
            channels: the width.
        """
        return self.conv(self.source, NECK, channels)

    def narrowed(self, source: str, channels: int, *, ends: bool = False) -> None:
        """Bring a tensor back to the width of the neck: the next operations' source, or an output of the network.

        Args:
            source: the tensor.
            channels: its width.
            ends: whether it is an output.
        """
        name = self.conv(source, channels, NECK)
        self.reorders.add(name)
        if ends:
            self.ends.append(name)
        else:
            self.source = name

    def weighted(
        self, kind: str, source: str, inside: int, outside: int, kernel: tuple[int, int], **attributes: Any
    ) -> str:
        """Add a convolution that is timed, and return its tensor.

        Args:
            kind: of convolution.
            source: what it reads.
            inside: its channels.
            outside: channels that it makes.
            kernel: height and width.
            attributes: as in ONNX.
        """
        weights = self._kernel(inside, outside, kernel, attributes.get("group", 1))
        return self.timed("Conv", source, *weights, kind=kind, **attributes)

    def _kernel(self, inside: int, outside: int, kernel: tuple[int, int], groups: int) -> tuple[str, str]:
        return self.shared((outside, inside // groups, *kernel)), self.shared((outside,))

    # --- constants ---

    def shared(self, shape: Shape) -> str:
        """Return a constant whose values may lie in the plan's file of weights.

        Args:
            shape: its sizes.
        """
        self.constants.append(self.tensor(f"weight{len(self.constants)}", shape))
        return str(self.constants[-1].name)

    def constant(self, values: Any) -> str:
        """Return a small constant.

        Args:
            values: whole numbers or floats.
        """
        array = np.array(values, dtype=np.int64 if np.array(values).dtype.kind == "i" else np.float32)
        self.constants.append(numpy_helper.from_array(array, f"{SMALL}{len(self.constants)}"))
        return str(self.constants[-1].name)

    def factors(self, *shape: int) -> str:
        """Return a constant of values near 1.

        Args:
            shape: its sizes.
        """
        return self.constant(1 + 0.1 * self.random.random(shape, dtype=np.float32))

    def vectors(self, count: int, channels: int) -> list[str]:
        """Return constants of values near 1, one value for each channel.

        Args:
            count: how many constants.
            channels: values of each.
        """
        return [self.factors(channels) for _ in range(count)]
