"""Builds a plan's network from its nodes with PyTorch, in the form in which it is timed. Layer 3, device side.

Batch norm is folded away, as in the plan's ONNX files, and the values are those files' own; a contract test holds the
outputs together. Importing this file needs no torch; its functions do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from deepmad_hw.errors import InputFileError
from deepmad_hw.files.planfile import WEIGHT_STEP_BYTES, WEIGHTS_FILE
from deepmad_hw.network.layer import IMAGE, LayerSpec, Node
from profilers.plan import Plan, Probe

INSTALL_LINE = 'pip install "deepmad-hw[torch]"'


class TorchNetwork:
    """A network whose layers are called one by one, each on the tensors that others left.

    Args:
        plan: holds the weights' file.
        probe: names the layers.
        device: such as ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``fp16``.
        channels_last: whether pixels lie together, which is what tensor cores want.

    Raises:
        InputFileError: the plan says nothing of the layers, or the precision is another.
    """

    def __init__(self, plan: Plan, probe: Probe, *, device: str, precision: str, channels_last: bool) -> None:
        import torch

        if not probe.nodes:
            raise InputFileError(
                "PyTorch can time networks whose layers are known, this file tells none", where=probe.name
            )
        dtypes = {"fp32": torch.float32, "fp16": torch.float16}
        if precision not in dtypes:
            raise InputFileError(f"PyTorch has no probes of precision {precision}", where=probe.name)
        layout = torch.channels_last if channels_last else torch.contiguous_format

        def placed(tensor: Any) -> Any:
            layout_of = {"memory_format": layout} if tensor.dim() == 4 else {}
            return tensor.to(device=device, dtype=dtypes[precision], **layout_of)

        values = _values(plan, probe)
        image = torch.randn(probe.input_shape, generator=torch.Generator().manual_seed(0))
        self._output = probe.nodes[-1].name
        self.tensors: dict[str, Any] = {IMAGE: placed(image)}
        self.layers: list[tuple[str, Callable[[], None]]] = [
            (node.name, self._layer(node, [placed(values(shape)) for shape in parameter_shapes(node.spec)]))
            for node in probe.nodes
        ]

        last_reader = {name: node.name for node in probe.nodes for name in (node.name, *node.inputs)}
        self._unread = {
            node.name: [name for name, last in last_reader.items() if last == node.name] for node in probe.nodes
        }

    def __call__(self) -> None:
        """Run every layer."""
        for name, layer in self.layers:
            layer()
            self.forget_after(name)

    def forget_after(self, name: str) -> None:
        """Give back the tensors that nobody reads after a layer, as a network that is run as a whole does.

        Args:
            name: of the layer.
        """
        for unread in self._unread[name]:
            if unread not in (IMAGE, self._output):
                del self.tensors[unread]

    def _layer(self, node: Node, parameters: Sequence[Any]) -> Callable[[], None]:
        operation, activation = _operation(node.spec, parameters), _activation(node.spec.activation)
        tensors = self.tensors

        def run() -> None:
            tensors[node.name] = activation(operation(*(tensors[name] for name in node.inputs)))

        return run


def parameter_shapes(spec: LayerSpec) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a layer's weight and bias once batch norm is folded in.

    Args:
        spec: the layer.
    """
    if spec.op == "conv":
        return (spec.out_channels, spec.group_width, spec.kernel, spec.kernel), (spec.out_channels,)
    if spec.op == "linear":
        return (spec.out_channels, spec.in_channels), (spec.out_channels,)
    return ()


def _values(plan: Plan, probe: Probe) -> Callable[[tuple[int, ...]], Any]:
    """Return the function that gives a network's tensors in order, from the plan's one file of weights."""
    import numpy as np
    import torch

    begins = itertools.count(0, WEIGHT_STEP_BYTES // 4)
    blob = torch.from_numpy(np.fromfile(plan.folder / WEIGHTS_FILE, dtype=np.float32))

    def values(shape: tuple[int, ...]) -> Any:
        begin, count = next(begins), int(np.prod(shape))
        if begin + count > blob.numel():
            raise InputFileError("the plan's weights are too few for it", where=probe.name, hint="pack it again")
        return blob[begin : begin + count].reshape(shape).clone()

    return values


def _operation(spec: LayerSpec, parameters: Sequence[Any]) -> Callable[..., Any]:
    functional = _functional()
    padding = spec.kernel // 2 if spec.kernel % 2 else 0

    def conv(image: Any, *residual: Any) -> Any:
        features = functional.conv2d(image, *parameters, stride=spec.stride, padding=padding, groups=spec.groups)
        return features + residual[0] if residual else features

    operations: dict[str, Callable[..., Any]] = {
        "conv": conv,
        "linear": lambda features: functional.linear(features.flatten(1), *parameters),
        "avg_pool": lambda image: functional.avg_pool2d(image, spec.kernel, spec.stride, padding),
        "max_pool": lambda image: functional.max_pool2d(image, spec.kernel, spec.stride, padding),
        "global_pool": lambda image: functional.adaptive_avg_pool2d(image, 1),
        "scale": lambda image, factor: image * factor,
        "add": lambda image, other: image + other,
    }
    return operations[spec.op]


def _activation(name: str) -> Callable[[Any], Any]:
    functional = _functional()
    activations: dict[str, Callable[[Any], Any]] = {
        "none": lambda image: image,
        "relu": functional.relu,
        "relu6": functional.relu6,
        "silu": functional.silu,
        "hardswish": functional.hardswish,
        "sigmoid": functional.sigmoid,
        "hardsigmoid": functional.hardsigmoid,
    }
    return activations[name]


def _functional() -> Any:
    from torch.nn import functional

    return functional
