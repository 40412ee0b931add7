"""Residual networks, He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

They are ResNet-18/34/50/101, and the Wide-ResNet-50-2 of Zagoruyko & Komodakis, BMVC 2016. With
`stem="cifar"` they follow RepDistiller's `models/resnetv2.py` (3x3 stem, stride 1, no pool), with
`stem="imagenet"` torchvision (7x7 stem, stride 2, max pool). Bottlenecks are "v1.5": their stride
is in the 3x3 convolution.

Three networks are for faces. `resnet50_vggface2` is HORKD's teacher, the ResNet-50 of VGGFace2's
Caffe model, with the stride in the first 1x1 convolution and a max pool without border.
`resnet18_slim` is meant as EKD's student of 0.61 M parameters, `resnet34_slim` as HORKD's of 7.8 M.
Neither paper gives its channels, and other widths would fit as well. These two narrow all stages by
the same factor, to 15 and 39 channels in the first stage, which gives 0.616 M and 7.905 M
parameters with batch norm and without the classifier.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.core.errors import UsageError, check_choice
from kd_jax.models import heads, layers, norms
from kd_jax.models.branches import branch_outputs, check_branches, shared_by_branches
from kd_jax.models.outputs import Outputs


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns their sum, not yet activated."""

    features: int
    strides: int
    conv: Any
    norm: Any
    shortcut: str = "B"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to the sum, `[N, H', W', features]`."""
        y = nn.relu(self.norm()(self.conv(self.features, 3, self.strides)(x)))
        y = self.norm()(self.conv(self.features, 3)(y))
        return y + _shortcut(x, y, self)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; returns their sum, not yet activated.

    The stride is in the 3x3 convolution, or in the first one if `stride_first`, as in Caffe.
    """

    features: int
    strides: int
    conv: Any
    norm: Any
    widen: int = 1
    stride_first: bool = False
    shortcut: str = "B"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to the sum, `[N, H', W', 4 features]`."""
        inner = self.widen * self.features
        first, second = (self.strides, 1) if self.stride_first else (1, self.strides)
        y = nn.relu(self.norm()(self.conv(inner, 1, first)(x)))
        y = nn.relu(self.norm()(self.conv(inner, 3, second)(y)))
        y = self.norm()(self.conv(4 * self.features, 1)(y))
        return y + _shortcut(x, y, self)


def _shortcut(x: jax.Array, y: jax.Array, block: BasicBlock | Bottleneck) -> jax.Array:
    """Returns `x` itself if it has the shape of the block's result `y`, else shortcut A or B."""
    if block.strides == 1 and x.shape[-1] == y.shape[-1]:
        return x
    if block.shortcut == "A":
        return layers.padded_shortcut(x, y.shape[-1], block.strides)
    x = block.conv(y.shape[-1], 1, block.strides, name="shortcut_conv")(x)
    return block.norm(name="shortcut_norm")(x)


class ResNet(nn.Module):
    """A residual network. Its feature maps are the results of each stage's last block.

    Attributes:
        num_classes: number of logits.
        blocks: number of blocks of each stage, at least 1.
        channels: number of channels of each stage's 3x3 convolutions. All stages except the first
            halve the feature map.
        block: `BasicBlock`, or `Bottleneck`, whose results have four times the channels.
        stem: "cifar" (3x3, stride 1), "imagenet" (7x7, stride 2, and a max pool of stride 2) or
            "caffe" (the same, but the pool has no border, and its last windows are incomplete).
        stem_channels: number of channels of the stem.
        head: "linear" or "angular", see `heads.classify`.
        head_scale: factor of the cosines in an angular head's logits; None for the embeddings'
            lengths.
        branches: number of branches, each with its own last stage and classifier; 1 is
            the network alone. See `models.branches`.
        branch_rescale: divide the gradient of the shared layers by the number of branches.
        shortcut: shortcut of blocks that change the shape: "B" (1x1 convolution and batch norm) or
            "A" (without parameters: every second pixel, and channels of zeros on both sides).
        embedding_size: width of a linear map between pooling and classifier, whose result is the
            embedding; None for the pooled features. `width` does not change it.
        normalize_embedding: L2-normalize the embedding.
        width: factor of all channels.
        dtype: dtype of the computation; parameters, statistics, embedding and logits are float32.
        axis_name: axis over which batch norm averages, inside `pmap`.
        remat: compute the results of blocks again in the backward pass; a stage sets it.
    """

    num_classes: int
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    channels: tuple[int, ...] = (64, 128, 256, 512)
    block: Any = BasicBlock
    stem: str = "cifar"
    stem_channels: int = 64
    head: str = "linear"
    head_scale: float | None = None
    branches: int = 1
    branch_rescale: bool = False
    shortcut: str = "B"
    embedding_size: int | None = None
    normalize_embedding: bool = False
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    def __post_init__(self):
        check_choice(self.stem, _STEMS, "stem")
        check_choice(self.shortcut, ("A", "B"), "shortcut")
        heads.check_head(self.head, self.head_scale)
        check_branches(self.branches)
        heads.check_embedding(self.embedding_size)
        if len(self.blocks) != len(self.channels):
            raise UsageError(
                f"blocks = {self.blocks} and channels = {self.channels} need one number per stage."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Computes the outputs for `images [N, H, W, C]`."""
        layers.check_images("ResNet", images)
        conv = layers.convolution(self.dtype)
        norm = norms.batch_norm(train=train, axis_name=self.axis_name)

        def block(x: jax.Array, stage: int, place: int, name: str) -> layers.BlockResult:
            preactivation = self.block(
                features=layers.scaled(self.channels[stage], self.width),
                strides=2 if stage > 0 and place == 0 else 1,
                conv=conv,
                norm=norm,
                shortcut=self.shortcut,
                name=name,
            )(x)
            return layers.activated(preactivation)

        def first(images: jax.Array) -> jax.Array:
            channels = layers.scaled(self.stem_channels, self.width)
            return _STEMS[self.stem](images, channels, conv, norm)

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
            logits, cosines = heads.classify(
                self.head, self.num_classes, embedding, self.head_scale, f"{prefix}classifier"
            )
            return Outputs(
                logits, embedding, run.feature_maps, run.preactivations, stem, cosines, run.blocks
            )

        return branch_outputs(self.branches, branch)


Factory = Callable[..., Any]


def _cifar_stem(images: jax.Array, channels: int, conv: Factory, norm: Factory) -> jax.Array:
    return nn.relu(norm(name="stem_norm")(conv(channels, 3, name="stem_conv")(images)))


def _wide_stem(images: jax.Array, channels: int, conv: Factory, norm: Factory) -> jax.Array:
    return nn.relu(norm(name="stem_norm")(conv(channels, 7, 2, name="stem_conv")(images)))


def _imagenet_stem(images: jax.Array, channels: int, conv: Factory, norm: Factory) -> jax.Array:
    return layers.max_pool(_wide_stem(images, channels, conv, norm), 3, strides=2, padding=1)


def _caffe_stem(images: jax.Array, channels: int, conv: Factory, norm: Factory) -> jax.Array:
    x = _wide_stem(images, channels, conv, norm)
    # Zeros complete the last window. They do not change a maximum after a ReLU.
    missing = [(0, max(n | 1, 3) - n) for n in x.shape[1:3]]
    return layers.max_pool(jnp.pad(x, ((0, 0), *missing, (0, 0))), 3, strides=2)


_STEMS = {"cifar": _cifar_stem, "imagenet": _imagenet_stem, "caffe": _caffe_stem}

NETWORKS = {
    "resnet18": functools.partial(ResNet, blocks=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": functools.partial(ResNet, blocks=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": functools.partial(ResNet, blocks=(3, 4, 6, 3), block=Bottleneck),
    "resnet101": functools.partial(ResNet, blocks=(3, 4, 23, 3), block=Bottleneck),
    "wrn_50_2": functools.partial(
        ResNet, blocks=(3, 4, 6, 3), block=functools.partial(Bottleneck, widen=2)
    ),
    "resnet18_slim": functools.partial(
        ResNet, blocks=(2, 2, 2, 2), channels=(15, 30, 60, 120), block=BasicBlock, stem_channels=15
    ),
    "resnet34_slim": functools.partial(
        ResNet, blocks=(3, 4, 6, 3), channels=(39, 78, 156, 312), block=BasicBlock, stem_channels=39
    ),
    "resnet50_vggface2": functools.partial(
        ResNet,
        blocks=(3, 4, 6, 3),
        block=functools.partial(Bottleneck, stride_first=True),
        stem="caffe",
    ),
}
