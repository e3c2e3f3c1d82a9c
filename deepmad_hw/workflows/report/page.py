"""Results as one HTML page without any reference to elsewhere. Layer 4.

Every text of the results is escaped by the template engine. The page's policy allows its own style and script, known
by their hashes, and nothing else: no request, no foreign script, no frame, no form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deepmad_hw import units
from deepmad_hw.errors import ConfigError, StorageError
from deepmad_hw.files.atomic import write_atomically
from deepmad_hw.problem.solution import Price
from deepmad_hw.workflows.report import comparison, drawing, facts, figures, prices
from deepmad_hw.workflows.report.facts import Design
from deepmad_hw.workflows.report.figures import Plot
from deepmad_hw.workflows.report.inline import inline_svg
from deepmad_hw.workflows.report.template import environment, printable, render, resource
from deepmad_hw.workflows.report.trial_page import trial_page
from deepmad_hw.workflows.results.results import (
    Reference,
    Results,
    TableHealth,
    is_deepmads,
    objective_label,
    objective_unit,
    told_objective,
)
from deepmad_hw.workflows.results.results_folder import load_results
from deepmad_hw.workflows.trial.records import TRIAL_FILE

NONE = "\u2013"
NOTED_DRIFT = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a report left on disk.

    Args:
        page: the HTML file.
        plots: SVG and PNG of each plot.
        notes: why there is no design to tell of, where there is none.
    """

    page: Path
    plots: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def report(
    results: Results | Path, out: Path, *, bench: Path | None = None, plots_folder: Path | None = None
) -> Written:
    """Write results as one self-contained HTML file, and their plots as SVG and PNG.

    Args:
        results: what to tell of, or a folder that `sweep`, `design`, `quickstart` or `trial` wrote.
        out: the HTML file.
        bench: what ``bench --json`` printed, to be shown beside the designs of a folder.
        plots_folder: where the plots go as files, made where it is not there; None writes none.

    Raises:
        InputFileError: the folder holds no results, or a file cannot be used.
        StorageError: a file could not be written.
    """
    text, drawn, notes = _told_of(results, bench)
    write_atomically(out, text.encode("utf-8", errors="replace"))
    if plots_folder is None:
        return Written(page=out, notes=notes)
    try:
        plots_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder cannot be made: {error.strerror}", where=str(plots_folder)) from error
    plots = tuple(path for plot in drawn for path in figures.save(plot, plots_folder))
    return Written(page=out, plots=plots, notes=notes)


def _told_of(results: Results | Path, bench: Path | None) -> tuple[str, tuple[Plot, ...], tuple[str, ...]]:
    """Return a page, its plots, and why there is no design to tell of."""
    if isinstance(results, Path) and (results / TRIAL_FILE).is_file():
        if bench is not None:
            raise ConfigError("a trial has its own measurements", where="--bench", hint="leave it away")
        return (*trial_page(results), ())
    found = results if isinstance(results, Results) else load_results(results, bench=bench)
    drawn = figures.plots(found)
    notes = () if facts.designs(found) else found.notes or ("no point of it holds a design",)
    return page(found, drawn), drawn, notes


def page(results: Results, drawn: Sequence[Plot] | None = None) -> str:
    """Return results as a page, the same for the same results.

    Args:
        results: what to tell of.
        drawn: their plots, or None to draw them.
    """
    designs = facts.designs(results)
    drawn_network = environment().from_string(resource("network.svg.jinja"))
    health = [_health(table) for table in results.tables]
    return render(
        "report.html.jinja",
        results=results,
        told_objective=told_objective,
        objective_label=objective_label(results),
        objective_unit=objective_unit(results),
        deepmads=is_deepmads(results),
        designs=designs,
        unsolved=[point for point in results.points if point.solution.evaluation is None],
        best=max(designs, key=lambda design: design.objective, default=None),
        cards=_cards(results, designs),
        charts=_charts(results, designs, figures.plots(results) if drawn is None else drawn),
        references=results.references,
        references_measured=any(reference.row.measured_ms for reference in results.references),
        published=[reference for reference in results.references if reference.top1_percent is not None],
        comparison=comparison.comparison(results),
        near=comparison.NEAR,
        drift=_drift(results),
        health=health,
        families=[family for family in facts.at_equal_latency(_limited(designs)) if len(family) > 1],
        rhos=sorted({design.rho_limit for design in designs if design.rho_limit is not None}),
        drawn_network=lambda design: Markup(  # noqa: S704 - rendered, and so escaped, by the line below
            drawn_network.render(picture=drawing.picture(design.network), base=drawing.BASE)
        ),
        facts=facts,
        units=units,
        ms=_ms,
        span=_span,
        bought=_bought,
        share=units.format_percent,
        percent="{:.1%}".format,
    )


def _charts(results: Results, designs: Sequence[Design], drawn: Sequence[Plot]) -> dict[str, Any]:
    """Return each plot as an element of the page, by what it shows."""
    labels = {f"d{design.index}": _told(design) for design in designs}
    labels |= {f"r{j}": _told_reference(reference) for j, reference in enumerate(results.references)}
    elements = {
        plot.name: Markup(inline_svg(plot, title=_title(plot.name), labels=labels))  # noqa: S704 - escaped there
        for plot in drawn
    }
    pareto = []
    for i, table in enumerate(facts.tables(results)):
        measured = [design.row(table) is not None for design in designs if design.latency(table) is not None]
        svg = elements.get(f"pareto-{i}")
        if svg is not None:
            pareto.append({"table": table, "svg": svg, "measured": any(measured), "predicted": not all(measured)})
    return {
        "pareto": pareto,
        "price_panels": len(prices.prices(designs)),
        **{name: elements.get(name) for name in ("accuracy", "prices", "rho")},
    }


def _cards(results: Results, designs: Sequence[Design]) -> list[tuple[str, str, str]]:
    """Return the few numbers that open the page: what, value, remark."""
    found = [point.solution.status.value for point in results.points]
    statuses = ", ".join(f"{found.count(status)} {status}" for status in dict.fromkeys(found))
    cards = [("Designs", str(len(designs)), statuses)]
    tables = facts.tables(results)
    for table in tables:
        shown = [design for design in designs if design.latency(table) is not None]
        measured = any(design.row(table) is not None for design in shown)
        name = f"Latency, {table}" if len(tables) > 1 else "Latency"
        times = _range([design.times(table).middle for design in shown])
        cards.append((name, f"{times} ms", "measured median" if measured else "predicted"))
    if designs:
        objectives = _range([design.objective for design in designs])
        unit = objective_unit(results)
        if unit:
            cards.append(("Calibrated objective", f"{objectives} {unit}", "a prediction; nothing was trained for it"))
        else:
            name = "DeepMAD objective" if is_deepmads(results) else "Objective"
            cards.append((name, objectives, "no accuracy; compares at equal rho only"))
        gaps = [design.solution.gap for design in designs if design.solution.gap is not None]
        if gaps:
            worst = "Gap to the proved bound" if len(gaps) == 1 else "Largest gap to the proved bound"
            cards.append((worst, units.format_gap(max(gaps), unit), "on the declared grid"))
    margins = [table.margin for table in results.tables if table.margin is not None]
    if margins:
        cards.append(("Margin of the table", f"{max(margins):.1%}", "upper value over prediction"))
    return cards


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} \u2013 {high}"


def _drift(results: Results) -> str:
    """Return in a sentence how the machine differed from when the table was made, where it did."""
    rows = [row for point in results.points for row in point.rows] + [each.row for each in results.references]
    drift = next((row.drift for row in rows if row.drift is not None), None)
    if drift is None or abs(drift - 1) < NOTED_DRIFT:
        return ""
    slower = "slower" if drift > 1 else "faster"
    return f"The machine ran {abs(drift - 1):.0%} {slower} while measuring than when the table was made."


def _title(name: str) -> str:
    titles = {
        "accuracy": "Predicted and measured latency",
        "prices": "What one more unit of each limit would buy",
        "rho": "Designs at equal latency and different rho",
    }
    return titles.get(name, "Objective against latency; arrow keys walk along the designs, Enter shows one")


def _told(design: Design) -> str:
    latencies = ", ".join(_ms(design.times(value.table).middle) for value in design.evaluation.latency)
    objective = _objective(design.objective, design.evaluation.unit)
    return _text(f"{design.name}: {objective}" + (f", latency {latencies}" if latencies else ""))


def _told_reference(reference: Reference) -> str:
    times = facts.times_of(reference.row)
    latency = "" if times is None else f", latency {_ms(times.middle)}"
    unit = "" if reference.worth is None else reference.worth.unit
    objective = "" if reference.objective is None else f": {_objective(reference.objective, unit)}"
    return _text(f"{reference.row.name}{objective}{latency}")


def _objective(value: float, unit: str) -> str:
    return f"objective {units.format_objective(value)} {unit}" if unit else f"objective {value:,.0f}"


def _text(value: str) -> str:
    return str(printable(value))


def _limited(designs: Sequence[Design]) -> list[Design]:
    return [design for design in designs if design.rho_limit is not None]


def _ms(value: float | None) -> str:
    return NONE if value is None else units.format_time_ms(value)


def _span(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"{facts.time(low)} to {facts.time(high)}"


def _bought(price: Price) -> str:
    unit = price.unit if price.unit[:1].isdigit() else f"1 {price.unit}"
    return f"{unit} more would buy about {price.objective_per_unit:,.4g}"


def _health(table: TableHealth) -> dict[str, Any]:
    errors = sorted(abs(each.predicted_ms / each.measured_ms - 1) for each in table.calibration)
    total = sum(n for _, n in table.statuses)
    good = sum(n for status, n in table.statuses if status == "ok")
    environment = table.environment
    return {
        "table": table,
        "device": None if environment is None else environment.device,
        "setting": None
        if environment is None
        else f"{environment.runtime} {environment.runtime_version}, {environment.precision}, batch "
        f"{environment.batch}, {environment.threads} thread{'s' if environment.threads > 1 else ''}",
        "good": None if not total else good / total,
        "median_error": errors[len(errors) // 2] if errors else None,
        "worst_error": errors[-1] if errors else None,
    }
