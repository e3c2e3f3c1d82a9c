"""Small packed plans that the device side's tests measure."""

import pytest

from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.network.expand import expand
from profilers.plan import read_plan

FAMILIES = ("bottleneck", "basic", "mbconv", "mbconv_se")


def _graph(family, name, *, side=32, out=16):
    inner = 1 if family in ("bottleneck", "basic") else 3
    architecture = Architecture(
        family=family,
        resolution=(side, side),
        stem=Stem(out=8),
        stages=tuple(
            Stage(out=width, bottleneck=width * inner, kernel=kernel, stride=stride, depth=2)
            for width, kernel, stride in ((out, 3, 2), (out + 8, 5, 1))
        ),
        head=Head(out=32),
        classes=10,
    )
    return expand(architecture, name=name)


@pytest.fixture(scope="session")
def graph():
    """Return a function: family and name -> a graph of two stages of two blocks."""
    return _graph


@pytest.fixture
def packed(tmp_path):
    """Return a function: how many probes -> a plan of them and one network that is timed as a whole."""

    def pack(probes=3, **options):
        named = [
            PackedProbe(
                name=f"probe{index}",
                graph=_graph(FAMILIES[index % 4], f"probe{index}", out=16 + 8 * (index // 4), **options),
                by_layer=True,
            )
            for index in range(probes)
        ]
        write_plan(tmp_path / "plan", [*named, PackedProbe(name="whole", graph=_graph("basic", "whole", out=24))])
        return read_plan(tmp_path / "plan")

    return pack
