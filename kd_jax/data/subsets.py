"""Few-sample training sets: the same share of every class, chosen by a seed of its own."""

from typing import TypeVar

import numpy as np

from kd_jax.data.images import ImageSet, StoredImages, places_in_class

_STREAM = 2**63
"""Second word of the key; the batch orders have the epoch there, and so draw from other streams."""

Images = TypeVar("Images", ImageSet, StoredImages)


def class_fraction(images: Images, fraction: float, seed: int) -> Images:
    """Keeps a share of the images of every class, in their stored order.

    Every image has a rank in its class, which depends on the seed and on the stored order alone,
    and those that rank first stay: a smaller share of the same seed lies within a larger one. The
    ranks come from the raw words of Philox, which NumPy keeps the same in all versions.

    Args:
        images: the whole set.
        fraction: share to keep, greater than 0 and at most 1; of every class that has images the
            nearest whole number is kept, one at least.
        seed: of the choice, 0 to 2**64 - 1.
    """
    if fraction == 1:
        return images
    words = np.random.Philox(key=np.array([seed, _STREAM], np.uint64)).random_raw(len(images))
    ranks = ranks_in_class(images.labels, words)
    sizes = np.bincount(images.labels, minlength=images.num_classes)
    kept = ranks < np.maximum(1, np.round(fraction * sizes))[images.labels]
    return images.keep(kept)


def ranks_in_class(labels: np.ndarray, words: np.ndarray) -> np.ndarray:
    """How many images of its own class have a smaller word than each image, `[N]`."""
    order = np.argsort(words, kind="stable")
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = places_in_class(labels[order])
    return ranks
