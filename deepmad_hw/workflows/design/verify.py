"""A stored design is recomputed with plain numbers, without a solver, and held against what its files say. Layer 4.

It finds change and error, not forgery: a bound is the solver's claim, of which only ``objective <= bound`` can be
checked here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmad_hw.errors import InputFileError
from deepmad_hw.files.jsonfile import read_json
from deepmad_hw.formats import serde
from deepmad_hw.formats.certificate import certificate
from deepmad_hw.formats.serde import ProblemFile
from deepmad_hw.formats.serde_table import table_sha256
from deepmad_hw.latency.model import LatencyModel
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import Problem, latency_name
from deepmad_hw.problem.solution import Evaluation, Solution, Status, Worth
from deepmad_hw.workflows.design.design import CERTIFICATE_FILE, Loader, load_table
from deepmad_hw.workflows.results.folders import PROBLEM_FILE, reason, require_design_file

# Sums of floats may differ in the last digits between machines; a table's regressor is refitted on each.
EXACT, ANALYTIC, FITTED = 0.0, 1e-9, 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was checked of a stored design, all of it found right.

    Args:
        status: what the design claims to be worth.
        checked: the fields that were recomputed or compared.
        notes: what could not be checked, and why.
    """

    status: Status
    checked: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Pair:
    """A field as stored and as recomputed."""

    field: str
    stored: Any
    found: Any
    tolerance: float = EXACT

    @property
    def agrees(self) -> bool:
        if isinstance(self.stored, float) and isinstance(self.found, float):
            return math.isclose(self.stored, self.found, rel_tol=self.tolerance)
        return bool(self.stored == self.found)


def verify(
    folder: Path, *, models: Mapping[str, LatencyModel] | None = None, load: Loader | None = None
) -> Verification:
    """Recompute everything a stored design says.

    Args:
        folder: what `save_design` wrote.
        models: latency models by table name, used in place of the files that the problem names.
        load: reads a table; None takes `deepmad_hw.workflows.tables.tables.load_model`.

    Raises:
        InputFileError: a file is missing, or a field differs from what is recomputed; the message names it.
    """
    path = require_design_file(folder)
    data = read_json(path)
    solution = serde.solution_from_json(data, where=str(path))
    file = serde.read_problem(folder / PROBLEM_FILE)
    found, notes = _models(file, folder, models or {}, load)
    pairs = [
        _Pair("problem", solution.problem, file.problem.name),
        _Pair("grid", data["grid"], serde.grid_to_json(file.problem.space)) if data.get("grid") else None,
        *_claims(data, solution),
        *_values(solution, file.problem, found),
        _Pair("gap", data["gap"], solution.gap),
    ]
    kept = [pair for pair in pairs if pair is not None]
    _refuse(path, _disagreements(kept))
    if solution.architecture is not None and solution.evaluation is not None:
        _refuse(path, check.refusals(file.problem, solution.architecture, solution.evaluation))
    certified = list(_certificate(folder, solution, file))
    _refuse(folder / CERTIFICATE_FILE, _disagreements(certified))
    kept += certified
    if solution.architecture is None:
        notes = [f"holds no design: {reason(solution, file.problem.limits)}", *notes]
    return Verification(status=solution.status, checked=tuple(pair.field for pair in kept), notes=tuple(notes))


def _certificate(folder: Path, solution: Solution, file: ProblemFile) -> Iterator[_Pair]:
    """Yield every field of a certificate beside the one made anew; what is not certified must have none."""
    path = folder / CERTIFICATE_FILE
    if solution.status is not Status.CERTIFIED:
        yield _Pair("certificate", path.exists(), False)
        return
    tolerance, gap = solution.gap_tolerance, solution.gap
    kept = tolerance is not None and gap is not None and gap <= tolerance
    yield _Pair("status", "certified", "certified" if kept else f"feasible, gap {gap} above {tolerance}")
    stored, found = read_json(path), certificate(solution, file)
    yield _Pair("certificate", sorted(stored), sorted(found))
    for key, value in found.items():
        yield _Pair(f"certificate.{key}", stored.get(key), value)


def _disagreements(pairs: Sequence[_Pair]) -> list[str]:
    return [f"{pair.field}: stored {pair.stored}, recomputed {pair.found}" for pair in pairs if not pair.agrees]


def _refuse(path: Path, faults: list[str] | tuple[str, ...]) -> None:
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputFileError(
            f"{faults[0]}{more}", where=str(path), hint="the file was changed, or made by another version"
        )


def _models(
    file: ProblemFile, folder: Path, given: Mapping[str, LatencyModel], load: Loader | None
) -> tuple[dict[str, LatencyModel], list[str]]:
    """Return the models that can be had, and what is said about the others."""
    models, notes = dict(given), []
    for reference in file.tables:
        path = folder / reference.path
        if reference.table in models:
            continue
        if not path.is_file():
            notes.append(f"{latency_name(reference.table)} was not recomputed: no table at {path}")
            continue
        if table_sha256(path) != reference.sha256:
            raise InputFileError(
                f"tables.{reference.table}.sha256: the table has changed since the design",
                where=str(path),
                hint="design anew, or put the old table back",
            )
        models[reference.table] = load_table(
            path, load=load, confidence=reference.confidence, allow_uncovered=reference.allow_uncovered
        )
    return models, notes


def _claims(data: Mapping[str, Any], solution: Solution) -> Iterator[_Pair]:
    """Yield what a status promises, and the fields that follow from others."""
    yield _Pair("objective", data["objective"], solution.objective, ANALYTIC)
    has_design = solution.status in (Status.CERTIFIED, Status.FEASIBLE)
    yield _Pair("architecture", solution.architecture is not None, has_design)
    yield _Pair("entropy", solution.evaluation is not None, solution.architecture is not None)
    if solution.status is Status.CERTIFIED:
        yield _Pair("bound", solution.bound is not None, True)
    if solution.bound is not None and solution.evaluation is not None:
        objective = solution.evaluation.objective
        reached = solution.bound >= objective - ANALYTIC * max(abs(objective), solution.evaluation.gap_scale)
        yield _Pair("bound", "at least the objective" if reached else "below the objective", "at least the objective")


def _values(solution: Solution, problem: Problem, models: Mapping[str, LatencyModel]) -> Iterator[_Pair]:
    """Yield every value of the design beside the recomputed one."""
    stored, architecture = solution.evaluation, solution.architecture
    if stored is None or architecture is None:
        return
    budgets_ms = {limit.table: limit.budget_ms for limit in problem.limits.latency}
    found = check.evaluate(
        architecture, models=models, limits=problem.limits, penalty=problem.penalty, objective=problem.objective
    )
    yield _Pair("objective", stored.objective, found.objective, ANALYTIC)
    yield _Pair("entropy.score", stored.score, found.score, ANALYTIC)
    yield _Pair("entropy.penalty", stored.penalty, found.penalty, ANALYTIC)
    yield from _scales(stored, found)
    yield _Pair("macs", stored.macs, found.macs)
    yield _Pair("params", stored.params, found.params)
    yield _Pair("memory_bytes", stored.memory_bytes, found.memory_bytes)
    yield _Pair("others", stored.others, found.others)
    yield from _worths(stored.worth, found.worth)
    yield from _latencies(stored, found, budgets_ms)


def _worths(stored: Worth | None, found: Worth | None) -> Iterator[_Pair]:
    yield _Pair("worth", stored is None, found is None)
    if stored is None or found is None:
        return
    yield _Pair("worth.unit", stored.unit, found.unit)
    yield _Pair("worth.leverage", stored.leverage, found.leverage, ANALYTIC)
    yield _Pair("worth.largest_leverage", stored.largest_leverage, found.largest_leverage)
    yield _Pair("worth.terms", [term.term for term in stored.terms], [term.term for term in found.terms])
    for old, new in zip(stored.terms, found.terms, strict=False):
        yield _Pair(f"worth.terms.{old.term}", old.value, new.value, ANALYTIC)


def _scales(stored: Evaluation, found: Evaluation) -> Iterator[_Pair]:
    yield _Pair("entropy.scales", len(stored.scales), len(found.scales))
    for index, (old, new) in enumerate(zip(stored.scales, found.scales, strict=False)):
        yield _Pair(f"entropy.scales[{index}]", old.entropy, new.entropy, ANALYTIC)
        yield _Pair(f"entropy.pixels[{index}]", old.pixels, new.pixels)
        yield _Pair(f"entropy.channels[{index}]", old.channels, new.channels)
        yield _Pair(f"rho[{index}]", old.rho, new.rho, ANALYTIC)


def _latencies(stored: Evaluation, found: Evaluation, budgets_ms: Mapping[str, float]) -> Iterator[_Pair]:
    known = {value.table: value for value in found.latency}
    tables = {value.table for value in stored.latency}
    yield _Pair("latency", sorted(set(budgets_ms) - tables), [])
    for value in stored.latency:
        place = f"latency.{value.table}"
        yield _Pair(f"{place}.budget_ms", value.budget_ms, budgets_ms.get(value.table), ANALYTIC)
        if value.table in known:
            yield _Pair(f"{place}.predicted_ms", value.predicted_ms, known[value.table].predicted_ms, FITTED)
            yield _Pair(f"{place}.upper_ms", value.upper_ms, known[value.table].upper_ms, FITTED)
