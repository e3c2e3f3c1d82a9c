"""A trial as one HTML page: what was trained, what ranks it, what was designed and checked. Layer 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from deepmad_hw import units
from deepmad_hw.predict import accuracy
from deepmad_hw.workflows.report import trial_figures
from deepmad_hw.workflows.report.figures import Plot
from deepmad_hw.workflows.report.inline import inline_svg
from deepmad_hw.workflows.report.template import printable, render
from deepmad_hw.workflows.trial.outcomes import TrainedMember, population_of
from deepmad_hw.workflows.trial.summary import Summary, summarize
from deepmad_hw.workflows.trial.trial import open_journal

TITLES = {
    "accuracy": "Validation accuracy against latency",
    "rules": "Accuracy against the calibrated objective, DeepMAD's objective and rho",
    "weights": "What each feature is worth",
}


def trial_page(folder: Path) -> tuple[str, tuple[Plot, ...]]:
    """Return a trial as a page, and its plots.

    Args:
        folder: of the trial.

    Raises:
        InputFileError: it holds no trial, or a file of it cannot be read.
    """
    summary = summarize(folder)
    population = None
    if summary.objective is not None:
        with open_journal(folder) as journal:
            population = population_of(summary.trial, journal)
    drawn = trial_figures.plots(summary.trained, population, summary.objective)
    labels = {
        "accuracy": {f"r{index}": _label(each) for index, each in enumerate(summary.trained)},
        "rules": {} if population is None else {f"r{index}": name for index, name in enumerate(population.names)},
    }
    charts = {
        plot.name: Markup(  # noqa: S704 - escaped there
            inline_svg(plot, title=TITLES[plot.name], labels=labels.get(plot.name, {}))
        )
        for plot in drawn
    }
    ranked = sorted(summary.trained, key=lambda each: -(each.accuracy or 0.0))
    return (
        render(
            "trial.html.jinja",
            name=folder.resolve().name,
            summary=summary,
            trained=ranked,
            cards=_cards(summary),
            charts=charts,
            rules=_rules(summary),
            units=units,
            time=_time,
        ),
        drawn,
    )


def _label(each: TrainedMember) -> str:
    said = "not trained" if each.accuracy is None else f"{each.accuracy:.2f} %"
    return str(printable(f"{each.member.name}: {said}, {_time(each.member.measured_ms or each.member.predicted_ms)}"))


def _time(value: float | None) -> str:
    return "\u2013" if value is None else units.format_time_ms(value)


def _cards(summary: Summary) -> list[tuple[str, str, str]]:
    ended = [each.accuracy for each in summary.trained if each.accuracy is not None]
    settings = summary.trial.settings
    cards = [
        ("Networks trained", f"{len(ended)} of {len(summary.trained)}", f"{settings.epochs} epochs each"),
        ("Images", f"{summary.trial.data.train:,}", f"{summary.trial.data.validation:,} more to compare on"),
    ]
    if ended:
        cards.append(("Validation accuracy", f"{min(ended):.2f} \u2013 {max(ended):.2f} %", "lowest and highest"))
    if summary.noise is not None:
        cards.append(("Noise", f"{summary.noise:.2f} points", "standard deviation between seeds"))
    if summary.comparison is not None:
        found = summary.comparison.calibrated
        cards.append(
            ("Calibrated objective", f"{found.value:.2f}", f"rank correlation, {found.low:.2f} to {found.high:.2f}")
        )
    return cards


def _rules(summary: Summary) -> list[dict[str, Any]]:
    if summary.comparison is None:
        return []
    fixed = sorted(summary.comparison.fixed, key=lambda each: -each.correlation.value)
    return [
        {"name": "calibrated objective", "correlation": summary.comparison.calibrated, "difference": None},
        *(
            {"name": accuracy.RULES[each.rule], "correlation": each.correlation, "difference": each.difference}
            for each in fixed
        ),
    ]
