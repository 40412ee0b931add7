"""A user's own network, method, source, evaluator and label loss; imported by `--import`."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

import kd_jax
from kd_jax import losses
from kd_jax.data import ImageSet, Source
from kd_jax.evaluation import Evaluator
from kd_jax.methods import Method
from kd_jax.models import Outputs


@kd_jax.register_network("own_network")
class OwnNetwork(nn.Module):
    """One hidden layer."""

    num_classes: int
    hidden: int = 4
    width: float = 1.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train):
        del train
        embedding = nn.tanh(nn.Dense(self.hidden)(images.reshape(len(images), -1)))
        return Outputs(nn.Dense(self.num_classes, name="classifier")(embedding), embedding)


@kd_jax.register_source("own_source")
@dataclasses.dataclass(frozen=True)
class OwnSource(Source):
    """Noise.

    Attributes:
        classes: number of classes.
    """

    classes: int = 2

    def load(self, split):
        """Makes images of 14x12 pixels."""
        rng = np.random.default_rng(len(split))
        images = rng.integers(0, 256, (24, 14, 12, 3), dtype=np.uint8)
        return ImageSet(images, np.arange(24, dtype=np.int32) % self.classes, self.classes)


@kd_jax.register_label_loss("own_loss")
def own_loss(outputs, batch, *, factor: float = 1.0):
    """Computes a multiple of the cross-entropy."""
    return factor * losses.cross_entropy(outputs.logits, batch["label"])


@kd_jax.register_method("own_method")
@dataclasses.dataclass(frozen=True)
class OwnMethod(Method):
    """Compares the logits of two networks.

    Attributes:
        weight: weight of the distance.
    """

    weight: float = 1.0

    roles = ("teacher", "student")
    frozen_roles = ("teacher",)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        del axis_name
        ours, theirs = outputs["student"].logits, outputs["teacher"].logits
        distance = ((ours - theirs) ** 2).mean()
        return self.weight * distance, {"distance": distance}, adapters.state


@kd_jax.register_evaluator("own_evaluator")
@dataclasses.dataclass(frozen=True)
class OwnEvaluator(Evaluator):
    """Returns a constant.

    Attributes:
        value: the constant.
    """

    value: float = 0.5

    def build(self, context):
        """Computes nothing."""
        return lambda variables: {name: {"constant": self.value} for name in context.names}
