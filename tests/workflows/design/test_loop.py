"""The measured loop, on a device that follows a formula."""

from dataclasses import replace

import pytest

from deepmad_hw.errors import ConfigError, ForeignTableError, TooNoisyError
from deepmad_hw.latency.model import predict_ms
from deepmad_hw.problem.problem import LatencyLimit
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.space import StageSpace
from deepmad_hw.workflows.design.design import Question
from deepmad_hw.workflows.design.loop import measured_loop
from deepmad_hw.workflows.results.results import Row

FAST = Settings(method="fast")
MODEL_MS = 2.0


@pytest.fixture
def question(problem, load, table):
    widths = tuple(range(32, 129, 8))
    stage = StageSpace(stride=2, out=widths, bottleneck=tuple(range(8, 65, 4)), kernel=(3, 5), depth=(1, 8))
    fine = replace(problem, space=replace(problem.space, stages=(stage, stage)))
    limits = replace(fine.limits, macs=None, rho=0.8, latency=(LatencyLimit(table="board", budget_ms=8.0),))
    return Question(problem=replace(fine, limits=limits), models={"board": load(table)}, tables={"board": table})


def device(question, factor, *, drift=1.0, rows=None):
    def measure(architecture, name, path):
        took_ms = predict_ms(architecture, question.models["board"]) * factor * drift
        if rows is not None:
            rows.append(took_ms)
        return Row(name=name, measured_ms=took_ms, drift=drift)

    return measure


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.1, 1.3])
def test_the_budget_ends_up_kept_and_used_whatever_the_table_is_off_by(question, factor):
    found = measured_loop(question, point="8ms", settings=FAST, measure=device(question, factor))
    assert found.ended == "the budget is kept and used"
    assert 0.97 * 8.0 <= found.rows[0].measured_ms <= 8.0
    assert 1 <= len(found.rounds) <= 5
    assert found.rounds[0].asked_ms == 8.0
    assert found.question.problem.limits.latency[0].budget_ms == found.rounds[-1].asked_ms
    assert "measured loop: board" in found.solution.notes[-1]


def test_a_machine_that_runs_slower_today_is_judged_at_its_tables_speed(question):
    found = measured_loop(question, point="8ms", settings=FAST, measure=device(question, 1.0, drift=1.2))
    assert 0.97 * 8.0 <= found.rows[0].measured_ms / 1.2 <= 8.0
    assert found.rounds[-1].measured_ms == pytest.approx(found.rows[0].measured_ms / 1.2)


def test_a_loop_ends_where_another_limit_binds(question):
    limits = replace(question.problem.limits, macs=2_000_000)
    held = replace(question, problem=replace(question.problem, limits=limits))
    found = measured_loop(held, point="8ms", settings=FAST, measure=device(held, 1.0))
    assert found.ended == "latency does not bind"
    assert len(found.rounds) == 1


def test_a_device_that_is_always_too_slow_ends_after_five_rounds_with_the_nearest_design(question):
    times = iter([9.0, 8.5, 9.0, 8.8, 9.0])
    found = measured_loop(
        question, point="8ms", settings=FAST, measure=lambda *_: Row(name="8ms", measured_ms=next(times))
    )
    assert found.ended == "5 rounds have passed"
    assert [round_.number for round_ in found.rounds] == [1, 2, 3, 4, 5]
    assert found.rows[0].measured_ms == 8.5


def test_tables_of_other_machines_alone_cannot_be_measured(question):
    def measure(*_):
        raise ForeignTableError("the table was not taken here")

    with pytest.raises(ForeignTableError):
        measured_loop(question, point="8ms", settings=FAST, measure=measure)


@pytest.mark.parametrize("calm", [0, 1])
def test_a_machine_that_gets_too_noisy_ends_a_loop_and_leaves_what_it_has(question, calm):
    measure, rows = device(question, 1.3), []

    def disturbed(*asked):
        if len(rows) == calm:
            raise TooNoisyError("was disturbed", where="8ms")
        rows.append(measure(*asked))
        return rows[-1]

    found = measured_loop(question, point="8ms", settings=FAST, measure=disturbed)
    assert (found.too_noisy, found.ended) == (True, "8ms: was disturbed")
    assert [row.measured_ms for row in found.rows] == [row.measured_ms for row in rows]
    assert len(found.rounds) == calm
    assert found.solution.architecture is not None


def test_a_loop_without_a_budget_is_refused(question):
    limits = replace(question.problem.limits, latency=(), macs=10_000_000)
    free = replace(question, problem=replace(question.problem, limits=limits), models={}, tables={})
    with pytest.raises(ConfigError, match="--measure: nothing to measure against"):
        measured_loop(free, point="8ms", settings=FAST)
