"""Well-known networks as graphs of nodes, to measure beside designs and to check the counting. Layer 2.

They need what `Architecture` leaves out (strided projections, blocks without expansion, squeeze-excite with biases),
so each is a short table of numbers that a few shared pieces turn into nodes. Sizes are those of torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepmad_hw.errors import ConfigError
from deepmad_hw.network.architecture import require_resolution
from deepmad_hw.network.layer import IMAGE, Graph, LayerSpec, Node
from deepmad_hw.registry import require_known

IMAGE_CHANNELS = 3
TOTAL_STRIDE = 32


def names() -> tuple[str, ...]:
    """Return the names of all reference networks."""
    return tuple(_NETWORKS)


def get(name: str, *, resolution: tuple[int, int] = (224, 224), classes: int = 1000) -> Graph:
    """Return a reference network as a graph.

    Args:
        name: one of `names()`.
        resolution: (height, width) in pixels, each a multiple of 32.
        classes: width of the classifier, at least 1.

    Raises:
        ConfigError: there is no such network, resolution or number of classes.
    """
    require_known(name, _NETWORKS, what="reference network", where="reference")
    require_resolution(resolution, TOTAL_STRIDE)
    if not isinstance(classes, int) or classes < 1:
        raise ConfigError(f"expected a whole number >= 1, got {classes!r}", where="classes")
    net = _Net(resolution)
    _NETWORKS[name](net)
    net.linear("classifier", out=classes)
    return Graph(
        name=name,
        in_channels=IMAGE_CHANNELS,
        height=resolution[0],
        width=resolution[1],
        nodes=tuple(net.nodes),
        outputs=(net.last,),
    )


SCALABLE = ("resnet18", "mobilenet_v2")


def scaled(
    name: str,
    *,
    width: float,
    depth: float = 1.0,
    resolution: tuple[int, int],
    in_channels: int = IMAGE_CHANNELS,
    classes: int,
    total_stride: int = TOTAL_STRIDE,
) -> Graph:
    """Return a well-known network with other widths and depths, also for small images.

    Widths are rounded to multiples of 8, numbers of blocks to whole ones from 1. For a smaller total stride the first
    strides become 1, as is usual for CIFAR: max pooling is left out, and a stem without its stride has kernel 3.

    Args:
        name: one of `SCALABLE`.
        width: factor of all channels.
        depth: factor of the number of blocks of each stage.
        resolution: (height, width) in pixels, each a multiple of `total_stride`.
        in_channels: channels of the image.
        classes: width of the classifier, at least 1.
        total_stride: product of all strides, a power of 2 up to 32.

    Raises:
        ConfigError: there is no such network, resolution or number of classes.

    Example:
        >>> graph = scaled("resnet18", width=0.25, resolution=(32, 32), classes=10, total_stride=8)
        >>> graph.nodes[0].spec.out_channels, graph.nodes[-1].spec.in_channels
        (16, 128)
    """
    require_known(name, SCALABLE, what="scalable network", where="reference")
    require_resolution(resolution, total_stride)
    undone = (TOTAL_STRIDE // total_stride).bit_length() - 1
    if total_stride << undone != TOTAL_STRIDE:
        raise ConfigError(f"expected a power of 2 up to {TOTAL_STRIDE}, got {total_stride}", where="total_stride")
    net = _Net(resolution, in_channels=in_channels, strides_undone=undone)
    if name == "resnet18":
        widths = tuple(_on_grid(width * each) for each in RESNET_WIDTHS)
        depths = (_blocks(depth * 2),) * len(widths)
        _resnet(_basic_block, *depths, widths=widths)(net)
    else:
        rows = [
            (ratio, kernel, _on_grid(width * out), _blocks(depth * number), stride)
            for ratio, kernel, out, number, stride in MOBILENET_V2
        ]
        stem, head = _on_grid(32 * width), _on_grid(1280 * width)
        _mobile(_uniform(rows, stem=stem, activation="relu6"), stem=stem, head=head, activation="relu6")(net)
    net.linear("classifier", out=classes)
    return Graph(
        name=f"{name}_width{width:.4g}_depth{depth:.4g}",
        in_channels=in_channels,
        height=resolution[0],
        width=resolution[1],
        nodes=tuple(net.nodes),
        outputs=(net.last,),
    )


def _on_grid(width: float) -> int:
    return max(8, 8 * round(width / 8))


def _blocks(number: float) -> int:
    return max(1, round(number))


class _Net:
    """Nodes while they are written down; every layer reads the one before unless told otherwise."""

    def __init__(
        self, resolution: tuple[int, int], *, in_channels: int = IMAGE_CHANNELS, strides_undone: int = 0
    ) -> None:
        self.nodes: list[Node] = []
        self.last = IMAGE
        self._shapes = {IMAGE: (in_channels, *resolution)}
        self._strides_undone = strides_undone

    def stride(self, stride: int) -> int:
        """Return the stride that a stem or stage has here: 1 while strides are left to be undone."""
        if stride == 2 and self._strides_undone:
            self._strides_undone -= 1
            return 1
        return stride

    @property
    def channels(self) -> int:
        """Return the channels of the last node."""
        return self._shapes[self.last][0]

    def conv(
        self,
        name: str,
        *,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: str = "none",
        source: str | None = None,
        residual: str | None = None,
        norm: bool = True,
    ) -> str:
        """Add a convolution, with batch norm or else a bias; return its name."""
        source = source or self.last
        channels, height, width = self._shapes[source]
        spec = LayerSpec(
            op="conv",
            in_channels=channels,
            out_channels=out,
            height=height,
            width=width,
            kernel=kernel,
            stride=stride,
            groups=groups,
            activation=activation,
            residual=residual is not None,
        )
        inputs = (source,) if residual is None else (source, residual)
        return self._add(Node(name=name, spec=spec, inputs=inputs, norm=norm, bias=not norm))

    def pool(self, name: str, *, op: str = "global_pool", kernel: int = 1, stride: int = 1) -> str:
        """Add a pooling; return its name."""
        channels, height, width = self._shapes[self.last]
        spec = LayerSpec(
            op=op,
            in_channels=channels,
            out_channels=channels,
            height=height,
            width=width,
            kernel=kernel,
            stride=stride,
        )
        return self._add(Node(name=name, spec=spec, inputs=(self.last,)))

    def linear(self, name: str, *, out: int, activation: str = "none") -> str:
        """Add a fully connected layer with bias; return its name."""
        spec = LayerSpec(
            op="linear", in_channels=self.channels, out_channels=out, height=1, width=1, activation=activation
        )
        return self._add(Node(name=name, spec=spec, inputs=(self.last,), bias=True))

    def squeeze_excite(self, prefix: str, *, squeezed: int, activations: tuple[str, str]) -> str:
        """Reweight the last node's channels by two 1x1 convolutions with bias; return the new last name."""
        source, (channels, height, width) = self.last, self._shapes[self.last]
        self.pool(f"{prefix}.pool")
        self.conv(f"{prefix}.reduce", out=squeezed, activation=activations[0], norm=False)
        gate = self.conv(f"{prefix}.expand", out=channels, activation=activations[1], norm=False)
        spec = LayerSpec(op="scale", in_channels=channels, out_channels=channels, height=height, width=width)
        return self._add(Node(name=f"{prefix}.scale", spec=spec, inputs=(source, gate)))

    def _add(self, node: Node) -> str:
        self.nodes.append(node)
        self._shapes[node.name] = (node.spec.out_channels, node.spec.out_height, node.spec.out_width)
        self.last = node.name
        return node.name


def _skip(net: _Net, prefix: str, *, source: str, out: int, stride: int) -> str:
    """Return what a ResNet or RegNet block adds: its input, or a strided 1x1 projection of it."""
    if stride == 1 and net.channels == out:
        return source
    return net.conv(f"{prefix}.projection", source=source, out=out, stride=stride)


# --- ResNet: He et al., CVPR 2016 -----------------------------------------------------------------------------------

BOTTLENECK_EXPANSION = 4
RESNET_WIDTHS = (64, 128, 256, 512)


def _basic_block(net: _Net, prefix: str, *, width: int, stride: int) -> None:
    source = net.last
    skip = _skip(net, prefix, source=source, out=width, stride=stride)
    net.conv(f"{prefix}.conv1", source=source, out=width, kernel=3, stride=stride, activation="relu")
    net.conv(f"{prefix}.conv2", out=width, kernel=3, activation="relu", residual=skip)


def _bottleneck_block(net: _Net, prefix: str, *, width: int, stride: int) -> None:
    source, out = net.last, width * BOTTLENECK_EXPANSION
    skip = _skip(net, prefix, source=source, out=out, stride=stride)
    net.conv(f"{prefix}.conv1", source=source, out=width, activation="relu")
    net.conv(f"{prefix}.conv2", out=width, kernel=3, stride=stride, activation="relu")
    net.conv(f"{prefix}.conv3", out=out, activation="relu", residual=skip)


def _resnet(block: Callable[..., None], *depths: int, widths: Sequence[int] = RESNET_WIDTHS) -> Callable[[_Net], None]:
    def build(net: _Net) -> None:
        stride = net.stride(2)
        net.conv("stem", out=widths[0], kernel=7 if stride == 2 else 3, stride=stride, activation="relu")
        if net.stride(2) == 2:
            net.pool("maxpool", op="max_pool", kernel=3, stride=2)
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            first = net.stride(2) if stage > 1 else 1
            for index in range(1, depth + 1):
                block(net, f"stage{stage}.block{index}", width=width, stride=first if index == 1 else 1)
        net.pool("pool")

    return build


# --- Inverted residuals: MobileNetV2, MobileNetV3, EfficientNet -----------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Squeeze:
    """Squeeze-excite: its width from the block's (input, inner) width, and its two activations."""

    width: Callable[[int, int], int]
    activations: tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inverted:
    """A stage of inverted residual blocks: one inner width each; only the first block has the stride."""

    inner: tuple[int, ...]
    out: int
    stride: int
    activation: str
    kernel: int = 3
    squeeze: _Squeeze | None = None


def _inverted_block(net: _Net, prefix: str, stage: _Inverted, *, inner: int, stride: int) -> None:
    source, channels = net.last, net.channels
    if inner != channels:
        net.conv(f"{prefix}.conv1", out=inner, activation=stage.activation)
    net.conv(
        f"{prefix}.conv2",
        out=inner,
        kernel=stage.kernel,
        stride=stride,
        groups=inner,
        activation=stage.activation,
    )
    if stage.squeeze:
        squeezed = stage.squeeze.width(channels, inner)
        net.squeeze_excite(f"{prefix}.se", squeezed=squeezed, activations=stage.squeeze.activations)
    identity = stride == 1 and channels == stage.out
    net.conv(f"{prefix}.conv3", out=stage.out, residual=source if identity else None)


def _mobile(
    stages: Sequence[_Inverted], *, stem: int, head: int, activation: str, hidden: int | None = None
) -> Callable[[_Net], None]:
    def build(net: _Net) -> None:
        net.conv("stem", out=stem, kernel=3, stride=net.stride(2), activation=activation)
        for number, stage in enumerate(stages, start=1):
            first = net.stride(stage.stride)
            for index, inner in enumerate(stage.inner, start=1):
                stride = first if index == 1 else 1
                _inverted_block(net, f"stage{number}.block{index}", stage, inner=inner, stride=stride)
        net.conv("head", out=head, activation=activation)
        net.pool("pool")
        if hidden:
            net.linear("hidden", out=hidden, activation=activation)

    return build


def _uniform(
    rows: Sequence[tuple[int, int, int, int, int]], *, stem: int, activation: str, squeeze: _Squeeze | None = None
) -> list[_Inverted]:
    """Return stages from rows of (inner over input width, kernel, out, depth, stride)."""
    stages, channels = [], stem
    for ratio, kernel, out, depth, stride in rows:
        inner = (channels * ratio, *[out * ratio] * (depth - 1))
        stages.append(
            _Inverted(inner=inner, out=out, stride=stride, activation=activation, kernel=kernel, squeeze=squeeze)
        )
        channels = out
    return stages


# Sandler et al., CVPR 2018, table 2.
MOBILENET_V2 = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 3, 32, 3, 2),
    (6, 3, 64, 4, 2),
    (6, 3, 96, 3, 1),
    (6, 3, 160, 3, 2),
    (6, 3, 320, 1, 1),
)
# Tan and Le, ICML 2019, table 1.
EFFICIENTNET_B0 = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
_QUARTER_OF_INPUT = _Squeeze(width=lambda channels, inner: channels // 4, activations=("silu", "sigmoid"))


def _quarter_on_grid(channels: int, inner: int) -> int:
    """Return a quarter of the inner width, to the nearest multiple of 8 that is not 10 % below it."""
    nearest = max(8, (inner // 4 + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * (inner // 4) else nearest


_HARD = _Squeeze(width=_quarter_on_grid, activations=("relu", "hardsigmoid"))
# Howard et al., ICCV 2019, table 1.
_MOBILENET_V3_LARGE = (
    _Inverted(inner=(16,), out=16, stride=1, activation="relu"),
    _Inverted(inner=(64, 72), out=24, stride=2, activation="relu"),
    _Inverted(inner=(72, 120, 120), out=40, stride=2, activation="relu", kernel=5, squeeze=_HARD),
    _Inverted(inner=(240, 200, 184, 184), out=80, stride=2, activation="hardswish"),
    _Inverted(inner=(480, 672), out=112, stride=1, activation="hardswish", squeeze=_HARD),
    _Inverted(inner=(672, 960, 960), out=160, stride=2, activation="hardswish", kernel=5, squeeze=_HARD),
)


# --- RegNetY-400MF: Radosavovic et al., CVPR 2020 -------------------------------------------------------------------


def _regnet_block(net: _Net, prefix: str, *, width: int, stride: int, group_width: int) -> None:
    source, squeezed = net.last, round(net.channels / 4)
    skip = _skip(net, prefix, source=source, out=width, stride=stride)
    net.conv(f"{prefix}.conv1", source=source, out=width, activation="relu")
    net.conv(f"{prefix}.conv2", out=width, kernel=3, stride=stride, groups=width // group_width, activation="relu")
    net.squeeze_excite(f"{prefix}.se", squeezed=squeezed, activations=("relu", "sigmoid"))
    net.conv(f"{prefix}.conv3", out=width, activation="relu", residual=skip)


def _regnet_y_400mf(net: _Net) -> None:
    net.conv("stem", out=32, kernel=3, stride=2, activation="relu")
    for stage, (width, depth) in enumerate(((48, 1), (104, 3), (208, 6), (440, 6)), start=1):
        for index in range(1, depth + 1):
            stride = 2 if index == 1 else 1
            _regnet_block(net, f"stage{stage}.block{index}", width=width, stride=stride, group_width=8)
    net.pool("pool")


_NETWORKS: dict[str, Callable[[_Net], None]] = {
    "resnet18": _resnet(_basic_block, 2, 2, 2, 2),
    "resnet34": _resnet(_basic_block, 3, 4, 6, 3),
    "resnet50": _resnet(_bottleneck_block, 3, 4, 6, 3),
    "resnet101": _resnet(_bottleneck_block, 3, 4, 23, 3),
    "mobilenet_v2": _mobile(
        _uniform(MOBILENET_V2, stem=32, activation="relu6"), stem=32, head=1280, activation="relu6"
    ),
    "mobilenet_v3_large": _mobile(_MOBILENET_V3_LARGE, stem=16, head=960, activation="hardswish", hidden=1280),
    "efficientnet_b0": _mobile(
        _uniform(EFFICIENTNET_B0, stem=32, activation="silu", squeeze=_QUARTER_OF_INPUT),
        stem=32,
        head=1280,
        activation="silu",
    ),
    "regnet_y_400mf": _regnet_y_400mf,
}
