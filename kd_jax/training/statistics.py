"""What a method wants to know of the whole training set before the first step."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kd_jax.data import sequential_batches
from kd_jax.devices import place, replicated, split
from kd_jax.training.stage import Stage

PyTree = Any


def batch_statistics(
    stage: Stage,
    frozen: Mapping[str, PyTree],
    images: Mapping[str, jax.Array],
    index: jax.Array,
    where: jax.Array,
) -> PyTree:
    """The statistics of one batch, of images as they are.

    Args:
        stage: whose method asks.
        frozen: variables of the frozen networks.
        images: the training set on the devices.
        index: places of the images, int32 `[N]`.
        where: False for rows that only fill up the batch, bool `[N]`.
    """
    views = stage.views.evaluation(images["image"][index])
    outputs = {
        role: stage.networks[role].apply(frozen[role], views[role], train=False)
        for role in stage.frozen
    }
    batch = {"label": images["label"][index], "index": index}
    return stage.method.statistics(outputs, batch, where)


def statistics_shapes(stage: Stage, frozen, images) -> PyTree:
    """Shapes and dtypes of the statistics; no leaves if the method asks for nothing."""
    index, where = jax.ShapeDtypeStruct((1,), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.bool_)
    return jax.eval_shape(
        lambda *arguments: batch_statistics(stage, *arguments), frozen, images, index, where
    )


def dataset_statistics(stage: Stage, frozen, images, batch_size: int, mesh: Mesh) -> PyTree:
    """The statistics summed over the training set: one pass of the frozen networks over it."""
    total = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), statistics_shapes(stage, frozen, images)
    )
    if not jax.tree.leaves(total):
        return total
    whole, batches = replicated(mesh), split(mesh)

    def add(total, frozen, images, index, where):
        part = batch_statistics(stage, frozen, images, index, where)
        return jax.tree.map(jnp.add, total, part)

    compiled = jax.jit(
        add, in_shardings=(whole, whole, whole, batches, batches), out_shardings=whole
    )
    for index, where in sequential_batches(len(images["label"]), batch_size):
        arrays = (place(array, batches) for array in (index, where))
        total = compiled(total, frozen, images, *arrays)
    return total
