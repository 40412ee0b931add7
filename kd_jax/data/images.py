"""Labelled images, in memory or on a disk, and what every source of them has in common."""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from kd_jax.errors import UsageError

_BLOCK = 64  # images decoded by a thread at a time
_STATISTICS_IMAGES = 4096  # of a set on a disk: enough for three digits
_ANY_SIZE = 10**12  # of a split, while only its name is asked for

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return self.images.shape[1:]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, uint8 `[K, H, W, C]`."""
        return self.images[indices]

    def keep(self, rows: np.ndarray) -> "ImageSet":
        """The set of the chosen rows: indices, or a mask `[N]`."""
        return dataclasses.replace(self, images=self.images[rows], labels=self.labels[rows])

    def channel_statistics(self) -> Statistics:
        """Mean and standard deviation of every channel over all pixels, on the scale 0 to 1.

        Both come from the exact histogram of the 256 grey levels, in float64.
        """
        return _statistics(self.images[i : i + 512] for i in range(0, len(self), 512))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredImages:
    """Labelled images on a disk, decoded when they are asked for.

    Every kind of store is a subclass that can fetch the encoded image of a key. Images can be read
    by several threads at once, and a store can be pickled for other processes.

    Attributes:
        keys: what tells the images of the store apart, `[N]`.
        labels: int32 `[N]`, values 0 to `num_classes - 1`.
        num_classes: number of classes C of the problem, at least `labels.max() + 1`.
        size: height and width of the middle of every image, which alone is used; None uses all.
    """

    keys: np.ndarray
    labels: np.ndarray
    num_classes: int
    size: tuple[int, int] | None = None

    def encoded(self, key) -> bytes:
        """The file of an image; raises `UsageError` if it cannot be had."""
        raise NotImplementedError

    def name(self, key) -> str:
        """What errors call an image."""
        raise NotImplementedError

    def num_bytes(self) -> np.ndarray:
        """Lengths of all encoded images, int64 `[N]`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    def _pixels(self, index: int) -> np.ndarray:
        key = self.keys[index]
        return pixels(self.encoded(key), self.name(key))

    @functools.cached_property
    def _stored_shape(self) -> tuple[int, int, int]:
        return self._pixels(0).shape

    @functools.cached_property
    def _middle(self) -> tuple[slice, slice]:
        stored = self._stored_shape[:2]
        size = self.size or stored
        if any(part > whole for part, whole in zip(size, stored, strict=True)):
            raise UsageError(
                f"{self.name(self.keys[0])} has height and width {stored}, from which size {size}"
                " cannot be cut: make size smaller."
            )
        starts = [(whole - part) // 2 for part, whole in zip(size, stored, strict=True)]
        return tuple(slice(a, a + part) for a, part in zip(starts, size, strict=True))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return (*(part.stop - part.start for part in self._middle), self._stored_shape[2])

    def read(self, index: int) -> np.ndarray:
        """Decodes one image, uint8 `[H, W, C]`.

        Raises:
            UsageError: if it is missing or damaged, or its size is not that of the first.
        """
        image = self._pixels(index)
        if image.shape != self._stored_shape:
            raise UsageError(
                f"{self.name(self.keys[index])} has height and width {image.shape[:2]}, but"
                f" {self.name(self.keys[0])} {self._stored_shape[:2]}: bring all images to one"
                " size first."
            )
        return image[self._middle]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Decodes the images at `indices` on several threads, uint8 `[K, H, W, C]`.

        Raises:
            UsageError: for the first that cannot be used.
        """
        images = np.empty((len(indices), *self.image_shape), np.uint8)

        def decode(start: int) -> None:
            for i in range(start, min(start + _BLOCK, len(indices))):
                images[i] = self.read(indices[i])

        with ThreadPoolExecutor() as pool:  # files are read while others are decoded
            for _ in pool.map(decode, range(0, len(indices), _BLOCK)):
                pass
        return images

    def keep(self, rows: np.ndarray) -> "StoredImages":
        """The set of the chosen rows: indices, or a mask `[N]`."""
        return dataclasses.replace(self, keys=self.keys[rows], labels=self.labels[rows])

    def in_memory(self) -> ImageSet:
        """Decodes all images."""
        return ImageSet(self.take(np.arange(len(self))), self.labels, self.num_classes)

    def fingerprint(self) -> str:
        """Hash of the images' keys, encoded lengths, labels and shape, but not of their pixels.

        It does not depend on where the store lies, and differs from that of the set in memory.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.image_shape, self.size, len(self), self.num_classes)).encode())
        digest.update("\0".join(map(str, self.keys)).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.num_bytes()))
        digest.update(np.ascontiguousarray(self.labels))
        return digest.hexdigest()

    def channel_statistics(self) -> Statistics:
        """Mean and standard deviation of every channel, on the scale 0 to 1.

        They are those of `ImageSet`, over at most 4,096 images evenly spaced in the set.
        """
        rows = np.linspace(0, len(self) - 1, min(len(self), _STATISTICS_IMAGES)).astype(np.int64)
        return _statistics(self.take(rows[i : i + 512]) for i in range(0, len(rows), 512))


def _statistics(blocks: Iterable[np.ndarray]) -> Statistics:
    """Mean and standard deviation of every channel over blocks of images, on the scale 0 to 1."""
    counts = sum(  # [C, 256]
        np.stack([np.bincount(c.ravel(), minlength=256) for c in np.moveaxis(block, -1, 0)])
        for block in blocks
    )
    levels = np.arange(256) / 255
    means, deviations = [], []
    for weights in counts / counts.sum(1, keepdims=True):
        means.append(float(weights @ levels))
        deviations.append(float(np.sqrt(weights @ (levels - means[-1]) ** 2)))
    return tuple(means), tuple(deviations)


def pixels(data: bytes, name: str) -> np.ndarray:
    """Decodes an image file as uint8 RGB `[H, W, 3]`; `name` is what errors call it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise UsageError(
                    f"{name} has pixels of more than 8 bits (mode {image.mode!r}): convert it."
                )
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # each of Pillow's decoders fails in its own ways
        raise UsageError(f"{name} is damaged or no image: restore the file.") from error


class Source:
    """A named place that images come from; `split` follows TFDS, as in `"train[:80%]"`."""

    def open(self, split: str) -> StoredImages:
        """One split, to be decoded as it is needed; raises `UsageError` if that cannot be done."""
        raise UsageError(
            f"{type(self).__name__} lies in memory as a whole: leave data.stream False."
        )

    def load(self, split: str) -> ImageSet:
        """Reads one split; raises `UsageError` if there is nothing to read."""
        return self.open(split).in_memory()


class StoredSource(Source):
    """Encoded images with labels, by split.

    The images of every class, in their order, are spread evenly over a split: classes of one size
    take turns. So every part of a split, such as `train[:10%]`, holds its share of each class.
    """

    def _splits(self) -> list[str]:
        """Names of the splits."""
        raise NotImplementedError

    def _whole(self, split: str) -> StoredImages:
        """A whole split, the images of each class in their order."""
        raise NotImplementedError

    def open(self, split: str) -> StoredImages:
        """Finds the images of one split, and decodes none."""
        name, _ = slices(split, dict.fromkeys(self._splits(), _ANY_SIZE))
        whole = self._whole(name)
        _, part = slices(split, {name: len(whole)})
        when = (places_in_class(whole.labels) + 0.5) / np.bincount(whole.labels)[whole.labels]
        turns = np.lexsort((whole.labels, when))[part]
        if not len(turns):
            raise UsageError(f"split {split!r} is empty: choose a part that holds images.")
        return whole.keep(turns)


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
