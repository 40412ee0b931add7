"""Networks of factor transfer: a paraphraser of the teacher's map, a translator of the student's.

Kim et al., "Paraphrasing complex network: network compression via factor transfer", NeurIPS 2018,
section 3. The layers are those of RepDistiller's `Paraphraser` and `Translator`.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.models import layers, norms

SLOPE = 0.1
"""Slope of the leaky ReLUs for negative numbers."""


class Paraphraser(nn.Module):
    """An autoencoder of three convolutions and three transposed ones, without batch norm.

    A transposed convolution of stride 1 is a convolution here. Its kernel is that of PyTorch,
    mirrored along both axes, with the two kinds of channels exchanged.

    Attributes:
        rate: number of channels of the factor, as a fraction of those of the map.
    """

    rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps `[N, H, W, C]` to the factor `[N, H, W, rate C]` and the map that it restores."""
        channels, factors = x.shape[-1], int(x.shape[-1] * self.rate)
        widths = (channels, factors, factors, factors, channels, channels)
        factor = x
        for i, width in enumerate(widths):
            decodes = i >= 3
            # PyTorch counts the outputs of a transposed convolution as its inputs.
            init = _uniform(1 / math.sqrt(9 * (width if decodes else x.shape[-1])))
            conv = layers.convolution(x.dtype, use_bias=True, kernel_init=init, bias_init=init)
            name = f"{'decoder' if decodes else 'encoder'}{i % 3 + 1}"
            x = nn.leaky_relu(conv(width, 3, name=name)(x), SLOPE)
            factor = factor if decodes else x
        return factor, x


class Translator(nn.Module):
    """Three convolutions with batch norm, from the student's map to a factor.

    Attributes:
        features: number of channels of the factor.
        axis_name: axis over which batch norm averages, inside `pmap`.
    """

    features: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, H, W, features]`.

        Batch norm always uses the statistics of the batch. A bias before it would have no effect,
        so the convolutions have none.
        """
        norm = norms.batch_norm(train=True, axis_name=self.axis_name)
        conv = layers.convolution(x.dtype, kernel_init=layers.kaiming_uniform)
        for i, width in enumerate((x.shape[-1], self.features, self.features), start=1):
            x = norm(name=f"norm{i}")(conv(width, 3, name=f"conv{i}")(x))
            x = nn.leaky_relu(x, SLOPE)
        return x


def _uniform(bound: float) -> nn.initializers.Initializer:
    """Returns an initializer that draws uniform numbers between -`bound` and `bound`."""

    def init(
        key: jax.Array, shape: Sequence[int], dtype: DTypeLike | None = jnp.float32
    ) -> jax.Array:
        return layers.uniform(key, shape, bound).astype(dtype)

    return init
