"""ResKD: a small network learns what a student lacks, and their logits are added."""

import dataclasses

from jax import lax

from kd_jax.methods.base import register
from kd_jax.methods.kd import KD


@register("reskd")
@dataclasses.dataclass(frozen=True)
class ResKD(KD):
    """ResKD, Li et al., IEEE TIP 2021: KD of the sum of the logits of students.

    The roles `bases` are students that earlier stages have trained; they are frozen. The role
    `student` is the residual student. The sum of the logits of all of them learns from the labels
    and from the teacher, as in KD, and is evaluated as `student`. A further stage with two bases
    repeats the process.

    No official code is known. The weights are those of KD. The paper's choice of the residual
    students per image, at test time, is not part of this method.

    Attributes:
        bases: names of the roles of the frozen students.
    """

    bases: tuple[str, ...] = ("base",)

    def __post_init__(self):
        super().__post_init__()
        if not self.bases or len({"teacher", "student", *self.bases}) < 2 + len(self.bases):
            raise ValueError(
                "bases must be one name or more, each once, without 'teacher' and 'student'"
            )

    @property
    def roles(self) -> tuple[str, ...]:
        """Returns the teacher, the frozen students and the residual student."""
        return ("teacher", *self.bases, "student")

    @property
    def frozen_roles(self) -> tuple[str, ...]:
        """Returns all roles except the residual student."""
        return ("teacher", *self.bases)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        combined = self.predict(adapters, outputs)
        return super().__call__(adapters, {**outputs, **combined}, batch, axis_name=axis_name)

    def predict(self, adapters, outputs):
        """Returns the residual student with the sum of all logits."""
        del adapters
        frozen = sum(lax.stop_gradient(outputs[role].logits) for role in self.bases)
        student = outputs["student"]
        return {"student": student.replace(logits=student.logits + frozen, cosines=None)}
