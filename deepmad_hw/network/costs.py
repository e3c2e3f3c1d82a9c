"""What a network costs before any device is asked: MACs, parameters, peak activation memory. Layer 2.

One multiply-add is one MAC. The formulas take layers whose numbers are ints, floats or model expressions alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand, sections
from deepmad_hw.network.families.base import LayerForm, Number
from deepmad_hw.network.layer import CHANNEL_BLOCK, IMAGE, Graph, LayerSpec, Node, OperationSpec, out_pixels

FLOAT32_BYTES = 4


def layer_macs(layer: LayerForm | LayerSpec) -> Number:
    """Return the multiply-adds of one layer: pixels * w * c_out, with w the inputs of one output value.

    Args:
        layer: a form or a spec; only convolutions and classifiers have any.
    """
    if layer.op not in ("conv", "linear"):
        return 0
    if isinstance(layer, LayerSpec):  # other people's networks have even windows, which leave odd rows over
        return layer.out_height * layer.out_width * layer_weights(layer)
    rows = out_pixels(layer.height, kernel=1, stride=layer.stride)
    columns = out_pixels(layer.width, kernel=1, stride=layer.stride)
    return rows * columns * layer_weights(layer)


def layer_weights(layer: LayerForm | LayerSpec) -> Number:
    """Return the weights of one layer, without norm and bias.

    Args:
        layer: a form or a spec.
    """
    if layer.op not in ("conv", "linear"):
        return 0
    return layer.group_width * layer.kernel * layer.kernel * layer.out_channels


def layer_operation(spec: LayerSpec, *, value_type: str = "fp32") -> OperationSpec:
    """Return a layer by its amounts of work alone, its activation left out.

    Args:
        spec: the layer.
        value_type: what it computes on.
    """
    read = spec.in_channels * spec.height * spec.width
    written = spec.out_channels * spec.out_height * spec.out_width
    pixels, window = spec.height * spec.width, spec.kernel**2
    windows = {"max_pool": written * window, "avg_pool": written * window, "global_pool": read}
    spans = {"conv": window, "max_pool": window, "avg_pool": window, "global_pool": pixels, "scale": pixels}
    return OperationSpec(
        kind=_operation_kind(spec, value_type),
        value_type=value_type,
        read_values=read * (2 if spec.op == "add" else 1) + (written if spec.residual else 0),
        written_values=written,
        macs=windows.get(spec.op, int(layer_macs(spec))),
        weight_values=int(layer_weights(spec)),
        span=spans.get(spec.op, 0),
        channels=spec.out_channels if spec.op == "conv" else 0,
    )


def _operation_kind(spec: LayerSpec, value_type: str) -> str:
    dense = "depthwise_conv" if spec.depthwise else "conv" if spec.groups == 1 else "grouped_conv"
    kind = {"conv": dense, "linear": "matmul", "scale": "mul_broadcast"}.get(spec.op, spec.op)
    pool = spec.op in ("max_pool", "avg_pool", "global_pool")
    blocked = pool and value_type != "int8" and spec.out_channels % CHANNEL_BLOCK == 0  # channels of bytes come last
    return f"{kind}_blocked" if blocked else kind


def layer_params(layer: LayerForm) -> Number:
    """Return the trainable parameters of one layer: weights, two per batch-norm channel, bias.

    Args:
        layer: a form.
    """
    return layer_weights(layer) + (2 * layer.norm + layer.bias) * layer.out_channels


def layer_weight_bytes(layer: LayerForm, *, precision: str = "fp32") -> Number:
    """Return the bytes that one layer adds to an exported file: its weights, and a bias for every channel.

    Batch norm is folded in, so it makes a bias. In int8 a weight takes one byte, and a channel 17: the scale and the
    zero point of its weights (4 + 1), its bias (4), and the scale and the zero point of that (4 + 4).

    Args:
        layer: a form.
        precision: ``fp32``, ``fp16`` or ``int8``, as files are exported.

    Example:
        >>> from deepmad_hw.network.families.base import conv
        >>> layer = conv("conv1", "input", channels=(16, 32), pixels=(8, 8), kernel=3)
        >>> [layer_weight_bytes(layer, precision=each) for each in ("fp32", "fp16", "int8")]
        [18560, 9280, 5152]
    """
    per_weight, per_channel = {"fp32": (4, 4), "fp16": (2, 2), "int8": (1, 17)}[precision]
    return per_weight * layer_weights(layer) + per_channel * max(layer.norm, layer.bias) * layer.out_channels


def total(network: Any, layer: Callable[[LayerForm], Number]) -> Number:
    """Return the sum of a quantity over the layers of a network.

    Args:
        network: an `Architecture`, or what `deepmad_hw.network.expand.sections` takes.
        layer: what one layer adds.

    Example:
        >>> from deepmad_hw.network.architecture import Architecture, Stage, Stem
        >>> stage = Stage(out=16, bottleneck=8, kernel=3, stride=2, depth=2)
        >>> network = Architecture(family="basic", resolution=(32, 32), stem=Stem(out=8), stages=(stage,), classes=0)
        >>> total(network, lambda layer: 1), total(network, layer_macs) == macs(network)
        (7, True)
    """
    return sum(section.repeat * sum(layer(form) for form in section.layers) for section in sections(network))


def macs(network: Any) -> Number:
    """Return the multiply-adds of a network at batch 1.

    Args:
        network: an `Architecture`, a `Graph`, or what `deepmad_hw.network.expand.sections` takes.
    """
    if isinstance(network, Graph):
        return sum(layer_macs(node.spec) for node in network)
    return total(network, layer_macs)


def params(network: Any) -> Number:
    """Return the trainable parameters of a network.

    Args:
        network: an `Architecture`, a `Graph`, or what `deepmad_hw.network.expand.sections` takes.
    """
    if isinstance(network, Graph):
        return sum(_node_params(node) for node in network)
    return total(network, layer_params)


def _node_params(node: Node) -> int:
    weights: int = layer_weights(node.spec)
    return weights + (2 * node.norm + node.bias) * node.spec.out_channels


def stage_share(architecture: Architecture) -> float:
    """Return the largest share of a network's blocks that stand in one stage: ``max_i L_i / sum_i L_i``.

    Args:
        architecture: the network.
    """
    depths = [stage.depth for stage in architecture.stages]
    return max(depths) / sum(depths)


def peak_memory_bytes(network: Architecture | Graph, *, bytes_per_value: int = FLOAT32_BYTES, batch: int = 1) -> int:
    """Return the largest sum of activation tensors alive at once.

    Layers run in the graph's order with batch norm and activation folded in; a residual is added in place
    after its convolution; the image counts, and outputs stay alive to the end.

    Args:
        network: the network.
        bytes_per_value: 4 for fp32, 2 for fp16, 1 for int8.
        batch: images at once.
    """
    graph = expand(network) if isinstance(network, Architecture) else network
    sizes = {IMAGE: graph.in_channels * graph.height * graph.width}
    for node in graph:
        sizes[node.name] = node.spec.out_channels * node.spec.out_height * node.spec.out_width
    peak = max(_sum(sizes, alive) for alive in live_tensors(graph))
    return peak * bytes_per_value * batch


def live_tensors(graph: Graph) -> tuple[frozenset[str], ...]:
    """Return for every node the names of the tensors that are alive while it runs, its own output among them.

    Args:
        graph: the network.
    """
    last_use = {name: position for position, node in enumerate(graph) for name in node.inputs}
    last_use.update({name: len(graph.nodes) for name in graph.outputs})
    alive, found = {IMAGE}, []
    for position, node in enumerate(graph):
        alive.add(node.name)
        found.append(frozenset(alive))
        alive = {name for name in alive if last_use.get(name, -1) > position}
    return tuple(found)


def _sum(sizes: dict[str, int], names: Iterable[str]) -> int:
    return sum(sizes[name] for name in names)
