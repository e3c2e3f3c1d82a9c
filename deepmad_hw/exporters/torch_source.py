"""Writes a graph as a Python file of plain PyTorch that a person can read and change. Layer 3, text only.

Names become modules: the blocks ``stage2.block1``, ``stage2.block2`` are calls inside ``self.stage2``, and blocks that
are wired alike share one class. What differs between them (channels, kernels, strides) becomes its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters.torch_blocks import FIRST, BlockClass, Classes, Part, arguments_of, parts_of
from deepmad_hw.network.layer import IMAGE, Graph, Node

_LINE = 120
_FUNCTIONS = ("relu", "relu6", "silu", "hardswish", "sigmoid", "hardsigmoid")

_FILE = '''"""{name}: a convolutional network for images of shape (N, {shape}), written by deepmad-hw.

With its weights:

    from safetensors.torch import load_file
    network = Network()
    network.load_state_dict(load_file("{weights_file}"))
"""

from __future__ import annotations

{imports}


{helpers}


{classes}
'''

_CONV_NORM = '''class ConvNorm(nn.Conv2d):
    """Convolution that keeps the pixels (but for its stride), then batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))'''

_DROP_PATH = '''class DropPath(nn.Module):
    """Leaves a residual branch out, image by image, while training (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        return branch * branch.new_empty(len(branch), 1, 1, 1).bernoulli_(keep).div_(keep)'''

_STAGE = '''def stage(*blocks: nn.Module) -> nn.Sequential:
    """Return blocks that run one after the other, named block1, block2 and so on."""
    return nn.Sequential(OrderedDict((f"block{index}", block) for index, block in enumerate(blocks, start=1)))'''


class _Names(Protocol):
    """How channels and numbers are written inside one class."""

    def channels(self, tensor: str) -> str: ...
    def number(self, node: Node, field: str) -> str: ...
    def rate(self, node: Node) -> str: ...


def source_code(graph: Graph, *, weights_file: str) -> str:
    """Return a Python file that builds the network with nothing but torch.

    Args:
        graph: the network.
        weights_file: name of the weights' file, for the file's own instructions.

    Raises:
        ConfigError: the graph has no such form: a block with several inputs, or a name that is no Python name.
    """
    parts = parts_of(graph.nodes)
    classes = Classes(graph, parts)
    network = _network(graph, parts, classes)
    blocks = [_definition(cls, classes) for cls in classes.known.values()]
    helpers = [text for name, text in _HELPERS.items() if any(name in block for block in (network, *blocks))]
    imports = ["from torch import Tensor, nn"]
    if _STAGE in helpers:
        imports.insert(0, "from collections import OrderedDict\n")
    if any("functional." in block for block in (network, *blocks)):
        imports.append("from torch.nn import functional")
    return _FILE.format(
        name=_plain(graph.name),
        shape=f"{graph.in_channels}, {graph.height}, {graph.width}",
        weights_file=_plain(weights_file),
        imports="\n".join(imports),
        helpers="\n\n\n".join([*helpers, *blocks]),
        classes=network,
    )


_HELPERS = {"ConvNorm(": _CONV_NORM, "DropPath(": _DROP_PATH, "= stage(": _STAGE}


def _definition(cls: BlockClass, classes: Classes) -> str:
    """Return the text of a class."""
    arguments = [f"{name}: int" for name in arguments_of(cls)] + ["drop_path: float"] * cls.residual
    modules = [*_modules(cls.first.children, cls, classes, nested=True)]
    modules += ["self.drop_path = DropPath(drop_path)"] * cls.residual
    forward = _forward(cls.first.children, {cls.first.sources[0]: "x"})
    return _class_text(cls.name, arguments, modules, "x: Tensor", "Tensor", forward)


def _modules(parts: Iterable[Part], names: _Names, classes: Classes, *, nested: bool) -> Iterator[str]:
    """Yield the lines that build the containers and nodes that are modules."""
    for part in parts:
        if not part.leaf:
            yield f"self.{part.role} = {_call(part, names, classes, nested=nested)}"
        elif part.nodes[0].spec.op not in ("scale", "add"):
            yield f"self.{part.role} = {_module(part.nodes[0], names)}"


def _call(part: Part, names: _Names, classes: Classes, *, nested: bool) -> str:
    """Return the expression that builds a container, in the words of the class around it."""
    cls = classes.of(part, nested=nested)
    twin = {one.name: other.name for one, other in zip(cls.first.nodes, part.nodes, strict=True)}
    twin[cls.first.sources[0]] = part.sources[0]
    nodes = {node.name: node for node in part.nodes}
    arguments = {symbol: names.channels(twin[tensor]) for tensor, symbol in reversed(cls.symbols.items())}
    arguments |= {name: names.number(nodes[twin[node]], field) for (node, field), name in cls.numbers.items()}
    texts = [arguments[name] if name in FIRST else f"{name}={arguments[name]}" for name in arguments_of(cls)]
    texts += [f"drop_path={names.rate(node)}" for node in part.nodes if node.spec.residual]
    return f"{cls.name}({', '.join(texts)})"


def _module(node: Node, names: _Names) -> str:
    spec = node.spec
    padding = spec.kernel // 2 if spec.kernel % 2 else 0
    match spec.op:
        case "conv":
            return _conv(node, names)
        case "linear":
            return f"nn.Linear({spec.in_channels}, {spec.out_channels}{'' if node.bias else ', bias=False'})"
        case "global_pool":
            return "nn.AdaptiveAvgPool2d(1)"
        case _:
            kind = {"avg_pool": "AvgPool2d", "max_pool": "MaxPool2d"}[spec.op]
            return f"nn.{kind}({spec.kernel}, stride={spec.stride}{f', padding={padding}' if padding else ''})"


def _conv(node: Node, names: _Names) -> str:
    spec = node.spec
    if spec.kernel % 2 == 0 or (node.norm and node.bias):
        raise ConfigError(
            "a convolution of even kernel, or of bias and norm, has no PyTorch form here", where=node.name
        )
    source, kernel, stride = names.channels(node.inputs[0]), names.number(node, "kernel"), names.number(node, "stride")
    groups = source if spec.depthwise else names.number(node, "groups")
    arguments = [source, names.channels(node.name)]
    if not node.norm:
        arguments.append(kernel)
    elif kernel != "1":
        arguments.append(f"kernel={kernel}")
    arguments += [f"stride={stride}"] * (stride != "1")
    if not node.norm and kernel != "1":
        arguments.append(f"padding={kernel} // 2")
    arguments += [f"groups={groups}"] * (groups != "1")
    if not node.norm and not node.bias:
        arguments.append("bias=False")
    return f"{'ConvNorm' if node.norm else 'nn.Conv2d'}({', '.join(arguments)})"


def _forward(parts: Sequence[Part], variables: Mapping[str, str], outputs: Sequence[str] = ()) -> list[str]:
    """Return the lines that run modules one after the other; the last returns."""
    known, flat, lines = dict(variables), set[str](), []
    for part in parts:
        node = part.nodes[0]
        expression = f"self.{part.role}({known[part.sources[0]]})"
        if part.leaf:
            expression = _expression(part, known, flat=node.inputs[0] in flat, output=node.name in outputs)
            flat |= {node.name} if node.spec.op == "linear" else set()
        known[part.output] = part.role
        lines.append(f"{part.role} = {expression}")
    if len(outputs) > 1:
        return [*lines, f"return {', '.join(known[name] for name in outputs)}"]
    return [*lines[:-1], f"return {expression}"]


def _expression(part: Part, known: Mapping[str, str], *, flat: bool, output: bool) -> str:
    node = part.nodes[0]
    first, *others = (known[source] for source in node.inputs)
    match node.spec.op:
        case "scale":
            text = f"{first} * {others[0]}"
        case "add":
            text = f"{first} + {others[0]}"
        case "linear":
            features = first if flat else f"{first}.flatten(1)"
            text = f"self.{part.role}({f'self.dropout({features})' if output else features})"
        case _:
            text = f"self.{part.role}({first})"
    if node.spec.residual:
        text = f"self.drop_path({text}) + {others[0]}"
    if node.spec.activation == "none":
        return text
    if node.spec.activation not in _FUNCTIONS:
        raise ConfigError(f"{node.spec.activation} has no PyTorch form here", where=node.name)
    return f"functional.{node.spec.activation}({text})"


class _Literal:
    """Writes channels and numbers as they are, outside the classes of blocks."""

    def __init__(self, graph: Graph) -> None:
        self._channels = {IMAGE: graph.in_channels} | {node.name: node.spec.out_channels for node in graph}
        self._branches = [node.name for node in graph if node.spec.residual]

    def channels(self, tensor: str) -> str:
        return str(self._channels[tensor])

    def number(self, node: Node, field: str) -> str:
        return str(getattr(node.spec, field))

    def rate(self, node: Node) -> str:
        return f"rates[{self._branches.index(node.name)}]"


def _network(graph: Graph, parts: Sequence[Part], classes: Classes) -> str:
    names, modules = _Literal(graph), []
    branches = sum(node.spec.residual for node in graph)
    if branches:
        modules.append(f"rates = [drop_path * index / {max(branches - 1, 1)} for index in range({branches})]")
    for part in parts:
        if part.leaf or any(child.leaf for child in part.children):
            modules += _modules([part], names, classes, nested=False)
            continue
        blocks = (f"    {_call(block, names, classes, nested=False)}," for block in part.children)
        modules += [f"self.{part.role} = stage(", *blocks, ")"]
    forward = _forward(parts, {IMAGE: IMAGE}, graph.outputs)
    options = ["drop_path: float = 0.0"] if branches else []
    if any("self.dropout(" in line for line in forward):
        modules.append("self.dropout = nn.Dropout(dropout)")
        options.append("dropout: float = 0.0")
    returned = "Tensor" if len(graph.outputs) == 1 else "tuple[Tensor, ...]"
    return _class_text("Network", options, modules, f"{IMAGE}: Tensor", returned, forward)


def _class_text(
    name: str, arguments: Sequence[str], modules: Sequence[str], taken: str, returned: str, forward: Sequence[str]
) -> str:
    lines = [
        f"class {name}(nn.Module):",
        *_signature(["self", *arguments]),
        "        super().__init__()",
        *(f"        {line}" for line in modules),
        "",
        f"    def forward(self, {taken}) -> {returned}:",
        *(f"        {line}" for line in forward),
    ]
    return "\n".join(lines)


def _signature(arguments: Sequence[str]) -> list[str]:
    """Return the first lines of a constructor, no longer than people allow."""
    text = ", ".join(arguments)
    whole = f"    def __init__({text}) -> None:"
    if len(whole) <= _LINE:
        return [whole]
    inside = [f"        {text}"] if len(text) <= _LINE - 8 else [f"        {argument}," for argument in arguments]
    return ["    def __init__(", *inside, "    ) -> None:"]


def _plain(text: str) -> str:
    """Return text that cannot end the docstring it is put in."""
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")
