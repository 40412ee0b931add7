"""SphereFace networks, Liu et al., "SphereFace: Deep Hypersphere Embedding", CVPR 2017.

As the authors' Caffe code (wy1iu/sphereface) has them, for aligned faces of 112x96 pixels: no batch
norm, no pooling, and a fully connected layer on the last map. `sphereface64` is the released model
with 3, 7, 16 and 3 units a stage, `sphereface64_paper` that of the paper's table with 3, 8, 16, 3.
`sphereface36_thin` is the student of KDim, Wang et al., ICCVW 2019: 36 layers, 18 to 144 channels.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.errors import UsageError
from kd_jax.models import heads, layers
from kd_jax.models.outputs import Outputs


def caffe_xavier(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
    """Caffe's "xavier": U(-sqrt(3/fan_in), sqrt(3/fan_in)); Glorot's averages both fans."""
    return layers.uniform(key, shape, math.sqrt(3 / math.prod(shape[:-1]))).astype(dtype)


def small_normal(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
    """N(0, 0.01^2): units begin as almost the identity, which stands in for batch norm."""
    return layers.normal(key, shape, 0.01).astype(dtype)


class PReLU(nn.Module):
    """A rectifier whose slope for negative numbers is learned, one a channel, from 0.25 on."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Activates `[N, H, W, C]`, computing in float32."""
        slope = self.param("slope", nn.initializers.constant(0.25), x.shape[-1:])
        # In bfloat16 the slope's gradient, a sum over all pixels, would lose most of its terms.
        y = x.astype(jnp.float32)
        return jnp.where(y > 0, y, jnp.expand_dims(slope, (0, 1, 2)) * y).astype(x.dtype)


class Unit(nn.Module):
    """Two 3x3 convolutions, each activated, added to what they see; the sum is not activated."""

    conv: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to the sum, of the same shape."""
        y = PReLU()(self.conv(x.shape[-1], 3)(x))
        return x + PReLU()(self.conv(x.shape[-1], 3)(y))


class SphereFace(nn.Module):
    """A SphereFace network; its maps are the stages' last sums.

    A stage is a convolution of stride 2 with its activation, then units. No activation follows a
    unit's sum, so that maps and pre-activations are the same arrays. The embedding is not activated
    either, and not pooled: its kernel fits images of the size at which the network was initialised,
    of any height and width. It flattens `[H, W, C]`, where Caffe flattens `[C, H, W]`.

    Caffe trains the biases of these convolutions and of the embedding at twice the learning rate
    and without weight decay; here all are parameters like others.

    Attributes:
      num_classes: number of logits.
      units: number of units of each stage.
      channels: channels of each stage.
      embedding_size: width of the embedding, which `width` leaves as it is.
      head: "angular" or "linear", see `heads.classify`.
      head_scale: factor of the cosines in the logits; None for the embeddings' lengths.
      width: multiplies the channels of all stages.
      dtype: of the computation; parameters, embedding and logits are float32.
      axis_name: accepted as by all networks, but there is no batch norm that could use it.
    """

    num_classes: int
    units: tuple[int, ...] = (1, 2, 4, 1)
    channels: tuple[int, ...] = (64, 128, 256, 512)
    embedding_size: int = 512
    head: str = "angular"
    head_scale: float | None = None
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    def __post_init__(self):
        heads.check(self.head, self.head_scale)
        if len(self.units) != len(self.channels):
            raise UsageError(
                f"units={self.units} and channels={self.channels} need one number a stage."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Computes the outputs for `images [N, H, W, C]`; `train` makes no difference."""
        layers.check_images("SphereFace", images)
        reduce = layers.convolution(self.dtype, kernel_init=caffe_xavier, use_bias=True)
        conv = layers.convolution(self.dtype, kernel_init=small_normal)

        x = images
        maps = []
        for stage, (count, channels) in enumerate(zip(self.units, self.channels, strict=True)):
            name = f"stage{stage + 1}_{{}}"
            x = reduce(layers.scaled(channels, self.width), 3, 2, name=name.format("conv"))(x)
            x = PReLU(name=name.format("prelu"))(x)
            for i in range(count):
                x = Unit(conv, name=name.format(f"unit{i + 1}"))(x)
            maps.append(x)

        embedding = layers.LinearMap(
            self.embedding_size,
            kernel_init=caffe_xavier,
            bias_init=nn.initializers.zeros,
            name="embedding",
        )(x.reshape(len(x), -1))
        logits, cosines = heads.classify(self.head, self.num_classes, embedding, self.head_scale)
        return Outputs(logits, embedding, tuple(maps), tuple(maps), cosines=cosines)


NETWORKS = {
    "sphereface4": functools.partial(SphereFace, units=(0, 0, 0, 0)),
    "sphereface20": functools.partial(SphereFace, units=(1, 2, 4, 1)),
    "sphereface36": functools.partial(SphereFace, units=(2, 4, 8, 2)),
    "sphereface36_thin": functools.partial(
        SphereFace, units=(2, 4, 8, 2), channels=(18, 36, 72, 144)
    ),
    "sphereface64": functools.partial(SphereFace, units=(3, 7, 16, 3)),
    "sphereface64_paper": functools.partial(SphereFace, units=(3, 8, 16, 3)),
}
