"""Snapshot distillation: a network learns from itself at the end of its last cycle."""

import dataclasses
from typing import ClassVar

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


@register("snapshot")
@dataclasses.dataclass(frozen=True)
class Snapshot(Method):
    """Snapshot distillation, Yang et al., CVPR 2019: one cycle of the training.

        hard_weight * CE + soft_weight * H(softmax(teacher / T), softmax(student))

    Both terms are means over the images. The softened teacher gives richer targets, and the student
    has no temperature ("asymmetric distillation" in the paper), so that the targets differ from
    what the student computes at first. There is no code of the authors. The default weights are
    those of a public program (1 + 1/T and 1, T = 3).

    The first cycle is a stage of `supervised`. Each further cycle is a stage of this method, whose
    teacher and whose student start from the network of the stage before: see
    `baselines/cifar10:method=snapshot`.

    Attributes:
        temperature: T of the teacher.
        hard_weight: weight of the cross-entropy on the labels.
        soft_weight: weight of the cross-entropy on the softened predictions of the teacher.
    """

    temperature: float = 3.0
    hard_weight: Weight = 4 / 3
    soft_weight: Weight = 1.0

    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    frozen_roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self):
        check_weights(self)
        check_temperature(self.temperature)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        del axis_name  # a mean over images is the mean over devices of their means
        student = outputs["student"]
        teacher = lax.stop_gradient(outputs["teacher"].logits) / self.temperature
        soft = losses.soft_target_cross_entropy(student.logits, teacher, temperature=1.0)
        terms = {
            "cross_entropy": label_loss()(student, batch).mean(),
            "soft_target_cross_entropy": soft.mean(),
        }
        weights = {
            "cross_entropy": self.hard_weight,
            "soft_target_cross_entropy": self.soft_weight,
        }
        return weighted_sum(terms, weights, batch), terms, adapters.state
