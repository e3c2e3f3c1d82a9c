"""The layers of a network in training form as PyTorch modules. Layer 2, torch only."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


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


class DropPath(nn.Module):
    """Leaves a residual branch out, image by image, while training.

    Source: stochastic depth, Huang et al., ECCV 2016 (arXiv 1603.09382).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch, zero for some images and larger for the others, so that its mean stays."""
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        return branch * branch.new_empty(len(branch), 1, 1, 1).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Return the rate."""
        return str(self.rate)


class Conv(nn.Conv2d):
    """Convolution, batch norm, drop path, residual add, activation."""

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
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel, stride=stride, padding=padding(kernel), groups=groups, bias=bias
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.act = activation(act)

    def forward(self, image: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return the layer's output."""
        features: Tensor = self.norm(super().forward(image))
        if residual is not None:
            features = self.drop_path(features) + residual
        output: Tensor = self.act(features)
        return output


class Linear(nn.Linear):
    """Fully connected layer with bias on flattened features, after dropout; activation."""

    def __init__(self, in_features: int, out_features: int, *, act: str = "none", dropout: float = 0.0) -> None:
        super().__init__(in_features, out_features)
        self.dropout = dropout
        self.act = activation(act)

    def forward(self, features: Tensor) -> Tensor:
        """Return the layer's output."""
        kept = functional.dropout(features.flatten(1), self.dropout, self.training)
        output: Tensor = self.act(super().forward(kept))
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
