"""Whatever is wrong with a graph, the front door ends in a result or in one line."""

from pathlib import Path

import mutated_graphs
import pytest

from deepmad_hw.errors import DeepmadError
from deepmad_hw.exporters import onnx_read
from deepmad_hw.exporters.onnx_counts import Counts, counts
from deepmad_hw.workflows.bench import bench

TABLE = Path(__file__).parents[2] / "latency_tables" / "amd-epyc-25-17-1-2cores" / "onnxruntime-fp32-b1-t1.csv"

pytestmark = pytest.mark.checkout  # the table that comes along


@pytest.fixture(scope="module")
def models():
    pytest.importorskip("onnxruntime", reason="the extra cpu is not installed")
    return mutated_graphs.originals()


@pytest.fixture
def predicted(monkeypatch):
    """Return a function: file -> rows of a prediction or the one line, with a table that is read once."""
    model = bench.load_model(TABLE)
    monkeypatch.setattr(bench, "load_model", lambda path: model)

    def predict(path):
        try:
            return bench.bench([bench.subject(path)], table=TABLE, predict_only=True, layers=True)
        except DeepmadError as error:
            return str(error)

    return predict


def test_a_number_makes_the_same_mutant_again(models):
    made = [mutated_graphs.mutated(number, models) for number in range(40)]
    assert made == [mutated_graphs.mutated(number, models) for number in range(40)]
    assert len({data for data, _ in made}) > 35


def test_what_is_mutated_was_valid(tmp_path, models, predicted):
    for number, model in enumerate(models):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(model.SerializeToString())
        assert isinstance(bench.subject(path), bench.Subject)
        assert counts(model).not_counted == ()


@pytest.mark.parametrize("number", [248])
def test_mutants_that_once_were_a_fault_are_answered(tmp_path, models, predicted, number):
    """In 248 the shape that a file claims for a convolution has two dimensions."""
    data, _ = mutated_graphs.mutated(number, models)
    (tmp_path / "model.onnx").write_bytes(data)
    found = predicted(tmp_path / "model.onnx")
    assert isinstance(found, list) or "\n" not in found


@pytest.mark.slow
@pytest.mark.promise("T13", 500)
def test_a_mutated_graph_is_predicted_or_refused_in_one_line(tmp_path, models, predicted, tries):
    """And what the door lets in is counted, whatever else becomes of it."""
    path = tmp_path / "model.onnx"
    entered = 0
    for number in tries:
        data, what = mutated_graphs.mutated(number, models)
        path.write_bytes(data)
        found = predicted(path)
        assert "\n" not in str(found), what
        try:
            counted = counts(onnx_read.load(path))
        except DeepmadError:
            continue
        entered += 1
        assert isinstance(counted, Counts), what
        assert min(counted.macs, counted.params) >= 0, what
    assert 0.05 * len(tries) < entered < 0.9 * len(tries)
