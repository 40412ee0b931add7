"""Accuracy of classifiers over a whole set, every image counted once."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kd_jax import losses
from kd_jax.data import Views, sequential_batches
from kd_jax.devices import place, replicated, split

PyTree = Any


def accuracy_evaluator(
    networks: Mapping[str, nn.Module],
    views: Views,
    images: Mapping[str, jax.Array],
    batch_size: int,
    mesh: Mesh,
) -> Callable[[Mapping[str, PyTree]], dict[str, dict[str, float]]]:
    """Compiles the evaluation of some networks on one set.

    Args:
        networks: by role.
        views: what each role sees.
        images: the set on the devices: `image` uint8 `[N, H, W, C]`, `label` int32 `[N]`.
        batch_size: images at a time; the last batch is padded and masked.
        mesh: devices over which a batch is spread.

    Returns:
        A function from the variables of each role to its metrics: `accuracy`, the share of images
        whose greatest logit is their label's, and `cross_entropy`, the mean over the images.
    """

    def count(variables, images, index, where):
        seen = views.evaluation(images["image"][index])
        labels = images["label"][index]
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
    compiled = jax.jit(count, in_shardings=(whole, whole, batches, batches), out_shardings=whole)
    number = len(images["label"])

    def evaluate(variables: Mapping[str, PyTree]) -> dict[str, dict[str, float]]:
        parts = []
        for index, where in sequential_batches(number, batch_size):
            arrays = (place(array, batches) for array in (index, where))
            parts.append(compiled(variables, images, *arrays))
        total = jax.tree.map(lambda *x: float(np.sum(x, dtype=np.float64)), *jax.device_get(parts))
        return jax.tree.map(lambda value: value / number, total)

    return evaluate
