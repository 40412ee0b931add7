"""A network whose outputs were recorded: a table with one row per image."""

from typing import Any, ClassVar, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.core.errors import UsageError
from kd_jax.models.outputs import Outputs

COLLECTION = "recorded"
"""The collection of variables that holds the tables."""


@jax.tree_util.register_static
class NotRecorded:
    """An output that was not recorded; its use raises an error of one sentence."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("__") and attribute != "__jax_array__":
            raise AttributeError(attribute)
        raise UsageError(
            f"The method needs the {self._name} of the recorded network, which were not recorded:"
            " record them, or set the weights of the terms that use them to 0."
        )

    def __jax_array__(self) -> jax.Array:
        return self.array  # raises the sentence of `__getattr__`

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NotRecorded) and other._name == self._name

    def __hash__(self) -> int:
        return hash(self._name)


class Recorded(nn.Module):
    """Recorded outputs; its input is the index of each image in the training set, int32 `[N]`.

    The tables are in the collection `recorded`: `logits` `[M, num_classes]` and `embedding`
    `[M, features]`, float32, with one row for each of the M training images. Outputs that were not
    recorded raise `UsageError` when they are used. There are no feature maps.

    Attributes:
      num_classes: number of logits.
      num_images: number of training images, M.
      features: width of the embedding; None if it was not recorded.
      logits: True if the logits were recorded.
    """

    num_classes: int
    num_images: int
    features: int | None = None
    logits: bool = True

    takes_index: ClassVar[bool] = True
    """The input is `batch["index"]`, not an image."""

    @nn.compact
    def __call__(self, index: jax.Array, *, train: bool) -> Outputs:
        """Looks up the outputs of the images `index [N]`."""
        logits = self._rows("logits", self.num_classes if self.logits else None, index)
        return Outputs(logits, self._rows("embedding", self.features, index))

    def _rows(self, name: str, width: int | None, index: jax.Array) -> Any:
        if width is None:
            return NotRecorded(name)
        shape = (self.num_images, width)
        table = self.variable(COLLECTION, name, jnp.zeros, shape, jnp.float32).value
        return jnp.asarray(table)[index]
