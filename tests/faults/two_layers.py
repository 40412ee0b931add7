"""A network of two linear layers, which compiles in a fraction of a second."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import models


@models.register("faults_network")
class TwoLayers(nn.Module):
    """A hidden layer with tanh, and a classifier."""

    num_classes: int
    width: float = 1.0
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> models.Outputs:
        x = images.astype(jnp.float32).reshape(len(images), -1)
        embedding = nn.tanh(models.LinearMap(int(8 * self.width), name="hidden")(x))
        logits = models.LinearMap(self.num_classes, name="classifier")(embedding)
        return models.Outputs(logits, embedding)
