"""HORKD: relations of one, two, three and more images."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import lax

from kd_jax import losses
from kd_jax.methods.base import Adapters, Method, batch_sum, check_choice, check_weights
from kd_jax.models import LinearMap


@dataclasses.dataclass(frozen=True)
class HybridOrder(Method):
    """HORKD, Ge et al., AAAI 2020, eq. 8, plus the cross-entropy that the paper always adds.

    `hard_weight * CE + feature_weight * L1 + pair_weight * L2 + triplet_weight * L3
    + center_weight * L_C`; a weight of 0 leaves its term out, so every combination of Fig. 4 is a
    choice of weights. The defaults are the paper's (alpha 0.02, beta 0.01, gamma 1); its ablation
    finds `feature_weight=0` best.

    L1 and L_C compare the embeddings themselves. Where their widths differ, a learned linear map
    brings the student's to the teacher's width for these two terms; L2 and L3 compare relations
    within each network and see the embeddings as they are.

    Attributes:
        hard_weight: of the cross-entropy on the labels.
        feature_weight: of L1 (eq. 2), the L1 distance of the embeddings.
        pair_weight: alpha, of L2 (eq. 3), the relations of pairs.
        triplet_weight: beta, of L3 (eq. 4), the angles of triplets.
        center_weight: gamma, of L_C (eq. 7), the distances from the class centres.
        centers: where the class centres come from. `"dataset"`: the whole training set under the
            frozen teacher, as the paper's text has it (relations to images outside the batch);
            `"batch"`: the classes present in the batch.
        reduction: `"mean"` averages each term over its tuples, which does not depend on the batch
            size; `"sum"` is the paper's literal sum, and then sums the cross-entropy too.
    """

    hard_weight: float = 1.0
    feature_weight: float = 1.0
    pair_weight: float = 0.02
    triplet_weight: float = 0.01
    center_weight: float = 1.0
    centers: str = "dataset"
    reduction: str = "mean"

    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    frozen_roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self):
        check_choice("centers", self.centers, ("dataset", "batch"))
        check_choice("reduction", self.reduction, ("mean", "sum"))
        check_weights(self)

    @property
    def _dataset_centers(self) -> bool:
        return self.center_weight > 0 and self.centers == "dataset"

    def statistics(self, outputs, batch, where):
        """Sums of the teacher's embeddings over each class, and the classes' sizes."""
        if not self._dataset_centers:
            return {}
        teacher = outputs["teacher"]
        centers, counts = losses.class_centers(
            teacher.embedding, batch["label"], teacher.logits.shape[-1], where=where
        )
        return {"sums": centers * counts[:, None], "counts": counts}

    def init(self, key, outputs, batch, statistics):
        """The map between the widths, and the centres of the training set."""
        del batch
        params, state = {}, {}
        student, teacher = (outputs[role].embedding for role in ("student", "teacher"))
        if student.shape != teacher.shape and (self.feature_weight or self.center_weight):
            params["map"] = LinearMap(teacher.shape[-1]).init(key, student)["params"]
        if self._dataset_centers:
            counts = statistics["counts"]
            state["centers"] = statistics["sums"] / jnp.maximum(counts, 1)[:, None]
            state["present"] = counts > 0
        return Adapters(params, state)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        student = outputs["student"].embedding
        teacher = lax.stop_gradient(outputs["teacher"].embedding)
        mapped = student
        if "map" in adapters.params:
            mapped = LinearMap(teacher.shape[-1]).apply({"params": adapters.params["map"]}, student)

        def reduce(values):
            return batch_sum(values, axis_name) if self.reduction == "sum" else values.mean()

        coupled = {"reduction": self.reduction, "axis_name": axis_name}
        terms = {
            "cross_entropy": reduce(losses.cross_entropy(outputs["student"].logits, batch["label"]))
        }
        loss = self.hard_weight * terms["cross_entropy"]
        if self.feature_weight:
            terms["feature_l1"] = reduce(losses.feature_l1(mapped, teacher))
            loss += self.feature_weight * terms["feature_l1"]
        if self.pair_weight:
            terms["pair_relation"] = losses.pair_relation(student, teacher, **coupled)
            loss += self.pair_weight * terms["pair_relation"]
        if self.triplet_weight:
            terms["triplet_relation"] = losses.triplet_relation(student, teacher, **coupled)
            loss += self.triplet_weight * terms["triplet_relation"]
        if self.center_weight:
            centers, present = self._centers(adapters, teacher, outputs, batch, axis_name)
            terms["center_relation"] = reduce(
                losses.center_relation(
                    mapped, teacher, centers, present=present, reduction=self.reduction
                )
            )
            loss += self.center_weight * terms["center_relation"]
        return loss, terms, adapters.state

    def _centers(self, adapters, teacher, outputs, batch, axis_name):
        if self._dataset_centers:
            return adapters.state["centers"], adapters.state["present"]
        num_classes = outputs["teacher"].logits.shape[-1]
        centers, counts = losses.class_centers(
            teacher, batch["label"], num_classes, axis_name=axis_name
        )
        return centers, counts > 0
