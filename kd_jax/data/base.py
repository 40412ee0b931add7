"""Sources: places that labeled images come from, split by split, and their registry."""

from typing import Any

import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.core.registry import Registry
from kd_jax.data.class_positions import positions_in_class
from kd_jax.data.images import ImageSet, StoredImages

_ANY_SIZE = 10**12  # size of a split while only its name is needed


class Source:
    """A place that labeled images come from.

    A subclass overrides `load`, or `open` if its images can be decoded on demand. The argument
    `split` of both is in TFDS notation, such as `"train[:80%]"`.
    """

    def open(self, split: str) -> StoredImages:
        """Finds the images of one split, which are decoded on demand.

        Raises:
            UsageError: if the source cannot do so, or there is nothing to read.
        """
        raise UsageError(
            f"{type(self).__name__} always reads the whole set into memory: set data.stream ="
            " False."
        )

    def load(self, split: str) -> ImageSet:
        """Reads one split into memory; raises `UsageError` if there is nothing to read."""
        return self.open(split).in_memory()


SOURCES: Registry[type[Source]] = Registry("source", "kd_jax.data.sources")
"""All sources by name. A module in `kd_jax.data.sources` is found without further registration."""


def register(name: str, source: Any = None) -> Any:
    """Adds a source that a config can name; see `kd_jax.core.registry.Registry.register`.

    Args:
        name: the value of `data.source.name` in configs.
        source: subclass of `Source`, a dataclass whose fields are the other keys of `data.source`;
            None returns the decorator.
    """
    return SOURCES.register(name, source)


def names() -> tuple[str, ...]:
    """Returns the names of all sources."""
    return SOURCES.names()


class StoredSource(Source):
    """Encoded images with labels, by split.

    The images of each class keep their order and are spread evenly over a split: classes of the
    same size take turns. Every part of a split, such as `train[:10%]`, therefore has its fraction
    of each class.
    """

    def _splits(self) -> list[str]:
        """Returns the names of the splits."""
        raise NotImplementedError

    def _whole(self, split: str) -> StoredImages:
        """Returns a whole split, with the images of each class in their order."""
        raise NotImplementedError

    def open(self, split: str) -> StoredImages:
        """Finds the images of one split and decodes none."""
        name, _ = slices(split, dict.fromkeys(self._splits(), _ANY_SIZE))
        whole = self._whole(name)
        _, part = slices(split, {name: len(whole)})
        when = (positions_in_class(whole.labels) + 0.5) / np.bincount(whole.labels)[whole.labels]
        turns = np.lexsort((whole.labels, when))[part]
        if not len(turns):
            raise UsageError(f"split {split!r} is empty: choose a part that holds images.")
        return whole.keep(turns)


def slices(split: str, sizes: dict[str, int]) -> tuple[str, slice]:
    """Resolves a split in TFDS notation, such as `"train[10%:]"`.

    Args:
        split: the name of a split, or one contiguous part of it.
        sizes: number of images of each split.

    Returns:
        The name of the split, and the rows.

    Raises:
        UsageError: if the notation is wrong, the split is unknown, or there are several parts.
    """
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
