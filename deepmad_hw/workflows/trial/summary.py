"""What a trial has found so far, for the command line and the report. Layer 4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepmad_hw import units
from deepmad_hw.files.jsonfile import Json, plain
from deepmad_hw.formats import serde
from deepmad_hw.predict import accuracy
from deepmad_hw.predict.accuracy import Comparison
from deepmad_hw.problem.objective import Objective
from deepmad_hw.problem.solution import Solution
from deepmad_hw.workflows.design.calibrate import comparison_to_json
from deepmad_hw.workflows.results.folders import DESIGN_FILE
from deepmad_hw.workflows.trial import check as checks
from deepmad_hw.workflows.trial.check import Check, Estimate, Verdict
from deepmad_hw.workflows.trial.outcomes import (
    DESIGN_FOLDER,
    OBJECTIVE_FILE,
    TrainedMember,
    noise,
    outcomes,
    population_of,
)
from deepmad_hw.workflows.trial.records import Trial, read_trial, trial_to_json
from deepmad_hw.workflows.trial.runner import unfinished
from deepmad_hw.workflows.trial.trial import jobs_of, open_journal


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A trial and what came out of it.

    Args:
        trial: the trial.
        trained: its networks with their accuracies.
        left: jobs that have neither ended nor failed.
        noise: standard deviation of an accuracy between seeds, in points, None before two are known.
        objective: that was fitted, None before.
        comparison: how well it ranks networks that it has not seen, beside fixed rules, None before.
        design: with that objective, None before.
        check: protocol of the last step, None before it is written.
        named: test accuracy of the named design, None before two seeds have ended.
        verdicts: the named design against its controls.
    """

    trial: Trial
    trained: tuple[TrainedMember, ...]
    left: int
    noise: float | None
    objective: Objective | None
    comparison: Comparison | None
    design: Solution | None
    check: Check | None
    named: Estimate | None
    verdicts: tuple[Verdict, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """Return in a few sentences what the trial says."""
        total = len(jobs_of(self.trial))
        if self.left:
            return (f"{total - self.left} of {total} trainings have ended; the same command goes on.",)
        found = []
        if self.noise is not None:
            found.append(f"Between two seeds the accuracy of a network differs by {self.noise:.2f} points (one sigma).")
        if self.comparison is not None:
            found.append(self.comparison.sentence)
        if self.design is not None and self.design.objective is not None:
            worth = units.format_objective(self.design.objective)
            found.append(
                f"The design with the calibrated objective ({self.design.status.value}) is predicted at {worth} % of "
                "the validation images, with the error of a fit to this trial's networks."
            )
        if self.check is None and self.design is not None:
            found.append("Nothing of this is checked yet: deepmad-hw trial verify DIR trains the design longer.")
        return tuple(found)


def summarize(folder: Path) -> Summary:
    """Return what a trial has found so far.

    Args:
        folder: of the trial.

    Raises:
        InputFileError: it holds no trial, or a file of it cannot be read.
    """
    trial = read_trial(folder)
    objective = serde.read_objective(folder / OBJECTIVE_FILE) if (folder / OBJECTIVE_FILE).is_file() else None
    with open_journal(folder) as journal:
        trained = outcomes(trial, journal)
        left = len(unfinished(jobs_of(trial), journal))
        comparison = (
            None if objective is None else accuracy.compare(population_of(trial, journal), seed=trial.settings.seed)
        )
    check = checks.read_check(folder)
    named: Estimate | None = None
    verdicts: tuple[Verdict, ...] = ()
    if check is not None:
        with checks.open_journal(folder) as journal:
            named, verdicts = checks.verdicts(check, trial, journal)
    design = folder / DESIGN_FOLDER / DESIGN_FILE
    return Summary(
        trial=trial,
        trained=trained,
        left=left,
        noise=noise(trained),
        objective=objective,
        comparison=comparison,
        design=serde.read_solution(design) if design.is_file() else None,
        check=check,
        named=named,
        verdicts=verdicts,
    )


def summary_to_json(summary: Summary) -> Json:
    """Return what a trial has found as JSON data.

    Args:
        summary: what.
    """
    comparison, check = summary.comparison, summary.check
    return {
        **trial_to_json(summary.trial),
        "trained": [
            {"network": each.member.name, "accuracies": list(each.accuracies), "failed": each.failed}
            for each in summary.trained
        ],
        "left": summary.left,
        "noise": summary.noise,
        "objective": None if summary.objective is None else serde.objective_to_json(summary.objective),
        "comparison": None if comparison is None else comparison_to_json(comparison),
        "design": None if summary.design is None else serde.solution_to_json(summary.design),
        "check": None if check is None else checks.check_to_json(check),
        "named_accuracy": None if summary.named is None else plain(summary.named),
        "verdicts": [{**plain(each), "sentence": each.sentence} for each in summary.verdicts],
        "sentences": list(summary.sentences),
    }
