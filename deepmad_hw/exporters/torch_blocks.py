"""Groups the nodes of a graph into PyTorch modules, and modules that are wired alike into classes. Layer 3."""

from __future__ import annotations

import itertools
import keyword
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from deepmad_hw.errors import ConfigError
from deepmad_hw.network.layer import IMAGE, Graph, Node

FIRST = ("channels", "in_channels", "out_channels")  # arguments that need no name
_NUMBERS = ("kernel", "stride", "groups")
_RESERVED = {"x", IMAGE, "drop_path", "dropout", "forward", "train", "eval", "training", "functional", "nn"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A module: one node, or a container of modules.

    Args:
        role: its name inside the container around it.
        nodes: all of its nodes.
        children: the modules of a container.
    """

    role: str
    nodes: tuple[Node, ...]
    children: tuple[Part, ...] = ()

    @property
    def leaf(self) -> bool:
        """Return whether it is one node."""
        return not self.children

    @property
    def output(self) -> str:
        """Return the tensor it makes."""
        return self.nodes[-1].name

    @property
    def sources(self) -> list[str]:
        """Return the tensors it reads from outside, in order of use."""
        own = {node.name for node in self.nodes}
        return list(dict.fromkeys(name for node in self.nodes for name in node.inputs if name not in own))


def parts_of(nodes: Sequence[Node], depth: int = 0) -> tuple[Part, ...]:
    """Return the modules that nodes make, by the dots in their names.

    Args:
        nodes: in execution order.
        depth: dots of their names that are left of the modules' own.

    Raises:
        ConfigError: a name cannot be one of a module, or a module's nodes do not stand together.
    """
    parts = []
    for role, group in itertools.groupby(nodes, key=lambda node: node.name.split(".")[depth]):
        members = tuple(group)
        if not role.isidentifier() or keyword.iskeyword(role) or role.startswith("_") or role in _RESERVED:
            raise ConfigError(f"{role!r} cannot name a PyTorch module", where=members[0].name)
        single = len(members) == 1 and members[0].name.count(".") == depth
        parts.append(Part(role=role, nodes=members, children=() if single else parts_of(members, depth + 1)))
    roles = [part.role for part in parts]
    for part in parts:
        if roles.count(part.role) > 1:
            raise ConfigError("its layers do not stand together", where=part.nodes[0].name)
    return tuple(parts)


@dataclass(kw_only=True, slots=True)
class BlockClass:
    """Containers that are wired alike.

    Args:
        name: of the Python class.
        instances: the containers; the first stands for all.
        symbols: argument by tensor of the first instance, for channels.
        numbers: argument by node name and field of the first instance, for numbers that differ.
    """

    name: str
    instances: list[Part] = field(default_factory=list)
    symbols: dict[str, str] = field(default_factory=dict)
    numbers: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def first(self) -> Part:
        """Return the container that stands for all."""
        return self.instances[0]

    @property
    def residual(self) -> bool:
        """Return whether a residual is added in it."""
        return any(node.spec.residual for node in self.first.nodes)

    def channels(self, tensor: str) -> str:
        """Return the argument for the channels of a tensor of the first instance.

        Args:
            tensor: its name.
        """
        return self.symbols[tensor]

    def number(self, node: Node, field: str) -> str:
        """Return a number of a node: an argument where the instances differ.

        Args:
            node: of the first instance.
            field: of its spec.
        """
        return self.numbers.get((node.name, field), str(getattr(node.spec, field)))

    def rate(self, node: Node) -> str:
        """Refuse a residual inside a part of a block.

        Args:
            node: that adds it.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a residual inside a part of a block has no PyTorch form here", where=node.name)


class Classes:
    """All classes of a graph, by how their containers are wired.

    Args:
        graph: the network.
        parts: its modules.
    """

    def __init__(self, graph: Graph, parts: Iterable[Part]) -> None:
        self.known: dict[object, BlockClass] = {}
        self._read_outside = set(graph.outputs)
        for part in parts:
            for block in _blocks_of(part):
                self._add(block, nested=False)
        for cls in self.known.values():
            _find_symbols(cls)
            _find_numbers(cls)

    def of(self, part: Part, *, nested: bool) -> BlockClass:
        """Return the class of a container.

        Args:
            part: the container.
            nested: whether it stands inside a block.
        """
        return self.known[_wiring(part, nested=nested)]

    def _add(self, part: Part, *, nested: bool) -> None:
        for child in part.children:
            if not child.leaf:
                self._add(child, nested=True)
        if len(part.sources) != 1:
            raise ConfigError("a block with several inputs has no PyTorch form here", where=part.output)
        if {node.name for node in part.nodes[:-1]} & self._read_outside:
            raise ConfigError("an output inside a block has no PyTorch form here", where=part.output)
        if sum(node.spec.residual for node in part.nodes) > 1:
            raise ConfigError("a block with several residuals has no PyTorch form here", where=part.output)
        wiring = _wiring(part, nested=nested)
        if wiring not in self.known:
            self.known[wiring] = BlockClass(name=self._free_name(_class_name(part, nested=nested)))
        self.known[wiring].instances.append(part)

    def _free_name(self, name: str) -> str:
        taken = {cls.name for cls in self.known.values()}
        numbered = (f"{name}{number}" for number in itertools.count(2))
        return next(free for free in itertools.chain([name], numbered) if free not in taken)


def _blocks_of(part: Part) -> Iterator[Part]:
    """Yield the blocks of a stage, or the part itself if it is a block."""
    if part.leaf:
        return
    if any(child.leaf for child in part.children):
        yield part
        return
    for index, child in enumerate(part.children, start=1):
        before = part.children[index - 2].output if index > 1 else child.sources[0]
        if child.role != f"block{index}" or child.sources != [before]:
            raise ConfigError("the blocks of a stage are not block1, block2 ... in a chain", where=child.nodes[0].name)
        yield child


def _wiring(part: Part, *, nested: bool) -> object:
    """Return what all containers of one class have in common."""
    roles = {part.sources[0]: "x"} | {node.name: _inner_name(node, part) for node in part.nodes}
    return tuple(
        (
            roles[node.name],
            tuple(roles[source] for source in node.inputs),
            (spec.op, spec.activation, spec.residual, spec.depthwise, node.norm, node.bias),
            (spec.kernel, spec.stride) if nested or spec.op != "conv" else (),
        )
        for node in part.nodes
        for spec in [node.spec]
    )


def _inner_name(node: Node, part: Part) -> str:
    """Return a node's name inside a container."""
    depth = part.nodes[0].name.split(".").index(part.role)
    return ".".join(node.name.split(".")[depth + 1 :])


def _class_name(part: Part, *, nested: bool) -> str:
    if nested:
        return {"se": "SqueezeExcite"}.get(part.role, part.role.title().replace("_", ""))
    ends = [node for node in part.nodes if node.spec.residual]
    if not ends:
        return "PlainBlock"
    if ends[0].inputs[-1] == part.sources[0]:
        return "IdentityBlock"
    return "PooledProjectionBlock" if any(node.spec.op == "avg_pool" for node in part.nodes) else "ProjectionBlock"


def _find_symbols(cls: BlockClass) -> None:
    """Name the channels of every tensor: tensors that must have equal channels share a name."""
    part = cls.first
    groups = _equal_channels(part)
    roots = list(dict.fromkeys(groups.values()))
    source, last = groups[part.sources[0]], groups[part.output]
    named = {source: "in_channels", last: "out_channels"} if source != last else {source: "channels"}
    # Inner widths that are equal in every block of the class are one number to the reader.
    position = {tensor: index for index, tensor in enumerate([part.sources[0], *(node.name for node in part.nodes)])}
    values = {root: tuple(_widths(instance)[position[root]] for instance in cls.instances) for root in roots}
    inner: dict[tuple[int, ...], list[str]] = {}
    for root in roots:
        if root not in named:
            inner.setdefault(values[root], []).append(root)
    roles = {node.name: _inner_name(node, part) for node in part.nodes}
    direct = [equal for equal in inner.values() if "." not in roles[equal[0]]]
    for equal in inner.values():
        name = f"{roles[equal[0]].replace('.', '_')}_channels"
        named |= dict.fromkeys(equal, "inner_channels" if [equal] == direct else name)
    cls.symbols = {tensor: named[root] for tensor, root in groups.items()}


def _widths(part: Part) -> list[int]:
    """Return the channels of a container's input and of every tensor in it."""
    reader = next(node for node in part.nodes if node.inputs[0] == part.sources[0])
    return [reader.spec.in_channels, *(node.spec.out_channels for node in part.nodes)]


def _equal_channels(part: Part) -> dict[str, str]:
    """Return, for every tensor of a container, the first tensor that must have as many channels."""
    root = {part.sources[0]: part.sources[0]}
    for node in part.nodes:
        own_width = node.spec.op in ("conv", "linear") and not node.spec.depthwise
        root[node.name] = node.name if own_width else root[node.inputs[0]]
        for other in node.inputs[1:]:
            first, later = sorted((root[node.name], root[other]), key=list(root).index)
            root = {tensor: first if each == later else each for tensor, each in root.items()}
    return root


def _find_numbers(cls: BlockClass) -> None:
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


def arguments_of(cls: BlockClass) -> list[str]:
    """Return the arguments of a class: channels, then numbers.

    Args:
        cls: the class.
    """
    names = dict.fromkeys([*cls.symbols.values(), *cls.numbers.values()])
    return sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
