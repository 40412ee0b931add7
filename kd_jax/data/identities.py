"""Sources of identities: choose identities, and split the images of each into train and test."""

import dataclasses
import re

import numpy as np

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.base import StoredSource
from kd_jax.data.class_positions import positions_in_class
from kd_jax.data.fitting import Fit
from kd_jax.data.images import StoredImages
from kd_jax.data.local_files import is_count, read_text
from kd_jax.data.splits import hold_out

_IDENTITY_STREAM = 2**63 + 3
"""Second word of the Philox key of the choice of identities. All other random choices have other
words, hence other streams."""


@dataclasses.dataclass(frozen=True)
class Identities(StoredSource):
    """Images of identities that have no official splits.

    The last images of every identity are the split `test`, and all others are the split `train`.
    With `test_fraction` the images of the split `test` are random. The classes are the chosen
    identities, in their order.

    `identities=180, test_fraction=0.2` is the closed set of UCCS in HORKD and EKD: 180 random
    identities, the images of each randomly divided by 4:1. Every random choice depends only on the
    seed and on the stored images. The division does not depend on the choice of identities, and the
    identities of a smaller number are among those of a greater number.

    Attributes:
        path: path of the images.
        include: path of a text file with the identities to use, one per line; None uses all. Text
            after the first tab or comma of a line is ignored. The files of LFW, such as
            `peopleDevTrain.txt`, need no changes.
        exclude_ids: path of the same kind of file, with identities to leave out, such as those of a
            test set.
        min_images: smallest number of images of an identity; those with fewer are left out.
        test_images: number of images per identity in the split `test`, the last by name.
        size: height and width of the center that is cut out of every image; (112, 96) makes
            SphereFace's crops of 112x112 ones. None uses whole images.
        identities: number of identities, drawn among those that the other options leave; None uses
            all of them.
        test_fraction: fraction of the images of each identity in the split `test`, drawn by
            `kd_jax.data.hold_out`. 0 takes the last `test_images` instead.
        seed: seed of `identities` and `test_fraction`.
        fit: size and color that all images are brought to, before `size` cuts out their center.
            None needs images of one size.
    """

    path: str
    include: str | None = None
    exclude_ids: str | None = None
    min_images: int = 2
    test_images: int = 1
    size: tuple[int, int] | None = None
    identities: int | None = None
    test_fraction: float = 0.0
    seed: int = 0
    fit: Fit | None = None

    def __post_init__(self):
        if not 0 <= self.test_images < self.min_images:
            raise ValueError(
                f"test_images {self.test_images} must be 0 or more, and less than min_images"
                f" {self.min_images}, so that every identity has training images"
            )
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size {self.size} must be a height and a width")
        if self.identities is not None and self.identities < 1:
            raise ValueError(f"identities must be 1 or more, not {self.identities}")
        if not 0 <= self.test_fraction < 1:
            raise ValueError("test_fraction must be 0 or more, and less than 1")
        if self.test_fraction and (self.test_images != 1 or self.min_images < 2):
            raise ValueError(
                "test_fraction replaces test_images, which must be left out, and needs min_images"
                " of 2 or more"
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError("seed must be 0 or more, and less than 2**64")

    def _all(self) -> tuple[StoredImages, list[str]]:
        """Returns all images, sorted in each identity, and the names of the identities by label."""
        raise NotImplementedError

    def _splits(self) -> list[str]:
        return ["train", "test"]

    def _whole(self, split: str) -> StoredImages:
        images, names = self._all()
        sizes = np.bincount(images.labels, minlength=len(names))
        used = self._drawn(self._chosen(names) & (sizes >= self.min_images))
        if self.test_fraction:
            kept, held_out = hold_out(images, self.test_fraction, self.seed)
            images = kept if split == "train" else held_out
            rows = used[images.labels]
        else:
            last = positions_in_class(images.labels) >= (sizes - self.test_images)[images.labels]
            rows = used[images.labels] & (last == (split == "test"))
        part = images.keep(rows)
        classes = np.cumsum(used, dtype=np.int32) - 1
        labels, num_classes = classes[part.labels], int(used.sum())
        return dataclasses.replace(part, labels=labels, num_classes=num_classes, fit=self.fit)

    def _drawn(self, eligible: np.ndarray) -> np.ndarray:
        """Returns the mask of the identities to use.

        Args:
            eligible: mask of the identities that the other options leave, bool `[I]`.
        """
        found = int(eligible.sum())
        if not found:
            raise UsageError(
                f"{self.path} holds no chosen identity with {self.min_images} images or more: set"
                " data.source.min_images, include and exclude_ids to keep some."
            )
        if self.identities is None:
            return eligible
        if found < self.identities:
            raise UsageError(
                f"{self.path} holds {found} chosen identities with {self.min_images} images or"
                f" more, but identities = {self.identities}: reduce it or min_images."
            )
        generator = np.random.Philox(key=np.array([self.seed, _IDENTITY_STREAM], np.uint64))
        order = np.argsort(generator.random_raw(len(eligible)), kind="stable")
        used = np.zeros_like(eligible)
        used[order[eligible[order]][: self.identities]] = True
        return used

    def _chosen(self, names: list[str]) -> np.ndarray:
        """Returns the mask of the identities that the two lists leave, bool `[len(names)]`."""
        chosen = np.ones(len(names), bool)
        if self.include is not None:
            wanted = read_names(self.include)
            if unknown := sorted(wanted - set(names)):
                raise UsageError(
                    f"{self.include} names {len(unknown)} identities that {self.path} does not"
                    f" hold, first {unknown[0]!r}: remove them from data.source.include, or add"
                    " their images."
                )
            chosen &= np.array([name in wanted for name in names])
        if self.exclude_ids is not None:
            unwanted = read_names(self.exclude_ids)
            excluded = np.array([name in unwanted for name in names])
            if not excluded.any():  # some may be missing: the list may be made for a larger set
                raise UsageError(
                    f"{self.exclude_ids} names no identity of {self.path}, whose first is"
                    f" {names[0]!r}: write the list in data.source.exclude_ids with the names that"
                    " are used there."
                )
            chosen &= ~excluded
        return chosen


def read_names(path: str) -> set[str]:
    """Reads a list of identities, one per line; text after the first tab or comma is ignored.

    The lists of LFW have a second column. A line with only a number is a count there: the number of
    names, or the number of folds and then the number of names in each fold.

    Raises:
        UsageError: if the file cannot be read, has no names, or its counts are wrong.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({reason(error)}): it must be a text file."
        ) from error
    rows = [[cell.strip() for cell in re.split("[\t,]", line)] for line in lines if line.strip()]
    counts = []
    if any(len(row) > 1 for row in rows):
        counts = [int(row[0]) for row in rows if len(row) == 1 and is_count(row[0])]
        rows = [row for row in rows if len(row) > 1 or not is_count(row[0])]
    if not rows:
        raise UsageError(f"{path} names no identities: write one per line.")
    expected = sum(counts[1:]) or sum(counts)
    if counts and expected != len(rows):
        raise UsageError(
            f"{path} has counts for {expected} identities, but names {len(rows)}: restore the file."
        )
    return {row[0] for row in rows}
