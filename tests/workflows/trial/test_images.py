"""A user's images: folders and npz files, grey and colour, of any size, and what is refused."""

import numpy as np
import pytest
from PIL import Image
from tiny_images import tiny_images, write_npz

from deepmad_hw.errors import InputFileError
from deepmad_hw.workflows.trial.images import digest, read_images, split


@pytest.fixture
def folder(tmp_path):
    """Return a folder of 5 + 5 training images and 2 + 2 test images of 10 x 12 pixels."""
    random = np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            place = tmp_path / "images" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "images"


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_a_folder_is_read_by_classes_in_order(folder):
    images = read_images(folder, "train", shape=(3, 10, 12))
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0] * 5 + [1] * 5
    with Image.open(folder / "train" / "dog" / "2.png") as picture:
        np.testing.assert_array_equal(images.pixels[7], np.asarray(picture))


def test_images_are_resized_and_made_grey_as_the_network_takes_them(folder):
    assert read_images(folder, "test", shape=(1, 8, 8)).pixels.shape == (4, 8, 8, 1)


def test_an_npz_is_read_as_it_is(tmp_path):
    path = write_npz(tmp_path / "images.npz")
    images = read_images(path, "train", shape=(1, 8, 8))
    np.testing.assert_array_equal(images.pixels, tiny_images(90, seed=1).pixels)
    assert images.classes == ("0", "1", "2")


@pytest.mark.parametrize(("channels", "wanted"), [(1, 3), (3, 1)])
def test_an_npz_is_given_the_colours_and_the_size_that_the_network_takes(tmp_path, channels, wanted):
    pixels = np.full((6, 10, 12, channels), 90, np.uint8)
    path = save(tmp_path / "x.npz", x_train=pixels, y_train=np.arange(6) % 2)
    found = read_images(path, "train", shape=(wanted, 20, 20)).pixels
    assert found.shape == (6, 20, 20, wanted)
    assert (found == 90).all()


def test_grey_images_need_no_axis_of_channels(tmp_path):
    path = save(tmp_path / "x.npz", x_train=np.zeros((4, 8, 8), np.uint8), y_train=np.arange(4) % 2)
    assert read_images(path, "train", shape=(1, 8, 8)).pixels.shape == (4, 8, 8, 1)


def test_the_test_images_need_not_be_there_for_training(tmp_path):
    path = save(tmp_path / "x.npz", x_train=np.zeros((4, 8, 8), np.uint8), y_train=np.arange(4) % 2)
    with pytest.raises(InputFileError, match="x_test"):
        read_images(path, "test", shape=(1, 8, 8))


PIXELS, LABELS = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4) % 2


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x_train": PIXELS}, "y_train"),
        ({"x_train": PIXELS.astype(np.float32), "y_train": LABELS}, "bytes"),
        ({"x_train": PIXELS[..., 0, 0, 0], "y_train": LABELS}, "bytes"),
        ({"x_train": np.zeros((4, 8, 8, 2), np.uint8), "y_train": LABELS}, "1 or 3"),
        ({"x_train": PIXELS[:0], "y_train": LABELS[:0]}, "bytes"),
        ({"x_train": PIXELS, "y_train": LABELS[:3]}, "4 whole numbers"),
        ({"x_train": PIXELS, "y_train": LABELS.astype(float)}, "whole numbers"),
        ({"x_train": PIXELS, "y_train": LABELS - 1}, "labels 0, 1 and on"),
        ({"x_train": PIXELS, "y_train": LABELS * 0}, "labels 0, 1 and on"),
        ({"x_train": PIXELS, "y_train": LABELS + 1000}, "labels 0, 1 and on"),
        ({"x_train": np.array([{}], dtype=object), "y_train": LABELS}, "not an array"),
    ],
)
def test_arrays_that_are_no_images_are_refused_by_name(tmp_path, arrays, said):
    with pytest.raises(InputFileError, match=said):
        read_images(save(tmp_path / "x.npz", **arrays), "train", shape=(1, 8, 8))


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(InputFileError, match="not an array"):
        read_images(path, "train", shape=(1, 8, 8))


def test_a_broken_image_is_named(folder):
    (folder / "train" / "cat" / "3.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(InputFileError, match=r"3\.png"):
        read_images(folder, "train", shape=(3, 8, 8))


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_folder_without_its_parts_is_refused(tmp_path, part):
    with pytest.raises(InputFileError, match=part):
        read_images(tmp_path, part, shape=(3, 8, 8))


def test_something_else_is_refused(tmp_path):
    with pytest.raises(InputFileError, match=r"\.npz"):
        read_images(tmp_path / "images.csv", "train", shape=(3, 8, 8))


def test_a_split_takes_the_same_share_of_every_class_and_no_image_twice():
    images = tiny_images(90, seed=0)
    train, validation = split(images, 0.1, seed=4)
    assert np.bincount(validation.labels).tolist() == [3, 3, 3]
    assert len(train) + len(validation) == 90
    rows = {row.tobytes() for row in train.pixels}
    assert not rows & {row.tobytes() for row in validation.pixels}
    again, _ = split(images, 0.1, seed=4)
    other, _ = split(images, 0.1, seed=5)
    assert digest(train) == digest(again) != digest(other)


def test_a_class_of_one_image_cannot_be_split():
    images = tiny_images(4, seed=0)
    with pytest.raises(InputFileError, match="middle"):
        split(images, 0.1, seed=0)
