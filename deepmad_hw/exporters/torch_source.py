"""Writes a graph as a Python file of plain PyTorch that a person can read and change. Layer 3, text only.

Names become modules: the blocks ``stage2.block1``, ``stage2.block2`` are calls inside ``self.stage2``, and blocks that
are wired alike share one class. What differs between them (channels, kernels, strides) becomes its arguments.
"""

from __future__ import annotations

import itertools
import keyword
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deepmad_hw.errors import ConfigError
from deepmad_hw.network.layer import IMAGE, Graph, Node

_NUMBERS = ("kernel", "stride", "groups")
_FIRST = ("channels", "in_channels", "out_channels")  # arguments that need no name
_RESERVED = {"x", IMAGE, "drop_path", "dropout", "forward", "train", "eval", "training", "functional", "nn"}
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    """A module: one node, or a container of modules."""

    role: str
    nodes: tuple[Node, ...]
    children: tuple[_Item, ...] = ()

    @property
    def leaf(self) -> bool:
        return not self.children

    @property
    def output(self) -> str:
        return self.nodes[-1].name

    @property
    def sources(self) -> list[str]:
        """Return the tensors it reads from outside, in order of use."""
        own = {node.name for node in self.nodes}
        return list(dict.fromkeys(name for node in self.nodes for name in node.inputs if name not in own))


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
    items = _items(graph.nodes)
    classes = _Classes(graph, items)
    network = _network(graph, items, classes)
    blocks = [classes.definition(each) for each in classes.known.values()]
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


def _items(nodes: Sequence[Node], depth: int = 0) -> tuple[_Item, ...]:
    items = []
    for role, group in itertools.groupby(nodes, key=lambda node: node.name.split(".")[depth]):
        members = tuple(group)
        if not role.isidentifier() or keyword.iskeyword(role) or role.startswith("_") or role in _RESERVED:
            raise ConfigError(f"{role!r} cannot name a PyTorch module", where=members[0].name)
        single = len(members) == 1 and members[0].name.count(".") == depth
        items.append(_Item(role=role, nodes=members, children=() if single else _items(members, depth + 1)))
    roles = [item.role for item in items]
    for item in items:
        if roles.count(item.role) > 1:
            raise ConfigError("its layers do not stand together", where=item.nodes[0].name)
    return tuple(items)


@dataclass(kw_only=True, slots=True)
class _Class:
    """Containers that are wired alike.

    Args:
        name: of the Python class.
        instances: the containers; the first stands for all.
        symbols: argument by tensor of the first instance, for channels.
        numbers: argument by node name and field of the first instance, for numbers that differ.
    """

    name: str
    instances: list[_Item] = field(default_factory=list)
    symbols: dict[str, str] = field(default_factory=dict)
    numbers: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def first(self) -> _Item:
        return self.instances[0]

    @property
    def residual(self) -> bool:
        return any(node.spec.residual for node in self.first.nodes)

    def channels(self, tensor: str) -> str:
        return self.symbols[tensor]

    def number(self, node: Node, field: str) -> str:
        return self.numbers.get((node.name, field), str(getattr(node.spec, field)))

    def rate(self, node: Node) -> str:
        raise ConfigError("a residual inside a part of a block has no PyTorch form here", where=node.name)


class _Classes:
    """All classes of a graph, by how their containers are wired."""

    def __init__(self, graph: Graph, items: Iterable[_Item]) -> None:
        self.known: dict[object, _Class] = {}
        self._read_outside = set(graph.outputs)
        for item in items:
            for block in _blocks_of(item):
                self._add(block, nested=False)
        for each in self.known.values():
            _find_symbols(each)
            _find_numbers(each)

    def of(self, item: _Item, *, nested: bool) -> _Class:
        return self.known[_wiring(item, nested=nested)]

    def _add(self, item: _Item, *, nested: bool) -> None:
        for child in item.children:
            if not child.leaf:
                self._add(child, nested=True)
        if len(item.sources) != 1:
            raise ConfigError("a block with several inputs has no PyTorch form here", where=item.output)
        if {node.name for node in item.nodes[:-1]} & self._read_outside:
            raise ConfigError("an output inside a block has no PyTorch form here", where=item.output)
        if sum(node.spec.residual for node in item.nodes) > 1:
            raise ConfigError("a block with several residuals has no PyTorch form here", where=item.output)
        wiring = _wiring(item, nested=nested)
        if wiring not in self.known:
            self.known[wiring] = _Class(name=self._free_name(_class_name(item, nested=nested)))
        self.known[wiring].instances.append(item)

    def _free_name(self, name: str) -> str:
        taken = {each.name for each in self.known.values()}
        numbered = (f"{name}{number}" for number in itertools.count(2))
        return name if name not in taken else next(each for each in numbered if each not in taken)

    def call(self, item: _Item, names: _Names, *, nested: bool) -> str:
        """Return the expression that builds a container, in the words of the class around it."""
        cls = self.of(item, nested=nested)
        twin = {one.name: other.name for one, other in zip(cls.first.nodes, item.nodes, strict=True)}
        twin[cls.first.sources[0]] = item.sources[0]
        nodes = {node.name: node for node in item.nodes}
        arguments = {symbol: names.channels(twin[tensor]) for tensor, symbol in reversed(cls.symbols.items())}
        arguments |= {name: names.number(nodes[twin[node]], field) for (node, field), name in cls.numbers.items()}
        texts = [arguments[name] if name in _FIRST else f"{name}={arguments[name]}" for name in _order(cls)]
        texts += [f"drop_path={names.rate(node)}" for node in item.nodes if node.spec.residual]
        return f"{cls.name}({', '.join(texts)})"

    def definition(self, cls: _Class) -> str:
        """Return the text of a class."""
        arguments = [f"{name}: int" for name in _order(cls)] + ["drop_path: float"] * cls.residual
        modules = [f"self.{item.role} = {text}" for item, text in self.modules(cls.first.children, cls)]
        modules += ["self.drop_path = DropPath(drop_path)"] * cls.residual
        forward = _forward(cls.first.children, {cls.first.sources[0]: "x"})
        return _class_text(cls.name, arguments, modules, "x: Tensor", "Tensor", forward)

    def modules(self, items: Iterable[_Item], names: _Names) -> Iterator[tuple[_Item, str]]:
        """Yield the containers and nodes that are modules, with the expressions that build them."""
        for item in items:
            if not item.leaf:
                yield item, self.call(item, names, nested=True)
            elif item.nodes[0].spec.op not in ("scale", "add"):
                yield item, _module(item.nodes[0], names)


def _blocks_of(item: _Item) -> Iterator[_Item]:
    """Yield the blocks of a stage, or the item itself if it is a block."""
    if item.leaf:
        return
    if any(child.leaf for child in item.children):
        yield item
        return
    for index, child in enumerate(item.children, start=1):
        before = item.children[index - 2].output if index > 1 else child.sources[0]
        if child.role != f"block{index}" or child.sources != [before]:
            raise ConfigError("the blocks of a stage are not block1, block2 ... in a chain", where=child.nodes[0].name)
        yield child


def _wiring(item: _Item, *, nested: bool) -> object:
    """Return what all containers of one class have in common."""
    roles = {item.sources[0]: "x"} | {node.name: _inner_name(node, item) for node in item.nodes}
    return tuple(
        (
            roles[node.name],
            tuple(roles[source] for source in node.inputs),
            (spec.op, spec.activation, spec.residual, spec.depthwise, node.norm, node.bias),
            (spec.kernel, spec.stride) if nested or spec.op != "conv" else (),
        )
        for node in item.nodes
        for spec in [node.spec]
    )


def _inner_name(node: Node, item: _Item) -> str:
    """Return a node's name inside a container."""
    depth = item.nodes[0].name.split(".").index(item.role)
    return ".".join(node.name.split(".")[depth + 1 :])


def _class_name(item: _Item, *, nested: bool) -> str:
    if nested:
        return {"se": "SqueezeExcite"}.get(item.role, item.role.title().replace("_", ""))
    ends = [node for node in item.nodes if node.spec.residual]
    if not ends:
        return "PlainBlock"
    if ends[0].inputs[-1] == item.sources[0]:
        return "IdentityBlock"
    return "PooledProjectionBlock" if any(node.spec.op == "avg_pool" for node in item.nodes) else "ProjectionBlock"


def _find_symbols(cls: _Class) -> None:
    """Name the channels of every tensor: tensors that must have equal channels share a name."""
    item = cls.first
    groups = _equal_channels(item)
    roots = list(dict.fromkeys(groups.values()))
    source, last = groups[item.sources[0]], groups[item.output]
    named = {source: "in_channels", last: "out_channels"} if source != last else {source: "channels"}
    # Inner widths that are equal in every block of the class are one number to the reader.
    position = {tensor: index for index, tensor in enumerate([item.sources[0], *(node.name for node in item.nodes)])}
    values = {root: tuple(_widths(instance)[position[root]] for instance in cls.instances) for root in roots}
    inner: dict[tuple[int, ...], list[str]] = {}
    for root in roots:
        if root not in named:
            inner.setdefault(values[root], []).append(root)
    roles = {node.name: _inner_name(node, item) for node in item.nodes}
    direct = [equal for equal in inner.values() if "." not in roles[equal[0]]]
    for equal in inner.values():
        name = f"{roles[equal[0]].replace('.', '_')}_channels"
        named |= dict.fromkeys(equal, "inner_channels" if [equal] == direct else name)
    cls.symbols = {tensor: named[root] for tensor, root in groups.items()}


def _widths(item: _Item) -> list[int]:
    """Return the channels of a container's input and of every tensor in it."""
    reader = next(node for node in item.nodes if node.inputs[0] == item.sources[0])
    return [reader.spec.in_channels, *(node.spec.out_channels for node in item.nodes)]


def _equal_channels(item: _Item) -> dict[str, str]:
    """Return, for every tensor of a container, the first tensor that must have as many channels."""
    root = {item.sources[0]: item.sources[0]}
    for node in item.nodes:
        own_width = node.spec.op in ("conv", "linear") and not node.spec.depthwise
        root[node.name] = node.name if own_width else root[node.inputs[0]]
        for other in node.inputs[1:]:
            first, later = sorted((root[node.name], root[other]), key=list(root).index)
            root = {tensor: first if each == later else each for tensor, each in root.items()}
    return root


def _find_numbers(cls: _Class) -> None:
    """Make arguments of the kernels, strides and groups that differ between the blocks of a class."""
    for number in _NUMBERS:
        columns: dict[str, tuple[int, ...]] = {}
        for index, node in enumerate(cls.first.nodes):
            values = tuple(getattr(instance.nodes[index].spec, number) for instance in cls.instances)
            if len(set(values)) > 1 and not (number == "groups" and node.spec.depthwise):
                columns[node.name] = values
        shared = len(set(columns.values())) == 1
        for name in columns:
            role = name.rpartition(".")[2]
            cls.numbers[name, number] = number if shared else f"{role}_{number}"


def _order(cls: _Class) -> list[str]:
    """Return the arguments of a class: channels, then numbers."""
    names = dict.fromkeys([*cls.symbols.values(), *cls.numbers.values()])
    return sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))


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


def _forward(items: Sequence[_Item], variables: Mapping[str, str], outputs: Sequence[str] = ()) -> list[str]:
    """Return the lines that run modules one after the other; the last returns."""
    known, flat, lines = dict(variables), set[str](), []
    for item in items:
        node = item.nodes[0]
        expression = f"self.{item.role}({known[item.sources[0]]})"
        if item.leaf:
            expression = _expression(item, known, flat=node.inputs[0] in flat, output=node.name in outputs)
            flat |= {node.name} if node.spec.op == "linear" else set()
        known[item.output] = item.role
        lines.append(f"{item.role} = {expression}")
    if len(outputs) > 1:
        return [*lines, f"return {', '.join(known[name] for name in outputs)}"]
    return [*lines[:-1], f"return {expression}"]


def _expression(item: _Item, known: Mapping[str, str], *, flat: bool, output: bool) -> str:
    node = item.nodes[0]
    first, *others = (known[source] for source in node.inputs)
    match node.spec.op:
        case "scale":
            text = f"{first} * {others[0]}"
        case "add":
            text = f"{first} + {others[0]}"
        case "linear":
            features = first if flat else f"{first}.flatten(1)"
            text = f"self.{item.role}({f'self.dropout({features})' if output else features})"
        case _:
            text = f"self.{item.role}({first})"
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


def _network(graph: Graph, items: Sequence[_Item], classes: _Classes) -> str:
    names, modules = _Literal(graph), []
    branches = sum(node.spec.residual for node in graph)
    if branches:
        modules.append(f"rates = [drop_path * index / {max(branches - 1, 1)} for index in range({branches})]")
    for item in items:
        if item.leaf or any(child.leaf for child in item.children):
            modules += [
                f"self.{item.role} = {_module(item.nodes[0], names)}"
                if item.leaf
                else f"self.{item.role} = {classes.call(item, names, nested=False)}"
            ]
            continue
        blocks = (f"    {classes.call(block, names, nested=False)}," for block in item.children)
        modules += [f"self.{item.role} = stage(", *blocks, ")"]
    forward = _forward(items, {IMAGE: IMAGE}, graph.outputs)
    options = [f"{name}: float = 0.0" for name in ("drop_path",) if branches]
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
    inside = [f"        {text}"] if len(text) <= _LINE - 8 else [f"        {each}," for each in arguments]
    return ["    def __init__(", *inside, "    ) -> None:"]


def _plain(text: str) -> str:
    """Return text that cannot end the docstring it is put in."""
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")
