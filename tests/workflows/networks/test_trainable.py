"""Any network becomes a module to train, and what it learned comes back through `export --weights`."""

import numpy as np
import pytest

import deepmad_hw as dm
from deepmad_hw.errors import ConfigError, InputFileError
from deepmad_hw.exporters.onnx_read import graph_of
from deepmad_hw.exporters.verify import compare, run_onnx
from deepmad_hw.exporters.weights import save_weights
from deepmad_hw.files.jsonfile import write_json
from deepmad_hw.formats import serde
from deepmad_hw.network import families
from deepmad_hw.network.architecture import Architecture, Stage, Stem
from deepmad_hw.workflows.export.export import export
from deepmad_hw.workflows.networks.networks import adapted, from_architecture, load_network

torch = pytest.importorskip("torch", reason="the extra torch is not installed")


def _architecture(family):
    inner = 8 if family in ("basic", "bottleneck") else 32
    stages = tuple(Stage(out=16, bottleneck=inner, kernel=3, stride=2, depth=2) for _ in range(2))
    return Architecture(family=family, resolution=(32, 32), stem=Stem(out=8), stages=stages, classes=1000)


@pytest.fixture
def trained(tmp_path):
    """Return a function: architecture -> module after some steps, so that all statistics are its own, and its file."""

    def make(architecture, **options):
        module = dm.trainable(architecture, **options)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        torch.manual_seed(0)
        for _ in range(5):
            optimizer.zero_grad()
            module(torch.randn(8, 3, 32, 32) * 2 + 1).square().mean().backward()
            optimizer.step()
        values = {name: value.numpy() for name, value in module.eval().state_dict().items()}
        save_weights(tmp_path / "trained.safetensors", values)
        return module, tmp_path / "trained.safetensors"

    return make


@pytest.mark.parametrize("family", families.names())
def test_trained_weights_and_folded_norms_give_the_modules_outputs(trained, tmp_path, family):
    module, weights = trained(_architecture(family), classes=7)
    path, *_ = export(_architecture(family), tmp_path / "net.onnx", weights=weights, classes=7)
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(image)).numpy()
    (found,) = run_onnx(path.read_bytes(), image)
    assert compare(expected, found).relative_max < 1e-4
    untrained, *_ = export(_architecture(family), tmp_path / "other.onnx", classes=7)
    assert compare(expected, run_onnx(untrained.read_bytes(), image)[0]).relative_max > 0.01


@pytest.mark.parametrize(("target", "name", "cosine"), [("onnx-fp16", "n.onnx", 0.999), ("onnx-int8", "n.onnx", 0.9)])
def test_trained_weights_are_in_every_precision(trained, tmp_path, target, name, cosine):
    module, weights = trained(_architecture("basic"))
    path, *_ = export(_architecture("basic"), tmp_path / name, weights=weights, target=target)
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(image)).numpy()
    assert compare(expected, run_onnx(path.read_bytes(), image)[0]).cosine > cosine


def test_an_exported_file_knows_its_own_number_of_classes(trained, tmp_path):
    _, weights = trained(_architecture("basic"), classes=7)
    path, *_ = export(_architecture("basic"), tmp_path / "net.onnx", weights=weights, classes=7)
    assert graph_of(path).nodes[-1].spec.out_channels == 7


def test_weights_of_other_classes_name_the_flag(trained, tmp_path):
    _, weights = trained(_architecture("basic"), classes=7)
    with pytest.raises(ConfigError, match="--classes 7"):
        export(_architecture("basic"), tmp_path / "net.onnx", weights=weights)
    assert not (tmp_path / "net.onnx").exists()


def test_a_network_is_named_by_record_file_or_reference(tmp_path):
    architecture = _architecture("mbconv")
    write_json(tmp_path / "net.json", serde.architecture_to_json(architecture))
    states = [
        dm.trainable(each).state_dict()
        for each in (architecture, tmp_path / "net.json", from_architecture(architecture))
    ]
    assert all(torch.equal(states[0][name], other[name]) for other in states[1:] for name in states[0])
    assert dm.trainable("resnet18", classes=3).classifier.out_features == 3


def test_training_starts_again_from_weights(trained):
    module, weights = trained(_architecture("mbconv_se"))
    again = dm.trainable(_architecture("mbconv_se"), weights=weights)
    assert torch.equal(again.stem.weight, module.stem.weight)
    assert torch.equal(again.stem.norm.running_mean, module.stem.norm.running_mean)


def test_the_seed_decides_the_first_weights():
    one, same, other = (dm.trainable(_architecture("basic"), seed=seed).stem.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_activation_is_one_that_the_family_has():
    module = dm.trainable(_architecture("mbconv"), activation="hardswish")
    assert isinstance(module.stem.act, torch.nn.Hardswish)
    with pytest.raises(ConfigError, match="'bottleneck' has no activation 'silu'"):
        dm.trainable(_architecture("bottleneck"), activation="silu")


def test_reference_networks_keep_their_activation():
    network = load_network("resnet18")
    assert adapted(network) is network
    with pytest.raises(ConfigError, match="only designs can be changed"):
        adapted(network, activation="silu")


def test_pickled_weights_are_refused_in_one_line(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04archive/data.pkl")
    with pytest.raises(InputFileError, match="is no safetensors file"):
        dm.trainable(_architecture("basic"), weights=tmp_path / "w.pt")
