"""Moving averages of the trained values: what `ema_decay` of a stage computes."""

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """Returns the dtype of sums of numbers: float32 or better."""
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def first_average(params: PyTree, model_state: PyTree) -> dict[str, PyTree]:
    """Returns the averages before the first step: copies, because a step may donate its state."""
    return jax.tree.map(jnp.copy, {"params": params, "model_state": model_state})


def next_average(
    average: dict[str, PyTree],
    decay: float,
    step: jax.Array,
    params: PyTree,
    model_state: PyTree,
) -> dict[str, PyTree]:
    """Moves the averages towards the values after a step.

        average = d * average + (1 - d) * value,    d = min(decay, (1 + t) / (10 + t))

    The smaller d of the first steps is that of `tf.train.ExponentialMovingAverage` with
    `num_updates`. Without it, the first random values would stay in the average for 1 / (1 - decay)
    steps. Batch statistics are averaged as the parameters are, which is what timm's `ModelEmaV2`
    does. Integers are not averaged: they are those of the step.

    Args:
        average: the averages before the step.
        decay: the weight of the past after many steps, 0 to 1.
        step: number t of steps that were completed before this one.
        params: parameters after the step.
        model_state: other variables of the networks after the step.
    """
    count = jnp.asarray(step, jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + count) / (10 + count))

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return new
        first, last = (each.astype(wide(new.dtype)) for each in (old, new))
        return (first + rate.astype(first.dtype) * (last - first)).astype(new.dtype)

    result: dict[str, PyTree] = jax.tree.map(
        move, average, {"params": params, "model_state": model_state}
    )
    return result
