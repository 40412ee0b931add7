"""Wide residual networks, Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016.

As RepDistiller's `models/wrn.py` has them. `wrn_40_2` has 40 layers of twice the channels.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.models import layers
from kd_jax.models.outputs import Outputs


class WideResNet(nn.Module):
    """A pre-activation residual network of three stages.

    A stage's map is its sum after the batch norm and activation that follow it: what the next stage
    (or the pooling) sees; its pre-activation lies between the two, as RepDistiller's `preact=True`.
    Without that flag RepDistiller taps the raw sums, so that its losses on maps see signed values
    for these networks and activated ones for all others.

    Attributes:
      num_classes: number of logits.
      depth: number of layers, 6n + 4 for n blocks a stage.
      widen: the paper's k: multiplies the stages' channels 16, 32, 64, but not the stem's.
      dropout: rate between the convolutions of a block; needs an rng named "dropout" in training.
      width: multiplies all channels.
      dtype: of the computation; parameters, statistics, embedding and logits are float32.
      axis_name: axis over which batch norm averages, inside `pmap`.
    """

    num_classes: int
    depth: int = 16
    widen: int = 1
    dropout: float = 0.0
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Computes the outputs for `images [N, H, W, C]`."""
        layers.check_images(f"WRN-{self.depth}-{self.widen}", images)
        conv = layers.convolution(self.dtype)
        norm = layers.batch_norm(train=train, axis_name=self.axis_name)
        dropout = nn.Dropout(self.dropout, deterministic=not train)

        x = stem = conv(layers.scaled(16, self.width), 3, name="stem_conv")(images)
        # Each block begins with a batch norm and an activation; here each sum ends with those of
        # the block after it, so that a stage's map is at hand when the stage ends.
        y = nn.relu(norm(name="stem_norm")(x))
        maps, preactivations = [], []
        for stage in range(3):
            channels = layers.scaled(2**stage * 16 * self.widen, self.width)
            for i in range((self.depth - 4) // 6):
                strides = 2 if stage > 0 and i == 0 else 1
                name = f"stage{stage + 1}_block{i + 1}_{{}}"
                if strides != 1 or x.shape[-1] != channels:
                    x = conv(channels, 1, strides, name=name.format("shortcut"))(y)
                y = conv(channels, 3, strides, name=name.format("conv1"))(y)
                y = nn.relu(norm(name=name.format("norm1"))(y))
                x = x + conv(channels, 3, name=name.format("conv2"))(dropout(y))
                preactivation = norm(name=name.format("norm2"))(x)
                y = nn.relu(preactivation)
            maps.append(y)
            preactivations.append(preactivation)

        embedding = layers.global_average(y)
        logits = layers.LinearMap(
            self.num_classes, bias_init=nn.initializers.zeros, name="classifier"
        )(embedding)
        return Outputs(logits, embedding, tuple(maps), tuple(preactivations), stem)


NETWORKS = {
    f"wrn_{depth}_{widen}": functools.partial(WideResNet, depth=depth, widen=widen)
    for depth in (16, 40)
    for widen in (1, 2)
}
