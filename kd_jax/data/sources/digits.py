"""Scikit-learn's handwritten digits."""

import dataclasses

import numpy as np

from kd_jax.data.base import SOURCES, Source, slices
from kd_jax.data.images import ImageSet


@SOURCES.register("digits")
@dataclasses.dataclass(frozen=True)
class Digits(Source):
    """Scikit-learn's 1,797 real handwritten digits: 8x8 gray images of ten classes.

    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998. The scikit-learn package
    contains them, so nothing is downloaded. The splits are those of kd_jax, stratified and shuffled
    with a fixed seed: `train` has 1,437 images, `test` 360.
    """

    def load(self, split: str) -> ImageSet:
        """Reads `train` or `test`, or a part of one."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        parts = train_test_split(
            images, labels.astype(np.int32), test_size=360, stratify=labels, random_state=0
        )
        splits = {"train": (parts[0], parts[2]), "test": (parts[1], parts[3])}
        name, part = slices(split, {name: len(y) for name, (_, y) in splits.items()})
        images, labels = splits[name]
        names = np.arange(len(labels))[part]
        return ImageSet(images[part], labels[part], num_classes=10, names=names)
