"""Run files: what they may say, what flags replace, and one line for every mistake."""

import copy
import datetime
import math
import re
import textwrap
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmad_hw.errors import ConfigError
from deepmad_hw.formats import serde
from deepmad_hw.problem.problem import LatencyLimit, Limits, Problem
from deepmad_hw.workflows.runfile import config
from deepmad_hw.workflows.runfile.config import LatencyRequest, load_problem, load_run, parse_latency
from deepmad_hw.workflows.runfile.config_file import LARGEST_FILE_BYTES, MOST_NODES

GOOD = """\
name: small
space:
  family: bottleneck
  resolution: 64
  stem: {out: [16, 24]}
  stages:
    - stride: 2
      out: {min: 32, max: 64}
      bottleneck: [8, 16]
      depth: [1, 2]
    - stride: 2
      out: 64
      bottleneck: {min: 8, max: 64, step: 16}
      kernel: 3
      depth: 4
limits:
  macs: 50M
  memory: 2MiB
  rho: 0.3
"""


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return written


def refusal(path: Path, **overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run(path, overrides={key.replace("__", "."): value for key, value in overrides.items()})
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"{path}:")


def test_a_run_file_becomes_a_problem(write):
    problem = load_problem(write(GOOD))
    first, second = problem.space.stages
    assert problem.name == "small"
    assert problem.limits == Limits(macs=50_000_000, memory_bytes=2 * 2**20, rho=0.3)
    assert problem.space.resolution == (64, 64)
    assert problem.space.stem == (16, 24)
    assert first.out == (32, 40, 48, 56, 64)
    assert (first.kernel, first.depth) == ((3, 5), (1, 2))
    assert (second.out, second.kernel, second.depth) == ((64,), (3,), (4, 4))
    assert second.bottleneck == (16, 32, 48, 64)  # 8 * 1.118^i on multiples of 16
    assert problem.space.bottleneck_ratio == (0.1, 1.0)


def test_what_is_left_out_takes_the_families_rules(write):
    text = (
        GOOD.replace("      depth: [1, 2]\n", "").replace("      depth: 4\n", "").replace("bottleneck\n", "mbconv\n", 1)
    )
    mobile = load_problem(write(text)).space
    assert mobile.bottleneck_ratio == (1.5, 6.1)
    assert [stage.depth for stage in mobile.stages] == [(1, 20), (1, 20)]
    residual = load_problem(write(text.replace("mbconv", "bottleneck"))).space
    assert [stage.depth for stage in residual.stages] == [(1, 3), (1, 20)]


def test_a_run_without_a_name_is_called_like_its_file(write):
    assert load_problem(write(GOOD.replace("name: small\n", ""), "edge.yaml")).name == "edge"


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ("fine", (32, 40, 48, 56, 64)),
        ("reference", (32, 40, 48, 64)),
        ("{ratio: 2.0, step: 32}", (32, 64)),
        ("{ratio: 1, step: 16}", (32, 48, 64)),
    ],
)
def test_a_grid_is_named_or_given_by_ratio_and_step(write, grid, expected):
    assert load_problem(write(f"{GOOD}grid: {grid}\n")).space.stages[0].out == expected


def test_anchors_and_merge_keys_are_read(write):
    text = GOOD.replace("    - stride: 2\n      out: {min", "    - &stage\n      stride: 2\n      out: {min", 1)
    text += "    \n"
    text = text.replace("limits:", "    - {<<: *stage, depth: [2, 2]}\nlimits:", 1)
    stages = load_problem(write(text)).space.stages
    assert stages[2].out == stages[0].out
    assert stages[2].depth == (2, 2)


def test_flags_replace_what_the_file_says(write):
    over = {
        "limits.macs": 7,
        "limits.memory": "1kB",
        "space.resolution": [64, 96],
        "space.stages.0.depth": [2, 2],
        "space.rules.max_growth": 2.0,
        "grid": "fine",
    }
    problem = load_problem(write(GOOD), overrides=over)
    assert problem.limits == Limits(macs=7, memory_bytes=1000, rho=0.3)
    assert problem.space.resolution == (64, 96)
    assert problem.space.stages[0].depth == (2, 2)
    assert problem.space.max_growth == 2.0


def test_a_flag_changes_one_of_two_stages_that_share_an_anchor(write):
    text = GOOD.replace("    - stride: 2\n      out: {min", "    - &stage\n      stride: 2\n      out: {min", 1)
    text = text.replace("limits:", "    - *stage\nlimits:", 1)
    stages = load_problem(write(text), overrides={"space.stages.2.depth": 7}).space.stages
    assert [stage.depth for stage in stages] == [(1, 2), (4, 4), (7, 7)]


def test_a_latency_limit_is_a_table_beside_the_file_and_a_budget(write, tmp_path):
    (tmp_path / "slow.onnx").touch()
    budgets = {"a": "10ms", "b": "400/s", "c": "like:resnet18", "d": "like:slow.onnx", "e": "30fps"}
    text = GOOD + "  latency:\n" + "".join(f"    {name}.csv: {budget}\n" for name, budget in budgets.items())
    assert load_run(write(text)).latency == (
        LatencyRequest(path=tmp_path / "a.csv", budget_ms=10.0),
        LatencyRequest(path=tmp_path / "b.csv", rate_per_s=400.0),
        LatencyRequest(path=tmp_path / "c.csv", like=Path("resnet18")),
        LatencyRequest(path=tmp_path / "d.csv", like=tmp_path / "slow.onnx"),
        LatencyRequest(path=tmp_path / "e.csv", rate_per_s=30.0),
    )


def test_a_flag_replaces_the_files_budget_on_the_same_table(write, tmp_path):
    run = load_run(write(GOOD + "  latency: {a.csv: 10ms, b.csv: 20ms}\n"))
    mine = LatencyRequest(path=tmp_path / "a.csv", budget_ms=5.0)
    assert [(r.path.name, r.budget_ms) for r in run.with_latency([mine]).latency] == [("b.csv", 20.0), ("a.csv", 5.0)]


def test_latency_limits_need_their_tables(write):
    with pytest.raises(ConfigError, match="need their tables"):
        load_problem(write(GOOD + "  latency: {a.csv: 10ms}\n"))


def test_a_stored_problem_is_a_run_file_too(tmp_path):
    problem = load_problem("deepmad-r18")
    limited = Problem(
        name="again",
        space=problem.space,
        limits=Limits(macs=1e9, latency=(LatencyLimit(table="board", budget_ms=9.0),)),
    )
    reference = serde.TableReference(table="board", path="tables/board.csv", sha256="0" * 64)
    serde.write_problem(tmp_path / "problem.json", serde.ProblemFile(problem=limited, tables=(reference,)))
    over = {"limits.memory": "1MiB", "limits.rho": 0.4}
    run = load_run(tmp_path / "problem.json", overrides=over)
    assert run.latency == (LatencyRequest(path=tmp_path / "tables/board.csv", budget_ms=9.0),)
    assert run.problem.limits == Limits(macs=1e9, rho=0.4, memory_bytes=2**20)
    with pytest.raises(ConfigError, match="widths written out"):
        load_run(tmp_path / "problem.json", overrides={"grid": "fine"})


def test_a_stored_problem_has_every_default_written_out(write):
    stored = serde.problem_to_json(serde.ProblemFile(problem=load_problem(write(GOOD))))
    assert stored["space"]["stages"][0]["out"] == [32, 40, 48, 56, 64]
    assert stored["penalty"] == "std"
    assert serde.problem_from_json(stored).problem == load_problem(write(GOOD))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("family: bottleneck", "famly: bottleneck", "3:3: space.famly: unknown key; did you mean 'family'?"),
        ("kernel: 3", "kernl: 3", "14:7: space.stages[1].kernl: unknown key; did you mean 'kernel'?"),
        ("limits:", "limit:", "16:1: limit: unknown key; did you mean 'limits'?"),
        ("family: bottleneck", "family: botleneck", "3:11: space.family: unknown block family 'botleneck'; did you"),
        ("resolution: 64", "resolution: 66", "4:15: space.resolution: 66 pixels is no multiple of the network's total"),
        ("resolution: 64", "resolution: 64.0", "4:15: space.resolution: Input should be a valid list, got 64.0"),
        ("resolution: 64", "activation: gelu", "4:15: space.activation: family 'bottleneck' has no activation 'gelu'"),
        ("  resolution: 64\n", "  resolution: [64]\n", "4:15: space.resolution: "),
        ("out: [16, 24]", "out: [24, 16]", "5:9: space.stem: expected ascending whole numbers, got [24, 16]"),
        ("{out: [16, 24]}", "{kernel: 3}", "5:9: space.stem: 'out' is missing"),
        ("{out: [16, 24]}", "[16, 24]", "5:9: space.stem: expected keys: out, kernel, stride"),
        ("{out: [16, 24]}", "{out: [16, 24], kernel: 4}", "5:33: space.stem.kernel: expected an odd kernel, got 4"),
        ("{out: [16, 24]}", "{out: [16, 24], stride: 3}", "5:33: space.stem.stride: expected stride 1 or 2, got 3"),
        ("max: 64}", "max: 16}", "8:12: space.stages[0].out: min 32 is above max 16"),
        ("{min: 32, max: 64}", "{min: 32}", "8:12: space.stages[0].out: expected a list of widths or {min, max}"),
        ("{min: 32, max: 64}", "{min: 32, max: .inf}", "8:27: space.stages[0].out.max: "),
        ("{min: 32, max: 64}", "{min: 33, max: 39, ratio: 1}", "8:12: space.stages[0].out: no multiple of 8 lies"),
        ("{min: 32, max: 64}", "[16, true]", "8:17: space.stages[0].out[1]: Input should be a valid integer"),
        ("[8, 16]", "[8, 70000]", "9:23: space.stages[0].bottleneck[1]: Input should be less than or equal to 65536"),
        ("depth: [1, 2]", "depth: [3, 2]", "10:14: space.stages[0].depth: expected [smallest, largest] from 1 up"),
        ("kernel: 3", "kernel: [2, 3]", "14:15: space.stages[1].kernel: expected odd kernels, got [2, 3]"),
        ("macs: 50M", "macs: 50ms", "17:9: limits.macs: unknown unit 'ms' in '50ms'; say 600M"),
        ("macs: 50M", "macs: -1", "17:9: limits.macs: '-1' is no quantity; say 600M"),
        ("memory: 2MiB", "memory: 2", "18:11: limits.memory: '2' has no unit; say 8MiB"),
        ("rho: 0.3", "rho: .nan", "19:8: limits.rho: 'nan' is no quantity; say 0.3"),
        ("rho: 0.3", "latency: {a.csv: 5}", "19:20: limits.latency.a.csv: "),
        ("rho: 0.3", "latency: {a.csv: '5'}", "19:20: limits.latency.a.csv: '5' has no unit; say 5ms"),
        ("name: small", "penalty: stdd", "1:10: penalty: unknown penalty 'stdd'; expected one of std, variance"),
        ("name: small", "grid: fines", "1:7: grid: unknown grid 'fines'; say default, reference, fine"),
        ("name: small", "grid: {ratio: 1.001}", "8:12: space.stages[0].out: a ratio of 1.001 makes no steps"),
        ("name: small", "name: [small", "2:6: is no YAML: "),
        ("name: small", "name: !!python/object/apply:os.system [ls]", "1:7: is no YAML: could not determine a constr"),
        ("name: small", "name: 2001-99-99", " is no YAML: month must be in 1..12"),
        ("name: small", "name: a\nname: b", "2:1: key 'name' stands twice"),
        ("name: small", "name: &a [*a]", "1:7: an alias contains itself"),
        ("name: small", "name: small\x07", " is no YAML: unacceptable character #x0007"),
    ],
)
def test_a_mistake_is_one_line_with_row_and_column(write, old, new, said):
    assert old in GOOD
    assert refusal(write(GOOD.replace(old, new, 1))).startswith(said)


def test_several_mistakes_are_counted(write):
    line = refusal(write(GOOD.replace("64}", "0}", 1).replace("rho: 0.3", "rho: -1")))
    assert line.startswith("8:27: space.stages[0].out.max: ")
    assert line.endswith("(and 1 more)")


def test_a_mistake_in_a_flag_does_not_point_to_the_file(write):
    path = write(GOOD)
    assert refusal(path, space__resolution=65).startswith("space.resolution: 65 pixels is no multiple")
    assert refusal(path, limits__rho=-1.0).startswith("limits.rho: '-1.0' is no quantity; say 0.3")
    assert refusal(path, limits__roh=1).startswith("limits.roh: unknown key; did you mean 'rho'?")
    assert refusal(path, space__stages__7__depth=1).startswith("space.stages.7.depth: expected a position from 0 to 1")
    assert refusal(path, name__x=1).startswith("name.x: has no place in the run file")


@given(st.data())
def test_any_damage_to_a_file_is_one_line_or_still_a_problem(tmp_path_factory, data):
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(start + 20, len(GOOD))))
    put = data.draw(
        st.sampled_from(["", "x", "-1", "[", "null", ": ", "\n", "true", "1e9", "{}", "[1, 2]", "&a", "*a"])
    )
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_text(GOOD[:start] + put + GOOD[end:])
    try:
        line = load_problem(path).name
    except ConfigError as error:
        line = str(error)
    assert "\n" not in line


# A run file that says all it can say.
WHOLE = {
    "name": "whole",
    "penalty": "std",
    "grid": {"ratio": 1.25, "step": 8},
    "space": {
        "family": "mbconv_se",
        "resolution": [64, 96],
        "in_channels": 3,
        "classes": 10,
        "activation": "silu",
        "stem": {"out": [16, 24], "kernel": 3, "stride": 2},
        "stages": [
            {"stride": 2, "out": {"min": 32, "max": 64, "ratio": 1.25, "step": 8}, "bottleneck": [48, 96]},
            {"stride": 2, "out": 64, "bottleneck": {"min": 64, "max": 256}, "kernel": [3, 5], "depth": [1, 2]},
        ],
        "head": {"out": 128, "kernel": 1},
        "rules": {"non_decreasing": True, "max_growth": 4.0, "bottleneck_ratio": [1.0, 6.0]},
    },
    "limits": {"macs": "50M", "params": 100_000, "memory": "2MiB", "rho": 0.3, "latency": {"a.csv": "10ms"}},
    "sweep": {"macs": "20M..50M:3", "latency": {"a.csv": "5ms..10ms:3"}},
}
STRANGE = (
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        7,
        0.5,
        10**30,
        math.nan,
        math.inf,
        -math.inf,
        "",
        "x",
        "5ms",
        "5",
        "7M",
        "a\x1b\n",
    ),
    *([], [[]], [None], [3, 2], {}, {"a": 1}, {1: 2}, {"out": None}, b"bytes", {1, 2}, datetime.date(2026, 11, 26)),
)


def inside(value, path=()):
    """Yield the path to everything in a tree but its root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from inside(item, (*path, key))


def dotted(path):
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def misspelt(draw, key):
    """Return a key with one letter doubled, left out or in another place."""
    at = draw(st.integers(0, len(key) - 2))
    return draw(
        st.sampled_from(
            [key[: at + 1] + key[at:], key[:at] + key[at + 1 :], key[:at] + key[at + 1] + key[at] + key[at + 2 :]]
        )
    )


@st.composite
def damaged_trees(draw):
    """Return a tree, the path at which it was damaged, and what its refusal must name ("" where it may be none)."""
    tree = copy.deepcopy(WHOLE)
    path = draw(st.sampled_from(list(inside(tree))))
    parent = tree
    for step in path[:-1]:
        parent = parent[step]
    kind = draw(st.sampled_from(["drop", "rename", "retype", "retype"]))
    if kind == "drop":
        del parent[path[-1]]
        return tree, path, ""
    if kind == "rename" and isinstance(path[-1], str) and path[-2:-1] != ("latency",):
        name = misspelt(draw, path[-1])
        parent[name] = parent.pop(path[-1])
        return tree, path, f"unknown key; did you mean {path[-1]!r}?" if name != path[-1] else ""
    parent[path[-1]] = draw(st.sampled_from(STRANGE))
    return tree, path, ""


@settings(max_examples=300)
@given(damaged_trees())
def test_any_change_to_the_tree_is_a_problem_or_one_line_that_names_the_key(tmp_path_factory, damaged):
    tree, path, expected = damaged
    file = tmp_path_factory.getbasetemp() / "tree.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        run = load_run(file)
    except ConfigError as error:
        line = str(error)
        assert line.isprintable()
        found = re.fullmatch(rf"{file}:\d+:\d+: (?:([^ :]+): )?(.+)", line)
        assert found, line
        named, here = found[1] or f"{path[-1]}", dotted(path)
        assert expected in line
        # The key itself, one above or below it, or what does not go with it.
        fits = named.startswith(here) or here.startswith(named) or path[-1] in line.split("'")
        assert fits or expected or (named, path[-1]) == ("space.resolution", "stride") or path[0] == "grid", (
            line,
            here,
        )
        return
    assert not expected
    assert run.problem.space.stages
    again = serde.problem_to_json(serde.ProblemFile(problem=run.problem))
    assert serde.problem_from_json(again).problem == run.problem


def test_the_whole_run_file_is_a_problem(write):
    run = load_run(write(yaml.safe_dump(WHOLE)))
    assert (run.problem.limits.macs, len(run.latency), set(run.sweep)) == (50_000_000, 1, {"macs", "latency"})


@given(
    levels=st.integers(1, 40), each=st.integers(1, 12), kind=st.sampled_from(["[{}]", "{{<<: [{}]}}", "{{a: [{}]}}"])
)
def test_aliases_that_grow_without_bound_are_refused_quickly(tmp_path_factory, levels, each, kind):
    lines = ["a0: &a0 {x: y}"]
    lines += [f"a{i}: &a{i} {kind.format(', '.join([f'*a{i - 1}'] * each))}" for i in range(1, levels)]
    file = tmp_path_factory.getbasetemp() / "aliases.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    began_s = time.process_time()
    line = refusal(file)
    assert time.process_time() - began_s < 2
    assert ("aliases written out" in line) or ("unknown key" in line and each**levels <= MOST_NODES)


def test_deep_nesting_is_refused(write):
    assert refusal(write("a: " + "[" * 1500)).startswith(" is no YAML: it is nested too deeply")


def test_a_file_is_read_up_to_its_largest_size(write):
    comment = "#" * (LARGEST_FILE_BYTES - len(GOOD) - 1) + "\n"
    assert load_problem(write(comment + GOOD)).name == "small"
    assert "larger than" in refusal(write("#" + comment + GOOD))


@pytest.mark.parametrize("text", ["- a\n", "? a\n", "[a, ", "a: b\n", "&a ", "{a: "])
def test_a_large_file_of_anything_is_refused_in_a_few_seconds(write, text):
    path = write("x:\n" + text * ((LARGEST_FILE_BYTES - 3) // len(text)))
    began_s = time.process_time()
    refusal(path)
    assert time.process_time() - began_s < 5


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_without_keys_is_refused(write, text):
    assert "expected keys and values" in refusal(write(text))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe")
    assert "it is no text" in refusal(tmp_path / "run.yaml")


def test_an_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match="called 'deepmad-r81'; did you mean 'deepmad-r18'"):
        load_problem("deepmad-r81")


def test_a_missing_file_is_answered_with_the_named_problems():
    with pytest.raises(
        ConfigError, match=r"^nowhere/run\.yaml: no such file; named problems: cifar10, deepmad-29m-224, "
    ):
        load_problem("nowhere/run.yaml")


@pytest.mark.parametrize(
    ("path", "budget", "said"),
    [
        ("t.csv", "25", "--latency: '25' has no unit; say 5ms"),
        ("t.csv", "25MB", "--latency: unknown unit 'MB'"),
        ("t.csv", "", "--latency: expected a table and its budget"),
        ("", "25ms", "--latency: expected a table and its budget"),
        ("t.csv", "like:", "--latency: 'like:' is no quantity"),
        ("t.csv", "x/s", "--latency: 'x/s' is no quantity"),
    ],
)
def test_a_budget_that_is_none_is_refused(path, budget, said):
    with pytest.raises(ConfigError) as caught:
        parse_latency(path, budget, where="--latency")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("place", ["package/configs", "configs"])
def test_named_problems_lie_in_the_package_of_a_wheel_or_beside_it_in_a_checkout(tmp_path, monkeypatch, place):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "mine.yaml").write_text(GOOD)
    monkeypatch.setattr(config, "__file__", str(tmp_path / "package" / "workflows" / "runfile" / "config.py"))
    assert config.problem_names() == ("mine",)
    assert load_problem("mine").name == "small"
