"""Writes docs/accuracy.md and its plots from the stored results of the accuracy benchmark; measures nothing.

python benchmarks/accuracy_page.py --out docs/accuracy.md
"""

import argparse
import json
from pathlib import Path

import accuracy
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

INTERPOLATORS = Path("benchmarks/results/interpolators.json")
FOREIGN = Path("benchmarks/results/foreign.json")
GROUPS = {
    "random": "random members of the spaces",
    "design": "designs under a latency limit of the shipped table",
    "new-design": "designs under a latency limit of the table that is tested",
    "reference": "well-known networks",
}
FAMILIES = ("bottleneck", "basic", "mbconv", "mbconv_se", "reference")
OURS = "law and process (ours)"

PAGE = """\
# How well latencies are predicted

Ten minutes of profiling, {networks} whole networks that were never profiled, one interleaved run. A network that the
table refuses would count as an error without end.

| figure | aim | reached |
|---|---:|---:|
| networks never profiled, of them refused | at least 60, - | {networks}, {refused} |
| seconds of profiling | at most 600 | {profile_seconds:.0f} |
| median error | at most 3 % | **{median:.1f} %** |
| within ±10 % | at least 95 % | **{within:.1f} %** |
| worst error | at most 15 % | **{worst:.1f} %** |
| signed mean error | within ±2 % | **{mean:+.2f} %** |
| measured inside the 90 % interval (±{margin:.1f} %) | 84 to 96 % | **{covered:.1f} %** |

Machine: {cores} cores of {machine} (a virtual machine), {runtime}, {threads} thread, fp32, batch 1, {measured_on}.
Whatever else ran on it was stopped meanwhile. While the run lasted ({run_minutes:.0f} minutes in parts), the canary's
slowest calm unit took {swing:.2f} times its fastest; {disturbed} of {units} units were disturbed and not used where a
calm one of the same network exists.

![Share of networks below an error](accuracy-errors.svg)

![Error of each network beside the 90 % interval](accuracy-networks.svg)

## What was tested

- *Random* networks: {random} draws from the spaces of all four families at 224x224 pixels, seed {seed}. They were
  committed before anything was measured.
- *Designs*: what the optimiser makes of a latency limit. {designs} were asked of the table that comes along;
  {new_designs} of the very table that is tested here, so that the optimiser has searched for its mistakes. These last
  were measured in a run of their own right after, brought to the same usual speed by the canary.
- *Well-known* networks: {references}. Rescaled copies of
  {rescaled} are among the probes, never the networks themselves.
- The {calibration} networks that calibrate the table (its gain and its margin) were drawn with another seed; every
  third is a design. None of them is tested, and packing the run checks that.
- The table holds {layers} layers from {probes} probe networks. Of the layers of the tested networks, {shared:.0f} % are
  among them; the others are interpolated.

An error is predicted over measured less one. The measured value is the median of the unprofiled runs of the whole
network, the canary's drift divided out.

## By family and by kind

The interval speaks of all networks together; it is too wide for some families and too narrow for others.

{by_family}

{by_group}

## Which interpolator

All see the same rows and the same calibration networks, and whatever was measured well is taken as it is, whoever
interpolates; so the networks' errors differ less than the layers'. Layers are those of probes that were left out.
A network whose layers lie outside what was measured is refused by the rule of the interpolator in use, and left out
for all.

![Median error of left-out layers by number of probe networks](accuracy-interpolators.svg)

{interpolators}

## The same again

```
python benchmarks/accuracy.py draw && python benchmarks/accuracy.py pack
python benchmarks/accuracy.py measure              # parts of nine minutes, until it says that all is measured
python benchmarks/accuracy.py design
python benchmarks/accuracy.py measure --designs
python benchmarks/accuracy.py collect && python benchmarks/accuracy.py evaluate
python benchmarks/interpolators.py --out benchmarks/results/interpolators.json
python benchmarks/accuracy_page.py --out docs/accuracy.md
```

The raw samples, the table and the networks lie in `benchmarks/results/accuracy`; the last three commands need nothing
else.

## Every network

{every}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    data = json.loads(accuracy.SUMMARY.read_text(encoding="utf-8"))
    comparison = json.loads(INTERPOLATORS.read_text(encoding="utf-8"))
    foreign = json.loads(FOREIGN.read_text(encoding="utf-8"))
    out.write_text(page(data["summary"], data["networks"], comparison) + others(foreign), encoding="utf-8")
    # The same file for the same data: no date, no random names, text as text.
    mpl.rcParams.update({"svg.hashsalt": "accuracy", "svg.fonttype": "none", "font.size": 9})
    rows = data["networks"]
    _saved(_errors_plot(rows), out.with_name("accuracy-errors.svg"))
    _saved(_networks_plot(rows, data["summary"]["margin"]), out.with_name("accuracy-networks.svg"))
    _saved(_interpolators_plot(comparison), out.with_name("accuracy-interpolators.svg"))


OTHERS = """
## Networks of others

{networks} networks that no block family has, from PyTorch's exporters (`tests/exporters/foreign_torch.py`), measured
beside their prediction in one interleaved run on {machine}, {date}, with the table of ten minutes that comes along for
that machine:

```
{command}
```

{summary}

Where more than a tenth of a number would rest on extrapolation, none is given: such a network counts as not
predicted. A network is in the column without extrapolation where not more than a hundredth of it does.

{every}
"""


def others(made):
    """Return the section on networks that no block family has."""
    parts = {"all": "all", "measured_parts": "no extrapolation", "guessed_parts": "some extrapolation"}
    found = [made["summary"][part] for part in parts]
    figures = {
        "networks": lambda part: str(part["networks"]),
        "measured": lambda part: str(part["measured"]),
        "predicted": lambda part: str(part["predicted"]),
        "median error": lambda part: _percent(part["median_error"]),
        "mean error": lambda part: _percent(part["mean_error"], sign="+"),
        "nine in ten within": lambda part: _percent(part["ninth_decile"]),
        "worst error": lambda part: _percent(part["worst_error"]),
        "measured inside the 90 % interval": lambda part: _percent(part["inside_interval"]),
    }
    lines = [[name, *(figure(part) for part in found)] for name, figure in figures.items()]
    return OTHERS.format(
        networks=made["summary"]["all"]["networks"],
        machine=made["machine"],
        date=made["date"],
        command=made["command"],
        summary=_table(["figure", *parts.values()], lines),
        every=_table(
            ("network", "MACs", "measured ms", "predicted ms", "interval", "error", "extrapolated"),
            [_other(row) for row in made["networks"]],
        ),
    )


def _percent(share, *, sign=""):
    return "-" if share is None else f"{100 * share:{sign}.1f} %"


def _other(row):
    known = row["predicted_ms"] is not None
    error = row["predicted_ms"] / row["measured_ms"] - 1 if known and row["measured_ms"] else None
    return [
        row["name"],
        f"{row['macs'] / 1e6:,.0f}M",
        f"{row['measured_ms']:.2f}" if row["measured_ms"] else "-",
        f"{row['predicted_ms']:.2f}" if known else "none",
        f"{row['lower_ms']:.2f}..{row['upper_ms']:.2f}" if known else "",
        _percent(error, sign="+"),
        _percent(row["extrapolated_share"]),
    ]


def page(summary, rows, comparison):
    stored = json.loads(accuracy.SAMPLES.read_text(encoding="utf-8"))
    count = {group: sum(row["group"] == group for row in rows) for group in GROUPS}
    return PAGE.format(
        **{key: summary[key] for key in ("networks", "refused", "profile_seconds", "cores", "machine", "runtime")},
        **{key: summary[key] for key in ("threads", "measured_on", "units", "layers")},
        median=100 * summary["median_error"],
        within=100 * summary["within"]["10%"],
        worst=100 * summary["worst_error"],
        mean=round(100 * summary["mean_error"], 2),
        margin=100 * summary["margin"],
        covered=100 * summary["covered"],
        run_minutes=summary["run_seconds"] / 60,
        swing=summary["canary_swing"],
        disturbed=summary["disturbed_units"],
        random=count["random"],
        designs=count["design"],
        new_designs=count["new-design"],
        seed=json.loads(accuracy.NETWORKS.read_text(encoding="utf-8"))["seed"],
        references=", ".join(row["name"] for row in rows if row["group"] == "reference"),
        rescaled="resnet18, resnet50, mobilenet_v2 and efficientnet_b0",
        calibration=summary["calibration_networks"],
        probes=len(stored["probes"]),
        shared=100 * np.mean([row["profiled_share"] for row in rows]),
        by_family=_kinds(rows, "family", FAMILIES, _family),
        by_group=_kinds(rows, "kind", GROUPS, lambda row: row["group"], GROUPS),
        interpolators=_interpolators(comparison),
        every=_every(rows),
    )


def _family(row):
    return "reference" if row["group"] == "reference" else row["family"]


def _kinds(rows, title, kinds, kind_of, words=None):
    heads = (title, "networks", "median", "95th percentile", "worst", "mean", "within ±10 %", "inside the interval")
    lines = []
    for kind in kinds:
        found = [row for row in rows if kind_of(row) == kind]
        if found:
            told = accuracy.figures(found)
            high = np.quantile([abs(row["error"] or np.inf) for row in found], 0.95)
            values = (told["median_error"], high, told["worst_error"])
            shares = (told["within"]["10%"], told["covered"])
            lines.append(
                [(words or {}).get(kind, f"`{kind}`"), str(len(found))]
                + [f"{value:.1%}" for value in values]
                + [f"{told['mean_error']:+.1%}"]
                + [f"{share:.0%}" for share in shares]
            )
    return _table(heads, lines)


def _interpolators(comparison):
    heads = ("probes", "rows", "interpolator", "layers: median", "90th", "networks: median", "90th", "refused", "fit")
    lines = []
    for item in comparison:
        name = f"**{item['interpolator']}**" if item["interpolator"] == OURS else item["interpolator"]
        errors = [item[key] for key in ("layer_median_error", "layer_p90_error", "median_error", "p90_error")]
        shown = ["-" if error is None else f"{error:.1%}" for error in errors]
        fit = f"{item['fit_seconds']:.1f} s"
        lines.append([str(item["probes"]), str(item["rows"]), name, *shown, str(item["refused"]), fit])
    return _table(heads, lines)


def _every(rows):
    heads = ("network", "family", "measured ms", "predicted ms", "error", "interval holds")
    lines = [
        [
            row["name"],
            row["family"],
            f"{row['measured_ms']:.2f}",
            "refused" if row["predicted_ms"] is None else f"{row['predicted_ms']:.2f}",
            "-" if row["error"] is None else f"{row['error']:+.1%}",
            "yes" if row["inside"] else "no",
        ]
        for row in rows
    ]
    return _table(heads, lines)


def _table(heads, lines):
    numeric = [any(character.isdigit() for character in cell) for cell in lines[-1]]
    rule = ["---:" if right and index else "---" for index, right in enumerate(numeric)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *lines))


# --- plots ------------------------------------------------------------------------------------------------------------


def _figure():
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _errors_plot(rows):
    figure, axes = _figure()
    for family in FAMILIES:
        errors = np.sort(
            [100 * abs(row["error"]) for row in rows if _family(row) == family and row["error"] is not None]
        )
        share = 100 * np.arange(1, len(errors) + 1) / len(errors)
        axes.step(errors, share, where="post", label=f"{family} ({len(errors)})")
    axes.set(xlabel="error in % (without sign)", ylabel="share of networks below, %", xlim=(0, None), ylim=(0, 101))
    axes.legend(frameon=False, loc="lower right")
    return figure


def _networks_plot(rows, margin):
    figure, axes = _figure()
    # Predictions hold where measured lies within predicted * (1 +- margin).
    axes.axhspan(100 * (1 / (1 + margin) - 1), 100 * (1 / (1 - margin) - 1), color="#eeeeee", label="90 % interval")
    for group, marker in zip(GROUPS, "ovs*", strict=True):
        found = [row for row in rows if row["group"] == group and row["error"] is not None]
        axes.plot(
            [row["measured_ms"] for row in found],
            [100 * row["error"] for row in found],
            marker,
            markersize=7 if marker == "*" else 3.5,
            alpha=0.8,
            label=group,
        )
    axes.set(xscale="log", xlabel="measured, ms", ylabel="error, %")
    axes.set_xticks([5, 10, 20, 50, 100, 200], ["5", "10", "20", "50", "100", "200"])
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.25))
    return figure


def _interpolators_plot(comparison):
    figure, axes = _figure()
    for name in dict.fromkeys(item["interpolator"] for item in comparison):
        found = [item for item in comparison if item["interpolator"] == name]
        axes.plot(
            [item["probes"] for item in found],
            [100 * item["layer_median_error"] for item in found],
            "o-",
            linewidth=2.2 if name == OURS else 1.1,
            markersize=3,
            label=name,
        )
    axes.set(xlabel="probe networks", ylabel="median error of left-out layers, %", yscale="log")
    axes.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.25))
    return figure


def _saved(figure, path):
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
