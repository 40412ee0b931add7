import numpy as np
from sklearn.datasets import load_digits

from kd_jax.data import load_splits
from kd_jax.data.sources.digits import Digits


def test_digits_are_scikit_learns_and_split_by_class():
    train, test = load_splits(Digits(), "train", "test")
    assert (len(train), len(test), train.num_classes) == (1437, 360, 10)
    assert train.images.shape[1:] == (8, 8, 1)
    assert train.images.dtype == np.uint8
    pixels, labels = load_digits(return_X_y=True)
    ours = np.sort(np.concatenate([train.labels, test.labels]))
    np.testing.assert_array_equal(ours, np.sort(labels))
    # every stored image is one of theirs, scaled to 0..255 instead of 0..16
    theirs = {tuple(row) for row in np.round(pixels * 255 / 16).astype(np.uint8)}
    assert {tuple(image.ravel()) for image in test.images} <= theirs
    assert np.bincount(test.labels).min() >= 34  # 360 images of ten classes, stratified


def test_parts_of_a_split_are_disjoint_and_complete():
    whole = Digits().load("train")
    parts = [Digits().load(split) for split in ("train[:80%]", "train[80%:]")]
    assert [len(part) for part in parts] == [1150, 287]
    images = np.concatenate([part.images for part in parts])
    np.testing.assert_array_equal(images, whole.images)
