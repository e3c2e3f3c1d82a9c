"""The certificate of a design: what was asked, what was found, what was proved, and by what, in one JSON. Layer 2.

It is a function of the stored problem and design, so that checking it means making it again. Its hashes find change,
not forgery, and its bound is the solver's claim.
"""

from __future__ import annotations

import hashlib

from deepmad_hw.files.jsonfile import Json, dumps
from deepmad_hw.formats import serde
from deepmad_hw.formats.serde import ProblemFile
from deepmad_hw.problem.solution import Solution

SCHEMA = 1
CLAIM = (
    "No network of the grid that keeps every limit has an objective above the bound. The design, its values and "
    "objective <= bound are recomputed without a solver by 'deepmad-hw verify'; the bound itself is the claim of the "
    "solver HiGHS in floating point. The hashes find change, not forgery."
)
# What the checker grants a design: nothing. Limits hold exactly; the bound may stand below the objective by rounding.
TOLERANCES = {"limits": 0.0, "integrality": 0.0, "bound_relative": 1e-9}


def certificate(solution: Solution, file: ProblemFile) -> Json:
    """Return the certificate of a design.

    Args:
        solution: with status ``certified``.
        file: the problem it answers, with the hashes of its tables.
    """
    problem = serde.problem_to_json(ProblemFile(problem=file.problem))
    design = serde.solution_to_json(solution, space=file.problem.space)
    values, objective = serde.evaluation_to_json(solution.evaluation), file.problem.objective
    data = {
        "schema": SCHEMA,
        "claim": CLAIM,
        "problem": file.problem.name,
        "problem_sha256": digest(problem),
        "design_sha256": digest({key: value for key, value in design.items() if key != "timings"}),
        "tables": [
            {
                "table": table.table,
                "sha256": table.sha256,
                "confidence": table.confidence,
                "allow_uncovered": table.allow_uncovered,
            }
            for table in file.tables
        ],
        **({} if objective is None else {"objective_sha256": digest(serde.objective_to_json(objective))}),
        "grid": design["grid"],
        "architecture": design["architecture"],
        **values,
        "objective": solution.objective,
        "bound": solution.bound,
        "gap": solution.gap,
        "gap_tolerance": solution.gap_tolerance,
        "tolerances": TOLERANCES,
        "solver": "HiGHS",
        "stopped": solution.stopped,
        "seed": solution.seed,
        "versions": dict(solution.versions),
    }
    return {**data, "sha256": digest(data)}


def digest(data: Json) -> str:
    """Return the SHA-256 of JSON data in its canonical text.

    Args:
        data: the data.
    """
    return hashlib.sha256(dumps(data).encode()).hexdigest()
