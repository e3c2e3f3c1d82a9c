"""Images are read from files without trusting them."""

import io
import zipfile

import numpy as np
import pytest

from deepmad_hw.errors import InputFileError
from deepmad_hw.exporters import images
from deepmad_hw.exporters.images import random_images, read_images

SHAPE = (3, 4, 5)
GOOD = np.arange(120, dtype=np.float64).reshape(2, 3, 4, 5)


def _npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_the_one_array_or_that_called_images_is_read_as_float32(tmp_path):
    for arrays in ({"a": GOOD}, {"images": GOOD, "labels": np.arange(2)}):
        found = read_images(_npz(tmp_path / "a.npz", **arrays), shape=SHAPE)
        assert found.dtype == np.float32
        assert np.array_equal(found, GOOD)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": GOOD, "b": GOOD}, "expected one array, or one called 'images'; found a, b"),
        ({"a": GOOD.astype(np.uint8)}, "expected floats"),
        ({"a": GOOD[0]}, r"expected shape \(images, 3, 4, 5\), got \(3, 4, 5\)"),
        ({"a": GOOD[:, :1]}, r"got \(2, 1, 4, 5\)"),
        ({"a": GOOD[:0]}, r"got \(0, 3, 4, 5\)"),
        ({"a": np.full((2, 3, 4, 5), np.inf)}, "not finite"),
        ({"a": np.full((2, 3, 4, 5), 1e300)}, "not finite"),
        ({"a": np.array([{"code": 1}])}, "plain arrays"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, arrays, said):
    with pytest.raises(InputFileError, match=said) as caught:
        read_images(_npz(tmp_path / "a.npz", **arrays), shape=SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut", b"\x80\x04\x95pickle"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputFileError, match=r"is no \.npz file"):
        read_images(tmp_path / "a.npz", shape=SHAPE)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputFileError, match="cannot be read"):
        read_images(tmp_path / "none.npz", shape=SHAPE)


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LARGEST_BYTES", 10**6)
    np.savez_compressed(tmp_path / "a.npz", np.zeros((100, 3, 40, 50)))
    with pytest.raises(InputFileError, match="unpacks to"):
        read_images(tmp_path / "a.npz", shape=(3, 40, 50))


def test_an_array_that_says_it_is_larger_than_its_file_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**30, *SHAPE)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    with pytest.raises(InputFileError):
        read_images(tmp_path / "a.npz", shape=SHAPE)


def test_random_images_depend_on_the_seed_alone():
    assert np.array_equal(random_images(SHAPE, images=3, seed=1), random_images(SHAPE, images=3, seed=1))
    assert not np.array_equal(random_images(SHAPE, images=3, seed=1), random_images(SHAPE, images=3, seed=2))
