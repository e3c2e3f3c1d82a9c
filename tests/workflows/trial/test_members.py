"""The networks of a trial: in the space, within all limits, near the budget, different, spread."""

from dataclasses import replace

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.latency.model import predict_ms
from deepmad_hw.network.expand import expand
from deepmad_hw.optimize.population import Pool
from deepmad_hw.problem import check, entropy, sampling
from deepmad_hw.problem.problem import Limits
from deepmad_hw.workflows.trial import budgets, members, scaled_references

NETWORKS = 16


@pytest.mark.parametrize("budget", ["by_macs", "by_latency"])
def test_members_keep_all_limits_use_the_budget_and_differ(budget, request):
    question = request.getfixturevalue(budget)
    question = replace(
        question, problem=replace(question.problem, limits=replace(question.problem.limits, rho=0.9, params=30e3))
    )
    chosen = members.choose(question, networks=NETWORKS)
    assert len({each.architecture for each in chosen.members}) == NETWORKS
    assert len({each.name for each in chosen.members}) == NETWORKS
    for each in chosen.members:
        evaluation = check.evaluate_for(question.problem, each.architecture, question.models)
        assert check.refusals(question.problem, each.architecture, evaluation) == ()
        assert budgets.cost_share(each, question) <= 1
        if each.why in (members.SPREAD, members.RANDOM):
            assert budgets.cost_share(each, question) >= budgets.LEAST_SHARE


def test_members_are_there_of_every_kind_and_reach_the_ends(by_macs):
    chosen = members.choose(by_macs, networks=NETWORKS).members
    kinds = {each.why.partition(":")[0] for each in chosen}
    assert kinds == {members.RHO, members.END, members.SPREAD, members.RANDOM}
    blocks = [sum(stage.depth for stage in each.architecture.stages) for each in chosen]
    assert min(blocks) == 2
    most = next(each for each in chosen if each.why == f"{members.END}: most params")
    assert most.params == max(each.params for each in chosen)


def test_the_same_seed_chooses_the_same_networks(by_macs):
    first, again = (members.choose(by_macs, networks=10, seed=3) for _ in range(2))
    assert first == again
    assert first != members.choose(by_macs, networks=10, seed=4)


def test_features_of_chosen_networks_move_less_together_than_those_of_random_ones(by_macs):
    pool = Pool(by_macs.problem, {}, least_share=budgets.LEAST_SHARE)
    chosen = pool.condition([each.architecture for each in members.choose(by_macs, networks=20).members])
    drawn = [pool.condition(pool.chosen(given=[], spread=0, random=20)) for _ in range(5)]
    assert chosen < np.median(drawn)


def test_the_pools_features_are_those_of_the_checker(by_macs):
    pool = Pool(by_macs.problem, {}, least_share=budgets.LEAST_SHARE)
    designs = pool.designs[:50]
    features = pool._features(designs)
    networks = [pool._tables.decode(row) for row in designs]
    expected = np.array([[scale.entropy for scale in entropy.scales(each)] for each in networks])
    standard = (expected - expected.mean(axis=0)) / expected.std(axis=0)
    np.testing.assert_allclose(features[:, 1 : 1 + expected.shape[1]], standard, atol=1e-9)


def test_the_pool_is_of_designs_near_the_budget(by_latency):
    pool = Pool(by_latency.problem, by_latency.models, least_share=0.85)
    assert len(pool.designs) > 50
    for row in pool.designs[::20]:
        network = pool._tables.decode(row)
        evaluation = check.evaluate_for(by_latency.problem, network, by_latency.models)
        assert check.refusals(by_latency.problem, network, evaluation) == ()
        assert evaluation.latency[0].upper_ms >= 0.85 * 0.08 * (1 - 1e-9)


def test_without_a_budget_there_is_nothing_to_compare_at(by_macs):
    question = replace(by_macs, problem=replace(by_macs.problem, limits=Limits(rho=0.5)))
    with pytest.raises(ConfigError, match="may cost"):
        members.choose(question, networks=NETWORKS)


def test_a_budget_that_no_design_uses_is_refused(by_macs):
    question = replace(by_macs, problem=replace(by_macs.problem, limits=Limits(macs=1e12)))
    with pytest.raises(ConfigError, match="uses 85%"):
        members.choose(question, networks=NETWORKS)


def test_measured_networks_are_within_the_measured_budget(by_latency):
    """The device is faster than its table, and deep networks are faster still."""
    random = np.random.default_rng(0)

    def measure(graphs):
        return {
            name: predict_ms(graph, by_latency.models["board"])
            * (0.8 - 0.002 * len(graph.nodes))
            * random.uniform(0.98, 1.02)
            for name, graph in graphs.items()
        }

    chosen = members.choose(by_latency, networks=NETWORKS, measure=measure)
    for each in chosen.members:
        assert budgets.LEAST_SHARE * 0.08 <= each.measured_ms <= 0.08


def test_a_network_that_cannot_be_measured_is_replaced(by_latency):
    random = np.random.default_rng(0)

    def measure(graphs):
        return {
            name: predict_ms(graph, by_latency.models["board"])
            for name, graph in graphs.items()
            if random.random() < 0.75
        }

    chosen = members.choose(by_latency, networks=10, measure=measure)
    assert len(chosen.members) == 10


@pytest.mark.parametrize("measured", [False, True])
def test_references_are_as_wide_as_the_budget_lets_them_be(by_latency, measured):
    def measure(graphs):
        return {name: 0.7 * predict_ms(graph, by_latency.models["board"]) for name, graph in graphs.items()}

    question = replace(
        by_latency,
        problem=replace(
            by_latency.problem,
            limits=replace(
                by_latency.problem.limits,
                latency=(replace(by_latency.problem.limits.latency[0], budget_ms=0.25),),
            ),
        ),
    )
    found = scaled_references.references(question, measure=measure if measured else None)
    assert {each.reference.name for each in found} == {"resnet18", "mobilenet_v2"}
    for each in found:
        cost = each.measured_ms / 0.25 if measured else budgets.cost_share(each, question)
        assert cost <= 1
        wider = scaled_references.described(replace(each.reference, width=each.reference.width + 0.15), question)
        graph = budgets.graph_of(wider, question.problem)
        wider_ms = predict_ms(graph, question.models["board"]) * (0.7 if measured else 1.2)
        assert wider_ms > 0.25


def test_random_networks_of_a_space_are_rarely_near_a_budget(by_macs):
    """Why the pool is walked to: of plain draws few would do."""
    random = np.random.default_rng(0)
    drawn = [sampling.random_architecture(by_macs.problem.space, random) for _ in range(200)]
    macs = [check.evaluate(each).macs for each in drawn]
    assert np.mean([0.85 * 400e3 <= each <= 400e3 for each in macs]) < 0.2
    assert expand(drawn[0]).nodes
