"""How well DeepMAD's objective, other fixed rules and calibrated objectives rank networks that others have trained.

python benchmarks/evidence.py --data DIR

DIR holds accel-nasbench.tar.gz, nas-bench-macro-cifar10.json and regnets.json. The figures go into
benchmarks/results/evidence.json, and from there into docs/evidence.md and its plots; nothing is trained or timed here.
"""

import argparse
import json
from pathlib import Path

import evidence_page
import numpy as np
import trained

from deepmad_hw.predict import accuracy
from deepmad_hw.predict.accuracy import fit, fixed_rules, interval, predict, rank_correlation, resampled_correlations

RESULTS = Path("benchmarks/results/evidence.json")
PAGE = Path("docs/evidence.md")
COMMAND = "python benchmarks/evidence.py --data DIR"
SEED = 1
TENTHS = 10
RESAMPLES = 500
SIZES = (12, 24, 48, 96, 300)
REPETITIONS = 30
ADVICE_SIZES = (24, 48)
LAST_WEIGHTS = (0, 1, 2, 8)
BEST_SHARE = 0.05  # the networks whose rho is looked at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    accel, macro, regnets = (read(given.data) for read in (trained.accel, trained.macro, trained.regnets))
    told = {
        "command": COMMAND,
        "seed": SEED,
        "resamples": RESAMPLES,
        "repetitions": REPETITIONS,
        "populations": [population(accel), population(macro)],
        "regnets": partial_table(regnets.population),
        "last_scale": [*last_scale(accel, ("rho", "A100", "MACs")), *last_scale(macro, ("rho", "MACs"))],
        "conventions": conventions(given.data),
        "learning": [learning(accel, ("A100", "MACs")), learning(macro, ("MACs",))],
        "advice": [*advice(accel, ("A100", "MACs")), *advice(macro, ("MACs",))],
    }
    given.results.write_text(json.dumps(rounded(told), indent=1) + "\n", encoding="utf-8")
    evidence_page.write(given.results, given.out)


def rounded(value):
    """Return figures to five digits, so that rounding of another processor changes no file."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def keys(data):
    """Return by what networks are put into tenths: rho, MACs and the measured speeds."""
    return {"rho": data.population.rho, "MACs": data.population.macs, **data.throughput}


def tenths(values):
    """Return for each network which tenth of these values it lies in, from 0."""
    found = np.empty(len(values), dtype=int)
    for tenth, members in enumerate(np.array_split(np.argsort(values, kind="stable"), TENTHS)):
        found[members] = tenth
    return found


def population(data):
    """Return the figures of one population, grouping by grouping."""
    return {
        "title": data.title,
        "networks": len(data.population),
        "accuracy": spread(data.population.accuracies),
        "groupings": {name: grouping(data.population, values) for name, values in keys(data).items()},
    }


def spread(accuracies):
    return [float(np.percentile(accuracies, share)) for share in (0, 50, 100)]


def grouping(everyone, values):
    """Return how well each rule ranks the networks inside tenths of some value."""
    known = np.flatnonzero(np.isfinite(values))
    networks, values = everyone.take(known), values[known]
    groups, rules = tenths(values), fixed_rules(networks)
    table = np.vstack(list(rules.values()))
    spearman = resampled_correlations(table, networks.accuracies, groups=groups, resamples=RESAMPLES, seed=SEED)
    kendall = resampled_kendall(table, networks.accuracies, groups)
    columns = dict(zip(rules, range(len(rules)), strict=True))
    return {
        "networks": len(known),
        "rules": {
            rule: {"spearman": told(spearman[:, column]), "kendall": told(kendall[:, column])}
            for rule, column in columns.items()
        },
        "deepmad_less_params": told(spearman[:, columns["deepmad"]] - spearman[:, columns["log_params"]]),
        "picks": picks(rules, networks.accuracies, groups),
        "tenths": [winners(networks, values, groups == tenth) for tenth in range(TENTHS)],
    }


def told(samples):
    found = interval(samples)
    return [found.value, found.low, found.high]


def resampled_kendall(rules, accuracies, groups):
    """Return Kendall's tau-b as `resampled_correlations` does Spearman's: a network drawn twice counts twice."""
    random = np.random.default_rng(SEED)
    found = []
    for tenth in range(TENTHS):
        members = np.flatnonzero(groups == tenth)
        size = len(members)
        drawn = random.multinomial(size, np.full(size, 1 / size), size=RESAMPLES)
        counts = np.vstack([np.ones(size), drawn]).T
        truth = signs(accuracies[members])
        untied = pairs(np.abs(truth), counts)
        ordered = [signs(rule[members]) for rule in rules]
        found.append([pairs(one * truth, counts) / np.sqrt(pairs(np.abs(one), counts) * untied) for one in ordered])
    return np.mean(found, axis=0).T


def signs(values):
    return np.sign(values[:, None] - values[None, :])


def pairs(matrix, counts):
    """Return the sum over pairs of networks, each as often as it was drawn; shape [resamples]."""
    return (counts * (matrix @ counts)).sum(axis=0)


def picks(rules, accuracies, groups):
    """Return, tenth by tenth, the accuracy of the network that each rule puts first, and the mean and the best."""
    found = {"mean": [], "best": [], **{rule: [] for rule in rules}}
    for tenth in range(TENTHS):
        members = groups == tenth
        found["mean"].append(float(accuracies[members].mean()))
        found["best"].append(float(accuracies[members].max()))
        for rule, values in rules.items():
            first = values[members] == values[members].max()  # several, where a rule cannot tell them apart
            found[rule].append(float(accuracies[members][first].mean()))
    return found


def winners(networks, values, members):
    """Return which rho the most accurate networks of a tenth have."""
    accuracies, rho = networks.accuracies[members], networks.rho[members]
    best = np.argsort(-accuracies, kind="stable")[: max(1, round(BEST_SHARE * len(accuracies)))]
    return {
        "least": float(values[members].min()),
        "most": float(values[members].max()),
        "rho": [float(np.percentile(rho, share)) for share in (5, 50, 95)],
        "rho_of_best": float(rho[best[0]]),
        "rho_of_best_share": [float(np.percentile(rho[best], share)) for share in (0, 50, 100)],
        "rho_and_accuracy": float(rank_correlation(rho, accuracies)),
    }


def last_scale(data, names):
    """Return how well the score ranks with other weights of the last scale than 8."""
    entropies = data.population.entropies
    return [
        {
            "title": data.title,
            "grouping": name,
            "weights": {
                str(weight): grouped(
                    entropies[:, :-1].sum(axis=1) + weight * entropies[:, -1],
                    data.population.accuracies,
                    tenths(keys(data)[name]),
                )
                for weight in LAST_WEIGHTS
            },
        }
        for name in names
    ]


def partial_table(networks):
    """Return rank correlations of a few networks of very different size, plain and with rho held fixed."""
    random = np.random.default_rng(SEED)
    size = len(networks)
    rows = np.vstack([np.arange(size), random.integers(0, size, (RESAMPLES, size))])
    rules = {name: values[rows] for name, values in fixed_rules(networks).items()}
    truth, rho = networks.accuracies[rows], rules["rho"]
    with_rho = rank_correlation(truth, rho)
    found = {}
    for rule, values in rules.items():
        plain, shared = rank_correlation(values, truth), rank_correlation(values, rho)
        found[rule] = {"spearman": told(plain)}
        if rule != "rho":
            partial = (plain - shared * with_rho) / np.sqrt((1 - shared**2) * (1 - with_rho**2))
            found[rule]["given_rho"] = told(partial)
    return {"networks": size, "accuracy": spread(networks.accuracies), "rules": found}


# --- calibration ------------------------------------------------------------------------------------------------------


def learning(data, names):
    """Return how well an objective that was calibrated on a few random networks ranks all others, size by size."""
    networks, groups = data.population, [tenths(keys(data)[name]) for name in names]
    fixed = [
        {rule: grouped(values, networks.accuracies, labels) for rule, values in fixed_rules(networks).items()}
        for labels in groups
    ]
    found = [calibrated_on(size, networks, groups) for size in SIZES]
    return {
        "title": data.title,
        "groupings": {
            name: {
                "fixed": fixed[index],
                "calibrated": [
                    {
                        "networks": size,
                        "mean": float(coefficients[:, index].mean()),
                        "std": float(coefficients[:, index].std(ddof=1)),
                        "above_best_fixed": float(np.mean(coefficients[:, index] > max(fixed[index].values()))),
                    }
                    for size, coefficients in zip(SIZES, found, strict=True)
                ],
            }
            for index, name in enumerate(names)
        },
    }


def calibrated_on(size, networks, groups):
    """Return the rank correlations on the networks that were left, shape [repetitions, groupings]."""
    random, found = np.random.default_rng(SEED), []
    for _ in range(REPETITIONS):
        shuffled = random.permutation(len(networks))
        objective = fit(networks.take(shuffled[:size]))
        rest = networks.take(shuffled[size:])
        worth = predict(objective, rest)
        found.append([grouped(worth, rest.accuracies, labels[shuffled[size:]]) for labels in groups])
    return np.array(found)


def grouped(values, accuracies, groups):
    """Return Spearman's coefficient inside each tenth, the mean of all tenths."""
    inside = [groups == tenth for tenth in range(TENTHS)]
    return float(np.mean([rank_correlation(values[members], accuracies[members]) for members in inside]))


def conventions(folder):
    """Return what counts in NAS-Bench-Macro, where the first place of a stage may be a bare 1x1 convolution."""
    layers, neither = trained.macro(folder).population, trained.macro(folder, count_layers=False).population
    blocks = trained.macro(folder, count_blocks=True).population
    return {
        name: {
            **{
                rule: grouped(fixed_rules(networks)[rule], networks.accuracies, tenths(networks.macs))
                for rule in ("deepmad", "rho")
            },
            **{
                str(size): float(calibrated_on(size, networks, [tenths(networks.macs)]).mean()) for size in ADVICE_SIZES
            },
        }
        for name, networks in (("layer", layers), ("layer and block", blocks), ("neither", neither))
    }


def advice(data, names):
    """Return what the advice of `compare` is worth to a user: a few networks of one tenth are trained."""
    networks = data.population
    found = []
    for name in names:
        labels = tenths(keys(data)[name])
        for size in ADVICE_SIZES:
            draws = [
                _advised(networks.take(np.flatnonzero(labels == draw % TENTHS)), size, draw)
                for draw in range(REPETITIONS)
            ]
            found.append(
                {
                    "title": data.title,
                    "grouping": name,
                    "networks": size,
                    "says_calibrated": int(sum(one["says_calibrated"] for one in draws)),
                    **{
                        key: float(np.mean([one[key] for one in draws])) for key in ("advised", "calibrated", "deepmad")
                    },
                    "best_fixed_seen": float(np.mean([one["best_fixed_seen"] for one in draws])),
                }
            )
    return found


def _advised(networks, size, draw):
    """Train on a few networks of a tenth, ask, and rank the others of that tenth by the answer."""
    shuffled = np.random.default_rng([SEED, draw]).permutation(len(networks))
    few, rest = networks.take(shuffled[:size]), networks.take(shuffled[size:])
    comparison = accuracy.compare(few, seed=draw, resamples=RESAMPLES)
    ranked = {rule: float(rank_correlation(values, rest.accuracies)) for rule, values in fixed_rules(rest).items()}
    ranked["calibrated"] = float(rank_correlation(predict(fit(few), rest), rest.accuracies))
    return {
        "says_calibrated": comparison.rule == "calibrated",
        "advised": ranked[comparison.rule],
        "best_fixed_seen": ranked[comparison.best_fixed.rule],
        "calibrated": ranked["calibrated"],
        "deepmad": ranked["deepmad"],
    }


if __name__ == "__main__":
    main()
