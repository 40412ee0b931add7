"""Guided modules of EKD and BYOT: classifiers of a feature map in the middle of a network.

Zhang et al., "Student Network Learning via Evolutionary Knowledge Distillation", IEEE TCSVT 2021,
section III-A: a bottleneck reduces a block's feature map to the shape of the last one, which is
pooled and classified.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.core.errors import UsageError
from kd_jax.models import Outputs, layers, norms


class GuidedModule(nn.Module):
    """A smaller copy of the feature map, a bottleneck, global pooling and a classifier.

    A feature map of at least twice the last one's height and width is first reduced to exactly
    twice, by antialiased linear interpolation, and the 3x3 convolution halves it. Thus a module
    costs a few percent of its network. A smaller feature map is reduced to the last one's size in
    one step.

    Attributes:
        num_classes: number of logits.
        shape: (H, W) of the last feature map, and the width of the embedding.
        reduction: factor of the bottleneck, which has C / reduction channels; 4 is ResNet's.
        axis_name: axis over which batch norm averages, inside `pmap`.
        train: normalize by the statistics of the batch. If false, normalize by running ones.
    """

    num_classes: int
    shape: tuple[int, int, int]
    reduction: int = 4
    axis_name: str | None = None
    train: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> Outputs:
        """Computes the outputs for a feature map `[N, H', W', C']`, in its dtype.

        Raises:
            UsageError: if the feature map is smaller than the last one.
        """
        *size, channels = self.shape
        if x.shape[1] < size[0] or x.shape[2] < size[1]:
            raise UsageError(
                f"A guided module cannot enlarge a feature map of {x.shape[1]}x{x.shape[2]} to the"
                f" last one's {size[0]}x{size[1]}: take fewer guided modules or another network."
            )
        conv = layers.convolution(x.dtype)
        norm = norms.batch_norm(train=self.train, axis_name=self.axis_name)
        stride = 2 if x.shape[1] >= 2 * size[0] and x.shape[2] >= 2 * size[1] else 1
        height, width = (stride * new for new in size)
        # The highest precision would multiply bfloat16 numbers in several passes.
        exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
        new = (len(x), height, width, x.shape[3])
        x = jax.image.resize(x, new, "linear", antialias=True, precision=exact)
        inner = layers.scaled(channels, 1 / self.reduction)
        x = nn.relu(norm(name="norm1")(conv(inner, 1, name="conv1")(x)))
        x = nn.relu(norm(name="norm2")(conv(inner, 3, stride, name="conv2")(x)))
        preactivation = norm(name="norm3")(conv(channels, 1, name="conv3")(x))
        x = nn.relu(preactivation)
        embedding = layers.global_average(x)
        logits = layers.LinearMap(self.num_classes, name="classifier")(embedding)
        return Outputs(logits, embedding, (x,), (preactivation,))


def guided_modules(
    outputs: Outputs, count: int | None, *, role: str, key: str, stem: bool, **fields: Any
) -> dict[str, tuple[GuidedModule, jax.Array]]:
    """Returns guided modules of a network and their inputs; `module1` is before the last block.

    Args:
        outputs: outputs of the network.
        count: number of modules, on the deepest blocks except the last. None is one for each.
        role: role of the network, for errors.
        key: config key of the number of modules, for errors.
        stem: count the stem of the network as its first block.
        **fields: further fields of the modules.

    Raises:
        UsageError: if the network has no feature maps, or too few.
    """
    blocks = outputs.feature_maps
    if count == 0:
        return {}
    if stem:
        if outputs.stem is None:
            raise UsageError(
                f"method.stem = True, but the {role} returns no stem: set it to False."
            )
        blocks = (outputs.stem, *blocks)
    if not blocks or any(x.ndim != 4 for x in blocks):
        shapes = " and ".join(str(list(x.shape)) for x in blocks) or "none"
        raise UsageError(
            f"{key} = {count}, but guided modules need maps [N, H, W, C] and the {role} returns"
            f" {shapes}: set it to 0, or take another network."
        )
    count = len(blocks) - 1 if count is None else count
    if count >= len(blocks):
        raise UsageError(
            f"{key} = {count} is more than this network can have: it has {len(blocks)} blocks,"
            f" and the last needs none; choose 0 to {len(blocks) - 1}."
        )
    # A network may widen its last map before it pools it, as ShuffleNetV2 does.
    height, width = blocks[-1].shape[1:3]
    shape = (height, width, outputs.embedding.shape[-1])
    module = GuidedModule(outputs.logits.shape[-1], shape, **fields)
    return {f"module{i}": (module, blocks[-1 - i]) for i in range(1, count + 1)}
