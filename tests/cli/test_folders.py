"""A folder that holds no design says so to every verb that takes one, in one line."""

import json
import shutil
from pathlib import Path

import pytest

from deepmad_hw.cli import EXIT_INFEASIBLE, EXIT_INPUT_FILE, EXIT_OK, app
from deepmad_hw.errors import InputFileError
from deepmad_hw.formats.serde import read_architecture
from deepmad_hw.workflows.networks.networks import load_network

pytestmark = pytest.mark.checkout

TABLE = min((Path(__file__).parents[2] / "latency_tables").glob("*/*.csv"), default=None)
# Every verb that reads a design's folder, up to the word that names it. `report` and plain `verify` tell of answers
# without a design too, and are tried below.
READERS = {
    "export": ("export", "{folder}", "--out", "{out}.onnx"),
    "bench": ("bench", "{folder}", "--table", "{table}", "--predict-only"),
    "verify": ("verify", "{out}.onnx", "--against", "{folder}"),
    "design": ("design", "{config}", "--latency", "{table}=like:{folder}"),
    "sweep": ("sweep", "{config}", "--latency", "{table}=like:{folder},40ms", "--out", "{out}"),
}
NOT_READERS = {"calibrate", "quickstart", "doctor", "profile", "table", "report", "trial"}  # `report`: see below
HOLDS = {
    "infeasible": "holds no design: its limits cannot be met (macs needs at least ",
    "failed": "holds no design: none was found (the time was up); solve again with a longer --time-limit",
    "continuous": "holds no design: its widths are real numbers (--method continuous) that no network has",
    "sweep": "holds a sweep, not one design; give the folder of one point, such as ",
    "quickstart": "holds no design itself; give ",
    "empty": "holds no design: there is no design.json in it; give the folder that `design --out` wrote",
}


@pytest.fixture
def folder(run, config, tmp_path, request):
    """Return a folder that holds no design, by its kind."""
    kind, made = request.param, tmp_path / "made"
    if kind in ("infeasible", "failed"):
        assert run("design", config, "--macs", "1k", "--out", made).code == EXIT_INFEASIBLE
    if kind == "failed":
        answer = {**json.loads((made / "design.json").read_text()), "tightest": []}
        (made / "design.json").write_text(json.dumps({**answer, "status": "failed", "stopped": "the time was up"}))
    if kind == "continuous":
        assert run("design", config, "--method", "continuous", "--out", made).code == EXIT_OK
    if kind == "sweep":
        assert run("sweep", config, "--macs", "4M", "--method", "fast", "--jobs", 1, "--out", made).code == EXIT_OK
    if kind == "quickstart":
        assert run("design", config, "--method", "fast", "--out", made / "design").code == EXIT_OK
    made.mkdir(exist_ok=True)
    return made


def test_every_verb_is_tried_or_reads_no_design():
    assert READERS.keys() | NOT_READERS == set(app.VERBS)


@pytest.mark.parametrize("folder", HOLDS, indirect=True)
def test_a_folder_without_a_design_says_so_to_every_verb(run, config, tmp_path, folder, request):
    kind = request.node.callspec.params["folder"]
    for words in READERS.values():
        named = {"folder": folder, "out": tmp_path / "out", "table": TABLE, "config": config}
        ran = run(*(word.format(**named) for word in words))
        assert ran.code == EXIT_INPUT_FILE, words
        assert ran.error.startswith(f"{folder}: {HOLDS[kind]}"), words
        assert ran.out == ""
    with pytest.raises(InputFileError, match="holds"):
        load_network(folder)


@pytest.mark.parametrize("folder", ["sweep", "quickstart", "empty"], indirect=True)
def test_a_folder_that_is_no_answer_cannot_be_verified(run, folder, request):
    ran = run("verify", folder)
    assert (ran.code, ran.out) == (EXIT_INPUT_FILE, "")
    assert ran.error.startswith(f"{folder}: {HOLDS[request.node.callspec.params['folder']]}")


@pytest.mark.parametrize("folder", ["infeasible", "failed", "continuous"], indirect=True)
def test_an_answer_without_a_design_is_verified_and_reported_with_the_reason(run, tmp_path, folder, request):
    """The answer itself is there to be checked and shown: what the limits need, or the continuous optimum."""
    said = HOLDS[request.node.callspec.params["folder"]]
    verified = run("verify", folder)
    assert verified.code == EXIT_OK
    assert verified.out.splitlines()[1].startswith(f"note: {said}")
    assert json.loads(run("verify", folder, "--json").out)["notes"][0].startswith(said)
    reported = run("report", folder, "--out", tmp_path / "r.html", "--no-plots")
    assert reported.code == EXIT_OK
    assert f"note: {folder}: {said}" in reported.err
    assert "holds no design" in (tmp_path / "r.html").read_text()


def test_a_sweep_without_a_design_is_reported_with_a_note(run, config, tmp_path):
    words = ("--method", "fast", "--jobs", 1, "--out", tmp_path / "none")
    assert run("sweep", config, "--macs", "1k", *words).code == EXIT_INFEASIBLE
    reported = run("report", tmp_path / "none", "--out", tmp_path / "r.html", "--no-plots", "--json")
    assert json.loads(reported.out)["notes"] == ["no point of it holds a design"]


@pytest.mark.parametrize("folder", ["infeasible"], indirect=True)
def test_the_file_of_an_answer_without_a_design_says_so_too(run, tmp_path, folder):
    ran = run("export", folder / "design.json", "--out", tmp_path / "a.onnx")
    assert ran.code == EXIT_INPUT_FILE
    assert ran.error.startswith(f"{folder}: {HOLDS['infeasible']}")
    (folder / "problem.json").unlink()  # nobody knows any more what was asked
    assert "holds no design: its limits cannot be met (" in run("export", folder, "--out", tmp_path / "a.onnx").error
    with pytest.raises(InputFileError, match="holds no design, its status is 'infeasible'"):
        read_architecture(folder / "design.json")
    copy = shutil.copy(folder / "design.json", tmp_path / "answer.json")
    assert run("export", copy, "--out", tmp_path / "a.onnx").error.startswith(
        f"{tmp_path}/answer.json: holds no design"
    )
    assert run("verify", folder / "design.json").error.startswith(f"{folder}/design.json: is no folder")
