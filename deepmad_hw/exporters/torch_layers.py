"""The layers of an exported network as plain PyTorch modules. Layer 3, torch only.

Everything below the imports is also copied into every exported Python file, so it must stand alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def activation(name: str) -> nn.Module:
    """Return the activation called `name`."""
    kinds: dict[str, type[nn.Module]] = {
        "none": nn.Identity,
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "silu": nn.SiLU,
        "hardswish": nn.Hardswish,
        "sigmoid": nn.Sigmoid,
        "hardsigmoid": nn.Hardsigmoid,
    }
    return kinds[name]()


def padding(kernel: int) -> int:
    """Return the padding that keeps the pixels of odd windows; even windows have none."""
    return kernel // 2 if kernel % 2 else 0


class Conv(nn.Conv2d):
    """Convolution, batch norm, residual add, activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: bool = False,
        bias: bool = False,
        act: str = "none",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel, stride=stride, padding=padding(kernel), groups=groups, bias=bias
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.act = activation(act)

    def forward(self, image: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return the layer's output."""
        features: Tensor = self.norm(super().forward(image))
        if residual is not None:
            features = features + residual
        output: Tensor = self.act(features)
        return output


class Linear(nn.Linear):
    """Fully connected layer with bias on flattened features, activation."""

    def __init__(self, in_features: int, out_features: int, *, act: str = "none") -> None:
        super().__init__(in_features, out_features)
        self.act = activation(act)

    def forward(self, features: Tensor) -> Tensor:
        """Return the layer's output."""
        output: Tensor = self.act(super().forward(features.flatten(1)))
        return output


class Pool(nn.Sequential):
    """Average (`avg`), maximum (`max`) or `global` average pooling, activation."""

    def __init__(self, kind: str, *, kernel: int = 1, stride: int = 1, act: str = "none") -> None:
        window = {"kernel_size": kernel, "stride": stride, "padding": padding(kernel)}
        kinds = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}
        super().__init__(kinds[kind](**window) if kind in kinds else nn.AdaptiveAvgPool2d(1), activation(act))


class Scale(nn.Module):
    """Multiplies each channel by its factor."""

    def __init__(self, *, act: str = "none") -> None:
        super().__init__()
        self.act = activation(act)

    def forward(self, features: Tensor, factor: Tensor) -> Tensor:
        """Return the layer's output."""
        output: Tensor = self.act(features * factor)
        return output


class Add(nn.Module):
    """Sum of two feature maps."""

    def __init__(self, *, act: str = "none") -> None:
        super().__init__()
        self.act = activation(act)

    def forward(self, features: Tensor, other: Tensor) -> Tensor:
        """Return the layer's output."""
        output: Tensor = self.act(features + other)
        return output


class Network(nn.Module):
    """Named layers run in order; a name's dots become nested modules, as in ``stage1.block1.conv1``."""

    def __init__(self, layers: Sequence[tuple[str, nn.Module, Sequence[str]]], outputs: Sequence[str]) -> None:
        super().__init__()
        self.order = [(name, tuple(inputs)) for name, _, inputs in layers]
        self.outputs = tuple(outputs)
        for name, layer, _ in layers:
            self._place(name, layer)

    def _place(self, name: str, layer: nn.Module) -> None:
        parent: nn.Module = self
        *folders, leaf = name.split(".")
        for folder in folders:
            if folder not in parent._modules:
                parent.add_module(folder, nn.Module())
            parent = parent.get_submodule(folder)
        parent.add_module(leaf, layer)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the one output, or a tuple where there are several."""
        tensors: dict[str, Tensor] = {"image": image}
        for name, inputs in self.order:
            tensors[name] = self.get_submodule(name)(*(tensors[source] for source in inputs))
        found = tuple(tensors[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found
