"""The border to the solvers: what is asked reaches them, and what they answer is not believed without a point."""

import contextlib
import signal
from types import SimpleNamespace

import highspy
import pyomo.environ as pyo
import pytest
from small_problems import small_problem, with_limit

from deepmad_hw.optimize import solve as solving
from deepmad_hw.optimize import solvers
from deepmad_hw.optimize.certified import GAP_SHARE
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status

OPTIONS = ("time_limit", "mip_rel_gap", "threads", "output_flag", "solve_relaxation")


@pytest.fixture
def runs(monkeypatch):
    """Return what HiGHS is asked for, run by run."""
    taken = []

    class Watched(highspy.Highs):
        def run(self):
            options = {name: self.getOptionValue(name)[1] for name in OPTIONS}
            taken.append(SimpleNamespace(**options, left_s=options["time_limit"] - self.getRunTime()))
            return super().run()

    monkeypatch.setattr(highspy, "Highs", Watched)
    return taken


@pytest.mark.parametrize("feasible", [True, False])
def test_time_limit_gap_and_threads_reach_every_run_of_the_solver(feasible, runs, monkeypatch):
    problem, models = small_problem("basic", "plain", 1)
    problem = problem if feasible else with_limit(problem, "macs", 0.3 * problem.limits.macs)
    monkeypatch.setattr(solving.LocalSearch, "run", lambda *_, **__: None)
    solution = solve(problem, models, Settings(gap=0.02, time_limit_s=37.0, threads=2))
    assert solution.status is (Status.CERTIFIED if feasible else Status.INFEASIBLE)
    searches = [run for run in runs if not run.solve_relaxation]
    assert searches
    assert {run.threads for run in runs} == {2}
    assert all(0 < run.left_s <= 37.0 for run in runs)
    assert not any(run.output_flag for run in runs)
    if feasible:
        assert {run.mip_rel_gap for run in searches} == {GAP_SHARE * 0.02}


def test_no_time_is_no_search(runs, monkeypatch):
    problem, models = small_problem("basic", "plain", 1)
    monkeypatch.setattr(solving.LocalSearch, "run", lambda *_, **__: None)
    solution = solve(problem, models, Settings(time_limit_s=1e-9))
    assert solution.status is Status.FAILED
    assert all(run.left_s <= 1e-9 for run in runs)


@pytest.mark.parametrize("log", [True, False])
def test_the_solvers_own_words_go_to_a_file_when_asked_for_and_never_to_the_terminal(log, runs, capfd, tmp_path):
    file = tmp_path / "highs.log"
    model = pyo.ConcreteModel()
    model.x = pyo.Var(bounds=(0, 3), domain=pyo.Integers)
    model.rows = pyo.ConstraintList()
    model.rows.add(2 * model.x <= 5)
    model.most = pyo.Objective(expr=model.x, sense=pyo.maximize)
    outcome = solvers.HighsModel(model, log=file if log else None).run(relaxed=False)
    assert (outcome.optimal, model.x.value, outcome.bound) == (True, 2.0, 2.0)
    assert runs[0].output_flag is log
    assert capfd.readouterr().out == ""
    assert (file.is_file() and "HiGHS" in file.read_text(encoding="utf-8")) is log


@contextlib.contextmanager
def sigint(handler):
    """Answer Ctrl-C with a handler, however these tests were started, and find that it is the same afterwards."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_casadi_takes_for_itself_is_raised_again():
    model = pyo.ConcreteModel()
    model.x = pyo.Var(initialize=0.0, bounds=(-2, 2))
    model.limit = pyo.Constraint(expr=model.x <= 1)
    model.cost = pyo.Objective(expr=(model.x - 3) ** 2)
    model.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    solver = solvers.CasadiIpopt(model)
    ipopt = solver._solver

    class Swallows:
        """Goes on after an interruption, as casadi does."""

        stats = ipopt.stats

        def __call__(self, **given):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            return ipopt(**given)

    solver._solver = Swallows()
    with sigint(signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        solver.solve()
    with sigint(signal.SIG_IGN):  # as it is in what a shell or a job runner starts in the background
        assert solver.solve().converged
    solver._solver = ipopt
    assert solver.solve().converged
