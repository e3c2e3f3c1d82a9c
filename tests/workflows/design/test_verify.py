"""A stored design is recomputed: every change of a field is found and named."""

import csv
import io
import json
import math
import random
from contextlib import suppress
from dataclasses import replace

import pytest

from deepmad_hw.errors import DeepmadError, InputFileError
from deepmad_hw.formats.serde_table import sidecar_path, write_table
from deepmad_hw.latency.measurement import Environment, LayerMeasurement, NetworkMeasurement
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network.expand import expand
from deepmad_hw.problem.solution import ContinuousDesign, ContinuousStage, MinimumValue, Price, Solution, Status
from deepmad_hw.workflows.design.design import save_design
from deepmad_hw.workflows.design.verify import verify


@pytest.fixture
def table(architecture, tmp_path):
    """Write a table with its sidecar."""
    environment = Environment(
        device="board",
        machine="none",
        cores=1,
        features=("asimd",),
        governor="unknown",
        runtime="replay",
        runtime_version="1",
    )
    specs = sorted({node.spec for node in expand(architecture)})
    rows = tuple(LayerMeasurement(spec=spec, samples_us=(5.0 + i, 5.5 + i)) for i, spec in enumerate(specs))
    network = CalibrationNetwork(
        architecture=architecture, measurement=NetworkMeasurement(name="network000", samples_us=(900.0, 901.5))
    )
    path = tmp_path / "board.csv"
    write_table(
        path,
        LatencyTable(
            name="board",
            environment=environment,
            rows=rows,
            calibration=(network,),
            measured_on="2026-11-23",
            canary_us=4452.5,
            notes=("made up",),
        ),
    )
    return path


@pytest.fixture
def answer(solution):
    """Return an answer with something in each of its fields."""
    continuous = ContinuousDesign(
        objective=300.5,
        stem=20.5,
        stages=(ContinuousStage(out=40.5, bottleneck=9.5, kernel=3.5, stride=2, depth=1.5),) * 2,
        iterations=12,
        solve_ms=9.5,
        surrogate_error=(("board", 0.01, 0.05),),
    )
    prices = (Price(limit="macs", binding=True, objective_per_unit=2.5, unit="M"),)
    return replace(
        solution, continuous=continuous, prices=prices, notes=("noted",), versions=(("highspy", "1.15.1"),), seed=3
    )


@pytest.fixture
def folder(problem, answer, table, tmp_path):
    save_design(tmp_path / "out", answer, problem, tables={"board": table})
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


# --- one changed field ----------------------------------------------------------------------------------------------


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


CHANGES = (
    another,
    lambda value: value[:-1],
    lambda _: None,
    lambda value: [value],
    lambda value: {"is": value},
    lambda value: not value,
    str,
    lambda value: -value,
    lambda value: value * 2,
    lambda _: "",
)
FREE = ("timings", "path")  # how long it took, and where a table lies, are nobody's claim


def changed_json(text, number, chance):
    data = json.loads(text)
    places = [place for place in leaves(data) if not set(FREE) & set(place)]
    found = data
    while found == data:
        with suppress(TypeError):  # a change that this value cannot have
            found = changed(data, places[number % len(places)], chance.choice(CHANGES))
    return json.dumps(found)


def changed_csv(text, number, chance):
    rows = list(csv.reader(io.StringIO(text)))
    places = [(row, column) for row in range(len(rows)) for column in range(len(rows[0]))]
    row, column = places[number % len(places)]
    old = rows[row][column]
    rows[row][column] = chance.choice([each for each in (f"{old}1", old[:-1], "", "0", "1", "nan") if each != old])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


@pytest.mark.promise("T11", 1000)
def test_every_change_of_one_field_is_refused(tries, folder, load, table):
    """Each try changes one field of each file; a tenth comes by every field but some of the table's cells."""
    files = [folder / name for name in ("certificate.json", "design.json", "problem.json")]
    files += [table, sidecar_path(table)]
    passed = []
    for number in tries:
        for path in files:
            old = path.read_text()
            change = changed_csv if path.suffix == ".csv" else changed_json
            new = change(old, number, random.Random(f"{path.name} {number}"))
            path.write_text(new)
            if passes(folder, load):
                passed.append((path.name, number, new))
            path.write_text(old)
    assert passed == []
    assert verify(folder, load=load).status is Status.CERTIFIED
    assert all(len(list(leaves(json.loads(path.read_text())))) <= 110 for path in files if path.suffix == ".json")


def test_a_certificate_with_a_key_less_or_more_is_refused(folder, load):
    path = folder / "certificate.json"
    data = json.loads(path.read_text())
    for key in (*data, "more"):
        path.write_text(json.dumps({name: value for name, value in {"more": 1, **data}.items() if name != key}))
        assert passes(folder, load) is (key == "more")


def passes(folder, load):
    """Return whether a folder verifies, or is refused in more than one line."""
    try:
        verify(folder, load=load)
    except DeepmadError as error:
        return len(str(error).splitlines()) != 1
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
        minimum_values=(MinimumValue(limit="macs", value=1.0, unit="MACs"),),
    )
    save_design(tmp_path, nothing, problem)
    assert verify(tmp_path, load=load).status is Status.INFEASIBLE
    save_design(tmp_path, replace(nothing, status=Status.CERTIFIED), problem)
    with pytest.raises(InputFileError, match="architecture: stored False, recomputed True"):
        verify(tmp_path, load=load)


def test_a_missing_file_is_named(tmp_path, load):
    with pytest.raises(InputFileError, match=r"holds no design: there is no design\.json in it"):
        verify(tmp_path, load=load)


def test_verifying_needs_no_solver(folder, load, monkeypatch):
    for name in ("pyomo", "highspy", "casadi"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert verify(folder, load=load).status is Status.CERTIFIED
