"""Training on labels alone."""

import dataclasses
from typing import ClassVar

from kd_jax import losses
from kd_jax.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Supervised(Method):
    """Cross-entropy on the labels: teachers, and the baseline of every student."""

    roles: ClassVar[tuple[str, ...]] = ("student",)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        del axis_name  # a mean over images is the mean over devices of their means
        loss = losses.cross_entropy(outputs["student"].logits, batch["label"]).mean()
        return loss, {"cross_entropy": loss}, adapters.state
