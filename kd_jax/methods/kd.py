"""KD: the teacher's softened class probabilities as targets."""

import dataclasses
from typing import Any, ClassVar

from jax import lax

from kd_jax import losses
from kd_jax.methods.base import (
    Method,
    Weight,
    check_temperature,
    check_weights,
    register,
    weighted_sum,
)
from kd_jax.methods.label_losses import label_loss


@register("kd")
@dataclasses.dataclass(frozen=True)
class KD(Method):
    """KD, Hinton et al. 2015: `hard_weight * CE + soft_weight * T^2 * KL(teacher || student)`.

    Both terms are means over the images. The defaults are RepDistiller's (`-r 0.1 -a 0.9`, T = 4).

    Attributes:
        temperature: T, at which both softmaxes are taken.
        hard_weight: weight of the cross-entropy on the labels.
        soft_weight: weight of the divergence from the teacher.
        standardize: divide the logits of each image by their standard deviation, after their mean
            is subtracted (Sun et al., CVPR 2024). Its code takes the temperature 2 and the weights
            0.1 and 9.
    """

    temperature: float = 4.0
    hard_weight: Weight = 0.1
    soft_weight: Weight = 0.9
    standardize: bool = False

    # A subclass with more roles makes them properties.
    roles: ClassVar[Any] = ("teacher", "student")
    frozen_roles: ClassVar[Any] = ("teacher",)
    adapter_groups: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_weights(self)
        check_temperature(self.temperature)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        del axis_name  # a mean over images is the mean over devices of their means
        student, teacher = outputs["student"], lax.stop_gradient(outputs["teacher"].logits)
        logits = student.logits
        if self.standardize:
            logits, teacher = map(losses.standardized_logits, (logits, teacher))
        soft = losses.soft_target_kl(logits, teacher, temperature=self.temperature)
        terms = {
            "cross_entropy": label_loss()(student, batch).mean(),
            "soft_target_kl": soft.mean(),
        }
        weights = {"cross_entropy": self.hard_weight, "soft_target_kl": self.soft_weight}
        return weighted_sum(terms, weights, batch), terms, adapters.state
