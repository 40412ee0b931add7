"""Labelled images in memory, and what every source of them has in common."""

import dataclasses
import hashlib

import numpy as np

from kd_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Labelled images in host memory.

    Attributes:
        images: uint8 `[N, H, W, C]`, values 0 to 255.
        labels: int32 `[N]`, values 0 to `num_classes - 1`.
        num_classes: number of classes C of the problem, at least `labels.max() + 1`.
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Content hash: two sets with one fingerprint hold the same images in the same order."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.images.shape, self.num_classes)).encode())
        digest.update(np.ascontiguousarray(self.images))
        digest.update(np.ascontiguousarray(self.labels))
        return digest.hexdigest()

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of every channel over all pixels, on the scale 0 to 1.

        Both come from the exact histogram of the 256 grey levels, in float64.
        """
        levels = np.arange(256) / 255
        means, deviations = [], []
        for channel in np.moveaxis(self.images, -1, 0):
            blocks = (channel[i : i + 512].ravel() for i in range(0, len(channel), 512))
            weights = sum(np.bincount(block, minlength=256) for block in blocks) / channel.size
            means.append(float(weights @ levels))
            deviations.append(float(np.sqrt(weights @ (levels - means[-1]) ** 2)))
        return tuple(means), tuple(deviations)


class Source:
    """A named place that images come from; `split` follows TFDS, as in `"train[:80%]"`."""

    def load(self, split: str) -> ImageSet:
        """Reads one split; raises `UsageError` if there is nothing to read."""
        raise NotImplementedError


def slices(split: str, sizes: dict[str, int]) -> tuple[str, slice]:
    """Resolves a TFDS split such as `"train[10%:]"` against the sizes of the known splits."""
    import tensorflow_datasets as tfds

    known = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
        for name, size in sizes.items()
    }
    try:
        instruction, *more = tfds.core.ReadInstruction.from_spec(split).to_absolute(known)
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"split {split!r} cannot be read: write one of {sorted(sizes)}, or a part of it such"
            f" as '{next(iter(sizes))}[:80%]'."
        ) from error
    if more:
        raise UsageError(f"split {split!r} joins several parts: name one contiguous part.")
    return instruction.splitname, slice(instruction.from_, instruction.to)


def places_in_class(labels: np.ndarray) -> np.ndarray:
    """How many images of its own class stand before each image, `[N]`."""
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    places = np.empty(len(labels), np.int64)
    places[order] = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels)
    return places
