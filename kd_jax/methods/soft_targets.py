"""KD: the teacher's softened class probabilities as targets."""

import dataclasses
from typing import ClassVar

from jax import lax

from kd_jax import losses
from kd_jax.methods.base import Method, check_weights


@dataclasses.dataclass(frozen=True)
class SoftTargets(Method):
    """KD, Hinton et al. 2015: `hard_weight * CE + soft_weight * T^2 * KL(teacher || student)`.

    The defaults are RepDistiller's (`-r 0.1 -a 0.9`, T = 4).

    Attributes:
        temperature: T, at which both softmaxes are taken.
        hard_weight: of the cross-entropy on the labels.
        soft_weight: of the divergence from the teacher.
    """

    temperature: float = 4.0
    hard_weight: float = 0.1
    soft_weight: float = 0.9

    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    frozen_roles: ClassVar[tuple[str, ...]] = ("teacher",)
    adapter_groups: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_weights(self)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be greater than 0, not {self.temperature}")

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        del axis_name  # a mean over images is the mean over devices of their means
        student = outputs["student"].logits
        teacher = lax.stop_gradient(outputs["teacher"].logits)
        hard = losses.cross_entropy(student, batch["label"]).mean()
        soft = losses.soft_target_kl(student, teacher, temperature=self.temperature).mean()
        loss = self.hard_weight * hard + self.soft_weight * soft
        return loss, {"cross_entropy": hard, "soft_target_kl": soft}, adapters.state
