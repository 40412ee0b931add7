"""Wide residual networks, Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016.

They follow RepDistiller's `models/wrn.py`. `wrn_40_2` has 40 layers and twice the channels.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.models import heads, layers, norms
from kd_jax.models.branches import branch_outputs, check_branches, shared_by_branches
from kd_jax.models.outputs import Outputs


class WideResNet(nn.Module):
    """A pre-activation residual network of three stages.

    A block's feature map is its sum after the batch norm and the activation that follow it, which
    is the input of the next block (or of the pooling). Its pre-activation is the result of that
    batch norm, as with RepDistiller's `preact=True`. Without that flag, RepDistiller returns the
    raw sums, so that its losses on feature maps see signed values for these networks and activated
    ones for all others.

    Attributes:
        num_classes: number of logits.
        depth: number of layers, 6n + 4 for n blocks per stage.
        widen: the paper's k, factor of the stages' channels 16, 32, 64, but not of the stem's.
        dropout: rate between the convolutions of a block; needs an rng named "dropout" in training.
        branches: number of branches, each with its own last stage and classifier; 1 is
            the network alone. See `models.branches`.
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
    depth: int = 16
    widen: int = 1
    dropout: float = 0.0
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
        layers.check_images(f"WRN-{self.depth}-{self.widen}", images)
        conv = layers.convolution(self.dtype)
        norm = norms.batch_norm(train=train, axis_name=self.axis_name)
        dropout = nn.Dropout(self.dropout, deterministic=not train)

        # Each block begins with a batch norm and an activation. Here those are the end of the
        # block before, so that a stage's feature map is complete when the stage ends. The state of
        # a block is the raw sum `x`, for the shortcut, and the activated one, `y`.
        def block(
            state: tuple[jax.Array, jax.Array], stage: int, place: int, name: str
        ) -> layers.BlockResult:
            x, y = state
            channels = layers.scaled(2**stage * 16 * self.widen, self.width)
            strides = 2 if stage > 0 and place == 0 else 1
            if strides != 1 or x.shape[-1] != channels:
                x = conv(channels, 1, strides, name=f"{name}_shortcut")(y)
            y = conv(channels, 3, strides, name=f"{name}_conv1")(y)
            y = nn.relu(norm(name=f"{name}_norm1")(y))
            x = x + conv(channels, 3, name=f"{name}_conv2")(dropout(y))
            _, y, preactivation = layers.activated(norm(name=f"{name}_norm2")(x))
            return (x, y), y, preactivation

        def first(images: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = conv(layers.scaled(16, self.width), 3, name="stem_conv")(images)
            return x, nn.relu(norm(name="stem_norm")(x))

        block = layers.rematerialized(self, block)
        stem, activated = layers.rematerialized(self, first)(images)
        start = layers.Stages((stem, activated))
        counts = [(self.depth - 4) // 6] * 3
        shared = layers.stages(start, counts[:-1], block)
        state = shared_by_branches(shared.state, self.branches, self.branch_rescale)
        shared = shared._replace(state=state)

        def branch(prefix: str) -> Outputs:
            run = layers.stages(shared, counts[-1:], block, prefix)
            embedding = heads.embed(
                layers.global_average(run.state[1]),
                self.embedding_size,
                self.normalize_embedding,
                prefix,
            )
            logits = layers.LinearMap(
                self.num_classes, bias_init=nn.initializers.zeros, name=f"{prefix}classifier"
            )(embedding)
            return Outputs(
                logits, embedding, run.feature_maps, run.preactivations, stem, blocks=run.blocks
            )

        return branch_outputs(self.branches, branch)


NETWORKS = {
    f"wrn_{depth}_{widen}": functools.partial(WideResNet, depth=depth, widen=widen)
    for depth in (16, 40)
    for widen in (1, 2)
}
