"""A drawn network has as many slabs as blocks, in a picture that is always as wide."""

import pytest

from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.workflows.report.drawing import WIDTH, picture


def network(depths, head=None, classes=10, resolution=(64, 96)):
    stages = tuple(Stage(out=32 * (i + 1), bottleneck=8, kernel=3, stride=2, depth=d) for i, d in enumerate(depths))
    return Architecture(
        family="bottleneck", resolution=resolution, stem=Stem(out=16), stages=stages, head=head, classes=classes
    )


@pytest.mark.parametrize("depths", [(1,), (1, 2, 3), (3, 40, 80, 2)])
def test_every_block_is_a_slab_inside_the_picture(depths):
    drawn = picture(network(depths))
    assert [len(part.slabs) for part in drawn.parts] == [1, *depths, 1]
    assert drawn.width == WIDTH
    edges = [(slab.x, slab.x + slab.width) for part in drawn.parts for slab in part.slabs]
    assert edges == sorted(edges)
    assert edges[0][0] > 0
    assert edges[-1][1] < WIDTH


def test_slabs_shrink_with_the_image():
    heights = [part.slabs[0].height for part in picture(network((1, 1, 1))).parts]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights[:4])) == 4


def test_words_say_what_the_numbers_are():
    stem, stage, head = picture(network((2,), head=Head(out=256), classes=0)).parts
    assert stem.lines == ("32\u00d748", "16 channels", "3\u00d73, stride 2")
    assert stage.lines == ("\u00d72", "16\u00d724", "32 channels", "inner 8", "3\u00d73, stride 2")
    assert head.lines == ("16\u00d724", "256 channels", "1\u00d71")
