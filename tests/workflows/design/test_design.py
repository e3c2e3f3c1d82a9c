"""Tables become limits, and a design is stored so that its folder is enough."""

from dataclasses import replace
from pathlib import Path

import near_resnet18
import pytest

from deepmad_hw.errors import ConfigError, InputFileError, StorageError
from deepmad_hw.formats import serde
from deepmad_hw.formats.serde_table import table_sha256
from deepmad_hw.latency.model import predict_ms
from deepmad_hw.network.reference import get
from deepmad_hw.problem.problem import LatencyLimit
from deepmad_hw.problem.solution import Status
from deepmad_hw.workflows.design.design import Question, design, save_design, with_tables
from deepmad_hw.workflows.results.results_folder import load_results
from deepmad_hw.workflows.runfile.config import LatencyRequest, Run, load_run, parse_latency
from deepmad_hw.workflows.sweep.sweep import sweep
from deepmad_hw.workflows.sweep.sweep_plan import Asked, Plan


@pytest.fixture
def run(problem):
    return Run(problem=replace(problem, limits=replace(problem.limits, latency=())))


def test_a_budget_in_milliseconds_is_taken_as_it_is(run, table, load):
    question = with_tables(run.with_latency([LatencyRequest(path=table, budget_ms=25.0)]), load=load)
    assert question.problem.limits.latency == (LatencyLimit(table="board", budget_ms=25.0),)
    assert question.problem.limits.macs == run.problem.limits.macs
    assert question.tables == {"board": table}
    assert question.models["board"].device == "board"


def test_a_throughput_counts_the_images_of_a_batch(run, table, load):
    question = with_tables(run.with_latency([LatencyRequest(path=table, rate_per_s=400.0)]), load=load)
    assert question.problem.limits.latency[0].budget_ms == 1000 * 4 / 400


@pytest.mark.parametrize("text", ["30fps", "30/s", "30 fps"])
def test_frames_a_second_are_a_throughput(run, table, load, text):
    request = parse_latency(str(table), text, where="--latency")
    question = with_tables(run.with_latency([request]), load=load)
    assert question.problem.limits.latency[0].budget_ms == pytest.approx(4 * 1000 / 30)  # the table is of batch 4


def test_like_a_network_is_that_networks_upper_latency(run, table, load):
    question = with_tables(run.with_latency([LatencyRequest(path=table, like=Path("resnet18"))]), load=load)
    expected_ms = predict_ms(get("resnet18"), load(table)) * 1.1
    assert question.problem.limits.latency[0].budget_ms == pytest.approx(expected_ms, rel=1e-12)


def test_a_missing_table_is_a_bad_file(run, tmp_path, load):
    request = LatencyRequest(path=tmp_path / "none.csv", budget_ms=1.0)
    with pytest.raises(InputFileError, match=r"none\.csv: no such latency table; make it with: deepmad-hw profile"):
        with_tables(run.with_latency([request]), load=load)


def test_two_tables_of_one_name_are_refused(run, table, load, tmp_path):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "board.csv"
    twin.touch()
    requests = [LatencyRequest(path=path, budget_ms=5.0) for path in (table, twin)]
    with pytest.raises(ConfigError, match="two tables are called 'board'"):
        with_tables(run.with_latency(requests), load=load)


def test_two_budgets_on_one_table_are_refused(run, table, load):
    requests = [LatencyRequest(path=table, budget_ms=budget_ms) for budget_ms in (5.0, 6.0)]
    with pytest.raises(ConfigError, match="two budgets on one table"):
        with_tables(run.with_latency(requests), load=load)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "best"}, "method: unknown method 'best'"),
        ({"gap": 0.0}, "gap: expected a gap between 0 and 100 %"),
        ({"time_limit_s": 0.0}, "time_limit: expected a time above 0"),
        ({}, "latency:board: no latency table is called 'board'"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_before_solving(problem, options, said):
    with pytest.raises(ConfigError) as caught:
        design(problem, **options)
    assert str(caught.value).startswith(said)


def test_a_small_problem_is_designed(problem, load, table):
    found = design(problem, {"board": load(table)}, method="fast")
    assert found.status is Status.FEASIBLE
    assert problem.space.violations(found.architecture) == ()
    assert found.evaluation.latency[0].upper_ms <= 50.0


def test_a_stored_design_can_be_read_back_and_asked_again(problem, solution, table, tmp_path):
    folder = tmp_path / "results" / "small"
    save_design(folder, solution, problem, tables={"board": table})
    assert serde.read_solution(folder / "design.json") == solution
    stored = serde.read_problem(folder / "problem.json")
    assert stored.problem == problem
    assert stored.tables == (serde.TableReference(table="board", path="../../board.csv", sha256=table_sha256(table)),)
    again = load_run(folder / "problem.json")
    assert (folder / "problem.json").parent.joinpath(again.latency[0].path).resolve() == table.resolve()


def test_equal_answers_are_stored_byte_for_byte_apart_from_timings(problem, solution, table, tmp_path):
    later = replace(solution, timings_ms=(("solve", 99.0),))
    for name, answer in (("a", solution), ("b", solution), ("c", later)):
        save_design(tmp_path / name, answer, problem, tables={"board": table})
    texts = {name: (tmp_path / name / "design.json").read_bytes() for name in "abc"}
    assert texts["a"] == texts["b"]
    assert texts["a"].replace(b"12.0", b"99.0") == texts["c"]
    assert (tmp_path / "a" / "problem.json").read_bytes() == (tmp_path / "c" / "problem.json").read_bytes()


def test_a_folder_that_cannot_be_made_is_a_storage_error(problem, solution, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="the folder cannot be made"):
        save_design(tmp_path / "file" / "out", solution, problem)


@pytest.mark.parametrize(("objective", "usual"), [(near_resnet18.OBJECTIVE, 0.05), (None, 0.005)])
def test_a_gap_that_nobody_gave_is_the_objectives_usual_one_everywhere(objective, usual, tmp_path):
    problem = near_resnet18.problem(objective)
    alone = design(problem)
    assert (alone.status, alone.gap_tolerance) == (Status.CERTIFIED, usual)
    plan = Plan(name="near", lines=((Asked(name="one", question=Question(problem=problem)),),))
    assert plan.settings.gap is None
    (point,) = sweep(plan, tmp_path).points
    assert point.solution.gap_tolerance == usual
    (stored,) = load_results(tmp_path).points
    assert stored.solution.gap_tolerance == usual
