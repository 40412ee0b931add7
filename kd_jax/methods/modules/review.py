"""The fusion of a student's maps from deep to shallow, for ReviewKD.

Chen et al., "Distilling knowledge via knowledge review", CVPR 2021, section 3.3. The layers are
those of mdistiller's `ABF`.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.models import layers, norms

Maps = tuple[jax.Array, ...]


class Review(nn.Module):
    """Fuses each map with all deeper ones, and maps it to the shape of a map of the teacher.

    Attributes:
        shapes: (H, W, C) of the teacher's maps, from shallow to deep.
        greatest_width: greatest number of channels of the fused maps.
        axis_name: axis over which batch norm averages, inside `pmap`.
    """

    shapes: tuple[tuple[int, int, int], ...]
    greatest_width: int = 512
    axis_name: str | None = None

    @nn.compact
    def __call__(self, maps: Maps) -> Maps:
        """Maps one `[N, H, W, C]` per shape, from shallow to deep, to the shapes of the teacher.

        Batch norm always uses the statistics of the batch.
        """
        norm = norms.batch_norm(train=True, axis_name=self.axis_name)
        conv = layers.convolution(maps[0].dtype, kernel_init=_kaiming_uniform)
        width = min(self.greatest_width, maps[-1].shape[-1])
        found: list[jax.Array] = []
        deeper = None
        for level in reversed(range(len(maps))):
            x = norm(name=f"norm{level}_in")(conv(width, 1, name=f"conv{level}_in")(maps[level]))
            if deeper is not None:
                deeper = _nearest(deeper, x.shape[1:3])
                init = layers.kaiming_uniform
                gate = layers.convolution(x.dtype, kernel_init=init, use_bias=True)
                gates = nn.sigmoid(
                    gate(2, 1, name=f"gate{level}")(jnp.concatenate([x, deeper], -1))
                )
                x = x * gates[..., :1] + deeper * gates[..., 1:]
            height, columns, channels = self.shapes[level]
            deeper = x = _nearest(x, (height, columns))
            x = norm(name=f"norm{level}_out")(conv(channels, 3, name=f"conv{level}_out")(x))
            found.append(x)
        return tuple(reversed(found))


def _nearest(maps: jax.Array, size: Sequence[int]) -> jax.Array:
    """Resizes maps as PyTorch's `interpolate(mode="nearest")`."""
    for axis, new in enumerate(size, start=1):
        old = maps.shape[axis]
        if old != new:
            maps = jnp.take(maps, jnp.arange(new) * old // new, axis)
    return maps


def _kaiming_uniform(
    key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws a kernel as PyTorch's `kaiming_uniform_(a=1)`: +-sqrt(3 / fan_in)."""
    bound = math.sqrt(3 / math.prod(shape[:-1]))
    return layers.uniform(key, shape, bound).astype(dtype)
