"""KDim: a student of low-resolution images and a teacher that sees the same images sharp."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from kd_jax import losses
from kd_jax.core.errors import check_choice
from kd_jax.methods.base import (
    Adapters,
    Method,
    Weight,
    check_temperature,
    check_weights,
    is_used,
    register,
    weighted_sum,
)
from kd_jax.methods.label_losses import label_loss
from kd_jax.models import LinearMap


@register("kdim")
@dataclasses.dataclass(frozen=True)
class KDim(Method):
    """KDim, Wang et al., ICCVW 2019, eq. 9, or with `features="l2"` its eq. 6.

    `hard_weight * L_hard + soft_weight * L_soft + feature_weight * L_feature`. L_hard is the loss
    on the labels. L_soft is the cross-entropy of the student's softened predictions with the
    teacher's, without T^2 (eq. 3). L_feature is the discrepancy of the two networks' normalized
    embeddings, as distributions (MK-MMD, eq. 8) or per image (L2). The paper gives neither weights
    nor temperature.

    The paper also tries MK-MMD for the soft labels, which "slightly hurts the accuracy" (section
    2.2). With `soft_labels="mk_mmd"`, MK-MMD of the softened predictions replaces their
    cross-entropy. The probabilities of each image are normalized to length 1, like the embeddings.

    The student sees degraded images and the teacher sharp ones: set
    `networks.student.degradation`. With both degraded, and a teacher that was trained so, this is
    the original scheme that the paper compares with.

    Where the embeddings differ in width, a learned linear map brings the student's to the width of
    the teacher's.

    Attributes:
        temperature: T, at which both softmaxes are taken.
        hard_weight: weight of the loss on the labels.
        soft_weight: weight of the discrepancy of the softened predictions.
        feature_weight: weight of the discrepancy of the embeddings.
        features: discrepancy of the embeddings, `mk_mmd` or `l2`.
        soft_labels: discrepancy of the softened predictions: `cross_entropy`, `mk_mmd`, or `l2`,
            the distance per image of the normalized probabilities.
        multipliers: factors of the variance in MK-MMD, one kernel each.
        variance: pairs of features that give this variance: `distinct` pairs of the pooled
            features, `all` pairs, or pairs `cross` the two networks.
        unbiased: compute MK-MMD without the pairs of a feature with itself.
        loss: name of the label loss.
        options: options of the label loss.
    """

    temperature: float = 4.0
    hard_weight: Weight = 1.0
    soft_weight: Weight = 1.0
    feature_weight: Weight = 1.0
    features: str = "mk_mmd"
    soft_labels: str = "cross_entropy"
    multipliers: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    variance: str = "distinct"
    unbiased: bool = False
    loss: str = "cross_entropy"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    frozen_roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self):
        check_weights(self)
        check_choice(self.features, ("mk_mmd", "l2"), "features")
        check_choice(self.soft_labels, ("cross_entropy", "mk_mmd", "l2"), "soft_labels")
        check_choice(self.variance, ("distinct", "all", "cross"), "variance")
        if not self.multipliers or min(self.multipliers) <= 0:
            raise ValueError(f"multipliers must be greater than 0, not {self.multipliers}")
        label_loss(self.loss, self.options)
        check_temperature(self.temperature)

    def init(self, key, outputs, batch, statistics, info):
        """Makes the map between the widths, and the parameters of the label loss."""
        del batch, statistics, info
        params = label_loss(self.loss, self.options).init(key, outputs["student"])
        student, teacher = (outputs[role].embedding for role in ("student", "teacher"))
        if student.shape != teacher.shape and is_used(self.feature_weight):
            params["map"] = LinearMap(teacher.shape[-1]).init(key, student)["params"]
        return Adapters(params)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        student, teacher = outputs["student"], lax.stop_gradient(outputs["teacher"])
        soft_labels = f"soft_{self.soft_labels}"
        weights = {
            self.loss: self.hard_weight,
            soft_labels: self.soft_weight,
            self.features: self.feature_weight,
        }
        label = label_loss(self.loss, self.options)
        hard = label(student, batch, adapters.params, axis_name=axis_name)
        terms = {self.loss: hard.mean()}
        if is_used(self.soft_weight):
            terms[soft_labels] = self._of_soft_labels(student.logits, teacher.logits, axis_name)
        if is_used(self.feature_weight):
            features = student.embedding
            if "map" in adapters.params:
                width = teacher.embedding.shape[-1]
                features = LinearMap(width).apply({"params": adapters.params["map"]}, features)
            terms[self.features] = self._discrepancy(
                self.features, features, teacher.embedding, axis_name
            )
        return weighted_sum(terms, weights, batch), terms, adapters.state

    def _of_soft_labels(
        self, student: jax.Array, teacher: jax.Array, axis_name: str | None
    ) -> jax.Array:
        """Returns the discrepancy of the softened predictions for logits `[N, C]`."""
        if self.soft_labels == "cross_entropy":
            return losses.soft_target_cross_entropy(
                student, teacher, temperature=self.temperature
            ).mean()
        ours, theirs = (
            jax.nn.softmax(logits.astype(jnp.float32) / self.temperature)
            for logits in (student, teacher)
        )
        return self._discrepancy(self.soft_labels, ours, theirs, axis_name)

    def _discrepancy(
        self, name: str, student: jax.Array, teacher: jax.Array, axis_name: str | None
    ) -> jax.Array:
        """Returns the discrepancy of two sets of rows `[N, D]`, which are normalized first."""
        if name == "mk_mmd":
            return losses.mk_mmd(
                student,
                teacher,
                multipliers=self.multipliers,
                variance=self.variance,
                unbiased=self.unbiased,
                axis_name=axis_name,
            )
        return losses.normalized_feature_l2(student, teacher).mean()
