"""Hostile ONNX files stay outside: each is refused in one line, by a child that can open nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile_onnx import HOSTILE
from onnx import TensorProto, helper, numpy_helper

from deepmad_hw.errors import InputFileError
from deepmad_hw.exporters import onnx_door
from deepmad_hw.workflows import bench, export, ladder, networks

# Reads every file named on the command line through the door, and says what this process opened meanwhile.
_WATCHED = """
import json, sys
from deepmad_hw.errors import InputFileError
from deepmad_hw.exporters import onnx_door
from pathlib import Path
opened = []
sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)
refused = 0
for name in sys.argv[1:]:
    try:
        onnx_door.read_model(Path(name))
    except InputFileError:
        refused += 1
print(json.dumps([refused, opened]))
"""

# What the child does before it looks at a model; then it tries to open a file, in Python and in C++.
_SHUT_IN = """
import onnx, sys
from deepmad_hw.exporters import onnx_door
onnx_door._shut_in(1000)
for reach in (lambda: open(sys.argv[1]), lambda: onnx.checker.check_model(sys.argv[1])):
    try:
        reach()
    except OSError as error:
        print(error.errno)
    except onnx.checker.ValidationError as error:
        print("refused" if "nable to open" in str(error) else error)
"""


def _python(code, *words):
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return done.stdout


def test_there_are_many_hostile_files():
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, name):
    (tmp_path / "model").mkdir()
    path = HOSTILE[name](tmp_path / "model")
    with pytest.raises(InputFileError) as caught:
        onnx_door.read_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert "could not be checked" not in str(caught.value), "its child died instead of saying no"


def test_nothing_but_the_model_itself_is_opened(tmp_path):
    reaching = [name for name in HOSTILE if name.startswith("external_data")]
    for name in reaching:
        (tmp_path / name).mkdir()
    paths = [str(HOSTILE[name](tmp_path / name)) for name in reaching]
    refused, opened = json.loads(_python(_WATCHED, *paths))
    assert refused == len(paths)
    ours = [name for name in opened if name.startswith((str(tmp_path), "/dev/zero"))]
    assert sorted(ours) == sorted(paths)


def test_the_child_can_open_no_file(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(_plain().SerializeToString())
    assert _python(_SHUT_IN, str(model)).split() == ["24", "refused"]  # 24: too many open files


def _plain(nodes=None, *, shape=(1, 3, 8, 8), initialisers=()):
    graph = helper.make_graph(
        nodes or [helper.make_node("Relu", ["x"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(initialisers),
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def test_a_child_that_dies_is_a_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_door, "MODULE", "deepmad_hw.no_such_module")
    path = tmp_path / "model.onnx"
    path.write_bytes(_plain(shape=(1, 3, 9, 9)).SerializeToString())
    with pytest.raises(InputFileError, match="could not be checked: it crashed"):
        onnx_door.read_model(path)


def test_an_honest_foreign_network_passes(tmp_path):
    """As exporters write them: sizes read from the image, constants in nodes, a free batch."""
    flat = numpy_helper.from_array(np.array([-1]), "flat")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=1),
        helper.make_node("Shape", ["m"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["n"]),
        helper.make_node("Constant", [], ["rest"], value=flat),
        helper.make_node("Concat", ["n", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["m", "t"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
        numpy_helper.from_array(np.array([0]), "first"),
    ]
    path = tmp_path / "model.onnx"
    path.write_bytes(_plain(nodes, shape=("n", 3, 8, 8), initialisers=weights).SerializeToString())
    assert len(onnx_door.read_model(path).graph.node) == len(nodes)


@pytest.mark.parametrize(
    "enter",
    [
        bench.subject,
        networks.load_network,
        export.check_exported,
        lambda path: ladder.climb([path, path]),
    ],
    ids=["bench and like:", "design, export", "verify, export", "verify --against"],
)
def test_every_way_in_leads_through_the_door(tmp_path, enter):
    (tmp_path / "model").mkdir()
    path = HOSTILE["external_data_in_a_parent_folder"](tmp_path / "model")
    with pytest.raises(InputFileError, match="other files, which are not opened"):
        enter(path)


def test_only_the_door_parses_model_files():
    """A second way in would be a way round."""
    room = Path(onnx_door.__file__).parents[2]
    sources = [path for name in ("deepmad_hw", "profilers") for path in (room / name).rglob("*.py")]
    parsing = {path.name for path in sources if "onnx.load" in path.read_text(encoding="utf-8")}
    assert parsing == {"onnx_door.py"}
