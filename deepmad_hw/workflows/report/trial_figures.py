"""The plots of a trial's page. Layer 4."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepmad_hw.predict import accuracy
from deepmad_hw.problem.objective import Objective
from deepmad_hw.workflows.report import facts, figures
from deepmad_hw.workflows.report.figures import BLUE, GREEN, MUTED, ORANGE, Plot
from deepmad_hw.workflows.trial.outcomes import TrainedMember


def plots(
    trained: Sequence[TrainedMember], population: accuracy.Population | None, objective: Objective | None
) -> tuple[Plot, ...]:
    """Return the plots that a trial gives rise to.

    Args:
        trained: its networks.
        population: those that an objective was fitted to, None before any has ended.
        objective: that was fitted, None before.
    """
    with mpl.rc_context(figures.STYLE):
        found = [Plot(name="accuracy", figure=_accuracy(trained))] if any(each.accuracies for each in trained) else []
        if population is not None and objective is not None:
            found.append(Plot(name="rules", figure=_rules(population, objective)))
            found.append(Plot(name="weights", figure=_weights(population, objective), keyed=False))
    return tuple(found)


def _accuracy(trained: Sequence[TrainedMember]) -> Figure:
    """Accuracy against what the networks cost, and against rho of those that have one."""
    figure, (left,) = figures.new_axes(8.4, 4.2)
    timed = all(_latency_ms(each) is not None for each in trained)
    for index, each in enumerate(trained):
        if each.accuracy is None:
            continue
        cost = (_latency_ms(each) or 0.0) if timed else each.member.macs / 1e6
        own = each.member.reference is None
        colour, shape = (BLUE, "o") if own else (ORANGE, "s")
        figures.draw_mark(left, cost, each.accuracy, f"all-mark-r{index}", colour=colour, shape=shape)
    measured = all(each.member.measured_ms is not None for each in trained)
    figures.legend_entry(left, "networks of the space", colour=BLUE, shape="o")
    if any(each.member.reference is not None for each in trained):
        figures.legend_entry(left, "scaled references", colour=ORANGE, shape="s")
    kind = f"{'measured' if measured else 'predicted'} latency in ms" if timed else "million MACs"
    left.set(xlabel=kind, ylabel="validation accuracy in %")
    left.margins(0.08)
    left.legend(loc="best", fontsize=8.5, handletextpad=0.2)
    return figure


def _latency_ms(each: TrainedMember) -> float | None:
    return each.member.measured_ms if each.member.measured_ms is not None else each.member.predicted_ms


def _rules(population: accuracy.Population, objective: Objective) -> Figure:
    """Accuracy against the calibrated objective, DeepMAD's and rho, of the same networks."""
    figure, found = figures.new_axes(9.8, 3.4, 3)
    fixed = accuracy.fixed_rules(population)
    panels = (
        ("calibrated objective", accuracy.predict(objective, population), GREEN),
        ("DeepMAD's objective", fixed["deepmad"], BLUE),
        ("rho", population.rho, BLUE),
    )
    for axes, (title, values, colour) in zip(found, panels, strict=True):
        for index, (x, y) in enumerate(zip(values, population.accuracies, strict=True)):
            figures.draw_mark(axes, float(x), float(y), f"all-mark-r{index}", colour=colour, shape="o")
        axes.set_title(title)
        axes.set(ylabel="validation accuracy in %")
        axes.margins(0.1)
        axes.xaxis.set_major_formatter(lambda value, _: facts.number(value))
    _diagonal(found[0])
    return figure


def _diagonal(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, zorder=1)


def _weights(population: accuracy.Population, objective: Objective) -> Figure:
    """What a standard deviation of each feature is worth."""
    names, worth = worths(population, objective)
    figure, (axes,) = figures.new_axes(8.4, 0.5 + 0.34 * len(names))
    places = np.arange(len(names))[::-1]
    axes.barh(places, worth, color=[GREEN if value >= 0 else ORANGE for value in worth], height=0.62)
    axes.set_yticks(places, names)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set(xlabel="accuracy points per standard deviation of the feature among the trained networks")
    return figure


def worths(population: accuracy.Population, objective: Objective) -> tuple[list[str], list[float]]:
    """Return the names of the features, and what a standard deviation of each is worth in points.

    Args:
        population: networks that the objective was fitted to.
        objective: its weights.
    """
    weights = {
        "score": (objective.scale_weights or (1.0,))[0],
        "penalty": -objective.penalty_weight,
        "log_params": objective.log_params,
        "log_macs": objective.log_macs,
        **{f"depth:{stage}": weight for stage, weight in enumerate(objective.depth_weights, start=1)},
    }
    spread = population.features.std(axis=0)
    names = population.feature_names
    return [_said(name) for name in names], [
        float(weights.get(name, 0.0) * one) for name, one in zip(names, spread, strict=True)
    ]


def _said(feature: str) -> str:
    words = {
        "score": "entropy",
        "penalty": "uneven depths",
        "log_params": "log parameters",
        "log_macs": "log MACs",
    }
    kind, _, number = feature.partition(":")
    return f"blocks of stage {number}" if kind == "depth" else words[feature]
