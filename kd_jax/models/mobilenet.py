"""MobileNetV2, Sandler et al., "Inverted Residuals and Linear Bottlenecks", CVPR 2018.

It follows RepDistiller's `models/mobilenetv2.py` for small images. Unlike in the paper and in
torchvision, one stride of 2 is left out (that of the second group: the last feature map is a 16th
of the image, not a 32nd), activations are not cut off at 6, there is no dropout before the
classifier, and the first group has an expanding convolution too, by a factor of 1.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.core.errors import UsageError
from kd_jax.models import heads, layers, norms
from kd_jax.models.outputs import Outputs

# (expansion, channels, strides of the first block) of each group.
_GROUPS = (
    (1, 16, 1),
    (6, 24, 1),
    (6, 32, 2),
    (6, 64, 2),
    (6, 96, 1),
    (6, 160, 2),
    (6, 320, 1),
)
_TAPPED = (2, 3, 5, 7)  # the groups whose results are feature maps


class InvertedResidual(nn.Module):
    """A 1x1 convolution that expands, a depthwise 3x3 and a 1x1 one; the result is linear."""

    features: int
    strides: int
    expansion: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, H', W', features]`, plus `x` if its shape is the same."""
        inner = self.expansion * x.shape[-1]
        y = nn.relu(self.norm()(self.conv(inner, 1)(x)))
        y = nn.relu(self.norm()(self.conv(inner, 3, self.strides, groups=inner)(y)))
        y = self.norm()(self.conv(self.features, 1)(y))
        return x + y if self.strides == 1 and x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """MobileNetV2. Its feature maps are the results of groups 2, 3, 5 and 7 of its seven.

    Blocks end linearly, so that feature maps and pre-activations are the same. The embedding is the
    pooled result of the 1x1 convolution that follows the last block.

    Attributes:
        num_classes: number of logits.
        blocks: number of blocks of each group.
        widen: the paper's width multiplier, the factor of all channels. Values above 1 also apply
            to the embedding's 1280 channels, values below 1 do not. Products are rounded to whole
            numbers, not to multiples of 8 as in torchvision.
        embedding_size: width of a linear map between pooling and classifier, whose result is the
            embedding; None for the pooled features. `width` does not change it.
        normalize_embedding: L2-normalize the embedding.
        width: factor of all channels.
        dtype: dtype of the computation; parameters, statistics, embedding and logits are float32.
        axis_name: axis over which batch norm averages, inside `pmap`.
        remat: compute the results of blocks again in the backward pass; a stage sets it.
    """

    num_classes: int
    blocks: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    widen: float = 1.0
    embedding_size: int | None = None
    normalize_embedding: bool = False
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    def __post_init__(self):
        if not (isinstance(self.widen, int | float) and self.widen > 0):
            raise UsageError(f"MobileNetV2 needs widen > 0, not {self.widen!r}.")
        heads.check_embedding(self.embedding_size)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Computes the outputs for `images [N, H, W, C]`."""
        layers.check_images("MobileNetV2", images)
        conv = layers.convolution(self.dtype)
        norm = norms.batch_norm(train=train, axis_name=self.axis_name)

        width = self.width * self.widen

        def first(images: jax.Array) -> jax.Array:
            x = conv(layers.scaled(32, width), 3, 2, name="stem_conv")(images)
            return nn.relu(norm(name="stem_norm")(x))

        def block(x: jax.Array, group: int, place: int) -> jax.Array:
            expansion, channels, strides = _GROUPS[group - 1]
            result: jax.Array = InvertedResidual(
                features=layers.scaled(channels, width),
                strides=strides if place == 0 else 1,
                expansion=expansion,
                conv=conv,
                norm=norm,
                name=f"group{group}_block{place + 1}",
            )(x)
            return result

        block = layers.rematerialized(self, block)
        x = stem = layers.rematerialized(self, first)(images)
        feature_maps, blocks = [], []
        for group, count in enumerate(self.blocks, start=1):
            for i in range(count):
                x = block(x, group, i)
                blocks.append(x)
            if group in _TAPPED:
                feature_maps.append(x)

        channels = layers.scaled(1280 * max(1.0, self.widen), self.width)
        x = nn.relu(norm(name="last_norm")(conv(channels, 1, name="last_conv")(x)))
        embedding = heads.embed(
            layers.global_average(x), self.embedding_size, self.normalize_embedding
        )
        logits = layers.LinearMap(
            self.num_classes,
            kernel_init=functools.partial(layers.normal, scale=0.01),
            bias_init=nn.initializers.zeros,
            name="classifier",
        )(embedding)
        maps = tuple(feature_maps)
        return Outputs(logits, embedding, maps, maps, stem, blocks=tuple(blocks))


_network = functools.partial(MobileNetV2, blocks=(1, 2, 3, 4, 3, 3, 1))

NETWORKS = {
    "mobilenet_v2": _network,
    "mobilenet_v2_half": functools.partial(_network, widen=0.5),  # RepDistiller's "MobileNetV2"
}
