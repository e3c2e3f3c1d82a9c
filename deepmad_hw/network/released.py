"""The seven networks that DeepMAD's authors released, as architectures to measure designs beside. Layer 2.

Source: Shen et al., DeepMAD, CVPR 2023 (arXiv 2303.02165), structures and accuracies of
alibaba/lightweight-neural-architecture-search. Their limits are the run files of the same names with a hyphen.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.registry import require_known


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A released network; stages are (out, bottleneck, kernel, stride, depth)."""

    top1_percent: float
    stem: int
    stages: tuple[tuple[int, int, int, int, int], ...]
    head: int | None = None
    side: int = 224


def names() -> tuple[str, ...]:
    """Return the names of the released networks."""
    return tuple(_ROWS)


def get(name: str) -> Architecture:
    """Return a released network.

    Args:
        name: one of `names()`.

    Raises:
        ConfigError: there is no such network.
    """
    require_known(name, _ROWS, what="released network", where="released")
    row = _ROWS[name]
    return Architecture(
        family="bottleneck" if row.head is None else "mbconv_se",
        resolution=(row.side, row.side),
        stem=Stem(out=row.stem),
        stages=tuple(
            Stage(out=out, bottleneck=bottleneck, kernel=kernel, stride=stride, depth=depth)
            for out, bottleneck, kernel, stride, depth in row.stages
        ),
        head=None if row.head is None else Head(out=row.head),
    )


def top1_percent(name: str) -> float:
    """Return the ImageNet-1k top-1 accuracy that its authors published.

    Args:
        name: one of `names()`.
    """
    return _ROWS[name].top1_percent


_ROWS = {
    "deepmad_r18": _Row(
        top1_percent=77.7,
        stem=32,
        stages=((96, 40, 5, 2, 1), (384, 40, 5, 2, 6), (384, 64, 5, 2, 9), (1024, 104, 3, 1, 10), (672, 104, 5, 2, 12)),
    ),
    "deepmad_r34": _Row(
        top1_percent=79.7,
        stem=24,
        stages=(
            (128, 24, 5, 2, 1),
            (512, 48, 5, 2, 10),
            (896, 88, 5, 2, 13),
            (1024, 104, 5, 1, 11),
            (616, 128, 5, 2, 14),
        ),
    ),
    "deepmad_r50": _Row(
        top1_percent=80.6,
        stem=32,
        stages=(
            (128, 40, 5, 2, 1),
            (512, 48, 5, 2, 11),
            (872, 88, 5, 2, 12),
            (1024, 104, 5, 1, 13),
            (1232, 120, 5, 2, 15),
        ),
    ),
    "deepmad_29m_224": _Row(
        top1_percent=82.5,
        stem=40,
        stages=(
            (40, 240, 5, 1, 2),
            (85, 512, 5, 2, 4),
            (134, 800, 5, 2, 6),
            (201, 1208, 5, 2, 6),
            (312, 1872, 5, 2, 5),
        ),
        head=1792,
    ),
    "deepmad_29m_288": _Row(
        top1_percent=82.8,
        stem=40,
        stages=(
            (61, 368, 5, 2, 4),
            (96, 576, 5, 2, 4),
            (145, 872, 5, 2, 5),
            (217, 1304, 5, 1, 6),
            (328, 1968, 5, 2, 4),
        ),
        head=1792,
        side=288,
    ),
    "deepmad_50m": _Row(
        top1_percent=83.9,
        stem=48,
        stages=(
            (112, 672, 5, 2, 7),
            (168, 1008, 5, 2, 9),
            (252, 1512, 5, 2, 7),
            (378, 2272, 5, 2, 3),
            (576, 3456, 3, 1, 1),
        ),
        head=2048,
    ),
    "deepmad_89m": _Row(
        top1_percent=84.0,
        stem=56,
        stages=(
            (136, 816, 5, 2, 10),
            (204, 1224, 5, 2, 9),
            (326, 1952, 5, 2, 7),
            (490, 2944, 5, 2, 4),
            (744, 4464, 3, 1, 1),
        ),
        head=2560,
    ),
}
