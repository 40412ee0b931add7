"""Guided modules of EKD: classifiers of a feature map in the middle of a network.

Zhang et al., "Student Network Learning via Evolutionary Knowledge Distillation", IEEE TCSVT 2021,
section III-A: a bottleneck reduces a block's feature map to the shape of the last one, which is
pooled and classified.
"""

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
    """

    num_classes: int
    shape: tuple[int, int, int]
    reduction: int = 4
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> Outputs:
        """Computes the outputs for a feature map `[N, H', W', C']`, in its dtype.

        Batch norm always uses the statistics of the batch, because only training uses modules.

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
        norm = norms.batch_norm(train=True, axis_name=self.axis_name)
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
