"""What a method wants to know of the whole training set before the first step."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kd_jax.data import Feed, batch_of
from kd_jax.devices import place, replicated, split
from kd_jax.training.stage import Stage

PyTree = Any


def batch_statistics(
    stage: Stage,
    frozen: Mapping[str, PyTree],
    images: Mapping[str, jax.Array],
    rows: Mapping[str, jax.Array],
) -> PyTree:
    """The statistics of one batch, of images as they are.

    Args:
        stage: whose method asks.
        frozen: variables of the frozen networks.
        images: the training set, if it lies on the devices.
        rows: of the batch, as from `Feed.batches`.
    """
    batch = batch_of(images, rows)
    views = stage.views.evaluation(batch["image"])
    outputs = {
        role: stage.networks[role].apply(frozen[role], views[role], train=False)
        for role in stage.frozen
    }
    known = {"label": batch["label"], "index": batch["index"]}
    return stage.method.statistics(outputs, known, batch["where"])


def statistics_shapes(
    stage: Stage, frozen: Mapping[str, PyTree], example: Mapping[str, jax.Array]
) -> PyTree:
    """Shapes and dtypes of the statistics; no leaves if the method asks for nothing.

    Args:
        stage: whose method asks.
        frozen: variables of the frozen networks.
        example: a batch of the right shapes: `image`, `label`, `index`.
    """
    rows = {**example, "where": jnp.ones(len(example["index"]), bool)}
    return jax.eval_shape(lambda *arguments: batch_statistics(stage, *arguments), frozen, {}, rows)


def dataset_statistics(
    stage: Stage,
    frozen: Mapping[str, PyTree],
    feed: Feed,
    batch_size: int,
    mesh: Mesh,
    shapes: PyTree,
) -> PyTree:
    """The statistics summed over the training set: one pass of the frozen networks over it.

    Args:
        stage: whose method asks.
        frozen: variables of the frozen networks.
        feed: the training set.
        batch_size: images at a time; the last batch is padded and masked.
        mesh: devices over which a batch is spread.
        shapes: from `statistics_shapes`.
    """
    total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    if not jax.tree.leaves(total):
        return total
    whole, batches = replicated(mesh), split(mesh)

    def add(total, frozen, images, rows):
        part = batch_statistics(stage, frozen, images, rows)
        return jax.tree.map(jnp.add, total, part)

    compiled = jax.jit(add, in_shardings=(whole, whole, whole, batches), out_shardings=whole)
    for rows in feed.batches(batch_size):
        placed = {name: place(array, batches) for name, array in rows.items()}
        total = compiled(total, frozen, feed.images, placed)
    return total
