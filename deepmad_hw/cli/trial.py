"""``deepmad-hw trial``: train small populations, fit an objective, design with it, check it by training. Layer 4."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from deepmad_hw.cli import options, output
from deepmad_hw.errors import InputFileError

if TYPE_CHECKING:
    from deepmad_hw.training.jobs import Job
    from deepmad_hw.workflows.trial.check import Check
    from deepmad_hw.workflows.trial.journal import EpochResult, FailedJob, Journal
    from deepmad_hw.workflows.trial.outcomes import TrainedMember
    from deepmad_hw.workflows.trial.records import Member, Trial
    from deepmad_hw.workflows.trial.runner import Where

DEFAULT_VERB = "run"
HELP_OPTIONS = ("-h", "--help")


class Device(StrEnum):
    """What networks are trained on."""

    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """Precision of a training's multiplications."""

    FP32 = "fp32"
    BF16 = "bf16"


class _RunByDefault(TyperGroup):
    """`trial RUNFILE ...` is `trial run RUNFILE ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default verb first where none is named."""
        if args and args[0] not in self.commands and args[0] not in HELP_OPTIONS:
            args = [DEFAULT_VERB, *args]
        return super().parse_args(ctx, args)


trial = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Train two dozen networks briefly on your images, fit an objective to them, and design with it.",
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a trial.")]
Workers = Annotated[int, typer.Option(min=1, help="Trainings at once on this machine.")]
TorchThreads = Annotated[int, typer.Option(min=1, help="Processor threads of each training.")]
OnDevice = Annotated[Device, typer.Option(help="What networks are trained on.")]
Dask = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Train on the workers of a Dask scheduler, such as tcp://host:8786."),
]
Pack = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write a folder that trains with torch and numpy alone, and stop.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the networks and what training them costs, and stop.")]


@trial.command("run")
def run(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="Run file, or name of a problem such as deepmad-r18.")
    ],
    images: Annotated[
        Path,
        typer.Option(
            "--data", metavar="DIR|FILE.npz", help="Images: DIR/train/CLASS/*.jpg, or x_train, y_train in an .npz."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the trial; the same command continues it.")],
    networks: Annotated[int, typer.Option(min=8, help="Networks to train.")] = 24,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each.")] = 8,
    repeats: Annotated[int, typer.Option(min=0, help="Networks trained with a second seed, to know the noise.")] = 3,
    latency: options.Latency = [],  # noqa: B006
    confidence: options.Confidence = None,
    allow_uncovered: options.AllowUncovered = False,
    grid: options.Grid = None,
    settings: options.Set = [],  # noqa: B006
    measure: Annotated[
        bool, typer.Option("--measure", help="Choose networks by latencies measured here, not by the table alone.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images of a training step.")] = 128,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="Highest learning rate.")] = 0.1,
    precision: Annotated[Precision, typer.Option(help="Precision of multiplications in training.")] = Precision.FP32,
    flips: Annotated[bool, typer.Option("--flips/--no-flips", help="Mirror images at random.")] = True,
    device: OnDevice = Device.CPU,
    workers: Workers = 1,
    threads: TorchThreads = 1,
    dask: Dask = None,
    retry: Annotated[bool, typer.Option("--retry", help="Train once more what failed.")] = False,
    pack: Pack = None,
    dry_run: DryRun = False,
    seed: options.Seed = 0,
    json: options.Json = False,
    **limits: str | None,
) -> None:
    """Train a population within a budget, fit an objective to its accuracies, and design with that."""
    requests = options.latency_requests(latency)
    over = options.overrides(limits, grid=grid, settings=settings)
    share = options.confidence_share(confidence)
    options.new_folder(out)
    if not images.exists():
        raise InputFileError("no such folder or file", where=f"--data {images}")

    from deepmad_hw.workflows.design.design import with_tables
    from deepmad_hw.workflows.runfile.config import load_run
    from deepmad_hw.workflows.trial import trial as trials
    from deepmad_hw.workflows.trial.records import Recipe, TrialSettings

    asked = TrialSettings(
        networks=networks,
        epochs=epochs,
        repeats=repeats,
        seed=seed,
        recipe=Recipe(batch=batch, learning_rate=learning_rate, precision=precision.value, flips=flips),
    )
    question = with_tables(
        load_run(config, overrides=over).with_latency(requests), confidence=share, allow_uncovered=allow_uncovered
    )
    with output.progress("choosing networks") as steps:
        found = trials.prepare(
            out,
            question,
            path=images,
            settings=asked,
            measured=measure,
            on_step=lambda text: steps.advance(done=0, text=text),
        )
    work = trials.jobs_of(found)
    if dry_run:
        _show_cost(found, work, out / trials.PLAN_FOLDER, device=device, threads=threads, workers=workers, json=json)
        return
    if pack is not None:
        _pack(out / trials.PLAN_FOLDER, pack, f"deepmad-hw trial import {out} {pack}/results.jsonl")
        return
    from deepmad_hw.workflows.trial.run import trial as run_trial

    with _training(work, trials.open_journal, out) as on_result:
        run_trial(
            question,
            images,
            out,
            settings=asked,
            where=_where(device, threads, workers, dask),
            retry=retry,
            on_result=on_result,
        )
    _show(out, json=json)


options.with_limits(run, after="allow_uncovered")


@trial.command()
def show(folder: Folder, json: options.Json = False) -> None:
    """Say how far a trial is and what it has found."""
    _show(options.existing_folder(folder), json=json)


@trial.command("import")
def import_results(
    folder: Folder,
    results: Annotated[Path, typer.Argument(metavar="RESULTS.jsonl", help="What a packed training wrote.")],
    json: options.Json = False,
) -> None:
    """Take in the results of a packed training; when all are there, fit the objective and design with it."""
    from deepmad_hw.workflows.trial import check as checks
    from deepmad_hw.workflows.trial import trial as trials
    from deepmad_hw.workflows.trial.journal import belongs, import_lines
    from deepmad_hw.workflows.trial.records import read_trial
    from deepmad_hw.workflows.trial.run import conclude

    found = read_trial(options.existing_folder(folder))
    check = checks.read_check(folder)
    work = [] if check is None else checks.jobs_of(check, found)
    if work and belongs(results, work):
        with checks.open_journal(folder) as journal:
            epochs = import_lines(results, journal, work)
    else:
        with trials.open_journal(folder) as journal:
            epochs = import_lines(results, journal, trials.jobs_of(found))
            with output.progress("fitting the objective"):
                conclude(folder, found, journal)
    output.message(f"{epochs} epochs read from {results}")
    _show(folder, json=json)


@trial.command()
def verify(
    folder: Folder,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training.")] = 24,
    seeds: Annotated[int, typer.Option(min=2, help="Trainings of each network.")] = 3,
    measure: Annotated[
        bool, typer.Option("--measure", help="Bring all networks to one latency measured here.")
    ] = False,
    device: OnDevice = Device.CPU,
    workers: Workers = 1,
    threads: TorchThreads = 1,
    dask: Dask = None,
    retry: Annotated[bool, typer.Option("--retry", help="Train once more what failed.")] = False,
    pack: Pack = None,
    dry_run: DryRun = False,
    json: options.Json = False,
) -> None:
    """Train the calibrated design longer, beside controls of equal latency, and look at the test images once."""
    from deepmad_hw.workflows.trial import check as checks
    from deepmad_hw.workflows.trial import trial as trials
    from deepmad_hw.workflows.trial.records import read_trial
    from deepmad_hw.workflows.trial.run import protocol, verify_trial

    found = read_trial(options.existing_folder(folder))
    with output.progress("naming the design and its controls") as steps:
        check = protocol(
            folder,
            epochs=epochs,
            seeds=seeds,
            measured=measure,
            on_step=lambda text: steps.advance(done=0, text=text),
        )
    if dry_run:
        _show_check(check, found, None)
        return
    work = checks.jobs_of(check, found)
    if pack is not None:
        with output.progress("writing the plan"):
            plan = checks.prepare(folder, found, trials.question_of(folder), check)
        _pack(plan, pack, f"deepmad-hw trial import {folder} {pack}/results.jsonl")
        return
    with _training(work, checks.open_journal, folder) as on_result:
        verify_trial(
            folder,
            epochs=epochs,
            seeds=seeds,
            where=_where(device, threads, workers, dask),
            retry=retry,
            on_result=on_result,
        )
    _show(folder, json=json)


# --- training -------------------------------------------------------------------------------------------------------


def _where(device: Device, threads: int, workers: int, dask: str | None) -> Where:
    from deepmad_hw.workflows.trial.runner import Where

    return Where(device=device.value, threads=threads, workers=workers, dask=dask)


@contextmanager
def _training(work: Sequence[Job], opened: Callable[[Path], Journal], folder: Path) -> Iterator[Any]:
    """Give a function that shows results: a bar with the time left on a terminal, a line an epoch elsewhere."""
    from deepmad_hw.workflows.trial.journal import FailedJob

    epochs = {job.name: job.epochs for job in work}
    total = sum(epochs.values())
    with opened(folder) as journal:
        seen = {(each.job, each.epoch) for each in journal.results() if each.job in epochs}

    with output.progress(f"training {len(work)} jobs", total=total) as steps:
        steps.advance(done=len(seen))

        def on_result(result: EpochResult | FailedJob) -> None:
            if isinstance(result, FailedJob):
                output.message(f"{result.job} failed: {result.failed}")
                return
            if (result.job, result.epoch) in seen:
                return
            seen.add((result.job, result.epoch))
            text = f"{result.job} epoch {result.epoch}/{epochs[result.job]} {result.accuracy:.2f} %"
            steps.advance(done=len(seen), text=text)
            if not steps.drawn:
                output.message(f"{len(seen)}/{total} {text}")

        yield on_result


def _pack(plan: Path, folder: Path, back: str) -> None:
    from deepmad_hw.workflows.trial.plan import write_pack

    write_pack(plan, options.new_folder(folder))
    output.message(f"wrote {folder}: run `python train.py --workers N` in it, where torch and numpy are; then `{back}`")


# --- what is shown --------------------------------------------------------------------------------------------------


def _show_cost(
    found: Trial, work: Sequence[Job], plan: Path, *, device: Device, threads: int, workers: int, json: bool
) -> None:
    from deepmad_hw.workflows.trial.records import trial_to_json
    from deepmad_hw.workflows.trial.runner import step_seconds, training_hours

    with output.progress("timing a few steps of every network"):
        seconds = step_seconds(plan, device=device.value, threads=threads)
    hours = training_hours(found, work, seconds, workers=workers)
    if json:
        output.answer_json({**trial_to_json(found), "step_seconds": seconds, "hours": hours})
        return
    rows = [(*_facts(each), f"{seconds[each.name]:.3f}") for each in found.networks]
    output.table((*_FACTS, "s/step"), rows, numbers=range(2, 7))
    output.answer("")
    output.answer(f"condition number of the population's features: {found.condition:.0f}")
    output.answer(
        f"{len(work)} trainings of {found.settings.epochs} epochs: about {_duration(hours)} with {workers} at once"
    )


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


_FACTS = ("network", "why", "MACs", "params", "predicted", "measured")


def _facts(each: Member) -> tuple[str, ...]:
    from deepmad_hw import units

    def time(ms: float | None) -> str:
        return "-" if ms is None else units.format_time_ms(ms)

    return (
        each.name,
        each.why,
        units.format_count(each.macs),
        units.format_count(each.params),
        time(each.predicted_ms),
        time(each.measured_ms),
    )


def _show(folder: Path, *, json: bool) -> None:
    from deepmad_hw.workflows.trial import check as checks
    from deepmad_hw.workflows.trial import summary
    from deepmad_hw.workflows.trial.records import read_trial

    found = summary.summarize(folder)
    if json:
        output.answer_json(summary.summary_to_json(found))
        return
    rows = [
        (*_facts(each.member), _accuracy(each, found.trial))
        for each in sorted(found.trained, key=lambda each: -(each.accuracy or 0.0))
    ]
    output.table((*_FACTS, "validation accuracy"), rows, numbers=range(2, 7))
    output.answer("")
    for line in found.sentences:
        output.answer(line)
    if found.check is not None:
        output.answer("")
        with checks.open_journal(folder) as journal:
            _show_check(found.check, read_trial(folder), journal)


def _accuracy(each: TrainedMember, found: Trial) -> str:
    if each.failed:
        return each.failed
    if not each.accuracies:
        return "-"
    return " ".join(f"{value:.2f}" for value in each.accuracies) + " %"


def _show_check(check: Check, found: Trial, journal: Journal | None) -> None:
    from deepmad_hw.workflows.trial import check as checks

    named, verdicts = (None, ()) if journal is None else checks.verdicts(check, found, journal)
    by_name = {each.control.name: each for each in verdicts}
    rows = []
    for each in check.networks:
        difference = check.cost_difference(each)
        verdict = by_name.get(each.name)
        accuracy = named if each is check.named else None if verdict is None else verdict.accuracy
        rows.append(
            (
                *_facts(each),
                "-" if each is check.named else f"{difference:+.1%}",
                "-" if accuracy is None else f"{accuracy.mean:.2f} +- {accuracy.error:.2f}",
                "-" if verdict is None else f"{verdict.difference.mean:+.2f} +- {verdict.difference.error:.2f}",
            )
        )
    columns = (*_FACTS, check.equal_in, "test accuracy, %", "named less this, points")
    output.table(columns, rows, numbers=range(2, 9), title=f"check: {check.epochs} epochs, {check.seeds} seeds")
    for verdict in verdicts:
        output.answer(verdict.sentence)
