"""A stored design is recomputed: every change of a field is found and named."""

import json
import math
from dataclasses import replace

import pytest

from deepmad_hw.errors import DeepmadError, InputFileError
from deepmad_hw.solution import Solution, Status, Tightest
from deepmad_hw.workflows.design import save_design
from deepmad_hw.workflows.verify import verify


@pytest.fixture
def folder(problem, solution, table, tmp_path):
    save_design(tmp_path / "out", solution, problem, tables={"board": table})
    return tmp_path / "out"


def change(folder, name, edit):
    path = folder / name
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_an_untouched_design_passes(folder, load):
    found = verify(folder, load=load)
    assert found.status is Status.CERTIFIED
    assert found.notes == ()
    assert {"objective", "bound", "gap", "macs", "rho[0]", "latency.board.upper_ms"} <= set(found.checked)


def leaves(data, place=()):
    """Yield the place of every value of JSON data."""
    if not isinstance(data, dict | list) or not data:
        yield place
        return
    for key in data if isinstance(data, dict) else range(len(data)):
        yield from leaves(data[key], (*place, key))


def changed(data, place, change):
    """Return JSON data with one value changed."""
    if not place:
        return change(data)
    copy = data.copy()
    copy[place[0]] = changed(data[place[0]], place[1:], change)
    return copy


def another(value):
    """Return another value of the same kind, as near as can be."""
    if value is None or isinstance(value, bool | list | dict):
        return 1 if not value else None
    if isinstance(value, str):
        return f"{value}x"
    return value + 1 if isinstance(value, int) else math.nextafter(value, math.inf)


@pytest.mark.parametrize("change", [another, lambda _: None, lambda value: [value]], ids=["next", "null", "wrapped"])
def test_every_single_change_of_a_certificate_is_refused(folder, load, change):
    path = folder / "certificate.json"
    data = json.loads(path.read_text())
    places = [place for place in leaves(data) if changed(data, place, change) != data]
    assert len(places) > 40
    assert [place for place in places if passes(path, changed(data, place, change), load)] == []


def test_a_certificate_with_a_key_less_or_more_is_refused(folder, load):
    path = folder / "certificate.json"
    data = json.loads(path.read_text())
    shorter = [{name: value for name, value in data.items() if name != key} for key in data]
    assert [found for found in (*shorter, {**data, "more": 1}) if passes(path, found, load)] == []


@pytest.mark.parametrize("name", ["design.json", "problem.json"])
def test_every_single_change_beside_a_certificate_is_refused(folder, load, name):
    path = folder / name
    data = json.loads(path.read_text())
    hints = {"method", "timings", "notes", "prices", "continuous", "tightest"}  # nothing certified rests on them
    places = [place for place in leaves(data) if place[0] not in hints and place[-1] != "path"]
    assert len(places) > 20
    assert [place for place in places if passes(path, changed(data, place, another), load)] == []


def passes(path, data, load):
    path.write_text(json.dumps(data))
    try:
        verify(path.parent, load=load)
    except DeepmadError:
        return False
    return True


def test_a_certified_design_without_its_certificate_is_refused(folder, load):
    (folder / "certificate.json").unlink()
    with pytest.raises(InputFileError, match=r"certificate\.json"):
        verify(folder, load=load)


def test_a_gap_above_what_was_asked_is_not_certified(folder, load):
    change(folder, "design.json", lambda d: d.update(gap_tolerance=0.001))
    with pytest.raises(InputFileError, match=r"above 0\.001"):
        verify(folder, load=load)


def test_a_design_that_is_not_certified_keeps_no_certificate_of_an_earlier_one(folder, load, problem, solution, table):
    save_design(folder, replace(solution, status=Status.FEASIBLE, bound=None), problem, tables={"board": table})
    assert not (folder / "certificate.json").exists()
    assert verify(folder, load=load).status is Status.FEASIBLE


def test_the_certificate_is_the_same_for_the_same_answer(problem, solution, table, tmp_path):
    for name in ("a", "b"):
        save_design(tmp_path / name, replace(solution, timings_ms=(("x", 1.0),)), problem, tables={"board": table})
    assert (tmp_path / "a/certificate.json").read_bytes() == (tmp_path / "b/certificate.json").read_bytes()


@pytest.mark.parametrize(
    ("field", "edit"),
    [
        ("objective", lambda d: d.update(objective=d["objective"] * 1.001)),
        ("gap", lambda d: d.update(gap=0.0)),
        ("bound", lambda d: d.update(bound=d["objective"] * 0.99, gap=-0.01)),
        ("bound", lambda d: d.update(bound=None, gap=None)),
        ("macs", lambda d: d.update(macs=d["macs"] - 1)),
        ("params", lambda d: d.update(params=d["params"] + 1)),
        ("memory_bytes", lambda d: d.update(memory_bytes=1)),
        ("rho[1]", lambda d: d["rho"].__setitem__(1, 0.1)),
        ("entropy.penalty", lambda d: d["entropy"].update(penalty=1.0)),
        ("entropy.scales[0]", lambda d: d["entropy"]["scales"].__setitem__(0, 1.0)),
        ("entropy.pixels[0]", lambda d: d["entropy"]["pixels"].__setitem__(0, 1)),
        ("latency.board.budget_ms", lambda d: d["latency"][0].update(budget_ms=60.0)),
        ("latency.board.predicted_ms", lambda d: d["latency"][0].update(predicted_ms=0.5)),
        ("latency.board.upper_ms", lambda d: d["latency"][0].update(upper_ms=None)),
        ("latency", lambda d: d.update(latency=[])),
        ("problem", lambda d: d.update(problem="another")),
        ("grid", lambda d: d["grid"]["stem"].append(999)),
        ("architecture", lambda d: d.update(status="local")),
        ("objective", lambda d: d["architecture"]["stages"][1].update(depth=3)),
    ],
)
def test_a_changed_field_is_named(folder, load, field, edit):
    change(folder, "design.json", edit)
    with pytest.raises(InputFileError) as caught:
        verify(folder, load=load)
    line = str(caught.value)
    assert "\n" not in line
    assert f"design.json: {field}: stored " in line


def test_a_design_that_breaks_a_limit_of_its_problem_is_named(folder, load):
    change(folder, "problem.json", lambda d: d["limits"].update(macs=1000))
    with pytest.raises(InputFileError, match=r"design\.json: macs: \d+ > 1000"):
        verify(folder, load=load)


def test_a_design_outside_its_space_is_named(folder, load):
    change(folder, "problem.json", lambda d: d["space"]["stages"][0].update(depth=[2, 3]))
    change(folder, "design.json", lambda d: d["grid"]["stages"][0].update(depth=[2, 3]))
    with pytest.raises(InputFileError, match=r"stage 1 .* is not on the grid"):
        verify(folder, load=load)


def test_a_table_that_changed_is_named(folder, load, table):
    table.write_text("other numbers\n")
    with pytest.raises(InputFileError, match=r"board\.csv: tables\.board\.sha256: the table has changed"):
        verify(folder, load=load)


def test_a_table_that_is_gone_is_told_and_the_rest_is_checked(folder, load, table):
    table.unlink()
    found = verify(folder, load=load)
    assert len(found.notes) == 1
    assert "latency:board was not recomputed" in found.notes[0]
    assert "macs" in found.checked
    assert "latency.board.predicted_ms" not in found.checked


def test_a_model_at_hand_stands_in_for_the_file(folder, load, table):
    model = load(table)
    table.unlink()
    assert verify(folder, models={"board": model}).notes == ()


def test_an_answer_without_a_design_is_checked_for_what_it_claims(problem, tmp_path, load):
    nothing = Solution(
        problem="small",
        method="certified",
        status=Status.INFEASIBLE,
        stopped="infeasible",
        tightest=(Tightest(limit="macs", value=1.0, unit="MACs"),),
    )
    save_design(tmp_path, nothing, problem)
    assert verify(tmp_path, load=load).status is Status.INFEASIBLE
    save_design(tmp_path, replace(nothing, status=Status.CERTIFIED), problem)
    with pytest.raises(InputFileError, match="architecture: stored False, recomputed True"):
        verify(tmp_path, load=load)


def test_a_missing_file_is_named(tmp_path, load):
    with pytest.raises(InputFileError, match=r"design\.json: cannot be read: No such file"):
        verify(tmp_path, load=load)


def test_verifying_needs_no_solver(folder, load, monkeypatch):
    for name in ("pyomo", "highspy", "casadi"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert verify(folder, load=load).status is Status.CERTIFIED
