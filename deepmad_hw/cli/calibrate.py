"""``deepmad-hw calibrate``: an objective from trained networks, and whether it ranks better than a formula. Layer 4."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepmad_hw.cli import options, output
from deepmad_hw.errors import ConfigError

if TYPE_CHECKING:
    from deepmad_hw.predict.accuracy import Comparison, Interval
    from deepmad_hw.problem.objective import Objective


def calibrate(
    population: Annotated[
        Path, typer.Argument(metavar="POPULATION", help="Folder of designs with accuracies.csv, or a CSV of features.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="File to write the objective to.")],
    source: Annotated[str, typer.Option(metavar="TEXT", help="Where the accuracies come from.")] = "",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Fit the objective's weights to trained networks; `design --objective FILE` then maximises predicted accuracy."""
    if out.suffix != ".json":
        raise ConfigError("is no JSON file", where=f"--out {out}", hint="end it with .json")

    from deepmad_hw.formats import serde
    from deepmad_hw.workflows.design.calibrate import calibrate as fitted
    from deepmad_hw.workflows.design.calibrate import comparison_to_json

    with output.progress("fitting"):
        found = fitted(population, source=source, seed=seed)
    serde.write_objective(out, found.objective)
    if json:
        comparison = comparison_to_json(found.comparison)
        output.answer_json(
            {"schema": 1, "objective": serde.objective_to_json(found.objective), "comparison": comparison}
        )
        return
    _show_weights(found.objective)
    output.answer("")
    _show_rules(found.comparison)
    output.answer("")
    output.answer(found.comparison.sentence)
    output.message(f"stored in {out}; maximise it with: deepmad-hw design RUNFILE --objective {out}")


def _show_weights(objective: Objective) -> None:
    rows = [(f"entropy of scale {i}", f"{weight:.4g}") for i, weight in enumerate(objective.scale_weights or (), 1)]
    rows += [(f"depth of stage {i}", f"{weight:.4g}") for i, weight in enumerate(objective.depth_weights, 1)]
    rows += [
        ("depth penalty", f"{-objective.penalty_weight:.4g}"),
        ("log params", f"{objective.log_params:.4g}"),
        ("log MACs", f"{objective.log_macs:.4g}"),
        ("constant", f"{objective.constant:.4g}"),
    ]
    output.table(("term", f"weight, {objective.unit}"), rows, numbers=(1,))


def _show_rules(comparison: Comparison) -> None:
    rows = [("calibrated objective, of networks it has not seen", _interval(comparison.calibrated), "")]
    rows += [
        (each.rule, _interval(each.correlation), _interval(each.difference))
        for each in sorted(comparison.fixed, key=lambda each: -each.correlation.value)
    ]
    columns = (f"rule, {comparison.networks} networks", "rank correlation with accuracy", "calibrated less this")
    output.table(columns, rows, numbers=(1, 2))


def _interval(found: Interval) -> str:
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
