"""Laws of operations outside the families: found again from made-up times, honest about what they never saw."""

import math
from dataclasses import replace

import numpy as np
import pytest

from deepmad_hw.errors import NotCoveredError
from deepmad_hw.latency.measurement import Environment, OperationMeasurement
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.network.layer import KINDS, OperationSpec
from deepmad_hw.predict.network import TableModel
from deepmad_hw.predict.operations import CACHED_VALUES, MIN_MEASURED, REACH, SIMILAR, SLACK, OperationLaws

ENVIRONMENT = Environment(
    device="paper",
    machine="none",
    cores=1,
    features=(),
    governor="unknown",
    runtime="replay",
    runtime_version="1",
)


def spec(kind="concat", read=1000, **fields):
    return OperationSpec(**{"kind": kind, "read_values": read, "written_values": 2 * read, **fields})


def measured(each, us):
    return OperationMeasurement(spec=each, samples_us=(us,))


def drawn(kind, count, seed=0):
    """Return operations whose amounts do not hang together."""
    random = np.random.default_rng(seed)
    amounts = np.exp(random.uniform(np.log(1e4), np.log(3e5), (count, 4))).astype(int)
    names = ("read_values", "written_values", "macs", "weight_values")
    return [
        OperationSpec(kind=kind, **dict(zip(names, map(int, row), strict=True))) for row in amounts * [1, 1, 100, 1]
    ]


def law_us(each):
    """Return a time in which a call, a value read or written, a multiply-add and a weight have prices of their own."""
    shares = 3e-4 * each.read_values, 5e-4 * each.written_values, 2e-5 * each.macs, 1e-4 * each.weight_values
    return 4.0 + sum(shares)


CONVOLUTIONS = drawn("conv", 20)
LARGEST = max(each.read_values for each in CONVOLUTIONS)
LAWS = OperationLaws([measured(each, law_us(each)) for each in CONVOLUTIONS])


def test_a_law_is_found_again_from_times_that_follow_it():
    unseen = drawn("conv", 50, seed=1)
    assert LAWS.predict_us(unseen) == pytest.approx([law_us(each) for each in unseen])
    assert LAWS.covers(unseen).all()
    assert LAWS.margins(unseen) == pytest.approx([0.0] * 50, abs=1e-9)


def test_what_passes_the_caches_has_a_price_of_its_own():
    def memory_us(each):
        return 5.0 + 1e-3 * each.read_values + 4e-3 * max(0, each.moved_values - CACHED_VALUES / 2)

    specs = [spec("relu", read, written_values=read) for read in (10**3, 10**4, 10**5, 3 * 10**5, 10**6, 2 * 10**6)]
    laws = OperationLaws([measured(each, memory_us(each)) for each in specs], batch=2)
    asked = [spec("relu", read, written_values=read) for read in (5 * 10**4, 15 * 10**5)]
    assert laws.predict_us(asked) == pytest.approx([memory_us(each) for each in asked], rel=1e-6)


def test_a_margin_holds_for_operations_that_were_not_measured():
    random = np.random.default_rng(3)
    noisy = {each: law_us(each) * random.uniform(0.8, 1.25) for each in drawn("conv", 240)}
    known, unseen = list(noisy)[:60], list(noisy)[60:]
    laws = OperationLaws([measured(each, noisy[each]) for each in known], confidence=0.9)
    predicted_us, margins = laws.predict_us(unseen), laws.margins(unseen)
    kept = [abs(noisy[each] / us - 1) <= m for each, us, m in zip(unseen, predicted_us, margins, strict=True)]
    assert 0.84 < np.mean(kept) < 0.97
    assert 0.1 < margins[0] < 0.35


def test_a_law_of_few_operations_takes_the_margin_of_all():
    few = [spec("softmax", read) for read in (10**3, 10**4, 10**5, 10**6)]
    rows = [measured(each, law_us(each)) for each in (*CONVOLUTIONS, *few)]
    assert OperationLaws(rows[-4:]).margins(few) == [None] * 4  # four errors cannot bound nine tenths of the rest
    assert OperationLaws(rows).margins(few)[0] is not None


@pytest.mark.parametrize(
    ("changed", "far"),
    [
        ({}, False),
        ({"read_values": int(LARGEST * REACH)}, False),
        ({"read_values": int(LARGEST * REACH) + SLACK + 1}, True),
        ({"written_values": 100}, True),
        ({"macs": 10}, True),
        ({"macs": 10**9}, True),
        ({"weight_values": 0}, True),
        ({"value_type": "int8"}, True),
        ({"value_type": "fp16"}, True),
        ({"kind": "matmul"}, True),
        ({"kind": "grouped_conv"}, True),
    ],
)
def test_an_answer_outside_what_was_measured_is_known_to_be_a_guess(changed, far):
    asked = replace(spec("conv", 10**5, macs=10**7, weight_values=10**5), **changed)
    assert LAWS.covers([asked]).all()
    assert LAWS.extrapolates([asked]).tolist() == [far]
    assert LAWS.predict_us([asked])[0] > 0


def test_the_law_of_the_right_value_type_answers():
    both = [measured(each, law_us(each)) for each in CONVOLUTIONS]
    both += [measured(replace(each, value_type="int8"), law_us(each) / 2) for each in CONVOLUTIONS]
    laws, asked = OperationLaws(both), CONVOLUTIONS[0]
    assert laws.predict_us([asked, replace(asked, value_type="int8")]) == pytest.approx(
        [law_us(asked), law_us(asked) / 2]
    )
    assert not laws.extrapolates([asked, replace(asked, value_type="int8")]).any()


def test_a_kind_that_nothing_is_like_is_not_covered():
    assert LAWS.covers([spec("concat"), spec("conv")]).tolist() == [False, True]
    assert LAWS.extrapolates([spec("concat")]).tolist() == [False]
    for ask in (LAWS.predict_us, LAWS.margins):
        with pytest.raises(NotCoveredError, match="nothing like concat was measured"):
            ask([spec("concat")])


def test_a_similar_kind_answers_for_one_that_was_never_measured():
    laws = OperationLaws([measured(each, law_us(each)) for each in drawn("sigmoid", 12)])
    unary = [replace(CONVOLUTIONS[0], kind=kind) for kind in ("relu", "tanh", "mish", "gelu", "other_unary", "log")]
    assert laws.covers(unary).all()
    assert laws.extrapolates(unary).all()
    assert laws.predict_us(unary) == pytest.approx([law_us(CONVOLUTIONS[0])] * len(unary))


def test_similar_kinds_are_kinds():
    assert set(SIMILAR) | {kind for kinds in SIMILAR.values() for kind in kinds} <= set(KINDS)


def test_too_few_operations_make_no_law():
    rows = [measured(each, law_us(each)) for each in CONVOLUTIONS[:MIN_MEASURED]]
    assert OperationLaws(rows).covers(CONVOLUTIONS).all()
    assert not OperationLaws(rows[1:]).covers(CONVOLUTIONS).any()
    failed = OperationMeasurement(spec=CONVOLUTIONS[0], samples_us=(), status="oom")
    assert not OperationLaws([failed, *rows[1:]]).covers(CONVOLUTIONS).any()


def test_of_no_operations_there_are_no_answers():
    for laws in (LAWS, OperationLaws([])):
        assert laws.covers([]).shape == laws.extrapolates([]).shape == laws.predict_us([]).shape == (0,)
        assert laws.margins([]) == []


def test_a_tables_laws_are_scaled_like_its_layers():
    rows = tuple(measured(each, law_us(each)) for each in CONVOLUTIONS)
    model = TableModel(LatencyTable(name="t", environment=replace(ENVIRONMENT, batch=4), rows=(), operations=rows))
    assert model.operations.predict_us(CONVOLUTIONS) == pytest.approx([law_us(each) for each in CONVOLUTIONS], rel=0.2)
    doubled = OperationLaws(rows, batch=4, gain=2.0)
    assert doubled.predict_us(CONVOLUTIONS) == pytest.approx(2 * model.operations.predict_us(CONVOLUTIONS))


def convolution(inside, outside, pixels=196, kernel=9):
    chain = inside * kernel
    return OperationSpec(
        kind="conv",
        read_values=inside * pixels,
        written_values=outside * pixels,
        macs=chain * outside * pixels,
        weight_values=chain * outside,
        span=kernel,
        channels=outside,
    )


def test_a_convolution_costs_what_its_channels_are_rounded_up_to():
    def blocked_us(inside, outside):
        return 3.0 + 2e-5 * math.ceil(inside / 8) * 8 * math.ceil(outside / 8) * 8 * 9 * 196

    widths = [(12, 24), (16, 20), (64, 64), (28, 36), (40, 100), (128, 12), (20, 256), (96, 32)] * 2
    laws = OperationLaws([measured(convolution(*each), blocked_us(*each)) for each in widths])
    for asked in ((32, 28), (60, 44), (100, 20)):
        assert laws.predict_us([convolution(*asked)])[0] == pytest.approx(blocked_us(*asked), rel=1e-6)


def test_rows_that_are_begun_anew_have_a_price_of_their_own():
    def rows_us(each):
        return 2.0 + 1e-3 * each.read_values + 0.05 * each.read_values / each.span

    def softmax(values, row):
        return OperationSpec(kind="softmax", read_values=values, written_values=values, span=row)

    specs = [softmax(values, row) for values in (10**4, 10**5, 10**6) for row in (8, 50, 200, 800)]
    laws = OperationLaws([measured(each, rows_us(each)) for each in specs])
    assert laws.predict_us([softmax(50_000, 20)])[0] == pytest.approx(rows_us(softmax(50_000, 20)))


@pytest.mark.parametrize(
    ("inside", "outside", "kernel", "far"),
    [(16, 64, 9, False), (3, 64, 9, True), (64, 4, 9, True), (64, 64, 25, True), (64, 64, 1, True), (90, 64, 9, False)],
)
def test_windows_and_channels_that_were_not_measured_are_a_guess(inside, outside, kernel, far):
    laws = OperationLaws([measured(convolution(*each), 9.0) for each in ((16, 16), (16, 64), (64, 16), (64, 64))])
    pixels = 64 * 64 * 9 * 196 // (inside * outside * kernel)  # as much work as was measured
    assert laws.extrapolates([convolution(inside, outside, min(pixels, 196), kernel)]).tolist() == [far]
