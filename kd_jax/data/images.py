"""Labeled images: a set in memory, and a set on a disk that is decoded on demand."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.data.decoding import pixels
from kd_jax.data.fitting import Fit

_BLOCK = 64  # images that a thread decodes at a time
_STATISTICS_IMAGES = 4096  # sample of a set on a disk: enough for three digits

ChannelStatistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Labeled images in host memory.

    Attributes:
        images: uint8 `[N, H, W, C]`, values 0 to 255.
        labels: int32 `[N]`, values 0 to `num_classes - 1`.
        num_classes: number of classes C of the problem, at least `labels.max() + 1`.
        names: names of the images in their source, `[N]`: paths below its folder, or positions in
            its split. None for a set that was made by hand.
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    names: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Returns a hash of the content.

        Two sets with the same fingerprint hold the same images in the same order.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.images.shape, self.num_classes)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and number of channels of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images at `indices`, uint8 `[K, H, W, C]`."""
        return self.images[indices]

    def keep(self, rows: np.ndarray) -> Self:
        """Returns the set of the chosen rows: indices `[K]`, or a mask `[N]`."""
        names = None if self.names is None else self.names[rows]
        images, labels = self.images[rows], self.labels[rows]
        return dataclasses.replace(self, images=images, labels=labels, names=names)

    def channel_statistics(self) -> ChannelStatistics:
        """Returns mean and standard deviation of every channel over all pixels, scaled to 0 to 1.

        Both come from the exact histogram of the 256 gray levels, in float64.
        """
        return _statistics(self.images[i : i + 512] for i in range(0, len(self), 512))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredImages:
    """Labeled images on a disk, decoded on demand.

    A subclass per kind of storage reads the encoded image of a key. Several threads can read images
    at once, and an object can be pickled for other processes.

    Attributes:
        keys: identifiers of the images in their storage, `[N]`.
        labels: int32 `[N]`, values 0 to `num_classes - 1`.
        num_classes: number of classes C of the problem, at least `labels.max() + 1`.
        size: height and width of the center that is cut out of every image; None uses whole images.
        fit: shape that images of mixed sizes are brought to first; None needs images of one size.
    """

    keys: np.ndarray
    labels: np.ndarray
    num_classes: int
    size: tuple[int, int] | None = None
    fit: Fit | None = None

    def encoded(self, key: Any) -> bytes:
        """Returns the file content of an image; raises `UsageError` if it cannot be read."""
        raise NotImplementedError

    def name(self, key: Any) -> str:
        """Returns the name of an image for errors."""
        raise NotImplementedError

    def num_bytes(self) -> np.ndarray:
        """Returns the lengths of all encoded images, int64 `[N]`."""
        raise NotImplementedError

    @property
    def names(self) -> np.ndarray:
        """Names of the images in their source, `[N]`: their keys."""
        return self.keys

    def __len__(self) -> int:
        return len(self.labels)

    def _pixels(self, index: int) -> np.ndarray:
        key = self.keys[index]
        name = self.name(key)
        image = pixels(self.encoded(key), name)
        return image if self.fit is None else self.fit(image, name)

    @functools.cached_property
    def _stored_shape(self) -> tuple[int, int, int]:
        height, width, channels = self._pixels(0).shape
        return height, width, channels

    @functools.cached_property
    def _center(self) -> tuple[slice, slice]:
        stored = self._stored_shape[:2]
        size = self.size or stored
        if any(part > whole for part, whole in zip(size, stored, strict=True)):
            raise UsageError(
                f"{self.name(self.keys[0])} has height and width {stored}, from which size {size}"
                " cannot be cut: make size smaller."
            )
        top, left = ((whole - part) // 2 for part, whole in zip(size, stored, strict=True))
        return slice(top, top + size[0]), slice(left, left + size[1])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and number of channels of every image."""
        rows, columns = self._center
        return rows.stop - rows.start, columns.stop - columns.start, self._stored_shape[2]

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
                " size, in a config by data.source.fit.size."
            )
        return image[self._center]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Decodes the images at `indices` on several threads, uint8 `[K, H, W, C]`.

        Raises:
            UsageError: if an image cannot be used; the error names the first.
        """
        images = np.empty((len(indices), *self.image_shape), np.uint8)

        def decode(start: int) -> None:
            for i in range(start, min(start + _BLOCK, len(indices))):
                images[i] = self.read(indices[i])

        with ThreadPoolExecutor() as pool:  # reads some files while others are decoded
            for _ in pool.map(decode, range(0, len(indices), _BLOCK)):
                pass
        return images

    def keep(self, rows: np.ndarray) -> Self:
        """Returns the set of the chosen rows: indices `[K]`, or a mask `[N]`."""
        return dataclasses.replace(self, keys=self.keys[rows], labels=self.labels[rows])

    def in_memory(self) -> ImageSet:
        """Decodes all images."""
        images = self.take(np.arange(len(self)))
        return ImageSet(images, self.labels, self.num_classes, self.names)

    def fingerprint(self) -> str:
        """Returns a hash of keys, encoded lengths, labels, shape and fit, but not of the pixels.

        It does not depend on the folder of the images. It differs from the fingerprint of the same
        images in memory.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.image_shape, self.size, len(self), self.num_classes)).encode())
        if self.fit is not None:
            digest.update(repr(self.fit).encode())
        digest.update("\0".join(map(str, self.keys)).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.num_bytes()).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def channel_statistics(self) -> ChannelStatistics:
        """Returns mean and standard deviation of every channel, scaled to 0 to 1.

        They are computed as in `ImageSet`, over at most 4,096 images evenly spaced in the set.
        """
        rows = np.linspace(0, len(self) - 1, min(len(self), _STATISTICS_IMAGES)).astype(np.int64)
        return _statistics(self.take(rows[i : i + 512]) for i in range(0, len(rows), 512))


def _statistics(blocks: Iterable[np.ndarray]) -> ChannelStatistics:
    """Returns mean and standard deviation of every channel of blocks of images, scaled to 0 to 1.

    Args:
        blocks: uint8 `[K, H, W, C]`.
    """
    counts = np.zeros((1, 256), np.int64)  # becomes [C, 256]
    for block in blocks:
        channels = np.moveaxis(block, -1, 0)
        counts = counts + np.stack([np.bincount(c.ravel(), minlength=256) for c in channels])
    levels = np.arange(256) / 255
    means, stds = [], []
    for weights in counts / counts.sum(1, keepdims=True):
        means.append(float(weights @ levels))
        stds.append(float(np.sqrt(weights @ (levels - means[-1]) ** 2)))
    return tuple(means), tuple(stds)
