"""The plots of a report say what they show where it can be read."""

from dataclasses import replace

from deepmad_hw.workflows.report import figures


def test_names_of_marks_that_lie_together_do_not_lie_on_each_other(latency_sweep):
    """Three networks as fast and as good as each other: one name below, one above, the third is told by its mark."""
    first = latency_sweep.references[0]
    same = tuple(replace(first, row=replace(first.row, name=f"network {n}")) for n in range(3))
    figure = figures.plots(replace(latency_sweep, references=same))[0].figure
    names = [text for text in figure.axes[0].texts if text.get_text().startswith("network")]
    assert [name.get_visible() for name in names] == [True, True, False]
    below, above = (name.get_window_extent() for name in names[:2])
    assert not below.overlaps(above)
