"""`calibrate` and `design --objective` as a user runs them: from trained networks to a certified design and back."""

import csv
import json
import math

import numpy as np
import pytest

from deepmad_hw import cli
from deepmad_hw.formats import serde
from deepmad_hw.problem import check, entropy, sampling
from deepmad_hw.workflows.runfile.config import load_problem

NETWORKS = 24
WEIGHTS = {"score": 0.004, "log_params": 3.0, "depth": 0.3}


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def accuracy_of(network):
    """Return a made-up accuracy: a sum of features, so that a fit can find it."""
    said = check.evaluate(network)
    depth = sum(stage.depth for stage in network.stages)
    worth = WEIGHTS["score"] * said.score + WEIGHTS["log_params"] * math.log(said.params) + WEIGHTS["depth"] * depth
    return 20 + worth % 1000


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    """Return a folder of designs of the digits space with accuracies, two dozen of them."""
    folder = tmp_path_factory.mktemp("population")
    space = load_problem("digits", overrides={"grid": "reference"}).space
    random = np.random.default_rng(0)
    lines = ["design,accuracy"]
    for number in range(NETWORKS):
        network = sampling.random_architecture(space, random)
        (folder / f"n{number}.json").write_text(json.dumps(serde.architecture_to_json(network)))
        lines.append(f"n{number}.json,{accuracy_of(network)!r}")
    (folder / "accuracies.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def objective(population, tmp_path_factory):
    """Return the file of the objective that was fitted to the population."""
    out = tmp_path_factory.mktemp("objective") / "objective.json"
    assert cli.main(["calibrate", str(population), "--out", str(out), "--source", "made up"]) == 0
    return out


def test_weights_rules_and_the_honest_sentence_are_shown(population, tmp_path, capsys):
    code, out, err = run(capsys, "calibrate", population, "--out", tmp_path / "o.json")
    assert code == 0, err
    assert "log params" in out
    assert "Use the" in out
    assert "rank correlation with accuracy" in out
    stored = serde.read_objective(tmp_path / "o.json")
    assert stored.calibration.networks == NETWORKS
    assert stored.calibration.source == population.name
    code, out, _ = run(capsys, "calibrate", population, "--out", tmp_path / "o.json", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["objective"] == json.loads((tmp_path / "o.json").read_text())
    assert set(data["comparison"]) >= {"use", "sentence", "calibrated", "fixed"}


def test_a_design_is_certified_in_points_and_verified(objective, tmp_path, capsys):
    folder = tmp_path / "d"
    words = ("digits", "--grid", "reference", "--objective", objective)
    code, out, err = run(capsys, "design", *words, "--out", folder)
    assert code == 0, err
    assert "accuracy points" in out
    assert "leverage" in out
    data = json.loads((folder / "design.json").read_text())
    assert data["bound"] - data["objective"] == pytest.approx(data["gap"])
    assert 0 <= data["gap"] <= 0.05
    assert data["worth"]["unit"] == "accuracy points"
    assert data["objective"] == pytest.approx(math.fsum(term["value"] for term in data["worth"]["terms"]))
    certificate = json.loads((folder / "certificate.json").read_text())
    assert len(certificate["objective_sha256"]) == 64
    code, out, err = run(capsys, "verify", folder)
    assert code == 0, err
    code, _, err = run(capsys, "design", folder / "problem.json", "--gap", "0.5%")
    assert code == 2
    assert "a calibrated objective has a unit" in err
    assert run(capsys, "report", folder, "--out", tmp_path / "r.html")[0] == 0


def test_a_design_stays_where_networks_were_trained(objective, tmp_path, capsys):
    folder = tmp_path / "d"
    assert run(capsys, "design", "digits", "--grid", "reference", "--objective", objective, "--out", folder)[0] == 0
    design = serde.read_solution(folder / "design.json")
    seen = serde.read_objective(objective).calibration.ranges
    values = check.features(design.architecture, design.evaluation)
    assert all(check.within(values[each.feature], each) for each in seen)


def test_a_changed_weight_is_found_by_verify(objective, tmp_path, capsys):
    folder = tmp_path / "d"
    assert run(capsys, "design", "digits", "--grid", "reference", "--objective", objective, "--out", folder)[0] == 0
    data = json.loads((folder / "problem.json").read_text())
    data["objective"]["log_params"] += 0.5
    (folder / "problem.json").write_text(json.dumps(data))
    code, _, err = run(capsys, "verify", folder)
    assert code == 3
    assert "objective: stored" in err


def test_a_sweep_maximises_it_too(objective, tmp_path, capsys):
    code, out, err = run(
        capsys, "sweep", "digits", "--grid", "reference", "--objective", objective, "--macs", "2M:4M:2",
        "--jobs", "1", "--json", "--out", tmp_path / "s",
    )  # fmt: skip
    assert code in (0, 5), err
    points = json.loads(out)["points"]
    assert [point["worth"]["unit"] for point in points] == ["accuracy points"] * 2
    assert points[0]["objective"] <= points[1]["objective"]


def test_features_of_networks_from_elsewhere_come_as_a_csv(population, tmp_path, capsys):
    rows = []
    with (population / "accuracies.csv").open() as text:
        for row in csv.DictReader(text):
            network = serde.read_architecture(population / row["design"])
            said = check.evaluate(network)
            rows.append(
                {
                    "name": row["design"],
                    "family": network.family,
                    "accuracy": row["accuracy"],
                    "params": said.params,
                    "macs": said.macs,
                    "rho": said.max_rho,
                    **{f"entropy:{i}": scale.entropy for i, scale in enumerate(entropy.scales(network), 1)},
                    **{f"depth:{i}": stage.depth for i, stage in enumerate(network.stages, 1)},
                }
            )
    with (tmp_path / "p.csv").open("w", newline="") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert run(capsys, "calibrate", tmp_path / "p.csv", "--out", tmp_path / "o.json")[0] == 0
    assert run(capsys, "calibrate", population, "--out", tmp_path / "q.json")[0] == 0
    one, other = serde.read_objective(tmp_path / "o.json"), serde.read_objective(tmp_path / "q.json")
    assert one.scale_weights == pytest.approx(other.scale_weights)
    assert one.constant == pytest.approx(other.constant)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("design,accuracy", "design,top1"), ":1: 'top1' is no column of a population"),
        (lambda text: text.replace("design,accuracy", "design,design"), ":1: 'design' stands twice"),
        (lambda text: text.replace("n0.json,", "n0.json,nan"), "accuracy: 'nan"),
        (lambda text: text.replace("n1.json", "../n1.json"), "lies outside the folder"),
        (lambda text: text.replace("n1.json", "nobody.json"), "nobody.json: cannot be read"),
        (lambda text: text.split("\n", 3)[0] + "\n", "expected 1 to 100000 networks"),
        (lambda text: "\n".join(text.split("\n")[:5]) + "\n", "expected at least"),
        (lambda text: text.replace("n2.json,", "n2.json,1,"), "expected 2 values"),
        (lambda text: text.replace("n3.json,", "n3.json,9"), "from 0 to 100"),
    ],
)
def test_a_population_that_cannot_be_used_is_one_line(population, change, said, tmp_path, capsys):
    for file in population.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "accuracies.csv").write_text(change((population / "accuracies.csv").read_text()))
    code, out, err = run(capsys, "calibrate", tmp_path, "--out", tmp_path / "o.json")
    assert code in (2, 3)
    assert said in err
    assert err.rstrip().count("\n") <= 1  # below the line that says what was going on
    assert out == ""
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(schema=9), "too new"),
        (lambda data: data.update(log_params=-1.0), "expected a weight of at least 0"),
        (lambda data: data.update(colour=1), "unknown key"),
        (lambda data: data["calibration"].pop("ranges"), "ranges: missing"),
        (lambda data: data["calibration"]["ranges"][0].update(least=1e9), "expected least <= most"),
        (lambda data: data["calibration"].update(family="basic"), "was fitted to basic networks"),
        (lambda data: data["calibration"].update(features=["score"]), "expected 1 features everywhere"),
        (lambda data: data["calibration"]["features"].__setitem__(0, "beauty"), "has a feature 'beauty'"),
        (lambda data: data["calibration"]["center"].__setitem__(0, math.inf), "too large a number"),
        (lambda data: data.update(scale_weights=[1.0]), "has 1 weights"),
        (lambda data: data["calibration"].update(unit=""), "expected the unit of the objective"),
    ],
)
def test_an_objective_that_cannot_be_used_is_one_line_and_exit_code_3(objective, change, said, tmp_path, capsys):
    data = json.loads(objective.read_text())
    change(data)
    file = tmp_path / "o.json"
    file.write_text(json.dumps(data).replace("Infinity", "1e999"))
    code, out, err = run(capsys, "design", "digits", "--objective", file)
    assert (code, out) == (3, "")
    assert said in err
    assert err.count("\n") == 1


def test_an_objective_that_is_not_there_is_one_line(tmp_path, capsys):
    code, _, err = run(capsys, "design", "digits", "--objective", tmp_path / "none.json")
    assert code == 2
    assert "no objective and no file is called" in err


def test_a_run_file_may_hold_weights_or_name_a_file(objective, tmp_path):
    from deepmad_hw.workflows.runfile.config import find, load_run

    text = find("digits").read_text()
    file = tmp_path / "run.yaml"
    file.write_text(text + "objective: {log_params: 2.0, depth_penalty: {form: variance, weight: 0}}\n")
    found = load_run(file).problem.objective
    assert (found.log_params, found.penalty, found.penalty_weight) == (2.0, "variance", 0.0)
    file.write_text(text + f"objective: {{file: {objective}}}\n")
    assert load_run(file).problem.objective == serde.read_objective(objective)
    file.write_text(text + "objective: deepmad\n")
    assert load_run(file).problem.objective is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{log_params: -1}", "objective.log_params: Input should be greater than or equal to 0"),
        ("{scale_weights: [1, null]}", "objective.scale_weights[1]: Input should be a valid number"),
        ("{colour: 1}", "objective.colour: unknown key"),
        ("{depth_penalty: {weight: -1}}", "objective.depth_penalty.weight"),
        ("none.json", "no objective and no file is called 'none.json'"),
        ("{file: a.json, log_params: 1}", "a file and weights beside it"),
    ],
)
def test_a_mistake_in_a_run_files_objective_is_one_line_with_its_place(words, said, tmp_path, capsys):
    from deepmad_hw.workflows.runfile.config import find

    file = tmp_path / "run.yaml"
    file.write_text(find("digits").read_text() + f"objective: {words}\n")
    code, _, err = run(capsys, "design", file)
    assert code == 2
    assert said in err
    assert err.startswith(f"error: {file}:")
    assert err.count("\n") == 1


def test_objectives_of_different_units_do_not_share_a_sweep(objective, tmp_path, capsys):
    from deepmad_hw.workflows.runfile.config import find

    text = find("digits").read_text()
    for name, line in (("a", f"objective: {{file: {objective}}}"), ("b", "objective: deepmad")):
        (tmp_path / f"{name}.yaml").write_text(text.replace("name: digits", f"name: {name}") + line + "\n")
    code, _, err = run(capsys, "sweep", tmp_path / "a.yaml", tmp_path / "b.yaml", "--out", tmp_path / "s")
    assert code == 2
    assert "objectives of different units in one sweep" in err
