"""Objectives other than DeepMAD's on the seven published problems: what rules cost, what calibration takes.

Run from the project's folder, with nothing else running:

    python benchmarks/objectives.py rules --out benchmarks/results/space-rules.json
    python benchmarks/objectives.py calibrated --out benchmarks/results/calibrated.json

`rules`: designs whose penalty is over all stages, with at least two blocks in every stage, with at most 40 % of all
blocks in one stage, and with all three; each has its DeepMAD objective, so that one sees what the rule costs.
`calibrated`: an objective fitted to 48 random members of each space with made-up accuracies; plain and calibrated
problems are solved in turns, so that the machine's drift is in both. The accuracies mean nothing.
"""

import argparse
import datetime
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import origin

from deepmad_hw.installed import versions
from deepmad_hw.predict import accuracy
from deepmad_hw.problem import check, sampling
from deepmad_hw.problem.objective import Objective
from deepmad_hw.workflows.design.design import design
from deepmad_hw.workflows.runfile.config import load_problem

PROBLEMS = (
    *("deepmad-r18", "deepmad-r34", "deepmad-r50"),
    *("deepmad-29m-224", "deepmad-29m-288", "deepmad-50m", "deepmad-89m"),
)
TIME_LIMIT_S = 120.0
MIN_DEPTH, SHARE = 2, "40%"
NETWORKS, NOISE_POINTS = 48, 0.3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("rules", "calibrated"))
    parser.add_argument("--problem", action="append", choices=PROBLEMS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    solve = {"rules": rules, "calibrated": calibrated}[options.step]
    made = {
        "command": origin.command(),
        "date": datetime.date.today().isoformat(),
        "machine": origin.machine(),
        "versions": dict(versions()),
        "problems": [],
    }
    for name in options.problem or PROBLEMS:
        made["problems"].append({"problem": name, **solve(name)})
        print(json.dumps(made["problems"][-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


# --- rules of the space ----------------------------------------------------------------------------------------------


def rules(name):
    stages = len(load_problem(name).space.stages)
    everywhere = Objective(penalty_stages=tuple(range(1, stages + 1)))
    kinds = {
        "none": ({}, None),
        "penalty over all stages": ({}, everywhere),
        f"at least {MIN_DEPTH} blocks a stage": ({"space.rules.min_depth": MIN_DEPTH}, None),
        f"at most {SHARE} of the blocks in a stage": ({"limits.stage_share": SHARE}, None),
        "all three": ({"space.rules.min_depth": MIN_DEPTH, "limits.stage_share": SHARE}, everywhere),
    }
    return {"rules": {rule: _under(name, *kind) for rule, kind in kinds.items()}}


def _under(name, overrides, objective):

    problem = replace(load_problem(name, overrides=overrides), objective=objective)
    solution = design(problem, time_limit_s=TIME_LIMIT_S)
    if solution.architecture is None:
        return {"status": solution.status.value}
    said = check.evaluate(solution.architecture)
    return {
        "status": solution.status.value,
        "objective": said.objective,
        "depths": [stage.depth for stage in solution.architecture.stages],
        "rho": said.max_rho,
        "macs": said.macs,
        "params": said.params,
    }


# --- calibrated ------------------------------------------------------------------------------------------------------


def calibrated(name):
    problem = load_problem(name)
    objective = accuracy.fit(_population(problem), source="made up")

    asked = {"plain": problem, "calibrated": replace(problem, objective=objective)}
    found = {}
    for kind, each in asked.items():
        begin = time.monotonic()
        solution = design(each, time_limit_s=TIME_LIMIT_S)
        found[kind] = {
            "seconds": time.monotonic() - begin,
            "status": solution.status.value,
            "objective": solution.objective,
            "bound": solution.bound,
            "gap": solution.gap,
            "minimum_values": [[each.limit, each.value] for each in solution.minimum_values],
            "notes": list(solution.notes),
        }
    return {**found, "ratio": found["calibrated"]["seconds"] / found["plain"]["seconds"]}


def _population(problem):
    """Return random members of a space within the MACs that are allowed, with made-up accuracies."""
    random = np.random.default_rng(0)
    most = problem.limits.macs
    drawn = [sampling.random_architecture(problem.space, random, max_macs=most) for _ in range(NETWORKS)]
    said = [check.evaluate(network) for network in drawn]
    depths = np.array([[stage.depth for stage in network.stages] for network in drawn], dtype=float)
    parts = [
        (3.0, np.array([each.score for each in said])),
        (2.0, np.array([math.log(each.params) for each in said])),
        (1.0, np.array([math.log(each.macs) for each in said])),
        (-1.0, np.exp(np.minimum(depths.std(axis=1), 5.0))),
        *((weight, column) for weight, column in zip(random.uniform(-1, 1, depths.shape[1]), depths.T, strict=True)),
    ]
    noise = random.normal(0, NOISE_POINTS, len(said))
    points = np.clip(70 + sum(weight * _standard(column) for weight, column in parts) + noise, 0, 100)
    named = [f"n{i}" for i in range(len(drawn))]
    return accuracy.population(list(zip(named, drawn, points.tolist(), strict=True)))


def _standard(values):
    spread = values.std()
    return (values - values.mean()) / spread if spread else values - values.mean()


if __name__ == "__main__":
    main()
