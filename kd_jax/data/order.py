"""Order of the images: the indices of a batch are a pure function of (seed, epoch, step)."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from kd_jax.core.errors import UsageError


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return _generator(seed, epoch).permutation(num_examples).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class BatchOrder:
    """Training order: a new permutation per epoch, cut into full batches.

    A resumed run continues with exactly the same batches, on any number of devices and processes.
    Every epoch leaves out `num_examples % batch_size` images, which differ between epochs.

    Attributes:
        seed: seed of the permutations, 0 to 2**64 - 1.
        num_examples: number of training images.
        batch_size: number of images per batch, over all devices.
    """

    seed: int
    num_examples: int
    batch_size: int

    def __post_init__(self):
        if not 0 < self.batch_size <= self.num_examples:
            raise UsageError(
                f"data.batch_size = {self.batch_size} is impossible: choose 1 to"
                f" {self.num_examples}, the number of training images."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches per epoch."""
        return self.num_examples // self.batch_size

    def __call__(self, step: int) -> np.ndarray:
        """Returns the indices of the images of a step, int32 `[batch_size]`; steps start at 0."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        rows = _permutation(self.seed, epoch, self.num_examples)
        return rows[batch * self.batch_size : (batch + 1) * self.batch_size]


@dataclasses.dataclass(frozen=True)
class ClassOrder(BatchOrder):
    """Training order of metric learning: P classes per batch, and K images of each of them.

    The K images of a class are neighbors in the batch. If K does not divide the batch size, the
    last class of a batch has fewer, as in the sampler NPairs of RKD (Park et al., CVPR 2019).

    An epoch has as many steps as that of `BatchOrder`. It begins with a random permutation of the
    classes, from which the batches take P classes at a time; fewer than P classes at its end are
    left out, and another permutation follows. Every class is thus drawn equally often on average,
    whatever its size. The images of a class are drawn in the same way: K at a time from a
    permutation of its images. A class with fewer than K images repeats them: each of its images is
    in the batch K / size times, rounded down, and the remaining ones are random images.

    Attributes:
        images_per_class: number K of images per class in a batch; P is `batch_size` / K, rounded
            up.
        labels: class of each training image, int `[num_examples]`.
    """

    images_per_class: int
    labels: np.ndarray = dataclasses.field(compare=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        if self.images_per_class < 1:
            raise UsageError(
                f"data.images_per_class = {self.images_per_class} is impossible: choose 1 or more."
            )
        if self._classes_per_batch > len(self._images):
            raise UsageError(
                f"data.batch_size = {self.batch_size} with data.images_per_class ="
                f" {self.images_per_class} needs {self._classes_per_batch} classes per batch, but"
                f" the training images have {len(self._images)}: choose smaller batches or more"
                " images per class."
            )

    @property
    def _classes_per_batch(self) -> int:
        return -(-self.batch_size // self.images_per_class)

    @functools.cached_property
    def _images(self) -> list[np.ndarray]:
        """Returns the indices of the images of each class that has images, int32 `[size]` each."""
        rows = np.argsort(self.labels, kind="stable").astype(np.int32)
        return np.split(rows, np.flatnonzero(np.diff(self.labels[rows])) + 1)

    @functools.cached_property
    def _epoch(self) -> Callable[[int], np.ndarray]:
        return functools.lru_cache(maxsize=2)(self._batches)

    def _batches(self, epoch: int) -> np.ndarray:
        """Returns the batches of an epoch, int32 `[steps_per_epoch, batch_size]`."""
        generator = _generator(self.seed, epoch)
        count = self.steps_per_epoch * self._classes_per_batch
        classes = _drawn(generator, np.arange(len(self._images)), self._classes_per_batch, count)
        turns = np.argsort(classes, kind="stable")  # the draws of each class, class after class
        numbers = self.images_per_class * np.bincount(classes, minlength=len(self._images))
        images = [
            _drawn(generator, images, self.images_per_class, number)
            for images, number in zip(self._images, numbers, strict=True)
        ]
        batches = np.empty((count, self.images_per_class), np.int32)
        batches[turns] = np.concatenate(images).reshape(batches.shape)
        return batches.reshape(self.steps_per_epoch, -1)[:, : self.batch_size]

    def __call__(self, step: int) -> np.ndarray:
        """Returns the indices of the images of a step, int32 `[batch_size]`; steps start at 0."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[batch]


def _drawn(generator: np.random.Generator, values: np.ndarray, size: int, count: int) -> np.ndarray:
    """Returns `count` random values, in groups of `size` that repeat none if there are enough.

    Args:
        generator: source of random numbers.
        values: the values to draw from, `[V]`.
        size: number of values per group.
        count: number of values; `size` divides it.
    """
    repeats = -(-size // len(values))  # 1 if there are enough values
    whole = len(values) // size * size if repeats == 1 else size
    rounds = [
        np.concatenate([generator.permutation(values) for _ in range(repeats)])[:whole]
        for _ in range(-(-count // whole))
    ]
    return np.concatenate([values[:0], *rounds])[:count]


def sequential_batches(
    num_examples: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields every image once, in order; the last batch is filled up with masked rows.

    Yields:
        Indices, int32 `[batch_size]`, and the mask, bool `[batch_size]`, False for the rows that
        only fill up the batch.
    """
    for start in range(0, num_examples, batch_size):
        rows = np.arange(start, start + batch_size, dtype=np.int32)
        yield np.minimum(rows, num_examples - 1), rows < num_examples
