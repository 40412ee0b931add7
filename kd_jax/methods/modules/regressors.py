"""Small networks that map a student's feature map to a teacher's channels, for hints.

Their convolutions have PyTorch's initial values, as in RepDistiller.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models import layers, norms


class HintRegressor(nn.Module):
    """1x1 convolution, batch norm and ReLU: RepDistiller's `ConvReg` for maps of equal size.

    Attributes:
        features: number of channels of the teacher's feature map.
        activation: end in a ReLU. The connectors of AB do not.
        axis_name: axis over which batch norm averages, inside `pmap`.
    """

    features: int
    activation: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, H, W, features]`.

        Batch norm always uses the statistics of the batch.
        """
        x = layers.convolution(x.dtype, kernel_init=layers.kaiming_uniform)(
            self.features, 1, name="conv"
        )(x)
        x = norms.batch_norm(train=True, axis_name=self.axis_name)(name="norm")(x)
        return nn.relu(x) if self.activation else x


class GaussianRegressor(nn.Module):
    """Gaussian of the teacher's feature map, given the student's: RepDistiller's `VIDLoss`.

    The mean has three 1x1 convolutions with ReLU between them. Each channel has one scale, with an
    initial variance of 5.

    Attributes:
        features: number of channels of the teacher's feature map.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps `[N, H, W, C]` to means `[N, H, W, features]` and log-scales `[features]`."""
        conv = layers.convolution(x.dtype, kernel_init=layers.kaiming_uniform)
        for i in (1, 2):
            x = nn.relu(conv(self.features, 1, name=f"conv{i}")(x))
        # softplus(log_scale) + 1e-5 = 5
        start = nn.initializers.constant(math.log(math.expm1(5.0 - 1e-5)))
        log_scale = self.param("log_scale", start, (self.features,), jnp.float32)
        return conv(self.features, 1, name="conv3")(x), log_scale
