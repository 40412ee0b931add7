"""HORKD: relations of one, two, three and more images."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from kd_jax import losses
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.methods.base import (
    Adapters,
    Method,
    Weight,
    batch_sum,
    check_weights,
    is_used,
    register,
    weight_at,
)
from kd_jax.methods.label_losses import label_loss
from kd_jax.models import LinearMap


@register("horkd")
@dataclasses.dataclass(frozen=True)
class HORKD(Method):
    """HORKD, Ge et al., AAAI 2020, eq. 8, plus the label loss that the paper always adds.

    `hard_weight * CE + feature_weight * L1 + pair_weight * L2 + triplet_weight * L3
    + center_weight * L_C`. A weight of 0 leaves its term out, so every combination of Fig. 4 is a
    choice of weights. The defaults are the paper's (alpha 0.02, beta 0.01, gamma 1); its ablation
    is best with `feature_weight=0`.

    L1 and L_C compare the embeddings themselves. Where their widths differ, a learned linear map
    brings the student's to the teacher's width for these two terms. L2 and L3 compare relations
    within each network and use the embeddings without the map.

    Attributes:
        hard_weight: weight of the label loss, the paper's cross-entropy.
        feature_weight: weight of L1 (eq. 2), the L1 distance of the embeddings.
        pair_weight: alpha, the weight of L2 (eq. 3), the relations of pairs.
        triplet_weight: beta, the weight of L3 (eq. 4), the angles of triplets.
        center_weight: gamma, the weight of L_C (eq. 7), the distances from the class centers.
        centers: images that give the class centers. `dataset`: the whole training set under the
            frozen teacher, as in the paper's text (relations to images outside the batch). `batch`:
            the images of the batch.
        normalize: L2-normalize the embeddings of both networks before all terms. The paper does not
            say so; without it, L_C at gamma 1 is far larger than the other terms, and training
            diverges.
        reduction: `sum` is the paper's formula: each term is a sum over its tuples, and the
            cross-entropy is a sum too. `batchmean` divides all of it by the number of images of the
            batch; the direction of the gradient is that of `sum`. `mean` averages each term over
            its tuples.
        loss: name of the label loss; `triplet` and others train embeddings for retrieval.
        options: options of the label loss.
    """

    hard_weight: Weight = 1.0
    feature_weight: Weight = 1.0
    pair_weight: Weight = 0.02
    triplet_weight: Weight = 0.01
    center_weight: Weight = 1.0
    centers: str = "dataset"
    normalize: bool = True
    reduction: str = "batchmean"
    loss: str = "cross_entropy"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    frozen_roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self):
        check_choice(self.centers, ("dataset", "batch"), "centers")
        check_choice(self.reduction, ("mean", "batchmean", "sum"), "reduction")
        check_weights(self)
        label_loss(self.loss, self.options)

    @property
    def _dataset_centers(self) -> bool:
        return is_used(self.center_weight) and self.centers == "dataset"

    def statistics(self, outputs, batch, where):
        """Sums the teacher's embeddings over each class, and counts the classes' images."""
        if not self._dataset_centers:
            return {}
        teacher = outputs["teacher"]
        centers, counts = losses.class_centers(
            teacher.embedding,
            batch["label"],
            teacher.logits.shape[-1],
            normalize=self.normalize,
            where=where,
        )
        return {"sums": centers * counts[:, None], "counts": counts}

    def init(self, key, outputs, batch, statistics, info):
        """Makes the map between the widths, and the centers of the training set.

        The parameters of the label loss, if it has any, are made too.
        """
        del batch, info
        params, state = label_loss(self.loss, self.options).init(key, outputs["student"]), {}
        student, teacher = (outputs[role].embedding for role in ("student", "teacher"))
        mapped = is_used(self.feature_weight) or is_used(self.center_weight)
        if student.shape != teacher.shape and mapped:
            params["map"] = LinearMap(teacher.shape[-1]).init(key, student)["params"]
        if self._dataset_centers:
            if "counts" not in statistics:
                raise UsageError(
                    "HORKD needs the class centers of the training set: pass"
                    " statistics=dataset_statistics(stage, frozen, batches) to init_state, or set"
                    " centers = 'batch'."
                )
            counts = statistics["counts"]
            state["centers"] = statistics["sums"] / jnp.maximum(counts, 1)[:, None]
            state["present"] = counts > 0
        return Adapters(params, state)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        student = outputs["student"].embedding
        teacher = lax.stop_gradient(outputs["teacher"].embedding)
        mapped = None
        if "map" in adapters.params:
            mapped = LinearMap(teacher.shape[-1]).apply({"params": adapters.params["map"]}, student)

        centers, present = None, None
        if is_used(self.center_weight):
            centers, present = self._centers(adapters, teacher, outputs, batch, axis_name)
        relations, terms = losses.hybrid_order_and_terms(
            student,
            teacher,
            centers,
            mapped=mapped,
            present=present,
            feature_weight=weight_at(self.feature_weight, batch),
            pair_weight=weight_at(self.pair_weight, batch),
            triplet_weight=weight_at(self.triplet_weight, batch),
            center_weight=weight_at(self.center_weight, batch),
            reduction=self.reduction,
            normalize=self.normalize,
            axis_name=axis_name,
        )
        label = label_loss(self.loss, self.options)
        hard = label(outputs["student"], batch, adapters.params, axis_name=axis_name)
        if self.reduction == "sum":  # a loss of the whole batch counts once per image
            hard = batch_sum(jnp.broadcast_to(hard, student.shape[:1]), axis_name)
        hard = hard.mean()
        loss = weight_at(self.hard_weight, batch) * hard + relations
        return loss, {self.loss: hard, **terms}, adapters.state

    def _centers(self, adapters, teacher, outputs, batch, axis_name):
        if self._dataset_centers:
            return adapters.state["centers"], adapters.state["present"]
        num_classes = outputs["teacher"].logits.shape[-1]
        centers, counts = losses.class_centers(
            teacher,
            batch["label"],
            num_classes,
            normalize=self.normalize,
            axis_name=axis_name,
        )
        return centers, counts > 0
