"""Training, validation and test images: splits of a source, and random parts of every class."""

import dataclasses
from typing import Protocol, Self, TypeVar

import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.data.base import Source
from kd_jax.data.class_positions import ranks_in_class
from kd_jax.data.images import ImageSet, StoredImages

_FRACTION_STREAM = 2**63
"""Second word of the Philox key of `class_fraction`. Batch orders have the epoch there, and
`kd_jax.evaluation.faces.galleries` has `2**63 + 1`, `kd_jax.data.identities` has `2**63 + 3`: all
draw from different streams."""
_HOLD_OUT_STREAM = 2**63 + 2
"""Second word of the Philox key of `hold_out`."""


class _Labeled(Protocol):
    """A set of labeled images, in memory or on a disk."""

    @property
    def num_classes(self) -> int: ...

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def keep(self, rows: np.ndarray) -> Self:
        """Returns the set of the chosen rows."""
        ...


Images = TypeVar("Images", bound=_Labeled)


def load_splits(
    source: Source, train_split: str, test_split: str | None, stream: bool = False
) -> tuple[ImageSet | StoredImages, ImageSet | None]:
    """Reads the training and the test images and checks that they belong together.

    Args:
        source: the source of both splits.
        train_split: the training split in TFDS notation.
        test_split: the test split in TFDS notation; None reads no test images.
        stream: leave the training images on the disk and decode them on demand.

    Returns:
        The training images, and the test images or None. Both have the same number of classes,
        except if no test class is a training class: see `has_new_classes`.

    Raises:
        UsageError: if a split is empty or cannot be read, if the image shapes differ, or if only
            some of the test classes are training classes.
    """
    train = source.open(train_split) if stream else source.load(train_split)
    if not len(train):
        raise UsageError(f"split {train_split!r} is empty: choose a part that holds images.")
    if test_split is None:
        return train, None
    test = source.load(test_split)
    if not len(test):
        raise UsageError(
            f"split {test_split!r} is empty: choose a part that holds images, or None to have no"
            " test images."
        )
    if train.image_shape != test.image_shape:
        raise UsageError(
            f"training images are {train.image_shape} but test images {test.image_shape}: bring"
            " both to one size."
        )
    if test.num_classes <= train.num_classes:
        return train, dataclasses.replace(test, num_classes=train.num_classes)
    if test.labels.min() < train.num_classes:
        raise UsageError(
            f"test labels go up to {test.num_classes - 1} but training labels only to"
            f" {train.num_classes - 1}: set data.source.num_classes."
        )
    return train, test


def has_new_classes(images: _Labeled, train: _Labeled) -> bool:
    """Returns whether all classes of a set are missing in the training set, as in retrieval.

    The labels of the set then begin at the number of training classes, so that they are no classes
    of a classifier.

    Args:
        images: a set that `load_splits` has checked against the training set.
        train: the training set.
    """
    return images.num_classes > train.num_classes


def class_fraction(images: Images, fraction: float, seed: int) -> Images:
    """Keeps a fraction of the images of every class, in their stored order.

    Every image has a random rank in its class, which depends only on the seed and on the stored
    order. The images of the lowest ranks stay, so that a smaller fraction of the same seed is part
    of a larger one. The ranks come from the raw words of Philox, which are the same in all versions
    of NumPy.

    Args:
        images: the whole set.
        fraction: fraction to keep, greater than 0 and at most 1. The number of images to keep of a
            class is rounded; it is at least one if the class has images.
        seed: seed of the choice, 0 to 2**64 - 1.
    """
    if fraction == 1:
        return images
    sizes = np.bincount(images.labels, minlength=images.num_classes)
    kept = np.maximum(1, np.round(fraction * sizes))
    return images.keep(_ranks(images, seed, _FRACTION_STREAM) < kept[images.labels])


def hold_out(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Separates a fraction of the images of every class, such as a validation set.

    The choice is that of `class_fraction`, from another stream of random numbers: a smaller
    fraction of the same seed is part of a larger one, and both functions can be combined with one
    seed. Call `hold_out` first: then all fractions of the training images have the same validation
    set.

    Args:
        images: the whole set.
        fraction: fraction to hold out, at least 0 and less than 1. The number of images to hold out
            of a class is rounded. If the class has two images or more, it is at least one, and at
            least one image is kept. A single image is kept.
        seed: seed of the choice, 0 to 2**64 - 1.

    Returns:
        The kept and the held-out images, both in their stored order and with all classes.

    Raises:
        UsageError: if the fraction is out of range, or no class has two images.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"fraction = {fraction} is impossible: choose 0 or more, and less than 1.")
    sizes = np.bincount(images.labels, minlength=images.num_classes)
    numbers = np.zeros(len(sizes))
    if fraction:
        numbers = np.minimum(np.maximum(1, np.round(fraction * sizes)), np.maximum(0, sizes - 1))
        if not numbers.any():
            raise UsageError(
                "no image can be held out, because no class has two images: add images, or set the"
                " fraction to 0."
            )
    held_out = _ranks(images, seed, _HOLD_OUT_STREAM) < numbers[images.labels]
    return images.keep(~held_out), images.keep(held_out)


def _ranks(images: _Labeled, seed: int, stream: int) -> np.ndarray:
    """Returns the random rank of each image in its class, int64 `[N]`."""
    generator = np.random.Philox(key=np.array([seed, stream], np.uint64))
    return ranks_in_class(images.labels, generator.random_raw(len(images)))
