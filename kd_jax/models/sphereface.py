"""SphereFace networks, Liu et al., "SphereFace: Deep Hypersphere Embedding", CVPR 2017.

They follow the authors' Caffe code (wy1iu/sphereface), for aligned faces of 112x96 pixels: no batch
norm, no pooling, and a fully connected layer on the last feature map. `sphereface64` is the
released model with 3, 7, 16 and 3 units per stage. `sphereface64_paper` is that of the paper's
table with 3, 8, 16 and 3 units, which KDim (Wang et al., ICCVW 2019, Table 1) prints for its
teacher. `sphereface36_thin` is KDim's student (Table 2): 36 layers, 18 to 144 channels.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.core.errors import UsageError
from kd_jax.models import heads, layers
from kd_jax.models.outputs import Outputs


def caffe_xavier(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws Caffe's "xavier", U(-sqrt(3/fan_in), sqrt(3/fan_in)); Glorot's averages both fans."""
    return layers.uniform(key, shape, math.sqrt(3 / math.prod(shape[:-1]))).astype(dtype)


def small_normal(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws from N(0, 0.01^2): units start near the identity, which replaces batch norm."""
    return layers.normal(key, shape, 0.01).astype(dtype)


class PReLU(nn.Module):
    """A ReLU with a learned slope for negative numbers, one per channel, initially 0.25."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Activates `[N, H, W, C]`, computing in float32."""
        slope = self.param("slope", nn.initializers.constant(0.25), x.shape[-1:])
        # In bfloat16 the slope's gradient, a sum over all pixels, would lose most of its terms.
        y = x.astype(jnp.float32)
        return jnp.where(y > 0, y, jnp.expand_dims(slope, (0, 1, 2)) * y).astype(x.dtype)


class Unit(nn.Module):
    """Two 3x3 convolutions, each activated, added to their input; the sum is not activated."""

    conv: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to the sum, of the same shape."""
        y = PReLU()(self.conv(x.shape[-1], 3)(x))
        return x + PReLU()(self.conv(x.shape[-1], 3)(y))


class SphereFace(nn.Module):
    """A SphereFace network. Its feature maps are the results of its stages.

    A stage is a convolution of stride 2 with its activation, then units. No activation follows a
    unit's sum, so that feature maps and pre-activations are the same arrays. The embedding is not
    activated either, and not pooled: its kernel fits images of the size at which the network was
    initialized, of any height and width. It flattens `[H, W, C]`, whereas Caffe flattens
    `[C, H, W]`.

    Caffe trains the biases of these convolutions and of the embedding at twice the learning rate
    and without weight decay; here they are parameters like all others.

    Attributes:
        num_classes: number of logits.
        units: number of units of each stage.
        channels: number of channels of each stage.
        embedding_size: width of the embedding, which does not depend on `width`.
        normalize_embedding: L2-normalize the embedding.
        head: "angular" or "linear", see `heads.classify`.
        head_scale: factor of the cosines in the logits; None for the embeddings' lengths.
        unit_bias: biases in the convolutions of the units, as in clcarwin/sphereface_pytorch.
        width: factor of the channels of all stages.
        dtype: dtype of the computation; parameters, embedding and logits are float32.
        axis_name: accepted as by all networks, but there is no batch norm that could use it.
        remat: compute the results of blocks again in the backward pass; a stage sets it.
    """

    num_classes: int
    units: tuple[int, ...] = (1, 2, 4, 1)
    channels: tuple[int, ...] = (64, 128, 256, 512)
    embedding_size: int = 512
    normalize_embedding: bool = False
    head: str = "angular"
    head_scale: float | None = None
    unit_bias: bool = False
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    def __post_init__(self):
        heads.check_head(self.head, self.head_scale)
        if len(self.units) != len(self.channels):
            raise UsageError(
                f"units = {self.units} and channels = {self.channels} need one number per stage."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Computes the outputs for `images [N, H, W, C]`; `train` makes no difference."""
        layers.check_images("SphereFace", images)
        reduce = layers.convolution(self.dtype, kernel_init=caffe_xavier, use_bias=True)
        conv = layers.convolution(self.dtype, kernel_init=small_normal, use_bias=self.unit_bias)

        def first(x: jax.Array, channels: int, name: str) -> jax.Array:
            x = reduce(channels, 3, 2, name=name.format("conv"))(x)
            return PReLU(name=name.format("prelu"))(x)

        first = layers.rematerialized(self, first)
        unit = layers.rematerialized(self, lambda x, name: Unit(conv, name=name)(x))
        x = images
        feature_maps, blocks = [], []
        for stage, (count, channels) in enumerate(zip(self.units, self.channels, strict=True)):
            name = f"stage{stage + 1}_{{}}"
            x = first(x, layers.scaled(channels, self.width), name)
            for i in range(count):
                x = unit(x, name.format(f"unit{i + 1}"))
                blocks.append(x)
            feature_maps.append(x)

        embedding = layers.LinearMap(
            self.embedding_size,
            kernel_init=caffe_xavier,
            bias_init=nn.initializers.zeros,
            name="embedding",
        )(x.reshape(x.shape[0], -1))
        embedding = heads.embed(embedding, None, self.normalize_embedding)
        logits, cosines = heads.classify(self.head, self.num_classes, embedding, self.head_scale)
        maps = tuple(feature_maps)
        return Outputs(logits, embedding, maps, maps, cosines=cosines, blocks=tuple(blocks))


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
