"""Other people's tables become ours, and a mistake in one is named by file, row and column."""

import gzip
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.files.jsonfile import dumps
from deepmad_hw.formats.serde import architecture_to_json
from deepmad_hw.formats.serde_table import read_table, write_table
from deepmad_hw.latency.measurement import Environment
from deepmad_hw.network import reference
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import LayerSpec, OperationSpec
from deepmad_hw.predict.blocks import divided_us
from deepmad_hw.predict.network import TableModel
from deepmad_hw.workflows.tables import imports
from deepmad_hw.workflows.tables.imports import ImportRequest, import_table
from deepmad_hw.workflows.tables.tables import model_of
from profilers.replay import layer_us

V100 = Path(__file__).parents[4] / "shared" / "data" / "tinynas_v100_trt_fp32.out.gz"
REQUEST = ImportRequest(name="theirs")
PROFILE = """\
{Regular,1,64,56,56,64,3,1,0} 0.05
{Regular,1,64,56,56,64,3,1,1} 0.055
{Regular,32,64,56,56,64,3,1,0} 0.3
{Depthwise,1,64,56,56,64,5,2,0} 0.012
{Regular,1,512,56,56,512,7,1,0} -1
"""


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "their.out"
    path.write_text(PROFILE)
    return path


def test_every_format_has_its_file():
    files = {path.stem for path in Path(imports.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {name.replace("-", "_") for name in imports.formats()}


def test_a_format_nobody_reads_is_refused_with_the_nearest(profile):
    with pytest.raises(ConfigError, match="did you mean 'tinynas'"):
        import_table("tinynass", profile, REQUEST)


@pytest.mark.parametrize("packed", [False, True])
def test_a_tinynas_profile_becomes_a_table_of_one_batch(profile, packed):
    if packed:
        profile.write_bytes(gzip.compress(profile.read_bytes()))
    table = import_table("tinynas", profile, replace(REQUEST, device="Tesla V100"))
    assert (table.environment.device, table.environment.batch, table.calibration) == ("Tesla V100", 1, ())
    dense = LayerSpec(op="conv", in_channels=64, out_channels=64, height=56, width=56, kernel=3, activation="relu")
    expected = {
        dense: (50.0,),
        replace(dense, residual=True): (55.0,),
        replace(dense, kernel=5, stride=2, groups=64): (12.0,),
        replace(dense, in_channels=512, out_channels=512, kernel=7): (),
    }
    assert [row.spec for row in table.rows] == list(expected)
    assert [sum(row.samples_us) for row in table.rows] == pytest.approx([sum(times) for times in expected.values()])
    assert [row.status for row in table.rows] == ["ok", "ok", "ok", "error"]
    assert [row.samples_us for row in import_table("tinynas", profile, replace(REQUEST, batch=32)).rows] == [(300.0,)]


def test_rows_of_a_fused_activation_answer_for_layers_without_one(profile, tmp_path):
    table = import_table("tinynas", profile, REQUEST)
    write_table(tmp_path / "t.csv", table)
    read = read_table(tmp_path / "t.csv")
    assert read.fused_activations == ("relu", "none")
    model = TableModel(read)
    relu = table.rows[0].spec
    plain, silu = replace(relu, activation="none"), replace(relu, activation="silu")
    assert model.covers([relu, plain, silu]).tolist() == [True, True, False]
    assert model.layers_ms([relu, plain]).tolist() == pytest.approx([0.05, 0.05])


def refused(form, path, request=REQUEST):
    with pytest.raises(InputFileError) as caught:
        import_table(form, path, request)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{Regular,1,64,56,56,64,3,1} 0.05", "type: expected {Type,"),
        ("Regular 1 64", "type: expected {Type,"),
        ("{Grouped,1,64,56,56,64,3,1,0} 0.05", "type: unknown type 'Grouped'"),
        ("{Regular,x,64,56,56,64,3,1,0} 0.05", "batch: expected a whole number, got 'x'"),
        ("{Regular,0,64,56,56,64,3,1,0} 0.05", "batch: expected a whole number >= 1"),
        ("{Regular,1,0,56,56,64,3,1,0} 0.05", "in_channels: expected a whole number >= 1"),
        ("{Regular,1,64,56,56,64,3,1,2} 0.05", "fused: expected 0 or 1"),
        ("{Depthwise,1,64,56,56,65,3,1,0} 0.05", "groups: 64 groups do not divide"),
        ("{Regular,1,64,56,56,64,3,2,0} fast", "ms: expected a time above 0 ms, or -1, got 'fast'"),
        ("{Regular,1,64,56,56,64,3,2,0} nan", "ms: expected a time above 0 ms"),
        ("{Regular,1,64,56,56,64,3,2,0} -2", "ms: expected a time above 0 ms"),
        ("{Regular,1,64,56,56,64,3,2,0} 0", "ms: expected a time above 0 ms"),
        ("{Regular,1,64,56,56,64,3,1,0} 0.07", "type: two rows of one layer"),
    ],
)
def test_a_wrong_line_of_a_profile_is_named(profile, line, said):
    profile.write_text(PROFILE + line + "\n")
    assert refused("tinynas", profile).startswith(f"{profile}:6:{said}")


def test_a_profile_without_the_batch_names_those_it_has(profile):
    assert "no row of batch 8, only 1, 32" in refused("tinynas", profile, replace(REQUEST, batch=8))


def test_a_profile_that_is_cut_short_is_one_line(profile):
    profile.write_bytes(gzip.compress(profile.read_bytes())[:-12])
    assert "cannot be read" in refused("tinynas", profile)
    assert "cannot be read" in refused("tinynas", profile.with_name("none"))


@pytest.mark.checkout
@pytest.mark.parametrize(("batch", "rows"), [(1, 29_375), (32, 22_165)])
def test_a_profile_with_rows_of_a_kernel_of_last_resort_is_taken_as_it_is(batch, rows):
    """TensorRT has no fast kernel for some fp16 layers: 640 -> 160, 7x7, stride 2, at 6x6, takes 6.5 ms on a V100."""
    path = V100.with_name("tinynas_v100_trt_fp16.out.gz")
    if not path.is_file():
        pytest.skip("TinyNAS's profile lies beside the project, not in it")
    model = model_of(import_table("tinynas", path, replace(REQUEST, batch=batch)), where=str(path))
    assert sum(bool(row.samples_us) for row in model.table.rows) == rows
    assert model.odd_rows == ()  # they are as slow as the layers around them
    slow = LayerSpec(op="conv", in_channels=640, out_channels=160, height=6, width=6, kernel=7, stride=2)
    slow = replace(slow, activation="relu", residual=True)
    if batch == 1:
        assert model.layers_ms([slow])[0] == pytest.approx(6.50772)


@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_a_profile_in_another_unit_is_refused(profile, factor):
    lines = [line.rsplit(" ", 1) for line in PROFILE.splitlines()[:4]]
    profile.write_text("".join(f"{key} {float(value) * factor:g}\n" for key, value in lines))
    assert "microseconds" in refused("tinynas", profile)


OFA = """\
Conv-input:224x224x3-output:112x112x32: {mean: 3.1}
expanded_conv-input:112x112x32-output:112x112x16-expand:32-kernel:3-stride:1-idskip:0: {mean: 4.2, std: 0.1}
expanded_conv-input:112x112x16-output:56x56x24-expand:96-kernel:5-stride:2-idskip:0:
  mean: 9.4
expanded_conv-input:56x56x24-output:56x56x24-expand:144-kernel:3-stride:1-idskip:1-se:1-hs:1: {mean: 6.0}
Conv_1-input:7x7x320-output:7x7x1280: {mean: 2.5}
AvgPool2D-input:7x7x1280-output:1280: {mean: 0.1}
Logits-input:1280-output:1000: {mean: 0.8}
"""


@pytest.fixture
def yaml(tmp_path):
    path = tmp_path / "ofa.yaml"
    path.write_text(OFA)
    return path


def test_blocks_of_once_for_all_become_layers_that_add_up_to_them(yaml):
    table = import_table("once-for-all", yaml, replace(REQUEST, device="a phone"))
    total_us = sum(sum(row.samples_us) for row in table.rows)
    assert total_us == pytest.approx(1e3 * (3.1 + 4.2 + 9.4 + 6.0 + 2.5 + 0.1 + 0.8))
    rows = {(r.spec.op, r.spec.in_channels, r.spec.out_channels, r.spec.kernel, r.spec.stride): r for r in table.rows}
    assert rows["conv", 3, 32, 3, 2].median_us == pytest.approx(3100)
    assert rows["global_pool", 1280, 1280, 1, 1].median_us == pytest.approx(100)
    assert rows["linear", 1280, 1000, 1, 1].median_us == pytest.approx(800)
    assert rows["conv", 320, 1280, 1, 1].spec.activation == "relu6"
    parts = [rows["conv", 16, 96, 1, 1], rows["conv", 96, 96, 5, 2], rows["conv", 96, 24, 1, 1]]
    assert sum(part.median_us for part in parts) == pytest.approx(9400)
    assert parts[1].spec.depthwise
    # A block that does not widen has two layers; one that adds its input says so; squeeze-excite has its own.
    assert ("conv", 32, 32, 1, 1) not in rows
    assert rows["conv", 144, 24, 1, 1].spec.residual
    assert rows["conv", 24, 144, 1, 1].spec.activation == "hardswish"
    assert rows["scale", 144, 144, 1, 1].spec.height == 56


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (": {}", ":1:1: "),
        ("- 3", ":1:1: expected one key a block"),
        ("a: [", "is no YAML"),
        ("Pool-input:7x7x8: {mean: 1}", ":1:1: unknown block 'Pool'"),
        ("AvgPool2D-input:7x8: {mean: 1}", ":1:1: input: expected rows x columns x channels, got '7x8'"),
        ("AvgPool2D-input:7x7x8: {std: 1}", ":1:1: expected one mean"),
        ("AvgPool2D-input:7x7x8: 3", ":1:1: expected one mean"),
        ("AvgPool2D-input:7x7x8: {mean: -1}", ":1:31: mean: expected a time above 0 ms, got '-1'"),
        ("AvgPool2D-input:7x7x8: {mean: .nan}", ":1:31: mean: expected a time above 0 ms"),
        ("AvgPool2D-input:0x7x8: {mean: 1}", ":1:1: AvgPool2D-input:0x7x8: expected a whole number >= 1"),
        (f"{OFA}AvgPool2D-input:7x7x1280-output:1280: {{mean: 1}}", ":9:1: expected a block's name that no other"),
        ("expanded_conv-input:8x8x8-output:8x8x8-expand:8-kernel:3-stride:1: {mean: 1}", ":1:1: idskip: expected"),
    ],
)
def test_a_wrong_entry_of_once_for_all_is_named(yaml, text, said):
    yaml.write_text(text)
    assert said in refused("once-for-all", yaml)


def test_divided_blocks_follow_the_sizes_of_their_layers():
    random = np.random.default_rng(0)
    conv = LayerSpec(op="conv", in_channels=16, out_channels=16, height=28, width=28)
    made = []
    for _ in range(40):
        inner = int(random.integers(2, 20)) * 8
        specs = [replace(conv, out_channels=inner), replace(conv, in_channels=inner, groups=1, kernel=3)]
        made.append((specs, sum(layer_us(spec, gmacs=20.0) for spec in specs)))
    for (specs, time_us), parts in zip(made, divided_us(made), strict=True):
        assert sum(parts) == pytest.approx(time_us)
        assert parts == pytest.approx([layer_us(spec, gmacs=20.0) for spec in specs], rel=0.2)
    assert divided_us([]) == []


ENVIRONMENT = Environment(
    device="board",
    machine="none",
    cores=1,
    features=(),
    governor="unknown",
    runtime="replay",
    runtime_version="1",
)
ARCHITECTURE = Architecture(
    family="basic",
    resolution=(32, 32),
    stem=Stem(out=16),
    stages=(Stage(out=32, bottleneck=16, kernel=3, stride=2, depth=1),),
    classes=10,
)


CONCAT = OperationSpec(kind="concat", read_values=100, written_values=100)


def lines(*, networks=("network000",)):
    specs = list(dict.fromkeys(node.spec for node in expand(ARCHITECTURE)))
    rows = [{"environment": asdict(ENVIRONMENT)}, {"measured_on": "2026-11-23"}, {"canary_us": 4000.0}]
    rows += [{"layer": {"spec": asdict(s), "samples_us": [layer_us(s, gmacs=20.0)], "status": "ok"}} for s in specs]
    rows += [{"operation": {"spec": asdict(CONCAT), "samples_us": [9.0, 11.0], "status": "ok"}}]
    rows += [{"network": {"name": name, "samples_us": [500.0], "status": "ok"}} for name in networks]
    return rows


@pytest.fixture
def results(tmp_path):
    (tmp_path / "networks.json").write_text(
        dumps({"schema": 1, "networks": {"network000": architecture_to_json(ARCHITECTURE)}})
    )
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in lines(networks=("network000", "probe001"))))
    return path


@pytest.mark.parametrize("whole_folder", [True, False])
def test_what_a_board_measured_becomes_a_calibrated_table(results, whole_folder):
    table = import_table("run", results.parent if whole_folder else results, REQUEST)
    assert table.environment == ENVIRONMENT
    assert (table.measured_on, table.canary_us) == ("2026-11-23", 4000.0)
    assert {row.spec for row in table.rows} == {node.spec for node in expand(ARCHITECTURE)}
    (operation,) = table.operations
    assert (operation.spec, operation.samples_us) == (CONCAT, (9.0, 11.0))
    (network,) = table.calibration
    assert network.architecture == ARCHITECTURE
    assert network.measurement.samples_us == (500.0,)


def test_without_the_plan_nothing_calibrates_and_it_is_said(results, tmp_path):
    (tmp_path / "networks.json").unlink()
    table = import_table("run", results, REQUEST)
    assert table.calibration == ()
    assert any("--plan" in note for note in table.notes)
    assert "cannot be read" in refused("run", results, replace(REQUEST, plan=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", ":2:2: is no JSON"),
        ("[1]", ":2:1: expected an object"),
        ('{"layers": 1}', "unknown key; did you mean 'layer'?"),
        ('{"layer": 1, "network": 2}', ":2:1: expected one key, got 2"),
        ('{"canary_us": "fast"}', ":2:1: canary_us: expected a number"),
        ('{"canary_us": NaN}', ":2:15: NaN is no number"),
        ('{"layer": {"spec": {"op": "conv"}}}', ":2:1: layer.samples_us: missing"),
        ('{"environment": {}}', ":2:1: environment: stands in the file twice"),
        ('{"network": {"name": "n", "samples_us": [-1.0]}}', "expected a time above 0 us"),
        ('{"operation": {"spec": {"kind": "concat"}, "samples_us": [1.0]}}', "operation.spec.read_values: missing"),
        (json.dumps({"operation": {"spec": asdict(CONCAT), "samples_us": [1.0]}}), "two rows of one operation"),
    ],
)
def test_a_wrong_line_of_results_is_named(results, line, said):
    text = results.read_text().splitlines()
    results.write_text("\n".join([text[0], line, *text[1:]]))
    assert said in refused("run", results)


def test_results_without_an_environment_are_refused(results):
    results.write_text("\n".join(results.read_text().splitlines()[1:]))
    assert "says nothing of the environment" in refused("run", results)


def text_of_run():
    return "".join(json.dumps(row) + "\n" for row in lines())


DAMAGES = st.sampled_from(
    (
        *(
            "",
            "x",
            "-",
            "0",
            "9" * 20,
            "1e999",
            ".nan",
            "NaN",
            "null",
            "\n",
            "\0",
            "\x1b",
            "é",
            "{",
            "}",
            "[",
            '"',
            ": ",
        ),
    ),
)


@pytest.mark.parametrize("form", imports.formats())
@settings(max_examples=200)
@given(data=st.data())
def test_any_damage_to_a_foreign_file_is_a_table_or_one_line_with_its_place(tmp_path_factory, form, data):
    text = {"tinynas": PROFILE, "once-for-all": OFA, "run": text_of_run()}[form]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 9, len(text))))
        text = text[:start] + data.draw(DAMAGES) + text[end:]
    path = tmp_path_factory.getbasetemp() / "theirs.txt"
    path.write_text(text, encoding="utf-8")
    try:
        table = import_table(form, path, REQUEST)
    except InputFileError as error:
        line = str(error)
        assert line.isprintable()
        assert re.match(rf"{path}:\d+:\w+: .", line), line
        return
    write_table(path.with_name("ours.csv"), table)
    assert len(read_table(path.with_name("ours.csv")).rows) == len(table.rows)


profile_rows = st.builds(
    LayerSpec,
    op=st.just("conv"),
    in_channels=st.integers(1, 512),
    out_channels=st.integers(1, 512),
    height=st.integers(1, 112),
    width=st.integers(1, 112),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    activation=st.just("relu"),
    residual=st.booleans(),
)


@given(specs=st.lists(profile_rows, min_size=1, max_size=20, unique=True), speed=st.floats(500.0, 5000.0))
def test_any_profile_of_tinynas_becomes_its_rows(tmp_path_factory, specs, speed):
    specs = [
        replace(specs[0], in_channels=999, out_channels=512, height=112, width=112, kernel=3),
        *specs,
    ]  # a fast one
    times_ms = [layer_us(spec, gmacs=speed) / 1e3 for spec in specs]
    keys = (
        f"1,{s.in_channels},{s.height},{s.width},{s.out_channels},{s.kernel},{s.stride},{int(s.residual)}"
        for s in specs
    )
    path = tmp_path_factory.getbasetemp() / "any.out"
    path.write_text("".join(f"{{Regular,{key}}} {time!r}\n" for key, time in zip(keys, times_ms, strict=True)))
    table = import_table("tinynas", path, REQUEST)
    assert [row.spec for row in table.rows] == specs
    assert [row.median_us for row in table.rows] == [time * 1e3 for time in times_ms]


needs_v100 = pytest.mark.skipif(not V100.is_file(), reason="TinyNAS's profile lies beside the project, not in it")


@needs_v100
@pytest.mark.slow
def test_two_thousand_rows_of_a_real_card_predict_the_others():
    """The whole curve is `benchmarks/v100.py`; here are the goals for 2,000 rows on a sample of the others."""
    tables = {batch: import_table("tinynas", V100, ImportRequest(name="v100", batch=batch)) for batch in (1, 32)}
    rows = [(batch, row) for batch, table in tables.items() for row in table.rows if row.samples_us]
    assert len(rows) == 30899 + 23634
    order = np.random.default_rng(7).permutation(len(rows))
    errors, asked = [], 0
    for batch in tables:
        kept = [rows[i][1] for i in order[:2000] if rows[i][0] == batch]
        rest = [rows[i][1] for i in order[2000:6000] if rows[i][0] == batch]
        model = TableModel(replace(tables[batch], rows=tuple(kept)))
        covered = model.covers([row.spec for row in rest])
        known = [row for row, inside in zip(rest, covered, strict=True) if inside]
        asked += len(rest)
        predicted_us = model.layers_ms([row.spec for row in known]) * 1e3
        errors += list(np.abs(predicted_us / [row.median_us for row in known] - 1))
    assert len(errors) >= 0.95 * asked
    assert np.median(errors) <= 0.06
    assert np.mean(np.array(errors) <= 0.15) >= 0.85


def test_a_reference_network_is_partly_answered_for(profile):
    model = TableModel(import_table("tinynas", profile, REQUEST))
    covered = model.covers([node.spec for node in reference.get("resnet18")])
    assert 0 < covered.sum() < len(covered)
