"""A table is refused where physics or its fingerprint can tell that it is wrong."""

import functools
import json
import random
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from deepmad_hw.cli import EXIT_FOREIGN_TABLE, EXIT_OK, main
from deepmad_hw.errors import DeviceLostError, ForeignTableError, InputFileError
from deepmad_hw.exporters.probes import canary
from deepmad_hw.formats.serde_table import read_table, sidecar_path, write_table
from deepmad_hw.latency.measurement import Environment, LayerMeasurement
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.network import costs
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.workflows.tables.imports import ImportRequest, import_table
from deepmad_hw.workflows.tables.tables import (
    MAX_CANARY_DRIFT,
    check_table,
    load_model,
    model_of,
    require_possible,
    require_this_machine,
)
from profilers.journal import device_lock
from profilers.replay import BACKEND, layer_us

X86 = Environment(
    device="Some CPU (25/17/1)",
    machine="x86_64",
    cores=2,
    features=("avx", "avx2", "fma"),
    governor="unknown",
    runtime="onnxruntime",
    runtime_version="1.32.0",
)
REPLAY = replace(X86, device="replay", machine="none", cores=1, features=(), governor="scripted", runtime="replay")
REPLAY = replace(REPLAY, runtime_version="1")


def specs():
    """Return layers as networks have them: dense, pointwise, depthwise, squeezed, pools, a classifier."""
    found = []
    for channels, side in ((24, 112), (64, 56), (128, 28), (256, 14), (512, 7)):
        conv = LayerSpec(op="conv", in_channels=channels, out_channels=channels, height=side, width=side)
        found += [
            conv,
            replace(conv, kernel=3),
            replace(conv, kernel=5, groups=channels),
            replace(conv, out_channels=2 * channels, stride=2, kernel=3),
            replace(conv, out_channels=8, height=1, width=1),
            replace(conv, op="scale"),
            replace(conv, op="avg_pool", kernel=2, stride=2),
            replace(conv, op="global_pool"),
        ]
    return [*found, LayerSpec(op="linear", in_channels=512, out_channels=1000, height=1, width=1)]


# GMAC/s and GB/s by operation, as seen on one x86 core; the canary came to about 0.7 of the dense speed there.
SPEEDS = {"dense": (1.0, 60.0), "depthwise": (0.15, 40.0), "linear": (0.1, 10.0), "avg_pool": (1.0, 0.8)}


def time_us(spec, speed, random):
    kind = "depthwise" if spec.depthwise else spec.op if spec.op in SPEEDS else "dense"
    gmacs, gbytes = SPEEDS[kind][0] * speed, SPEEDS[kind][1]
    values = spec.in_channels * spec.height * spec.width + spec.out_channels * spec.out_height * spec.out_width
    law = 3.0 + costs.layer_macs(spec) / gmacs / 1e3 + (values + costs.layer_weights(spec)) * 4 / gbytes / 1e3
    return law * (1 + 0.1 * random.random())


def table(speed=50.0, *, seed=0, environment=X86):
    random = np.random.default_rng(seed)
    rows = [LayerMeasurement(spec=spec, samples_us=(float(time_us(spec, speed, random)),)) for spec in specs()]
    canary_us = costs.macs(canary()) / (0.7 * speed * 1e3)
    return LatencyTable(name="made", environment=environment, rows=tuple(rows), canary_us=canary_us)


def scaled(row, factor):
    return replace(row, samples_us=tuple(value * factor for value in row.samples_us))


def all_scaled(found, factor):
    return replace(found, rows=tuple(scaled(row, factor) for row in found.rows))


def one_scaled(found, index, factor):
    return replace(found, rows=(*found.rows[:index], scaled(found.rows[index], factor), *found.rows[index + 1 :]))


def refused(found):
    try:
        require_possible(found, where="made.csv")
    except InputFileError:
        return True
    return False


TRUE_TABLES = [table(20.0 + 2 * index, seed=index) for index in range(20)]


def test_true_tables_are_accepted():
    assert [refused(found) for found in TRUE_TABLES] == [False] * 20
    assert [refused(replace(found, canary_us=None)) for found in TRUE_TABLES] == [False] * 20


@pytest.mark.parametrize("factor", [1e3, 1e-3, 1e6, 1e-6])
@pytest.mark.parametrize("canary_too", [True, False, None])
def test_times_in_another_unit_are_refused(factor, canary_too):
    def wrong(found):
        times = {True: found.canary_us * factor, False: found.canary_us, None: None}
        return replace(all_scaled(found, factor), canary_us=times[canary_too])

    assert [refused(wrong(found)) for found in TRUE_TABLES] == [True] * 20


@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_half_of_the_rows_in_another_unit_are_refused(factor):
    for found in TRUE_TABLES:
        rows = tuple(scaled(row, factor) if index % 2 else row for index, row in enumerate(found.rows))
        assert refused(replace(found, rows=rows))


def left_out(found):
    """Return the layers whose rows predictions leave out; a refused table has none that they use."""
    try:
        require_possible(found, where="made.csv")
        return {row.spec for row in model_of(found, where="made.csv").odd_rows}
    except InputFileError:
        return {row.spec for row in found.rows}


@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_one_row_in_another_unit_is_left_out_or_refused(factor):
    """A time that is impossible and whose neighbours are too few to tell is refused, the rest is left out."""
    true = TRUE_TABLES[15]
    found = [one_scaled(true, index, factor) for index in range(len(true.rows))]
    outcomes = [left_out(each) for each in found]
    missed = [true.rows[index].spec for index, odd in enumerate(outcomes) if true.rows[index].spec not in odd]
    assert missed == []
    refusals = [true.rows[index].spec for index, each in enumerate(found) if refused(each)]
    assert not [spec for spec in refusals if spec.op == "conv" and not spec.depthwise]  # 20 of them tell


# --- 20 true tables, most of them of real devices ---------------------------------------------------------------------

ROOT = Path(__file__).parents[3]
SHIPPED = min((ROOT / "latency_tables").glob("*/*.csv"), default=None)
V100 = ROOT.parent / "shared" / "data" / "tinynas_v100_trt_fp32.out.gz"
FACTORS = (1e3, 1e-3, 1e6, 1e-6)
MADE_SPEEDS = (0.5, 2.0, 8.0, 20.0, 60.0, 100.0, 150.0, 200.0, 250.0, 300.0)  # GMAC/s of a thread: boards to servers
TRUE_NAMES = (
    "shipped",
    *(f"fifth {part} of shipped" for part in range(5)),
    *(f"V100, batch {batch}" for batch in (1, 32, 64, 128)),
    *(f"made of {speed:g} GMAC/s" for speed in MADE_SPEEDS),
)


@functools.cache
def true_table(name):
    """Return the shipped table, a fifth of it, that of TinyNAS's card, or the shipped layers as a made-up device."""
    kind, number = name.split()[0], float(re.sub(r"[^0-9.]", "", name.replace("V100", "")) or 0)
    if kind == "V100,":
        if not V100.is_file():
            pytest.skip("TinyNAS's profile lies beside the project, not in it")
        return import_table("tinynas", V100, ImportRequest(name="v100", batch=int(number)))
    shipped = read_table(SHIPPED)
    if kind == "made":
        return made_table(shipped, number)
    order = np.random.default_rng(0).permutation(len(shipped.rows))
    part = np.array_split(order, 5)[int(number)] if kind == "fifth" else range(len(shipped.rows))
    return replace(shipped, rows=tuple(shipped.rows[index] for index in part))


def made_table(shipped, speed):
    """Return layers as a device of one speed takes them: arithmetic, memory, and a call."""

    def us(spec):
        values = spec.in_channels * spec.height * spec.width + spec.out_channels * spec.out_height * spec.out_width
        moved = 4 * (values + costs.layer_weights(spec))
        return 1.0 + costs.layer_macs(spec) / (1e3 * speed) + moved / (300 * speed)

    features = ("avx2", "fma") if speed > 30 else ("asimd",)
    return replace(
        shipped,
        environment=replace(shipped.environment, features=features),
        rows=tuple(replace(row, samples_us=(us(row.spec),), status="ok") for row in shipped.rows if row.samples_us),
        calibration=(),
        canary_us=sum(us(node.spec) for node in canary()),
    )


@pytest.mark.checkout
@pytest.mark.promise("T6")
@pytest.mark.parametrize("name", TRUE_NAMES)
def test_a_true_table_is_accepted(name):
    assert not refused(true_table(name))


@pytest.mark.checkout
@pytest.mark.parametrize("name", TRUE_NAMES[:11])
def test_no_row_of_a_true_table_is_odd(name):
    assert model_of(true_table(name), where="true.csv").odd_rows == ()


@pytest.mark.checkout
@pytest.mark.promise("T6")
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", TRUE_NAMES)
def test_a_true_table_in_another_unit_is_refused(name, factor):
    found = true_table(name)
    assert refused(replace(all_scaled(found, factor), canary_us=found.canary_us and found.canary_us * factor))


@pytest.mark.checkout
@pytest.mark.promise("T6")
@pytest.mark.parametrize("factor", [1e3, 1e-3])
@pytest.mark.parametrize("name", TRUE_NAMES)
def test_rows_of_a_true_table_in_another_unit_are_refused(name, factor):
    """A tenth or a third of them, as where a table in milliseconds and one in microseconds are put together."""
    found = true_table(name)
    measured = [index for index, row in enumerate(found.rows) if row.samples_us]
    for count in (len(measured) // 10, len(measured) // 3):
        chosen = set(random.Random(name).sample(measured, count))
        rows = tuple(scaled(row, factor) if index in chosen else row for index, row in enumerate(found.rows))
        assert refused(replace(found, rows=rows))


@pytest.mark.checkout
@pytest.mark.parametrize("factor", [1e3, 1e-3])
@pytest.mark.parametrize("name", [*TRUE_NAMES[:7], *TRUE_NAMES[10::4]])
def test_one_row_of_a_true_table_in_another_unit_is_left_out(name, factor):
    """The table is fine, so it is not refused; no other row is blamed."""
    found = true_table(name)
    index = random.Random(name).choice([index for index, row in enumerate(found.rows) if row.samples_us])
    changed = one_scaled(found, index, factor)
    assert not refused(changed)
    (odd,) = model_of(changed, where="made.csv").odd_rows
    assert odd.spec == found.rows[index].spec
    assert odd.median_us == pytest.approx(found.rows[index].median_us * factor)
    assert factor / 20 < odd.factor < factor * 20  # a step between kernels may lie between it and its neighbours


# --- other devices ----------------------------------------------------------------------------------------------------


def test_a_slow_processor_and_a_fast_card_are_possible():
    board = replace(X86, machine="armv7l", features=())
    assert not refused(table(0.3, environment=board))
    fast = all_scaled(table(500.0, environment=replace(X86, features=(), machine="card")), 1 / 20)
    assert not refused(replace(fast, canary_us=fast.canary_us / 20))


@pytest.mark.parametrize("speed", [0.5, 2.0, 8.0, 40.0])
@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_a_small_arm_board_in_another_unit_is_refused(speed, factor):
    """Its thousandfold would be a fast x86 core, so what its registers hold decides."""
    found = table(speed, environment=replace(X86, machine="aarch64", features=("asimd", "asimddp")))
    assert not refused(found)
    assert refused(replace(all_scaled(found, factor), canary_us=found.canary_us * factor))


def test_a_card_in_another_unit_is_refused():
    """No canary tells of an imported profile, and its features say nothing; its runtime is a card's."""
    card = replace(X86, machine="unknown", features=(), runtime="tensorrt")
    found = replace(all_scaled(table(500.0, environment=card), 1 / 15), canary_us=None)
    assert not refused(found)
    assert [refused(all_scaled(found, factor)) for factor in (1e3, 1e-3, 1e6, 1e-6)] == [True] * 4


def test_many_threads_may_be_faster():
    server = replace(X86, threads=32)
    assert not refused(table(1000.0, environment=server))
    assert refused(table(1000.0, environment=X86))


@pytest.mark.parametrize("factor", [1e3, 1 / 50])
def test_where_no_instruction_set_is_known_the_canary_tells(factor):
    """Its time comes from the same clock as the rows', so it is the device's own probed speed."""
    found = all_scaled(table(50.0, environment=replace(X86, machine="riscv64", features=())), factor)
    with pytest.raises(InputFileError, match=r"its fastest layer reaches .* GMAC/s, its canary 35; times must be"):
        require_possible(found, where="made.csv")


def test_a_batch_is_counted():
    found = table(50.0)
    more = replace(all_scaled(found, 64.0), canary_us=found.canary_us * 64, environment=replace(X86, batch=64))
    assert not refused(more)
    assert refused(replace(all_scaled(more, 1e3), environment=more.environment))


def test_a_table_of_pools_only_is_possible():
    found = table()
    pools = tuple(row for row in found.rows if row.spec.op in ("avg_pool", "global_pool"))
    assert not refused(replace(found, rows=pools))
    assert not refused(replace(found, rows=()))


def test_failed_rows_have_no_speed():
    found = table()
    failed = LayerMeasurement(spec=replace(found.rows[0].spec, kernel=7), samples_us=(), status="oom")
    assert not refused(replace(found, rows=(*found.rows, failed)))


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1e3, "its fastest layer reaches 0.0"),
        (1e-3, "GMAC/s and "),
    ],
)
def test_the_refusal_names_file_and_speed_and_unit(factor, said):
    with pytest.raises(InputFileError) as caught:
        require_possible(all_scaled(table(), factor), where="made.csv")
    assert re.match(r"made\.csv:\d+:median_us: ", str(caught.value))
    assert said in str(caught.value)
    assert str(caught.value).endswith("; times must be in microseconds")


def test_rows_that_are_too_slow_are_named():
    found = table()
    for index in (1, 2):
        found = one_scaled(found, index, 1e3)
    with pytest.raises(InputFileError, match=r"height=112.* times slower than the table's best layers"):
        require_possible(found, where="made.csv")


def replay_table(**fields):
    rows = tuple(LayerMeasurement(spec=spec, samples_us=(layer_us(spec, gmacs=20.0),)) for spec in specs())
    canary_us = sum(layer_us(node.spec, gmacs=20.0) for node in canary())
    return LatencyTable(**{"name": "r", "environment": REPLAY, "rows": rows, "canary_us": canary_us, **fields})


@pytest.mark.parametrize("factor", [1e3, 1e-3, 1e6, 1e-6])
def test_a_replayed_table_in_another_unit_is_refused(factor):
    assert not refused(replay_table())
    assert refused(all_scaled(replay_table(), factor))


def test_an_impossible_table_is_not_loaded(tmp_path):
    write_table(tmp_path / "r.csv", all_scaled(replay_table(), 1e3))
    with pytest.raises(InputFileError, match=r"r\.csv:\d+:median_us: .*microseconds"):
        load_model(tmp_path / "r.csv")
    write_table(tmp_path / "r.csv", replay_table())
    assert load_model(tmp_path / "r.csv").name == "r"


# Other values of every field than a replayed environment has.
OTHERS = {
    "device": ("Another CPU", "replay 2", "Replay", "r"),
    "machine": ("x86_64", "aarch64", "armv7l"),
    "cores": (2, 4, 64),
    "features": (("avx2",), ("asimd",), ("avx", "avx2", "fma")),
    "governor": ("powersave", "performance", "unknown"),
    "runtime": ("onnxruntime", "openvino", "torch_cpu"),
    "runtime_version": ("0", "1.27.0", "2"),
    "precision": ("fp16", "int8"),
    "batch": (2, 8, 32),
    "threads": (2, 4, 8),
}
# What the plan that is measured takes from the table itself, so that no machine can differ in it.
OF_THE_TABLE = ("runtime", "precision", "batch", "threads")
CHANGES = [(name, value) for name, values in OTHERS.items() for value in values]


def test_every_field_of_a_fingerprint_is_tried():
    assert set(OTHERS) == {field.name for field in fields(Environment)}


@pytest.mark.promise("T7")
@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_table_from_elsewhere_is_exit_7_and_names_the_field(tmp_path, monkeypatch, capsys, name, value):
    """The command line finds it before anything is measured; its sidecar differs in one field from what is here."""
    path = tmp_path / "r.csv"
    write_table(path, replay_table())
    assert main(["table", "check", str(path)]) == EXIT_OK
    here = replace(REPLAY, **{name: value}) if name in OF_THE_TABLE else REPLAY
    if name in OF_THE_TABLE:
        monkeypatch.setattr(type(BACKEND), "environment", lambda *_: here)
    else:
        side = json.loads(sidecar_path(path).read_text())
        side["environment"][name] = value
        sidecar_path(path).write_text(json.dumps(side))
    monkeypatch.setattr(type(BACKEND), "load", lambda *_, **named: pytest.fail("measured"))
    capsys.readouterr()
    code = main(["table", "check", str(path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == EXIT_FOREIGN_TABLE, line
    there, now = (" ".join(each) if name == "features" else each for each in (value, getattr(REPLAY, name)))
    if name in OF_THE_TABLE:
        there, now = now, there
    told = line.partition("the table was not taken here: ")[2].partition("; profile this machine")[0]
    assert told == f"{name}: {there} != {now}"


def test_all_fields_that_differ_are_named():
    others = replace(X86, **{name: values[1] for name, values in OTHERS.items()})
    with pytest.raises(ForeignTableError) as caught:
        require_this_machine(table(), others, where="made.csv")
    assert all(f"{name}: " in str(caught.value) for name in OTHERS)


def test_a_table_of_this_machine_passes():
    require_this_machine(table(), replace(X86), where="made.csv")


def checked(found, folder):
    write_table(folder / "r.csv", found)
    return check_table(folder / "r.csv", folder=folder / "canary")


def test_a_check_tells_what_the_table_holds(tmp_path):
    rows = replay_table().rows
    noisy, odd = replace(rows[0], status="noisy"), scaled(rows[9], 1e3)
    failed = LayerMeasurement(spec=replace(rows[0].spec, kernel=7), samples_us=(), status="oom")
    found = checked(replay_table(rows=(noisy, *rows[1:9], odd, *rows[10:], failed)), tmp_path)
    assert (found.rows, found.failed_rows, found.noisy_rows, found.odd_rows) == (len(rows), 1, 1, 1)
    assert found.margin is None
    assert found.canary_us == pytest.approx(replay_table().canary_us)
    assert found.drift == pytest.approx(1.0)


@pytest.mark.parametrize("slower", [1.5, 1 / 1.5, 1.2])
def test_a_machine_of_another_speed_is_found(tmp_path, slower):
    with pytest.raises(ForeignTableError, match=re.escape(f"us then ({1 / slower - 1:+.0%})")):
        checked(replay_table(canary_us=replay_table().canary_us * slower), tmp_path)


@pytest.mark.parametrize("slower", [1.0, 1 + 0.5 * MAX_CANARY_DRIFT, 1 - 0.5 * MAX_CANARY_DRIFT])
def test_a_machine_of_about_the_same_speed_passes(tmp_path, slower):
    found = checked(replay_table(canary_us=replay_table().canary_us * slower), tmp_path)
    assert found.drift == pytest.approx(1 / slower)


def test_a_few_disturbed_canary_runs_are_no_drift(tmp_path, monkeypatch):
    """The canary's level is that of its undisturbed runs, in a check as in a profile."""
    load = type(BACKEND).load

    def disturbed(self, *arguments, **options):
        session = load(self, *arguments, **options)
        runs = iter(range(10_000))
        calm = session.run
        monkeypatch.setattr(session, "run", lambda: calm() * (1.6 if next(runs) % 4 else 1.0), raising=False)
        return session

    monkeypatch.setattr(type(BACKEND), "load", disturbed)
    assert checked(replay_table(), tmp_path).drift == pytest.approx(1.0)


def test_a_table_without_a_canary_has_no_drift(tmp_path):
    assert checked(replay_table(canary_us=None), tmp_path).drift is None


def test_a_foreign_table_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(type(BACKEND), "load", lambda *arguments, **options: pytest.fail("measured"))
    with pytest.raises(ForeignTableError, match="not taken here: cores: 7 != 1"):
        checked(replay_table(environment=replace(REPLAY, cores=7)), tmp_path)


def test_a_check_beside_another_measurement_is_refused(tmp_path):
    with device_lock("cpu"), pytest.raises(DeviceLostError):
        checked(replay_table(), tmp_path)
