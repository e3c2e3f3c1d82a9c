"""Writes docs/evidence-cifar10.md and its plots from the stored results of the trial on CIFAR-10; trains nothing.

python benchmarks/cifar10.py page --out docs/evidence-cifar10.md
"""

import json
import tempfile
from pathlib import Path

from deepmad_hw.predict import accuracy
from deepmad_hw.problem import entropy
from deepmad_hw.workflows.report import figures, trial_figures
from deepmad_hw.workflows.trial import check as checks
from deepmad_hw.workflows.trial import outcomes
from deepmad_hw.workflows.trial import trial as trials
from deepmad_hw.workflows.trial.journal import Journal
from deepmad_hw.workflows.trial.records import read_trial

PAGE = """\
# A trial on CIFAR-10

Does an objective that was fitted to two dozen short trainings rank networks better than a formula, on images that none
of its features were chosen on? And is the network that it designs better at equal measured latency? This page is one
run of [`trial`](trial.md) on 50,000 images of 32 x 32 pixels, with every number from its journal
(`benchmarks/results/cifar10/`). It is the first run of this protocol; runs after it will stand beside it.

```
{commands}
```

## What was done

- **Device and budget.** {machine}. A latency of {budget} for one image with ONNX Runtime, fp32, one thread. Latencies
  are medians measured in interleaved runs, at the speed that the machine had when the table was made.
- **Space.** `configs/cifar10.yaml`: bottleneck blocks, four stages at 32, 16, 8 and 4 pixels, rho up to 1.
- **Population.** {networks} networks of the space, chosen by the program within 85 to 100 % of the budget, as measured;
  {references} scaled references beside them. The condition number of the features is {condition:.0f}.
- **Recipe.** {epochs} epochs of SGD on {train:,} images, {validation:,} more to compare on; batch {batch}, learning
  rate {learning_rate:g}, bfloat16 multiplications. The images are a JPEG copy of CIFAR-10, which costs about a point of
  accuracy, for all networks alike. {ended} of {jobs} trainings have ended.

## What the trainings say

![Validation accuracy against measured latency](cifar10-accuracy.svg)

{ranked}

{noise}

## Which rule ranks them

{rules}

![Accuracy against the calibrated objective (on the networks that it was fitted to), DeepMAD's and
rho](cifar10-rules.svg)

![What a standard deviation of each feature is worth](cifar10-weights.svg)

{sentence}

The features, and the rule for the strength of the fit, were chosen on two other populations ([the
evidence](evidence.md)); nothing was chosen on CIFAR-10.

## The check

{check}
"""
COMMANDS = """\
tar -xf cifar10-jpeg.tar.xz -C images/
deepmad-hw profile --space cifar10 --minutes 8 --out cifar10-fp32.csv
deepmad-hw trial cifar10 --rho 1.0 --latency cifar10-fp32.csv=0.25ms --data images/ --measure \\
    --precision bf16 --workers 2 --out trial/
python benchmarks/cifar10.py store trial/
deepmad-hw trial verify trial/ --measure --epochs 24 --seeds 3 --workers 2
python benchmarks/cifar10.py store trial/
python benchmarks/cifar10.py page --out docs/evidence-cifar10.md"""


def journal_of(file, folder):
    """Return a journal with the lines that were stored."""
    journal = Journal(folder / f"{file.parent.name}.sqlite")
    if file.is_file():
        for line in file.read_text().splitlines():
            journal.add(json.loads(line))
    return journal


def write(results, out):
    """Write the page and its plots beside it."""
    trial = read_trial(results)
    check = checks.read_check(results)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with journal_of(results / "epochs.jsonl", folder) as journal:
            trained = outcomes.outcomes(trial, journal)
            ended = len(outcomes.ended_jobs(trials.jobs_of(trial), journal))
            population = outcomes.population_of(trial, journal)
        objective = accuracy.fit(population)
        comparison = accuracy.compare(population, seed=trial.settings.seed)
        checked = "It has not begun." if check is None else _check(results, folder, check, trial)
    for plot in trial_figures.plots(trained, population, objective):
        out.with_name(f"cifar10-{plot.name}.svg").write_bytes(figures.as_svg(plot))
    budget_ms = json.loads((results / "problem.json").read_text())["limits"]["latency"][0]["budget_ms"]
    settings, recipe = trial.settings, trial.settings.recipe
    out.write_text(
        PAGE.format(
            commands=COMMANDS,
            machine=json.loads((results / "origin.json").read_text())["machine"],
            budget=f"{budget_ms:g} ms",
            networks=len(trial.members),
            references=len(trial.references),
            condition=trial.condition,
            epochs=settings.epochs,
            train=trial.data.train,
            validation=trial.data.validation,
            batch=recipe.batch,
            learning_rate=recipe.learning_rate,
            ended=ended,
            jobs=len(trials.jobs_of(trial)),
            ranked=_ranked(trained),
            noise=_noise(trained),
            rules=_rules(comparison),
            sentence=comparison.sentence,
            check=checked,
        )
    )


def _table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shape(member):
    if member.architecture is None:
        return "-", "-", "-"
    stages = member.architecture.stages
    rho = max(entropy.rho(scale) for scale in entropy.scales(member.architecture))
    return f"{rho:.2f}", "-".join(str(each.out) for each in stages), "-".join(str(each.depth) for each in stages)


def _ranked(trained):
    rows = []
    for each in sorted(trained, key=lambda one: -(one.accuracy or 0)):
        member = each.member
        if each.accuracies:
            rows.append(
                (
                    member.name,
                    member.why,
                    *_shape(member),
                    f"{member.macs / 1e6:.1f}",
                    f"{member.params / 1e3:.0f}",
                    f"{1e3 * member.measured_ms:.0f}",
                    " ".join(f"{value:.2f}" for value in each.accuracies),
                )
            )
    columns = ("network", "why", "rho", "widths", "depths", "MACs, M", "params, k", "measured, us", "accuracy, %")
    return _table(columns, rows)


def _noise(trained):
    found = outcomes.noise(trained)
    count = sum(len(each.accuracies) > 1 for each in trained)
    if found is None:
        return "No network has been trained with a second seed yet."
    return f"Between two seeds the accuracy of a network differs by {found:.2f} points (one sigma, {count} networks)."


def _rules(comparison):
    def text(found, sign=""):
        return f"{found.value:{sign}.2f} ({found.low:{sign}.2f} to {found.high:{sign}.2f})"

    rows = [("**calibrated objective**, networks not seen by the fit", text(comparison.calibrated), "")]
    rows += [
        (accuracy.RULES[each.rule], text(each.correlation), text(each.difference, "+"))
        for each in sorted(comparison.fixed, key=lambda one: -one.correlation.value)
    ]
    columns = (f"rule, {comparison.networks} networks", "rank correlation, 90 % interval", "calibrated less this")
    return _table(columns, rows)


def _check(results, folder, check, trial):
    work = checks.jobs_of(check, trial)
    with journal_of(results / "check" / "epochs.jsonl", folder) as journal:
        ended = len(outcomes.ended_jobs(work, journal))
        named, verdicts = checks.verdicts(check, trial, journal)
    by_name = {each.control.name: each for each in verdicts}
    rows = []
    for each in check.networks:
        verdict = by_name.get(each.name)
        estimate = named if each is check.named else None if verdict is None else verdict.accuracy
        rows.append(
            (
                each.name,
                each.why,
                *_shape(each),
                f"{each.macs / 1e6:.1f}",
                f"{each.params / 1e3:.0f}",
                "-" if each.measured_ms is None else f"{1e3 * each.measured_ms:.1f}",
                "" if each is check.named else f"{check.cost_difference(each):+.1%}",
                "-" if estimate is None else f"{estimate.mean:.2f} ± {estimate.error:.2f}",
                "-" if verdict is None else f"{verdict.difference.mean:+.2f} ± {verdict.difference.error:.2f}",
            )
        )
    columns = (
        *("network", "why", "rho", "widths", "depths", "MACs, M", "params, k", "measured, us", "latency"),
        *("test accuracy, %", "named less this"),
    )
    told = [
        f"Written down before the first training of it (`check/check.json`): {check.epochs} epochs, {check.seeds} "
        f"seeds. {ended} of {len(work)} trainings have ended. Errors are standard errors; differences are taken seed "
        "by seed.",
        _table(columns, rows),
        *(each.sentence for each in verdicts),
    ]
    return "\n\n".join(told)
