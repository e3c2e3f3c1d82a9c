"""Packed probes are files that a runtime loads, the same for the same networks."""

import numpy as np
import pytest

from deepmad_hw import costs
from deepmad_hw.errors import StorageError
from deepmad_hw.exporters.probes import PLAN_FILE, WEIGHTS_FILE, PackedProbe, canary, write_plan


def _pack(folder, small, *families):
    from deepmad_hw.expand import expand

    probes = [PackedProbe(name=name, graph=expand(small(name), name=name), by_layer=True) for name in families]
    write_plan(folder, probes)
    return probes


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_networks_are_packed_to_the_same_bytes(tmp_path, small):
    for name in ("one", "two"):
        _pack(tmp_path / name, small, "basic", "mbconv_se")
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")


def test_packing_again_over_a_plan_leaves_no_trace_of_it(tmp_path, small):
    _pack(tmp_path / "plan", small, "basic")
    before = _contents(tmp_path / "plan")
    _pack(tmp_path / "plan", small, "basic")
    assert _contents(tmp_path / "plan") == before


def test_all_networks_share_one_file_of_weights_as_large_as_the_largest_layer(tmp_path, small):
    probes = _pack(tmp_path, small, "basic", "bottleneck")
    largest = max(costs.layer_weights(node.spec) for probe in probes for node in probe.nodes)
    largest = max(largest, *(costs.layer_weights(node.spec) for node in canary()))
    assert (tmp_path / WEIGHTS_FILE).stat().st_size == 4 * largest
    assert (tmp_path / "basic.onnx").stat().st_size < 40_000


def test_a_runtime_loads_what_was_packed_and_its_activations_stay_finite(tmp_path, small):
    ort = pytest.importorskip("onnxruntime")
    _pack(tmp_path, small, "mbconv_se")
    for name, shape in (("mbconv_se", (1, 3, 64, 96)), ("canary", (1, 32, 56, 56))):
        session = ort.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        (result,) = session.run(None, {session.get_inputs()[0].name: image})
        assert np.isfinite(result).all()
        assert np.abs(result).max() > 1e-30  # no denormal numbers, which processors are slow at


def test_the_canary_is_bound_by_compute_and_by_memory():
    ratios = [costs.layer_macs(n.spec) / (n.spec.in_channels * n.spec.height * n.spec.width) for n in canary()]
    assert min(ratios) < 10
    assert max(ratios) > 100


def test_a_plan_appears_last_so_that_a_folder_with_one_is_complete(tmp_path, small, monkeypatch):
    from deepmad_hw.exporters import probes

    def full(model, path):
        raise StorageError("disk full", where=str(path))

    monkeypatch.setattr(probes, "save", full)
    with pytest.raises(StorageError):
        _pack(tmp_path, small, "basic")
    assert not (tmp_path / PLAN_FILE).exists()
