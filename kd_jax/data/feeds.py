"""How images come to the devices: all at once, or batch by batch while others are computed."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from kd_jax.data.images import ImageSet, StoredImages
from kd_jax.data.order import BatchOrder, sequential_batches
from kd_jax.devices import place, replicated, split

Rows = dict[str, np.ndarray]
"""What a compiled step is given of its batch, on the host: `index` int32, the images' places in the
set, and whatever of `image`, `label` and `where` does not lie on the devices already."""

_READ_AHEAD = 256 * 2**20
"""Bytes of images that one call may hold, and that are decoded before they are needed."""
_BATCHES = 8
"""Batches that are decoded ahead, if they are small."""
_BLOCK = 8
"""Images that a thread decodes at a time."""


class Feed:
    """A set of images and how it comes to the devices.

    Attributes:
        images: what lies on the devices for good: `image` uint8 `[N, H, W, C]` and `label` int32
            `[N]`, or nothing.
    """

    images: Mapping[str, jax.Array]

    def __len__(self) -> int:
        """Number of images."""
        raise NotImplementedError

    def most_steps(self, order: BatchOrder) -> int:
        """How many steps one call may be given."""
        raise NotImplementedError

    def steps(self, order: BatchOrder, step: int, count: int) -> Rows:
        """The batches of the `count` steps from `step` on, `[count, N, ...]`."""
        raise NotImplementedError

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """Every image once, in order, `[N, ...]`; `where` is False for rows that fill up."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends whatever goes on in the background; the feed may be used again."""


class Resident(Feed):
    """A set that lies on the devices as a whole."""

    def __init__(self, images: ImageSet, mesh: Mesh):
        """Puts a copy on every device."""
        whole = replicated(mesh)
        self.images = {"image": place(images.images, whole), "label": place(images.labels, whole)}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images["label"])

    def most_steps(self, order: BatchOrder) -> int:
        """Any number: a step costs its indices only."""
        return sys.maxsize

    def steps(self, order: BatchOrder, step: int, count: int) -> Rows:
        """Indices only."""
        return {"index": np.stack([order(i) for i in range(step, step + count)])}

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """Indices and mask only."""
        for index, where in sequential_batches(len(self), batch_size):
            yield {"index": index, "where": where}


class Streamed(Feed):
    """A set that is too large for the devices: batches are decoded by threads that read ahead.

    Each process decodes the images of its own devices only. The order is the same as of a set that
    lies on the devices.
    """

    def __init__(self, images: StoredImages, mesh: Mesh):
        """Reads nothing yet."""
        self.images = {}
        self._stored, self._mesh = images, mesh
        self._bytes = int(np.prod(images.image_shape))
        self._order, self._next, self._iterator = None, 0, None
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        """Number of images."""
        return len(self._stored)

    def most_steps(self, order: BatchOrder) -> int:
        """As many as do not hold too many images."""
        return max(1, _READ_AHEAD // (order.batch_size * self._bytes))

    def steps(self, order: BatchOrder, step: int, count: int) -> Rows:
        """Indices, images and labels; reading goes on with the steps that come next."""
        if (order, step) != (self._order, self._next) or self._iterator is None:
            self.close()
            self._iterator = self._read(lambda i: {"index": order(i)}, order.batch_size, step)
        try:
            batches = [next(self._iterator) for _ in range(count)]
        except BaseException:
            self.close()  # else a second try would get the batch after
            raise
        self._order, self._next = order, step + count
        return {name: _stack([batch[name] for batch in batches]) for name in batches[0]}

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """Indices, mask, images and labels."""
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
        """Ends reading ahead."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _read(
        self, rows: Callable[[int], Rows], batch_size: int, start: int, stop: int = 2**31 - 1
    ) -> Any:
        """An iterator over the batches from `start` on, decoded ahead by threads."""
        devices = split(self._mesh).addressable_devices_indices_map((batch_size,))
        here = np.zeros(batch_size, bool)
        for (part,) in devices.values():
            here[part] = True
        source = _Batches(self._stored, self._pool, rows, np.flatnonzero(here), stop)
        ahead = min(_BATCHES, max(2, _READ_AHEAD // (int(here.sum()) * self._bytes)))
        # These threads put batches together; those that decode are the pool's, one a core.
        options = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
        return iter(grain.MapDataset.source(source)[start:].to_iter_dataset(options))


def _stack(arrays: list[np.ndarray]) -> np.ndarray:
    """`np.stack`, which would copy the one array of a single step."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


class _Batches:
    """Batches by number, as grain wants to read them."""

    def __init__(
        self,
        images: StoredImages,
        pool: ThreadPoolExecutor,
        rows: Callable[[int], Rows],
        here: np.ndarray,
        stop: int,
    ):
        """See `Streamed._read`; `here` are the places whose images this process needs."""
        self._images, self._pool, self._rows = images, pool, rows
        self._here, self._stop = here, stop

    def __len__(self) -> int:
        return self._stop

    def __getitem__(self, i: int) -> Rows:
        rows = self._rows(i)
        index = rows["index"]
        # Other processes' rows are never looked at, so their memory is never touched either.
        image = np.empty((len(index), *self._images.image_shape), np.uint8)

        def decode(start: int) -> None:
            for row in self._here[start : start + _BLOCK]:
                image[row] = self._images.read(index[row])

        for _ in self._pool.map(decode, range(0, len(self._here), _BLOCK)):
            pass
        return {**rows, "image": image, "label": self._images.labels[index]}


def batch_of(
    images: Mapping[str, jax.Array], rows: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """A batch, inside a compiled step: what the rows hold, and the rest from the resident set."""
    resident = {name: array[rows["index"]] for name, array in images.items()}
    return {**resident, **rows}
