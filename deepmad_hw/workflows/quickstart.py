"""The main job on this machine in one call: profile, design under a latency limit, export, measure. Layer 4."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepmad_hw.errors import ForeignTableError, InputFileError, SolverError
from deepmad_hw.latency.model import predict_ms, upper_ms
from deepmad_hw.network import costs, reference, reference_designs
from deepmad_hw.predict.network import TableModel
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import LatencyLimit, Problem
from deepmad_hw.problem.solution import Solution, Status
from deepmad_hw.workflows.bench.bench import BenchRow, bench
from deepmad_hw.workflows.bench.rows import row_of
from deepmad_hw.workflows.design.design import design, save_design
from deepmad_hw.workflows.export.export import export
from deepmad_hw.workflows.networks.networks import load_network
from deepmad_hw.workflows.profiling.choice import ProfileRequest
from deepmad_hw.workflows.profiling.profile import profile
from deepmad_hw.workflows.report.page import report
from deepmad_hw.workflows.results.folders import QUICKSTART_DESIGN as DESIGN_FOLDER
from deepmad_hw.workflows.results.results_folder import described, write_measured
from deepmad_hw.workflows.runfile.config import load_problem
from deepmad_hw.workflows.tables.tables import check_table, load_model
from profilers.run import Tick

CONFIG = "quickstart"
YARDSTICK = "resnet18"  # the design gets as much time as this network takes
REFERENCES = ("resnet18", "mobilenet_v2", "resnet50")
PROFILE_MINUTES = 2.0
GAP = 0.01
TIME_LIMIT_S = 45.0
METHOD = "certified"
TABLE_FILE = "this-machine.csv"
MODEL_FILE = "design.onnx"
REPORT_FILE = "report.html"
NEAR_BUDGET = 4.0  # a reference network further from the budget than this factor is left out


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One network of the closing table.

    Args:
        bench: its prediction and measurement.
        objective: DeepMAD's objective, or None where it is not defined.
        score: its entropy score, or None.
        penalty: what uneven depths take off the score, or None.
        rho: largest effectiveness; objectives compare at equal rho only.
        macs: multiply-adds.
        params: trainable parameters.
    """

    bench: BenchRow
    objective: float | None
    score: float | None
    penalty: float | None
    rho: float | None
    macs: int
    params: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Quickstart:
    """What the first run made.

    Args:
        folder: where everything lies.
        budget_ms: the latency limit.
        solution: the design.
        lines: the design first, then the reference networks near the budget.
    """

    folder: Path
    budget_ms: float
    solution: Solution
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Show:
    """How progress is told.

    Args:
        step: a new step begins, in words.
        tick: a unit of measuring is stored.
    """

    step: Callable[[str], None] = lambda text: None
    tick: Callable[[Tick], None] = lambda tick: None


def quickstart(folder: Path, *, show: Show | None = None, minutes: float = PROFILE_MINUTES) -> Quickstart:
    """Profile this machine, design a network as fast as ResNet-18 on it, export it and measure it.

    Args:
        folder: for the table, the design and the model; a table of this machine in it is used again.
        show: how progress is told.
        minutes: of profiling.

    Returns:
        The design beside reference networks, predicted and measured.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        TooNoisyError: the machine is too busy to be measured.
        SolverError: no design was found.
    """
    told = show or Show()
    table = folder / TABLE_FILE
    model = _table(table, told, minutes)
    yardstick_ms = predict_ms(reference.get(YARDSTICK), model)
    budget_ms = float(f"{upper_ms(yardstick_ms, model) or yardstick_ms:.2g}")
    problem = load_problem(CONFIG)
    limits = replace(problem.limits, latency=(LatencyLimit(table=model.name, budget_ms=budget_ms),))
    problem = replace(problem, name=f"{CONFIG}-{budget_ms:g}ms", limits=limits)
    told.step(f"designing for {budget_ms:g} ms, what {YARDSTICK} takes here")
    solution = _design(problem, model)
    save_design(folder / DESIGN_FOLDER, solution, problem, tables={model.name: table})
    told.step(f"exporting to {folder / MODEL_FILE}")
    export(load_network(folder / DESIGN_FOLDER), folder / MODEL_FILE)
    near = [name for name in REFERENCES if _near(predict_ms(reference.get(name), model), budget_ms)]
    told.step(f"measuring the design beside {', '.join(near)}")
    rows = bench([folder / MODEL_FILE, *near], table=table, on_tick=told.tick)
    _report(folder, rows, table=model.name)
    return Quickstart(
        folder=folder, budget_ms=budget_ms, solution=solution, lines=tuple(_line(row, solution) for row in rows)
    )


def _report(folder: Path, rows: Sequence[BenchRow], *, table: str) -> None:
    """Keep what was measured, and tell of everything on one page."""
    own, *others = (row_of(row, table=table) for row in rows)
    write_measured(folder, [own], [described(row) for row in others], point=DESIGN_FOLDER)
    report(folder, folder / REPORT_FILE)


def _table(table: Path, told: Show, minutes: float) -> TableModel:
    request = ProfileRequest(spaces=(load_problem(CONFIG).space,), minutes=minutes, references=REFERENCES)
    if table.exists() and _fits(table, told):
        return load_model(table)
    told.step(f"profiling this machine, about {minutes:g} minutes")
    profile(request, out=table, on_tick=told.tick)
    return load_model(table)


def _fits(table: Path, told: Show) -> bool:
    try:
        with tempfile.TemporaryDirectory(prefix="deepmad-hw-check-") as folder:
            check_table(table, folder=Path(folder))
    except (InputFileError, ForeignTableError) as error:
        told.step(f"{error}; making the table anew")
        return False
    told.step(f"using the table {table}, which fits this machine")
    return True


def _design(problem: Problem, model: TableModel) -> Solution:
    solution = design(problem, {model.name: model}, method=METHOD, gap=GAP, time_limit_s=TIME_LIMIT_S)
    if solution.status not in (Status.CERTIFIED, Status.FEASIBLE):
        raise SolverError(f"no design was found: {solution.stopped}", where=problem.name)
    return solution


def _near(predicted_ms: float, budget_ms: float) -> bool:
    return budget_ms / NEAR_BUDGET <= predicted_ms <= budget_ms * NEAR_BUDGET


def _line(row: BenchRow, solution: Solution) -> Line:
    designed = row.name == Path(MODEL_FILE).stem
    architecture = solution.architecture if designed else reference_designs.in_own_layers(row.name)
    graph_of_row = load_network(row.name).graph if not designed else None
    evaluation = check.evaluate(architecture) if architecture is not None else None
    counted = graph_of_row if graph_of_row is not None else architecture
    return Line(
        bench=row,
        objective=None if evaluation is None else evaluation.objective,
        score=None if evaluation is None else evaluation.score,
        penalty=None if evaluation is None else evaluation.penalty,
        rho=None if evaluation is None else evaluation.max_rho,
        macs=costs.macs(counted),
        params=costs.params(counted),
    )
