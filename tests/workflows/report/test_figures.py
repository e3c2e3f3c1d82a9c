"""The plots of a report say what they show where it can be read."""

from dataclasses import replace

from deepmad_hw.problem.solution import Worth
from deepmad_hw.workflows.report import figures
from deepmad_hw.workflows.results.results import comparable


def test_names_of_marks_that_lie_together_do_not_lie_on_each_other(latency_sweep):
    """Three networks as fast and as good as each other: one name below, one above, the third is told by its mark."""
    first = latency_sweep.references[0]
    same = tuple(replace(first, row=replace(first.row, name=f"network {n}")) for n in range(3))
    figure = figures.plots(replace(latency_sweep, references=same))[0].figure
    names = [text for text in figure.axes[0].texts if text.get_text().startswith("network")]
    assert [name.get_visible() for name in names] == [True, True, False]
    below, above = (name.get_window_extent() for name in names[:2])
    assert not below.overlaps(above)


def test_a_plot_of_a_calibrated_objective_is_labelled_with_its_unit(latency_sweep):
    points = tuple(
        replace(point, solution=replace(point.solution, evaluation=_in_points(point.solution.evaluation)))
        for point in latency_sweep.points
    )
    pareto = figures.plots(comparable(replace(latency_sweep, points=points)))[0]
    axes = pareto.figure.axes[0]
    assert axes.get_ylabel() == "objective in accuracy points"
    shown = [entry.get_text() for entry in axes.get_legend().get_texts()]
    assert "reference networks" not in shown
    before = figures.plots(latency_sweep)[0].figure.axes[0]
    assert before.get_ylabel() == "DeepMAD objective"
    assert "reference networks" in [entry.get_text() for entry in before.get_legend().get_texts()]


def _in_points(evaluation):
    worth = Worth(terms=(), unit="accuracy points", leverage=0.1, largest_leverage=0.2)
    return replace(evaluation, objective=70 + evaluation.objective / 1e4, worth=worth)
