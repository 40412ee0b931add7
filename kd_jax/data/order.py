"""Order of the images: the indices of a batch are a pure function of (seed, epoch, step)."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from kd_jax.core.errors import UsageError


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(num_examples).astype(np.int32)


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
