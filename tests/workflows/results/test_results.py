"""What a sweep leaves behind: read back as it was written, refused with its place when damaged."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import near_resnet18
import pytest

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.formats import serde
from deepmad_hw.latency.measurement import NetworkMeasurement
from deepmad_hw.problem import check
from deepmad_hw.workflows.bench.bench import BenchRow
from deepmad_hw.workflows.bench.rows import row_of
from deepmad_hw.workflows.design.design import save_design
from deepmad_hw.workflows.results.results import (
    Reference,
    Round,
    Row,
    read_results,
    results_from_json,
    results_to_json,
    write_results,
)
from deepmad_hw.workflows.results.results_folder import described, load_results, write_measured

SWEEP = Path(__file__).parents[2] / "data" / "results" / "latency"


@pytest.fixture
def results():
    return read_results(SWEEP / "sweep.json")


def test_what_is_written_is_read_back(results, tmp_path):
    turn = Round(point="10ms", number=1, table="t", asked_ms=10.0, predicted_ms=9.0, measured_ms=9.5, objective=19000.0)
    full = replace(results, rounds=(turn,), notes=("a note",))
    write_results(tmp_path, full)
    assert read_results(tmp_path / "sweep.json") == full
    assert results_from_json(results_to_json(full)) == full


def test_points_follow_the_contract_of_design(results):
    data = json.loads((SWEEP / "sweep.json").read_text())
    assert data["schema"] == 1
    for point, design in zip(results.points, data["points"], strict=True):
        assert serde.solution_from_json(design) == point.solution
        assert design["grid"]["stem"] == [16, 24, 32, 48, 64]


def test_a_bench_may_say_more_than_a_reader_knows(results):
    data = results_to_json(results)
    data["measured"][0]["energy_mj"] = 3.0
    assert results_from_json(data) == results


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop("plan"), "plan: missing"),
        (lambda data: data.update(plam=[]), "plam: unknown key; did you mean 'plan'?"),
        (lambda data: data.update(schema=2), "schema: 2 is too new"),
        (lambda data: data["plan"].pop(), "plan: expected one entry per point, 8, got 7"),
        (lambda data: (data["plan"][1].update(name="10ms"), data.update(measured=[])), "two points of one name"),
        (lambda data: data["measured"][0].update(point="11ms"), "no point is called '11ms'"),
        (lambda data: data["measured"][0].update(p99_ms=-1.0), "measured[0].p99_ms: expected a number above 0"),
        (lambda data: data["comparison"][0].update(top1_source=None), "an accuracy needs its source"),
        (lambda data: data["points"][2].pop("macs"), "points[2]: macs: missing"),
        (lambda data: data["tables"][0].update(rows="many"), "tables[0].rows: expected a whole number"),
        (lambda data: data.update(rounds=[{"point": "10ms"}]), "rounds[0].number: missing"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_the_place(results, change, said):
    data = results_to_json(results)
    change(data)
    with pytest.raises(InputFileError) as caught:
        results_from_json(data, where="sweep.json")
    assert said in str(caught.value)
    assert str(caught.value).startswith("sweep.json")


def test_an_accuracy_without_its_source_is_refused():
    with pytest.raises(ConfigError, match="needs its source"):
        Reference(row=Row(name="resnet18"), top1_percent=69.8)


def test_a_design_folder_is_a_sweep_of_one(solution, problem, tmp_path):
    save_design(tmp_path / "one", solution, problem)
    write_measured(tmp_path / "one", [Row(name="one", measured_ms=3.0)], [described(Row(name="resnet18"))], point="one")
    found = load_results(tmp_path / "one")
    assert [point.name for point in found.points] == ["one"]
    assert found.points[0].solution == solution
    assert found.points[0].limits == problem.limits
    assert found.points[0].rows[0].measured_ms == 3.0
    assert found.references[0].macs == 1_814_073_344
    assert found.commands[0].startswith(f"deepmad-hw design {tmp_path}/one/problem.json --method certified --gap 0.5% ")


def test_the_first_run_s_folder_is_read_too(solution, problem, tmp_path):
    save_design(tmp_path / "design", solution, problem)
    write_measured(tmp_path, [Row(name="design", measured_ms=3.0)], [], point="design")
    (point,) = load_results(tmp_path).points
    assert point.rows[0].measured_ms == 3.0


def test_a_table_that_is_gone_is_told_and_no_error(solution, problem, table, tmp_path):
    save_design(tmp_path / "one", solution, problem, tables={"board": table})
    (known,) = load_results(tmp_path / "one").tables  # there, but no table that can be read
    assert "cannot be used here" in known.notes[0]
    table.write_text("other rows\n")
    (changed,) = load_results(tmp_path / "one").tables
    assert changed.notes == ("its file has changed since the design was made",)
    table.unlink()
    (gone,) = load_results(tmp_path / "one").tables
    assert "No such file" in gone.notes[0]


def test_rows_of_a_bench_beside_a_calibrated_design_have_its_objective_or_none(tmp_path):
    save_design(tmp_path / "one", near_resnet18.solution(), near_resnet18.problem())
    write_measured(tmp_path / "one", [], [described(Row(name="resnet18"))], point="one")  # as files were once written
    (tmp_path / "bench.json").write_text(json.dumps([{"name": "resnet34"}, {"name": "mobilenet_v2"}]))
    found = load_results(tmp_path / "one", bench=tmp_path / "bench.json").references
    own = check.evaluate(near_resnet18.RESNET34, objective=near_resnet18.OBJECTIVE)
    assert [(each.row.name, each.objective) for each in found] == [
        ("resnet18", None),
        ("resnet34", own.objective),
        ("mobilenet_v2", None),
    ]
    assert found[2].rho > 0


def test_a_folder_without_results_is_one_line(tmp_path):
    with pytest.raises(InputFileError, match=r"holds neither sweep\.json nor design\.json"):
        load_results(tmp_path)


def test_rows_of_a_bench_go_to_their_points_and_the_rest_beside_them(tmp_path):
    shutil.copytree(SWEEP, tmp_path / "sweep")
    rows = [{"name": "13ms", "measured_ms": 12.0, "stray": 1}, {"name": "resnet101"}, {"name": "theirs"}]
    (tmp_path / "bench.json").write_text(json.dumps(rows))
    found = load_results(tmp_path / "sweep", bench=tmp_path / "bench.json")
    assert found.points[1].rows[-1].measured_ms == 12.0
    ours, theirs = found.references[-2:]
    assert (ours.row.name, ours.macs) == ("resnet101", 7_801_405_440)
    assert (theirs.row.name, theirs.objective) == ("theirs", None)


@pytest.mark.parametrize("text", ["{}", "[1]", "no json", '[{"name": 3}]'])
def test_a_bench_that_is_none_is_one_line(tmp_path, text):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(InputFileError, match=r"bench\.json"):
        load_results(SWEEP, bench=tmp_path / "bench.json")


def test_a_row_keeps_percentiles_of_its_samples():
    samples = tuple(float(n) for n in range(1000, 2001, 10))
    row = row_of(BenchRow(name="n", measurement=NetworkMeasurement(name="n", samples_us=samples)), table="t")
    assert (row.table, row.p10_ms, row.measured_ms, row.p90_ms, row.samples) == ("t", 1.1, 1.5, 1.9, 101)
    assert row_of(BenchRow(name="n", predicted_ms=2.0), table=None).measured_ms is None
