import dataclasses
import pickle

import numpy as np
import pytest
from PIL import Image

from kd_jax.core.errors import UsageError
from kd_jax.data import ImageSet, StoredImages
from kd_jax.data.image_files import FileImages
from kd_jax.data.sources.folder import Folder

SHAPE = (6, 4, 3)


def test_statistics_are_means_and_standard_deviations_of_the_pixels(x64):
    images = np.random.default_rng(0).integers(0, 256, (20, 5, 7, 3), dtype=np.uint8)
    mean, std = ImageSet(images, np.zeros(20, np.int32), 1).channel_statistics()
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255, rtol=1e-12)


def test_fingerprint_depends_on_every_pixel_and_label():
    one = ImageSet(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32), 2)
    pixel = ImageSet(one.images.copy(), one.labels, 2)
    pixel.images[3, 1, 1, 0] = 1
    label = ImageSet(one.images, np.array([0, 0, 0, 1], np.int32), 2)
    assert len({s.fingerprint() for s in (one, pixel, label)}) == 3
    assert ImageSet(one.images.copy(), one.labels.copy(), 2).fingerprint() == one.fingerprint()


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pixels):
    root = tmp_path_factory.mktemp("images")
    for i, image in enumerate(pixels):  # three classes take turns
        save(root / "train" / f"{i % 3}" / f"{i:02}.png", image)
    return root


@pytest.fixture
def stored(folder):
    return Folder(str(folder)).open("train")


def test_stored_images_are_those_in_memory(stored, folder, pixels):
    assert isinstance(stored, StoredImages)
    assert (len(stored), stored.num_classes, stored.image_shape) == (12, 3, SHAPE)
    assert stored.labels.dtype == np.int32
    np.testing.assert_array_equal(stored.labels, np.arange(12) % 3)
    memory = Folder(str(folder)).load("train")
    assert memory.fingerprint() == stored.in_memory().fingerprint()
    assert memory.image_shape == SHAPE
    np.testing.assert_array_equal(memory.images, pixels)
    for index in (0, np.int32(7), -1):
        np.testing.assert_array_equal(stored.read(index), pixels[index])
    for images in (stored, memory):
        np.testing.assert_array_equal(images.take(np.array([5, 2, 5])), pixels[[5, 2, 5]])
        part = images.keep(np.arange(12) > 8)
        np.testing.assert_array_equal(part.take(np.array([0, 2])), pixels[[9, 11]])
        assert part.labels.tolist() == [0, 1, 2]
        assert part.num_classes == 3
    with pytest.raises(IndexError):
        stored.read(12)


def test_parts_are_opened_too(folder, pixels):
    part = Folder(str(folder)).open("train[25%:50%]")
    np.testing.assert_array_equal(part.take(np.arange(3)), pixels[3:6])


def test_other_processes_read_the_same(stored, pixels):
    stored.read(3)  # its cached shape is pickled too
    copy = pickle.loads(pickle.dumps(stored))
    np.testing.assert_array_equal(copy.read(4), pixels[4])
    assert copy.fingerprint() == stored.fingerprint()


def test_stored_fingerprint_depends_on_names_lengths_and_labels_only(tmp_path, pixels):
    def fingerprint(folder, name="0.png", image=pixels[0], **changes):
        save(tmp_path / folder / name, image)
        values = {"labels": np.zeros(1, np.int32), "num_classes": 2} | changes
        keys = np.array([name], object)
        return FileImages(keys=keys, root=str(tmp_path / folder), **values).fingerprint()

    assert fingerprint("a") == fingerprint("b")
    others = [
        fingerprint("b", name="1.png"),
        fingerprint("c", image=np.zeros_like(pixels[0])),
        fingerprint("b", labels=np.ones(1, np.int32)),
        fingerprint("b", num_classes=3),
        fingerprint("b", size=(2, 2)),
    ]
    assert len({fingerprint("a"), *others}) == 6
    with pytest.raises(UsageError, match=r"a/2\.png cannot be read \(No such file"):
        values = {"labels": np.zeros(2, np.int32), "num_classes": 2}
        keys = np.array(["0.png", "2.png"], object)
        FileImages(keys=keys, root=str(tmp_path / "a"), **values).fingerprint()


def test_statistics_of_a_small_stored_set_are_those_in_memory(stored):
    assert stored.channel_statistics() == stored.in_memory().channel_statistics()


def test_statistics_of_a_large_stored_set_are_those_of_an_even_sample(tmp_path):
    for level in (0, 255):
        save(tmp_path / f"{level}.png", np.full((1, 1, 3), level, np.uint8))
    keys = np.array(["0.png"] * 10_000 + ["255.png"] * 10_000, object)
    labels = np.zeros(20_000, np.int32)
    images = FileImages(keys=keys, labels=labels, num_classes=1, root=str(tmp_path))
    reads = []
    encoded = FileImages.encoded

    def count(self, key):
        reads.append(key)
        return encoded(self, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileImages, "encoded", count)
        assert images.channel_statistics() == ((0.5,) * 3, (0.5,) * 3)
    assert 4096 <= len(reads) <= 4100


def test_the_center_is_cut_out(stored, pixels):
    cut = dataclasses.replace(stored, size=(4, 3))
    assert cut.image_shape == (4, 3, 3)
    np.testing.assert_array_equal(cut.read(2), pixels[2, 1:5, 0:3])
    np.testing.assert_array_equal(cut.in_memory().images, pixels[:, 1:5, 0:3])
    big = dataclasses.replace(stored, size=(4, 5))
    with pytest.raises(UsageError, match=r"00\.png has height and width \(6, 4\), from which size"):
        big.read(0)


def test_one_image_of_another_size_is_named(tmp_path, folder, pixels):
    root = tmp_path / "train" / "0"
    save(root / "0.png", pixels[0])
    save(root / "1.png", pixels[0, :, :3])
    images = Folder(str(tmp_path)).open("train")
    images.read(0)
    says = r"1\.png has height and width \(6, 3\), but .*0\.png \(6, 4\): bring all"
    for read in (lambda: images.read(1), images.in_memory, lambda: images.take([1])):
        with pytest.raises(UsageError, match=says):
            read()
