"""Linear maps of embeddings to unit vectors, for contrastive losses."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models import LinearMap


class UnitMap(nn.Module):
    """A linear map, and division by the L2 norm: RepDistiller's `Embed`.

    Attributes:
        features: width of the result.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps embeddings `[N, D]` to vectors `[N, features]` of length 1; zeros stay 0."""
        x = LinearMap(self.features, name="linear")(x)
        squares = (x * x).sum(1, keepdims=True)
        zero = squares < jnp.finfo(x.dtype).tiny
        # The inner `where` keeps the infinite slope out of the backward pass.
        return jnp.where(zero, 0, x / jnp.sqrt(jnp.where(zero, 1, squares)))
