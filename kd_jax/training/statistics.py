"""Statistics of the whole training set that a method needs before the first step."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kd_jax.core.devices import replicated, split
from kd_jax.methods import Method
from kd_jax.training.stage import Stage

PyTree = Any


def batch_statistics(
    stage: Stage, frozen: Mapping[str, PyTree], batch: Mapping[str, Any]
) -> PyTree:
    """Computes the statistics of one batch, of images without augmentation.

    Args:
        stage: the stage, whose method defines the statistics.
        frozen: variables of the frozen networks.
        batch: `image`, `label`, optionally `index` and the mask `where`, bool `[N]`, False for
            rows that only fill up the batch.
    """
    outputs = stage.outputs(
        {role: frozen[role] for role in stage.frozen}, batch["image"], batch.get("index")
    )
    known = {name: batch[name] for name in ("label", "index") if name in batch}
    where = batch.get("where")
    if where is None:
        image = batch["image"]
        images = next(iter(image.values())) if isinstance(image, Mapping) else image
        where = jnp.ones(len(images), bool)
    return stage.method.statistics(outputs, known, where)


def statistics_shapes(
    stage: Stage, frozen: Mapping[str, PyTree], batch: Mapping[str, Any]
) -> PyTree:
    """Returns shapes and dtypes of the statistics; no leaves if the method needs none.

    Args:
        stage: the stage.
        frozen: variables of the frozen networks.
        batch: a batch of the right shapes.
    """
    return jax.eval_shape(functools.partial(batch_statistics, stage), frozen, dict(batch))


def dataset_statistics(
    stage: Stage,
    frozen: Mapping[str, PyTree],
    batches: Iterable[Mapping[str, Any]],
    mesh: Mesh | None = None,
) -> PyTree:
    """Sums the statistics over the training set: one pass of the frozen networks over it.

    Args:
        stage: the stage.
        frozen: variables of the frozen networks.
        batches: every image once, without augmentation; see `batch_statistics`. They are not
            read if the method needs no statistics.
        mesh: devices over which the batches are split. None leaves them where they are.

    Returns:
        The sums, for `init_state`; an empty dictionary if the method needs none.
    """
    total = None

    def add(total, frozen, batch):
        return jax.tree.map(jnp.add, total, batch_statistics(stage, frozen, batch))

    compiled = jax.jit(add)
    if mesh is not None:
        whole = replicated(mesh)
        compiled = jax.jit(add, in_shardings=(whole, whole, split(mesh)), out_shardings=whole)
    if not _needs_any(stage):
        return {}
    for batch in batches:
        if total is None:
            shapes = statistics_shapes(stage, frozen, batch)
            total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            if not jax.tree.leaves(total):
                return {}
        total = compiled(total, frozen, dict(batch))
    return {} if total is None else total


def _needs_any(stage: Stage) -> bool:
    """Returns False for methods that keep the empty default of `Method.statistics`."""
    return type(stage.method).statistics is not Method.statistics
