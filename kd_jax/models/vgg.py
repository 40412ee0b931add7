"""VGG with batch norm, Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015.

They follow RepDistiller's `models/vgg.py` for small images: global average pooling and one linear
layer replace the three fully connected ones, and VGG-8 has one convolution per group.

`vgg16_okddip` is the VGG-16 of OKDDip (Chen et al., AAAI 2020) and of EKD's Table III, as in
`models/model_cifar/vgg.py` of DefangChen/OKDDip: a max pool follows each of the five groups, and
the classifier has two hidden layers of 512 units. Its dropout is left out, because its rate is 0.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.core.errors import UsageError
from kd_jax.models import heads, layers, norms
from kd_jax.models.branches import branch_outputs, check_branches, shared_by_branches
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
    feature maps.) The option `pools` sets another number. The convolutions have biases as in the
    original, without effect before batch norm.

    Attributes:
        num_classes: number of logits.
        depth: 8, 11, 13, 16 or 19.
        pools: number of max pools, 0 to 5, one after each of the first groups. None is three, and
            four for images of 64 pixels and more.
        hidden: widths of linear layers with ReLU between the embedding and the logits.
        branches: number of branches, each with its own last group and classifier; 1 is the network
            alone. See `models.branches`.
        branch_rescale: divide the gradient of the shared layers by the number of branches.
        embedding_size: width of a linear map between pooling and classifier, whose result is the
            embedding; None for the pooled features. `width` does not change it.
        normalize_embedding: L2-normalize the embedding.
        width: factor of all channels.
        dtype: dtype of the computation; parameters, statistics, embedding and logits are float32.
        axis_name: axis over which batch norm averages, inside `pmap`.
        remat: compute the results of blocks again in the backward pass; a stage sets it.
    """

    num_classes: int
    depth: int = 8
    pools: int | None = None
    hidden: tuple[int, ...] = ()
    branches: int = 1
    branch_rescale: bool = False
    embedding_size: int | None = None
    normalize_embedding: bool = False
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    def __post_init__(self):
        if self.pools is not None and not 0 <= self.pools <= len(_CHANNELS):
            raise UsageError(f"pools = {self.pools} is impossible: choose 0 to {len(_CHANNELS)}.")
        check_branches(self.branches)
        heads.check_embedding(self.embedding_size)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Computes the outputs for `images [N, H, W, C]`.

        Raises:
            UsageError: for images of less than 8 pixels, or of less than `2**pools` pixels.
        """
        least = 8 if self.pools is None else 2**self.pools
        layers.check_images(f"VGG-{self.depth}", images, least=least)
        conv = layers.convolution(self.dtype, use_bias=True)
        norm = norms.batch_norm(train=train, axis_name=self.axis_name)

        pools = self.pools
        if pools is None:
            pools = 4 if min(images.shape[1:3]) >= 64 else 3

        def run(x: jax.Array, group: int, prefix: str) -> tuple[jax.Array, jax.Array]:
            for i in range(_GROUPS[self.depth][group]):
                name = f"{prefix}group{group + 1}_{{}}{i + 1}"
                features = layers.scaled(_CHANNELS[group], self.width)
                x = conv(features, 3, name=name.format("conv"))(x)
                preactivation = norm(name=name.format("norm"))(x)
                x = nn.relu(preactivation)
            return x, preactivation

        def pooled(x: jax.Array, group: int) -> jax.Array:
            return layers.max_pool(x, 2, strides=2) if group < pools else x

        run = layers.rematerialized(self, run)
        x, last = images, len(_CHANNELS) - 1
        feature_maps, preactivations = [], []
        for group in range(last):
            x, preactivation = run(x, group, "")
            feature_maps.append(x)
            preactivations.append(preactivation)
            x = pooled(x, group)
        stem, *shared = feature_maps
        x = shared_by_branches(x, self.branches, self.branch_rescale)
        linear = functools.partial(
            layers.LinearMap,
            kernel_init=functools.partial(layers.normal, scale=0.01),
            bias_init=nn.initializers.zeros,
        )

        def branch(prefix: str) -> Outputs:
            own, preactivation = run(x, last, prefix)
            features = layers.global_average(pooled(own, last))
            embedding = features = heads.embed(
                features, self.embedding_size, self.normalize_embedding, prefix
            )
            for i, units in enumerate(self.hidden, start=1):
                width = layers.scaled(units, self.width)
                features = nn.relu(linear(width, name=f"{prefix}hidden{i}")(features))
            logits = linear(self.num_classes, name=f"{prefix}classifier")(features)
            maps, before = (*shared, own), (*preactivations[1:], preactivation)
            return Outputs(logits, embedding, maps, before, stem)

        return branch_outputs(self.branches, branch)


NETWORKS = {
    **{f"vgg{depth}": functools.partial(VGG, depth=depth) for depth in _GROUPS},
    "vgg16_okddip": functools.partial(VGG, depth=16, pools=5, hidden=(512, 512)),
}
