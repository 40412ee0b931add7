"""Guided modules of EKD: heads that classify from a map in the middle of a network.

Ge et al., "Evolutionary knowledge distillation", IEEE TCSVT 2021, section III-A: a bottleneck
brings the map of a block to the shape of the last one, which is pooled and classified.
"""

import flax.linen as nn
import jax

from kd_jax.errors import UsageError
from kd_jax.models import layers
from kd_jax.models.outputs import Outputs


class GuidedModule(nn.Module):
    """A smaller copy of the map, a bottleneck, global pooling and a classifier.

    A map of at least twice the last one's size is first reduced to twice that, by linear
    interpolation that averages what it leaves out, and the 3x3 convolution halves it: so a module
    costs a few per cent of its network. A smaller one is brought to the last one's size at once.

    Attributes:
      num_classes: number of logits.
      shape: (H, W) of the last map, and the width of the embedding.
      reduction: the bottleneck has C / reduction channels; 4 is ResNet's.
      axis_name: axis over which batch norm averages, inside `pmap`.
    """

    num_classes: int
    shape: tuple[int, int, int]
    reduction: int = 4
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> Outputs:
        """Computes the outputs for a map `[N, H', W', C']`, in training; its dtype is computed in.

        Batch norm is that of the batch: modules are gone when training ends.
        """
        *size, channels = self.shape
        if x.shape[1] < size[0] or x.shape[2] < size[1]:
            raise UsageError(
                f"A guided module cannot bring a map of {x.shape[1]}x{x.shape[2]} to the last"
                f" map's {size[0]}x{size[1]}: take fewer guided modules or another network."
            )
        conv = layers.convolution(x.dtype)
        norm = layers.batch_norm(train=True, axis_name=self.axis_name)
        stride = 2 if x.shape[1] >= 2 * size[0] and x.shape[2] >= 2 * size[1] else 1
        height, width = (stride * new for new in size)
        x = jax.image.resize(x, (len(x), height, width, x.shape[3]), "linear", antialias=True)
        inner = layers.scaled(channels, 1 / self.reduction)
        x = nn.relu(norm(name="norm1")(conv(inner, 1, name="conv1")(x)))
        x = nn.relu(norm(name="norm2")(conv(inner, 3, stride, name="conv2")(x)))
        preactivation = norm(name="norm3")(conv(channels, 1, name="conv3")(x))
        x = nn.relu(preactivation)
        embedding = layers.global_average(x)
        logits = layers.LinearMap(self.num_classes, name="classifier")(embedding)
        return Outputs(logits, embedding, (x,), (preactivation,))
