"""A network as numbers: stem, stages, head. Layer 1, standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from deepmad_hw.errors import ConfigError

MOST_BLOCKS = 10_000  # far more than any network has; a file that says more would fill the memory

LARGEST_NUMBER = 2**53  # the largest that all readers of JSON agree on; a record's file shall be readable


def _require(condition: bool, what: str, where: str) -> None:
    if not condition:
        raise ConfigError(what, where=where)


def require_count(value: object, where: str, *, at_least: int = 1) -> None:
    """Refuse what is no whole number, and those too small or too large.

    Args:
        value: of a field.
        where: the field, for the message.
        at_least: the smallest number allowed.

    Raises:
        ConfigError: naming the field.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    _require(whole and value >= at_least, f"expected a whole number >= {at_least}, got {value!r}", where)  # type: ignore[operator]
    _require(value <= LARGEST_NUMBER, f"expected a whole number up to 2^53, got {value!r:.40}", where)  # type: ignore[operator]


def require_kernel(value: object, where: str) -> None:
    """Refuse what is no odd side of a window.

    Args:
        value: of a field.
        where: the field, for the message.

    Raises:
        ConfigError: naming the field.
    """
    require_count(value, where)
    _require(value % 2 == 1, f"expected an odd kernel, got {value}", where)  # type: ignore[operator]


def require_stride(value: object, where: str) -> None:
    """Refuse what is no step of a convolution here.

    Args:
        value: of a field.
        where: the field, for the message.

    Raises:
        ConfigError: naming the field.
    """
    _require(type(value) is int and value in (1, 2), f"expected stride 1 or 2, got {value!r}", where)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stem:
    """The first convolution: the image's channels in, `out` channels out."""

    out: int
    kernel: int = 3
    stride: int = 2

    def __post_init__(self) -> None:
        """Refuse numbers that are no convolution."""
        require_count(self.out, "stem.out")
        require_kernel(self.kernel, "stem.kernel")
        require_stride(self.stride, "stem.stride")


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The last convolution before pooling, usually 1x1."""

    out: int
    kernel: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers that are no convolution."""
        require_count(self.out, "head.out")
        require_kernel(self.kernel, "head.kernel")
        _require(
            type(self.stride) is int and self.stride == 1, f"expected stride 1, got {self.stride!r}", "head.stride"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One block repeated `depth` times; only its first block has the stride.

    Args:
        out: channels that every block of the stage returns.
        bottleneck: inner channels of every block.
        kernel: odd side of the block's spatial convolution.
        stride: 1 or 2, of the first block.
        depth: number of blocks.
    """

    out: int
    bottleneck: int
    kernel: int
    stride: int
    depth: int

    def __post_init__(self) -> None:
        """Refuse numbers that are no stage."""
        require_count(self.out, "stage.out")
        require_count(self.bottleneck, "stage.bottleneck")
        require_kernel(self.kernel, "stage.kernel")
        require_stride(self.stride, "stage.stride")
        require_count(self.depth, "stage.depth")


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Everything that tells one network of a family from another.

    Args:
        family: name of the block family (see `deepmad_hw.network.families`).
        resolution: (height, width) of the image in pixels; each a multiple of the total stride.
        stem: the first convolution.
        stages: the stages in order, at least one.
        head: the last convolution, or None.
        in_channels: channels of the image.
        classes: width of the classifier; 0 makes a backbone that returns its scales' feature maps.
        activation: activation of stem, blocks and head; None means the family's own.
    """

    family: str
    resolution: tuple[int, int]
    stem: Stem
    stages: tuple[Stage, ...]
    head: Head | None = None
    in_channels: int = 3
    classes: int = 1000
    activation: str | None = None

    def __post_init__(self) -> None:
        """Refuse networks that cannot be built."""
        _require(len(self.stages) > 0, "a network needs at least one stage", "stages")
        blocks = sum(stage.depth for stage in self.stages)
        _require(blocks <= MOST_BLOCKS, f"expected at most {MOST_BLOCKS} blocks, got {blocks}", "stages")
        require_count(self.in_channels, "in_channels")
        require_count(self.classes, "classes", at_least=0)
        require_resolution(self.resolution, self.total_stride)

    @property
    def total_stride(self) -> int:
        """Return the product of all strides."""
        product = self.stem.stride
        for stage in self.stages:
            product *= stage.stride
        return product


def require_resolution(resolution: tuple[int, int], total_stride: int) -> None:
    """Refuse a resolution that the strides do not divide.

    Args:
        resolution: (height, width) in pixels.
        total_stride: product of the network's strides.

    Raises:
        ConfigError: a side is no positive multiple of `total_stride`.
    """
    _require(len(resolution) == 2, f"expected [height, width], got {resolution!r}", "resolution")
    for side in resolution:
        require_count(side, "resolution")
        if side % total_stride:
            low = max(side // total_stride, 1) * total_stride
            raise ConfigError(
                f"{side} pixels is no multiple of the network's total stride {total_stride}",
                where="resolution",
                hint=f"take {low} or {low + total_stride}",
            )
