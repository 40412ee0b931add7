"""KDim: a student of low-resolution images and a teacher that sees the same images sharp."""

import dataclasses
from typing import Any, ClassVar

from jax import lax

from kd_jax import losses
from kd_jax.methods.base import Adapters, Method, check_choice, check_weights
from kd_jax.methods.labels import label_loss
from kd_jax.models import LinearMap


@dataclasses.dataclass(frozen=True)
class ImprovedDistillation(Method):
    """KDim, Wang et al., ICCVW 2019, eq. 9, or with `features="l2"` its eq. 6.

    `hard_weight * L_hard + soft_weight * L_soft + feature_weight * L_feature`: the loss on the
    labels; the cross-entropy of the student's softened predictions with the teacher's, without T^2
    (eq. 3); and the discrepancy of the two networks' normalised embeddings, as distributions
    (MK-MMD, eq. 8) or image by image (L2). The paper gives neither weights nor temperature.

    That the student sees degraded images and the teacher sharp ones is said where the networks are
    (`networks.student.degradation`). With both degraded, and a teacher that was trained so, this is
    the original scheme that the paper compares to.

    Where the embeddings differ in width, a learned linear map brings the student's to the
    teacher's.

    Attributes:
        temperature: T, at which both softmaxes are taken.
        hard_weight: of the loss on the labels.
        soft_weight: of the cross-entropy with the teacher.
        feature_weight: of the discrepancy of the embeddings.
        features: `"mk_mmd"`, or `"l2"`.
        multipliers: of MK-MMD's variance, a kernel each.
        variance: where that comes from: `"distinct"` pairs of the pooled features, `"all"` pairs,
            or pairs `"cross"` the two networks.
        unbiased: MK-MMD without the pairs of a feature with itself.
        loss: on the labels, a name of `LABEL_LOSSES`.
        options: of that loss.
    """

    temperature: float = 4.0
    hard_weight: float = 1.0
    soft_weight: float = 1.0
    feature_weight: float = 1.0
    features: str = "mk_mmd"
    multipliers: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    variance: str = "distinct"
    unbiased: bool = False
    loss: str = "cross_entropy"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    frozen_roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self):
        check_weights(self)
        check_choice("features", self.features, ("mk_mmd", "l2"))
        check_choice("variance", self.variance, ("distinct", "all", "cross"))
        if not self.multipliers or min(self.multipliers) <= 0:
            raise ValueError(f"multipliers must be greater than 0, not {self.multipliers}")
        label_loss(self.loss, self.options)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be greater than 0, not {self.temperature}")

    def init(self, key, outputs, batch, statistics):
        """The map between the widths."""
        del batch, statistics
        student, teacher = (outputs[role].embedding for role in ("student", "teacher"))
        if student.shape == teacher.shape or not self.feature_weight:
            return Adapters()
        return Adapters({"map": LinearMap(teacher.shape[-1]).init(key, student)["params"]})

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        student, teacher = outputs["student"], lax.stop_gradient(outputs["teacher"])
        terms = {self.loss: label_loss(self.loss, self.options)(student, batch).mean()}
        loss = self.hard_weight * terms[self.loss]
        if self.soft_weight:
            terms["soft_cross_entropy"] = losses.soft_target_cross_entropy(
                student.logits, teacher.logits, temperature=self.temperature
            ).mean()
            loss += self.soft_weight * terms["soft_cross_entropy"]
        if self.feature_weight:
            features = student.embedding
            if "map" in adapters.params:
                width = teacher.embedding.shape[-1]
                features = LinearMap(width).apply({"params": adapters.params["map"]}, features)
            terms[self.features] = self._discrepancy(features, teacher.embedding, axis_name)
            loss += self.feature_weight * terms[self.features]
        return loss, terms, adapters.state

    def _discrepancy(self, student, teacher, axis_name):
        if self.features == "mk_mmd":
            return losses.mk_mmd(
                student,
                teacher,
                multipliers=self.multipliers,
                variance=self.variance,
                unbiased=self.unbiased,
                axis_name=axis_name,
            )
        return losses.normalized_feature_l2(student, teacher).mean()
