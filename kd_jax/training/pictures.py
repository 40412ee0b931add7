"""Pictures of the first training batch: the images that each network really sees."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kd_jax.core.devices import place, replicated, split
from kd_jax.data import BatchOrder, Loader
from kd_jax.data.loaders import batch_of
from kd_jax.data.preprocessing import Normalization
from kd_jax.training.stage import Stage
from kd_jax.training.state import named_key
from kd_jax.training.step import _inputs, _with_rows

STORED = "stored"
"""Key of the images before augmentation."""


def first_images(
    stages: Mapping[str, Stage], loader: Loader, order: BatchOrder, mesh: Mesh, count: int
) -> dict[str, np.ndarray]:
    """Returns the first images of step 0 as the networks of some stages see them.

    They are augmented, degraded and resized as in training, and the normalization is undone. All
    processes of a run must call it.

    Args:
        stages: stages of one experiment, by name.
        loader: the training set.
        order: the order of the images.
        mesh: devices that share the batch.
        count: number of images; a smaller batch has fewer.

    Returns:
        Images uint8 `[count, H, W, C]` by `STAGE/ROLE`, and those before augmentation by `stored`.
        Roles that take no images, such as recorded outputs, are left out.
    """

    def views(images: Any, rows: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        batch = batch_of(images, rows)
        found = {STORED: batch["image"][:count]}
        for name, stage in stages.items():
            if stage.views is None:
                continue
            key = jax.random.fold_in(named_key(stage.seed, "step"), 0)
            inputs = _inputs(stage, key, _with_rows(stage, key, batch, None))
            for role, view in stage.views.roles.items():
                found[f"{name}/{role}"] = _pixels(inputs[role][:count], view.normalization)
        return found

    batches = split(mesh)
    rows = loader.steps(order, 0, 1)
    placed = {name: place(array[0], batches) for name, array in rows.items()}
    compiled = jax.jit(views, out_shardings=replicated(mesh))
    found = {name: np.asarray(x) for name, x in compiled(loader.images, placed).items()}
    return {STORED: found.pop(STORED), **found}


def _pixels(images: jax.Array, normalization: Normalization) -> jax.Array:
    """Returns normalized float images as uint8, 0 to 255: the inverse of the normalization."""
    mean = jnp.asarray(normalization.mean, jnp.float32)[None, None, None]
    std = jnp.maximum(jnp.asarray(normalization.std, jnp.float32), 1e-6)[None, None, None]
    pixels = 255 * (images.astype(jnp.float32) * std + mean)
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)
