"""What lies in the folders of results, and why one holds no network. Layer 4."""

from __future__ import annotations

from pathlib import Path

from deepmad_hw.errors import InputFileError
from deepmad_hw.files.jsonfile import Json, read_json
from deepmad_hw.formats import serde
from deepmad_hw.problem import limits as quantities
from deepmad_hw.problem.problem import Limits
from deepmad_hw.problem.solution import Solution, Status

DESIGN_FILE, PROBLEM_FILE, SWEEP_FILE = "design.json", "problem.json", "sweep.json"
QUICKSTART_DESIGN = "design"
WROTE = "give the folder that `design --out` wrote"


def require_design_file(folder: Path) -> Path:
    """Return the file of a folder that holds a design, or the answer that there is none.

    Args:
        folder: of a design.

    Raises:
        InputFileError: it is a sweep's, the first run's, or nobody's.
    """
    if (folder / DESIGN_FILE).is_file():
        return folder / DESIGN_FILE
    if (folder / SWEEP_FILE).is_file():
        points = sorted(path.parent for path in folder.glob(f"*/*/{DESIGN_FILE}"))
        hint = f"give the folder of one point, such as {points[0]}" if points else "give the folder of one point"
        raise InputFileError("holds a sweep, not one design", where=str(folder), hint=hint)
    if (folder / QUICKSTART_DESIGN / DESIGN_FILE).is_file():
        raise InputFileError("holds no design itself", where=str(folder), hint=f"give {folder / QUICKSTART_DESIGN}")
    raise InputFileError(f"holds no design: there is no {DESIGN_FILE} in it", where=str(folder), hint=WROTE)


def require_architecture(path: Path) -> Json:
    """Return the JSON data of an architecture: the file's own, or that of its design.

    Args:
        path: JSON of an architecture, or a ``design.json``.

    Raises:
        InputFileError: it cannot be read, or is an answer without a design.
    """
    data = read_json(path)
    if "architecture" not in data:
        return data
    if data["architecture"] is None:
        solution = serde.solution_from_json(data, where=str(path))
        raise InputFileError(f"holds no design: {reason(solution, _limits(path.parent))}", where=str(_named(path)))
    found: Json = data["architecture"]
    return found


def reason(solution: Solution, limits: Limits | None) -> str:
    """Return why an answer has no design.

    Args:
        solution: without an architecture.
        limits: that were asked for, or None where nobody kept them.
    """
    if solution.status is Status.INFEASIBLE:
        return f"its limits cannot be met ({needs(solution, limits or Limits())})"
    if solution.continuous is not None:
        return "its widths are real numbers (--method continuous) that no network has; solve with another method"
    return f"none was found ({solution.stopped}); solve again with a longer --time-limit"


def needs(solution: Solution, limits: Limits) -> str:
    """Return in one line what an infeasible problem would need.

    Args:
        solution: with status ``infeasible``.
        limits: that were asked for.
    """
    asked = limits.named()
    short = [each for each in solution.minimum_values if each.value > asked.get(each.limit, 0.0)]
    found = [f"{each.limit} needs at least {quantities.formatted(each.limit, each.value)}" for each in short]
    return "; ".join(found) or solution.stopped


def _limits(folder: Path) -> Limits | None:
    path = folder / PROBLEM_FILE
    return serde.read_problem(path).problem.limits if path.is_file() else None


def _named(path: Path) -> Path:
    """Return what a person calls a design's file: its folder."""
    return path.parent if path.name == DESIGN_FILE else path
