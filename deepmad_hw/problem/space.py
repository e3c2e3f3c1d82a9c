"""The designs a problem may choose from: grids, depths and rules. Layer 1, standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deepmad_hw.errors import ConfigError
from deepmad_hw.network.architecture import (
    LARGEST_NUMBER,
    Architecture,
    Head,
    require_count,
    require_kernel,
    require_resolution,
    require_stride,
)

# A width grid keeps its promises to this relative tolerance (4.0 * 24 >= 96 must hold in floats).
RULE_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpace:
    """What one stage may be.

    Args:
        stride: of its first block.
        out: widths to choose from, ascending.
        bottleneck: inner widths to choose from, ascending.
        kernel: odd kernels to choose from, ascending.
        depth: smallest and largest number of blocks.
    """

    stride: int
    out: tuple[int, ...]
    bottleneck: tuple[int, ...]
    kernel: tuple[int, ...]
    depth: tuple[int, int]

    def __post_init__(self) -> None:
        """Refuse empty or unordered choices."""
        for field in ("out", "bottleneck", "kernel"):
            _require_grid(getattr(self, field), field)
        require_stride(self.stride, "stride")
        if any(kernel % 2 == 0 for kernel in self.kernel):
            raise ConfigError(f"expected odd kernels, got {list(self.kernel)}", where="kernel")
        if not all(map(_is_count, self.depth)) or self.depth[0] > self.depth[1]:
            raise ConfigError(f"expected [smallest, largest] from 1 up, got {list(self.depth)}", where="depth")


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """All networks of one family on a declared grid.

    Args:
        family: name of the block family.
        resolution: (height, width) of the image in pixels.
        stem: widths of the 3x3 stem to choose from, ascending.
        stages: what each stage may be.
        bottleneck_ratio: smallest and largest bottleneck over out channels.
        head: the fixed head, or None.
        in_channels: channels of the image.
        classes: width of the classifier, 0 for a backbone.
        activation: as in `Architecture`.
        stem_kernel: kernel of the stem.
        stem_stride: stride of the stem.
        non_decreasing: whether widths may only grow over stem and stages (DeepMAD's third guideline).
        max_growth: largest out channels over in channels of a stage.
    """

    family: str
    resolution: tuple[int, int]
    stem: tuple[int, ...]
    stages: tuple[StageSpace, ...]
    bottleneck_ratio: tuple[float, float]
    head: Head | None = None
    in_channels: int = 3
    classes: int = 1000
    activation: str | None = None
    stem_kernel: int = 3
    stem_stride: int = 2
    non_decreasing: bool = True
    max_growth: float = 4.0

    def __post_init__(self) -> None:
        """Refuse spaces that hold no buildable network."""
        _require_grid(self.stem, "stem")
        if not self.stages:
            raise ConfigError("a space needs at least one stage", where="stages")
        low, high = self.bottleneck_ratio
        for ratio in (low, high):
            require_positive(ratio, "bottleneck_ratio")
        if low > high:
            raise ConfigError(f"expected smallest <= largest, got {[low, high]}", where="bottleneck_ratio")
        require_positive(self.max_growth, "max_growth")
        require_count(self.in_channels, "in_channels")
        require_count(self.classes, "classes", at_least=0)
        if not isinstance(self.non_decreasing, bool):
            raise ConfigError(f"expected true or false, got {self.non_decreasing!r}", where="non_decreasing")
        require_kernel(self.stem_kernel, "stem_kernel")
        require_stride(self.stem_stride, "stem_stride")
        total_stride = self.stem_stride
        for stage in self.stages:
            total_stride *= stage.stride
        require_resolution(self.resolution, total_stride)

    def allows_widths(self, before: int, out: int) -> bool:
        """Return whether a stage of width `out` may follow `before` channels.

        Args:
            before: channels the stage is given.
            out: channels it returns.
        """
        grows = not self.non_decreasing or out >= before
        return grows and out <= self.max_growth * before * (1 + RULE_TOLERANCE)

    def allows_bottleneck(self, out: int, bottleneck: int) -> bool:
        """Return whether a stage of width `out` may have inner width `bottleneck`.

        Args:
            out: channels the stage returns.
            bottleneck: inner channels of its blocks.
        """
        low, high = self.bottleneck_ratio
        return low * out * (1 - RULE_TOLERANCE) <= bottleneck <= high * out * (1 + RULE_TOLERANCE)

    def violations(self, architecture: Architecture) -> tuple[str, ...]:
        """Return every way in which a network is not of this space, empty if it is.

        Args:
            architecture: the network.
        """
        found = [
            f"{field} is {getattr(architecture, field)}, the space has {getattr(self, field)}"
            for field in ("family", "resolution", "in_channels", "classes", "head", "activation")
            if getattr(architecture, field) != getattr(self, field)
        ]
        stem = architecture.stem
        if stem.out not in self.stem or (stem.kernel, stem.stride) != (self.stem_kernel, self.stem_stride):
            found.append(f"stem {stem} is not on the grid")
        if len(architecture.stages) != len(self.stages):
            return (*found, f"{len(architecture.stages)} stages, the space has {len(self.stages)}")
        before = stem.out
        for index, (stage, choice) in enumerate(zip(architecture.stages, self.stages, strict=True), start=1):
            on_grid = (
                stage.out in choice.out
                and stage.bottleneck in choice.bottleneck
                and stage.kernel in choice.kernel
                and stage.stride == choice.stride
                and choice.depth[0] <= stage.depth <= choice.depth[1]
            )
            if not on_grid:
                found.append(f"stage {index} {stage} is not on the grid")
            if not self.allows_widths(before, stage.out):
                found.append(f"stage {index} goes from {before} to {stage.out} channels")
            if not self.allows_bottleneck(stage.out, stage.bottleneck):
                found.append(f"stage {index} has bottleneck {stage.bottleneck} at width {stage.out}")
            before = stage.out
        return tuple(found)


def require_positive(value: object, where: str) -> None:
    """Refuse what is no number above 0, and more than a file can hold.

    Args:
        value: of a field.
        where: the field, for the message.

    Raises:
        ConfigError: naming the field.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= LARGEST_NUMBER:  # type: ignore[operator]
        raise ConfigError(f"expected a number above 0 and up to 2^53, got {value!r:.40}", where=where)


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_NUMBER


def _require_grid(grid: tuple[int, ...], where: str) -> None:
    if not grid or not all(map(_is_count, grid)) or list(grid) != sorted(set(grid)):
        raise ConfigError(f"expected ascending whole numbers, got {list(grid)}", where=where)


def geometric_grid(low: float, high: float, *, ratio: float, multiple: int) -> tuple[int, ...]:
    """Return the multiples nearest to a geometric walk from `low` to `high`.

    Args:
        low: first value of the walk.
        high: last value that may be reached.
        ratio: factor between two steps, above 1.
        multiple: steps inside the range are rounded to multiples of this, so ends may move by half a multiple.

    Raises:
        ConfigError: the walk would be empty or endless.
    """
    if not (1 < ratio < math.inf and low > 0 and math.isfinite(high) and multiple >= 1):
        raise ConfigError(
            f"expected ratio > 1, range > 0, step >= 1, got {ratio}, {low}..{high}, {multiple}", where="grid"
        )
    steps = int(math.log(high / low) / math.log(ratio) + RULE_TOLERANCE) if high >= low else -1
    # The inner round keeps 62.500000001 from leaving the grid that a walk by ratio^2 rounds 62.5 to.
    walk = (round(round(low * ratio**step / multiple, 9)) for step in range(steps + 1))
    found = {multiple * max(value, 1) for value in walk}
    return _not_empty(found, low, high, multiple)


def linear_grid(low: float, high: float, *, multiple: int) -> tuple[int, ...]:
    """Return every multiple between two values.

    Args:
        low: smallest value allowed.
        high: largest value allowed.
        multiple: distance of the grid.

    Raises:
        ConfigError: there is none.
    """
    if not (math.isfinite(low) and math.isfinite(high) and multiple >= 1):
        raise ConfigError(f"expected a range with ends, step >= 1, got {low}..{high}, {multiple}", where="grid")
    first = -int(-low // multiple)
    return _not_empty({multiple * i for i in range(max(first, 1), int(high // multiple) + 1)}, low, high, multiple)


def _not_empty(found: set[int], low: float, high: float, multiple: int) -> tuple[int, ...]:
    if not found:
        raise ConfigError(f"no multiple of {multiple} lies between {low} and {high}", where="grid")
    return tuple(sorted(found))
