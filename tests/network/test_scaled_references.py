"""Well-known networks at other widths, depths and image sizes."""

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.network import costs, reference


@pytest.mark.parametrize("name", reference.SCALABLE)
def test_at_its_own_size_a_scaled_network_is_the_network(name):
    scaled = reference.scaled(name, width=1.0, resolution=(224, 224), classes=1000)
    assert scaled.nodes == reference.get(name).nodes


def test_for_small_images_the_first_strides_go_as_is_usual_for_cifar():
    graph = reference.scaled("resnet18", width=1.0, resolution=(32, 32), classes=10, total_stride=8)
    assert (graph.nodes[0].spec.kernel, graph.nodes[0].spec.stride) == (3, 1)
    assert all(node.spec.op != "max_pool" for node in graph)
    # The count of the well-known CIFAR version: 11,173,962 parameters.
    assert costs.params(graph) == 11_173_962


def test_a_small_mobilenet_has_the_count_of_the_well_known_cifar_version_in_its_convolutions():
    graph = reference.scaled("mobilenet_v2", width=1.0, resolution=(32, 32), classes=10, total_stride=8)
    sizes = [node.spec.height for node in graph if node.spec.op == "conv" and node.spec.groups > 1]
    assert (max(sizes), min(sizes)) == (32, 4)


@pytest.mark.parametrize("name", reference.SCALABLE)
@pytest.mark.parametrize("total_stride", [1, 2, 4, 8, 16, 32])
def test_the_total_stride_is_what_was_asked_for(name, total_stride):
    graph = reference.scaled(name, width=0.25, resolution=(64, 64), classes=10, total_stride=total_stride)
    last = [node.spec for node in graph if node.spec.op == "conv"][-1]
    assert last.out_height == 64 // total_stride


def test_costs_grow_with_width_and_depth():
    def macs(**factors):
        return costs.macs(reference.scaled("resnet18", resolution=(32, 32), classes=10, total_stride=8, **factors))

    assert macs(width=0.25) < macs(width=0.5) < macs(width=0.5, depth=2.0)


@pytest.mark.parametrize(
    "wrong", [{"name": "resnet50"}, {"total_stride": 64}, {"total_stride": 6}, {"resolution": (30, 30)}]
)
def test_what_cannot_be_scaled_is_refused(wrong):
    given = {"name": "resnet18", "width": 1.0, "resolution": (32, 32), "classes": 10, "total_stride": 8, **wrong}
    with pytest.raises(ConfigError):
        reference.scaled(given.pop("name"), **given)
