import shutil

import numpy as np
import pytest
import small_sets
import tensorflow_datasets as tfds

from kd_jax.core.errors import UsageError
from kd_jax.data import Fit, load_splits
from kd_jax.data.sources.tfds import Tfds


@pytest.fixture(scope="module")
def gray(tmp_path_factory):
    return small_sets.prepare(small_sets.Gray, tmp_path_factory.mktemp("tfds"))


def test_a_prepared_set_is_read_without_tensorflow(gray):
    train, test = load_splits(Tfds("gray", gray), "train[1:]", "test")
    assert (len(train), len(test), train.num_classes) == (8, 3, 3)
    # tfds stores the examples shuffled: every gray level must have its own label
    np.testing.assert_array_equal(train.images[:, 0, 0, 0] % 3, train.labels)
    parity = Tfds("gray", gray, label_key="parity").load("train")
    assert parity.num_classes == 2


def test_images_are_fitted(gray):
    plain = Tfds("gray", gray).load("test")
    fitted = Tfds("gray", gray, fit=Fit((3, 4), gray=True)).load("test")
    assert fitted.images.shape == (3, 3, 4, 1)
    np.testing.assert_array_equal(fitted.images[:, 0, 0, 0], plain.images[:, 0, 0, 0])
    np.testing.assert_array_equal(fitted.labels, plain.labels)


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


def test_a_set_with_further_features(tmp_path):
    source = Tfds("cifar10", small_sets.prepare(Cifar10, tmp_path))
    train, test = load_splits(source, "train", "test[:50%]")
    assert (train.images.shape, train.num_classes) == ((200, 32, 32, 3), 10)
    assert (len(test), test.num_classes) == (50, 10)
    np.testing.assert_array_equal(np.bincount(train.labels), 20)
    with pytest.raises(UsageError, match="'id' and 'label' of 'cifar10' must be an 8-bit image"):
        Tfds("cifar10", str(tmp_path), image_key="id").load("train")


def test_a_missing_set_names_the_command(tmp_path):
    with pytest.raises(UsageError, match=r"tfds build cifar100 --file_format=array_record") as e:
        Tfds("cifar100", str(tmp_path)).load("train")
    assert f"--data_dir={tmp_path}" in str(e.value)


def test_errors_name_the_known_features_and_empty_splits(gray):
    with pytest.raises(UsageError, match="'image', 'label', 'parity'"):
        Tfds("gray", gray, label_key="fine_label").load("train")
    with pytest.raises(UsageError, match=r"split 'train\[2:2\]' is empty"):
        Tfds("gray", gray).load("train[2:2]")


@pytest.mark.parametrize(
    "name", ["dataset_info.json", "features.json", "gray-train.array_record-00000-of-00001"]
)
def test_a_damaged_set_is_one_sentence(gray, tmp_path, name):
    shutil.copytree(gray, tmp_path / "sets")
    path = tmp_path / "sets" / "gray" / "1.0.0" / name
    data = path.read_bytes()
    for damaged in (b"", data[: len(data) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"'gray' cannot be read .*delete it and run") as error:
            Tfds("gray", str(tmp_path / "sets")).load("train")
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("options", [{"data_dir": "a\0b"}, {"dataset": "../x"}, {"dataset": ""}])
def test_names_and_folders_that_cannot_exist(gray, options):
    with pytest.raises(UsageError, match="cannot be read"):
        Tfds(**{"dataset": "gray", "data_dir": gray, **options}).load("train")


def test_the_real_cifar100_if_it_is_prepared():
    try:
        train, test = load_splits(Tfds("cifar100"), "train", "test")
    except UsageError as error:
        pytest.skip(str(error))
    assert train.images.shape == (50000, 32, 32, 3)
    assert test.images.shape == (10000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(train.labels), 500)
    # the widely used constants, as in RepDistiller's dataset/cifar100.py
    mean, std = train.channel_statistics()
    np.testing.assert_allclose(mean, (0.5071, 0.4867, 0.4408), atol=3e-4)
    np.testing.assert_allclose(std, (0.2675, 0.2565, 0.2761), atol=3e-4)
