"""Networks of every family, with odd widths, unequal sides, and stages that do and do not shrink."""

import math

from hypothesis import strategies as st

from deepmad_hw.network import families
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem

KERNELS = (1, 3, 5, 7)


@st.composite
def architectures(draw, *, bottleneck_multiple=1):
    """Return a network of any family that can be built, with odd widths and unequal sides."""
    strides = draw(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=4))
    stem_stride = draw(st.sampled_from([1, 2]))
    total = stem_stride * math.prod(strides)
    width = st.integers(1, 70)
    family = draw(st.sampled_from(families.names()))
    return Architecture(
        family=family,
        resolution=(total * draw(st.integers(1, 4)), total * draw(st.integers(1, 4))),
        stem=Stem(out=draw(width), kernel=draw(st.sampled_from(KERNELS)), stride=stem_stride),
        stages=tuple(
            Stage(
                out=draw(width),
                bottleneck=bottleneck_multiple * draw(width),
                kernel=draw(st.sampled_from(KERNELS)),
                stride=stride,
                depth=draw(st.integers(1, 4)),
            )
            for stride in strides
        ),
        head=draw(st.none() | st.builds(Head, out=width, kernel=st.sampled_from([1, 3]))),
        in_channels=draw(st.integers(1, 5)),
        classes=draw(st.sampled_from([0, 1, 10])),
        activation=draw(st.sampled_from([None, *families.get(family).activations])),
    )
