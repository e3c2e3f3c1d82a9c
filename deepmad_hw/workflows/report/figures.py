"""The plots of a report, drawn once for the page, for SVG files and for PNG files. Layer 4.

Marks that a reader can point at carry an id, ``SERIES-mark-KIND``: the series is ``p50``, ``p99`` or ``all``, the kind
is ``d3`` for the fourth design and ``r0`` for the first reference. `deepmad_hw.workflows.report.inline` makes them
links. Texts are plain: nothing that comes from a file is read as a formula.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import BboxBase

from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.workflows.report import comparison, facts, prices
from deepmad_hw.workflows.report.facts import Design
from deepmad_hw.workflows.results.results import Results, Row, is_deepmads, objective_label, objective_unit

# Colours of paper; `inline` swaps each for a variable that also knows the dark page. Series are Okabe and Ito's hues,
# told apart by people who see colours differently, darkened until each has a contrast of 4.5 on white.
INK, MUTED, GRID, PAPER = "#1b2433", "#566073", "#dfe4ec", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0a5fa5", "#b3470a", "#0b7355", "#8a3f80", "#7c8698"
SERIES = ((BLUE, "o"), (GREEN, "^"), (PURPLE, "v"))  # a shape each, so that colour is never alone

LONGEST_LABEL = 40
BELOW, ABOVE = -14, 8  # where a name stands, in points from its mark
PANEL_WIDTHS_IN = (4.2, 8.4, 9.8, 9.8)  # of a plot with one, two, ... panels
LOG_FROM = 4.0  # a range wider than this factor is drawn on a logarithmic axis
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "deepmad-hw",
    "savefig.dpi": 200,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One plot.

    Args:
        name: of its files.
        figure: the drawing.
        keyed: whether its marks stand for designs, so that the arrow keys walk along them.
    """

    name: str
    figure: Figure
    keyed: bool = True


def plots(results: Results) -> tuple[Plot, ...]:
    """Return every plot that these results give rise to.

    Args:
        results: what is reported.
    """
    designs = facts.designs(results)
    with mpl.rc_context(STYLE):
        made = [
            *(_named(f"pareto-{i}", _pareto(results, designs, name)) for i, name in enumerate(facts.tables(results))),
            _named("accuracy", _accuracy(results)),
            _named("prices", _prices(designs)),
            _named("rho", _family(designs)),
        ]
    return tuple(plot for plot in made if plot is not None)


def _named(name: str, figure: Figure | None) -> Plot | None:
    return None if figure is None else Plot(name=name, figure=figure)


def as_svg(plot: Plot) -> bytes:
    """Return a plot as an SVG file, the same for the same plot.

    Args:
        plot: the plot.
    """
    return _saved(plot, "svg", metadata={"Date": None, "Creator": None})


def save(plot: Plot, folder: Path) -> tuple[Path, ...]:
    """Write a plot as SVG and PNG.

    Args:
        plot: the plot.
        folder: where; must exist.

    Raises:
        StorageError: a file could not be written.
    """
    written = []
    for suffix, data in (("svg", as_svg(plot)), ("png", _saved(plot, "png", metadata={"Software": None}))):
        path = folder / f"{plot.name}.{suffix}"
        write_atomically(path, data)
        written.append(path)
    return tuple(written)


def _saved(plot: Plot, kind: str, *, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names may hold letters that no font here has
        plot.figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def label(text: str) -> str:
    """Return a name as a plot shows it: on one line, short, and without characters that no drawing can hold.

    Args:
        text: the name.
    """
    shown = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[: LONGEST_LABEL - 1]}\u2026"


def new_axes(width_in: float, height_in: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, side by side.

    Args:
        width_in: of the figure, in inches.
        height_in: of the figure, in inches.
        columns: number of panels.
    """
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    found = figure.subplots(1, columns, squeeze=False)
    return figure, list(found[0])


def _scale(axis: Any, values: Iterable[float], number: Callable[[float], str]) -> None:
    """Give an axis few round ticks, on a logarithmic scale where the values span a wide range."""
    found = [value for value in values if value > 0]
    low, high = min(found), max(found)
    if high / low > LOG_FROM:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        few = high / low > 100
        axis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
        axis.axes.tick_params(axis=axis.axis_name, which="minor", length=0)
        pad = (high / low) ** 0.06
        axis.axes.set(**{f"{axis.axis_name}lim": (low / pad, high * pad)})
    else:
        axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def draw_mark(axes: Axes, x: float, y: float, gid: str, *, colour: str, shape: str, hollow: bool = False) -> None:
    """Draw a mark that a reader can point at.

    Args:
        axes: where.
        x: its place.
        y: its place.
        gid: ``SERIES-mark-KIND``, see the head of this file.
        colour: one of this file's.
        shape: of the mark.
        hollow: whether only its edge is coloured.
    """
    axes.plot(
        [x],
        [y],
        linestyle="none",
        marker=shape,
        markersize=7,
        markeredgewidth=1.6,
        markerfacecolor=PAPER if hollow else colour,
        markeredgecolor=colour,
        gid=gid,
        zorder=4,
    )


def legend_entry(axes: Axes, text: str, *, colour: str, shape: str, hollow: bool = False) -> None:
    """Put an entry into the legend without drawing a mark.

    Args:
        axes: where.
        text: of the entry.
        colour: of its mark.
        shape: of its mark.
        hollow: whether only its edge is coloured.
    """
    face = PAPER if hollow else colour
    axes.plot(
        [], [], linestyle="none", marker=shape, markerfacecolor=face, markeredgecolor=colour, markersize=7, label=text
    )


def _name(axes: Axes, x: float, y: float, text: str, *, colour: str, above: bool = False) -> Annotation:
    """Write a name beside a mark."""
    return axes.annotate(
        label(text),
        (x, y),
        xytext=(0, ABOVE if above else BELOW),
        textcoords="offset points",
        ha="center",
        color=colour,
        fontsize=8.5,
    )


def _untangle(figure: Figure, names: Sequence[Annotation]) -> None:
    """Move names that lie on others to the other side of their marks, and hide those that find no place there either.

    A mark without a name still tells it to who points at it.
    """
    figure.draw_without_rendering()
    taken: list[BboxBase] = []
    for name in names:
        for side in (BELOW, ABOVE):
            name.xyann = (0, side)
            place = name.get_window_extent()
            if not any(place.overlaps(other) for other in taken):
                taken.append(place)
                break
        else:
            name.set_visible(False)


def _pareto(results: Results, designs: Sequence[Design], table: str) -> Figure | None:
    shown = [design for design in designs if design.latency(table) is not None]
    if not shown:
        return None
    figure, (axes,) = new_axes(8.4, 4.5)
    groups = list(dict.fromkeys(design.group for design in shown))
    for i, group in enumerate(groups):
        # With more groups than colours that people tell apart, a group's name stands at its last design.
        colour, shape = SERIES[i] if len(groups) <= len(SERIES) else SERIES[0]
        line = [design for design in shown if design.group == group]
        _series(axes, line, table, colour, shape)
        if len(groups) <= len(SERIES):
            legend_entry(axes, label(group or "designs"), colour=colour, shape=shape)
        else:
            _name(axes, line[-1].times(table).middle, line[-1].objective, group, colour=colour, above=True)
    if any(design.row(table) is None for design in shown):
        legend_entry(axes, "predicted only", colour=SERIES[0][0], shape="o", hollow=True)
    references = [
        (j, reference, time)
        for j, reference in enumerate(results.references)
        if reference.objective is not None and (time := _times(reference.row, table)) is not None
    ]
    names = []
    for j, reference, time in references:
        objective = float(reference.objective or 0)
        _bar(axes, time, objective, ORANGE)
        draw_mark(axes, time.middle, objective, f"p50-mark-r{j}", colour=ORANGE, shape="s")
        if time.p99 is not None:
            draw_mark(axes, time.p99, objective, f"p99-mark-r{j}", colour=ORANGE, shape="s", hollow=True)
        names.append(_name(axes, time.middle, objective, reference.row.name, colour=ORANGE))
    if references:
        legend_entry(axes, "reference networks", colour=ORANGE, shape="s")
    xs = [
        value
        for row in [*(design.times(table) for design in shown), *(time for *_, time in references)]
        for value in (row.low, row.middle, row.high, row.p99)
        if value is not None
    ]
    _scale(axes.xaxis, xs, facts.number)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    shown_as = facts.number if objective_unit(results) else "{:,.0f}".format
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown_as(value)))
    named = "DeepMAD objective" if is_deepmads(results) else label(objective_label(results))
    axes.set(xlabel="latency in ms", ylabel=named)
    axes.margins(y=0.12)
    axes.legend(loc="best", fontsize=8.5, handletextpad=0.2)
    _untangle(figure, names)
    return figure


def _times(row: Row, table: str) -> facts.Times | None:
    return facts.times_of(row) if row.table in (table, None) else None


def _series(axes: Axes, designs: Sequence[Design], table: str, colour: str, shape: str) -> None:
    ordered = sorted(designs, key=lambda design: design.times(table).middle)
    medians = [(design.times(table).middle, design.objective) for design in ordered]
    tails = [(p99, design.objective) for design in ordered if (p99 := design.times(table).p99) is not None]
    for line, style, gid in ((medians, "-", "p50-line"), (tails, "--", "p99-line")):
        if len(line) > 1:
            axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.4, linestyle=style, alpha=0.55, gid=gid)
    for design in ordered:
        time = design.times(table)
        _bar(axes, time, design.objective, colour)
        hollow = design.row(table) is None
        draw_mark(
            axes,
            time.middle,
            design.objective,
            f"p50-mark-d{design.index}",
            colour=colour,
            shape=shape,
            hollow=hollow,
        )
        if time.p99 is not None:
            gid = f"p99-mark-d{design.index}"
            draw_mark(axes, time.p99, design.objective, gid, colour=colour, shape="D", hollow=True)


def _bar(axes: Axes, time: facts.Times, y: float, colour: str) -> None:
    if time.low is None or time.high is None:
        return
    axes.plot([time.low, time.high], [y, y], color=colour, linewidth=1.6, alpha=0.8, gid="p50-bar")
    for x in (time.low, time.high):
        axes.plot([x], [y], color=colour, marker="|", markersize=7, markeredgewidth=1.6, gid="p50-bar")


def _accuracy(results: Results) -> Figure | None:
    pairs = comparison.predictions(results)
    if not pairs:
        return None
    figure, (left, right) = new_axes(8.4, 3.9, 2)
    kinds = {
        "calibration": ("the table's own networks", GREY, "."),
        "design": ("designs", BLUE, "o"),
        "reference": ("reference networks", ORANGE, "s"),
    }
    for kind, (text, colour, shape) in kinds.items():
        found = [pair for pair in pairs if pair.kind == kind]
        for pair in found:
            gid = f"all-mark-{pair.key}" if pair.key else "all-dot"
            for axes, y in ((left, pair.predicted_ms), (right, pair.error * 100)):
                size = 7 if kind != "calibration" else 6
                axes.plot(
                    [pair.measured_ms],
                    [y],
                    linestyle="none",
                    marker=shape,
                    color=colour,
                    markersize=size,
                    gid=gid if axes is right else "all-dot",
                )
        if found:
            legend_entry(left, text, colour=colour, shape="o" if shape == "." else shape)
    every = [value for pair in pairs for value in (pair.measured_ms, pair.predicted_ms)]
    low, high = min(every) * 0.9, max(every) * 1.1
    line = np.array([low, high])
    left.plot(line, line, color=MUTED, linewidth=1, zorder=1)
    margin = max((table.margin for table in results.tables if table.margin is not None), default=None)
    if margin is not None:
        left.fill_between(line, line * (1 - margin), line * (1 + margin), color=GRID, linewidth=0, zorder=0)
        right.axhspan(-margin * 100, margin * 100, color=GRID, linewidth=0, zorder=0, label=f"margin {margin:.1%}")
    right.axhline(0, color=MUTED, linewidth=1, zorder=1)
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        _scale(axis, every, facts.number)
    left.set(xlabel="measured median in ms", ylabel="predicted in ms")
    right.set(xlabel="measured median in ms", ylabel="predicted / measured - 1, in %")
    reach = max(1.0, *(abs(pair.error) * 115 for pair in pairs), 0.0 if margin is None else margin * 115)
    right.set_ylim(-reach, reach)
    left.legend(loc="upper left", fontsize=8.5, handletextpad=0.2)
    if margin is not None:
        right.legend(loc="upper right", fontsize=8.5)
    return figure


def _prices(designs: Sequence[Design]) -> Figure | None:
    panels = prices.prices(designs)
    if len(designs) < 2 or not panels:
        return None
    figure, found = new_axes(PANEL_WIDTHS_IN[len(panels) - 1], 3.2, len(panels))
    for axes, panel in zip(found, panels, strict=True):
        xs, ys = [x for _, x, _ in panel.values], [y for *_, y in panel.values]
        order = np.argsort(xs, kind="stable")
        axes.plot(np.array(xs)[order], np.array(ys)[order], color=BLUE, linewidth=1.4, alpha=0.55)
        for design, x, y in panel.values:
            draw_mark(axes, x, y, f"all-mark-d{design.index}", colour=BLUE, shape="o", hollow=y == 0)
        _scale(axes.xaxis, xs, facts.number)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        axes.set_title(label(panel.title))
        axes.set(xlabel=label(panel.along), ylabel=label(f"objective per {panel.unit}"))
        axes.set_ylim(bottom=0)
        axes.margins(x=0.08)
    return figure


def _family(designs: Sequence[Design]) -> Figure | None:
    shown = [design for design in designs if design.rho_limit is not None and design.network is not None]
    if len({design.rho_limit for design in shown}) < 2:
        return None
    figure, found = new_axes(9.8, 2.7, len(facts.SHAPES))
    for axes, shape in zip(found, facts.SHAPES, strict=True):
        for i, group in enumerate(facts.at_equal_latency(shown)):
            colour, marker = SERIES[i % len(SERIES)]
            line = [(float(d.rho_limit or 0), shape.of(d)) for d in sorted(group, key=lambda d: d.rho_limit or 0)]
            xs, ys = zip(*line, strict=True)
            axes.plot(xs, ys, color=colour, linewidth=1.4, alpha=0.55)
            for design in group:
                gid = f"all-mark-d{design.index}"
                draw_mark(axes, float(design.rho_limit or 0), shape.of(design), gid, colour=colour, shape=marker)
        axes.set_title(shape.title)
        axes.set(xlabel="rho_0")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: facts.number(value)))
        axes.margins(x=0.1, y=0.15)
        axes.set_ylim(bottom=0)
    return figure
