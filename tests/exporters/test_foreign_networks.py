"""The corpus of foreign networks is what it says: every member runs, so does its int8 form, none fades or overflows."""

import numpy as np
import onnx
import pytest
from foreign_graphs import GRAPHS, weights_beside
from foreign_networks import MEMBERS, SCRIPTED, feeds, model, quantised, run

from deepmad_hw.exporters import onnx_loader
from deepmad_hw.exporters.onnx_walk import walk
from deepmad_hw.exporters.runtime_look import look
from deepmad_hw.exporters.runtime_walk import held

pytest.importorskip("onnxruntime", reason="the extra cpu is not installed")

NEWEST_OPSET, NEWEST_IR = 21, 10  # what every runtime of the extra cpu loads
LEAST_LIKENESS = 0.9  # correlation of an int8 form's outputs with the network's own


def _cases(chosen):
    return [
        pytest.param(member.name, marks=[pytest.mark.slow] if member.slow else [], id=member.name)
        for member in MEMBERS.values()
        if chosen(member)
    ]


def _floats(outputs):
    return np.concatenate([output.astype(np.float64).ravel() for output in outputs])


# Where the rules of the walk cannot know what the runtime does, by the words of the difference.
DIFFERENT = {
    # Whether the other summand lies in blocks of channels decides on the sum, and so on the activation behind it.
    "attentive_resnet": "is an operation of its own",
    "ghostnet": "is an operation of its own",
    "group_norm_resnet": "is an operation of its own",
    "halves": "the runtime runs no",  # 16-bit floats are turned into 32-bit ones first, under other names
}


def _require_one_place_for_each(found, values, name):
    """Hold the walk to the runtime: every operation that ran is in one layer, law or note, and every layer ran."""
    data = found.SerializeToString()
    rules = walk(found, onnx_loader.run_once(data, values, where=name))
    operations = look(data, values)
    assert operations
    shown = held(rules, operations)
    assert len(shown.places) == len(operations)
    words = DIFFERENT.get(name, "never")
    assert [line for line in shown.differences if words not in line] == []
    uncovered = [line for line in shown.walk.uncovered if not line.endswith(tuple(UNKNOWN))]
    assert uncovered == [], "an operation of no known kind"


# Whose time depends on the values.
UNKNOWN = [f"{kind} is no operation that tables hold" for kind in ("NonZero", "NonMaxSuppression", "TopK", "Compress")]


@pytest.mark.parametrize("name", _cases(lambda member: not member.refused))
def test_every_member_and_its_int8_forms_run_and_compute_nearly_the_same(name, request):
    if name.endswith(SCRIPTED) and not request.config.getoption("--stress"):
        pytest.skip("the older exporter's spelling of a network is tried with --stress")
    found = model(name)
    assert all(node.name for node in found.graph.node)
    assert not [part for part in (found, *found.graph.node) if part.metadata_props]
    assert found.ir_version <= NEWEST_IR
    assert {entry.domain: entry.version for entry in found.opset_import}[""] <= NEWEST_OPSET
    values = feeds(found)
    wanted = _floats(run(found, values))
    assert np.isfinite(wanted).all()
    assert 1e-3 < wanted.std() < 1e4, "it fades, or overflows"
    member = MEMBERS[name]
    _require_one_place_for_each(found, values, name)
    for everything in ((False,) if member.slow else (False, True)) if member.quantises else ():
        bytewise = quantised(found, everything=everything)
        if not everything:
            _require_one_place_for_each(bytewise, values, name)
        rounded = _floats(run(bytewise, values))
        assert np.corrcoef(wanted, rounded)[0, 1] > LEAST_LIKENESS, f"everything={everything}"


@pytest.mark.parametrize("name", _cases(lambda member: member.refused))
def test_a_member_that_the_runtime_refuses_is_refused_for_its_reason(name):
    with pytest.raises(Exception, match=MEMBERS[name].refused):  # its exceptions share no base of their own
        run(model(name))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_the_same_whenever_it_is_made(name):
    assert GRAPHS[name].make().SerializeToString() == GRAPHS[name].make().SerializeToString()


def test_weights_beside_a_file_are_really_outside_it(tmp_path):
    path = weights_beside(tmp_path)
    outside = onnx.load(path, load_external_data=False)
    assert {tensor.data_location for tensor in outside.graph.initializer} == {onnx.TensorProto.EXTERNAL}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["beside.onnx", "beside.onnx.data"]
    inside = onnx.load(path)
    np.testing.assert_array_equal(run(inside, feeds(inside))[0], run(model("residuals"), feeds(inside))[0])
