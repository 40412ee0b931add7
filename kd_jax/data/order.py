"""Which images make up a batch: a pure function of (seed, epoch, step)."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from kd_jax.errors import UsageError


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(num_examples).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class BatchOrder:
    """Training order: a fresh permutation every epoch, cut into full batches.

    Resuming costs nothing, is exact, and does not depend on devices or processes. The
    `num_examples % batch_size` images left over at the end of an epoch are others every epoch.
    """

    seed: int
    num_examples: int
    batch_size: int

    def __post_init__(self):
        if not 0 < self.batch_size <= self.num_examples:
            raise UsageError(
                f"data.batch_size {self.batch_size} must lie between 1 and the"
                f" {self.num_examples} training images."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches in an epoch."""
        return self.num_examples // self.batch_size

    def __call__(self, step: int) -> np.ndarray:
        """Indices of the images of batch `step` (counted from 0), int32 `[batch_size]`."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        rows = _permutation(self.seed, epoch, self.num_examples)
        return rows[batch * self.batch_size : (batch + 1) * self.batch_size]


def sequential_batches(
    num_examples: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every image once, in order; the last batch is filled up with rows that the mask leaves out.

    Yields:
        Indices, int32 `[batch_size]`, and the mask of those that count, bool `[batch_size]`.
    """
    for start in range(0, num_examples, batch_size):
        rows = np.arange(start, start + batch_size, dtype=np.int32)
        yield np.minimum(rows, num_examples - 1), rows < num_examples
