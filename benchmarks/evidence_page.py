"""Writes docs/evidence.md and its plots from the stored results of `evidence.py`; computes nothing.

python benchmarks/evidence_page.py --out docs/evidence.md
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

RESULTS = Path("benchmarks/results/evidence.json")
SPACE_RULES = Path("benchmarks/results/space-rules.json")
RULES = {
    "deepmad": "objective",
    "score": "score",
    "log_params": "params",
    "log_macs": "MACs",
    "rho": "rho",
    "blocks": "blocks",
}
COLOURS = dict(zip(RULES, ("C0", "C9", "C1", "C2", "C3", "C7"), strict=True))
CALIBRATED = "black"
ACCEL, MACRO = "Accel-NASBench", "NAS-Bench-Macro"

PAGE = """\
# Does the objective rank trained networks?

The product proves the optimum of a formula. Whether that formula says which network trains better is another question,
and this page answers it as far as published data can: {networks:,} networks that others have trained, in three
populations. Nothing was trained for this page, and nothing here is about a network that was not trained.

- **At equal rho, on ImageNet, DeepMAD's objective ranks best**: {accel_rho_deepmad} against {accel_rho_params} for the
  number of parameters (rank correlation with accuracy; 1 is the same order, 0 none).
- **At equal speed, on the same networks, parameters rank better**: {accel_a100_params} against {accel_a100_deepmad} on
  an A100, and they are ahead on all six devices.
- **No fixed rule is good everywhere.** On CIFAR-10, at equal MACs, more parameters mean *less* accuracy
  ({macro_macs_params}); there rho is the best single number ({macro_macs_rho}), and the objective has
  {macro_macs_deepmad}.
- **Two dozen trained networks ranked better than any fixed rule, on average.** An objective whose weights were fitted
  to 24 networks of a population ranks its others with {learned_24};
  the best fixed rules have {best_fixed}.

## The networks

{described}

Conventions, all by the formulas of [the mathematics](mathematics.md):

- A block of expansion 1 has no first 1x1 convolution. An expansion is one of the block's *input* here, so these
  networks are walked by the benchmark itself, not by a block family. The walk is tested against
  `deepmad_hw/problem/entropy.py`; the benchmark stops unless it gives NAS-Bench-Macro's published MACs and
  parameters, and Accel-NASBench's parameters without squeeze-excite, to the last digit.
- Stem and head count in entropy and rho; squeeze-excite, projections and the classifier do not.
- Parameters and MACs are the published ones, squeeze-excite and classifier included. Accel-NASBench's MACs are 4 to
  15 % more than convolutions and classifier make.
- *Objective* is score less ten times Q, with Q = exp(std of the depths) over all stages (of RegNets over stages 3 and
  4, as for bottleneck networks). *Score* is without Q.
- rho is the largest of any scale.
- In NAS-Bench-Macro, the first place of a stage may be nothing but a 1x1 convolution that changes the shape. It is the
  only path there, so it counts as a layer; it is no block, so it does not count in the depths. What other ways change
  is shown below.

A coefficient is the mean of ten, one inside each tenth of the networks: tenths of rho compare networks of equal rho,
tenths of measured throughput networks of equal speed, and so on. In brackets: 90 % intervals from {resamples} bootstrap
samples inside the tenths.

## Fixed rules

![Rank correlation of every rule inside tenths of rho, MACs and speed](evidence-rules.svg)

### Accel-NASBench

Spearman's coefficient:

{accel_spearman}

Kendall's:

{accel_kendall}

*Reading.* The objective helps where rho is given: there it is ahead of parameters by {accel_rho_difference}. Where
speed or MACs are given and rho is free, parameters are ahead, by {accel_a100_difference} on the A100 and
{accel_macs_difference} at equal MACs. Some networks have no measured speed on some devices and are left out there.
With at most three blocks in a stage the depth penalty is next to nothing, so these data say nothing about it. Widths
are fixed: what the objective is worth in choosing them, which is most of what a design chooses, these data cannot say.

### NAS-Bench-Macro

Spearman's coefficient:

{macro_spearman}

Kendall's:

{macro_kendall}

*Reading.* At equal rho the number of MACs (by Kendall's coefficient, of blocks) ranks best, and the objective is ahead
of parameters. At equal MACs parameters are the wrong way round: blocks of the last, widest stage have most of them,
and depth, which rho and the number of blocks count, is what goes with accuracy. The objective lies between. Widths are
fixed here, too.

### The weight of the last scale

Spearman's coefficient of the score with other weights of the last scale than DeepMAD's 8:

{last_scale}

*Reading.* The 8 is right for one population and wrong for the other. The right weights belong to the task and to the
space.

### RegNets

{regnets}

*Reading.* From 0.2 to 32 billion MACs, everything that grows with size ranks well, and rho falls with size. With rho
held fixed (partial correlation), size still ranks best; the score follows, and the depth penalty costs the objective a
good part of that, because RegNets have most of their blocks in one stage. Here widths do vary, but 24 networks of such
different size leave wide intervals and cannot say what to do at one size.

## What the pick is worth

Mean over the tenths: accuracy in % of all networks, of the best one, and of the one that each rule puts first.

{picks}

![Accuracy of the network that a rule puts first, tenth by tenth](evidence-picks.svg)

*Reading.* A pick is one network of {tenth:,} or {macro_tenth:,}, so differences of a few tenths of a point between
rules are chance. On Accel-NASBench, the objective's pick is {accel_rho_gap} points below the best network of its tenth
at equal rho and {accel_a100_gap} at equal A100 speed (parameters: {accel_rho_params_gap} and {accel_a100_params_gap});
the mean network is {accel_mean_gap} below. On NAS-Bench-Macro at equal MACs, parameters pick networks
{macro_params_gap} points below the best, worse than the mean one ({macro_mean_gap}); a third of that is one pick of the
smallest tenth. The objective's are {macro_deepmad_gap} below.

## Which rho won at which budget

![Rho of the most accurate networks, tenth by tenth of the budget](evidence-rho.svg)

{rho_tables}

*Reading.* On Accel-NASBench accuracy falls with rho in every tenth, on NAS-Bench-Macro it rises in every tenth. The
best twentieth of the networks has a median rho of {accel_best_rho} in the tenths of A100 speed of the one and of
{macro_best_rho} in the tenths of MACs of the other, and in each tenth the winners are spread over most of the range. So
there is no rho for all tasks, and the budget hardly moves the best one. With fixed widths rho only counts depth,
kernels and expansions; which rho is best where width can be traded for depth, these data cannot say.

## Calibrated on a few trained networks

The objective's weights can be fitted to trained networks instead: ridge regression of accuracy on the score (any sign),
the depth of every stage (any sign), Q (lowers), and the logarithms of parameters and MACs (raise). These are the terms
and signs that the integer model takes exactly (`deepmad_hw/predict/accuracy.py`). Below, n networks are drawn at random
from all of the population, and the fitted objective ranks all others inside the tenths; mean and standard deviation of
{repetitions} draws.

{learning}

![Rank correlation by number of trained networks](evidence-learning.svg)

*Reading.* With 12 networks the fit is worse than parameters on Accel-NASBench, and varies much from draw to draw. With
24 it beats the best fixed rule by {gains_24} on average, and in {wins_24} of the draws; with 48 in all of them. After
96 there is little to gain.

**These features were chosen on these two populations**, and so was the way in which the strength of the ridge is found
(each network left out in turn; four folds gave 0.01 to 0.02 less with 24 networks). The curves show what a calibration
can reach, not that it will on other data. Trials on your own data are the independent confirmation.

What NAS-Bench-Macro's bare 1x1 convolutions count as changes its figures (equal MACs; calibrated: mean of the same
draws):

{conventions}

## Is the advice good?

The product compares the calibrated objective with the fixed rules on networks that each fit has not seen, and
recommends it only if the 90 % interval of the difference to the best fixed rule lies above 0. Here n networks of *one*
tenth are trained, as for a real budget; the other networks of that tenth are then ranked by the rule that was
recommended ({repetitions} draws, three of each tenth; means).

{advice}

*Reading.* The advice is cautious: with 24 networks the interval is wide, and a calibrated objective that ranks better
is often not recommended. With 48 it mostly is. Following the advice ranked better than DeepMAD's objective in every
row.

## Rules that keep a design inside what has been trained

An optimiser uses the weak places of its objective. The depth penalty of bottleneck networks does not see the first two
stages, so a design may have one block in each of them and most blocks in one later stage. Whether such networks train
worse, nobody has shown. Three rules keep designs nearer to what has been trained; here is what each costs on the seven
published problems (default grid, certified; DeepMAD's objective, and the depths of the stages):

{rules}

*Reading.* At least two blocks a stage: `--set space.rules.min_depth=2`. At most 40 % of the blocks in a stage:
`--stage-share 40%`. The penalty over all stages: `objective: {{depth_penalty: {{stages: [1, 2, 3, 4, 5]}}}}` in a run
file. The largest costs:
{rules_reading}.
Each design is certified to half a percent, so smaller differences say nothing, and rules that change nothing can look
like a gain. The networks that DeepMAD's authors published have depths of 1, 6, 9, 10, 12 for the R18 problem; with all
three rules the design has nearly the same.

## The same again

```
{command}
python benchmarks/objectives.py rules --out benchmarks/results/space-rules.json
python benchmarks/evidence_page.py --out docs/evidence.md
```

`DIR` holds the three published files. The first command takes about a minute, the second four; they write
`benchmarks/results/evidence.json` and `space-rules.json`, and the last needs only these.
"""

# Title, address, licence, how it was trained, what varies, what does not.
POPULATIONS = (
    (
        ACCEL,
        "https://github.com/afzalxo/Accel-NASBench",
        "Apache-2.0",
        "ImageNet, a shortened recipe",
        "expansion, kernel, depth (1 to 3) and squeeze-excite of 7 stages",
        "widths",
    ),
    (
        MACRO,
        "https://github.com/xiusu/NAS-Bench-Macro",
        "Apache-2.0",
        "CIFAR-10, mean of three trainings",
        "each of 8 places: nothing, a block of expansion 3 and kernel 3, or one of expansion 6 and kernel 5",
        "widths",
    ),
    (
        "RegNets",
        "https://github.com/facebookresearch/pycls",
        "MIT",
        "ImageNet, 100 epochs",
        "widths, depths, group widths, squeeze-excite",
        "kernels",
    ),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    write(given.results, given.out)


def write(results, out):
    """Write the page and its plots."""
    data = json.loads(results.read_text(encoding="utf-8"))
    out.write_text(page(data), encoding="utf-8")
    # The same file for the same data: no date, no random names, text as text.
    mpl.rcParams.update({"svg.hashsalt": "evidence", "svg.fonttype": "none", "font.size": 9})
    for name, plot in (("rules", rules_plot), ("picks", picks_plot), ("rho", rho_plot), ("learning", learning_plot)):
        figure = plot(data)
        path = out.with_name(f"evidence-{name}.svg")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def space_rules(problems):
    """Return the table of what rules of the space cost, and its reading."""
    names = list(problems[0]["rules"])
    lines = [["problem", *names]]
    costs = {name: [] for name in names[1:]}
    for each in problems:
        free = each["rules"]["none"]["objective"]
        cells = []
        for name, found in each["rules"].items():
            if name in costs:
                costs[name].append(found["objective"] / free - 1)
            share = "" if name == "none" else f" ({found['objective'] / free - 1:+.1%})"
            cells.append(f"{found['objective']:,.0f}{share}; {', '.join(map(str, found['depths']))}")
        lines.append([each["problem"], *cells])
    table = ["| " + " | ".join(line) + " |" for line in (lines[0], ["---"] * len(lines[0]), *lines[1:])]
    worst = [f"{name} {-100 * min(values):.1f} %" for name, values in costs.items()]
    return {"rules": "\n".join(table), "rules_reading": ", ".join(worst)}


def page(data):
    accel, macro = data["populations"]
    learned = [(name, one) for part in data["learning"] for name, one in part["groupings"].items()]
    return PAGE.format(
        networks=accel["networks"] + macro["networks"] + data["regnets"]["networks"],
        **{key: data[key] for key in ("resamples", "repetitions", "command")},
        **population_figures("accel", accel),
        **population_figures("macro", macro),
        **space_rules(json.loads(SPACE_RULES.read_text(encoding="utf-8"))["problems"]),
        regnets=regnets(data["regnets"]),
        accel_a100_params=value(accel, "A100", "log_params"),
        accel_a100_deepmad=value(accel, "A100", "deepmad"),
        macro_macs_params=value(macro, "MACs", "log_params"),
        macro_macs_rho=value(macro, "MACs", "rho"),
        macro_macs_deepmad=value(macro, "MACs", "deepmad"),
        learned_24=", ".join(f"**{of_size(one, 24)['mean']:.2f}** ({where(name)})" for name, one in labelled(data)),
        best_fixed=", ".join(f"{max(one['fixed'].values()):.2f}" for _, one in learned),
        described=described(data),
        last_scale=last_scale(data),
        accel_rho_difference=span(accel["groupings"]["rho"]["deepmad_less_params"]),
        accel_a100_difference=span(accel["groupings"]["A100"]["deepmad_less_params"], turned=True),
        accel_macs_difference=span(accel["groupings"]["MACs"]["deepmad_less_params"], turned=True),
        picks=picks(data),
        tenth=accel["networks"] // 10,
        macro_tenth=macro["networks"] // 10,
        **pick_gaps(accel, macro),
        rho_tables=rho_tables(data),
        accel_best_rho=best_rho(accel, "A100"),
        macro_best_rho=best_rho(macro, "MACs"),
        learning=learning(data),
        gains_24=several(f"{of_size(one, 24)['mean'] - max(one['fixed'].values()):.2f}" for _, one in learned),
        wins_24=several(f"{of_size(one, 24)['above_best_fixed']:.0%}".replace("%", " %") for _, one in learned),
        conventions=conventions(data),
        advice=advice(data),
    )


def population_figures(prefix, told):
    return {
        f"{prefix}_rho_deepmad": value(told, "rho", "deepmad"),
        f"{prefix}_rho_params": value(told, "rho", "log_params"),
        f"{prefix}_spearman": coefficients(told, "spearman"),
        f"{prefix}_kendall": coefficients(told, "kendall"),
    }


def labelled(data):
    """Return the learning curves with the population and the grouping in their names."""
    return [((part["title"], name), one) for part in data["learning"] for name, one in part["groupings"].items()]


def where(name):
    title, group = name
    return f"{title}, {equal(group)}"


def equal(group):
    return f"equal {name_of(group)}"


def name_of(group):
    return group if group in ("rho", "MACs") else f"{group} speed"


def several(words):
    *first, last = words
    return f"{', '.join(first)} and {last}"


def value(told, group, rule):
    return f"{told['groupings'][group]['rules'][rule]['spearman'][0]:.2f}"


def span(figures, *, turned=False):
    middle, low, high = (-figures[0], -figures[2], -figures[1]) if turned else figures
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def of_size(curve, size):
    return next(one for one in curve["calibrated"] if one["networks"] == size)


def table(heads, lines):
    rule = ["---" if index == 0 else "---:" for index in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *lines))


def described(data):
    found = [*data["populations"], data["regnets"]]
    heads = ["population", "networks", "trained on", "accuracy, %", "what varies", "what does not"]
    lines = []
    for (title, address, licence, recipe, varies, fixed), told in zip(POPULATIONS, found, strict=True):
        least, middle, most = told["accuracy"]
        accuracies = f"{least:.1f} to {most:.1f}, median {middle:.1f}"
        lines.append([f"[{title}]({address}), {licence}", f"{told['networks']:,}", recipe, accuracies, varies, fixed])
    return table(heads, lines)


def last_scale(data):
    lines = [
        [f"{one['title']}, {equal(one['grouping'])}", *(f"{value:.2f}" for value in one["weights"].values())]
        for one in data["last_scale"]
    ]
    return table(["tenths", *data["last_scale"][0]["weights"]], lines)


def coefficients(told, kind):
    lines = []
    for group, found in told["groupings"].items():
        best = max(found["rules"], key=lambda rule: found["rules"][rule][kind][0])
        cells = [interval(found["rules"][rule][kind], bold=rule == best) for rule in RULES]
        lines.append([equal(group), f"{found['networks']:,}", *cells])
    return table(["tenths of", "networks", *RULES.values()], lines)


def interval(figures, *, bold=False):
    middle, low, high = (f"{figure:.2f}" for figure in figures)
    return f"{f'**{middle}**' if bold else middle} ({low} to {high})"


def regnets(told):
    lines = [
        [RULES[rule], interval(found["spearman"]), interval(found["given_rho"]) if "given_rho" in found else "-"]
        for rule, found in told["rules"].items()
    ]
    return table(["rule", "Spearman", "the same with rho held fixed"], lines)


def picks(data):
    lines = []
    for told in data["populations"]:
        for group, found in told["groupings"].items():
            means = {name: np.mean(values) for name, values in found["picks"].items()}
            best = max(RULES, key=means.__getitem__)
            cells = [f"**{means[rule]:.2f}**" if rule == best else f"{means[rule]:.2f}" for rule in RULES]
            lines.append([f"{told['title']}, {equal(group)}", f"{means['mean']:.2f}", f"{means['best']:.2f}", *cells])
    return table(["tenths", "mean", "best", *RULES.values()], lines)


def gap(told, group, rule):
    found = told["groupings"][group]["picks"]
    return f"{np.mean(found['best']) - np.mean(found[rule]):.1f}"


def pick_gaps(accel, macro):
    return {
        "accel_rho_gap": gap(accel, "rho", "deepmad"),
        "accel_a100_gap": gap(accel, "A100", "deepmad"),
        "accel_rho_params_gap": gap(accel, "rho", "log_params"),
        "accel_a100_params_gap": gap(accel, "A100", "log_params"),
        "accel_mean_gap": f"{gap(accel, 'rho', 'mean')} and {gap(accel, 'A100', 'mean')}",
        "macro_params_gap": gap(macro, "MACs", "log_params"),
        "macro_deepmad_gap": gap(macro, "MACs", "deepmad"),
        "macro_mean_gap": gap(macro, "MACs", "mean"),
    }


BUDGETS = ((ACCEL, "A100", "images per second", 1), (ACCEL, "MACs", "MACs, M", 1e6), (MACRO, "MACs", "MACs, M", 1e6))


def tenths_of(data, title, group):
    return next(told for told in data["populations"] if told["title"] == title)["groupings"][group]["tenths"]


def rho_tables(data):
    return "\n\n".join(
        f"{title}, tenths of {name_of(group)}:\n\n{rho_table(tenths_of(data, title, group), unit, size)}"
        for title, group, unit, size in BUDGETS
    )


def rho_table(tenths, unit, size):
    heads = [
        unit,
        "rho, 5 to 95 %",
        "median",
        "of the best network",
        "of the best 5 %: median",
        "range",
        "rho with accuracy",
    ]
    lines = [
        [
            f"{one['least'] / size:,.0f} to {one['most'] / size:,.0f}",
            f"{one['rho'][0]:.2f} to {one['rho'][2]:.2f}",
            f"{one['rho'][1]:.2f}",
            f"{one['rho_of_best']:.2f}",
            f"{one['rho_of_best_share'][1]:.2f}",
            f"{one['rho_of_best_share'][0]:.2f} to {one['rho_of_best_share'][2]:.2f}",
            f"{one['rho_and_accuracy']:.2f}",
        ]
        for one in tenths
    ]
    return table(heads, lines)


def best_rho(told, group):
    medians = [one["rho_of_best_share"][1] for one in told["groupings"][group]["tenths"]]
    return f"{min(medians):.2f} to {max(medians):.2f}"


def learning(data):
    curves = labelled(data)
    lines = []
    for rule, word in RULES.items():
        lines.append([word, "0", *(f"{curve['fixed'][rule]:.2f}" for _, curve in curves)])
    for index, size in enumerate([one["networks"] for one in curves[0][1]["calibrated"]]):
        found = [curve["calibrated"][index] for _, curve in curves]
        lines.append(["**calibrated**", str(size), *(f"**{one['mean']:.2f}** ± {one['std']:.2f}" for one in found)])
    return table(["rule", "trained", *(where(name) for name, _ in curves)], lines)


def conventions(data):
    words = {
        "layer": "a layer, no block (this page)",
        "layer and block": "a layer and a block",
        "neither": "neither",
    }
    lines = [
        [words[name], *(f"{found[key]:.2f}" for key in ("deepmad", "rho", "24", "48"))]
        for name, found in data["conventions"].items()
    ]
    return table(["the 1x1 counts as", "objective", "rho", "calibrated on 24", "on 48"], lines)


def advice(data):
    heads = [
        "tenths",
        "trained",
        "says calibrated",
        "by the advice",
        "calibrated always",
        "best fixed rule seen",
        "objective",
    ]
    lines = [
        [
            f"{one['title']}, {equal(one['grouping'])}",
            str(one["networks"]),
            f"{one['says_calibrated']} of {data['repetitions']}",
            *(f"{one[key]:.2f}" for key in ("advised", "calibrated", "best_fixed_seen", "deepmad")),
        ]
        for one in data["advice"]
    ]
    return table(heads, lines)


# --- plots ------------------------------------------------------------------------------------------------------------


def panels(count, *, height=3.4, widths=None):
    figure = Figure(figsize=(7.4, height), layout="constrained")
    found = figure.subplots(1, count, width_ratios=widths, squeeze=False)[0]
    for axes in found:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, found


def rules_plot(data):
    figure, found = panels(2, widths=[8, 2.6])
    for axes, told in zip(found, data["populations"], strict=True):
        for index, (rule, word) in enumerate(RULES.items()):
            places = np.arange(len(told["groupings"])) + (index - 2.5) / 9
            values = np.array([one["rules"][rule]["spearman"] for one in told["groupings"].values()])
            reach = np.abs(values[:, 1:] - values[:, :1]).T
            axes.errorbar(places, values[:, 0], reach, fmt="o", markersize=4, color=COLOURS[rule], label=word)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_xticks(range(len(told["groupings"])), list(told["groupings"]), rotation=30)
        axes.set(title=told["title"], ylim=(-0.5, 1))
    found[0].set_ylabel("rank correlation inside tenths")
    figure.legend(*found[0].get_legend_handles_labels(), frameon=False, ncols=len(RULES), loc="outside lower center")
    return figure


def picks_plot(data):
    shown = [(ACCEL, "rho"), (ACCEL, "A100"), (MACRO, "MACs")]
    figure, found = panels(len(shown))
    for axes, (title, group) in zip(found, shown, strict=True):
        told = next(one for one in data["populations"] if one["title"] == title)["groupings"][group]["picks"]
        tenth = np.arange(1, len(told["mean"]) + 1)
        axes.fill_between(tenth, told["mean"], told["best"], color="#eeeeee", label="from mean to best")
        for rule in ("deepmad", "log_params", "rho"):
            axes.plot(tenth, told[rule], "o-", markersize=3, linewidth=1, color=COLOURS[rule], label=RULES[rule])
        axes.set(
            title=title, xlabel=f"tenth of {name_of(group)}", ylim=(min(told["mean"]) - 4, max(told["best"]) + 0.5)
        )
        axes.set_xticks(range(1, len(tenth) + 1, 3))
    found[0].set_ylabel("accuracy of the pick, %")
    figure.legend(*found[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
    return figure


def rho_plot(data):
    figure, found = panels(len(BUDGETS))
    for axes, (title, group, unit, _) in zip(found, BUDGETS, strict=True):
        tenths = tenths_of(data, title, group)
        places = np.arange(1, len(tenths) + 1)
        band = np.array([one["rho"] for one in tenths])
        best = np.array([one["rho_of_best_share"] for one in tenths])
        axes.fill_between(places, band[:, 0], band[:, 2], color="#eeeeee", label="all: 5 to 95 %")
        axes.plot(places, band[:, 1], color="#999999", label="all: median")
        reach = np.abs(best[:, [0, 2]] - best[:, 1:2]).T
        axes.errorbar(places, best[:, 1], reach, fmt="o", markersize=4, color="C0", label="best 5 %: median and range")
        axes.plot(places, [one["rho_of_best"] for one in tenths], "x", color="C1", label="the best")
        axes.set(title=title, xlabel=f"tenth of {unit.split(',')[0]}", ylim=(0, None))
        axes.set_xticks(range(1, len(tenths) + 1, 3))
    found[0].set_ylabel("rho")
    figure.legend(*found[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
    return figure


def learning_plot(data):
    curves = labelled(data)
    figure, found = panels(len(curves))
    for axes, ((title, group), curve) in zip(found, curves, strict=True):
        for rule, word in RULES.items():
            if rule == "score":  # as good as the objective everywhere
                continue
            axes.axhline(curve["fixed"][rule], color=COLOURS[rule], linewidth=1, linestyle="--", label=word)
        sizes = [one["networks"] for one in curve["calibrated"]]
        means, spreads = ([one[key] for one in curve["calibrated"]] for key in ("mean", "std"))
        axes.errorbar(sizes, means, spreads, fmt="o-", markersize=4, color=CALIBRATED, label="calibrated")
        axes.set(title=f"{title},\n{equal(group)}", xlabel="trained networks", xscale="log", ylim=(-0.5, 1))
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
    found[0].set_ylabel("rank correlation inside tenths")
    figure.legend(*found[0].get_legend_handles_labels(), frameon=False, ncols=6, loc="outside lower center")
    return figure


if __name__ == "__main__":
    main()
