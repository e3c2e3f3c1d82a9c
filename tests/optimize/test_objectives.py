"""Objectives other than DeepMAD's: proved optima against all designs of small spaces, whatever the weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
from small_problems import LONG_S, all_designs, best_by_brute_force, small_problem

from deepmad_hw.errors import ConfigError
from deepmad_hw.network import families
from deepmad_hw.optimize import solve as solving
from deepmad_hw.optimize.coefficients import coefficients
from deepmad_hw.optimize.evaluator import Evaluator
from deepmad_hw.optimize.solve import solve
from deepmad_hw.problem import check
from deepmad_hw.problem.objective import Calibration, FeatureRange, Objective
from deepmad_hw.problem.problem import Limits, Problem
from deepmad_hw.problem.settings import Settings
from deepmad_hw.problem.solution import Status

PROBLEMS = 200
SHAPES = ("plain", "head", "two stages", "stride one", "any order", "backbone")
ROUNDING = 1e-9  # of the terms' magnitude
GAP = 0.002


@pytest.fixture(autouse=True)
def short_search(monkeypatch):
    """Leave the work to the exact model."""
    monkeypatch.setattr(solving, "PERTURBATIONS_BEFORE_PROOF", 2)


def random_objective(random, *, scales, stages, penalty=True):
    """Return weights whose terms are of about one size, with the signs that the model can take."""
    return Objective(
        scale_weights=tuple(random.uniform(-1, 1, scales).tolist()),
        penalty=str(random.choice(["std", "variance"])),
        penalty_weight=float(random.uniform(0.1, 20)) if penalty else 0.0,
        penalty_stages=tuple(range(1, stages + 1)) if random.random() < 0.5 else None,
        log_params=float(random.choice([0.0, random.uniform(1, 50)])),
        log_macs=float(random.choice([0.0, random.uniform(1, 50)])),
        depth_weights=tuple(random.uniform(-20, 20, stages).tolist()) if random.random() < 0.7 else (),
    )


def problem_with(index):
    """Return the n-th problem and its tables: ranges in every second one, 20 near 0, 20 without a penalty."""
    random = np.random.default_rng(index)
    family = families.names()[index % len(families.names())]
    shape = SHAPES[index // len(families.names()) % len(SHAPES)]
    problem, models = small_problem(family, shape, index, memory=False, quantile=0.8)
    stages = len(problem.space.stages)
    scales = 1 + sum(stage.stride == 2 for stage in problem.space.stages)
    objective = random_objective(random, scales=scales, stages=stages, penalty=index % 10 != 3)
    if index % 2:
        objective = replace(objective, calibration=_seen(random, problem, models))
    problem = replace(problem, objective=objective)
    if index % 10 == 4:  # the best design is worth next to nothing
        best = best_by_brute_force(problem, models)
        if best is not None:
            problem = replace(problem, objective=replace(objective, constant=5e-4 - best))
    return problem, models


def _seen(random, problem, models):
    """Return a calibration whose ranges cut into what the designs have."""
    tables = coefficients(problem, models)
    designs = all_designs(tables)
    picked = designs[random.integers(0, len(designs), 30)]
    found = [check.features(tables.decode(design), check.evaluate(tables.decode(design))) for design in picked]
    ranges = []
    for feature in random.permutation(sorted(found[0]))[: int(random.integers(1, 4))]:
        low, high = np.quantile([values[feature] for values in found], [0.2, 0.9])
        ranges.append(FeatureRange(feature=str(feature), least=float(low), most=float(high)))
    return Calibration(
        unit="points",
        family=problem.space.family,
        networks=30,
        ranges=tuple(ranges),
        features=("score",),
        center=(100.0,),
        precision=((1e-6,),),
        largest_leverage=1.0,
    )


def _kept(problem, models):
    tables = coefficients(problem, models)
    for design in all_designs(tables):
        architecture = tables.decode(design)
        evaluation = check.evaluate_for(problem, architecture, models)
        if not check.refusals(problem, architecture, evaluation):
            yield evaluation


def _faults(problem, models):
    best = best_by_brute_force(problem, models)
    solution = solve(problem, models, Settings(gap=GAP, time_limit_s=LONG_S))
    if best is None:
        return [] if solution.status is Status.INFEASIBLE else [f"no design keeps all, the answer is {solution.status}"]
    if solution.status is not Status.CERTIFIED:
        return [f"{solution.status}: {solution.stopped}"]
    room = ROUNDING * solution.evaluation.worth.magnitude
    claims = {
        "no better than the best": solution.objective <= best + room,
        "the bound holds": best <= solution.bound + room,
        "the gap is kept": solution.bound - solution.objective <= GAP * solution.evaluation.gap_scale * (1 + 1e-9),
    }
    return [f"{claim}: not so, best {best}" for claim, holds in claims.items() if not holds]


@pytest.mark.promise("T11", PROBLEMS)
def test_random_objectives_have_their_optimum_proved(tries):
    faults, near_zero = {}, 0
    for index in tries:
        problem, models = problem_with(index)
        faults[index] = _faults(problem, models)
        near_zero += problem.objective.constant != 0
    assert {index: found for index, found in faults.items() if found} == {}
    assert near_zero


@pytest.mark.parametrize("index", [0, 1, 5, 14])
def test_the_tables_say_of_every_design_what_the_checker_says(index):
    problem, models = problem_with(index)
    tables = coefficients(problem, models)
    designs = all_designs(tables)[::17]
    values = Evaluator(tables).evaluate(designs)
    for design, objective, excess, magnitude in zip(
        designs, values.objective, values.excess, values.magnitude, strict=True
    ):
        architecture = tables.decode(design)
        truth = check.evaluate_for(problem, architecture, models)
        assert objective == pytest.approx(truth.objective, abs=ROUNDING * magnitude)
        assert magnitude == pytest.approx(truth.worth.magnitude, rel=1e-9)
        assert (excess <= ROUNDING) >= (not check.refusals(problem, architecture, truth))


def test_deepmad_written_out_is_deepmad():
    problem, models = small_problem("bottleneck", "plain", 4)
    scales = 1 + sum(stage.stride == 2 for stage in problem.space.stages)
    written = Objective(scale_weights=(*[1.0] * (scales - 1), 8.0))
    plain, custom = solve(problem, models), solve(replace(problem, objective=written), models)
    assert custom.architecture == plain.architecture
    assert custom.objective == pytest.approx(plain.objective, rel=1e-12)


def test_a_design_far_from_the_trained_networks_is_called_an_extrapolation():
    problem, models = problem_with(1)
    near = problem.objective.calibration
    far = replace(near, largest_leverage=0.05)
    answers = [
        solve(replace(problem, objective=replace(problem.objective, calibration=each)), models) for each in (near, far)
    ]
    told = [any("extrapolation" in note for note in answer.notes) for answer in answers]
    assert told == [answer.evaluation.worth.extrapolates for answer in answers]
    assert told[1]


def test_ranges_that_cannot_be_kept_are_named_with_the_nearest_value():
    problem, models = problem_with(1)
    seen = FeatureRange(feature="params", least=1.0, most=2.0)
    calibration = replace(problem.objective.calibration, ranges=(seen,))
    asked = replace(problem, objective=replace(problem.objective, calibration=calibration))
    solution = solve(asked, models, Settings(time_limit_s=LONG_S))
    assert solution.status is Status.INFEASIBLE
    (nearest,) = [each for each in solution.minimum_values if each.limit == "range:params"]
    free = replace(asked, objective=replace(asked.objective, calibration=replace(calibration, ranges=())))
    assert nearest.value == min(evaluation.params for evaluation in _kept(free, models))


SPACE_OF = small_problem("basic", "plain", 1)[0].space


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"scale_weights": (1.0,)}, "scale_weights: has 1 weights"),
        ({"depth_weights": (1.0,)}, "depth_weights: has 1 weights for 3 stages"),
        ({"penalty_stages": (2, 9)}, "penalty_stages: names stage 9 of 3"),
        ({"log_params": -1.0}, "log_params: expected a weight of at least 0"),
        ({"log_macs": math.nan}, "log_macs: expected a weight of at least 0"),
        ({"penalty_weight": -0.1}, "penalty_weight: expected a weight of at least 0"),
        ({"penalty": "max"}, "unknown penalty 'max'"),
        ({"scale_weights": (math.inf, 1.0, 1.0)}, "expected finite weights"),
    ],
)
def test_an_objective_that_cannot_be_proved_is_refused_in_one_line(weights, said):
    with pytest.raises(ConfigError, match=said):
        Problem(name="p", space=SPACE_OF, limits=Limits(), objective=Objective(**weights))


def test_weights_of_another_family_are_refused():
    problem, _ = problem_with(1)
    calibration = replace(problem.objective.calibration, family="mbconv_se")
    with pytest.raises(ConfigError, match="was fitted to mbconv_se networks, not to basic"):
        replace(problem, objective=replace(problem.objective, calibration=calibration))


def test_no_cut_of_the_penalty_rises_above_its_variable():
    """With depths from 1 to 30 and a small weight, designs of very uneven depths may be the best ones."""
    from deepmad_hw.optimize.encoding import encoded
    from deepmad_hw.optimize.milp import build, log_fan_in_ranges
    from deepmad_hw.optimize.quantities.depth_penalty import DepthPenalty

    problem, models = small_problem("basic", "plain", 1)
    stages = tuple(replace(stage, depth=(1, 30)) for stage in problem.space.stages)
    space, objective = replace(problem.space, stages=stages), Objective(penalty="variance", penalty_weight=1e-6)
    tables = coefficients(replace(problem, space=space, objective=objective), models)
    milp = build(tables, ranges=log_fan_in_ranges(tables))
    for depths in ((1, 30, 1), (1, 5, 1), (2, 3, 4)):
        cut = DepthPenalty(tables).cut(milp, encoded(0, [(0, 0, depth) for depth in depths]))
        if cut is not None:
            slopes = -np.array(cut.sum.factors[1:])
            highest = cut.low + np.maximum(slopes * 1.0, slopes * 30.0).sum()
            assert highest <= milp.model.penalty.ub


def test_a_model_makes_the_parts_of_its_problem_once(monkeypatch):
    from deepmad_hw.optimize import milp

    calls = []
    for name in ("limited", "objective_terms"):
        parts = getattr(milp, name)
        monkeypatch.setattr(milp, name, lambda tables, name=name, parts=parts: (calls.append(name), parts(tables))[1])
    problem, models = problem_with(1)
    tables = coefficients(problem, models)
    milp.build(tables, ranges=milp.log_fan_in_ranges(tables))
    assert len(tables.stages) > 1
    assert sorted(calls) == ["limited", "objective_terms"]


def test_no_factor_helps_where_only_the_ranges_leave_no_design():
    problem, models = problem_with(1)
    nowhere = (
        FeatureRange(feature="params", least=1.0, most=2.0),
        FeatureRange(feature="macs", least=1.0, most=2.0),
    )
    calibration = replace(problem.objective.calibration, ranges=nowhere)
    asked = replace(problem, objective=replace(problem.objective, calibration=calibration))
    solution = solve(asked, models, Settings(time_limit_s=LONG_S))
    assert solution.status is Status.INFEASIBLE
    assert "all limits" not in {each.limit for each in solution.minimum_values}
