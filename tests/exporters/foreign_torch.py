"""Networks that engineers bring along, as PyTorch modules written from their papers, small enough to run quickly.

Each is one function without arguments, registered with the image it takes: what is exported is what `exported` returns.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import onnx
import torch
from torch import nn
from torch.nn import functional

SEED = 0
NETWORKS = {}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network before it is exported.

    Args:
        make: returns the module.
        image: shape of its input.
        opset: that it is exported with.
    """

    make: Callable
    image: tuple
    opset: int


def network(*, side=224, image=None, opset=20):
    """Register a function that returns a module."""

    def register(function):
        shape = image or (1, 3, side, side)
        NETWORKS[function.__name__] = Network(make=function, image=shape, opset=opset)
        return function

    return register


def exported(name, *, opset=None, scripted=False):
    """Return a network as the bytes of an ONNX file.

    Args:
        name: of the network.
        opset: None takes the one that it was registered with.
        scripted: by the exporter that traces (TorchScript), which most files in use were written with.
    """
    chosen = NETWORKS[name]
    torch.manual_seed(SEED)
    module = _settled(chosen.make(), chosen.image)
    image, buffer = torch.randn(chosen.image), io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
        warnings.simplefilter("ignore")
        options = {"dynamo": False} if scripted else {"dynamo": True, "external_data": False, "verbose": False}
        torch.onnx.export(
            module, (image,), buffer, input_names=["image"], opset_version=opset or chosen.opset, **options
        )
    model = onnx.load_from_string(buffer.getvalue())
    found = {entry.domain: entry.version for entry in model.opset_import}
    assert found[""] == (opset or chosen.opset), f"{name} came out with opset {found['']}"
    return _without_metadata(model).SerializeToString()


@contextlib.contextmanager
def _quiet():
    """Let the exporter say nothing of the packages that are not there."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _settled(module, image):
    """Return a module for inference whose batch norms have the statistics of noise, so that no activation fades."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.normal_(part.bias, std=0.1)
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the plain average of all batches
            nn.init.uniform_(part.weight, 0.7, 1.3)
            nn.init.normal_(part.bias, std=0.1)
    with torch.no_grad():
        module.train()(torch.randn(2, *image[1:]))
    return module.eval()


def _without_metadata(model):
    """Return a model without the exporter's notes, which hold its paths."""
    graph = model.graph
    tensors = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *tensors, *model.functions):
        del part.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    return model


# --- parts ----------------------------------------------------------------------------------------------------------


def conv(in_channels, out, kernel=3, stride=1, *, groups=1, act=nn.ReLU, dilation=1, padding=None):
    """Return convolution, batch norm and activation."""
    if padding is None:
        padding = dilation * (kernel // 2)
    layers = [
        nn.Conv2d(in_channels, out, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


def depthwise(channels, kernel=3, stride=1, *, act=nn.ReLU):
    return conv(channels, channels, kernel, stride, groups=channels, act=act)


def classifier(channels, classes=100):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Sum(nn.Module):
    """What a branch makes of an image, plus the image or its projection, then an activation."""

    def __init__(self, branch, shortcut=None, act=None):
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, image):
        return self.act(self.branch(image) + self.shortcut(image))


class Concat(nn.Module):
    """Several branches over one image, side by side."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, image):
        return torch.cat([branch(image) for branch in self.branches], 1)


class SqueezeExcite(nn.Module):
    def __init__(self, channels, inner, *, act=nn.ReLU, gate=nn.Sigmoid):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.act = nn.Conv2d(channels, inner, 1), act()
        self.excite, self.gate = nn.Conv2d(inner, channels, 1), gate()

    def forward(self, image):
        return image * self.gate(self.excite(self.act(self.squeeze(self.pool(image)))))


def basic_block(in_channels, out, stride=1, *, act=nn.ReLU):
    branch = nn.Sequential(conv(in_channels, out, 3, stride, act=act), conv(out, out, 3, act=None))
    same = stride == 1 and in_channels == out
    return Sum(branch, None if same else conv(in_channels, out, 1, stride, act=None), act())


def inverted(in_channels, inner, out, kernel=3, stride=1, *, act=nn.ReLU6, excite=None):
    """Return a MobileNet block: up, depthwise, perhaps squeeze-excite, down."""
    layers = [conv(in_channels, inner, 1, act=act)] if inner != in_channels else []
    layers += [depthwise(inner, kernel, stride, act=act)]
    layers += [excite(inner)] if excite else []
    block = nn.Sequential(*layers, conv(inner, out, 1, act=None))
    return Sum(block) if stride == 1 and in_channels == out else block


# --- classifiers ----------------------------------------------------------------------------------------------------


@network(opset=18)
def resnet():
    layers = [conv(3, 32, 7, 2), nn.MaxPool2d(3, 2, 1)]
    layers += [basic_block(32, 32), basic_block(32, 64, 2), basic_block(64, 128, 2), basic_block(128, 256, 2)]
    return nn.Sequential(*layers, classifier(256))


@network(opset=18)
def resnext():
    def block(in_channels, inner, out, stride):
        branch = [conv(in_channels, inner, 1), conv(inner, inner, 3, stride, groups=8), conv(inner, out, 1, act=None)]
        shortcut = None if stride == 1 and in_channels == out else conv(in_channels, out, 1, stride, act=None)
        return Sum(nn.Sequential(*branch), shortcut, nn.ReLU())

    widths = [(32, 64, 128, 1), (128, 64, 128, 1), (128, 128, 256, 2), (256, 128, 256, 1), (256, 256, 512, 2)]
    return nn.Sequential(conv(3, 32, 7, 2), nn.MaxPool2d(3, 2, 1), *(block(*w) for w in widths), classifier(512))


class PreActivated(nn.Module):
    def __init__(self, in_channels, out, stride):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, out, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, 1, 1, bias=False)
        same = stride == 1 and in_channels == out
        self.shortcut = None if same else nn.Conv2d(in_channels, out, 1, stride, bias=False)

    def forward(self, image):
        active = functional.relu(self.norm1(image))
        shortcut = image if self.shortcut is None else self.shortcut(active)
        return self.conv2(functional.relu(self.norm2(self.conv1(active)))) + shortcut


@network()
def preactivated_resnet():
    blocks = [PreActivated(*shape) for shape in [(32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]]
    layers = [nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1), *blocks, nn.BatchNorm2d(128), nn.ReLU()]
    return nn.Sequential(*layers, classifier(128))


class Dense(nn.Module):
    def __init__(self, in_channels, growth):
        super().__init__()
        layers = [nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, 4 * growth, 1, bias=False)]
        layers += [nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, image):
        return torch.cat([image, self.layers(image)], 1)


@network(opset=18)
def densenet():
    growth, channels = 16, 32
    layers = [conv(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage in range(3):
        for _ in range(4):
            layers.append(Dense(channels, growth))
            channels += growth
        if stage < 2:
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False)]
            layers += [nn.AvgPool2d(2, 2)]
            channels //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), classifier(channels))


def shuffled(image, groups=2):
    batch, channels, height, width = image.shape
    return image.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(image.shape)


class Shuffle(nn.Module):
    def __init__(self, in_channels, out, stride):
        super().__init__()
        half, self.stride = out // 2, stride
        first = half if stride == 1 else in_channels
        self.branch = nn.Sequential(conv(first, half, 1), depthwise(half, 3, stride, act=None), conv(half, half, 1))
        self.side = nn.Sequential(depthwise(in_channels, 3, stride, act=None), conv(in_channels, half, 1))
        if stride == 1:
            self.side = None

    def forward(self, image):
        if self.side is None:
            left, right = image.chunk(2, 1)
            return shuffled(torch.cat([left, self.branch(right)], 1))
        return shuffled(torch.cat([self.side(image), self.branch(image)], 1))


@network()
def shufflenet():
    layers, channels = [conv(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)], 24
    for out, depth in ((116, 4), (232, 8), (464, 4)):
        layers += [Shuffle(channels, out, 2), *(Shuffle(out, out, 1) for _ in range(depth - 1))]
        channels = out
    return nn.Sequential(*layers, conv(464, 512, 1), classifier(512))


@network()
def mobilenet_v2():
    rows = [(32, 32, 16, 1), (16, 96, 24, 2), (24, 144, 24, 1), (24, 144, 32, 2), (32, 192, 32, 1), (32, 192, 64, 2)]
    rows += [(64, 384, 96, 1), (96, 576, 160, 2), (160, 960, 160, 1)]
    layers = [inverted(first, inner, out, stride=stride) for first, inner, out, stride in rows]
    head = [conv(160, 640, 1, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(conv(3, 32, 3, 2, act=nn.ReLU6), *layers, *head, nn.Linear(640, 100))


@network(opset=18)
def mobilenet_v3():
    def excite(channels):
        return SqueezeExcite(channels, channels // 4 // 8 * 8 or 8, gate=nn.Hardsigmoid)

    low, high = {"act": nn.ReLU}, {"act": nn.Hardswish}
    layers = [conv(3, 16, 3, 2, act=nn.Hardswish), inverted(16, 16, 16, 3, 2, excite=excite, **low)]
    layers += [inverted(16, 72, 24, 3, 2, **low), inverted(24, 88, 24, 3, 1, **low)]
    layers += [inverted(24, 96, 40, 5, 2, excite=excite, **high), inverted(40, 240, 40, 5, 1, excite=excite, **high)]
    layers += [inverted(40, 120, 48, 5, 1, excite=excite, **high), inverted(48, 288, 96, 5, 2, excite=excite, **high)]
    head = [conv(96, 576, 1, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(576, 512)]
    return nn.Sequential(*layers, *head, nn.Hardswish(), nn.Dropout(0.2), nn.Linear(512, 100))


@network(opset=18)
def efficientnet():
    def excite(channels):
        return SqueezeExcite(channels, max(channels // 24, 4), act=nn.SiLU)

    rows = [(32, 32, 16, 3, 1), (16, 96, 24, 3, 2), (24, 144, 24, 3, 1), (24, 144, 40, 5, 2), (40, 240, 40, 5, 1)]
    rows += [(40, 240, 80, 3, 2), (80, 480, 112, 5, 1), (112, 672, 192, 5, 2), (192, 1152, 192, 5, 1)]
    blocks = [inverted(*row, act=nn.SiLU, excite=excite) for row in rows]
    return nn.Sequential(conv(3, 32, 3, 2, act=nn.SiLU), *blocks, conv(192, 640, 1, act=nn.SiLU), classifier(640))


@network()
def regnet():
    def block(in_channels, out, stride):
        layers = [conv(in_channels, out, 1), conv(out, out, 3, stride, groups=out // 16)]
        branch = nn.Sequential(*layers, SqueezeExcite(out, in_channels // 4), conv(out, out, 1, act=None))
        same = stride == 1 and in_channels == out
        return Sum(branch, None if same else conv(in_channels, out, 1, stride, act=None), nn.ReLU())

    widths = [(32, 48, 2), (48, 112, 2), (112, 112, 1), (112, 256, 2), (256, 256, 1), (256, 384, 2)]
    return nn.Sequential(conv(3, 32, 3, 2), *(block(*width) for width in widths), classifier(384))


@network()
def inception():
    def module(channels):
        one = conv(channels, 48, 1)
        seven = [conv(channels, 40, 1), conv(40, 40, (1, 7), padding=(0, 3)), conv(40, 48, (7, 1), padding=(3, 0))]
        twice = [conv(channels, 40, 1), conv(40, 48, 3), conv(48, 48, 3)]
        pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(channels, 48, 1))
        return Concat(one, nn.Sequential(*seven), nn.Sequential(*twice), pooled)

    def reduction(channels):
        return Concat(nn.MaxPool2d(3, 2), conv(channels, 64, 3, 2, padding=0))

    stem = [conv(3, 24, 3, 2, padding=0), conv(24, 24, 3, padding=0), conv(24, 48, 3), nn.MaxPool2d(3, 2)]
    stem += [conv(48, 64, 1), conv(64, 96, 3, 2, padding=0)]
    return nn.Sequential(*stem, module(96), module(192), reduction(192), module(256), classifier(192))


class Fire(nn.Module):
    def __init__(self, in_channels, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.one, self.three = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, image):
        squeezed = functional.relu(self.squeeze(image))
        return torch.cat([functional.relu(self.one(squeezed)), functional.relu(self.three(squeezed))], 1)


@network(opset=18)
def squeezenet():
    def pool():
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64), pool()]
    layers += [Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192), Fire(384, 48, 192)]
    head = [nn.Dropout(0.5), nn.Conv2d(384, 100, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head)


class Ghost(nn.Module):
    """Half of the channels by a convolution, half of them by a cheap one over those."""

    def __init__(self, in_channels, out, *, act=nn.ReLU):
        super().__init__()
        self.first = conv(in_channels, out // 2, 1, act=act)
        self.cheap = depthwise(out // 2, 3, act=act)

    def forward(self, image):
        first = self.first(image)
        return torch.cat([first, self.cheap(first)], 1)


@network()
def ghostnet():
    def block(in_channels, inner, out, stride):
        layers = [Ghost(in_channels, inner), *([depthwise(inner, 3, stride, act=None)] if stride > 1 else [])]
        layers += [SqueezeExcite(inner, inner // 4 // 4 * 4, gate=nn.Hardsigmoid), Ghost(inner, out, act=None)]
        same = stride == 1 and in_channels == out
        shortcut = [depthwise(in_channels, 3, stride, act=None), conv(in_channels, out, 1, act=None)]
        return Sum(nn.Sequential(*layers), None if same else nn.Sequential(*shortcut))

    rows = [(16, 48, 24, 2), (24, 72, 24, 1), (24, 72, 40, 2), (40, 120, 40, 1), (40, 240, 80, 2), (80, 200, 80, 1)]
    return nn.Sequential(conv(3, 16, 3, 2), *(block(*row) for row in rows), conv(80, 480, 1), classifier(480))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, image):
        return self.norm(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.3))

    def forward(self, image):
        inner = self.norm(self.mix(image).permute(0, 2, 3, 1))
        inner = self.down(functional.gelu(self.up(inner)))
        return image + self.scale * inner.permute(0, 3, 1, 2)


@network(opset=20)
def convnext():
    layers, channels = [nn.Conv2d(3, 40, 4, 4), ChannelNorm(40)], 40
    for stage, depth in enumerate((1, 1, 2)):
        if stage:
            layers += [ChannelNorm(channels), nn.Conv2d(channels, 2 * channels, 2, 2)]
            channels *= 2
        layers += [ConvNeXt(channels) for _ in range(depth)]
    head = [nn.AdaptiveAvgPool2d(1), ChannelNorm(channels), nn.Flatten(), nn.Linear(channels, 100)]
    return nn.Sequential(*layers, *head)


class Attention(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.heads, self.first, self.last = heads, nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, tokens):
        batch, count, channels = tokens.shape
        parts = self.first(tokens).reshape(batch, count, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.last(mixed.transpose(1, 2).reshape(batch, count, channels))


class Transformer(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(channels), Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.inner = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, tokens):
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.inner(self.norm2(tokens))


class VisionTransformer(nn.Module):
    def __init__(self, channels=96, depth=3, heads=3):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, channels))
        self.place = nn.Parameter(torch.randn(1, 197, channels))
        self.blocks = nn.Sequential(*(Transformer(channels, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, 100)

    def forward(self, image):
        tokens = self.stem(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.place
        return self.head(self.norm(self.blocks(tokens))[:, 0])


@network(opset=18)
def vision_transformer():
    return VisionTransformer()


@network()
def repvgg():
    rows = [(3, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 96, 2), (96, 96, 1), (96, 192, 2)]
    layers = [part for i, o, stride in rows for part in (nn.Conv2d(i, o, 3, stride, 1), nn.ReLU())]
    return nn.Sequential(*layers, classifier(192))


@network(opset=18)
def mobileone():
    def plain(i, o, kernel, stride, groups=1):
        return [nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups), nn.ReLU()]

    rows = [(32, 48, 2), (48, 48, 1), (48, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)]
    blocks = [part for i, o, stride in rows for part in (*plain(i, i, 3, stride, i), *plain(i, o, 1, 1))]
    return nn.Sequential(*plain(3, 32, 3, 2), *blocks, classifier(256))


class Spatial(nn.Module):
    """Attention over pixels: their mean and their largest channel, convolved to one factor each."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, image):
        both = torch.cat([image.mean(1, keepdim=True), image.amax(1, keepdim=True)], 1)
        return image * torch.sigmoid(self.conv(both))


@network(side=160)
def attentive_resnet():
    def block(i, o, stride):
        branch = nn.Sequential(conv(i, o, 3, stride), conv(o, o, 3, act=None), SqueezeExcite(o, o // 8), Spatial())
        return Sum(branch, None if stride == 1 else conv(i, o, 1, stride, act=None), nn.ReLU())

    return nn.Sequential(conv(3, 32, 3, 2), block(32, 64, 2), block(64, 64, 1), block(64, 128, 2), classifier(128))


@network(image=(1, 3, 112, 112))
def face_embedding():
    """As MobileFaceNet: PReLU, a depthwise convolution over the whole map as its pool, an embedding of length one."""

    class Unit(nn.Module):
        def forward(self, features):
            return functional.normalize(features)

    def prelu(channels):
        return nn.PReLU(channels)

    def block(i, inner, o, stride):
        layers = [conv(i, inner, 1, act=None), prelu(inner), depthwise(inner, 3, stride, act=None), prelu(inner)]
        branch = nn.Sequential(*layers, conv(inner, o, 1, act=None))
        return Sum(branch) if stride == 1 and i == o else branch

    layers = [conv(3, 64, 3, 2, act=None), prelu(64), depthwise(64, act=None), prelu(64)]
    layers += [block(64, 128, 64, 2), block(64, 128, 64, 1), block(64, 256, 128, 2), block(128, 256, 128, 1)]
    layers += [block(128, 512, 128, 2), conv(128, 256, 1, act=None), prelu(256)]
    pool = nn.Sequential(nn.Conv2d(256, 256, 7, groups=256, bias=False), nn.BatchNorm2d(256))
    return nn.Sequential(*layers, pool, conv(256, 128, 1, act=None), nn.Flatten(), Unit())


@network(opset=20, side=160)
def group_norm_resnet():
    def normed(i, o, stride):
        return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.GroupNorm(8, o), nn.SiLU())

    def block(i, o, stride):
        branch = nn.Sequential(normed(i, o, stride), nn.Conv2d(o, o, 3, 1, 1), nn.GroupNorm(8, o))
        return Sum(branch, None if stride == 1 else nn.Conv2d(i, o, 1, stride), nn.ReLU())

    return nn.Sequential(normed(3, 32, 2), block(32, 32, 1), block(32, 64, 2), block(64, 128, 2), classifier(128))


# --- detectors ------------------------------------------------------------------------------------------------------


class Bottlenecks(nn.Module):
    """YOLOv8's C2f: half of the channels go through bottlenecks, and every step of them is kept."""

    def __init__(self, in_channels, out, depth, *, shortcut=True):
        super().__init__()
        half = out // 2
        self.first, self.last = yolo_conv(in_channels, out, 1), yolo_conv((2 + depth) * half, out, 1)
        branch = [nn.Sequential(yolo_conv(half, half), yolo_conv(half, half)) for _ in range(depth)]
        self.steps = nn.ModuleList(Sum(part) if shortcut else part for part in branch)

    def forward(self, image):
        parts = list(self.first(image).chunk(2, 1))
        for step in self.steps:
            parts.append(step(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Pyramid(nn.Module):
    """YOLO's SPPF: one pool three times over, all steps kept."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.last = yolo_conv(channels, channels // 2, 1), yolo_conv(2 * channels, channels, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, image):
        parts = [self.first(image)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


def yolo_conv(in_channels, out, kernel=3, stride=1):
    return conv(in_channels, out, kernel, stride, act=nn.SiLU)


class Yolo(nn.Module):
    """YOLOv8n for one image size: backbone, neck, and a head whose boxes are decoded in the graph."""

    BINS, CLASSES = 16, 20

    def __init__(self, side, widths=(16, 32, 64, 128, 256)):
        super().__init__()
        a, b, c, d, e = widths
        self.stem = nn.Sequential(yolo_conv(3, a, 3, 2), yolo_conv(a, b, 3, 2), Bottlenecks(b, b, 1))
        self.stage3 = nn.Sequential(yolo_conv(b, c, 3, 2), Bottlenecks(c, c, 2))
        self.stage4 = nn.Sequential(yolo_conv(c, d, 3, 2), Bottlenecks(d, d, 2))
        self.stage5 = nn.Sequential(yolo_conv(d, e, 3, 2), Bottlenecks(e, e, 1), Pyramid(e))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.up4 = Bottlenecks(d + e, d, 1, shortcut=False)
        self.up3 = Bottlenecks(c + d, c, 1, shortcut=False)
        self.down3, self.down4 = yolo_conv(c, c, 3, 2), yolo_conv(d, d, 3, 2)
        self.out4 = Bottlenecks(c + d, d, 1, shortcut=False)
        self.out5 = Bottlenecks(d + e, e, 1, shortcut=False)
        self.boxes = nn.ModuleList(self._head(width, 4 * self.BINS) for width in (c, d, e))
        self.classes = nn.ModuleList(self._head(width, self.CLASSES) for width in (c, d, e))
        self.register_buffer("bins", torch.arange(self.BINS, dtype=torch.float32).view(1, self.BINS, 1, 1))
        self.register_buffer("anchors", self._anchors(side))

    @staticmethod
    def _head(width, out):
        return nn.Sequential(yolo_conv(width, 64), yolo_conv(64, 64), nn.Conv2d(64, out, 1))

    @staticmethod
    def _anchors(side):
        centres = []
        for stride in (8, 16, 32):
            steps = torch.arange(side // stride) + 0.5
            rows, columns = torch.meshgrid(steps, steps, indexing="ij")
            centres.append(torch.stack([columns.flatten(), rows.flatten()]))
        return torch.cat(centres, 1)[None]

    def forward(self, image):
        three = self.stage3(self.stem(image))
        four = self.stage4(three)
        five = self.stage5(four)
        mid = self.up4(torch.cat([self.up(five), four], 1))
        low = self.up3(torch.cat([self.up(mid), three], 1))
        mid = self.out4(torch.cat([self.down3(low), mid], 1))
        high = self.out5(torch.cat([self.down4(mid), five], 1))
        maps = [
            torch.cat([box(image), kind(image)], 1).flatten(2)
            for image, box, kind in zip((low, mid, high), self.boxes, self.classes, strict=True)
        ]
        boxes, classes = torch.cat(maps, 2).split((4 * self.BINS, self.CLASSES), 1)
        spread = boxes.view(len(boxes), 4, self.BINS, -1).transpose(2, 1).softmax(1)
        near, far = (spread * self.bins).sum(1).chunk(2, 1)
        corners = torch.cat([self.anchors - near, self.anchors + far], 1)
        return torch.cat([corners, classes.sigmoid()], 1)


@network(side=160, opset=18)
def yolo_v8():
    return Yolo(160)


@network(side=160)
def yolo_v3_tiny():
    """LeakyReLU, pools, a pool of stride 1 that is padded on one side, two heads as they stand."""

    def leaky():
        return nn.LeakyReLU(0.1)

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            layers, widths = [], (3, 16, 32, 64, 128)
            for i, o in pairwise(widths):
                layers += [conv(i, o, act=leaky), nn.MaxPool2d(2, 2)]
            self.trunk = nn.Sequential(*layers, conv(128, 256, act=leaky))
            same = [nn.MaxPool2d(2, 2), conv(256, 256, act=leaky), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1)]
            self.deep = nn.Sequential(*same, conv(256, 512, act=leaky), conv(512, 128, 1, act=leaky))
            self.large = nn.Sequential(conv(128, 256, act=leaky), nn.Conv2d(256, 75, 1))
            self.up = nn.Sequential(conv(128, 64, 1, act=leaky), nn.Upsample(scale_factor=2))
            self.small = nn.Sequential(conv(320, 128, act=leaky), nn.Conv2d(128, 75, 1))

        def forward(self, image):
            trunk = self.trunk(image)
            deep = self.deep(trunk)
            return self.large(deep), self.small(torch.cat([self.up(deep), trunk], 1))

    return Tiny()


@network(side=160)
def yolox():
    """A stem that takes every second pixel (Focus), SiLU, and heads that are flattened and put in one list."""

    class Focus(nn.Module):
        def forward(self, image):
            parts = [image[..., row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
            return torch.cat(parts, 1)

    class Split(nn.Module):
        """CSP: two convolutions over the same map, one of them followed by a bottleneck."""

        def __init__(self, channels):
            super().__init__()
            half = channels // 2
            self.one, self.two = yolo_conv(channels, half, 1), yolo_conv(channels, half, 1)
            self.inner, self.last = Sum(yolo_conv(half, half)), yolo_conv(channels, channels, 1)

        def forward(self, image):
            return self.last(torch.cat([self.inner(self.one(image)), self.two(image)], 1))

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(Focus(), yolo_conv(12, 24), yolo_conv(24, 48, 3, 2), Split(48))
            self.stage3 = nn.Sequential(yolo_conv(48, 96, 3, 2), Split(96))
            self.stage4 = nn.Sequential(yolo_conv(96, 192, 3, 2), Split(192))
            self.heads = nn.ModuleList(nn.Sequential(yolo_conv(width, 64), nn.Conv2d(64, 25, 1)) for width in (96, 192))

        def forward(self, image):
            three = self.stage3(self.stem(image))
            four = self.stage4(three)
            maps = []
            for head, features in zip(self.heads, (three, four), strict=True):
                found = head(features)
                maps.append(torch.cat([found[:, :4], found[:, 4:].sigmoid()], 1).flatten(2))
            return torch.cat(maps, 2).permute(0, 2, 1)

    return Detector()


# --- images to images, and text ---------------------------------------------------------------------------------------


class UNet(nn.Module):
    def __init__(self, widths=(16, 32, 64, 128)):
        super().__init__()
        pairs = list(zip((3, *widths), widths, strict=False))
        self.down = nn.ModuleList(nn.Sequential(conv(i, o), conv(o, o)) for i, o in pairs)
        self.pool = nn.MaxPool2d(2)
        steps = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in steps)
        self.merge = nn.ModuleList(nn.Sequential(conv(2 * o, o), conv(o, o)) for _, o in steps)
        self.head = nn.Conv2d(widths[0], 4, 1)

    def forward(self, image):
        maps = [self.down[0](image)]
        for part in self.down[1:]:
            maps.append(part(self.pool(maps[-1])))
        last = maps.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            last = merge(torch.cat([up(last), maps.pop()], 1))
        return self.head(last)


@network(side=160)
def u_net():
    return UNet()


class HighResolution(nn.Module):
    """HRNet's way: two resolutions side by side that exchange what they hold."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 32, 3, 2), conv(32, 32, 3, 2), basic_block(32, 32))
        self.high, self.low = basic_block(32, 32), basic_block(32, 64, 2)
        self.high2, self.low2 = basic_block(32, 32), basic_block(64, 64)
        self.to_low, self.to_high = conv(32, 64, 3, 2, act=None), conv(64, 32, 1, act=None)
        self.head = nn.Sequential(conv(96, 64, 1), nn.Conv2d(64, 17, 1))

    @staticmethod
    def _enlarged(image, like):
        return functional.interpolate(image, size=like.shape[2:], mode="bilinear", align_corners=False)

    def forward(self, image):
        stem = self.stem(image)
        high, low = self.high(stem), self.low(stem)
        mixed_high = functional.relu(high + self._enlarged(self.to_high(low), high))
        mixed_low = functional.relu(low + self.to_low(high))
        high, low = self.high2(mixed_high), self.low2(mixed_low)
        return self.head(torch.cat([high, self._enlarged(low, high)], 1))


@network(side=160, opset=18)
def high_resolution():
    return HighResolution()


class Atrous(nn.Module):
    """DeepLab's ASPP over a dilated backbone, enlarged to the size of the image."""

    def __init__(self):
        super().__init__()
        layers = [conv(3, 32, 3, 2), conv(32, 64, 3, 2), conv(64, 128, 3, 2), conv(128, 128, dilation=2)]
        self.trunk = nn.Sequential(*layers)
        self.branches = nn.ModuleList([conv(128, 48, 1), *(conv(128, 48, dilation=rate) for rate in (6, 12, 18))])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(128, 48, 1), nn.ReLU())
        self.head = nn.Sequential(conv(5 * 48, 64, 1), nn.Dropout(0.5), nn.Conv2d(64, 21, 1))

    def forward(self, image):
        trunk = self.trunk(image)
        pooled = functional.interpolate(self.pooled(trunk), size=trunk.shape[2:], mode="bilinear")
        scores = self.head(torch.cat([*(branch(trunk) for branch in self.branches), pooled], 1))
        return functional.interpolate(scores, size=image.shape[2:], mode="bilinear", align_corners=False)


@network(side=160)
def atrous_segmentation():
    return Atrous()


@network(image=(1, 1, 72, 72))
def super_resolution():
    """Small convolutions with PReLU, enlarged by shuffling channels into pixels."""
    layers = [nn.Conv2d(1, 56, 5, padding=2), nn.PReLU(56), nn.Conv2d(56, 12, 1), nn.PReLU(12)]
    for _ in range(4):
        layers += [nn.Conv2d(12, 12, 3, padding=1), nn.PReLU(12)]
    return nn.Sequential(
        *layers, nn.Conv2d(12, 56, 1), nn.PReLU(56), nn.Conv2d(56, 9, 3, padding=1), nn.PixelShuffle(3)
    )


@network(image=(1, 3, 128, 128))
def style_transfer():
    """Reflected borders and instance norm."""

    def normed(i, o, kernel, stride=1):
        layers = [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(i, o, kernel, stride)]
        return nn.Sequential(*layers, nn.InstanceNorm2d(o, affine=True), nn.ReLU())

    def residual(channels):
        last = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels, affine=True)]
        return Sum(nn.Sequential(normed(channels, channels, 3), *last))

    layers = [normed(3, 8, 9), normed(8, 16, 3, 2), normed(16, 32, 3, 2), residual(32), residual(32)]
    for i, o in ((32, 16), (16, 8)):
        layers += [nn.Upsample(scale_factor=2, mode="nearest"), normed(i, o, 3)]
    return nn.Sequential(*layers, nn.ReflectionPad2d(4), nn.Conv2d(8, 3, 9))


class Recogniser(nn.Module):
    """A line of text: pools that halve the height only, then one prediction for each column."""

    def __init__(self):
        super().__init__()
        layers = [conv(1, 32), nn.MaxPool2d(2, 2), conv(32, 64), nn.MaxPool2d(2, 2), conv(64, 128), conv(128, 128)]
        layers += [nn.MaxPool2d((2, 1), (2, 1)), conv(128, 192), nn.MaxPool2d((2, 1), (2, 1))]
        self.trunk = nn.Sequential(*layers, nn.Conv2d(192, 192, (2, 1)), nn.ReLU())
        self.head = nn.Linear(192, 97)

    def forward(self, image):
        columns = self.trunk(image).squeeze(2).permute(0, 2, 1)
        return self.head(columns).softmax(2)


@network(image=(1, 1, 32, 128))
def text_recogniser():
    return Recogniser()
