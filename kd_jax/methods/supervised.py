"""Training on labels alone."""

import dataclasses
from typing import Any, ClassVar

from kd_jax.methods.base import Adapters, Method, register
from kd_jax.methods.label_losses import label_loss


@register("supervised")
@dataclasses.dataclass(frozen=True)
class Supervised(Method):
    """A loss on the labels: for teachers, and for the baseline of every student.

    Attributes:
        loss: name of the label loss. Margins on angles (`arcface`) need an angular classifier;
            metric learning (`triplet`) compares the embeddings of the batch.
        options: options of the label loss, such as `{"margin": 4}` of `a_softmax`.
    """

    loss: str = "cross_entropy"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    roles: ClassVar[tuple[str, ...]] = ("student",)

    def __post_init__(self):
        label_loss(self.loss, self.options)

    @property
    def adapter_groups(self) -> tuple[str, ...]:
        """Returns the group of the parameters of the label loss, if it has any."""
        return label_loss(self.loss, self.options).adapter_groups

    def init(self, key, outputs, batch, statistics, info):
        """Makes the parameters of the label loss, such as proxies."""
        del batch, statistics, info
        return Adapters(label_loss(self.loss, self.options).init(key, outputs["student"]))

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        own = label_loss(self.loss, self.options)
        loss = own(outputs["student"], batch, adapters.params, axis_name=axis_name).mean()
        return loss, {self.loss: loss}, adapters.state
