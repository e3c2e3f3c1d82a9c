"""Published networks that were trained by one recipe each, with what DeepMAD's formulas say of them.

No block family has these blocks, so they are walked here, layer by layer. Conventions: an expansion of 1 has no first
1x1 convolution; stem, blocks and head count in entropy and rho; squeeze-excite, projections and the classifier do not;
parameters and MACs are those of the data. A block of the depths is an MBConv block (of RegNets: a bottleneck).
"""

import json
import math
import tarfile
from dataclasses import dataclass

import numpy as np

from deepmad_hw.network.costs import layer_macs, layer_params
from deepmad_hw.network.families.base import BLOCK_INPUT, LayerForm, conv
from deepmad_hw.predict.accuracy import Population, from_columns
from deepmad_hw.problem.entropy import Scale, layer_log_fan_in, rho

SPEEDS = {
    "throughput_a100": "A100",
    "throughput_3090": "RTX 3090",
    "throughput_tpuv2": "TPUv2",
    "throughput_tpuv3": "TPUv3",
    "throughput_zcu102": "ZCU102",
    "throughput_vck190": "VCK190",
}
ACCEL_WIDTHS, ACCEL_STRIDES = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 2, 1, 2, 1)
MACRO_STAGES = ((64, 2), (128, 3), (256, 3))  # width, positions
MACRO_BLOCKS = {"1": (3, 3), "2": (6, 5)}  # expansion, kernel
STEM, HEAD = 32, 1280


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A population, and how fast its networks were measured to be (images per second by device; NaN: not measured)."""

    title: str
    population: Population
    throughput: dict


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block: layers with their formulas, and where it lies."""

    layers: tuple[LayerForm, ...]
    out: int
    stride: int


def mbconv(channels, out, *, expansion, kernel, stride, pixels):
    """Return a block whose inner width is a multiple of its *input's* width."""
    inner, shrunk = channels * expansion, (pixels // stride, pixels // stride)
    expand = conv("conv1", BLOCK_INPUT, channels=(channels, inner), pixels=(pixels, pixels))
    depthwise = conv(
        "conv2",
        "conv1",
        channels=(inner, inner),
        pixels=(pixels, pixels),
        kernel=kernel,
        stride=stride,
        depthwise=True,
    )
    project = conv("conv3", "conv2", channels=(inner, out), pixels=shrunk)
    layers = (depthwise, project) if expansion == 1 else (expand, depthwise, project)
    return Block(layers=layers, out=out, stride=stride)


def plain(channels, out, *, kernel, stride, pixels):
    """Return a single convolution: stem or head."""
    layer = conv("conv", BLOCK_INPUT, channels=(channels, out), pixels=(pixels, pixels), kernel=kernel, stride=stride)
    return Block(layers=(layer,), out=out, stride=stride)


def scales(blocks, *, resolution):
    """Return the scales of blocks in their order, of which the first is the stem, by the product's own formulas."""
    found, pixels, channels = [], resolution, 3
    log_fan_in = depth = 0
    for index, block in enumerate(blocks):
        if index > 0 and block.stride == 2:
            found.append(scale(pixels, channels, log_fan_in, depth))
        log_fan_in += sum(layer_log_fan_in(layer) for layer in block.layers if layer.counted)
        depth += sum(layer.counted for layer in block.layers)
        pixels, channels = pixels // block.stride, block.out
    return [*found, scale(pixels, channels, log_fan_in, depth)]


def scale(pixels, channels, log_fan_in, depth):
    entropy = math.log(pixels**2 * channels) * log_fan_in / 2
    return Scale(pixels=pixels**2, channels=channels, log_fan_in=log_fan_in, depth=depth, entropy=entropy)


def columns(networks):
    """Return what networks, each given as (blocks, resolution), look like as columns of a population."""
    found = [scales(blocks, resolution=resolution) for blocks, resolution in networks]
    return {
        "entropies": [[one.entropy for one in scales] for scales in found],
        "rho": [max(rho(one) for one in scales) for scales in found],
    }


def counts(blocks, *, classes):
    """Return MACs and parameters of blocks and a classifier, by the product's own formulas."""
    layers, width = [layer for block in blocks for layer in block.layers], blocks[-1].out
    return sum(map(layer_macs, layers)) + width * classes, sum(map(layer_params, layers)) + (width + 1) * classes


def require(holds, what):
    if not holds:
        raise SystemExit(what)


# --- Accel-NASBench ---------------------------------------------------------------------------------------------------


def accel_blocks(architecture):
    """Return the blocks of a network of Accel-NASBench at 224x224 pixels."""
    blocks, channels, pixels = [plain(3, STEM, kernel=3, stride=2, pixels=224)], STEM, 112
    for stage, (out, stride) in enumerate(zip(ACCEL_WIDTHS, ACCEL_STRIDES, strict=True)):
        expansion, kernel = architecture[f"block{stage}_e"], architecture[f"block{stage}_k"]
        for index in range(architecture[f"block{stage}_l"]):
            step = stride if index == 0 else 1
            blocks.append(mbconv(channels, out, expansion=expansion, kernel=kernel, stride=step, pixels=pixels))
            channels, pixels = out, pixels // step
    return [*blocks, plain(channels, HEAD, kernel=1, stride=1, pixels=pixels)]


def accel(folder):
    """Return Accel-NASBench's 5,138 networks (Apache-2.0, afzalxo/Accel-NASBench, commit 4260357)."""
    rows = {}
    with tarfile.open(folder / "accel-nasbench.tar.gz") as archive:
        for member in archive:
            if member.name.endswith(".json"):
                rows[member.name.rsplit("/", 1)[-1].removesuffix(".json")] = json.load(archive.extractfile(member))
    rows = dict(sorted(rows.items(), key=lambda item: int(item[0].split("_")[1])))
    for name, row in rows.items():  # squeeze-excite's parameters are no block of ours
        if not any(row["architecture"][f"block{stage}_se"] for stage in range(len(ACCEL_WIDTHS))):
            params = counts(accel_blocks(row["architecture"]), classes=1000)[1]
            require(params == round(1e6 * row["model_info"]["params"]), f"{name}: other parameters than published")
    networks = [row["architecture"] for row in rows.values()]
    population = from_columns(
        names=list(rows),
        family="mbconv",
        accuracies=[row["metrics"]["val_top1"] for row in rows.values()],
        depths=[[one[f"block{stage}_l"] for stage in range(len(ACCEL_WIDTHS))] for one in networks],
        params=[1e6 * row["model_info"]["params"] for row in rows.values()],
        macs=[1e6 * row["model_info"]["macs"] for row in rows.values()],
        **columns((accel_blocks(one), 224) for one in networks),
    )
    speed = {
        name: np.array([row["platform_perf"][key]["throughput_mean"] for row in rows.values()], dtype=float)
        for key, name in SPEEDS.items()
    }
    return Trained(title="Accel-NASBench", population=population, throughput=speed)


# --- NAS-Bench-Macro --------------------------------------------------------------------------------------------------


def macro_blocks(code, *, count_layers=True):
    """Return the blocks of a network of NAS-Bench-Macro at 32x32 pixels, by its eight digits.

    An identity that changes the shape is a 1x1 convolution with stride. It is the only path there, so it counts as a
    layer like any other; `count_layers=False` leaves it out.
    """
    blocks, channels, pixels = [plain(3, STEM, kernel=3, stride=1, pixels=32)], STEM, 32
    digits = iter(code)
    for out, positions in MACRO_STAGES:
        for index in range(positions):
            digit, step = next(digits), 2 if index == 0 else 1
            if digit in MACRO_BLOCKS:
                expansion, kernel = MACRO_BLOCKS[digit]
                blocks.append(mbconv(channels, out, expansion=expansion, kernel=kernel, stride=step, pixels=pixels))
            elif index == 0:
                bare = plain(channels, out, kernel=1, stride=step, pixels=pixels)
                blocks.append(bare if count_layers else Block(layers=(), out=out, stride=step))
            channels, pixels = out, pixels // step
    return [*blocks, plain(channels, HEAD, kernel=1, stride=1, pixels=pixels)]


def macro_depths(code, *, count_blocks=False):
    """Return the blocks of each stage; `count_blocks=True` takes a bare 1x1 convolution for one."""
    depths, start = [], 0
    for _, positions in MACRO_STAGES:
        part = code[start : start + positions]
        depths.append(sum(digit in MACRO_BLOCKS for digit in part) + (count_blocks and part[0] == "0"))
        start += positions
    return depths


def macro(folder, *, count_layers=True, count_blocks=False):
    """Return NAS-Bench-Macro's 6,561 networks on CIFAR-10 (Apache-2.0, xiusu/NAS-Bench-Macro, commit 61a2bfc)."""
    rows = json.loads((folder / "nas-bench-macro-cifar10.json").read_text(encoding="utf-8"))
    rows = dict(sorted(rows.items()))
    for code, row in rows.items():
        found = counts(macro_blocks(code), classes=10)
        require(found == (row["flops"], row["params"]), f"{code}: other MACs or parameters than published")
    population = from_columns(
        names=list(rows),
        family="mbconv",
        accuracies=[row["mean_acc"] for row in rows.values()],
        depths=[macro_depths(code, count_blocks=count_blocks) for code in rows],
        params=[row["params"] for row in rows.values()],
        macs=[row["flops"] for row in rows.values()],
        **columns((macro_blocks(code, count_layers=count_layers), 32) for code in rows),
    )
    return Trained(title="NAS-Bench-Macro", population=population, throughput={})


# --- RegNets ----------------------------------------------------------------------------------------------------------


def regnet_blocks(network):
    """Return the blocks of a RegNet at 224x224 pixels: 1x1, grouped 3x3 with the stride, 1x1, all of one width."""
    blocks, channels, pixels = [plain(3, network["stem"], kernel=3, stride=2, pixels=224)], network["stem"], 112
    for stage in network["stages"]:
        width, group_width = stage["width"], min(stage["group_width"], stage["width"])
        for index in range(stage["depth"]):
            step = 2 if index == 0 else 1
            grouped = LayerForm(
                role="conv2",
                op="conv",
                inputs=("conv1",),
                in_channels=width,
                out_channels=width,
                group_width=group_width,
                height=pixels,
                width=pixels,
                kernel=3,
                stride=step,
                norm=True,
                counted=True,
            )
            first = conv("conv1", BLOCK_INPUT, channels=(channels, width), pixels=(pixels, pixels))
            last = conv("conv3", "conv2", channels=(width, width), pixels=(pixels // step, pixels // step))
            blocks.append(Block(layers=(first, grouped, last), out=width, stride=step))
            channels, pixels = width, pixels // step
    return blocks


def regnets(folder):
    """Return 24 RegNets (MIT, facebookresearch/pycls, commit 5719de6)."""
    rows = json.loads((folder / "regnets.json").read_text(encoding="utf-8"))["networks"]
    population = from_columns(
        names=[row["name"] for row in rows],
        family="bottleneck",
        accuracies=[row["top1"] for row in rows],
        depths=[[stage["depth"] for stage in row["stages"]] for row in rows],
        params=[row["params"] for row in rows],
        macs=[row["macs"] for row in rows],
        **columns((regnet_blocks(row), 224) for row in rows),
    )
    return Trained(title="RegNets", population=population, throughput={})
