"""The limit on the bytes of exported weights: what files really hold, and every place where a limit counts."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deepmad_hw import cli
from deepmad_hw.network import costs
from deepmad_hw.problem import check
from deepmad_hw.problem.problem import Limits
from deepmad_hw.workflows.design.design import design
from deepmad_hw.workflows.export.export import export
from deepmad_hw.workflows.networks.networks import load_network
from deepmad_hw.workflows.runfile.config import load_problem

TARGETS = {"fp32": "onnx", "fp16": "onnx-fp16", "int8": "onnx-int8"}
NAMES = {"fp32": "weights_size", "fp16": "weights_size_fp16", "int8": "weights_size_int8"}


@pytest.mark.parametrize("precision", TARGETS)
@pytest.mark.parametrize("family", ["basic", "bottleneck", "mbconv", "mbconv_se"])
def test_bytes_are_those_of_the_exported_file(precision, family, digits_folder, tmp_path):
    network = load_network(str(digits_folder / f"{family}.json"))
    (file, *_) = export(network, tmp_path / "m.onnx", target=TARGETS[precision])
    held = Counter()
    for tensor in onnx.load(file).graph.initializer:
        array = numpy_helper.to_array(tensor)
        held["of channels and weights" if array.ndim else "of tensors"] += array.nbytes
    architecture = network.architecture
    limits = Limits.of({NAMES[precision]: 1.0})
    assert check.evaluate(architecture, limits=limits).other(NAMES[precision]) == held["of channels and weights"]
    assert held["of tensors"] < 0.01 * held["of channels and weights"]


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_design_keeps_it_and_every_verb_knows_it(tmp_path, capsys):
    folder = tmp_path / "d"
    code, out, err = run(
        capsys, "design", "digits", "--weights-size-int8", "60KiB", "--grid", "reference", "--out", folder
    )
    assert code == 0, err
    assert "weights in int8" in out
    assert "60 KiB" in out
    data = json.loads((folder / "design.json").read_text())
    (held,) = data["others"]
    assert held["limit"] == "weights_size_int8"
    assert 0 < held["value"] <= 60 * 1024
    assert "weights_size_int8" in {price["limit"] for price in data["prices"]}
    assert run(capsys, "verify", folder)[0] == 0
    assert run(capsys, "report", folder, "--out", tmp_path / "r.html")[0] == 0
    assert "weights in int8" in (tmp_path / "r.html").read_text()
    changed = json.loads((folder / "design.json").read_text())
    changed["others"][0]["value"] += 1
    (folder / "design.json").write_text(json.dumps(changed))
    code, _, err = run(capsys, "verify", folder)
    assert code == 3
    assert "others" in err


def test_a_sweep_walks_along_it_and_labels_carry_units(tmp_path, capsys):
    code, out, err = run(
        capsys, "sweep", "digits", "--weights-size", "150KiB:250KiB:3", "--method", "fast", "--grid", "reference",
        "--jobs", "1", "--json", "--out", tmp_path / "s",
    )  # fmt: skip
    assert code == 0, err
    points = json.loads(out)["points"]
    held = [point["others"][0]["value"] for point in points]
    assert all(value <= limit * 1024 for value, limit in zip(held, (150, 200, 250), strict=True))
    objectives = [point["objective"] for point in points]
    assert objectives == sorted(objectives)


def test_what_it_would_need_is_said(capsys):
    code, _, err = run(capsys, "design", "digits", "--weights-size", "1KiB", "--grid", "reference")
    assert code == 4
    assert "weights_size needs at least" in err


def test_a_run_file_and_a_stored_problem_take_it():
    problem = load_problem("digits", overrides={"limits.weights_size_fp16": "100KiB", "grid": "reference"})
    assert problem.limits.named()["weights_size_fp16"] == 100 * 1024
    solution = design(problem, method="fast")
    assert solution.evaluation.other("weights_size_fp16") <= 100 * 1024
    free = replace(problem, limits=Limits())
    assert check.evaluate_for(free, solution.architecture, {}).others == ()


def test_a_price_agrees_with_two_solves():
    from deepmad_hw.optimize.coefficients import coefficients
    from deepmad_hw.optimize.continuous import solve_continuous

    problem = load_problem("digits", overrides={"grid": "reference"})

    def solved(size):
        limits = Limits.of({"rho": problem.limits.rho or 0.5, "weights_size": size})
        return solve_continuous(coefficients(replace(problem, limits=limits), {}))

    size, step = 200 * 1024.0, 200.0
    (price,) = [price for price in solved(size).prices if price.limit == "weights_size"]
    slope = (solved(size + step).design.objective - solved(size - step).design.objective) / (2 * step)
    assert price.binding
    assert price.objective_per_unit == pytest.approx(slope * 2**20, rel=0.03)


def test_totals_are_sums_over_layers_of_arrays_too():
    from deepmad_hw.network.families.base import conv

    widths = np.array([16, 32])
    layer = conv("c", "input", channels=(widths, widths), pixels=(8, 8))
    assert costs.layer_weight_bytes(layer, precision="int8").tolist() == [16 * 16 + 17 * 16, 32 * 32 + 17 * 32]
