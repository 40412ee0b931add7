"""AFD: every residual block of the teacher attends to the blocks of the student."""

import dataclasses
from typing import ClassVar

import jax

from kd_jax import losses
from kd_jax.core.errors import UsageError
from kd_jax.methods.base import Weight, register
from kd_jax.methods.modules import LayerAttention
from kd_jax.methods.transfer import Transfer
from kd_jax.models import Outputs

Blocks = tuple[jax.Array, ...]


@register("afd")
@dataclasses.dataclass(frozen=True)
class AFD(Transfer):
    """AFD, Ji et al., AAAI 2021: the distances of the attention maps of all pairs of blocks.

    The weights are those of the official code, `--alpha 0.9 --beta 200`. It uses every second block
    of a ResNet-110: `teacher_every=2`.

    Networks without residual blocks give their feature maps, one per stage.

    Attributes:
        width: width of queries and keys.
        teacher_every: use every n-th block of the teacher.
        student_every: use every n-th block of the student.
    """

    loss_weight: Weight = 200.0
    soft_weight: Weight = 0.9
    width: int = 128
    teacher_every: int = 1
    student_every: int = 1
    term: ClassVar[str] = "attended_layers"
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def __post_init__(self):
        super().__post_init__()
        for name in ("width", "teacher_every", "student_every"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        maps = self._blocks("student", student), self._blocks("teacher", teacher)
        return {"attention": (LayerAttention(self.width, axis_name), maps)}

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del axis_name
        maps = self._blocks("student", student), self._blocks("teacher", teacher)
        return losses.attended_layers(*maps, learned["attention"]).mean()

    def _blocks(self, role: str, outputs: Outputs) -> Blocks:
        """Returns every n-th block of a network."""
        every = getattr(self, f"{role}_every")
        blocks = (outputs.blocks or outputs.feature_maps)[every - 1 :: every]
        if not blocks or any(x.ndim != 4 for x in blocks):
            raise UsageError(
                f"method afd needs feature maps, but the {role} returns none, or fewer than"
                f" {role}_every = {every}: choose kd, or another network."
            )
        return blocks
