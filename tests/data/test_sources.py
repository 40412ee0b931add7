import re

import numpy as np
import pytest
import small_sets
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from kd_jax.data import ImageSet, load_splits
from kd_jax.data.sources import Digits, Npz, Tfds
from kd_jax.errors import UsageError


def test_digits_are_scikit_learns_and_split_by_class():
    train, test = load_splits(Digits(), "train", "test")
    assert (len(train), len(test), train.num_classes) == (1437, 360, 10)
    assert train.images.shape[1:] == (8, 8, 1)
    assert train.images.dtype == np.uint8
    pixels, labels = load_digits(return_X_y=True)
    ours = np.sort(np.concatenate([train.labels, test.labels]))
    np.testing.assert_array_equal(ours, np.sort(labels))
    # every stored image is one of theirs, on the scale 0..255 instead of 0..16
    theirs = {tuple(row) for row in np.round(pixels * 255 / 16).astype(np.uint8)}
    assert {tuple(image.ravel()) for image in test.images} <= theirs
    assert np.bincount(test.labels).min() >= 34  # 360 images of ten classes, stratified


def test_parts_of_a_split_are_disjoint_and_complete():
    whole = Digits().load("train")
    parts = [Digits().load(split) for split in ("train[:80%]", "train[80%:]")]
    assert [len(part) for part in parts] == [1150, 287]
    images = np.concatenate([part.images for part in parts])
    np.testing.assert_array_equal(images, whole.images)


@pytest.mark.parametrize("split", ["validation", "train[", "train[:10%]+train[90%:]"])
def test_a_bad_split_is_named(split):
    with pytest.raises(UsageError, match=re.escape(split)):
        Digits().load(split)


def test_statistics_are_those_of_the_pixels(x64):
    images = np.random.default_rng(0).integers(0, 256, (20, 5, 7, 3), dtype=np.uint8)
    mean, deviation = ImageSet(images, np.zeros(20, np.int32), 1).channel_statistics()
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(deviation, images.std((0, 1, 2)) / 255, rtol=1e-12)


def test_fingerprint_sees_every_pixel_and_label():
    one = ImageSet(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32), 2)
    pixel = ImageSet(one.images.copy(), one.labels, 2)
    pixel.images[3, 1, 1, 0] = 1
    label = ImageSet(one.images, np.array([0, 0, 0, 1], np.int32), 2)
    assert len({s.fingerprint() for s in (one, pixel, label)}) == 3
    assert ImageSet(one.images.copy(), one.labels.copy(), 2).fingerprint() == one.fingerprint()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return small_sets.prepare(small_sets.Grey, tmp_path_factory.mktemp("tfds"))


def test_a_prepared_tfds_set_is_read_without_tensorflow(tiny):
    train, test = load_splits(Tfds("grey", tiny), "train[1:]", "test")
    assert (len(train), len(test), train.num_classes) == (8, 3, 3)
    # tfds stores the examples shuffled: every grey level must meet its own label
    np.testing.assert_array_equal(train.images[:, 0, 0, 0] % 3, train.labels)
    parity = Tfds("grey", tiny, label_key="parity").load("train")
    assert parity.num_classes == 2


class Cifar10(small_sets.Cifar100):
    """Noise with the features of TFDS' CIFAR-10."""

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, number):
        for i, example in super()._generate_examples(number):
            yield i, {**example, "id": f"{number}_{i:05}", "label": i % 10}


def test_cifar10_is_read_as_cifar100_is(tmp_path):
    source = Tfds("cifar10", small_sets.prepare(Cifar10, tmp_path))
    train, test = load_splits(source, "train", "test[:50%]")
    assert (train.images.shape, train.num_classes) == ((200, 32, 32, 3), 10)
    assert (len(test), test.num_classes) == (50, 10)
    np.testing.assert_array_equal(np.bincount(train.labels), 20)


def test_what_is_not_prepared_names_the_command(tmp_path):
    with pytest.raises(UsageError, match=r"tfds build cifar100 --file_format=array_record") as e:
        Tfds("cifar100", str(tmp_path)).load("train")
    assert f"--data_dir={tmp_path}" in str(e.value)


def test_an_unknown_feature_lists_the_known(tiny):
    with pytest.raises(UsageError, match="'image', 'label', 'parity'"):
        Tfds("grey", tiny, label_key="fine_label").load("train")


def save(path, images, labels):
    np.savez(path, images=images, labels=labels)
    return str(path)


def test_npz_reads_grey_and_colour_images(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (10, 4, 4), dtype=np.uint8)
    save(tmp_path / "grey_train.npz", grey, np.arange(10) % 2)
    save(tmp_path / "grey_test.npz", grey[:4], np.arange(4) % 2)
    train, test = load_splits(Npz(str(tmp_path / "grey_{split}.npz")), "train", "test")
    np.testing.assert_array_equal(train.images[..., 0], grey)
    assert (train.num_classes, len(test), test.labels.dtype) == (2, 4, np.int32)
    one = Npz(save(tmp_path / "one.npz", np.stack([grey] * 3, -1), np.arange(10) % 2))
    train, test = load_splits(one, "train[:80%]", "train[80%:]")
    assert train.images.shape == (8, 4, 4, 3)
    assert len(test) == 2


GOOD = np.zeros((4, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (GOOD.astype(np.float32), np.zeros(4, int), "uint8"),
        (GOOD[0], np.zeros(3, int), r"\[N, H, W\]"),
        (GOOD[:0], np.zeros(0, int), "not empty"),
        (GOOD, np.zeros(3, int), r"shape \(4,\)"),
        (GOOD, np.zeros(4), "integers"),
        (GOOD, np.array([0, 1, 2, -1]), "from -1 to 2"),
    ],
)
def test_npz_refuses_what_training_cannot_use(tmp_path, images, labels, says):
    path = save(tmp_path / "x.npz", images, labels)
    with pytest.raises(UsageError, match=says):
        Npz(path).load("train")


def test_npz_refuses_missing_and_broken_files(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        Npz(str(tmp_path / "none.npz")).load("train")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UsageError, match="cannot be read"):
        Npz(str(tmp_path / "broken.npz")).load("train")
    np.savez(tmp_path / "other.npz", pictures=GOOD)
    with pytest.raises(UsageError, match="`images` and `labels`"):
        Npz(str(tmp_path / "other.npz")).load("train")


def test_splits_must_belong_together(tmp_path):
    source = Npz(str(tmp_path / "{split}.npz"))
    save(tmp_path / "train.npz", GOOD, np.array([0, 1, 0, 1]))
    save(tmp_path / "test.npz", np.zeros((2, 5, 5), np.uint8), np.array([0, 1]))
    with pytest.raises(UsageError, match=r"\(3, 3, 1\).*\(5, 5, 1\)"):
        load_splits(source, "train", "test")
    save(tmp_path / "test.npz", GOOD, np.array([0, 1, 2, 0]))
    with pytest.raises(UsageError, match=r"num_classes"):
        load_splits(source, "train", "test")
    with pytest.raises(UsageError, match="empty"):
        load_splits(source, "train[:0]", "train")


def test_cifar100_where_it_is_prepared():
    try:
        train, test = load_splits(Tfds("cifar100"), "train", "test")
    except UsageError as error:
        pytest.skip(str(error))
    assert train.images.shape == (50000, 32, 32, 3)
    assert test.images.shape == (10000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(train.labels), 500)
    # the widely used constants, as in RepDistiller's dataset/cifar100.py
    mean, deviation = train.channel_statistics()
    np.testing.assert_allclose(mean, (0.5071, 0.4867, 0.4408), atol=3e-4)
    np.testing.assert_allclose(deviation, (0.2675, 0.2565, 0.2761), atol=3e-4)
