"""DeepMAD's seven released networks: score, objective, rho, MACs and params come out as published or counted."""

import json
from pathlib import Path

import pytest

from deepmad_hw.network import costs, released
from deepmad_hw.network.architecture import Architecture, Head, Stage, Stem
from deepmad_hw.network.expand import expand
from deepmad_hw.problem import entropy
from deepmad_hw.problem.check import evaluate

PUBLISHED = json.loads((Path(__file__).parent / "data" / "deepmad_published.json").read_text())["networks"]

# score - 10 exp(std of the depths), over stages 3.. of the bottleneck networks and all stages of the mobile ones
OBJECTIVES = {
    "DeepMAD-R18": 32_085.4,
    "DeepMAD-R34": 43_107.9,
    "DeepMAD-R50": 48_884.5,
    "DeepMAD-29M-224": 19_091.3,
    "DeepMAD-29M-288": 19_327.1,
    "DeepMAD-50M": 23_416.3,
    "DeepMAD-89M": 28_171.3,
}
SCORE_TOLERANCE = 0.1
RHO_TOLERANCE = 1e-4


def architecture(entry):
    return Architecture(
        family=entry["family"],
        resolution=(entry["resolution"], entry["resolution"]),
        stem=Stem(**entry["stem"]),
        stages=tuple(Stage(**stage) for stage in entry["stages"]),
        head=Head(**entry["head"]) if entry["head"] else None,
    )


def test_the_released_networks_come_along_with_their_published_accuracies():
    known = {entry["name"].lower().replace("-", "_"): entry for entry in PUBLISHED}
    assert released.names() == tuple(known)
    for name, entry in known.items():
        assert released.get(name) == architecture(entry)
        assert released.top1_percent(name) == entry["published"]["top1_percent"]


@pytest.fixture(params=PUBLISHED, ids=lambda entry: entry["name"])
def published(request):
    return request.param


def test_all_seven_networks_are_here():
    assert [entry["name"] for entry in PUBLISHED] == list(OBJECTIVES)


def test_score(published):
    found = entropy.score(entropy.scales(architecture(published)))
    assert found == pytest.approx(published["golden"]["entropy_score"], abs=SCORE_TOLERANCE)


def test_objective(published):
    assert entropy.objective(architecture(published)) == pytest.approx(
        OBJECTIVES[published["name"]], abs=SCORE_TOLERANCE
    )


def test_largest_rho(published):
    found = [entropy.rho(scale) for scale in entropy.scales(architecture(published))]
    assert len(found) == 5
    assert max(found) == pytest.approx(published["golden"]["rho"], abs=RHO_TOLERANCE)
    assert max(found) <= published["published"]["rho_max"]


def test_macs_and_params_to_the_last_digit(published):
    made = architecture(published)
    for network in (made, expand(made)):
        assert costs.macs(network) == published["golden"]["macs"]
        assert costs.params(network) == published["golden"]["params"]


def test_the_judge_says_the_same(published):
    said = evaluate(architecture(published))
    assert said.score == pytest.approx(published["golden"]["entropy_score"], abs=SCORE_TOLERANCE)
    assert said.objective == pytest.approx(OBJECTIVES[published["name"]], abs=SCORE_TOLERANCE)
    assert said.max_rho == pytest.approx(published["golden"]["rho"], abs=RHO_TOLERANCE)
    assert (said.macs, said.params) == (published["golden"]["macs"], published["golden"]["params"])
