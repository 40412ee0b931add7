"""Training identities: which of them are used, and which images of each are kept for the test."""

import dataclasses
import pathlib
import re

import numpy as np

from kd_jax.data.images import StoredImages, StoredSource, places_in_class
from kd_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Identities(StoredSource):
    """Images of identities, without a split of their own.

    The last images of every identity make up the split `test`, all others the split `train`; the
    classes are the chosen identities, in their order.

    Attributes:
        path: where the images lie.
        include: text file with the identities that are used, one a line; None uses all. Only what
            stands before the first tab or comma of a line counts. The files of LFW, such as
            `peopleDevTrain.txt`, can be given as they are.
        exclude_ids: the same kind of file, with identities to leave out: those of a test set.
        min_images: identities with fewer images are left out.
        test_images: how many images of each identity are kept for `test`, the last by name.
        size: height and width of the middle of every image, which alone is used; (112, 96) makes
            SphereFace's crops of 112x112 ones. None uses whole images.
    """

    path: str
    include: str | None = None
    exclude_ids: str | None = None
    min_images: int = 2
    test_images: int = 1
    size: tuple[int, int] | None = None

    def __post_init__(self):
        if not 0 <= self.test_images < self.min_images:
            raise ValueError(
                f"test_images {self.test_images} must be 0 or more, and less than min_images"
                f" {self.min_images}, so that every identity has training images"
            )
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size {self.size} must be a height and a width")

    def _all(self) -> tuple[StoredImages, list[str]]:
        """All images, sorted in each identity, and the names of the identities by label."""
        raise NotImplementedError

    def _splits(self) -> list[str]:
        return ["train", "test"]

    def _whole(self, split: str) -> StoredImages:
        images, names = self._all()
        sizes = np.bincount(images.labels, minlength=len(names))
        used = self._chosen(names) & (sizes >= self.min_images)
        if not used.any():
            raise UsageError(
                f"{self.path} holds no identity with {self.min_images} images or more that is"
                " chosen: set data.source.min_images, include and exclude_ids to keep some."
            )
        held_out = places_in_class(images.labels) >= (sizes - self.test_images)[images.labels]
        part = images.keep(used[images.labels] & (held_out == (split == "test")))
        classes = np.cumsum(used, dtype=np.int32) - 1
        return dataclasses.replace(part, labels=classes[part.labels], num_classes=int(used.sum()))

    def _chosen(self, names: list[str]) -> np.ndarray:
        """Which identities the two lists leave, bool `[len(names)]`."""
        chosen = np.ones(len(names), bool)
        if self.include is not None:
            wanted = read_names(self.include)
            if unknown := sorted(wanted - set(names)):
                raise UsageError(
                    f"{self.include} names {len(unknown)} identities that {self.path} does not"
                    f" hold, first {unknown[0]!r}: take them out of data.source.include, or add"
                    " their images."
                )
            chosen &= np.array([name in wanted for name in names])
        if self.exclude_ids is not None:
            unwanted = read_names(self.exclude_ids)
            found = np.array([name in unwanted for name in names])
            if not found.any():  # a list made for all of a set may well name some that are not here
                raise UsageError(
                    f"{self.exclude_ids} names no identity of {self.path}, whose first is"
                    f" {names[0]!r}: give data.source.exclude_ids the names that are used there."
                )
            chosen &= ~found
        return chosen


def read_names(path: str) -> set[str]:
    """Reads a list of identities: what stands in each line before the first tab or comma.

    In LFW's lists the names have a second column, and numbers alone in a line are counts: of all
    names, or of the folds and then of the names of each.

    Raises:
        UsageError: if the file cannot be read, names nothing, or not as many as it says.
    """
    try:
        lines = pathlib.Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): it must be a text file.") from error
    rows = [[cell.strip() for cell in re.split("[\t,]", line)] for line in lines if line.strip()]
    counts = []
    if any(len(row) > 1 for row in rows):
        counts = [int(row[0]) for row in rows if len(row) == 1 and row[0].isdecimal()]
        rows = [row for row in rows if len(row) > 1 or not row[0].isdecimal()]
    if not rows:
        raise UsageError(f"{path} names no identities: write one a line.")
    expected = sum(counts[1:]) or sum(counts)
    if counts and expected != len(rows):
        raise UsageError(
            f"{path} says that it names {expected} identities, but names {len(rows)}: restore the"
            " file."
        )
    return {row[0] for row in rows}
