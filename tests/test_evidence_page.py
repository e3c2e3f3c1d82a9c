"""The page on evidence is what its generator writes from the stored figures, its words hold, and its walk is right."""

import json
from pathlib import Path

import pytest

from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.problem import entropy

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence.md"
DATA = json.loads((ROOT / "benchmarks/results/evidence.json").read_text())
ACCEL, MACRO = DATA["populations"]
DEVICES = ("A100", "RTX 3090", "TPUv2", "TPUv3", "ZCU102", "VCK190")


@pytest.fixture(scope="module")
def trained():
    """Return the module that walks over the published networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        import trained

        yield trained


def test_the_page_is_what_the_generator_writes(written_page):
    assert PAGE.read_text() == (written_page / "evidence.md").read_text()


def test_the_plots_are_what_the_generator_draws(written_page):
    drawn = sorted(path.name for path in written_page.glob("*.svg"))
    assert drawn == sorted(path.name for path in PAGE.parent.glob("evidence-*.svg"))
    assert [name for name in drawn if f"({name})" not in PAGE.read_text()] == []
    for name in drawn:
        assert (written_page / name).read_bytes() == (PAGE.parent / name).read_bytes(), name


def coefficient(told, group, rule):
    return told["groupings"][group]["rules"][rule]["spearman"][0]


def best(told, group, kind="spearman"):
    rules = told["groupings"][group]["rules"]
    return max(rules, key=lambda rule: rules[rule][kind][0])


def test_what_is_said_of_fixed_rules_holds():
    assert best(ACCEL, "rho") == "deepmad"
    assert ACCEL["groupings"]["rho"]["deepmad_less_params"][1] > 0
    for group in ("MACs", *DEVICES):
        assert best(ACCEL, group) == "log_params"
        assert ACCEL["groupings"][group]["deepmad_less_params"][2] < 0
    assert best(MACRO, "rho") == "log_macs"
    assert best(MACRO, "rho", "kendall") == "blocks"
    assert best(MACRO, "MACs") == "rho"
    assert coefficient(MACRO, "MACs", "log_params") < 0 < coefficient(MACRO, "MACs", "deepmad")
    given = {rule: found["given_rho"][0] for rule, found in DATA["regnets"]["rules"].items() if rule != "rho"}
    assert given["deepmad"] < given["score"] < min(given["log_params"], given["log_macs"])


def test_what_is_said_of_the_last_scale_and_of_rho_holds():
    for one in DATA["last_scale"]:
        assert (one["weights"]["8"] > one["weights"]["1"]) == (one["title"] == ACCEL["title"])
    for group in ("MACs", "A100"):
        assert all(one["rho_and_accuracy"] < 0 for one in ACCEL["groupings"][group]["tenths"])
    assert all(one["rho_and_accuracy"] > 0 for one in MACRO["groupings"]["MACs"]["tenths"])


def test_what_is_said_of_picks_holds():
    found = MACRO["groupings"]["MACs"]["picks"]
    gaps = [most - picked for most, picked in zip(found["best"], found["log_params"], strict=True)]
    assert max(gaps) == gaps[0] == pytest.approx(sum(gaps) / 3, rel=0.05)
    assert sum(found["log_params"]) < sum(found["mean"]) < sum(found["deepmad"])


def test_what_is_said_of_calibration_holds():
    curves = [curve for part in DATA["learning"] for curve in part["groupings"].values()]
    for curve in curves:
        by_size = {one["networks"]: one for one in curve["calibrated"]}
        assert by_size[24]["mean"] > max(curve["fixed"].values()) + 0.04
        assert by_size[48]["above_best_fixed"] == 1
    for curve in DATA["learning"][0]["groupings"].values():
        assert curve["calibrated"][0]["networks"] == 12
        assert curve["calibrated"][0]["mean"] < curve["fixed"]["log_params"]
    assert all(one["advised"] > one["deepmad"] for one in DATA["advice"])
    assert all(2 * one["says_calibrated"] > DATA["repetitions"] for one in DATA["advice"] if one["networks"] == 48)


def test_the_walk_of_the_benchmark_is_that_of_the_product(trained):
    width, expansion, kernels, strides, depths = 32, 4, (3, 5, 3), (2, 1, 2), (2, 3, 1)
    stages = tuple(
        Stage(out=width, bottleneck=expansion * width, kernel=kernel, stride=stride, depth=depth)
        for kernel, stride, depth in zip(kernels, strides, depths, strict=True)
    )
    network = Architecture(
        family="mbconv", resolution=(64, 64), stem=Stem(out=width), stages=stages, head=Head(out=96), classes=10
    )
    blocks, pixels = [trained.plain(3, width, kernel=3, stride=2, pixels=64)], 32
    for kernel, stride, depth in zip(kernels, strides, depths, strict=True):
        for index in range(depth):
            step = stride if index == 0 else 1
            blocks.append(trained.mbconv(width, width, expansion=expansion, kernel=kernel, stride=step, pixels=pixels))
            pixels //= step
    blocks.append(trained.plain(width, 96, kernel=1, stride=1, pixels=pixels))
    expected, found = entropy.scales(network), trained.scales(blocks, resolution=64)
    assert [one.entropy for one in found] == pytest.approx([one.entropy for one in expected])
    assert [entropy.rho(one) for one in found] == pytest.approx([entropy.rho(one) for one in expected])
    assert [one.depth for one in found] == [one.depth for one in expected]
    assert trained.counts(blocks, classes=10) == (costs.macs(network), costs.params(network))


def test_an_expansion_of_one_has_no_first_convolution(trained):
    one, two = (trained.mbconv(16, 24, expansion=e, kernel=3, stride=1, pixels=8) for e in (1, 2))
    assert [layer.role for layer in one.layers] == ["conv2", "conv3"]
    assert [layer.out_channels for layer in two.layers] == [32, 32, 24]


@pytest.mark.parametrize(
    ("code", "macs", "params"),
    [("00000000", 7713280, 387882), ("02012100", 47327744, 890666), ("22222222", 105660928, 2932586)],
)
def test_networks_of_nas_bench_macro_have_their_published_counts(trained, code, macs, params):
    assert trained.counts(trained.macro_blocks(code), classes=10) == (macs, params)
    assert sum(trained.macro_depths(code)) == 8 - code.count("0")
