"""Training on labels alone."""

import dataclasses
from typing import Any, ClassVar

from kd_jax.methods.base import Method
from kd_jax.methods.labels import label_loss


@dataclasses.dataclass(frozen=True)
class Supervised(Method):
    """A loss on the labels: teachers, and the baseline of every student.

    Attributes:
        loss: a name of `LABEL_LOSSES`; all but `"cross_entropy"` need a classifier by angle.
        options: of the loss, such as `{"margin": 4}` of `"a_softmax"`.
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
