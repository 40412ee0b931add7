"""VGG with batch norm, Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015.

They follow RepDistiller's `models/vgg.py` for small images: global average pooling and one linear
layer replace the three fully connected ones, and VGG-8 has one convolution per group.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.models import layers
from kd_jax.models.outputs import Outputs

# Depth -> convolutions of each group; the classifier is the last layer.
_GROUPS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """A VGG. Its feature maps are the results of groups 2 to 5, before pooling.

    The first group counts as the stem, so that feature maps are numbered as RepDistiller's
    `feat[1:-1]`. A max pool is between two groups, the fourth one only for images of 64 pixels and
    more. (RepDistiller pools there at 64 pixels exactly, so that larger images have larger last
    feature maps.) The convolutions have biases as in the original, without effect before batch
    norm.

    Attributes:
        num_classes: number of logits.
        depth: 8, 11, 13, 16 or 19.
        width: factor of all channels.
        dtype: dtype of the computation; parameters, statistics, embedding and logits are float32.
        axis_name: axis over which batch norm averages, inside `pmap`.
    """

    num_classes: int
    depth: int = 8
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Computes the outputs for `images [N, H, W, C]`, of at least 8x8 pixels."""
        layers.check_images(f"VGG-{self.depth}", images, least=8)
        conv = layers.convolution(self.dtype, use_bias=True)
        norm = layers.batch_norm(train=train, axis_name=self.axis_name)

        pools = 4 if min(images.shape[1:3]) >= 64 else 3
        x = images
        feature_maps, preactivations = [], []
        for group, (count, channels) in enumerate(zip(_GROUPS[self.depth], _CHANNELS, strict=True)):
            if 0 < group <= pools:
                x = layers.max_pool(x, 2, strides=2)
            for i in range(count):
                name = f"group{group + 1}_{{}}{i + 1}"
                x = conv(layers.scaled(channels, self.width), 3, name=name.format("conv"))(x)
                preactivation = norm(name=name.format("norm"))(x)
                x = nn.relu(preactivation)
            feature_maps.append(x)
            preactivations.append(preactivation)

        embedding = layers.global_average(x)
        logits = layers.LinearMap(
            self.num_classes,
            kernel_init=functools.partial(layers.normal, scale=0.01),
            bias_init=nn.initializers.zeros,
            name="classifier",
        )(embedding)
        stem, *maps = feature_maps
        return Outputs(logits, embedding, tuple(maps), tuple(preactivations[1:]), stem)


NETWORKS = {f"vgg{depth}": functools.partial(VGG, depth=depth) for depth in _GROUPS}
