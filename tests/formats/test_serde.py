"""Records as JSON: round trips, the contract of `design --json`, and files that are not ours."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_numbers import ODD_NUMBERS, numbers_in, put

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.files.jsonfile import Place, dumps, parse_json, record, write_json
from deepmad_hw.formats import serde
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.problem.solution import (
    ContinuousDesign,
    ContinuousStage,
    Evaluation,
    LatencyValue,
    MinimumValue,
    Price,
    ScaleValue,
    Solution,
    Status,
)
from deepmad_hw.problem.space import Space, StageSpace

# The keys of the contract, in its order; `problem`, `stopped` and `continuous` are ours on top.
CONTRACT = (
    *("schema", "status", "objective", "bound", "gap", "method", "architecture", "entropy", "rho"),
    *("macs", "params", "memory_bytes", "latency", "prices", "grid", "notes", "versions", "seed", "timings"),
)

counts = st.integers(min_value=1, max_value=4096)
kernels = st.sampled_from([1, 3, 5, 7])
numbers = st.floats(min_value=1e-9, max_value=1e12)
names = st.text(min_size=1, max_size=12)
stems = st.builds(Stem, out=counts, kernel=kernels, stride=st.sampled_from([1, 2]))
stages = st.builds(
    Stage, out=counts, bottleneck=counts, kernel=kernels, stride=st.sampled_from([1, 2]), depth=st.integers(1, 30)
)
heads = st.none() | st.builds(Head, out=counts, kernel=kernels)
resolutions = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda sides: (32 * sides[0], 32 * sides[1]))
architectures = st.builds(
    Architecture,
    family=st.sampled_from(["bottleneck", "basic", "mbconv", "mbconv_se"]),
    resolution=resolutions,
    stem=stems,
    stages=st.lists(stages, min_size=1, max_size=4).map(tuple),
    head=heads,
    in_channels=st.integers(1, 8),
    classes=st.integers(0, 1000),
    activation=st.none() | st.just("relu"),
)
grids = st.sets(counts, min_size=1, max_size=5).map(lambda values: tuple(sorted(values)))
stage_spaces = st.builds(
    StageSpace,
    stride=st.sampled_from([1, 2]),
    out=grids,
    bottleneck=grids,
    kernel=st.sets(kernels, min_size=1).map(lambda values: tuple(sorted(values))),
    depth=st.tuples(st.integers(1, 5), st.integers(5, 20)),
)
spaces = st.builds(
    Space,
    family=st.just("basic"),
    resolution=resolutions,
    stem=grids,
    stages=st.lists(stage_spaces, min_size=1, max_size=4).map(tuple),
    bottleneck_ratio=st.tuples(st.floats(0.1, 1.0), st.floats(1.0, 6.0)),
    head=heads,
    classes=st.integers(0, 1000),
    activation=st.none() | st.just("relu"),
    non_decreasing=st.booleans(),
    max_growth=st.floats(1.0, 8.0),
)
limits = st.builds(
    Limits,
    macs=st.none() | st.integers(1, 10**12) | numbers,
    params=st.none() | st.integers(1, 10**9),
    memory_bytes=st.none() | st.integers(1, 10**9),
    rho=st.none() | numbers,
    latency=st.lists(
        st.builds(LatencyLimit, table=names, budget_ms=numbers), max_size=3, unique_by=lambda x: x.table
    ).map(tuple),
)
references = st.builds(serde.TableReference, table=names, path=names, sha256=st.just("0" * 64))
problem_files = st.builds(
    serde.ProblemFile,
    problem=st.builds(Problem, name=names, space=spaces, limits=limits, penalty=st.sampled_from(["std", "variance"])),
    tables=st.lists(references, max_size=2).map(tuple),
)
scale_values = st.builds(ScaleValue, pixels=counts, channels=counts, entropy=numbers, rho=numbers)
latencies = st.builds(
    LatencyValue,
    table=names,
    device=names,
    budget_ms=st.none() | numbers,
    predicted_ms=numbers,
    upper_ms=st.none() | numbers,
)
evaluations = st.builds(
    Evaluation,
    score=numbers,
    penalty=numbers,
    objective=numbers,
    scales=st.lists(scale_values, min_size=1, max_size=5).map(tuple),
    macs=counts,
    params=counts,
    memory_bytes=counts,
    latency=st.lists(latencies, max_size=2).map(tuple),
)
continuous_designs = st.builds(
    ContinuousDesign,
    objective=numbers,
    stem=numbers,
    stages=st.lists(
        st.builds(ContinuousStage, out=numbers, bottleneck=numbers, kernel=numbers, stride=st.just(2), depth=numbers),
        max_size=3,
    ).map(tuple),
    iterations=counts,
    solve_ms=numbers,
    surrogate_error=st.lists(st.tuples(names, numbers, numbers), max_size=2).map(tuple),
)
pairs = st.dictionaries(names, names, max_size=2).map(lambda found: tuple(found.items()))
designs = st.builds(
    Solution,
    problem=names,
    method=st.sampled_from(["continuous", "fast", "certified"]),
    status=st.sampled_from(Status),
    stopped=names,
    architecture=st.none() | architectures,
    evaluation=st.none() | evaluations,
    bound=st.none() | numbers,
    continuous=st.none() | continuous_designs,
    prices=st.lists(
        st.builds(Price, limit=names, binding=st.booleans(), objective_per_unit=numbers, unit=names), max_size=2
    ).map(tuple),
    minimum_values=st.lists(st.builds(MinimumValue, limit=names, value=numbers, unit=names), max_size=2).map(tuple),
    notes=st.lists(names, max_size=2).map(tuple),
    versions=pairs,
    seed=st.integers(0, 99),
    timings_ms=st.just((("build", 12.5), ("solve", 80.0))),
)


def through_text(data):
    return parse_json(dumps(data), where="round trip")


@given(architectures)
def test_any_architecture_comes_back_equal(architecture):
    assert serde.architecture_from_json(through_text(serde.architecture_to_json(architecture))) == architecture


@given(spaces)
def test_any_space_comes_back_equal(space):
    assert record(Space, through_text(serde.space_to_json(space)), Place("space")) == space


@given(problem_files)
def test_any_problem_comes_back_equal(file):
    assert serde.problem_from_json(through_text(serde.problem_to_json(file))) == file


@settings(max_examples=50)
@given(designs)
def test_any_solution_comes_back_equal_and_writes_the_same_text_again(solution):
    text = dumps(serde.solution_to_json(solution))
    back = serde.solution_from_json(parse_json(text, where="round trip"))
    assert back == solution
    assert back.timings_ms == solution.timings_ms
    assert dumps(serde.solution_to_json(back)) == text


def problem_of(space):
    return serde.ProblemFile(problem=Problem(name="p", space=space, limits=Limits()))


@pytest.mark.parametrize(
    ("records", "file_of"),
    [(problem_files, lambda file: file), (spaces, problem_of), (architectures, None)],
    ids=["problem", "space", "architecture"],
)
@settings(max_examples=200)
@given(data=st.data())
def test_any_number_in_a_record_is_refused_in_one_line_or_comes_back_equal(records, file_of, data):
    record = data.draw(records)
    path = data.draw(st.sampled_from(list(numbers_in(record))))
    try:
        changed = put(record, path, data.draw(ODD_NUMBERS))
    except ConfigError as error:
        line, what, where = str(error), error.what, error.where
        assert line.isprintable()
        assert what.startswith("expected ") or where == "resolution"
        return
    if file_of is None:
        assert serde.architecture_from_json(through_text(serde.architecture_to_json(changed))) == changed
    else:
        file = file_of(changed)
        assert serde.problem_from_json(through_text(serde.problem_to_json(file))) == file


def small_architecture() -> Architecture:
    return Architecture(
        family="bottleneck",
        resolution=(64, 64),
        stem=Stem(out=16),
        stages=(Stage(out=64, bottleneck=16, kernel=3, stride=2, depth=2),),
    )


def small_solution() -> Solution:
    architecture = small_architecture()
    return Solution(
        problem="small",
        method="fast",
        status=Status.FEASIBLE,
        stopped="search ended",
        architecture=architecture,
        evaluation=check.evaluate(architecture),
        timings_ms=(("solve", 12.0),),
    )


def test_a_design_has_every_key_of_the_contract():
    data = serde.solution_to_json(small_solution())
    assert [key for key in data if key in CONTRACT] == list(CONTRACT)
    assert data["schema"] == 1
    assert data["architecture"] == {
        "family": "bottleneck",
        "resolution": 64,
        "in_channels": 3,
        "classes": 1000,
        "stem": {"out": 16, "kernel": 3, "stride": 2},
        "stages": [{"out": 64, "bottleneck": 16, "kernel": 3, "stride": 2, "depth": 2}],
        "head": None,
    }
    assert set(data["entropy"]) >= {"score", "penalty", "scales"}
    assert len(data["rho"]) == len(data["entropy"]["scales"]) == 2
    assert data["timings"] == {"solve_ms": 12.0}


def test_a_resolution_that_is_no_square_is_height_and_width():
    architecture = replace(small_architecture(), resolution=(64, 128))
    assert serde.architecture_to_json(architecture)["resolution"] == [64, 128]


def test_an_infeasible_answer_names_the_tightest_limits():
    solution = Solution(
        problem="small",
        method="certified",
        status=Status.INFEASIBLE,
        stopped="infeasible",
        minimum_values=(MinimumValue(limit="macs", value=1.5e6, unit=""),),
    )
    data = serde.solution_to_json(solution)
    assert data["status"] == "infeasible"
    assert data["tightest"] == [{"limit": "macs", "value": 1.5e6, "unit": "", "proved": True}]
    assert data["objective"] is None


def test_timings_are_all_that_differs_between_equal_runs():
    first, second = small_solution(), replace(small_solution(), timings_ms=(("solve", 99.0),))
    data, other = serde.solution_to_json(first), serde.solution_to_json(second)
    assert data.pop("timings") != other.pop("timings")
    assert dumps(data) == dumps(other)


def test_files_are_read_back(tmp_path: Path):
    path = tmp_path / "design.json"
    serde.write_solution(path, small_solution())
    assert serde.read_solution(path) == small_solution()
    assert serde.read_architecture(path) == small_architecture()
    write_json(tmp_path / "architecture.json", serde.architecture_to_json(small_architecture()))
    assert serde.read_architecture(tmp_path / "architecture.json") == small_architecture()


def broken(change) -> dict:
    data = json.loads(dumps(serde.solution_to_json(small_solution())))
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(schema=2), "schema: 2 is too new"),
        (lambda d: d.update(schema=0), "schema: 0 is too old"),
        (lambda d: d.pop("schema"), "schema: expected a version number"),
        (lambda d: d.pop("macs"), "macs: missing"),
        (lambda d: d.update(mcas=1), "mcas: unknown key; did you mean 'macs'?"),
        (lambda d: d.update(macs=1.5), "macs: expected a whole number, got 1.5"),
        (lambda d: d.update(status="great"), "status: unknown status 'great'"),
        (lambda d: d.update(notes="one"), "notes: expected a list"),
        (lambda d: d.update(versions=[]), "versions: expected an object"),
        (lambda d: d["rho"].pop(), "rho: expected one value per scale"),
        (lambda d: d["entropy"].update(scales=[True, 1.0]), "entropy.scales[0]: expected a number, got true"),
        (lambda d: d["architecture"]["stages"][0].update(kernel=4), "architecture.stages[0].kernel: expected an odd"),
        (lambda d: d["architecture"]["stages"][0].pop("out"), "architecture.stages[0].out: missing"),
        (lambda d: d["architecture"].update(resolution=65), "architecture.resolution: 65 pixels is no multiple"),
        (lambda d: d["architecture"].update(resolution=[64]), "architecture.resolution: expected 2 values, got 1"),
    ],
)
def test_a_broken_design_is_refused_with_file_and_key(change, said):
    with pytest.raises(InputFileError) as caught:
        serde.solution_from_json(broken(change), where="design.json")
    assert str(caught.value).startswith(f"design.json: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "f.json:1:2: is no JSON"),
        ("[1]", "f.json:1:1: expected an object, got a list"),
        ('{"a": 1, "a": 2}', "f.json:1:10: key 'a' stands twice"),
        ('{"a": NaN}', "f.json:1:7: NaN is no number"),
        ('{"a": 1e999}', "f.json:1:7: 1e999 is too large"),
        ('{"a": 99999999999999999999}', "f.json:1:7: the whole number 99999999999999999999 is beyond 2^53"),
        ("[" * 100_000, "f.json:1:1: nested too deeply"),
    ],
)
def test_text_that_is_no_json_object_is_refused(text, said):
    with pytest.raises(InputFileError) as caught:
        parse_json(text, where="f.json")
    assert str(caught.value).startswith(said)


def test_a_missing_file_is_one_line(tmp_path: Path):
    with pytest.raises(InputFileError, match=r"none\.json: cannot be read: No such file"):
        serde.read_solution(tmp_path / "none.json")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    (tmp_path / "design.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputFileError, match="is no text"):
        serde.read_solution(tmp_path / "design.json")


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deepmad_hw.files.jsonfile.LARGEST_FILE_BYTES", 10)
    (tmp_path / "design.json").write_text("{" + " " * 20 + "}")
    with pytest.raises(InputFileError, match="larger than 10 bytes"):
        serde.read_solution(tmp_path / "design.json")
