"""Every run file that comes with the project: it loads, it is documented, and the published problems are exact."""

import json
from pathlib import Path

import pytest

from deepmad_hw.formats import serde
from deepmad_hw.workflows.runfile.config import config_folder, load_problem, problem_names

DATA = Path(__file__).parent / "data"
GRIDS = json.loads((DATA / "reference_grids.json").read_text())["grids"]
PROBLEMS = {problem["name"]: problem for problem in json.loads((DATA / "problems.json").read_text())["problems"]}
RATIOS = {"bottleneck": (0.1, 1.0), "mbconv_se": (1.5, 6.1)}


def test_the_seven_published_problems_are_named_problems():
    assert len(PROBLEMS) == 7
    assert set(PROBLEMS) == set(GRIDS)
    assert set(PROBLEMS) <= set(problem_names())


@pytest.mark.parametrize("name", problem_names())
def test_a_run_file_is_named_by_its_result_and_documented(name):
    assert load_problem(name).name == name
    table = (config_folder() / "README.md").read_text()
    assert f"{name}.yaml" in table or f"`{name[name.index('-') :]}`" in table


@pytest.mark.parametrize("name", problem_names())
@pytest.mark.parametrize("grid", ["default", "reference", "fine"])
def test_a_run_file_makes_a_space_on_every_grid(name, grid):
    space = load_problem(name, overrides={"grid": grid}).space
    assert all(len(stage.out) > 1 for stage in space.stages)
    assert space.resolution == (space.resolution[0],) * 2


@pytest.mark.parametrize("name", GRIDS)
def test_the_reference_grid_is_the_published_one(name):
    space = load_problem(name, overrides={"grid": "reference"}).space
    assert [list(stage.out) for stage in space.stages] == GRIDS[name]["out"]
    assert [list(stage.bottleneck) for stage in space.stages] == GRIDS[name]["bottleneck"]


@pytest.mark.parametrize("name", GRIDS)
def test_the_default_grid_holds_the_reference_grid(name):
    default = load_problem(name).space
    reference = load_problem(name, overrides={"grid": "reference"}).space
    for ours, theirs in zip(default.stages, reference.stages, strict=True):
        assert set(ours.out) > set(theirs.out)
        assert set(ours.bottleneck) > set(theirs.bottleneck)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_published_problem_is_exactly_the_published_one(name):
    problem, published = load_problem(name), PROBLEMS[name]
    space, limits = problem.space, problem.limits
    assert space.family == published["family"]
    assert space.resolution == (published["resolution"],) * 2
    assert list(space.stem) == published["stem"]
    assert [stage.stride for stage in space.stages] == published["strides"]
    assert [list(stage.depth) for stage in space.stages] == published["depth"]
    assert {stage.kernel for stage in space.stages} == {(3, 5)}
    assert (None if space.head is None else space.head.out) == (published["head"] or {}).get("out")
    assert space.bottleneck_ratio == RATIOS[space.family]
    assert (space.non_decreasing, space.max_growth) == (True, 4.0)
    assert (space.classes, space.in_channels, space.activation) == (1000, 3, None)
    assert {"macs": limits.macs, "params": limits.params, "rho": limits.rho} == published["limits"]
    assert (limits.memory_bytes, limits.latency, problem.penalty) == (None, (), "std")


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name.startswith("deepmad-r")])
def test_fine_ranges_end_where_the_published_ones_do(name):
    space = load_problem(name, overrides={"grid": "fine"}).space
    ranges = PROBLEMS[name]["out_range"]
    assert [[stage.out[0], stage.out[-1]] for stage in space.stages] == ranges


@pytest.mark.parametrize("name", problem_names())
def test_a_problem_stored_beside_a_result_loads_as_the_same_problem(name, tmp_path):
    problem = load_problem(name)
    serde.write_problem(tmp_path / "problem.json", serde.ProblemFile(problem=problem))
    assert load_problem(tmp_path / "problem.json") == problem
