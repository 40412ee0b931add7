"""Few-sample training sets: the same share of every class, chosen by a seed of its own."""

import dataclasses

import numpy as np

from kd_jax.data.images import ImageSet, places_in_class

_STREAM = 2**63
"""Second word of the key; the batch orders have the epoch there, and so draw from other streams."""


def class_fraction(images: ImageSet, fraction: float, seed: int) -> ImageSet:
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
    order = np.argsort(words, kind="stable")
    ranks = np.empty(len(images), np.int64)
    ranks[order] = places_in_class(images.labels[order])
    sizes = np.bincount(images.labels, minlength=images.num_classes)
    kept = ranks < np.maximum(1, np.round(fraction * sizes))[images.labels]
    return dataclasses.replace(images, images=images.images[kept], labels=images.labels[kept])
