"""The check: what is named, at which latency, and what its trainings are said to show."""

import math
from dataclasses import replace

import numpy as np
import pytest

from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.latency.model import predict_ms
from deepmad_hw.problem import check as judge
from deepmad_hw.problem import entropy
from deepmad_hw.workflows.trial import check as checks
from deepmad_hw.workflows.trial import controls, members, outcomes, scaled_references
from deepmad_hw.workflows.trial.journal import Journal
from deepmad_hw.workflows.trial.records import ImageData, Trial, TrialSettings, write_trial
from deepmad_hw.workflows.trial.trial import jobs_of

SETTINGS = TrialSettings(networks=12, epochs=1, repeats=0)
DATA = ImageData(path="images", classes=("a", "b", "c"), train=90, validation=1000, sha256="0")


def made_up_accuracy(member):
    """Return an accuracy that grows with the parameters and falls with rho."""
    if member.architecture is None:
        return 60 + math.log(member.params)
    rho = max(entropy.rho(scale) for scale in entropy.scales(member.architecture))
    return 60 + 3 * math.log(member.params) - 5 * rho


def trained(folder, question, measure=None):
    """Return a trial with its journal of made-up accuracies."""
    chosen = members.choose(question, networks=SETTINGS.networks, measure=measure)
    trial = Trial(
        settings=SETTINGS,
        data=DATA,
        least_share=0.85,
        condition=chosen.condition,
        members=chosen.members,
        references=scaled_references.references(question, measure=measure),
    )
    write_trial(folder, trial)
    journal = Journal(folder / "journal.sqlite")
    for job in jobs_of(trial):
        right = round(10 * made_up_accuracy(trial.member(job.network)))
        journal.add({"job": job.name, "epoch": 1, "loss": 1.0, "right": right, "images": 1000, "seconds": 1.0})
    outcomes.fit(folder, trial, journal)
    return trial, journal


@pytest.fixture
def wide(by_latency):
    """Return the question with a budget that leaves room for references, too."""
    limits = by_latency.problem.limits
    limits = replace(limits, latency=(replace(limits.latency[0], budget_ms=0.2),))
    return replace(by_latency, problem=replace(by_latency.problem, limits=limits))


def device(question):
    """Return a device on which deep networks are faster than their table says, measured with little noise."""
    random = np.random.default_rng(1)

    def measure(graphs):
        return {
            name: predict_ms(graph, question.models["board"])
            * (0.9 - 0.002 * len(graph.nodes))
            * random.uniform(0.999, 1.001)
            for name, graph in graphs.items()
        }

    return measure


def test_all_networks_of_a_measured_check_are_brought_to_one_latency(wide, tmp_path):
    measure = device(wide)
    trial, journal = trained(tmp_path, wide, measure)
    check = controls.name_networks(tmp_path, trial, wide, journal, epochs=3, seeds=2, measure=measure)
    assert check == checks.read_check(tmp_path)
    assert check.named.why == controls.NAMED
    assert 0.9 * 0.2 <= check.named.measured_ms <= 0.2 * 1.002
    kinds = [each.why.partition(":")[0] for each in check.controls]
    assert kinds[0] == controls.DEEPMAD
    assert kinds.count(controls.REFERENCE) == 2
    for each in check.controls:
        if each.why != controls.BEST:
            assert abs(check.cost_difference(each)) < 0.12  # as near as widths of 8 and this small space let it be
    journal.close()


def test_the_named_design_keeps_the_trials_limits_and_ranges(wide, tmp_path):
    trial, journal = trained(tmp_path, wide)
    check = controls.name_networks(tmp_path, trial, wide, journal, epochs=3, seeds=2)
    asked = outcomes.calibrated(wide, controls.fitted_objective(tmp_path)).problem
    found = judge.evaluate_for(asked, check.named.architecture, wide.models)
    assert judge.refusals(asked, check.named.architecture, found) == ()
    journal.close()


def test_deepmads_control_has_rho_of_at_most_three_tenths_or_what_the_space_allows(wide, tmp_path):
    trial, journal = trained(tmp_path, wide)
    check = controls.name_networks(tmp_path, trial, wide, journal, epochs=3, seeds=2)
    control = next(each for each in check.controls if each.why == controls.DEEPMAD)
    found = judge.evaluate(control.architecture)
    least = min(judge.evaluate(each.architecture).max_rho for each in trial.members)
    assert found.max_rho <= 0.3 or least > 0.3
    journal.close()


def test_one_seed_is_refused(wide, tmp_path):
    trial, journal = trained(tmp_path, wide)
    with pytest.raises(ConfigError, match="noise"):
        controls.name_networks(tmp_path, trial, wide, journal, epochs=3, seeds=1)
    journal.close()


def test_a_protocol_without_networks_is_refused(tmp_path):
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "check.json").write_text(
        '{"schema": 1, "epochs": 1, "seeds": 2, "measured": false, "networks": []}'
    )
    with pytest.raises(InputFileError, match="named design"):
        checks.read_check(tmp_path)


# --- what is said ---------------------------------------------------------------------------------------------------


@pytest.fixture
def compared(by_macs, tmp_path):
    """Return a function that gives the verdicts for test accuracies of two networks, by seed."""
    one, other = members.choose(by_macs, networks=10).members[:2]
    named = replace(one, name="named", why="named design", measured_ms=0.2)
    control = replace(other, name="control", why="a control", measured_ms=0.202)
    trial = Trial(settings=SETTINGS, data=DATA, least_share=0.85, condition=1.0, members=(one,))

    def verdicts(ours, theirs, **more):
        check = checks.Check(epochs=1, seeds=len(ours), measured=True, networks=(named, replace(control, **more)))
        with Journal(tmp_path / "check.sqlite") as journal:
            for name, accuracies in (("named", ours), ("control", theirs)):
                for seed, accuracy in enumerate(accuracies):
                    journal.add(
                        {
                            "job": f"{name}-s{seed}",
                            "epoch": 1,
                            "loss": 1.0,
                            "right": 1,
                            "images": 2,
                            "seconds": 1.0,
                            "test_right": round(100 * accuracy),
                            "test_images": 10_000,
                        }
                    )
            return checks.verdicts(check, trial, journal)

    return verdicts


def test_differences_are_taken_seed_by_seed_with_their_standard_error(compared):
    estimate, (verdict,) = compared([80.0, 82.0, 81.0], [78.0, 81.0, 79.5])
    assert estimate.mean == pytest.approx(81)
    assert estimate.error == pytest.approx(1 / math.sqrt(3))
    assert verdict.difference.mean == pytest.approx(1.5)
    assert verdict.difference.error == pytest.approx(0.5 / math.sqrt(3))
    assert verdict.sentence == (
        "The named design is better than control (a control) at equal latency: +1.50 +- 0.29 points, 3 seeds."
    )


def test_less_than_two_standard_errors_is_no_difference(compared):
    _, (verdict,) = compared([80.0, 82.0, 81.0], [79.0, 82.5, 80.0])
    assert verdict.sentence.startswith("No difference is shown to control (a control) at equal latency: +0.50 +- 0.50")


def test_a_worse_design_is_called_worse_and_another_latency_is_said(compared):
    _, (verdict,) = compared([80.0, 80.0], [82.0, 82.1], measured_ms=0.22)
    assert verdict.sentence.startswith("The named design is worse than control (a control) at 1.100 times its latency")


def test_of_one_seed_nothing_is_said(compared):
    estimate, verdicts = compared([80.0], [79.0])
    assert (estimate, verdicts) == (None, ())
