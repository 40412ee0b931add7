"""Gradients of a batch that is computed in parts, for batches that do not fit into the memory."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from kd_jax.core.errors import UsageError
from kd_jax.training.average import wide

PyTree = Any
Gradients = Callable[
    [PyTree, Mapping[str, Any], jax.Array], tuple[PyTree, dict[str, jax.Array], PyTree]
]
"""`(carried, batch, key) -> (gradients, metrics, carried)`."""


def accumulated(
    gradients: Gradients,
    count: int,
    params: PyTree,
    carried: PyTree,
    batch: Mapping[str, Any],
    key: jax.Array,
    *,
    unroll: bool,
) -> tuple[PyTree, dict[str, jax.Array], PyTree]:
    """Computes a batch in parts, one after another; returns means over the parts.

    Part i has the rows i, i + count, i + 2 count, ... of the batch. A device then finds the rows of
    every part in its own share of the batch, and the parts do not depend on the number of devices.

    A loss that couples the images of a batch, and batch norm, see a part only. What is carried goes
    from part to part: running batch statistics are updated `count` times per step, as in PyTorch.

    Args:
        gradients: function of one part. Its key differs between the parts.
        count: number of parts.
        params: parameters, whose gradients are summed in float32 or better.
        carried: first value of what is carried.
        batch: entries with one row per image are divided; the others are the same in all parts.
        key: random key of the step.
        unroll: write the parts one after another instead of in a loop.

    Raises:
        UsageError: if the number of images cannot be divided.
    """
    images = len(jax.tree.leaves(batch["image"])[0])
    if images % count:
        raise UsageError(
            f"A batch of {images} images per program does not divide into accumulate = {count}"
            " parts: choose a batch size that is a multiple of accumulate times the devices."
        )
    own = jax.random.fold_in(key, zlib.crc32(b"accumulate"))

    def part(place):
        def rows(leaf):
            if jnp.ndim(leaf) == 0 or len(leaf) != images:
                return leaf
            leaf = jnp.asarray(leaf)
            cut = leaf.reshape(images // count, count, *leaf.shape[1:])
            return lax.dynamic_index_in_dim(cut, place, 1, keepdims=False)

        return jax.tree.map(rows, dict(batch))

    def add(carry, place):
        total, carried = carry
        new, metrics, carried = gradients(carried, part(place), jax.random.fold_in(own, place))
        return (
            jax.tree.map(lambda sum, one: sum + one.astype(sum.dtype), total, new),
            carried,
        ), metrics

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide(leaf.dtype)), params)
    (total, carried), metrics = lax.scan(
        add, (zeros, carried), jnp.arange(count), unroll=count if unroll else 1
    )
    means = jax.tree.map(lambda sum, leaf: (sum / count).astype(leaf.dtype), total, params)
    return means, {name: values.mean() for name, values in metrics.items()}, carried
