"""Files that carry code are given to the commands that read such files: none of it runs."""

import csv
import json
import os
import subprocess
import sys
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from deepmad_hw.cli import EXIT_INPUT_FILE, EXIT_OK, EXIT_USAGE, main
from deepmad_hw.formats.serde_table import write_table
from deepmad_hw.latency.measurement import Environment, LayerMeasurement
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.workflows.tables import table_export
from profilers.replay import layer_us

pytest.importorskip("safetensors", reason="the extra torch is not installed")
pytest.importorskip("onnxruntime", reason="files are run with ONNX Runtime")

NETWORK = Path(__file__).parent / "data" / "digits" / "basic.json"
FORMULA = "=cmd|' /C calc'!A0"

# Each writes a file whose code would make a folder, the canary; given to the command's words.
PAYLOADS = {}


def payload(*words, code=EXIT_INPUT_FILE):
    def register(write):
        PAYLOADS[write.__name__] = (write, words, code)
        return write

    return register


def pickled(canary):
    """Return a pickle that makes the canary when it is read: what `__reduce__` writes, by hand."""
    return b"cposix\nmkdir\n(V" + str(canary).encode() + b"\ntR."


class Loaded:
    """An object that makes the canary when it is unpickled."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


WEIGHTS = ("export", str(NETWORK), "--weights", "{file}", "--out", "{out}.onnx")
IMAGES = ("export", str(NETWORK), "--target", "onnx-int8", "--calibration", "{file}", "--out", "{out}.onnx")


@payload(*WEIGHTS)
def a_pickle_as_weights(folder, canary):
    (folder / "weights.pkl").write_bytes(pickled(canary))
    return folder / "weights.pkl"


@payload(*WEIGHTS)
def a_checkpoint_of_torch(folder, canary):
    with zipfile.ZipFile(folder / "weights.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickled(canary))
        archive.writestr("archive/version", "3\n")
    return folder / "weights.pt"


@payload(*WEIGHTS)
def a_module_as_weights(folder, canary):
    (folder / "module.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    return folder / "module.py"


@payload(*WEIGHTS)
def safetensors_whose_header_lies(folder, canary):
    header = {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}, "__metadata__": {"x": str(canary)}}
    text = json.dumps(header).encode()
    (folder / "weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    return folder / "weights.safetensors"


@payload(*WEIGHTS)
def safetensors_whose_header_never_ends(folder, canary):
    (folder / "weights.safetensors").write_bytes((2**63).to_bytes(8, "little") + pickled(canary))
    return folder / "weights.safetensors"


@payload(*IMAGES)
def arrays_of_objects(folder, canary):
    np.savez(folder / "images.npz", images=np.array([Loaded(canary)], dtype=object))
    return folder / "images.npz"


@payload(*IMAGES)
def a_dump_of_joblib(folder, canary):
    (folder / "images.joblib").write_bytes(zlib.compress(pickled(canary)))
    return folder / "images.joblib"


@payload("design", "{file}", "--out", "{out}", code=EXIT_USAGE)
def a_run_file_that_builds_objects(folder, canary):
    (folder / "run.yaml").write_text(f"space: !!python/object/apply:os.mkdir ['{canary}']\n")
    return folder / "run.yaml"


@payload("design", "{file}", "--out", "{out}", code=EXIT_USAGE)
def a_run_file_that_names_functions(folder, canary):
    (folder / "run.yaml").write_text(
        f"space: deepmad-r18\n_target_: os.mkdir\npath: {canary}\nname: ${{oc.env:HOME}}-${{eval:1+1}}\n"
    )
    return folder / "run.yaml"


@payload("table", "import", "once-for-all", "{file}", "--out", "{out}.csv")
def a_foreign_table_that_builds_objects(folder, canary):
    (folder / "lut.yaml").write_text(f"Conv: {{mean: !!python/object/apply:os.mkdir ['{canary}'], count: 1}}\n")
    return folder / "lut.yaml"


@payload("table", "show", "{file}")
def a_table_that_begins_with_a_formula(folder, canary):
    write_table(folder / "table.csv", small_table())
    (folder / "table.csv").write_text(f"=cmd|' /C mkdir {canary}'!A0,conv\n")
    return folder / "table.csv"


@payload("export", "{file}", "--out", "{out}.onnx")
def a_design_that_names_a_class(folder, canary):
    data = json.loads(NETWORK.read_text())
    called = {"py/reduce": [{"py/function": "os.mkdir"}, {"py/tuple": [str(canary)]}]}
    (folder / "design.json").write_text(json.dumps({**data, "__class__": "os.mkdir", "stem": called}))
    return folder / "design.json"


@payload("bench", "{file}")
def a_model_with_python_inside(folder, canary):
    code = f"__import__('os').mkdir({str(canary)!r})"
    node = helper.make_node("PyOp", ["x"], ["y"], domain="ai.onnx.contrib", module="os", compute=code)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 8, 8)) for name in "xy"]
    graph = helper.make_graph([node], "evil", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.contrib", 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@payload("verify", "{file}", "--against", "{network}", "--images", "1")
def an_engine_without_a_manifest(folder, canary):
    (folder / "engine.plan").write_bytes(b"ftrt" + bytes(64) + pickled(canary))
    return folder / "engine.plan"


def small_table(**fields):
    conv = LayerSpec(op="conv", in_channels=16, out_channels=16, height=28, width=28)
    rows = tuple(
        LayerMeasurement(spec=spec, samples_us=(layer_us(spec, gmacs=20.0),))
        for spec in (conv, replace(conv, kernel=3))
    )
    environment = Environment(
        device="some",
        machine="none",
        cores=1,
        features=(),
        governor="unknown",
        runtime="replay",
        runtime_version="1",
    )
    return LatencyTable(**{"name": "small", "environment": environment, "rows": rows, **fields})


def test_there_are_more_than_a_dozen_payloads():
    assert len(PAYLOADS) >= 12


@pytest.mark.promise("T14")
@pytest.mark.parametrize("name", PAYLOADS)
def test_code_in_a_file_never_runs(tmp_path, monkeypatch, capsys, name):
    """The command refuses the file in one line and writes nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write, words, expected = PAYLOADS[name]
    canary, network = tmp_path / "canary", tmp_path / "network.onnx"
    if "{network}" in words:
        assert main(["export", str(NETWORK), "--out", str(network)]) == EXIT_OK
    (tmp_path / "given").mkdir()
    file = write(tmp_path / "given", canary)
    before = set(tmp_path.iterdir())
    capsys.readouterr()
    code = main([word.format(file=file, network=network, out=tmp_path / "out") for word in words])
    told = capsys.readouterr()
    *progress, line = told.err.splitlines()
    assert code == expected, told.err
    assert line.startswith("error: ")
    assert not [line for line in progress if line.startswith(("error:", "Traceback", " "))]
    assert file.name in line
    assert not canary.exists()
    assert set(tmp_path.iterdir()) == before


# What would read each of these files, were it careless.
CARELESS = {
    "a_pickle_as_weights": "import pickle; pickle.load(open(name, 'rb'))",
    "a_checkpoint_of_torch": "import pickle, zipfile; pickle.loads(zipfile.ZipFile(name).read('archive/data.pkl'))",
    "a_module_as_weights": "import runpy; runpy.run_path(name)",
    "arrays_of_objects": "import numpy; numpy.load(name, allow_pickle=True)['images']",
    "a_dump_of_joblib": "import pickle, zlib; pickle.loads(zlib.decompress(open(name, 'rb').read()))",
    "a_run_file_that_builds_objects": "import yaml; yaml.unsafe_load(open(name))",
    "a_foreign_table_that_builds_objects": "import yaml; yaml.unsafe_load(open(name))",
}


@pytest.mark.parametrize("name", CARELESS)
def test_the_code_would_run_if_it_were_let(tmp_path, name):
    """So that the test above can fail."""
    file = PAYLOADS[name][0](tmp_path, tmp_path / "canary")
    subprocess.run([sys.executable, "-c", f"import sys; name = sys.argv[1]; {CARELESS[name]}", file], check=True)
    assert (tmp_path / "canary").is_dir()


def test_a_table_for_spreadsheets_holds_no_formula(tmp_path):
    """Names come from whoever made the table; a spreadsheet runs cells that begin as formulas do."""
    found = small_table(name=FORMULA)
    for start in "=+-@":
        device = f"{start}SUM(1)"
        table_export.export_table(
            replace(found, environment=replace(found.environment, device=device)), tmp_path / "flat.csv"
        )
        with (tmp_path / "flat.csv").open(newline="") as file:
            row = next(csv.DictReader(file))
        assert (row["table"], row["device"]) == (f"'{FORMULA}", f"'{device}")
        assert float(row["median_us"]) > 0
