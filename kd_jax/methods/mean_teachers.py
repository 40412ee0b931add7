"""KD from several teachers at once."""

import dataclasses
import math

from jax import lax

from kd_jax.methods.base import register
from kd_jax.methods.kd import KD


@register("mean_kd")
@dataclasses.dataclass(frozen=True)
class MeanKD(KD):
    """KD from the mean of the logits of several frozen teachers.

    Attributes:
        teachers: names of the roles of the teachers.
        teacher_weights: weight of each teacher. Their sum is scaled to 1. None gives the mean.
    """

    teachers: tuple[str, ...] = ("teacher1", "teacher2")
    teacher_weights: tuple[float, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.teachers or len({"student", *self.teachers}) < 1 + len(self.teachers):
            raise ValueError("teachers must be one name or more, each once, without 'student'")
        weights = self.teacher_weights
        if weights is None:
            return
        if len(weights) != len(self.teachers):
            raise ValueError("teacher_weights must have one number per teacher")
        if min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise ValueError("teacher_weights must be 0 or more and finite, one greater than 0")

    @property
    def roles(self) -> tuple[str, ...]:
        """Returns the teachers and the student."""
        return (*self.teachers, "student")

    @property
    def frozen_roles(self) -> tuple[str, ...]:
        """Returns the teachers."""
        return self.teachers

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        weights = self.teacher_weights or (1.0,) * len(self.teachers)
        parts = [
            weight / sum(weights) * lax.stop_gradient(outputs[role].logits)
            for role, weight in zip(self.teachers, weights, strict=True)
        ]
        mean = outputs[self.teachers[0]].replace(logits=sum(parts[1:], start=parts[0]))
        both = {"student": outputs["student"], "teacher": mean}
        return super().__call__(adapters, both, batch, axis_name=axis_name)
