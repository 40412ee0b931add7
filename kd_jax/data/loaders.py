"""Loaders: bring images to the devices, all at once, or batch by batch during the computation."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from kd_jax.core.devices import split
from kd_jax.data.images import ImageSet, StoredImages
from kd_jax.data.order import BatchOrder, sequential_batches
from kd_jax.data.resident import Resident, put

Rows = dict[str, np.ndarray]
"""Input of a compiled step, on the host: `index` int32, the rows of the images in the set, and
those of `image`, `label` and `where` (bool, False for rows that fill up) that are not on the
devices already."""

_READ_AHEAD = 256 * 2**20
"""Bytes of images in one call of `steps`, and bytes of images decoded ahead."""
_BATCHES = 8
"""Maximum number of batches decoded ahead."""
_BLOCK = 8
"""Number of images that a thread decodes at a time."""


class Loader:
    """A set of images, brought to the devices.

    Attributes:
        images: the images that stay on the devices, or None.
    """

    images: Resident | None

    def __len__(self) -> int:
        """Number of images."""
        raise NotImplementedError

    def max_steps(self, order: BatchOrder) -> int:
        """Returns the maximum number of steps in one call of `steps`."""
        raise NotImplementedError

    def steps(self, order: BatchOrder, step: int, count: int) -> Rows:
        """Returns the batches of `count` steps from `step` on, `[count, N, ...]`."""
        raise NotImplementedError

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """Yields every image once, in order, as batches `[N, ...]`.

        The mask `where` is False for the rows that fill up the last batch.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Stops the work in the background. The loader can be used again."""


class ResidentLoader(Loader):
    """A set that is on the devices as a whole."""

    def __init__(self, images: ImageSet, mesh: Mesh):
        """Puts the images on the devices; see `kd_jax.data.resident.put`."""
        self.images: Resident = put(images, mesh)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images.labels)

    def max_steps(self, order: BatchOrder) -> int:
        """Returns a number without practical limit: a step needs only its indices."""
        return sys.maxsize

    def steps(self, order: BatchOrder, step: int, count: int) -> Rows:
        """Returns `index` only."""
        return {"index": np.stack([order(i) for i in range(step, step + count)])}

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """Yields `index` and `where` only."""
        for index, where in sequential_batches(len(self), batch_size):
            yield {"index": index, "where": where}


class StreamedLoader(Loader):
    """A set that is too large for the devices: threads decode the next batches in advance.

    Each process decodes only the images of its own devices. The order is the same as that of
    `ResidentLoader`.
    """

    def __init__(self, images: StoredImages, mesh: Mesh):
        """Reads nothing yet."""
        self.images = None
        self._stored, self._mesh = images, mesh
        self._bytes = int(np.prod(images.image_shape))
        self._order: BatchOrder | None = None
        self._next = 0
        self._iterator: Any = None
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        """Number of images."""
        return len(self._stored)

    def max_steps(self, order: BatchOrder) -> int:
        """Returns the number of steps whose images fit into the memory for one call."""
        return max(1, _READ_AHEAD // (order.batch_size * self._bytes))

    def steps(self, order: BatchOrder, step: int, count: int) -> Rows:
        """Returns `index`, `image` and `label`; threads continue with the steps that follow."""
        if (order, step) != (self._order, self._next) or self._iterator is None:
            self.close()
            self._iterator = self._read(lambda i: {"index": order(i)}, order.batch_size, step)
        try:
            batches = [next(self._iterator) for _ in range(count)]
        except BaseException:
            self.close()  # otherwise a second try would return the next batch
            raise
        self._order, self._next = order, step + count
        return {name: self._stacked([batch[name] for batch in batches]) for name in batches[0]}

    def _stacked(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Stacks arrays; of images, the memory of other processes is not written."""
        first = arrays[0]
        if len(arrays) == 1:
            return first[None]
        if first.ndim == 1:
            return np.stack(arrays)
        stacked = np.empty((len(arrays), *first.shape), first.dtype)
        here = self._here(len(first))
        for target, array in zip(stacked, arrays, strict=True):
            target[here] = array[here]
        return stacked

    def _here(self, batch_size: int) -> slice | np.ndarray:
        """Returns the positions in a batch whose images the devices of this process need."""
        mask = np.zeros(batch_size, bool)
        for part in split(self._mesh).addressable_devices_indices_map((batch_size,)).values():
            if part is not None:
                mask[part] = True
        return slice(None) if mask.all() else mask

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """Yields `index`, `where`, `image` and `label`."""
        every = list(sequential_batches(len(self), batch_size))

        def rows(i: int) -> Rows:
            index, where = every[i]
            return {"index": index, "where": where}

        iterator = self._read(rows, batch_size, 0, len(every))
        try:
            yield from iterator
        finally:
            iterator.close()

    def close(self) -> None:
        """Stops decoding in advance."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _read(
        self, rows: Callable[[int], Rows], batch_size: int, start: int, stop: int = 2**31 - 1
    ) -> Any:
        """Returns an iterator over the batches from `start` on, which threads decode in advance."""
        import grain

        here = np.arange(batch_size)[self._here(batch_size)]
        source = _Batches(self._stored, self._pool, rows, here, stop)
        ahead = min(_BATCHES, max(2, _READ_AHEAD // (len(here) * self._bytes)))
        # These threads assemble batches. The threads of the pool, one per core, decode images.
        options = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
        return iter(grain.MapDataset.source(source)[start:].to_iter_dataset(options))


class _Batches:
    """Batches by number, in the form that grain reads."""

    def __init__(
        self,
        images: StoredImages,
        pool: ThreadPoolExecutor,
        rows: Callable[[int], Rows],
        here: np.ndarray,
        stop: int,
    ):
        """Takes the arguments of `StreamedLoader._read`.

        Args:
            images: the images to decode.
            pool: threads that decode them.
            rows: returns `index`, and more, of the batch of a number.
            here: positions in the batch whose images this process needs, int `[K]`.
            stop: number of batches.
        """
        self._images, self._pool, self._rows = images, pool, rows
        self._here, self._stop = here, stop

    def __len__(self) -> int:
        return self._stop

    def __getitem__(self, i: int) -> Rows:
        rows = self._rows(i)
        index = rows["index"]
        # The rows of other processes are never read, so their memory is not written either.
        image = np.empty((len(index), *self._images.image_shape), np.uint8)

        def decode(start: int) -> None:
            for row in self._here[start : start + _BLOCK]:
                image[row] = self._images.read(index[row])

        for _ in self._pool.map(decode, range(0, len(self._here), _BLOCK)):
            pass
        return {**rows, "image": image, "label": self._images.labels[index]}


def batch_of(images: Resident | None, rows: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Makes a batch inside a compiled step.

    Args:
        images: the images that stay on the devices, `Loader.images`.
        rows: one batch of `Loader.steps` or `Loader.batches`.

    Returns:
        The arrays in `rows`, and `image` and `label` of those rows of `images` that `rows["index"]`
        names.
    """
    return {**({} if images is None else images[rows["index"]]), **rows}
