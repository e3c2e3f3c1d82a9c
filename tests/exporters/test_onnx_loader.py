"""Hostile ONNX files stay outside: each is refused in one line, by a child that can open nothing."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hostile_onnx import HOSTILE, RUNNING
from onnx import TensorProto, helper, load_model_from_string, numpy_helper

from deepmad_hw.errors import InputFileError, NotCoveredError
from deepmad_hw.exporters import onnx_loader
from deepmad_hw.formats.serde import architecture_to_json
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.workflows.bench import bench
from deepmad_hw.workflows.export import export, parity
from deepmad_hw.workflows.networks import networks

TINY = Architecture(
    family="mbconv_se",
    resolution=(32, 32),
    stem=Stem(out=4),
    stages=(Stage(out=6, bottleneck=8, kernel=3, stride=2, depth=2),),
    classes=5,
)
OURS = architecture_to_json(TINY)
MOST_CHILD_BYTES = 2**30
MOST_CHILD_SECONDS = 5.0  # of processor time

# Reads the file named on the command line through the loader, and says how it was refused, what this process opened
# meanwhile, and what the child took: seconds of processor time, and KiB.
_WATCHED = """
import json, resource, sys
from deepmad_hw.errors import InputFileError
from deepmad_hw.exporters import onnx_guard, onnx_loader
from pathlib import Path
opened = []
sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)
said = None
try:
    onnx_loader.read_model(Path(sys.argv[1]))
except InputFileError as error:
    said = str(error)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([said, opened, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""

# What the child does before it looks at a model; then it tries to open a file, in Python and in C++.
_SHUT_IN = """
import onnx, sys
from deepmad_hw.exporters import onnx_guard, onnx_loader
onnx_guard._shut_in(1000)
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


@pytest.mark.promise("T13")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, name):
    """And soon, in little memory, and with nothing opened but itself."""
    (tmp_path / "model").mkdir()
    path = HOSTILE[name](tmp_path / "model")
    said, opened, seconds, kib = json.loads(_python(_WATCHED, str(path)))
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    assert "could not be checked" not in said, "its child died instead of saying no"
    folder = str(tmp_path / "model")  # itself may be opened, to look for weights in it
    ours = [name for name in opened if name.startswith((str(tmp_path), "/dev/zero")) and name != folder]
    assert ours == ([] if path.is_fifo() else [str(path)])
    assert seconds < MOST_CHILD_SECONDS
    assert kib * 1024 < MOST_CHILD_BYTES


@pytest.mark.promise("T13")
@pytest.mark.parametrize("name", RUNNING)
def test_a_file_that_does_harm_when_it_runs_is_ended_by_the_limits(tmp_path, monkeypatch, name):
    """What may be loaded is run once in the guarded process, which has little memory and time, and no files."""
    monkeypatch.setattr(onnx_loader, "RUN_SECONDS", 1)
    (tmp_path / "model").mkdir()
    path = RUNNING[name](tmp_path / "model")
    opened = []
    with monkeypatch.context() as patch:
        patch.setattr(onnx_loader.os, "open", lambda *words, **more: opened.append(words) or os.open(*words, **more))
        with pytest.raises(InputFileError) as caught:
            bench.subject(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert "run" in str(caught.value)
    assert not opened


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
    monkeypatch.setattr(onnx_loader, "MODULE", "deepmad_hw.no_such_module")
    path = tmp_path / "model.onnx"
    path.write_bytes(_plain(shape=(1, 3, 9, 9)).SerializeToString())
    with pytest.raises(InputFileError, match="could not be checked: it crashed"):
        onnx_loader.read_model(path)


def _foreign():
    """Return a network as exporters write it: sizes read from the image, constants in nodes, a free batch."""
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
    return _plain(nodes, shape=("n", 3, 8, 8), initialisers=weights)


def test_an_honest_foreign_network_passes(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(_foreign().SerializeToString())
    assert len(onnx_loader.read_model(path).graph.node) == 8


@pytest.mark.promise("T13")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("deepmad_hw.architecture", "{}"),
        ("deepmad_hw.architecture", "[" * 100_000),
        ("deepmad_hw.architecture", json.dumps({**OURS, "stages": [{**OURS["stages"][0], "depth": 10**12}]})),
        ("deepmad_hw.architecture", json.dumps({**OURS, "stem": {**OURS["stem"], "out": 2**50}})),
        ("deepmad_hw.architecture", json.dumps(OURS)),
        ("deepmad_hw.reference", "resnet18"),
        ("deepmad_hw.reference", "__import__('os')"),
    ],
)
@pytest.mark.parametrize("without_image", [False, True])
def test_facts_that_lie_are_refused_in_one_line(tmp_path, key, value, without_image):
    """They are found behind the door, in a file that is a fine network but not the one that it names."""
    model = _plain()
    if without_image:
        del model.graph.input[:]
        model.graph.node.insert(0, helper.make_node("Constant", [], ["x"], value_floats=[1.0]))
    for name, text in {"resolution": "32x32", "classes": "9" * 30, key.rpartition(".")[2]: value}.items():
        model.metadata_props.add(key=f"deepmad_hw.{name}", value=text)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputFileError) as caught:
        bench.subject(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def _external(folder, *, location="model.onnx.data", offset=0):
    """Write a model whose weight lies in a file beside it, as recent exporters do."""
    weight = np.arange(4 * 3 * 3 * 3, dtype=np.float32).reshape(4, 3, 3, 3)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=weight.shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": str(offset), "length": str(weight.nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    (folder / location).write_bytes(bytes(offset) + weight.tobytes())
    path = folder / "model.onnx"
    path.write_bytes(_plain(nodes, initialisers=[tensor]).SerializeToString())
    return path, weight


@pytest.mark.parametrize("location", ["model.onnx.data", "weights/part0.bin"])
@pytest.mark.parametrize("offset", [0, 64])
def test_weights_in_a_file_beneath_the_folder_are_read(tmp_path, location, offset):
    path, weight = _external(tmp_path, location=location, offset=offset)
    model = onnx_loader.read_model(path)
    assert np.array_equal(numpy_helper.to_array(model.graph.initializer[0]), weight)
    assert bench.subject(path).nodes[0].spec.out_channels == 4


def test_weights_in_a_file_that_is_missing_or_too_short_are_named(tmp_path):
    path, _ = _external(tmp_path)
    (tmp_path / "model.onnx.data").write_bytes(bytes(100))
    with pytest.raises(InputFileError, match=r"ends before its weights do: 'model\.onnx\.data'"):
        onnx_loader.read_model(path)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(InputFileError, match=r"its weights in 'model\.onnx\.data' cannot be read: No such file"):
        onnx_loader.read_model(path)


def test_weights_of_more_than_a_file_holds_are_refused(tmp_path, monkeypatch):
    path, _ = _external(tmp_path)
    monkeypatch.setattr(onnx_loader, "LARGEST_FILE_BYTES", 500)
    with pytest.raises(InputFileError, match="more than is read at once"):
        onnx_loader.read_model(path)


def test_an_operation_newer_than_its_opset_is_named(tmp_path):
    model = _plain([helper.make_node("HardSwish", ["x"], ["y"])])
    model.opset_import[0].version = 13
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert "opset 13 has no HardSwish; it came with opset 14" in _entered(path)


def test_groups_that_do_not_divide_are_refused_in_one_line(tmp_path):
    """ONNX's own shape inference lets them through."""
    model = _foreign()
    model.graph.node[0].attribute.append(helper.make_attribute("group", 33))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert "group: 33" in _entered(path)


# --- mutated files --------------------------------------------------------------------------------------------------

REAL_DOOR = 25  # every so manyth mutant is judged by the door's own child too


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Four valid files as bytes, two of them without our facts, and where in them stands anything but weights."""
    folder = tmp_path_factory.mktemp("originals")
    models = [_foreign()]
    for target in ("onnx", "onnx-fp16", "onnx-int8"):
        file = folder / f"{target}.onnx"
        export.export(TINY, file, target=target)
        models.append(load_model_from_string(file.read_bytes()))
    del models[-1].metadata_props[:]
    return [(data, _meaningful(data)) for data in (model.SerializeToString() for model in models)]


def _meaningful(data):
    free = np.ones(len(data), bool)
    for tensor in load_model_from_string(data).graph.initializer:
        if len(tensor.raw_data) >= 64:
            begin = data.index(tensor.raw_data)
            free[begin : begin + len(tensor.raw_data)] = False
    return np.flatnonzero(free)


def _mutated(number, originals):
    """Return a valid file with 1 to 16 bytes changed, put in or taken out, half of them where no weights stand."""
    chance = random.Random(number)
    data, meaningful = originals[number % len(originals)]
    changed = bytearray(data)
    for _ in range(int(17 ** chance.random())):  # one as often as 4 to 16
        place = chance.choice((chance.randrange(len(data)), int(chance.choice(meaningful))))
        change = chance.randrange(10)
        if change == 0:
            changed[place:place] = chance.randbytes(1)
        elif change == 1:
            del changed[place : place + 1]
        else:
            changed[place : place + 1] = chance.choice(
                (chance.randbytes(1), bytes([data[place] ^ 1 << chance.randrange(8)]))
            )
    return bytes(changed)


@pytest.fixture(scope="module")
def forks():
    """Stand in for `subprocess.run`: each model is judged by a fork of a child that has started already."""
    script = Path(__file__).with_name("forking_guard.py")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:

        def run(command, *, input, **options):  # noqa: A002 - as in `subprocess.run`
            server.stdin.write(len(input).to_bytes(8, "big") + input)
            server.stdin.flush()
            code, size = server.stdout.read(1)[0], int.from_bytes(server.stdout.read(8), "big")
            return subprocess.CompletedProcess(command, code, server.stdout.read(size), b"")

        yield run
        server.stdin.close()


def _entered(path):
    """Return what `bench` learns of a file, or how it is refused."""
    onnx_loader._judgement.cache_clear()
    try:
        return bench.subject(path)
    except (InputFileError, NotCoveredError) as error:
        return str(error)


@pytest.mark.promise("T13", 2000)
def test_a_mutated_file_is_read_or_refused_in_one_line(tmp_path, monkeypatch, originals, forks, tries):
    """By the door, and behind it by the walk over its layers, in this process, which goes on."""
    path = tmp_path / "model.onnx"
    quick = SimpleNamespace(run=forks, TimeoutExpired=subprocess.TimeoutExpired)
    for data, _ in originals:
        path.write_bytes(data)
        assert isinstance(_entered(path), bench.Subject)
    refused = 0
    for number in tries:
        path.write_bytes(_mutated(number, originals))
        with monkeypatch.context() as patch:
            patch.setattr(onnx_loader, "subprocess", quick)
            found = _entered(path)
        refused += isinstance(found, str)
        assert "\n" not in str(found), number
        if number % REAL_DOOR == 0:
            assert _entered(path) == found, number
    assert 0.1 * len(tries) < refused < 0.98 * len(tries)


# --- ways in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "enter",
    [
        bench.subject,
        networks.load_network,
        export.check_exported,
        lambda path: parity.parity_steps([path, path]),
    ],
    ids=["bench and like:", "design, export", "verify, export", "verify --against"],
)
def test_every_way_in_leads_through_the_door(tmp_path, enter):
    (tmp_path / "model").mkdir()
    path = HOSTILE["external_data_in_a_parent_folder"](tmp_path / "model")
    with pytest.raises(InputFileError, match="keeps weights outside its folder"):
        enter(path)


def test_only_the_door_parses_model_files():
    """A second way in would be a way round; two files read what the runtime wrote of a model that passed."""
    room = Path(onnx_loader.__file__).parents[2]
    sources = [path for name in ("deepmad_hw", "profilers") for path in (room / name).rglob("*.py")]
    parsing = {path.name for path in sources if "onnx.load" in path.read_text(encoding="utf-8")}
    assert parsing == {"onnx_guard.py", "onnx_loader.py", "runtime_graph.py", "runtime_look.py"}
