"""Batch norm with PyTorch's constants, in one pass over the numbers on accelerators."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Normalized = tuple[jax.Array, jax.Array, jax.Array]
"""The normalized numbers `[N, H, W, C]`, and the mean and variance `[C]` of the batch."""


class BatchNorm(nn.Module):
    """Batch norm with PyTorch's constants, float32 statistics, and flax's parameters.

    Flax's momentum 0.9 is PyTorch's 0.1. The running variance is the biased one. PyTorch keeps the
    unbiased one, which is larger by a factor n / (n - 1) for the n pixels of a batch.

    Attributes:
        train: normalize by the batch, and update the running statistics.
        axis_name: axis over which the batch's statistics are averaged, inside `pmap` and
            `shard_map`.
    """

    train: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes `[N, H, W, C]`; the dtype stays the same."""
        channels, wide = x.shape[-1:], x.astype(jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        if not self.train:
            return _normalized(wide, mean.value, var.value, scale, bias).astype(x.dtype)
        first = self.is_initializing()
        axis_name = None if first else self.axis_name  # networks are made outside of the axis
        y, *moments = _by_batch(wide, jax.lax.stop_gradient(mean.value), scale, bias, axis_name)
        if not first:
            for running, new in zip((mean, var), moments, strict=True):
                running.value = 0.9 * running.value + (1 - 0.9) * new
        return y.astype(x.dtype)


# Layers of equal shapes are traced once.
@functools.partial(jax.jit, static_argnames="axis_name")
def _by_batch(
    x: jax.Array, shift: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None
) -> Normalized:
    """Normalizes in the faster way of the platform for which the program is lowered."""
    result: Normalized = jax.lax.platform_dependent(
        x,
        shift,
        scale,
        bias,
        cpu=functools.partial(in_two_passes, axis_name=axis_name),
        default=functools.partial(in_one_pass, axis_name=axis_name),
    )
    return result


def in_two_passes(
    x: jax.Array,
    shift: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    axis_name: str | None = None,
) -> Normalized:
    """Normalizes by mean(x), and by the mean of (x - mean)^2 as the variance.

    The arguments are those of `in_one_pass`; `shift` is not used.
    """
    del shift
    mean = _average(x.mean((0, 1, 2)), axis_name)
    var = _average(jnp.square(x - mean[None, None, None]).mean((0, 1, 2)), axis_name)
    return _normalized(x, mean, var, scale, bias), mean, var


def in_one_pass(
    x: jax.Array,
    shift: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    axis_name: str | None = None,
) -> Normalized:
    """Normalizes by the same moments, computed as mean(x - shift) and mean((x - shift)^2).

    Accelerators read the numbers once for both, and several devices add up once. The variance is
    the second minus the square of the first. This is as exact as two passes if the shift is near
    the mean, compared with the standard deviation.

    Args:
        x: float32 `[N, H, W, C]`.
        shift: number near the mean of each channel, `[C]`, without a gradient.
        scale: factor of each channel of the result.
        bias: mean of each channel of the result.
        axis_name: axis of devices over which the moments are averaged.
    """
    gap = x - shift[None, None, None]
    moments = jnp.stack([gap.mean((0, 1, 2)), jnp.square(gap).mean((0, 1, 2))])
    first, second = _average(moments, axis_name)
    mean, var = shift + first, jnp.maximum(second - jnp.square(first), 0)
    return _normalized(x, mean, var, scale, bias), mean, var


def _average(means: jax.Array, axis_name: str | None) -> jax.Array:
    return means if axis_name is None else jax.lax.pmean(means, axis_name)


def _normalized(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
    mean, var, scale, bias = (each[None, None, None] for each in (mean, var, scale, bias))
    return (x - mean) * (jax.lax.rsqrt(var + 1e-5) * scale) + bias


def batch_norm(*, train: bool, axis_name: str | None) -> Callable[..., BatchNorm]:
    """Returns a factory of batch norms; the arguments are the fields of `BatchNorm`."""
    return functools.partial(BatchNorm, train=train, axis_name=axis_name)
