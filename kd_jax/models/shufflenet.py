"""ShuffleNets V1 and V2, Zhang et al., CVPR 2018, and Ma et al., ECCV 2018.

They follow RepDistiller's `models/ShuffleNetv1.py` and `models/ShuffleNetv2.py` for small images:
the stem is a 1x1 convolution of stride 1, and no pool follows it. Kernels have the initial values
of PyTorch's layers, there and here.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from kd_jax.models import heads, layers, norms
from kd_jax.models.branches import branch_outputs, check_branches, shared_by_branches
from kd_jax.models.outputs import Outputs


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Reorders the channels of `[..., C]`: the first of each group, then the second of each.

    On a TPU it is a product with a matrix of zeros and ones, which is exact: the channels are in
    the lanes of its registers, and to divide them takes longer than the network itself.
    """
    shuffled: jax.Array = jax.lax.platform_dependent(
        x,
        tpu=functools.partial(_by_product, groups=groups),
        default=functools.partial(_by_transposition, groups=groups),
    )
    return shuffled


def _by_transposition(x: jax.Array, groups: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


def _by_product(x: jax.Array, groups: int) -> jax.Array:
    source = np.arange(x.shape[-1]).reshape(groups, -1).T.ravel()
    places = jnp.asarray(np.eye(x.shape[-1])[:, source], x.dtype)
    # Products of bfloat16 with ones are exact; float32 needs all passes of the highest precision.
    exact = None if x.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    return jnp.matmul(x, places, precision=exact)


class ShuffleBlockV1(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolutions, the outer ones in groups, and a shortcut.

    A block of stride 1 adds its input, a block of stride 2 appends it, pooled. The result is not
    yet activated.

    Attributes:
        features: number of features of the last convolution.
        strides: 1 or 2.
        first_groups: number of groups of the first convolution.
        groups: number of groups of the last convolution.
        conv: factory of convolutions.
        norm: factory of batch norms.
    """

    features: int
    strides: int
    first_groups: int
    groups: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, H, W, features]` or `[N, H', W', features + C]`."""
        inner = self.groups * layers.scaled(self.features / (4 * self.groups), 1.0)
        y = nn.relu(self.norm()(self.conv(inner, 1, groups=self.first_groups)(x)))
        y = channel_shuffle(y, self.first_groups)
        y = nn.relu(self.norm()(self.conv(inner, 3, self.strides, groups=inner)(y)))
        y = self.norm()(self.conv(self.features, 1, groups=self.groups)(y))
        if self.strides == 1:
            return x + y
        return jnp.concatenate([y, layers.average_pool(x, 3, strides=2, padding=1)], axis=-1)


class ShuffleBlockV2(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolutions of half the channels; the other half is unchanged.

    A block of stride 2 applies these three convolutions to all channels, and a depthwise 3x3 and a
    1x1 convolution of all channels replace the unchanged half. The result is not yet activated,
    except the unchanged half, which is.
    """

    features: int
    strides: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, H', W', features]`."""
        half = self.features // 2
        if self.strides == 1:
            other, y = jnp.split(x, 2, axis=-1)
        else:
            y, channels = x, x.shape[-1]
            left = self.conv(channels, 3, self.strides, groups=channels, name="left_conv1")(x)
            left = self.conv(half, 1, name="left_conv2")(self.norm(name="left_norm1")(left))
            other = self.norm(name="left_norm2")(left)
        y = nn.relu(self.norm()(self.conv(half, 1)(y)))
        y = self.norm()(self.conv(half, 3, self.strides, groups=half)(y))
        y = self.norm()(self.conv(half, 1)(y))
        return channel_shuffle(jnp.concatenate([other, y], axis=-1), 2)


class ShuffleNetV1(nn.Module):
    """ShuffleNet V1 of 3 groups. Its feature maps are the results of each stage's last block.

    Attributes:
        num_classes: number of logits.
        blocks: number of blocks of each stage, at least 1; the first block halves the feature map.
        branches: number of branches, each with its own last stage and classifier; 1 is
            the network alone. See `models.branches`.
        branch_rescale: divide the gradient of the shared layers by the number of branches.
        embedding_size: width of a linear map between pooling and classifier, whose result is the
            embedding; None for the pooled features. `width` does not change it.
        normalize_embedding: L2-normalize the embedding.
        width: factor of all channels; they stay multiples of 3.
        dtype: dtype of the computation; parameters, statistics, embedding and logits are float32.
        axis_name: axis over which batch norm averages, inside `pmap`.
        remat: compute the results of blocks again in the backward pass; a stage sets it.
    """

    num_classes: int
    blocks: tuple[int, ...] = (4, 8, 4)
    branches: int = 1
    branch_rescale: bool = False
    embedding_size: int | None = None
    normalize_embedding: bool = False
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    def __post_init__(self):
        check_branches(self.branches)
        heads.check_embedding(self.embedding_size)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Computes the outputs for `images [N, H, W, C]`."""
        layers.check_images("ShuffleNetV1", images)
        conv = layers.convolution(self.dtype, kernel_init=layers.kaiming_uniform)
        norm = norms.batch_norm(train=train, axis_name=self.axis_name)

        groups = 3

        def first(images: jax.Array) -> jax.Array:
            channels = groups * layers.scaled(24 / groups, self.width)
            x = conv(channels, 1, name="stem_conv")(images)
            return nn.relu(norm(name="stem_norm")(x))

        def block(x: jax.Array, stage: int, place: int, name: str) -> layers.BlockResult:
            # A stage's first block appends this number of channels: 240, 480, 960 in all.
            added = groups * layers.scaled((216, 240, 480)[stage] / groups, self.width)
            preactivation = ShuffleBlockV1(
                features=added if place == 0 else x.shape[-1],
                strides=2 if place == 0 else 1,
                first_groups=1 if stage == place == 0 else groups,
                groups=groups,
                conv=conv,
                norm=norm,
                name=name,
            )(x)
            return layers.activated(preactivation)

        block = layers.rematerialized(self, block)
        stem = layers.rematerialized(self, first)(images)
        shared = layers.stages(layers.Stages(stem), self.blocks[:-1], block)
        state = shared_by_branches(shared.state, self.branches, self.branch_rescale)
        shared = shared._replace(state=state)

        def branch(prefix: str) -> Outputs:
            run = layers.stages(shared, self.blocks[-1:], block, prefix)
            embedding = heads.embed(
                layers.global_average(run.state),
                self.embedding_size,
                self.normalize_embedding,
                prefix,
            )
            logits = layers.LinearMap(self.num_classes, name=f"{prefix}classifier")(embedding)
            return Outputs(
                logits, embedding, run.feature_maps, run.preactivations, stem, blocks=run.blocks
            )

        return branch_outputs(self.branches, branch)


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2 of size 1. Its feature maps are the results of each stage's last block.

    The embedding is the pooled result of the 1x1 convolution that follows the last block.
    Pre-activations have the order of channels of the feature maps. RepDistiller's `preact=True`
    returns them before the last shuffle.

    Attributes:
        num_classes: number of logits.
        blocks: number of blocks of each stage, at least 1; the first block halves the feature map.
        branches: number of branches, each with its own last stage and all layers after it;
            1 is the network alone. See `models.branches`.
        branch_rescale: divide the gradient of the shared layers by the number of branches.
        embedding_size: width of a linear map between pooling and classifier, whose result is the
            embedding; None for the pooled features. `width` does not change it.
        normalize_embedding: L2-normalize the embedding.
        width: factor of all channels; those of the stages stay even.
        dtype: dtype of the computation; parameters, statistics, embedding and logits are float32.
        axis_name: axis over which batch norm averages, inside `pmap`.
        remat: compute the results of blocks again in the backward pass; a stage sets it.
    """

    num_classes: int
    blocks: tuple[int, ...] = (4, 8, 4)
    branches: int = 1
    branch_rescale: bool = False
    embedding_size: int | None = None
    normalize_embedding: bool = False
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    def __post_init__(self):
        check_branches(self.branches)
        heads.check_embedding(self.embedding_size)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Computes the outputs for `images [N, H, W, C]`."""
        layers.check_images("ShuffleNetV2", images)
        conv = layers.convolution(self.dtype, kernel_init=layers.kaiming_uniform)
        norm = norms.batch_norm(train=train, axis_name=self.axis_name)

        def first(images: jax.Array) -> jax.Array:
            x = conv(layers.scaled(24, self.width), 1, name="stem_conv")(images)
            return nn.relu(norm(name="stem_norm")(x))

        def block(x: jax.Array, stage: int, place: int, name: str) -> layers.BlockResult:
            channels = (116, 232, 464)[stage]
            preactivation = ShuffleBlockV2(
                features=2 * layers.scaled(channels / 2, self.width),
                strides=2 if place == 0 else 1,
                conv=conv,
                norm=norm,
                name=name,
            )(x)
            return layers.activated(preactivation)

        block = layers.rematerialized(self, block)
        stem = layers.rematerialized(self, first)(images)
        shared = layers.stages(layers.Stages(stem), self.blocks[:-1], block)
        state = shared_by_branches(shared.state, self.branches, self.branch_rescale)
        shared = shared._replace(state=state)

        def branch(prefix: str) -> Outputs:
            run = layers.stages(shared, self.blocks[-1:], block, prefix)
            x = conv(layers.scaled(1024, self.width), 1, name=f"{prefix}last_conv")(run.state)
            x = nn.relu(norm(name=f"{prefix}last_norm")(x))
            embedding = heads.embed(
                layers.global_average(x), self.embedding_size, self.normalize_embedding, prefix
            )
            logits = layers.LinearMap(self.num_classes, name=f"{prefix}classifier")(embedding)
            return Outputs(
                logits, embedding, run.feature_maps, run.preactivations, stem, blocks=run.blocks
            )

        return branch_outputs(self.branches, branch)


NETWORKS = {
    "shufflenet_v1": functools.partial(ShuffleNetV1, blocks=(4, 8, 4)),
    "shufflenet_v2": functools.partial(ShuffleNetV2, blocks=(4, 8, 4)),
}
