"""Training on labels alone."""

import dataclasses
from typing import Any, ClassVar

from kd_jax.methods.base import Method, register
from kd_jax.methods.label_losses import label_loss


@register("supervised")
@dataclasses.dataclass(frozen=True)
class Supervised(Method):
    """A loss on the labels: for teachers, and for the baseline of every student.

    Attributes:
        loss: name of the label loss; all but `cross_entropy` need an angular classifier.
        options: options of the label loss, such as `{"margin": 4}` of `a_softmax`.
    """

    loss: str = "cross_entropy"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    roles: ClassVar[tuple[str, ...]] = ("student",)
    adapter_groups: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        label_loss(self.loss, self.options)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        del axis_name  # a mean over images is the mean over devices of their means
        loss = label_loss(self.loss, self.options)(outputs["student"], batch).mean()
        return loss, {self.loss: loss}, adapters.state
