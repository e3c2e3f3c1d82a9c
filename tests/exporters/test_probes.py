"""Packed probes are files that a runtime loads, the same for the same networks."""

import numpy as np
import onnx
import pytest

from deepmad_hw.errors import ConfigError, StorageError
from deepmad_hw.exporters.onnx_graph import export_model, initial_weights
from deepmad_hw.exporters.probes import (
    PLAN_FILE,
    PRECISIONS,
    WEIGHT_STEP_BYTES,
    WEIGHTS_FILE,
    PackedProbe,
    canary,
    write_plan,
)
from deepmad_hw.exporters.quantize import quantized
from deepmad_hw.network import costs, reference
from deepmad_hw.network.expand import expand


def _pack(folder, small, *families, **options):
    probes = [PackedProbe(name=name, graph=expand(small(name), name=name), by_layer=True) for name in families]
    write_plan(folder, probes, **options)
    return probes


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_networks_are_packed_to_the_same_bytes(tmp_path, small, precision):
    for name in ("one", "two"):
        _pack(tmp_path / name, small, "basic", "mbconv_se", precision=precision)
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
    tensors = 2 * max(len(probe.nodes) for probe in (*probes, canary()))
    assert (tmp_path / WEIGHTS_FILE).stat().st_size == 4 * largest + tensors * WEIGHT_STEP_BYTES
    assert (tmp_path / "basic.onnx").stat().st_size < 40_000


def test_no_two_tensors_of_a_network_begin_at_one_place(tmp_path, small):
    _pack(tmp_path, small, "mbconv_se")
    for file in tmp_path.glob("*.onnx"):
        model = onnx.load(file, load_external_data=False)
        begins = [
            int(entry.value)
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "offset"
        ]
        assert len(begins) > 10
        assert sorted(set(begins)) == sorted(begins)


def test_all_quantised_networks_share_one_small_file_too(tmp_path, small):
    probes = _pack(tmp_path, small, "basic", "bottleneck", precision="int8")
    nodes = [node for graph in (canary(), *(probe.graph for probe in probes)) for node in graph]
    largest = max(costs.layer_weights(node.spec) for node in nodes)
    channels = max(node.spec.out_channels for node in nodes)
    assert (tmp_path / WEIGHTS_FILE).stat().st_size == largest + 3 * 4 * channels
    assert (tmp_path / "basic.onnx").stat().st_size < 80_000


def test_an_unknown_precision_is_refused(tmp_path, small):
    with pytest.raises(ConfigError, match="no probes of precision 'int4'; say fp32 or int8"):
        _pack(tmp_path, small, "basic", precision="int4")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_runtime_loads_what_was_packed_and_its_activations_stay_finite(tmp_path, small, precision):
    ort = pytest.importorskip("onnxruntime")
    _pack(tmp_path, small, "mbconv_se", precision=precision)
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


def _form(model):
    """Return what a model is but its numbers: operations, names, attributes, and every constant's type and shape."""
    nodes = [
        (n.op_type, n.name, tuple(n.input), tuple(n.output), sorted(map(str, n.attribute))) for n in model.graph.node
    ]
    constants = {t.name: (t.data_type, tuple(t.dims)) for t in model.graph.initializer}
    return sorted(nodes), constants


def _optimised(ort, model_or_path, path):
    """Return the operations that ONNX Runtime makes of a model, with their names."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(model_or_path, options, providers=["CPUExecutionProvider"])
    return sorted((node.op_type, node.name) for node in onnx.load(path, load_external_data=False).graph.node)


@pytest.mark.parametrize("name", ["bottleneck", "basic", "mbconv", "mbconv_se", "mobilenet_v3_large"])
def test_a_quantised_probe_has_the_form_that_real_weights_quantised_per_channel_have(tmp_path, small, name):
    """What is timed must be what is shipped: the library, given real weights and channels, makes the same graph."""
    ort = pytest.importorskip("onnxruntime")
    graph = reference.get(name) if name in reference.names() else expand(small(name), name=name)
    write_plan(tmp_path, [PackedProbe(name="net", graph=graph, by_layer=True)], precision="int8")
    plain = export_model(graph, initial_weights(graph))
    tensors = ["image", *(output for node in plain.graph.node for output in node.output)]
    real = quantized(plain, dict.fromkeys(tensors, (-3.0, 5.0)))
    assert _form(onnx.load(tmp_path / "net.onnx", load_external_data=False)) == _form(real)
    probe = _optimised(ort, str(tmp_path / "net.onnx"), tmp_path / "probe_optimised.onnx")
    assert probe == _optimised(ort, real.SerializeToString(), tmp_path / "real_optimised.onnx")
    assert [kind for kind, _ in probe if kind in ("Conv", "FusedConv")] == []
