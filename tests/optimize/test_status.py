"""Whatever the solver says and whenever it is cut off, only the checker makes a design certified."""

import functools
import math

import highspy
import numpy as np
import pytest
from lying_highs import POINTS, STATUSES, lying_highs
from small_problems import (
    LONG_S,
    ROUNDING,
    all_designs,
    best_by_brute_force,
    feasible_problem,
    infeasible_problem,
    medium_problem,
    with_limit,
)

from deepmad_hw import cli
from deepmad_hw.formats import serde
from deepmad_hw.formats.serde import ProblemFile, TableReference
from deepmad_hw.optimize import certified
from deepmad_hw.optimize import solve as solving
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.optimize.local_search import Found
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import Limits, Problem
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status
from deepmad_hw.problem.space import Space, StageSpace

GAP = 0.005
CLAIMS = {"none": math.inf, "no number": math.nan, "below": 0.5, "tight": 1.0, "close": 1.001, "far": 2.0}
STOPPED = highspy.HighsModelStatus
BELIEVED = {  # after errors a bound means nothing
    STOPPED.kOptimal,
    STOPPED.kTimeLimit,
    STOPPED.kIterationLimit,
    STOPPED.kSolutionLimit,
    STOPPED.kMemoryLimit,
    STOPPED.kInterrupt,
    STOPPED.kObjectiveBound,
    STOPPED.kObjectiveTarget,
}


@pytest.fixture(scope="module")
def asked():
    """Return a tiny problem, its designs by falling objective, and the best objective within the limits."""
    stage = StageSpace(stride=2, out=(16, 24), bottleneck=(8, 16), kernel=(3,), depth=(1, 4))
    space = Space(
        family="basic", resolution=(32, 32), stem=(8,), stages=(stage,), bottleneck_ratio=(0.1, 4.0), classes=0
    )
    problem = Problem(name="tiny", space=space, limits=Limits(macs=900_000, rho=0.09))
    tables = coefficients(problem, {})
    designs = all_designs(tables)
    values = Evaluator(tables).evaluate(designs)
    kept = designs[values.excess <= 0]
    assert 5 < len(kept) < len(designs)
    assert not Evaluator(tables).evaluate(_deepest(tables, kept)).excess.min() <= 0
    order = np.argsort(-values.objective[values.excess <= 0])
    return problem, kept[order], best_by_brute_force(problem, {})


def _deepest(tables, designs):
    deepest = designs.copy()
    deepest[:, 3::3] = [grid.depth[1] for grid in tables.stages]
    return deepest


@pytest.mark.promise("T10")
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.name)
def test_nothing_is_certified_without_a_checked_design_and_a_close_bound_above_it(status, point, asked, monkeypatch):
    problem, kept, best = asked
    monkeypatch.setattr(solving, "solve_continuous", lambda _: None)
    monkeypatch.setattr(certified, "MAX_SOLVES", 3)
    good = point in ("good", "wrong objective")
    cases = [(claim, None) for claim in (CLAIMS if point == "good" else ["tight"])] + [("tight", kept[1])]
    for claim, start in cases:
        monkeypatch.setattr(solving.LocalSearch, "run", lambda *_, start=start, **__: _found(start))
        monkeypatch.setattr(highspy, "Highs", lying_highs(status, point, CLAIMS[claim] * best))
        solution = solve(problem, {}, Settings(gap=GAP, time_limit_s=LONG_S))
        _assert_honest(solution, problem, {})
        _assert_reachable(solution, problem, {})
        assert solution.status is not Status.INFEASIBLE or status is STOPPED.kInfeasible
        if good and start is None and status is not STOPPED.kInfeasible:
            proved = status in BELIEVED and claim in ("tight", "close")
            assert solution.status is (Status.CERTIFIED if proved else Status.FEASIBLE), claim
            assert solution.objective == pytest.approx(best, rel=1e-9)
        if not good and start is None:
            assert solution.status in (Status.FAILED, Status.INFEASIBLE)


def _found(start):
    return None if start is None else Found(design=start, objective=0.0)


def _assert_honest(solution, problem, models):
    """Hold an answer against plain numbers."""
    if solution.architecture is not None:
        truth = check.evaluate_for(problem, solution.architecture, models)
        assert solution.evaluation == truth
        assert check.refusals(problem, solution.architecture, truth) == ()
        assert solution.bound is None or truth.objective <= solution.bound < math.inf
    assert (solution.architecture is None) == (solution.status in (Status.FAILED, Status.INFEASIBLE))
    if solution.status is Status.CERTIFIED:
        assert solution.bound <= solution.objective * (1 + GAP)


def _assert_reachable(solution, problem, models):
    """Hold the values that limits are said to need against all designs."""
    for minimum in solution.minimum_values:
        value = minimum.value * (1 + ROUNDING)  # a factor on all limits is rounded
        assert best_by_brute_force(with_limit(problem, minimum.limit, value), models) is not None


# --- a search cut off by the clock ----------------------------------------------------------------------------------

TIME_LIMITS_S = (0.01, 0.1, 1.0)
CODES = {Status.CERTIFIED: cli.EXIT_OK, Status.INFEASIBLE: cli.EXIT_INFEASIBLE}


@functools.cache
def question(index):
    """Return the n-th problem, its models, and the objectives that its designs have: best one, or None if unknown."""
    if index % 5 in (1, 3):
        return *medium_problem(index), None
    problem, models = infeasible_problem(index) if index % 5 == 2 else feasible_problem(index, "three tables")
    return problem, models, (best_by_brute_force(problem, models),)


@pytest.mark.promise("T10", 150)
def test_a_time_limit_takes_the_proof_and_not_the_truth(tries, tmp_path, monkeypatch, capsys):
    """Whole commands: the answer, its exit code and what `verify` says of it go together; each third has no time."""
    answers = {}
    for number in tries:
        index, limit_s = number // len(TIME_LIMITS_S), TIME_LIMITS_S[number % len(TIME_LIMITS_S)]
        problem, models, best = question(index)
        monkeypatch.setattr(
            "deepmad_hw.workflows.tables.tables.load_model", lambda path, models=models, **_: models[path.stem]
        )
        path = _written(tmp_path / str(index), problem)
        code = cli.main(["design", str(path), "--time-limit", f"{limit_s}s", "--out", str(path.parent)])
        solution = serde.read_solution(path.parent / "design.json")
        assert code == CODES.get(solution.status, cli.EXIT_NOT_CERTIFIED)
        assert cli.main(["verify", str(path.parent)]) == cli.EXIT_OK
        _assert_honest(solution, problem, models)
        _assert_true(solution, problem, models, best)
        answers[number] = solution
    assert capsys.readouterr().err.count("Traceback") == 0
    for problem in {number // len(TIME_LIMITS_S) for number in answers}:
        same = [solution for number, solution in answers.items() if number // len(TIME_LIMITS_S) == problem]
        designs = [solution.objective for solution in same if solution.architecture is not None]
        bounds = [solution.bound for solution in same if solution.bound is not None]
        assert max(designs, default=-math.inf) <= min(bounds, default=math.inf) * (1 + ROUNDING)
    hurried = [solution for number, solution in answers.items() if number % len(TIME_LIMITS_S) == 0]
    assert any(solution.status in (Status.FEASIBLE, Status.FAILED) for solution in hurried), "no search was cut off"


def _written(folder, problem):
    """Write a problem with a file for each of its tables, and return its path."""
    folder.mkdir(exist_ok=True)
    names = [limit.table for limit in problem.limits.latency]
    for name in names:
        (folder / f"{name}.csv").touch()
    tables = tuple(TableReference(table=name, path=f"{name}.csv", sha256="0" * 64) for name in names)
    serde.write_problem(folder / "problem.json", ProblemFile(problem=problem, tables=tables))
    return folder / "problem.json"


def _assert_true(solution, problem, models, known):
    """Hold an answer against brute force, where that was possible."""
    if known is None:
        assert solution.status is not Status.INFEASIBLE
        return
    (best,) = known
    if solution.status is Status.INFEASIBLE and not any("was not found" in note for note in solution.notes):
        _assert_reachable(solution, problem, models)
    assert best is None or solution.status is not Status.INFEASIBLE
    assert best is not None or solution.status in (Status.INFEASIBLE, Status.FAILED)
    if best is not None and solution.bound is not None:
        assert best <= solution.bound * (1 + ROUNDING)
