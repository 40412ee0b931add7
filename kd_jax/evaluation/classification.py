"""Accuracy of classifiers over a whole set, every image counted once."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kd_jax import losses
from kd_jax.data import Feed, Views, batch_of
from kd_jax.devices import place, replicated, split

PyTree = Any


def accuracy_evaluator(
    networks: Mapping[str, nn.Module],
    views: Views,
    feed: Feed,
    batch_size: int,
    mesh: Mesh,
) -> Callable[[Mapping[str, PyTree]], dict[str, dict[str, float]]]:
    """Compiles the evaluation of some networks on one set.

    Args:
        networks: by role.
        views: what each role sees.
        feed: the set.
        batch_size: images at a time; the last batch is padded and masked.
        mesh: devices over which a batch is spread.

    Returns:
        A function from the variables of each role to its metrics: `accuracy`, the share of images
        whose greatest logit is their label's, and `cross_entropy`, the mean over the images.
    """

    def count(variables, images, rows):
        batch = batch_of(images, rows)
        seen = views.evaluation(batch["image"])
        labels, where = batch["label"], batch["where"]
        sums = {}
        for role, network in networks.items():
            logits = network.apply(variables[role], seen[role], train=False).logits
            # A network that returns NaN is wrong about every image, whatever argmax makes of it.
            right = (logits.argmax(-1) == labels) & jnp.isfinite(logits).all(-1)
            sums[role] = {
                "accuracy": jnp.sum(right & where),
                "cross_entropy": jnp.sum(losses.cross_entropy(logits, labels), where=where),
            }
        return sums

    whole, batches = replicated(mesh), split(mesh)
    compiled = jax.jit(count, in_shardings=(whole, whole, batches), out_shardings=whole)

    def evaluate(variables: Mapping[str, PyTree]) -> dict[str, dict[str, float]]:
        parts = []
        for rows in feed.batches(batch_size):
            placed = {name: place(array, batches) for name, array in rows.items()}
            parts.append(compiled(variables, feed.images, placed))
        total = jax.tree.map(lambda *x: float(np.sum(x, dtype=np.float64)), *jax.device_get(parts))
        return jax.tree.map(lambda value: value / len(feed), total)

    return evaluate
